//! Objects as files of a directory.
//!
//! An object is the file of its name. It is written under a temporary name, synced, and then linked (where it
//! must be new) or renamed (where it may replace) to its place, and the folder is synced: a file in its place
//! is always whole. The temporary files of a process lie in `.temporary/{token}`, which the process keeps
//! locked; whoever opens the directory removes those that no process has locked. Folders stay when they are
//! empty.
//!
//! | room | what is in it |
//! |---|---|
//! | `files` | one file or folder: written, synced, linked, read |
//! | `temporary` | where temporary files lie, and who removes them |
//! | `walk` | which objects and folders there are |

mod files;
mod temporary;
mod walk;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use crate::backend::{Answer, Backend, Created, Listed};
use crate::blocking::blocking;
use crate::error::StoreError;
use files::Files;

/// Objects as files of a directory.
pub(crate) struct Directory {
    files: Arc<Files>,
}

impl Directory {
    /// Opens a directory, and makes it where it is absent.
    pub(crate) fn open(root: PathBuf) -> Result<Self, StoreError> {
        Ok(Self { files: Arc::new(Files::open(root)?) })
    }

    fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Files) -> Result<T, StoreError> + Send + 'static,
    ) -> Answer<'_, T> {
        let files = Arc::clone(&self.files);
        Box::pin(blocking(move || work(&files)))
    }
}

impl Backend for Directory {
    fn describe(&self) -> String {
        format!("directory {}", self.files.root().display())
    }

    fn directory(&self) -> Option<&Path> {
        Some(self.files.root())
    }

    fn create<'a>(&'a self, name: &'a str, bytes: Bytes) -> Answer<'a, Created> {
        let name = name.to_owned();
        self.run(move |files| files.create(&name, &bytes))
    }

    fn put<'a>(&'a self, name: &'a str, bytes: Bytes) -> Answer<'a, ()> {
        let name = name.to_owned();
        self.run(move |files| files.put(&name, &bytes, true))
    }

    fn put_unsynced<'a>(&'a self, name: &'a str, bytes: Bytes) -> Answer<'a, ()> {
        let name = name.to_owned();
        self.run(move |files| files.put(&name, &bytes, false))
    }

    fn read<'a>(&'a self, name: &'a str) -> Answer<'a, Option<Bytes>> {
        let name = name.to_owned();
        self.run(move |files| files.read(&name))
    }

    fn list<'a>(&'a self, folder: &'a str) -> Answer<'a, Vec<Listed>> {
        let folder = folder.to_owned();
        self.run(move |files| files.checked(walk::objects(files.root(), &folder)))
    }

    fn folders<'a>(&'a self, folder: &'a str) -> Answer<'a, Vec<String>> {
        let folder = folder.to_owned();
        self.run(move |files| files.checked(walk::folders(files.root(), &folder)))
    }

    fn delete<'a>(&'a self, name: &'a str) -> Answer<'a, ()> {
        let name = name.to_owned();
        self.run(move |files| files.delete(&name))
    }
}
