//! What the steps of the documents leave in a working tree is ignored by git: secrets must not be committed.

use std::process::Command;

use crate::files::{read, root};

/// The files that the shell commands of a document write: what follows `-keyout`, `-out` and `--out`.
fn written(document: &str) -> Vec<String> {
    let text = read(document.as_ref());
    let words: Vec<&str> = text.split_whitespace().collect();
    let pairs = words.windows(2).filter(|pair| ["-keyout", "-out"].contains(&pair[0]));
    pairs.map(|pair| pair[1].to_owned()).collect()
}

#[test]
fn what_the_steps_of_the_documents_leave_is_ignored_by_git() {
    let files = written("docs/identity.md");
    assert!(files.len() >= 6, "{files:?}");
    for file in files {
        let question = ["check-ignore", "--quiet", "--no-index", &file];
        // Sources that were unpacked where there is no git have nobody who could commit the file.
        let Ok(status) = Command::new("git").args(question).current_dir(root()).status() else { return };
        assert!(matches!(status.code(), Some(0 | 128)), "{file} is not ignored by git");
    }
}
