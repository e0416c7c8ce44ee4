//! Stored states of sessions of the client's input: when they are written, writing, and reading them.

use std::io::{self, Read, Write};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use noised::session::AnySession;
use noised_store::{SealedStore, StoreError};
use tokio::runtime::Handle;
use tokio::sync::{OwnedMutexGuard, mpsc};
use uuid::Uuid;

use super::objects::state_object;
use super::past::Snapshot;
use crate::config::SnapshotEvery;

/// Bytes of an object of a state.
pub(super) const PART_BYTES: usize = 8 << 20;

/// Parts that wait to be written.
pub(super) const PARTS_AHEAD: usize = 2;

/// Storing a state may take one part in so many of the time.
pub(super) const MOST_OF_THE_TIME: u32 = 20;

/// Whether a state is to be stored now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    No,
    /// Beside the answer.
    Beside,
    /// Before the answer.
    Before,
}

/// When the next state is due.
#[derive(Debug)]
pub(crate) struct Pace {
    every: SnapshotEvery,
    /// The step of the last state that was noted.
    noted: Option<u64>,
    last: Instant,
    took: Duration,
    is_under_way: bool,
}

impl Pace {
    pub(crate) fn new(every: SnapshotEvery, noted: Option<u64>) -> Self {
        Self { every, noted, last: Instant::now(), took: Duration::ZERO, is_under_way: false }
    }

    /// Whether the state before this step is to be stored, where a run `ended` the step before.
    pub(crate) fn due(&mut self, next_step: u64, ended: bool) -> Due {
        match self.every {
            // Where storing failed, it is tried again whenever the answer is asked for.
            SnapshotEvery::Steps(1) if next_step > 0 && self.noted < Some(next_step) => Due::Before,
            SnapshotEvery::Steps(1) => Due::No,
            SnapshotEvery::Steps(steps) if ended && next_step.is_multiple_of(steps) => Due::Before,
            SnapshotEvery::Steps(_) => Due::No,
            SnapshotEvery::Time(time) => {
                let pause = time.max(self.took.saturating_mul(MOST_OF_THE_TIME));
                if !ended || self.is_under_way || self.last.elapsed() < pause {
                    return Due::No;
                }
                self.is_under_way = true;
                Due::Beside
            }
        }
    }

    /// The state before a step was noted, which took so long.
    pub(crate) fn note(&mut self, step: u64, took: Duration) {
        (self.noted, self.took) = (Some(step), took);
    }

    /// Whether the state before a step was noted.
    pub(crate) fn has(&self, step: u64) -> bool {
        self.noted == Some(step)
    }

    /// The session went back.
    pub(crate) fn rewound(&mut self, noted: Option<u64>) {
        self.noted = noted;
    }

    /// Storing has ended, one way or the other.
    pub(crate) fn ended(&mut self) {
        (self.last, self.is_under_way) = (Instant::now(), false);
    }
}

/// Writes the state of a session of the client's input, which is held meanwhile. It counts once it is
/// noted, under the same lock.
pub(crate) async fn write_state(
    store: &SealedStore,
    (folder, uid): (&str, &str),
    session: OwnedMutexGuard<AnySession>,
) -> Result<(OwnedMutexGuard<AnySession>, Snapshot), StoreError> {
    let id = Uuid::new_v4().simple().to_string();
    let (parts, mut queue) = mpsc::channel(PARTS_AHEAD);
    let writing = tokio::task::spawn_blocking(move || {
        let mut cutter = Cutter { part: Vec::new(), parts };
        let written = session.snapshot(&mut cutter).and_then(|()| cutter.finish());
        (session, written)
    });
    let mut snapshot = Snapshot { id, step: 0, parts: 0 };
    let mut fault = None;
    while let Some(part) = queue.recv().await {
        let name = state_object(folder, uid, &snapshot.id, snapshot.parts);
        if let Err(error) = store.create(&name, part).await {
            fault = Some(error);
            break;
        }
        snapshot.parts += 1;
    }
    drop(queue);
    let stopped = |what: String| StoreError::Refused(format!("a state was not written: {what}"));
    let written = writing
        .await
        .map_err(|error| stopped(error.to_string()))
        .and_then(|(session, written)| written.map(|()| session).map_err(|error| stopped(error.to_string())));
    match (fault, written) {
        (None, Ok(session)) => {
            snapshot.step = session.next_step();
            Ok((session, snapshot))
        }
        (fault, written) => {
            // A full disk must not stay full of it.
            delete_state(store, (folder, uid), &snapshot).await;
            Err(fault.or_else(|| written.err()).unwrap_or_else(|| stopped("it broke off".into())))
        }
    }
}

