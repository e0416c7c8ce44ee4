//! The owner's side of a journal.
//!
//! A task writes as long as something waits. It has the [`Pen`] meanwhile: the next number, and the object
//! whose fate is unknown, if there is one. That object is written again, with the same bytes, before anything
//! else.

use std::fmt;
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::{Mutex as AsyncMutex, oneshot, watch};

use super::entry::{Entry, encode_number};
use super::id::JournalId;
use super::queue::{JournalError, Outcome, Queue, Waiter, Work};
use crate::backend::Created;
use crate::error::StoreError;
use crate::sealed::SealedStore;

/// Bytes of a payload, at most.
pub const MAX_PAYLOAD_BYTES: usize = 8 << 20;

/// Payloads are put together up to here: sealing them takes less than a millisecond.
const GROUP_BYTES: usize = 512 << 10;
const GROUP_PAYLOADS: usize = 8192;

const _: () = assert!(GROUP_BYTES <= MAX_PAYLOAD_BYTES);
const _: () = assert!(GROUP_PAYLOADS <= crate::record::MAX_RECORD_PAYLOADS);

/// The journal of one life of a server. A clone is another handle to it.
#[derive(Clone)]
pub struct Journal {
    shared: Arc<Shared>,
}

/// What a journal has written since it began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct JournalStats {
    /// Payloads that are durable.
    pub payloads: u64,
    /// Objects that are durable: in a directory, two fsyncs each.
    pub objects: u64,
    /// Their bytes, sealed.
    pub bytes: u64,
    /// Tries to write an object that failed.
    pub failures: u64,
    /// Objects that were deleted after a fold.
    pub deleted: u64,
}

struct Shared {
    store: SealedStore,
    id: JournalId,
    state: Mutex<State>,
    fenced: watch::Sender<bool>,
    /// Below which number everything was deleted; held by whoever deletes.
    folded: Arc<AsyncMutex<u64>>,
}

struct State {
    queue: Queue,
    /// Absent while a task writes.
    pen: Option<Pen>,
    stats: JournalStats,
}

/// Where the journal stands.
struct Pen {
    next: u64,
    unresolved: Option<Unresolved>,
}

/// An object that may be there or not.
struct Unresolved {
    name: String,
    sealed: Bytes,
    payloads: u64,
    waiters: Vec<Waiter>,
}

impl fmt::Debug for Journal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Journal").field("id", &self.shared.id).finish_non_exhaustive()
    }
}

impl Journal {
    /// Begins a journal. An id is for one try: after an error, take a new one.
    ///
    /// # Errors
    /// Those of the store; `Invalid` where the id was used before.
    pub async fn begin(store: SealedStore, id: JournalId) -> Result<Self, StoreError> {
        let first = store.create(&id.object(0), Entry::Begun.encode()?).await?;
        if first == Created::Taken {
            return Err(StoreError::invalid("journal id", "must not have been used before", id.as_str()));
        }
        let pen = Some(Pen { next: 1, unresolved: None });
        let state = State { queue: Queue::default(), pen, stats: JournalStats::default() };
        let shared = Shared {
            store,
            id,
            state: Mutex::new(state),
            fenced: watch::Sender::new(false),
            folded: Arc::default(),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// The journal's id.
    #[must_use]
    pub fn id(&self) -> &JournalId {
        &self.shared.id
    }

    /// Writes a payload, together with others that wait, and returns the number of its object once that is
    /// durable. Numbers never fall from a commit to one that is called after it returned.
    ///
    /// A future that is dropped takes nothing back: the payload may become durable.
    ///
    /// # Errors
    /// `Fenced` from then on for ever; `Pending` where the payload is kept, `Store` where it is not.
    pub async fn commit(&self, payload: Bytes) -> Result<u64, JournalError> {
        if payload.len() > MAX_PAYLOAD_BYTES {
            let rule = format!("must have at most {MAX_PAYLOAD_BYTES} bytes");
            let error = StoreError::invalid("journal payload", rule, payload.len().to_string());
            return Err(JournalError::Store(error));
        }
        self.write(Work::Payload(payload)).await
    }

    /// Says that nothing below a number is needed any more, and deletes it. A marker is committed first, so
    /// that whoever fences the journal afterwards knows what is missing; where the journal was fenced before,
    /// nothing is deleted.
    ///
    /// # Errors
    /// Those of [`commit`](Self::commit), and of deleting. It may be called again; what an error left over,
    /// the next fold deletes.
    pub async fn fold(&self, below: u64) -> Result<(), JournalError> {
        self.write(Work::Fold(below)).await?;
        let shared = Arc::clone(&self.shared);
        // A task of its own: it goes on where the caller is dropped, so that two of them never overlap.
        let runtime = runtime()?;
        let deleted = runtime.spawn(async move { shared.delete_below(below).await }).await;
        deleted.map_err(|error| gone(&error))?.map_err(JournalError::Store)
    }

    /// Whether the journal is known to be fenced. A fence shows at the next write at the latest.
    #[must_use]
    pub fn is_fenced(&self) -> bool {
        *self.shared.fenced.borrow()
    }

    /// Looks whether the journal is fenced, which shows at the next write otherwise: for an owner that stood
    /// still and has nothing to write.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn look(&self) -> Result<bool, StoreError> {
        let shared = &self.shared;
        // A task that writes finds a fence by itself.
        let next = shared.state().pen.as_ref().map(|pen| pen.next);
        if let Some(next) = next {
            let name = shared.id.object(next);
            let found =
                shared.store.read(&name).await?.map(|bytes| Entry::decode(&name, bytes)).transpose()?;
            if found == Some(Entry::Fence) {
                shared.fenced.send_replace(true);
            }
        }
        Ok(self.is_fenced())
    }

    /// Returns once the journal is known to be fenced.
    pub async fn fenced(&self) {
        let mut fenced = self.shared.fenced.subscribe();
        // The sender lives in `self`, so waiting ends only with the fence.
        let _ = fenced.wait_for(|fenced| *fenced).await;
    }

    /// What the journal has written.
    #[must_use]
    pub fn stats(&self) -> JournalStats {
        self.shared.state().stats
    }

    async fn write(&self, work: Work) -> Outcome {
        let runtime = runtime()?;
        let (waiter, outcome) = oneshot::channel();
        {
            let mut state = self.shared.state();
            if self.is_fenced() {
                return Err(JournalError::Fenced);
            }
            state.queue.push(work, waiter);
            if let Some(pen) = state.pen.take() {
                let turn = Turn { shared: Arc::clone(&self.shared), pen: Some(pen) };
                runtime.spawn(turn.write_all());
            }
        }
        outcome.await.unwrap_or_else(|error| Err(gone(&error)))
    }
}

fn runtime() -> Result<Handle, JournalError> {
    let needed = |_| StoreError::invalid("journal", "must be used within a tokio runtime", "none");
    Handle::try_current().map_err(needed).map_err(JournalError::Store)
}

/// The runtime of the task that writes has ended.
fn gone(error: &dyn fmt::Display) -> JournalError {
    JournalError::Pending(StoreError::Unavailable(format!("the journal's task: {error}")))
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing that may panic runs under this lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn delete_below(&self, below: u64) -> Result<(), StoreError> {
        let mut folded = Arc::clone(&self.folded).lock_owned().await;
        // Before anything is deleted: a fence at a number that was deleted is known by this.
        if below > *folded {
            self.store.put(&self.id.folded(), encode_number(below)).await?;
            *folded = below;
        }
        // What another fold left over is deleted with it.
        let numbers = self.id.numbers(&self.store).await?;
        for number in numbers.into_iter().take_while(|number| number < &*folded) {
            self.store.delete(&self.id.object(number)).await?;
            self.state().stats.deleted += 1;
        }
        Ok(())
    }
}

/// The task that writes.
struct Turn {
    shared: Arc<Shared>,
    /// Absent once it is given back.
    pen: Option<Pen>,
}

impl Turn {
    async fn write_all(mut self) {
        while let Some((name, sealed)) = self.object().await {
            let written = self.shared.store.store().create_exactly(&name, sealed).await;
            self.settle(written);
        }
    }

