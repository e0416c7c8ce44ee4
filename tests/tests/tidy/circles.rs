//! No file uses one that uses it in turn, straight or through others.

use std::collections::{BTreeMap, BTreeSet};

use crate::{python, rust};

/// The circles that are left, each by its files. Each entry must still be a circle, so this list only gets
/// shorter.
#[rustfmt::skip]
const KNOWN: &[&[&str]] = &[
    &[
        "client/python/python/noised/client.py",
        "client/python/python/noised/session.py",
        "client/python/python/noised/streaming_matrix.py",
    ],
    &[
        "server/src/analysis/finish_search.rs",
        "server/src/analysis/mod.rs",
    ],
    &[
        "server/src/config/mod.rs",
        "server/src/config/options.rs",
        "server/src/config/sources.rs",
        "server/src/connections/connection.rs",
        "server/src/connections/mod.rs",
        "server/src/connections/watched.rs",
        "server/src/listen.rs",
    ],
    &[
        "server/src/entry.rs",
        "server/src/keys.rs",
        "server/src/registry.rs",
    ],
    &[
        "src/analysis/blocks.rs",
        "src/analysis/column.rs",
        "src/analysis/covariance/norms.rs",
        "src/analysis/covariance/probe.rs",
        "src/analysis/covariance/step.rs",
        "src/analysis/covariance/symmetric.rs",
        "src/analysis/describe.rs",
        "src/analysis/growth.rs",
        "src/analysis/mod.rs",
        "src/analysis/multiply.rs",
        "src/analysis/norms.rs",
        "src/analysis/rows.rs",
        "src/analysis/scaled.rs",
        "src/analysis/sensitivity/bands.rs",
        "src/analysis/sensitivity/gram.rs",
        "src/analysis/sensitivity/mod.rs",
        "src/analysis/sensitivity/patterns.rs",
        "src/kernel/backend.rs",
        "src/kernel/body.rs",
        "src/kernel/codec.rs",
        "src/kernel/mod.rs",
        "src/kernel/pass.rs",
        "src/kernel/reference.rs",
        "src/matrix/plan.rs",
        "src/matrix/ring.rs",
        "src/matrix/rounded.rs",
        "src/noise/gaussian.rs",
        "src/noise/key.rs",
        "src/noise/mod.rs",
        "src/noise/step.rs",
        "src/session/range.rs",
        "src/session/spec.rs",
    ],
    &[
        "src/design/banded/mod.rs",
        "src/design/banded/parts.rs",
        "src/design/blt/interlacing.rs",
        "src/design/blt/mod.rs",
        "src/design/blt/signed.rs",
        "src/design/column_normalized/mod.rs",
        "src/design/dense/descent.rs",
        "src/design/dense/fixed_point.rs",
        "src/design/dense/mod.rs",
        "src/design/mod.rs",
        "src/design/recommend.rs",
        "src/design/watch.rs",
    ],
    &[
        "src/matrix/json.rs",
        "src/matrix/spec.rs",
    ],
    &[
        "src/session/drawer.rs",
        "src/session/noise.rs",
        "src/session/privatize.rs",
    ],
    &[
        "src/session/kept.rs",
        "src/session/mod.rs",
        "src/session/outputs.rs",
        "src/session/track.rs",
    ],
    &[
        "src/streaming/mod.rs",
        "src/streaming/state.rs",
    ],
];

/// The files of every circle, sorted: the strongly connected parts of a graph that have more than one file.
fn circles(edges: &BTreeMap<String, BTreeSet<String>>) -> Vec<Vec<String>> {
    let reached = |from: &String| -> BTreeSet<String> {
        let mut reached = BTreeSet::new();
        let mut next = vec![from];
        while let Some(file) = next.pop() {
            let unseen = edges.get(file).into_iter().flatten().filter(|to| reached.insert((*to).clone()));
            next.extend(unseen);
        }
        reached
    };
    let reached: BTreeMap<&String, BTreeSet<String>> =
        edges.keys().map(|from| (from, reached(from))).collect();
    let circle = |from: &&String| -> Vec<String> {
        let both =
            reached[*from].iter().filter(|to| reached.get(to).is_some_and(|back| back.contains(*from)));
        both.cloned().collect()
    };
    let circles: BTreeSet<Vec<String>> =
        reached.keys().map(circle).filter(|circle| circle.len() > 1).collect();
    circles.into_iter().collect()
}

#[test]
fn no_files_use_each_other() {
    let mut found = circles(
        &python::imports()
            .into_iter()
            .map(|(from, to)| {
                let name = |path: &std::path::Path| path.to_str().unwrap().to_owned();
                (name(&from), to.iter().map(|to| name(to)).collect())
            })
            .collect(),
    );
    for house in rust::houses() {
        let name = |at: usize| house[at].path.to_str().unwrap().to_owned();
        let edges = rust::edges(&house);
        let edges =
            edges.iter().map(|(from, to)| (name(*from), to.iter().map(|to| name(*to)).collect())).collect();
        found.extend(circles(&edges));
    }
    found.sort();
    let expected: Vec<Vec<String>> =
        KNOWN.iter().map(|circle| circle.iter().map(|file| (*file).to_owned()).collect()).collect();
    let new: Vec<_> = found.iter().filter(|circle| !expected.contains(circle)).collect();
    let gone: Vec<_> = expected.iter().filter(|circle| !found.contains(circle)).collect();
    assert!(new.is_empty() && gone.is_empty(), "new: {new:#?}\ngone, so take it off the list: {gone:#?}");
}

#[test]
fn a_circle_is_found() {
    let edges = [("a", "b"), ("b", "c"), ("c", "b"), ("c", "d"), ("e", "e")];
    let mut graph: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (from, to) in edges {
        graph.entry(from.to_owned()).or_default().insert(to.to_owned());
    }
    assert_eq!(circles(&graph), [["b", "c"]]);
}
