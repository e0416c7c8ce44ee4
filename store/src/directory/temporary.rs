//! Where temporary files lie, and who removes them.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{FlockOperation, flock};

/// No object has such a name, so no listing has the files in it.
const FOLDER: &str = ".temporary";

/// Tries to lock a folder of one's own, which whoever cleans up may take for one that was left over.
const TRIES: usize = 100;

/// The folder of this store's temporary files. It is locked as long as the store is open.
pub(super) struct Temporary {
    folder: PathBuf,
    _lock: File,
    next: AtomicU64,
}

/// A file that is removed, under this name, when this is dropped.
pub(super) struct NewFile(PathBuf);

impl Temporary {
    pub(super) fn open(root: &Path) -> io::Result<Self> {
        let all = root.join(FOLDER);
        make(&all)?;
        clean(&all);
        for _ in 0..TRIES {
            let mut token = [0; 8];
            getrandom::fill(&mut token).map_err(io::Error::other)?;
            let folder = all.join(format!("{:016x}", u64::from_le_bytes(token)));
            make(&folder)?;
            let Ok(lock) = File::open(&folder) else { continue };
            // A file system without locks has nobody who cleans up.
            let locked = flock(&lock, FlockOperation::NonBlockingLockExclusive);
            let is_taken = locked == Err(rustix::io::Errno::WOULDBLOCK);
            if !is_taken && is_same(&lock, &folder) {
                return Ok(Self { folder, _lock: lock, next: AtomicU64::new(0) });
            }
        }
        Err(io::Error::other("cannot lock a folder for temporary files"))
    }

    /// A new, empty file, for its owner alone.
    pub(super) fn new_file(&self) -> io::Result<(NewFile, File)> {
        let path = self.folder.join(self.next.fetch_add(1, Ordering::Relaxed).to_string());
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        Ok((NewFile(path), file))
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // Fails while it has files, which whoever opens the store next removes.
        let _ = fs::remove_dir(&self.folder);
    }
}

impl NewFile {
    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        // Absent where it was renamed; else what stays is removed at the next start.
        let _ = fs::remove_file(&self.0);
    }
}

fn make(folder: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

/// Removes the folders that no process has locked. What fails is tried at the next start.
fn clean(all: &Path) {
    for entry in fs::read_dir(all).into_iter().flatten().flatten() {
        let Ok(folder) = File::open(entry.path()) else { continue };
        if flock(&folder, FlockOperation::NonBlockingLockExclusive).is_ok() {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

fn is_same(lock: &File, folder: &Path) -> bool {
    match (lock.metadata(), fs::metadata(folder)) {
        (Ok(locked), Ok(found)) => (locked.dev(), locked.ino()) == (found.dev(), found.ino()),
        _ => false,
    }
}