/// Deletes a state that nothing refers to.
pub(crate) async fn delete_state(store: &SealedStore, (folder, uid): (&str, &str), snapshot: &Snapshot) {
    for part in 0..snapshot.parts {
        let name = state_object(folder, uid, &snapshot.id, part);
        if let Err(error) = store.delete(&name).await {
            tracing::warn!(%error, name, "a state that nothing refers to was not deleted");
        }
    }
}

/// Cuts what is written into parts.
struct Cutter {
    part: Vec<u8>,
    parts: mpsc::Sender<Bytes>,
}

impl Cutter {
    fn finish(mut self) -> io::Result<()> {
        self.send()
    }

    fn send(&mut self) -> io::Result<()> {
        let part = Bytes::from(std::mem::take(&mut self.part));
        if part.is_empty() {
            return Ok(());
        }
        self.parts.blocking_send(part).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))
    }
}

impl Write for Cutter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.part.capacity() == 0 {
            self.part.reserve_exact(bytes.len().clamp(1, PART_BYTES));
        }
        let taken = bytes.len().min(PART_BYTES - self.part.len());
        self.part.extend_from_slice(&bytes[..taken]);
        if self.part.len() == PART_BYTES {
            self.send()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reads a stored state, part by part, on a thread that may block.
#[derive(Debug)]
pub(crate) struct StateReader {
    store: SealedStore,
    runtime: Handle,
    /// The names of the parts, the last first.
    left: Vec<String>,
    part: Bytes,
    /// What the store said, where it did not give a part.
    fault: Arc<OnceLock<StoreError>>,
}

impl StateReader {
    /// A reader of a session's state.
    pub(crate) fn new(store: SealedStore, folder: &str, uid: &str, snapshot: &Snapshot) -> Self {
        let name = |part| state_object(folder, uid, &snapshot.id, part);
        let left = (0..snapshot.parts).rev().map(name).collect();
        Self { store, runtime: Handle::current(), left, part: Bytes::new(), fault: Arc::default() }
    }
}

impl StateReader {
    /// Whether the store did not answer.
    pub(crate) fn is_away(&self) -> bool {
        matches!(self.fault.get(), Some(StoreError::Unavailable(_) | StoreError::Refused(_)))
    }

    /// Where to find what the store said, once this is read.
    pub(crate) fn fault(&self) -> Arc<OnceLock<StoreError>> {
        Arc::clone(&self.fault)
    }
}

impl Read for StateReader {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        while self.part.is_empty() {
            let Some(name) = self.left.pop() else { return Ok(0) };
            let read = self.runtime.block_on(self.store.read(&name)).map_err(|error| {
                let told = io::Error::other(error.to_string());
                // The first is what is told.
                let _first = self.fault.set(error);
                told
            })?;
            self.part = read.ok_or_else(|| io::Error::other(format!("{name} is missing")))?;
        }
        let taken = bytes.len().min(self.part.len());
        self.part.copy_to_slice(&mut bytes[..taken]);
        Ok(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_often() {
        let mut every_third = Pace::new(SnapshotEvery::Steps(3), None);
        let due = [1, 2, 3, 4, 6].map(|step| every_third.due(step, true) == Due::Before);
        assert_eq!(due, [false, false, true, false, true]);
        assert_eq!(every_third.due(3, false), Due::No);
        let mut now = Pace::new(SnapshotEvery::Time(Duration::ZERO), None);
        assert_eq!([now.due(1, false), now.due(1, true), now.due(2, true)], [Due::No, Due::Beside, Due::No]);
        now.ended();
        assert_eq!(now.due(2, true), Due::Beside);
        let mut every = Pace::new(SnapshotEvery::Steps(1), None);
        // As long as the state is not stored, it is due, also for an answer that is asked for again.
        assert_eq!(
            [every.due(0, false), every.due(1, true), every.due(1, false)],
            [Due::No, Due::Before, Due::Before]
        );
        every.note(1, Duration::ZERO);
        assert_eq!([every.due(1, false), every.due(2, true)], [Due::No, Due::Before]);
    }
}
