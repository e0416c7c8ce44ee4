//! Which objects and folders there are.

use std::fs::{self, Metadata};
use std::io::ErrorKind;
use std::path::Path;

use super::files::explain;
use crate::backend::Listed;
use crate::error::StoreError;
use crate::name;

/// All objects below a folder, sorted.
pub(super) fn objects(root: &Path, folder: &str) -> Result<Vec<Listed>, StoreError> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for (name, metadata) in entries(root, &folder)? {
            if metadata.is_dir() {
                folders.push(name);
            } else if metadata.is_file() {
                found.push(Listed { name, size: metadata.len() });
            }
        }
    }
    found.sort();
    Ok(found)
}

/// The folders directly in a folder that have objects below them, sorted.
pub(super) fn folders(root: &Path, folder: &str) -> Result<Vec<String>, StoreError> {
    let mut found = Vec::new();
    for (name, metadata) in entries(root, folder)? {
        if metadata.is_dir() && has_object(root, &name)? {
            found.extend(name.rsplit('/').next().map(str::to_owned));
        }
    }
    found.sort();
    Ok(found)
}

fn has_object(root: &Path, folder: &str) -> Result<bool, StoreError> {
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for (name, metadata) in entries(root, &folder)? {
            if metadata.is_file() {
                return Ok(true);
            }
            if metadata.is_dir() {
                folders.push(name);
            }
        }
    }
    Ok(false)
}

/// What a folder holds, by full name, without what is no name of an object or a folder: files of the store's
/// own, and of others.
fn entries(root: &Path, folder: &str) -> Result<Vec<(String, Metadata)>, StoreError> {
    let place = root.join(folder);
    let read = match fs::read_dir(&place) {
        Ok(read) => read,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        Err(error) => return Err(explain(&place, &error)),
    };
    let mut entries = Vec::new();
    for entry in read {
        let entry = entry.map_err(|error| explain(&place, &error))?;
        let Some(segment) = entry.file_name().to_str().map(str::to_owned) else { continue };
        if name::check(&segment).is_err() {
            continue;
        }
        let name = if folder.is_empty() { segment } else { format!("{folder}/{segment}") };
        match entry.metadata() {
            Ok(metadata) => entries.push((name, metadata)),
            // Deleted meanwhile.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(explain(&entry.path(), &error)),
        }
    }
    Ok(entries)
}
