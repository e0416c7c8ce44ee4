//! Adding an entry to a tokens file.
//!
//! The server may read the file at any moment, so this program writes a new file and renames it over the old
//! one. It locks the old file before it reads the file, so that two programs do not overwrite each other's
//! entries.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use crate::failure::Failure;

/// The group, and everybody.
const OTHERS: u32 = 0o077;

/// The kinds of entries that have a name.
const KINDS: [&str; 2] = ["token", "certificate"];

/// A tokens file with one more entry, which is not in its place yet.
pub(super) struct Addition {
    path: PathBuf,
    beside: NamedTempFile,
    /// The file that is there, locked until this is dropped.
    _locked: File,
}

impl Addition {
    /// Writes the file that is there, and the entry of a name, beside the file.
    pub(super) fn prepare(path: &Path, name: &str, entry: &str) -> Result<Self, Failure> {
        let failed = |error: io::Error| Failure::failed(path.display(), error);
        let (mut locked, path_now) = lock(path).map_err(failed)?;
        let found = locked.metadata().map_err(failed)?;
        let mode = found.mode() & 0o7777;
        if mode & OTHERS != 0 {
            let shown = path.display();
            let rule =
                format!("{shown}: must be for its owner alone, found mode {mode:04o}: chmod 600 {shown}");
            return Err(Failure::usage("file", rule));
        }
        let mut text = String::new();
        locked.read_to_string(&mut text).map_err(failed)?;
        check(&text, name).map_err(|rule| Failure::usage("file", format!("{}: {rule}", path.display())))?;
        let directory = path_now.parent().unwrap_or(Path::new("."));
        let beside = NamedTempFile::new_in(directory).map_err(failed)?;
        let between = match text.as_str() {
            "" => "",
            text if text.ends_with('\n') => "\n",
            _ => "\n\n",
        };
        let mut file = beside.as_file();
        file.write_all(format!("{text}{between}{entry}").as_bytes()).map_err(failed)?;
        let own = file.metadata().map_err(failed)?;
        if (own.uid(), own.gid()) != (found.uid(), found.gid()) {
            fchown(file, Some(found.uid()), Some(found.gid())).map_err(failed)?;
        }
        file.sync_all().map_err(failed)?;
        Ok(Self { path: path_now, beside, _locked: locked })
    }

    /// Replaces the file.
    pub(super) fn put_in_place(self) -> Result<(), Failure> {
        let Self { path, beside, _locked } = self;
        let failed = |error: io::Error| Failure::failed(path.display(), error);
        beside.persist(&path).map_err(|error| failed(error.error))?;
        let directory = path.parent().unwrap_or(Path::new("."));
        File::open(directory).and_then(|directory| directory.sync_all()).map_err(failed)
    }
}

/// Opens the file and locks it, once nobody else has it. Gives its path with every link followed.
fn lock(path: &Path) -> io::Result<(File, PathBuf)> {
    loop {
        let mut options = File::options();
        let file = options.read(true).append(true).create(true).mode(0o600).open(path)?;
        file.lock()?;
        let path_now = fs::canonicalize(path)?;
        let (locked, there) = (file.metadata()?, fs::metadata(&path_now)?);
        // The program that had the lock before may have renamed another file over this one.
        if (locked.dev(), locked.ino()) == (there.dev(), there.ino()) {
            return Ok((file, path_now));
        }
    }
}

/// Refuses a file that is not TOML, and a name that an entry has already.
fn check(text: &str, name: &str) -> Result<(), String> {
    // The library's text shows the line at fault, which may hold a secret.
    let table: toml::Table =
        toml::from_str(text).map_err(|error| format!("is not TOML: {}", error.message()))?;
    let entries = KINDS.iter().filter_map(|kind| table.get(*kind)?.as_array()).flatten();
    if entries.filter_map(|entry| entry.get("name")?.as_str()).any(|other| other == name) {
        return Err(format!(
            "has an entry with the name `{name}` already: choose another name, or delete the entry"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn add(path: &Path, name: &str) -> Result<(), Failure> {
        let entry = format!("[[token]]\nname = \"{name}\"\n");
        Addition::prepare(path, name, &entry)?.put_in_place()
    }

    #[test]
    fn entries_are_added_and_no_name_twice() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("tokens.toml");
        add(&path, "a").unwrap();
        add(&path, "b").unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text, "[[token]]\nname = \"a\"\n\n[[token]]\nname = \"b\"\n");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert!(format!("{:?}", add(&path, "a").unwrap_err()).contains("`a` already"));
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(format!("{:?}", add(&path, "c").unwrap_err()).contains("chmod 600"));
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn of_many_at_once_no_entry_is_lost() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("tokens.toml");
        std::thread::scope(|scope| {
            for i in 0..8 {
                let path = &path;
                scope.spawn(move || add(path, &format!("n{i}")).unwrap());
            }
        });
        let text = fs::read_to_string(&path).unwrap();
        assert!((0..8).all(|i| text.contains(&format!("\"n{i}\""))), "{text}");
    }
}
