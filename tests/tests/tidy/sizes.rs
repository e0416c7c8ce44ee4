//! Lines, functions, and limits that are defined once.

use std::collections::BTreeMap;

use crate::files::{code, ending, read};

const MAX_COLUMNS: usize = 110;
const MAX_FUNCTION_LINES: usize = 100;

/// Folders that have longer lines still, most of them tables and messages, with how many there are at most.
const KNOWN_LONG_LINES: &[(&str, usize)] = &[
    ("bench", 5),
    ("client", 270),
    ("examples", 15),
    ("proto", 7),
    ("server", 7),
    ("src", 31),
    ("tests", 26),
    ("verify", 6),
];

/// Functions that are longer still. Each must still be, so this list only gets shorter.
const KNOWN_LONG_FUNCTIONS: &[&str] =
    &["client/noisectl/tests/local/files.rs", "server/src/config/mod.rs", "tests/tests/description.rs"];

#[test]
fn lines_fit_a_window() {
    let mut long: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for path in ending(&[".rs", ".py", ".pyi"]) {
        for (line, text) in (1..).zip(read(&path).lines()) {
            if text.chars().count() > MAX_COLUMNS {
                let folder = path.iter().next().unwrap().to_str().unwrap().to_owned();
                long.entry(folder).or_default().push(format!("{}:{line}", path.display()));
            }
        }
    }
    let known =
        |folder: &str| KNOWN_LONG_LINES.iter().find(|known| known.0 == folder).map_or(0, |known| known.1);
    long.retain(|folder, lines| lines.len() > known(folder));
    assert!(long.is_empty(), "more lines than before have over {MAX_COLUMNS} columns: {long:#?}");
}

/// Where functions are longer than they may be: `rustfmt` and `ruff` have put their ends where their heads
/// are.
fn long_functions(
    text: &str,
    is_head: impl Fn(&str) -> bool,
    ends: impl Fn(&str, usize) -> bool,
) -> Vec<usize> {
    let lines: Vec<&str> = text.lines().collect();
    let is_long = |&at: &usize| {
        let indent = lines[at].len() - lines[at].trim_start().len();
        is_head(lines[at].trim_start())
            && lines[at + 1..]
                .iter()
                .position(|line| ends(line, indent))
                .is_some_and(|end| end + 2 > MAX_FUNCTION_LINES)
    };
    (0..lines.len()).filter(is_long).map(|at| at + 1).collect()
}

#[test]
fn functions_fit_a_page() {
    let mut long = Vec::new();
    for path in ending(&[".rs", ".py"]) {
        let text = read(&path);
        let indent = |line: &str| line.len() - line.trim_start().len();
        let lines = if path.extension().is_some_and(|ending| ending == "rs") {
            let is_head = |line: &str| {
                let signature = line.split(['(', '<']).next().unwrap_or("");
                signature.split_whitespace().rev().nth(1) == Some("fn")
            };
            long_functions(&code(&text), is_head, |line, of| {
                indent(line) == of && line.trim().ends_with(['}', ';'])
            })
        } else {
            let is_head = |line: &str| line.starts_with("def ") || line.starts_with("async def ");
            let ends = |line: &str, of| {
                !line.trim().is_empty() && indent(line) <= of && !line.trim().starts_with(')')
            };
            long_functions(&text, is_head, ends)
        };
        long.extend(lines.iter().map(|_| path.display().to_string()));
    }
    assert_eq!(long, KNOWN_LONG_FUNCTIONS, "files with functions of more than {MAX_FUNCTION_LINES} lines");
}

/// A limit that other files name has a name of its own: one that a type has is told apart by the type.
#[test]
fn limits_are_defined_once() {
    let mut places: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for path in
        ending(&[".rs"]).iter().filter(|path| !path.starts_with("tests") && !path.ends_with("tests.rs"))
    {
        for line in code(&read(path)).lines().filter(|line| line.starts_with("pub")) {
            let name =
                line.split_once("const ").and_then(|(_, rest)| rest.split_once(':')).map(|(name, _)| name);
            if let Some(name) = name.filter(|name| name.starts_with("MAX_") || name.starts_with("MIN_")) {
                places.entry(name.to_owned()).or_default().push(path.display().to_string());
            }
        }
    }
    places.retain(|_, places| places.len() > 1);
    assert!(places.is_empty(), "{places:#?}");
}
