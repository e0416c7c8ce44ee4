//! The files of the repository, and their text without comments and strings.

use std::path::{Path, PathBuf};

pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// Every file below the repository's root that ends so, by its path from there. Hidden folders and build
/// outputs are not sources.
pub(crate) fn ending(endings: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root().to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap_or(".");
            if path.is_dir() {
                let is_source = !name.starts_with('.') && !["target", "venv", "__pycache__"].contains(&name);
                folders.extend(is_source.then_some(path));
            } else if endings.iter().any(|ending| name.ends_with(ending)) {
                found.push(path.strip_prefix(root()).unwrap().to_owned());
            }
        }
    }
    found.sort();
    found
}

pub(crate) fn read(path: &Path) -> String {
    std::fs::read_to_string(root().join(path)).unwrap()
}

/// Rust source with spaces in the place of comments, strings and characters. Lines stay where they are.
pub(crate) fn code(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let skipped = literal_or_comment(rest, code.chars().last());
        if skipped == 0 {
            code.push(first);
            rest = &rest[first.len_utf8()..];
        } else {
            let (blank, after) = rest.split_at(skipped);
            code.extend(blank.chars().map(|c| if c == '\n' { c } else { ' ' }));
            rest = after;
        }
    }
    code
}

/// How many bytes of a comment, a string or a character begin here; 0 where none does.
fn literal_or_comment(rest: &str, before: Option<char>) -> usize {
    let end =
        |mark: &str, from: usize| rest[from..].find(mark).map_or(rest.len(), |at| from + at + mark.len());
    if rest.starts_with("//") {
        return rest.find('\n').unwrap_or(rest.len());
    }
    if rest.starts_with("/*") {
        return end("*/", 2);
    }
    if rest.starts_with('"') {
        return quoted(rest);
    }
    let in_a_word = before.is_some_and(|c| c.is_alphanumeric() || c == '_');
    let raw = rest.strip_prefix("br").or_else(|| rest.strip_prefix('r')).filter(|_| !in_a_word);
    if let Some(raw) = raw {
        let hashes = raw.len() - raw.trim_start_matches('#').len();
        if raw[hashes..].starts_with('"') {
            let start = rest.len() - raw.len() + hashes + 1;
            return end(&format!("\"{}", "#".repeat(hashes)), start);
        }
    }
    // A character, and no lifetime.
    let mut characters = rest.char_indices();
    match (characters.next(), characters.next(), characters.next()) {
        (Some((_, '\'')), Some((_, '\\')), Some((at, escaped))) => end("'", at + escaped.len_utf8()),
        (Some((_, '\'')), Some(_), Some((at, '\''))) => at + 1,
        _ => 0,
    }
}

fn quoted(rest: &str) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

/// Where the block, or the item without a block, ends that begins at `from`.
pub(crate) fn end_of_item(code: &str, from: usize) -> usize {
    let mut depth = 0_usize;
    for (at, c) in code[from..].char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth <= 1 => return from + at + 1,
            '}' => depth -= 1,
            ';' if depth == 0 => return from + at + 1,
            _ => {}
        }
    }
    code.len()
}

#[test]
fn comments_and_literals_are_no_code() {
    let text = "a('\"', '\\'', \"// {\\\"\", r#\"b\"#) // c\n/* d\n */ e<'f>";
    let code = code(text);
    assert_eq!(code.split_whitespace().collect::<String>(), "a(,,,)e<'f>");
    assert_eq!(code.lines().count(), 3);
    assert_eq!(end_of_item("fn a() { { } } b", 0), 14);
    assert_eq!(end_of_item("use a; b", 0), 6);
}
