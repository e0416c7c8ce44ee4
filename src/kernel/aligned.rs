//! Storage that begins at a cache line.

use std::fmt;
use std::ops::{Deref, DerefMut};

/// A cache line, and the widest vector.
const ALIGNMENT: usize = 64;

/// A run of values that begins at a cache line, so that no vector of a kernel lies across two.
#[derive(Clone)]
pub(crate) struct Aligned<T> {
    storage: Vec<T>,
    start: usize,
    len: usize,
}

impl<T: Copy + Default> Aligned<T> {
    /// All zero. Where `len` is large the system hands out the pages when they are first touched.
    pub(crate) fn zeroed(len: usize) -> Self {
        let spare = ALIGNMENT / size_of::<T>();
        let storage = vec![T::default(); len + spare];
        // Where the address cannot be told, any start will do.
        let start = storage.as_ptr().align_offset(ALIGNMENT).min(spare);
        Self { storage, start, len }
    }
}

impl<T> Deref for Aligned<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.storage[self.start..self.start + self.len]
    }
}

impl<T> DerefMut for Aligned<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.storage[self.start..self.start + self.len]
    }
}

impl<T> fmt::Debug for Aligned<T> {
    /// Its length: what it holds is a model's size, and not for logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{} values]", self.len)
    }
}
