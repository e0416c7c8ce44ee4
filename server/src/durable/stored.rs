//! A session's place in a store: the acts that are told to the journal, in their order, and waiting until
//! they are durable.
//!
//! Acts are noted under the lock of the session, so their order is that in which they happened. One task
//! writes them, as many at a time as have come together; the journal puts those of many sessions into one
//! object. What a client must not see before it is durable waits for the last act that binds, whichever call
//! noted it: an act that could not be stored yet holds up every later answer that rests on it, and none
//! before it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use noised::session::{AnySession, Rewind, Standing};
use noised_proto::ServiceError;
use noised_store::{Journal, JournalError};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::digits::digits;
use super::objects::{Acts, encode};
use super::past::{Act, Past, Snapshot, StoredSource};
use super::rolling::Rolling;
use super::snapshots::{Due, Pace};
use crate::config::SnapshotEvery;

/// How long an answer waits for the store before its client is told to come back.
const PATIENCE: Duration = Duration::from_secs(10);

/// Between two tries to write.
const RETRY_PAUSE: Duration = Duration::from_millis(200);

/// How often it is looked whether acts are written, to fold what is.
const WRITER_PAUSE: Duration = Duration::from_millis(2);

/// When a client is asked to come back.
const RETRY_AFTER: Duration = Duration::from_millis(500);

/// How often it is noted where a session of `gaussian` has come to, at most.
const MARK_EVERY: Duration = Duration::from_secs(1);

/// A session's place in a store.
#[derive(Debug)]
pub(crate) struct Stored {
    pub(crate) folder: String,
    pub(crate) uid: String,
    /// The number of this server's last object among those of the owners. Held while the next one is made or
    /// looked for.
    owner: tokio::sync::Mutex<u64>,
    /// The number of the object with which this server took the session.
    pub(super) first_owner: u64,
    pub(crate) source: StoredSource,
    journal: Journal,
    runtime: Handle,
    log: Mutex<Log>,
    /// Acts that are durable, the making of the session among them.
    durable: watch::Sender<u64>,
    /// Fires when another server has taken the session.
    pub(crate) lost: CancellationToken,
    pace: Mutex<Pace>,
    pub(super) rolling: Rolling,
}

#[derive(Debug)]
struct Log {
    /// What is durable, and what is noted and not written yet.
    past: Past,
    /// Acts that the last owner's object knows of; the others are in the journal alone.
    folded: u64,
    /// The number of that object.
    owner: u64,
    waiting: Vec<Act>,
    /// The number of acts up to the last that an answer has to wait for. Making the session is the first.
    binding: u64,
    is_made: bool,
    is_writing: bool,
    /// Whether somebody waits until nothing is written.
    is_wanted: bool,
    marked: Instant,
    told: bool,
}

/// The number of acts that an answer waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Binding(u64);

impl Stored {
    /// The place of a session with this past. It `is_made` where the store knows of it already.
    pub(crate) fn new(
        (folder, uid, owner): (String, String, u64),
        source: StoredSource,
        past: Past,
        is_made: bool,
        journal: Journal,
        snapshot_every: SnapshotEvery,
    ) -> Self {
        let durable = past.acts() + u64::from(is_made);
        let noted = past.snapshot().map(|snapshot| snapshot.step);
        let rolling = Rolling::new(snapshot_every, past.drawn().cloned());
        let log = Log {
            waiting: Vec::new(),
            binding: past.acts() + 1,
            is_made,
            is_writing: false,
            is_wanted: false,
            folded: past.acts(),
            owner,
            marked: Instant::now(),
            told: false,
            past,
        };
        Self {
            folder,
            uid,
            owner: tokio::sync::Mutex::new(owner),
            first_owner: owner,
            source,
            journal,
            runtime: Handle::current(),
            log: Mutex::new(log),
            durable: watch::Sender::new(durable),
            lost: CancellationToken::new(),
            pace: Mutex::new(Pace::new(snapshot_every, noted)),
            rolling,
        }
    }

    /// What runs the tasks of the store, for threads that are none of its own.
    pub(crate) fn runtime(&self) -> &Handle {
        &self.runtime
    }

    /// The folder of its name, and what tells it from others of that name.
    pub(crate) fn place(&self) -> (&str, &str) {
        (&self.folder, &self.uid)
    }

    /// A number that rises with each server that takes the session.
    pub(crate) fn epoch(&self) -> u64 {
        self.first_owner
    }

    /// The session is in the store from now on.
    pub(crate) fn made(self: &Arc<Self>) {
        let mut log = self.log();
        log.is_made = true;
        self.durable.send_modify(|durable| *durable += 1);
        self.write(&mut log);
    }

    /// What an answer waits for that is given now.
    pub(crate) fn binding(&self) -> Binding {
        Binding(self.log().binding)
    }

