//! Memory for the noise of steps, which goes round: fresh memory costs more than drawing into it does.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use crate::kernel::Aligned;

/// The free buffers of a session, each of one step's length.
#[derive(Clone, Debug)]
pub(super) struct Buffers {
    step_bytes: usize,
    /// How many there are at most, those in use among them; what is free beyond that is given back to the
    /// system.
    most: usize,
    free: Arc<Mutex<Vec<Aligned<u8>>>>,
    /// How many are in use.
    used: Arc<AtomicUsize>,
}

/// Memory for one step, with anything in it. It goes back where it came from when the last part of it is
/// dropped, be that an answer on its way to a client.
pub struct StepBuffer {
    memory: Aligned<u8>,
    home: Buffers,
}

impl Buffers {
    pub(super) fn new(step_bytes: usize, most: usize) -> Self {
        Self { step_bytes, most, free: Arc::default(), used: Arc::default() }
    }

    pub(super) fn take(&self) -> StepBuffer {
        self.used.fetch_add(1, Ordering::Relaxed);
        let memory = self.free().pop().unwrap_or_else(|| Aligned::zeroed(self.step_bytes));
        StepBuffer { memory, home: self.clone() }
    }

    /// How many are in use: drawn into, waiting to be released, released and still held by an answer, or
    /// kept.
    pub(super) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    fn free(&self) -> MutexGuard<'_, Vec<Aligned<u8>>> {
        // A list of buffers is whole whatever happened to a thread that had one.
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl StepBuffer {
    /// The memory, to be read and shared.
    pub(super) fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl Drop for StepBuffer {
    fn drop(&mut self) {
        let used = self.home.used.fetch_sub(1, Ordering::Relaxed) - 1;
        let memory = std::mem::replace(&mut self.memory, Aligned::zeroed(0));
        let mut free = self.home.free();
        if free.len() + used < self.home.most {
            free.push(memory);
        }
    }
}

impl AsRef<[u8]> for StepBuffer {
    fn as_ref(&self) -> &[u8] {
        &self.memory
    }
}

impl Deref for StepBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.memory
    }
}

impl DerefMut for StepBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.memory
    }
}

impl fmt::Debug for StepBuffer {
    /// Its length: noise is secret until it is released.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StepBuffer({} bytes)", self.memory.len())
    }
}
