//! Which Rust file uses which.
//!
//! A file uses another one where it names something of it: in a `use`, or in a path. What a file hands on
//! from its own modules (`pub use`) is followed to where it is defined, and ties nothing by itself; nor does
//! `mod`. Tests are no part.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::files::{code, end_of_item, ending, read};

/// A file of a crate.
#[derive(Debug)]
pub(crate) struct Module {
    pub(crate) path: PathBuf,
    /// The comment at its head.
    pub(crate) head: String,
    pub(crate) code: String,
    /// Its module of files, by name.
    pub(crate) children: BTreeMap<String, usize>,
    parent: Option<usize>,
    pub(crate) uses: Vec<Use>,
}

/// One name of a `use`.
#[derive(Debug)]
pub(crate) struct Use {
    path: Vec<String>,
    pub(crate) name: String,
    hands_on: bool,
}

/// The files of a crate, its root first.
pub(crate) type House = Vec<Module>;

/// Every crate of the workspace, tests in rooms among them.
pub(crate) fn houses() -> Vec<House> {
    let files = ending(&["lib.rs", "main.rs"]);
    files
        .iter()
        .filter(|path| path.ends_with("lib.rs") || path.ends_with("main.rs"))
        .map(|path| house(path))
        .collect()
}

fn house(root: &Path) -> House {
    let mut house = vec![module(root, None)];
    let mut next = 0;
    while next < house.len() {
        let folder = match house[next].path.file_stem().unwrap().to_str().unwrap() {
            "lib" | "main" | "mod" => house[next].path.parent().unwrap().to_owned(),
            _ => house[next].path.with_extension(""),
        };
        for name in declared(&house[next].code) {
            let file = folder.join(format!("{name}.rs"));
            let file = if crate::files::root().join(&file).exists() {
                file
            } else {
                folder.join(&name).join("mod.rs")
            };
            let child = house.len();
            house.push(module(&file, Some(next)));
            house[next].children.insert(name, child);
        }
        next += 1;
    }
    house
}

fn module(path: &Path, parent: Option<usize>) -> Module {
    let text = read(path);
    let head = text.lines().map_while(|line| line.strip_prefix("//!")).collect::<Vec<_>>().join("\n");
    let mut code = without_tests(code(&text));
    let uses = take_uses(&mut code);
    Module { path: path.to_owned(), head, code, children: BTreeMap::new(), parent, uses }
}

fn without_tests(mut code: String) -> String {
    const TEST: &str = "#[cfg(test)]";
    while let Some(at) = code.find(TEST) {
        let end = end_of_item(&code, at + TEST.len());
        let blank: String = code[at..end].chars().map(|c| if c == '\n' { c } else { ' ' }).collect();
        code.replace_range(at..end, &blank);
    }
    code
}

/// The modules that a file has as files of their own.
fn declared(code: &str) -> Vec<String> {
    let of_line = |line: &str| {
        let item = line.trim().rsplit(") ").next()?.trim_start_matches("pub ");
        let name = item.strip_prefix("mod ")?.strip_suffix(';')?;
        Some(name.to_owned())
    };
    code.lines().filter_map(of_line).collect()
}

/// Every name of every `use`, which leave the code.
fn take_uses(code: &mut String) -> Vec<Use> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(start) = code[at..].find("use ").map(|start| at + start) {
        at = start + 4;
        let line = code[..start].rsplit('\n').next().unwrap().trim();
        let is_item = line.is_empty() || (line.starts_with("pub") && !line.contains(' '));
        if !is_item {
            continue;
        }
        let end = at + code[at..].find(';').unwrap();
        let hands_on = !line.is_empty();
        let tree = code[at..end].split_whitespace().collect::<Vec<_>>().join(" ");
        expand(&mut found, Vec::new(), &tree, hands_on);
        let blank: String = code[start..end].chars().map(|c| if c == '\n' { c } else { ' ' }).collect();
        code.replace_range(start..end, &blank);
        at = end;
    }
    found
}

