//! One file or folder: written, synced, linked, read.

use std::collections::HashSet;
use std::fs::{self, DirBuilder, File};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;

use super::temporary::Temporary;
use crate::backend::Created;
use crate::error::StoreError;

/// The files of a store.
pub(super) struct Files {
    root: PathBuf,
    /// Device and inode of the root: what is mounted there must stay.
    identity: (u64, u64),
    temporary: Temporary,
    /// Folders, from the root, whose entries in their parents are durable. Folders are never removed.
    durable: Mutex<HashSet<PathBuf>>,
}

impl Files {
    pub(super) fn open(root: PathBuf) -> Result<Self, StoreError> {
        let opened = || -> io::Result<(PathBuf, (u64, u64))> {
            make_with_parents(&root)?;
            let root = root.canonicalize()?;
            let identity = identity(&root)?;
            Ok((root, identity))
        };
        let (root, identity) = opened().map_err(|error| explain(&root, &error))?;
        let temporary = Temporary::open(&root).map_err(|error| explain(&root, &error))?;
        Ok(Self { root, identity, temporary, durable: Mutex::default() })
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn create(&self, name: &str, bytes: &Bytes) -> Result<Created, StoreError> {
        let place = self.root.join(name);
        let work = || -> io::Result<Created> {
            // Spares the writing, and lets a full disk answer.
            if fs::symlink_metadata(&place).is_ok() {
                return self.sync_taken(&place);
            }
            self.make_folder(name)?;
            let new = self.write(bytes, true)?;
            match fs::hard_link(new.path(), &place) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::AlreadyExists => return self.sync_taken(&place),
                Err(error) => return Err(error),
            }
            sync_folder_of(&place)?;
            Ok(Created::New)
        };
        self.checked(work().map_err(|error| explain(&place, &error)))
    }

    /// Whoever created the object may not have synced its folder yet, or failed to: one that is told to be
    /// there has to stay there.
    fn sync_taken(&self, place: &Path) -> io::Result<Created> {
        if fs::symlink_metadata(place)?.is_dir() {
            return Err(ErrorKind::IsADirectory.into());
        }
        sync_folder_of(place)?;
        Ok(Created::Taken)
    }

    pub(super) fn put(&self, name: &str, bytes: &Bytes, syncs: bool) -> Result<(), StoreError> {
        let place = self.root.join(name);
        let work = || -> io::Result<()> {
            self.make_folder(name)?;
            let new = self.write(bytes, syncs)?;
            fs::rename(new.path(), &place)?;
            if syncs { sync_folder_of(&place) } else { Ok(()) }
        };
        self.checked(work().map_err(|error| explain(&place, &error)))
    }

    pub(super) fn read(&self, name: &str) -> Result<Option<Bytes>, StoreError> {
        let place = self.root.join(name);
        let found = match fs::read(&place) {
            Ok(bytes) => Ok(Some(Bytes::from(bytes))),
            // A folder is no object, and below a file there is none.
            Err(error) if is_absence(&error) || error.kind() == ErrorKind::IsADirectory => Ok(None),
            Err(error) => Err(explain(&place, &error)),
        };
        self.checked(found)
    }

    /// Not synced: a deleted object may be back after the machine lost its power.
    pub(super) fn delete(&self, name: &str) -> Result<(), StoreError> {
        let place = self.root.join(name);
        match fs::remove_file(&place) {
            Ok(()) => Ok(()),
            Err(error) if is_absence(&error) => self.checked(Ok(())),
            Err(error) => Err(explain(&place, &error)),
        }
    }

    /// The answer, where the directory is still the one that was opened. Where it is not, because a volume
    /// was unmounted or the directory was removed, absence says nothing.
    pub(super) fn checked<T>(&self, answer: Result<T, StoreError>) -> Result<T, StoreError> {
        match identity(&self.root) {
            Ok(identity) if identity == self.identity => answer,
            _ => {
                let what = "is not the directory any more that was opened: mount it, and start again";
                Err(StoreError::Unavailable(format!("{} {what}", self.root.display())))
            }
        }
    }

    /// Makes the folder of an object, durably, below the root.
    fn make_folder(&self, name: &str) -> io::Result<()> {
        let Some(folder) = Path::new(name).parent().filter(|folder| !folder.as_os_str().is_empty()) else {
            return Ok(());
        };
        if self.durable.lock().unwrap_or_else(PoisonError::into_inner).contains(folder) {
            return Ok(());
        }
        let mut at = self.root.clone();
        for segment in folder {
            at.push(segment);
            match DirBuilder::new().mode(0o700).create(&at) {
                Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
                // Also one that was there: whoever made it may not have synced it yet.
                _ => sync_folder_of(&at)?,
            }
        }
        self.durable.lock().unwrap_or_else(PoisonError::into_inner).insert(folder.to_owned());
        Ok(())
    }

    fn write(&self, bytes: &Bytes, syncs: bool) -> io::Result<super::temporary::NewFile> {
        let (new, mut file) = self.temporary.new_file()?;
        file.write_all(bytes)?;
        if syncs {
            file.sync_all()?;
        }
        Ok(new)
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = fs::metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

fn is_absence(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

fn make_with_parents(folder: &Path) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    if let Some(parent) = folder.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        make_with_parents(parent)?;
    }
    match DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists && folder.is_dir() => {}
        made => made?,
    }
    sync_folder_of(folder)
}

fn sync_folder_of(place: &Path) -> io::Result<()> {
    let folder = place.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}

/// What an error of the system means to whoever asked.
pub(super) fn explain(place: &Path, error: &io::Error) -> StoreError {
    let what = format!("{}: {error}", place.display());
    match error.kind() {
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => StoreError::Refused(what),
        ErrorKind::NotADirectory | ErrorKind::IsADirectory => {
            let rule = "no name may be a folder of another object";
            StoreError::invalid("object name", rule, place.display().to_string())
        }
        _ => StoreError::Unavailable(what),
    }
}
