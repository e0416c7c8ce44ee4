//! Frames of any size become runs of whole tiles, and a frame that breaks a rule is not taken.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a panic is a failed test")]

use bytes::Bytes;
use noised::session::{Assembler, Run};
use noised::{DType, Error, Layout, Shard, Tree};
use noised_tests::{drive, trees};
use proptest::prelude::*;
use proptest::sample::Index;

fn trees_to_cut() -> Vec<Tree> {
    let mut all: Vec<Tree> = DType::ALL.into_iter().flat_map(trees::odd).collect();
    all.push(trees::mixed());
    all.push(trees::of_shapes(DType::F32, &[&[3000], &[17, 121], &[250]]));
    all
}

fn layout(tree: &Tree) -> Layout {
    Layout::new(tree, Shard::WHOLE).unwrap()
}

/// The frame lies in pieces of a thousand bytes.
fn push(assembler: &mut Assembler, step: u64, offset: usize, payload: &[u8]) -> noised::Result<Option<Run>> {
    assembler.push(step, offset as u64, payload.chunks(1000).map(Bytes::copy_from_slice).collect())
}

fn field(result: noised::Result<Option<Run>>) -> String {
    match result {
        Err(Error::Invalid { field, .. }) => field,
        other => panic!("not about a field: {other:?}"),
    }
}

fn length(run: &Run) -> usize {
    run.pieces.iter().map(Bytes::len).sum()
}

/// Runs are of one step, follow one another from `from`, and are whole tiles that are not empty.
fn check(runs: &[Run], step: u64, from: usize, bounds: &[usize], payload: &[u8]) {
    let mut at = from;
    for run in runs {
        assert_eq!((run.step, run.offset), (step, at));
        assert!(!run.pieces.is_empty());
        for piece in &run.pieces {
            let start = at;
            at += piece.len();
            assert!(!piece.is_empty() && bounds.contains(&start) && bounds.contains(&at));
            assert!(piece == &payload[start..at]);
        }
    }
    assert_eq!(at, payload.len());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn frames_of_any_size_become_whole_tiles(
        tree in any::<Index>(),
        sizes in prop::collection::vec(prop_oneof![1_usize..10, 1_usize..9000, Just(4096), Just(8192)], 1..8),
        start in any::<Index>(),
    ) {
        let all = trees_to_cut();
        let tree = tree.get(&all);
        let layout = layout(tree);
        let bounds = drive::tile_bounds(&layout);
        let mut assembler = Assembler::new(layout);
        let mut sizes = sizes.iter().cycle();
        // The first step is taken up at any tile, as after a cut; those after it are whole.
        let first = bounds[start.index(bounds.len() - 1)];
        for (step, from) in [(7, first), (8, 0), (9, 0)] {
            let payload = trees::payload(tree, step);
            let (mut at, mut runs) = (from, Vec::new());
            while at < payload.len() {
                let end = payload.len().min(at + sizes.next().unwrap());
                let before: usize = runs.iter().map(length).sum();
                runs.extend(push(&mut assembler, step, at, &payload[at..end]).unwrap());
                at = end;
                // Every tile that is whole has come out, and nothing else.
                let out: usize = runs.iter().map(length).sum();
                prop_assert!(out >= before);
                prop_assert_eq!(from + out, *bounds.iter().rfind(|&&bound| bound <= at).unwrap());
            }
            check(&runs, step, from, &bounds, &payload);
        }
    }

    /// Frames that break a rule, thrown in between, change nothing.
    #[test]
    fn a_frame_that_breaks_a_rule_is_not_taken(
        size in 1_usize..6000,
        bad in prop::collection::vec((any::<Index>(), 0_usize..9000, -1_i64..2), 1..40),
    ) {
        let tree = trees::mixed();
        let layout = layout(&tree);
        let bounds = drive::tile_bounds(&layout);
        let total = layout.byte_len();
        let mut assembler = Assembler::new(layout);
        let mut bad = bad.iter().cycle();
        for step in 5..8 {
            let payload = trees::payload(&tree, step);
            let mut runs = Vec::new();
            for (i, frame) in payload.chunks(size).enumerate() {
                let (offset, length, ahead) = bad.next().unwrap();
                let (offset, other) = (offset.index(total + 10), step.checked_add_signed(*ahead).unwrap());
                let fits = *length > 0 && offset + length <= total;
                let follows = if i == 0 { bounds[..bounds.len() - 1].contains(&offset) } else { offset == i * size };
                if !(fits && follows && (i == 0 || other == step)) {
                    let refused = push(&mut assembler, other, offset, &vec![1; *length]);
                    prop_assert!(refused.is_err(), "step {} offset {} length {}", other, offset, length);
                }
                runs.extend(push(&mut assembler, step, i * size, frame).unwrap());
            }
            check(&runs, step, 0, &bounds, &payload);
        }
    }
}

