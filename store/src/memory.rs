//! Objects in the memory of this process.

use std::collections::{BTreeMap, BTreeSet};
use std::future::ready;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use crate::backend::{Answer, Backend, Created, Listed};

/// Objects by name. They are gone with the process.
#[derive(Default)]
pub(crate) struct Memory {
    objects: Mutex<BTreeMap<String, Bytes>>,
}

impl Memory {
    fn objects(&self) -> MutexGuard<'_, BTreeMap<String, Bytes>> {
        // Every operation changes the map at once, so a thread that panicked left it whole.
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn now<'a, T: Send + 'a>(value: T) -> Answer<'a, T> {
    Box::pin(ready(Ok(value)))
}

/// What is left of a name below a folder.
pub(crate) fn below<'a>(name: &'a str, folder: &str) -> Option<&'a str> {
    if folder.is_empty() { Some(name) } else { name.strip_prefix(folder)?.strip_prefix('/') }
}

impl Backend for Memory {
    fn describe(&self) -> String {
        "memory:".to_owned()
    }

    fn create<'a>(&'a self, name: &'a str, bytes: Bytes) -> Answer<'a, Created> {
        let mut objects = self.objects();
        if objects.contains_key(name) {
            return now(Created::Taken);
        }
        objects.insert(name.to_owned(), bytes);
        now(Created::New)
    }

    fn put<'a>(&'a self, name: &'a str, bytes: Bytes) -> Answer<'a, ()> {
        self.objects().insert(name.to_owned(), bytes);
        now(())
    }

    fn read<'a>(&'a self, name: &'a str) -> Answer<'a, Option<Bytes>> {
        now(self.objects().get(name).cloned())
    }

    fn list<'a>(&'a self, folder: &'a str) -> Answer<'a, Vec<Listed>> {
        let objects = self.objects();
        let inside = objects.iter().filter(|(name, _)| below(name, folder).is_some());
        now(inside.map(|(name, bytes)| Listed { name: name.clone(), size: bytes.len() as u64 }).collect())
    }

    fn folders<'a>(&'a self, folder: &'a str) -> Answer<'a, Vec<String>> {
        let objects = self.objects();
        let firsts = objects.keys().filter_map(|name| below(name, folder)?.split_once('/'));
        now(firsts.map(|(first, _)| first.to_owned()).collect::<BTreeSet<_>>().into_iter().collect())
    }

    fn delete<'a>(&'a self, name: &'a str) -> Answer<'a, ()> {
        self.objects().remove(name);
        now(())
    }
}
