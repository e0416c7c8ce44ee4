//! Which module of the Python package imports which.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::files::{ending, read};

const PACKAGE: &str = "client/python/python";

/// The modules of the package by their path, and those that each imports. A face (`__init__.py`) hands names
/// on and ties nothing. What is imported for types alone counts: a reader follows it too.
pub(crate) fn imports() -> BTreeMap<PathBuf, BTreeSet<PathBuf>> {
    let files: Vec<PathBuf> = ending(&[".py"]).into_iter().filter(|path| path.starts_with(PACKAGE)).collect();
    let of = |path: &Path| imported(&read(path)).iter().filter_map(|name| file(&files, name)).collect();
    files.iter().filter(|path| !path.ends_with("__init__.py")).map(|path| (path.clone(), of(path))).collect()
}

/// The file of a dotted name: that of a module, or of the module that has the name.
fn file(files: &[PathBuf], name: &str) -> Option<PathBuf> {
    let path = Path::new(PACKAGE).join(name.replace('.', "/"));
    let within = path.parent()?.to_owned();
    let all = [path, within].map(|path| path.with_extension("py"));
    all.into_iter().find(|path| files.contains(path))
}

/// Dotted names that a module imports: `a.b` of `import a.b`, and `a.b` of `from a import b`.
fn imported(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut lines = text.lines().map(str::trim);
    while let Some(line) = lines.next() {
        if let Some(names) = line.strip_prefix("import ") {
            found
                .extend(names.split(',').filter_map(|name| Some(name.split_whitespace().next()?.to_owned())));
        } else if let Some((from, names)) =
            line.strip_prefix("from ").and_then(|line| line.split_once(" import"))
        {
            let mut names = names.to_owned();
            while names.contains('(') && !names.contains(')') {
                names += lines.next().unwrap_or(")");
            }
            let names = names.replace(['(', ')'], " ");
            let names = names.split(',').filter_map(|name| name.split_whitespace().next());
            found.extend(names.map(|name| format!("{from}.{name}")));
        }
    }
    found
}

#[test]
fn an_import_is_each_of_its_names() {
    let text = "import a.b as c, d\nfrom e.f import (\n    g,\n    h as i,\n)\nfrom j import k  # l\n";
    assert_eq!(imported(text), ["a.b", "d", "e.f.g", "e.f.h", "j.k"]);
}
