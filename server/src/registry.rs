//! The sessions by name, and the memory promised to them.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use noised::limits::TILE_LANES;
use noised::session::{OutputChunk, ResolvedSpec};
use noised::{Error, Session};
use noised_proto::ServiceError;
use tokio_util::sync::CancellationToken;

use crate::compute::Compute;

/// Memory of a session beside what the core counts: its name, its entry here, the allocator's rounding.
const OVERHEAD_BYTES: u64 = 4096;

/// Lanes times planes that an async thread works through by itself: some microseconds, which is less than handing it to
/// another thread and back takes.
const INLINE_WORK: usize = 64 * TILE_LANES;

/// A session and where it stands.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) name: String,
    pub(crate) resolved: Arc<ResolvedSpec>,
    /// Fires when the session is deleted.
    pub(crate) deleted: CancellationToken,
    pub(crate) memory_bytes: u64,
    session: Arc<tokio::sync::Mutex<Session>>,
    progress: Mutex<Progress>,
    /// Gives the memory back when the last holder of the entry is gone.
    _reservation: Reservation,
}

/// Where a session stands, readable while it computes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    pub(crate) next_step: u64,
    pub(crate) next_offset: usize,
    /// A computation broke off in the middle, so the state is not to be trusted.
    pub(crate) damaged: bool,
}

impl Entry {
    /// Applies a run of whole tiles of a step: on the compute threads, or here where it is tiny.
    pub(crate) async fn apply(
        self: &Arc<Self>,
        compute: &Compute,
        step: u64,
        offset: usize,
        pieces: Vec<Bytes>,
    ) -> Result<Vec<OutputChunk>, ServiceError> {
        let mut session = Arc::clone(&self.session).lock_owned().await;
        if self.deleted.is_cancelled() {
            return Err(self.not_found());
        }
        if self.progress().damaged {
            return Err(Error::damaged("a step broke off in the middle of its computation").into());
        }
        let bytes: usize = pieces.iter().map(Bytes::len).sum();
        let layout = self.resolved.layout();
        let lane = |byte: usize| layout.lane_of_byte(byte.min(layout.byte_len())).unwrap_or(layout.lanes());
        let lanes = lane(offset.saturating_add(bytes)).saturating_sub(lane(offset));
        let work = lanes * (self.resolved.plan().planes() + 1);
        if work <= INLINE_WORK {
            return self.apply_locked(&mut session, step, offset, &pieces);
        }
        let entry = Arc::clone(self);
        let applied = compute.run(move || entry.apply_locked(&mut session, step, offset, &pieces)).await;
        if self.deleted.is_cancelled() {
            return Err(self.not_found());
        }
        applied.unwrap_or_else(|broken| {
            tracing::error!(session = %self.name, step, "a computation panicked; the session is damaged");
            Err(broken)
        })
    }

    fn apply_locked(
        &self,
        session: &mut Session,
        step: u64,
        offset: usize,
        pieces: &[Bytes],
    ) -> Result<Vec<OutputChunk>, ServiceError> {
        // A panic leaves the mark, whether or not anybody waits for the answer. Who reads it holds the session's lock.
        self.progress().damaged = true;
        let applied = session.apply_pieces(step, offset, pieces);
        let (next_step, next_offset) = (session.next_step(), session.next_offset());
        *self.progress() = Progress { next_step, next_offset, damaged: false };
        Ok(applied?)
    }

    pub(crate) fn progress(&self) -> MutexGuard<'_, Progress> {
        // Plain numbers are whole whatever happened to the thread that wrote them.
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn not_found(&self) -> ServiceError {
        ServiceError::SessionNotFound { name: self.name.clone() }
    }
}

/// The sessions of a server.
#[derive(Debug)]
pub(crate) struct Registry {
    sessions: Mutex<BTreeMap<String, Arc<Entry>>>,
    /// Held while a session is made.
    creating: Arc<tokio::sync::Mutex<()>>,
    max_sessions: usize,
    memory: Arc<Memory>,
}

/// Bytes promised to sessions.
#[derive(Debug)]
struct Memory {
    limit: u64,
    promised: Mutex<u64>,
}

impl Memory {
    fn promised(&self) -> MutexGuard<'_, u64> {
        self.promised.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reserve(self: &Arc<Self>, needed: u64) -> Result<Reservation, ServiceError> {
        let mut promised = self.promised();
        let free = self.limit.saturating_sub(*promised);
        if needed > free {
            return Err(ServiceError::MemoryQuota { needed, free, limit: self.limit });
        }
        *promised += needed;
        Ok(Reservation { memory: Arc::clone(self), bytes: needed })
    }
}

/// A promise of memory, until it is dropped.
#[derive(Debug)]
struct Reservation {
    memory: Arc<Memory>,
    bytes: u64,
}

impl Drop for Reservation {
    fn drop(&mut self) {
        *self.memory.promised() -= self.bytes;
    }
}

impl Registry {
    pub(crate) fn new(max_sessions: usize, max_session_bytes: u64) -> Self {
        let memory = Memory { limit: max_session_bytes, promised: Mutex::new(0) };
        Self { sessions: Mutex::default(), creating: Arc::default(), max_sessions, memory: Arc::new(memory) }
    }

