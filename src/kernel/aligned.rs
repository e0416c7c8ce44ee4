//! Storage for state: zeroed, aligned, and in huge pages where it is large.

use std::fmt;
use std::ops::{Deref, DerefMut};

use bytemuck::Pod;
use memmap2::MmapMut;
use rayon::prelude::*;

/// A cache line, and the widest vector.
const ALIGNMENT: usize = 64;

/// From here on storage is mapped on its own, so that it can ask for huge pages: one entry of the processor's
/// table of pages then covers 2 MiB instead of 4 KiB, which a sweep through memory notices.
const MAPPED_BYTES: usize = 4 << 20;

/// The smallest page of any system.
const PAGE_BYTES: usize = 4 << 10;

/// Bytes that a thread touches at a time: huge pages, enough of them to be worth a job.
const TOUCHED_BYTES: usize = 32 << 20;

/// A run of values that begins at a cache line, so that no vector of a kernel lies across two.
pub(crate) struct Aligned<T> {
    storage: Storage<T>,
    start: usize,
    len: usize,
}

enum Storage<T> {
    Heap(Vec<T>),
    Mapped(MmapMut),
}

impl<T: Pod + Default> Aligned<T> {
    /// All zero. Where `len` is large the system hands out the pages when they are first touched.
    pub(crate) fn zeroed(len: usize) -> Self {
        let bytes = len.saturating_mul(size_of::<T>());
        if bytes >= MAPPED_BYTES
            && let Ok(map) = MmapMut::map_anon(bytes)
        {
            // A system without huge pages costs speed, and nothing else.
            #[cfg(target_os = "linux")]
            let _slower = map.advise(memmap2::Advice::HugePage);
            return Self { storage: Storage::Mapped(map), start: 0, len };
        }
        let spare = ALIGNMENT / size_of::<T>();
        let storage = vec![T::default(); len + spare];
        // Where the address cannot be told, any start will do.
        let start = storage.as_ptr().align_offset(ALIGNMENT).min(spare);
        Self { storage: Storage::Heap(storage), start, len }
    }
}

impl<T: Pod + Default + Send> Aligned<T> {
    /// Has the system hand out the pages of freshly [`zeroed`](Self::zeroed) storage now, by threads of
    /// rayon's, and not when each of them is first touched.
    pub(crate) fn touch(&mut self) {
        if let Storage::Mapped(_) = self.storage {
            let step = (PAGE_BYTES / size_of::<T>()).max(1);
            self.par_chunks_mut(TOUCHED_BYTES / size_of::<T>()).for_each(|part| {
                part.iter_mut().step_by(step).for_each(|value| *value = T::default());
            });
        }
    }
}

impl<T: Pod + Default> Clone for Aligned<T> {
    fn clone(&self) -> Self {
        let mut copy = Self::zeroed(self.len);
        copy.copy_from_slice(self);
        copy
    }
}

impl<T: Pod> Deref for Aligned<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        match &self.storage {
            Storage::Heap(values) => &values[self.start..self.start + self.len],
            Storage::Mapped(map) => bytemuck::cast_slice(map),
        }
    }
}

impl<T: Pod> DerefMut for Aligned<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        match &mut self.storage {
            Storage::Heap(values) => &mut values[self.start..self.start + self.len],
            Storage::Mapped(map) => bytemuck::cast_slice_mut(map),
        }
    }
}

impl<T> fmt::Debug for Aligned<T> {
    /// Its length: what it holds is a model's size, and not for logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{} values]", self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// On the heap and mapped, with a last part that is shorter than what a thread touches.
    #[test]
    fn touched_storage_is_zero() {
        for len in [0, 1, 1000, MAPPED_BYTES / 4, (TOUCHED_BYTES + MAPPED_BYTES) / 4 + 1] {
            let mut values = Aligned::<f32>::zeroed(len);
            values.touch();
            assert_eq!(values.len(), len);
            assert!(values.iter().all(|value| value.to_bits() == 0));
        }
    }
}