    /// The object that is to be written next; `None` where nothing waits, and the pen is given back.
    async fn object(&mut self) -> Option<(String, Bytes)> {
        let next = {
            let mut state = self.shared.state();
            let pen = self.pen.as_mut()?;
            if let Some(unresolved) = &pen.unresolved {
                return Some((unresolved.name.clone(), unresolved.sealed.clone()));
            }
            let Some(group) = state.queue.next(pen.next, GROUP_BYTES, GROUP_PAYLOADS) else {
                state.pen = self.pen.take();
                return None;
            };
            (self.shared.id.object(pen.next), group)
        };
        let (name, group) = next;
        let sealed = match group.entry.encode() {
            Ok(plain) => self.shared.store.seal(&name, plain).await,
            Err(error) => Err(error),
        };
        match sealed {
            Ok(sealed) => {
                let (payloads, waiters) = (group.payloads, group.waiters);
                let unresolved = Unresolved { name: name.clone(), sealed: sealed.clone(), payloads, waiters };
                self.pen.as_mut()?.unresolved = Some(unresolved);
                Some((name, sealed))
            }
            Err(error) => {
                tell(group.waiters, &Err(JournalError::Store(error.clone())));
                self.stop(&JournalError::Store(error));
                None
            }
        }
    }

    fn settle(&mut self, written: Result<Created, StoreError>) {
        let Some(pen) = &mut self.pen else { return };
        let Some(unresolved) = &mut pen.unresolved else { return };
        let waiters = mem::take(&mut unresolved.waiters);
        match written {
            Ok(Created::New) => {
                let number = pen.next;
                {
                    let stats = &mut self.shared.state().stats;
                    stats.payloads += unresolved.payloads;
                    stats.objects += 1;
                    stats.bytes += unresolved.sealed.len() as u64;
                }
                pen.next += 1;
                pen.unresolved = None;
                tell(waiters, &Ok(number));
            }
            Ok(Created::Taken) => {
                pen.unresolved = None;
                self.shared.fenced.send_replace(true);
                tell(waiters, &Err(JournalError::Fenced));
                self.stop(&JournalError::Fenced);
            }
            Err(error) => {
                self.shared.state().stats.failures += 1;
                tell(waiters, &Err(JournalError::Pending(error.clone())));
                self.stop(&JournalError::Store(error));
            }
        }
    }

    /// Gives the pen back, and tells everybody who waits why nothing of theirs was written.
    fn stop(&mut self, error: &JournalError) {
        if let Some(mut pen) = self.pen.take() {
            let mut state = self.shared.state();
            state.queue.refuse(error);
            // Of a task that was cancelled.
            let waiters = pen.unresolved.as_mut().map(|unresolved| mem::take(&mut unresolved.waiters));
            state.pen = Some(pen);
            drop(state);
            tell(waiters.unwrap_or_default(), &Err(gone(&"cancelled")));
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        // Nothing to do but where the task was cancelled with its runtime.
        self.stop(&JournalError::Store(StoreError::Unavailable(
            "the journal's task was cancelled".to_owned(),
        )));
    }
}

fn tell(waiters: Vec<Waiter>, outcome: &Outcome) {
    for waiter in waiters {
        let _ = waiter.send(outcome.clone());
    }
}
