//! A map names every file below it, and every name of a map is there.
//!
//! The map of a file is the table of rooms at its head. It names a module of the file by the module's name or
//! by something that the file hands on from there.

use std::collections::BTreeSet;

use crate::rust::{House, handed_on, houses};

/// What stands between backquotes, word by word.
fn quoted(head: &str) -> BTreeSet<&str> {
    let between = head.split('`').skip(1).step_by(2);
    between.flat_map(|text| text.split(|c: char| !c.is_alphanumeric() && c != '_')).collect()
}

/// The names in the first column of a table of rooms.
fn rooms(head: &str) -> BTreeSet<&str> {
    let rows = head.lines().skip_while(|line| !line.trim_start().starts_with("| room |")).skip(2);
    let rows = rows.map_while(|line| line.trim_start().strip_prefix('|'));
    rows.flat_map(|row| quoted(row.split('|').next().unwrap_or(""))).collect()
}

fn has(house: &House, at: usize, name: &str) -> bool {
    let module = &house[at];
    module.children.contains_key(name)
        || module.uses.iter().any(|used| used.name == name)
        || module.code.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == name)
}

#[test]
fn a_map_names_every_file_below_it() {
    let mut missing = Vec::new();
    for house in houses() {
        let with_a_map = house.iter().enumerate().filter(|(_, module)| module.head.contains("| room |"));
        for (at, module) in with_a_map {
            let named = quoted(&module.head);
            let handed = handed_on(&house, at);
            for (name, child) in &module.children {
                let by_its_names = handed
                    .iter()
                    .any(|(name, of)| house[*of].path == house[*child].path && named.contains(name.as_str()));
                if !named.contains(name.as_str()) && !by_its_names {
                    missing.push(format!("{}: {name}", module.path.display()));
                }
            }
        }
    }
    assert!(missing.is_empty(), "{} files are in no map: {missing:#?}", missing.len());
}

#[test]
fn every_name_of_a_map_is_there() {
    let mut unknown = Vec::new();
    for house in houses() {
        for (at, module) in house.iter().enumerate() {
            let names = rooms(&module.head);
            let absent = names.iter().filter(|name| !name.is_empty() && !has(&house, at, name));
            unknown.extend(absent.map(|name| format!("{}: {name}", module.path.display())));
        }
    }
    assert!(unknown.is_empty(), "{unknown:#?}");
}