#[test]
fn every_broken_rule_names_its_field() {
    let tree = trees::of_shapes(DType::F32, &[&[3000], &[1000]]);
    let total = 16_000;
    let mut assembler = Assembler::new(layout(&tree));
    let payload = trees::payload(&tree, 3);
    // Between steps.
    assert_eq!(field(push(&mut assembler, 3, 0, &[])), "payload");
    assert_eq!(field(push(&mut assembler, 3, 4, &payload[4..])), "offset");
    assert_eq!(field(push(&mut assembler, 3, 0, &vec![0; total + 1])), "payload");
    assert_eq!(field(push(&mut assembler, 3, total, &[0])), "payload");
    for offset in [u64::MAX, u64::MAX - 3, 1 << 63, 1 << 40] {
        assert_eq!(field(assembler.push(3, offset, vec![Bytes::from_static(&[0; 4])])), "payload");
    }
    // In the middle of a tile, and then of a step at the end of one.
    for end in [5000, 8192] {
        let mut assembler = Assembler::new(layout(&tree));
        push(&mut assembler, 3, 0, &payload[..end]).unwrap();
        assert_eq!(field(push(&mut assembler, 3, end, &[])), "payload");
        assert_eq!(field(push(&mut assembler, 3, end - 1, &payload[end - 1..])), "offset");
        assert_eq!(field(push(&mut assembler, 3, end + 1, &payload[end + 1..])), "offset");
        assert_eq!(field(push(&mut assembler, 3, 4096, &payload[4096..])), "offset");
        assert_eq!(field(push(&mut assembler, 3, 0, &payload)), "offset");
        assert_eq!(field(push(&mut assembler, 3, end, &vec![0; total - end + 1])), "payload");
        assert_eq!(field(push(&mut assembler, 4, end, &payload[end..])), "step");
        assert_eq!(field(push(&mut assembler, 4, 0, &payload)), "step");
        assert_eq!(field(push(&mut assembler, 2, end, &payload[end..])), "step");
        let rest = push(&mut assembler, 3, end, &payload[end..]).unwrap();
        check(rest.as_slice(), 3, end / 4096 * 4096, &[0, 4096, 8192, 12_288, total], &payload);
        assert_eq!(length(&push(&mut assembler, 4, 0, &payload).unwrap().unwrap()), total);
    }
}

#[test]
fn whole_tiles_pass_through_without_a_copy() {
    let tree = trees::of_shapes(DType::F32, &[&[4096]]);
    let mut assembler = Assembler::new(layout(&tree));
    let frame = Bytes::from(trees::payload(&tree, 0));
    let run = assembler.push(0, 0, vec![frame.clone()]).unwrap().unwrap();
    assert_eq!(run.pieces.len(), 1);
    assert_eq!(run.pieces[0].as_ptr(), frame.as_ptr());
    // What lies across two frames, or two pieces of one, is copied; what follows it is not.
    assert_eq!(assembler.push(1, 0, vec![frame.slice(..100)]).unwrap(), None);
    let run = assembler.push(1, 100, vec![frame.slice(100..200), frame.slice(200..)]).unwrap().unwrap();
    assert_eq!(run.offset, 0);
    assert_eq!(run.pieces.iter().map(Bytes::len).collect::<Vec<_>>(), [4096, 3 * 4096]);
    assert_eq!(run.pieces[1].as_ptr(), frame[4096..].as_ptr());
}