    /// Notes what a step did that was taken from `before` on. Call it under the session's lock.
    pub(crate) fn note_step(self: &Arc<Self>, session: &AnySession, before: u64) -> Binding {
        let next = session.next_step();
        // A session that goes on may step back by itself, where nothing was released.
        if next <= before {
            return self.binding();
        }
        match self.source {
            StoredSource::Input => self.binding(),
            StoredSource::Gaussian => {
                let is_due = self.log().marked.elapsed() >= MARK_EVERY;
                if is_due {
                    self.note(Act::CameTo { step: next }, false);
                }
                self.binding()
            }
            StoredSource::Privatize => {
                let step = next - 1;
                match session.gradient_digest(step) {
                    Some(digest) => self.note(Act::Released { step, digest: digits(&digest) }, true),
                    None => self.binding(),
                }
            }
        }
    }

    /// Notes a state of what draws that the store has whole, once the session has come past it. Gives the one
    /// that it takes the place of. Call it under the session's lock.
    pub(crate) fn note_drawn(self: &Arc<Self>, next_step: u64) -> Option<Snapshot> {
        let (state, before) = self.rolling.take_written(next_step)?;
        let mut acts = Vec::new();
        if self.source == StoredSource::Gaussian {
            // The state is of use from here on.
            acts.push(Act::CameTo { step: next_step });
        }
        acts.push(Act::Drawn(state));
        self.note_all(acts, false);
        before
    }

    /// Notes an act. Answers that are given after it wait for it where it `binds`. Call it under the
    /// session's lock.
    pub(crate) fn note(self: &Arc<Self>, act: Act, binds: bool) -> Binding {
        self.note_all(vec![act], binds)
    }

    /// Notes acts that count together.
    fn note_all(self: &Arc<Self>, acts: Vec<Act>, binds: bool) -> Binding {
        let mut log = self.log();
        if let [Act::CameTo { .. }] = acts[..] {
            log.marked = Instant::now();
            // While the store is away, the last is enough.
            if let Some(Act::CameTo { .. }) = log.waiting.last() {
                log.waiting.pop();
            }
        }
        log.waiting.extend(acts);
        if binds {
            // The making of the session comes before all acts.
            log.binding = log.past.acts() + log.waiting.len() as u64 + 1;
        }
        self.write(&mut log);
        Binding(log.binding)
    }

    /// Has a task write what waits, unless one does.
    fn write(self: &Arc<Self>, log: &mut Log) {
        if log.is_writing || log.is_wanted || !log.is_made || log.waiting.is_empty() {
            return;
        }
        log.is_writing = true;
        let this = Arc::clone(self);
        self.runtime.spawn(async move { this.write_all().await });
    }

    async fn write_all(self: Arc<Self>) {
        let mut may_stop = true;
        while let Some(acts) = self.next_acts(may_stop) {
            let count = acts.acts.len() as u64;
            let acts = match self.commit(&acts).await {
                Ok(()) => acts.acts,
                Err(JournalError::Fenced) => {
                    self.lost.cancel();
                    self.log().is_writing = false;
                    return;
                }
                Err(error) => {
                    self.tell(&error);
                    tokio::time::sleep(RETRY_PAUSE).await;
                    may_stop = false;
                    continue;
                }
            };
            may_stop = true;
            let mut log = self.log();
            let first = log.past.acts();
            log.waiting.drain(..acts.len());
            // They were made here, one after the other.
            let _read = log.past.take(first, acts);
            log.told = false;
            self.durable.send_modify(|durable| *durable += count);
        }
    }

    /// What waits now; none where the task is to end.
    fn next_acts(&self, may_stop: bool) -> Option<Acts> {
        let mut log = self.log();
        if (log.is_wanted && may_stop) || log.waiting.is_empty() || self.lost.is_cancelled() {
            log.is_writing = false;
            return None;
        }
        let (session, owner) = (self.uid.clone(), log.owner);
        Some(Acts { session, owner, first: log.past.acts(), acts: log.waiting.clone() })
    }

    /// Has the acts that are in the journal be in an owner's object as well, which `make` makes with what it
    /// is given: the number and the past. `make` tells whether it made the object.
    pub(super) async fn fold(
        self: &Arc<Self>,
        make: impl AsyncFnOnce(u64, Past) -> Result<bool, ServiceError>,
    ) -> Result<(), ServiceError> {
        let mut owner = self.owner().await?;
        let started = Instant::now();
        let past = loop {
            // Whoever writes acts ends before the object is made that they would not be in.
            if let Some(past) = self.stop_writing() {
                break past;
            }
            if self.is_fenced() || started.elapsed() > PATIENCE {
                let mut log = self.log();
                log.is_wanted = false;
                self.write(&mut log);
                return Err(away());
            }
            tokio::time::sleep(WRITER_PAUSE).await;
        };
        let is_due = past.acts() > self.log().folded;
        let made = if is_due { make(*owner + 1, past).await } else { Ok(false) };
        let mut log = self.log();
        if let Ok(true) = made {
            *owner += 1;
            (log.owner, log.folded) = (*owner, log.past.acts());
        }
        (log.is_writing, log.is_wanted) = (false, false);
        self.write(&mut log);
        made.map(|_| ())
    }

