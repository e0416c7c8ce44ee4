//! What every back end does, and its answers.

use std::path::Path;
use std::pin::Pin;

use bytes::Bytes;

use crate::error::StoreError;

/// What a conditional creation came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Created {
    /// The object was absent, and is there now.
    New,
    /// An object of that name was there already. It may be the caller's own, from a try whose acknowledgement
    /// was lost: [`Store::create_exactly`](crate::Store::create_exactly) tells.
    Taken,
}

/// An object of a listing.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Listed {
    /// The object's full name.
    pub name: String,
    /// Its length in bytes.
    pub size: u64,
}

/// The answer of a back end, when it comes.
pub(crate) type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// Where objects are kept. Names were checked before; a folder is a name, or empty for the whole store.
///
/// Each method has the promise of the method of [`Store`](crate::Store) that has its name.
pub(crate) trait Backend: Send + Sync {
    fn describe(&self) -> String;

    fn directory(&self) -> Option<&Path> {
        None
    }

    fn create<'a>(&'a self, name: &'a str, bytes: Bytes) -> Answer<'a, Created>;

    fn put<'a>(&'a self, name: &'a str, bytes: Bytes) -> Answer<'a, ()>;

    /// Other back ends than a directory have no cheaper way than `put`.
    fn put_unsynced<'a>(&'a self, name: &'a str, bytes: Bytes) -> Answer<'a, ()> {
        self.put(name, bytes)
    }

    fn read<'a>(&'a self, name: &'a str) -> Answer<'a, Option<Bytes>>;

    fn list<'a>(&'a self, folder: &'a str) -> Answer<'a, Vec<Listed>>;

    fn folders<'a>(&'a self, folder: &'a str) -> Answer<'a, Vec<String>>;

    fn delete<'a>(&'a self, name: &'a str) -> Answer<'a, ()>;
}