    /// Makes a session, or finds the one of that name where `resume` is set and it was made for the same. Nothing is
    /// allocated for a session before its memory is promised. Tells whether it was found.
    ///
    /// Clearing the memory of a large session takes a while: call this on a thread that may block, and wait for a
    /// [turn](Self::turn_to_create) first.
    pub(crate) fn create(
        &self,
        name: String,
        resolved: ResolvedSpec,
        resume: bool,
    ) -> Result<(Arc<Entry>, bool), ServiceError> {
        if let Some(found) = self.find(&self.sessions(), &name, &resolved, resume)? {
            return Ok((found, true));
        }
        let memory_bytes = resolved.cost().total().saturating_add(OVERHEAD_BYTES);
        let reservation = self.memory.reserve(memory_bytes)?;
        let resolved = Arc::new(resolved);
        let entry = Arc::new(Entry {
            name: name.clone(),
            session: Arc::new(tokio::sync::Mutex::new(Session::new(Arc::clone(&resolved)))),
            resolved,
            deleted: CancellationToken::new(),
            memory_bytes,
            progress: Mutex::default(),
            _reservation: reservation,
        });
        self.sessions().insert(name, Arc::clone(&entry));
        Ok((entry, false))
    }

    /// Sessions are made one after the other, so that many calls for one name promise memory for one session. Whatever
    /// else is asked of the registry goes on meanwhile.
    pub(crate) async fn turn_to_create(&self) -> tokio::sync::OwnedMutexGuard<()> {
        Arc::clone(&self.creating).lock_owned().await
    }

    /// The session of that name, where it may be resumed; `None` where one may be made.
    fn find(
        &self,
        sessions: &BTreeMap<String, Arc<Entry>>,
        name: &str,
        resolved: &ResolvedSpec,
        resume: bool,
    ) -> Result<Option<Arc<Entry>>, ServiceError> {
        match sessions.get(name) {
            Some(_) if !resume => Err(ServiceError::SessionExists { name: name.to_owned() }),
            Some(entry) => {
                entry.resolved.check_same(resolved)?;
                Ok(Some(Arc::clone(entry)))
            }
            None if sessions.len() >= self.max_sessions => {
                Err(ServiceError::SessionQuota { limit: self.max_sessions })
            }
            None => Ok(None),
        }
    }

    pub(crate) fn get(&self, name: &str) -> Result<Arc<Entry>, ServiceError> {
        let found = self.sessions().get(name).cloned();
        found.ok_or_else(|| ServiceError::SessionNotFound { name: name.to_owned() })
    }

    /// Ends a session. Its memory is free once the steps under way on it have noticed.
    pub(crate) fn delete(&self, name: &str) -> Result<Arc<Entry>, ServiceError> {
        let removed = self.sessions().remove(name);
        let entry = removed.ok_or_else(|| ServiceError::SessionNotFound { name: name.to_owned() })?;
        entry.deleted.cancel();
        Ok(entry)
    }

    /// At most `count` sessions after `name`, in the order of names, and whether there are more.
    pub(crate) fn page(&self, name: &str, count: usize) -> (Vec<Arc<Entry>>, bool) {
        let sessions = self.sessions();
        let mut rest =
            sessions.range::<str, _>((Bound::Excluded(name), Bound::Unbounded)).map(|(_, entry)| entry);
        let page = rest.by_ref().take(count).cloned().collect();
        (page, rest.next().is_some())
    }

    fn sessions(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Entry>>> {
        // The map is changed by one call at a time, each of which leaves it whole.
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use noised::{DType, MatrixSpec, SessionSpec, Tree};

    use super::*;

    fn resolved(lanes: u64) -> ResolvedSpec {
        SessionSpec::new(MatrixSpec::PrefixSum, Tree::flat(lanes, DType::F32).unwrap()).resolve().unwrap()
    }

    fn bytes(lanes: u64) -> u64 {
        resolved(lanes).cost().total() + OVERHEAD_BYTES
    }

    #[test]
    fn memory_is_promised_and_given_back() {
        let registry = Registry::new(10, bytes(1000) + bytes(500));
        let (held, _) = registry.create("a".into(), resolved(1000), false).unwrap();
        let refused = registry.create("b".into(), resolved(501), false).unwrap_err();
        let expected = ServiceError::MemoryQuota {
            needed: bytes(501),
            free: bytes(500),
            limit: bytes(1000) + bytes(500),
        };
        assert_eq!(refused, expected);
        registry.create("b".into(), resolved(500), false).unwrap();
        // What a step under way holds is not free yet.
        registry.delete("a").unwrap();
        assert!(registry.create("c".into(), resolved(1000), false).is_err());
        drop(held);
        registry.create("c".into(), resolved(1000), false).unwrap();
    }

    #[test]
    fn a_session_that_no_memory_could_hold_is_refused_before_it_is_taken() {
        let registry = Registry::new(10, 1 << 20);
        let error = registry.create("a".into(), resolved(1 << 40), false).unwrap_err();
        assert!(matches!(error, ServiceError::MemoryQuota { .. }));
    }

    #[test]
    fn names_are_taken_once_and_resumed_for_the_same() {
        let registry = Registry::new(2, 1 << 20);
        assert!(!registry.create("a".into(), resolved(5), false).unwrap().1);
        assert!(matches!(
            registry.create("a".into(), resolved(5), false),
            Err(ServiceError::SessionExists { .. })
        ));
        assert!(registry.create("a".into(), resolved(5), true).unwrap().1);
        assert_eq!(
            registry.create("a".into(), resolved(6), true).unwrap_err(),
            Error::FingerprintMismatch { field: "tree" }.into()
        );
        assert!(!registry.create("b".into(), resolved(5), true).unwrap().1);
        assert_eq!(
            registry.create("c".into(), resolved(5), false).unwrap_err(),
            ServiceError::SessionQuota { limit: 2 }
        );
    }
}