    /// The number of this server's last object among those of the owners, which stays so while this is held.
    pub(super) async fn owner(&self) -> Result<tokio::sync::MutexGuard<'_, u64>, ServiceError> {
        tokio::time::timeout(PATIENCE, self.owner.lock()).await.map_err(|_| away())
    }

    /// Whether another server has fenced the journal.
    pub(super) fn is_fenced(&self) -> bool {
        self.journal.is_fenced()
    }

    /// Keeps acts from being written, where none are; gives what is durable.
    fn stop_writing(&self) -> Option<Past> {
        let mut log = self.log();
        log.is_wanted = true;
        if log.is_writing {
            return None;
        }
        log.is_writing = true;
        Some(log.past.clone())
    }

    async fn commit(&self, acts: &Acts) -> Result<(), JournalError> {
        let payload = encode(acts).map_err(JournalError::Store)?;
        self.journal.commit(payload).await.map(|_| ())
    }

    fn tell(&self, error: &JournalError) {
        if !std::mem::replace(&mut self.log().told, true) {
            tracing::error!(%error, uid = self.uid, "the store takes no records: answers wait for it");
        }
    }

    /// Waits until all that binds is durable.
    pub(crate) async fn wait(&self, binding: Binding) -> Result<(), ServiceError> {
        if *self.durable.borrow() >= binding.0 && !self.lost.is_cancelled() {
            return Ok(());
        }
        let mut durable = self.durable.subscribe();
        tokio::select! {
            biased;
            () = self.lost.cancelled() => Err(elsewhere()),
            is_durable = durable.wait_for(|&durable| durable >= binding.0) => {
                match is_durable {
                    Err(_) => Err(ServiceError::Internal),
                    Ok(_) if self.lost.is_cancelled() => Err(elsewhere()),
                    Ok(_) => Ok(()),
                }
            }
            () = tokio::time::sleep(PATIENCE) => Err(away()),
        }
    }

    /// The past of a session that is given up where `standing` says; `None` where one of its acts is not
    /// durable.
    pub(crate) fn handed_over(&self, standing: &Standing) -> Option<Past> {
        let log = self.log();
        let mut past = log.waiting.is_empty().then(|| log.past.clone())?;
        past.hand_over(standing);
        Some(past)
    }

    /// The past of a session that is about to be made.
    pub(crate) fn beginning(&self) -> Past {
        self.log().past.clone()
    }

    /// The journal that acts are told to.
    pub(crate) fn journal_id(&self) -> &str {
        self.journal.id().as_str()
    }

    /// Whether the state before a step is to be stored, where a run `ended` the step before.
    pub(crate) fn state_is_due(&self, next_step: u64, ended: bool) -> Due {
        match self.source {
            StoredSource::Input => self.pace().due(next_step, ended),
            StoredSource::Gaussian | StoredSource::Privatize => Due::No,
        }
    }

    /// Whether the state before a step is still to be stored.
    pub(crate) fn lacks_state(&self, next_step: u64) -> bool {
        self.source == StoredSource::Input && next_step > 0 && !self.pace().has(next_step)
    }

    /// Storing a state has ended, one way or the other.
    pub(crate) fn state_was_tried(&self) {
        self.pace().ended();
    }

    pub(super) fn pace(&self) -> MutexGuard<'_, Pace> {
        self.pace.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that the session went back, and the state that it has now where that is the only copy. Call it
    /// under the session's lock.
    pub(crate) fn note_rewind(
        self: &Arc<Self>,
        rewind: Rewind,
        asked: u64,
        state: Option<Snapshot>,
    ) -> Binding {
        let Rewind { from_step, to_step, unix_seconds, allow_divergence } = rewind;
        self.pace().rewound(state.as_ref().map(|state| state.step));
        let mut acts = vec![Act::Rewound { from_step, to_step, asked, unix_seconds, allow_divergence }];
        acts.extend(state.map(Act::Stored));
        self.note_all(acts, true)
    }

    /// Notes a state that was written, since `started`. Call it under the session's lock.
    pub(crate) fn note_state(self: &Arc<Self>, state: Snapshot, started: Instant, binds: bool) -> Binding {
        self.pace().note(state.step, started.elapsed());
        self.note(Act::Stored(state), binds)
    }

    /// The state that is stored, where one is.
    pub(crate) fn snapshot(&self) -> Option<Snapshot> {
        self.log().past.snapshot().cloned()
    }

    /// What waits for all acts, binding or not.
    pub(crate) fn all(&self) -> Binding {
        let log = self.log();
        Binding(log.past.acts() + log.waiting.len() as u64 + 1)
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        // Each call leaves it whole.
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn away() -> ServiceError {
    ServiceError::StoreUnavailable {
        fault: "the store takes no records now, and an answer waits for its record".into(),
        retry_after: RETRY_AFTER,
    }
}

/// What clients of a session are told that another server has taken.
pub(crate) fn elsewhere() -> ServiceError {
    ServiceError::StoreUnavailable {
        fault: "another server with the same store has taken the session over".into(),
        retry_after: RETRY_AFTER,
    }
}