fn expand(found: &mut Vec<Use>, mut prefix: Vec<String>, tree: &str, hands_on: bool) {
    let (path, group) = match tree.split_once('{') {
        Some((path, group)) => (path, Some(group.trim().strip_suffix('}').unwrap())),
        None => (tree, None),
    };
    let (path, alias) = path.split_once(" as ").map_or((path, None), |(path, alias)| (path, Some(alias)));
    prefix.extend(path.split("::").map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned));
    let Some(group) = group else {
        if prefix.last().is_some_and(|last| last == "self") {
            prefix.pop();
        }
        let name = alias.or(prefix.last().map(String::as_str)).unwrap_or("").trim().to_owned();
        found.push(Use { path: prefix, name, hands_on });
        return;
    };
    let (mut depth, mut start) = (0_i32, 0);
    for (at, c) in group.char_indices().chain([(group.len(), ',')]) {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                let part = group[start..at].trim();
                if !part.is_empty() {
                    expand(found, prefix.clone(), part, hands_on);
                }
                start = at + 1;
            }
            _ => {}
        }
    }
}

/// The files that each file of a crate uses.
pub(crate) fn edges(house: &House) -> BTreeMap<usize, BTreeSet<usize>> {
    let mut edges: BTreeMap<usize, BTreeSet<usize>> = BTreeMap::new();
    for (from, module) in house.iter().enumerate() {
        let used = module.uses.iter().filter(|used| !used.hands_on || names(&module.code, &used.name));
        let mut paths: Vec<Vec<String>> = used.map(|used| used.path.clone()).collect();
        paths.extend(inline_paths(module));
        let found = paths.iter().filter_map(|path| resolve(house, from, path, 0)).filter(|&to| to != from);
        edges.entry(from).or_default().extend(found);
    }
    edges
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn names(code: &str, name: &str) -> bool {
    code.split(|c| !is_word(c)).any(|word| word == name)
}

/// Paths in code that are no `use`: from the crate, from the module above, or from a module of its own.
fn inline_paths(module: &Module) -> Vec<Vec<String>> {
    let of_text = |text: &str| {
        let path: String = text.chars().take_while(|&c| is_word(c) || c == ':').collect();
        let path: Vec<_> = path.split("::").filter(|part| !part.is_empty()).map(str::to_owned).collect();
        let begins = path.first().is_some_and(|first| {
            ["crate", "super", "self"].contains(&first.as_str()) || module.children.contains_key(first)
        });
        (begins && path.len() > 1).then_some(path)
    };
    let mut found = Vec::new();
    let mut before = ' ';
    for (at, c) in module.code.char_indices() {
        if is_word(c) && !is_word(before) && before != ':' {
            found.extend(of_text(&module.code[at..]));
        }
        before = c;
    }
    found
}

/// The file in which a path ends, where it is one of the crate's.
fn resolve(house: &House, from: usize, path: &[String], depth: usize) -> Option<usize> {
    if depth > 20 {
        return None;
    }
    let (first, mut rest) = path.split_first()?;
    let mut at = match first.as_str() {
        "crate" => 0,
        "self" => from,
        "super" => house[from].parent?,
        name if house[from].children.contains_key(name) => house[from].children[name],
        name => {
            let used = house[from].uses.iter().find(|used| used.name == name && used.path[0] != *name)?;
            resolve(house, from, &used.path, depth + 1)?
        }
    };
    while let Some((next, after)) = rest.split_first() {
        if next == "super" {
            at = house[at].parent?;
        } else if let Some(&child) = house[at].children.get(next) {
            at = child;
        } else {
            let handed_on = house[at].uses.iter().find(|used| used.name == *next);
            let to = handed_on.and_then(|used| resolve(house, at, &used.path, depth + 1));
            // What an outside crate gave is not of this crate, whoever hands it on.
            return to.or_else(|| handed_on.is_none().then_some(at));
        }
        rest = after;
    }
    Some(at)
}

/// The names that a file hands on, with the file that each is of.
pub(crate) fn handed_on(house: &House, at: usize) -> Vec<(String, usize)> {
    let of = |used: &Use| Some((used.name.clone(), resolve(house, at, &used.path, 0)?));
    house[at].uses.iter().filter(|used| used.hands_on).filter_map(of).collect()
}

#[test]
fn a_use_is_each_of_its_names() {
    let mut code = "pub use crate::a::{self, b::{C, D as E}, f};\nuse g;\n".to_owned();
    let paths: Vec<String> = take_uses(&mut code).iter().map(|used| used.path.join("::")).collect();
    assert_eq!(code.trim_matches(['\n', ' ', ';']), "pub");
    assert_eq!(paths, ["crate::a", "crate::a::b::C", "crate::a::b::D", "crate::a::f", "g"]);
}
