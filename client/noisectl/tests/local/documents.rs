//! The figures of the documents.

use std::path::Path;

use crate::json;

/// The figures of the documents are those that their own commands give, rounded to the safe side.
#[test]
fn documents_calibrate_with_what_their_commands_print() {
    for document in ["README.md", "docs/strategies.md"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(document);
        let text = std::fs::read_to_string(path).unwrap().replace("\\\n", " ");
        let commands: Vec<Vec<&str>> = text
            .lines()
            .filter_map(|line| line.strip_prefix("noisectl "))
            .map(|line| line.split_whitespace().collect())
            .collect();
        let command = |has: &[&str]| {
            let mut found = commands.iter().filter(|words| has.iter().all(|word| words.contains(word)));
            let words = found.next().unwrap_or_else(|| panic!("{document} has no {has:?}")).clone();
            assert!(found.next().is_none(), "{document} has {has:?} twice");
            words
        };
        let option = |words: &[&str], option: &str| {
            let at = words.iter().position(|word| *word == option).unwrap();
            words[at + 1].to_owned()
        };
        // A figure as a document tells it is not below the command's, nor a unit of its last decimal above.
        let told = |told: &str, is: f64| {
            let decimals = told.split_once('.').map_or(0, |(_, decimals)| decimals.len());
            let above = told.parse::<f64>().unwrap() - is;
            let unit: f64 = format!("1e-{decimals}").parse().unwrap();
            assert!((0.0..=unit).contains(&above), "{document} says {told}, and its command {is}");
        };
        let search = command(&["--save", "noising.json", "--min-sep"]);
        let search: Vec<&str> =
            search.into_iter().filter(|word| !["--save", "noising.json"].contains(word)).collect();
        let found = json(&[&search[..], &["--format", "json"]].concat());
        let best = found.get("candidates").map_or(&found, |candidates| &candidates[0]);
        let calibrate = command(&["calibrate", "--sensitivity"]);
        told(&option(&calibrate, "--sensitivity"), best["sensitivity"].as_f64().unwrap());
        let calibrated = json(&[&calibrate[..], &["--local", "--format", "json"]].concat());
        let run = command(&["run", "--stddev", "@noising.json"]);
        told(&option(&run, "--stddev"), calibrated["stddev"].as_f64().unwrap());
    }
}
