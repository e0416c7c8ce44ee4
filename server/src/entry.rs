//! A session on a server: its two halves behind their locks, and the memory promised to it.
//!
//! Locks are async ones and are taken before the compute pool is entered; where both halves are wanted, the
//! drawer's comes first. What changes a session runs to its end on the pool or on a task of its own, whether
//! or not anybody waits.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use noised::Error;
use noised::limits::TILE_LANES;
use noised::noise::{KeyCheck, StepProof};
use noised::session::{
    AnySession, NoiseDrawer, NoiseOptions, Outcome, OutputChunk, ResolvedSpec, Source, Standing, WhenFull,
};
use noised_proto::ServiceError;
use tokio::sync::{OwnedMappedMutexGuard, OwnedMutexGuard};
use tokio_util::sync::CancellationToken;

use crate::compute::Compute;
use crate::durable::{
    Binding, Due, Durable, Snapshot, Stored, StoredSource, delete_state, elsewhere, told, write_state,
};
use crate::identity::SessionKey;
use crate::last_use::LastUse;
use crate::ledger::Claim;
use crate::registry::{Memory, Reservation};

/// Lanes times planes that an async thread works through by itself: some microseconds in cache, and some tens
/// from memory, which is what handing it to another thread and back takes.
pub(crate) const INLINE_WORK: usize = 128 * TILE_LANES;

/// A session and where it stands.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) key: SessionKey,
    /// Whether the client chose the name, so that somebody may come back to the session.
    pub(crate) named: bool,
    pub(crate) last_use: LastUse,
    /// Of the request that made it; empty where that said nothing.
    pub(crate) request_id: String,
    pub(crate) resolved: Arc<ResolvedSpec>,
    /// Fires when the session is deleted.
    pub(crate) deleted: CancellationToken,
    /// Where the server draws.
    pub(crate) noise: Option<NoiseHalf>,
    pub(crate) session: Arc<tokio::sync::Mutex<AnySession>>,
    pub(crate) memory: Arc<Memory>,
    pub(crate) progress: Mutex<Progress>,
    /// Gives the memory back when the last holder of the entry is gone.
    pub(crate) reservation: Reservation,
    /// Memory of kept states, one for each; and of a gradient that is held back, where the session went back.
    pub(crate) kept_memory: Mutex<Vec<Reservation>>,
    pub(crate) held_memory: Mutex<Option<Reservation>>,
    /// Its place in a store, where sessions are kept.
    pub(crate) stored: Option<StoredHere>,
}

/// A session's place in a store, and the store.
#[derive(Clone, Debug)]
pub(crate) struct StoredHere {
    pub(crate) stored: Arc<Stored>,
    pub(crate) durable: Arc<Durable>,
}

/// The half of a session that draws, locked.
pub(crate) type DrawerGuard = OwnedMappedMutexGuard<Option<NoiseDrawer>, NoiseDrawer>;

/// The half of a session that draws.
#[derive(Debug)]
pub(crate) struct NoiseHalf {
    /// It has the key, and is gone when the session is deleted, whoever still holds the entry.
    pub(crate) drawer: Arc<tokio::sync::Mutex<Option<NoiseDrawer>>>,
    pub(crate) options: NoiseOptions,
    /// Whether the drawer broke off in the middle of its work, so that its state is not to be trusted.
    /// Whoever holds the drawer sets it while it works: a panic leaves it set.
    pub(crate) broken: AtomicBool,
    /// Whether a task is drawing ahead. Where there is enough, cleared under the lock of the answering half.
    pub(crate) drawing_ahead: AtomicBool,
    pub(crate) key_check: KeyCheck,
    pub(crate) started_over: bool,
    /// Of a `noise_id`, until the session is at an end.
    pub(crate) claim: Mutex<Option<Claim>>,
}

impl StoredHere {
    /// Writes the state of a session, which is held meanwhile.
    pub(crate) async fn write_state(
        &self,
        session: OwnedMutexGuard<AnySession>,
    ) -> Result<(OwnedMutexGuard<AnySession>, Snapshot), ServiceError> {
        write_state(self.durable.store(), self.stored.place(), session).await.map_err(told)
    }

    /// A pass of the session's drawer has ended, which took `drew`. Call it under the drawer's lock.
    pub(crate) fn roll(&self, drawer: &NoiseDrawer, drew: Duration) {
        self.durable.roll(&self.stored, drawer, drew);
    }

    /// Checks, where this server stood still for longer than its lease, that the session is still its own:
    /// noise that is drawn again, and a client's own input, need no record that would fail.
    async fn check_lease(&self) -> Result<(), ServiceError> {
        if self.durable.lease_has_run_out() {
            let checked = self.durable.check_ours(&self.stored).await;
            // A store that does not answer says nothing about it.
            checked.or_else(|error| if self.stored.lost.is_cancelled() { Err(error) } else { Ok(()) })?;
        }
        Ok(())
    }

    /// Deletes a state once all that is noted now is stored.
    pub(crate) fn delete_later(&self, state: Option<Snapshot>) {
        let Some(state) = state else { return };
        let Self { stored, durable } = self.clone();
        // A step of a large session ends on a thread of the pool, which has no runtime of its own.
        let runtime = stored.runtime().clone();
        runtime.spawn(async move {
            if stored.wait(stored.all()).await.is_ok() {
                delete_state(durable.store(), stored.place(), &state).await;
            }
        });
    }
}

/// What came of a run, and what its answer rests on where the session is stored.
struct Applied {
    outcome: Outcome,
    rests_on: Option<RestsOn>,
}

/// What has to be stored before an answer leaves.
#[derive(Clone, Copy)]
struct RestsOn {
    binding: Binding,
    next_step: u64,
    /// Whether the run ended a step.
    ended: bool,
}

impl NoiseHalf {
    pub(crate) fn new(
        drawer: NoiseDrawer,
        options: NoiseOptions,
        key_check: KeyCheck,
        claim: Option<Claim>,
        started_over: bool,
    ) -> Self {
        Self {
            drawer: Arc::new(tokio::sync::Mutex::new(Some(drawer))),
            options,
            broken: AtomicBool::new(false),
            drawing_ahead: AtomicBool::new(false),
            key_check,
            started_over,
            claim: Mutex::new(claim),
        }
    }
}

/// Where a session stands, readable while it computes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    pub(crate) standing: Standing,
    /// A computation broke off in the middle, so the state is not to be trusted.
    pub(crate) damaged: bool,
}

impl Entry {
    /// Whether the request of that id made it.
    pub(crate) fn is_made_by(&self, request_id: &str) -> bool {
        !request_id.is_empty() && self.request_id == request_id
    }

    /// Whether a step is asked for without a payload.
    pub(crate) fn draws_all(&self) -> bool {
        matches!(self.resolved.spec().source, Source::Gaussian(_))
    }

    /// Applies a run of whole tiles of a step: on the compute threads, or here where it is tiny.
    pub(crate) async fn apply(
        self: &Arc<Self>,
        compute: &Arc<Compute>,
        step: u64,
        offset: usize,
        pieces: Vec<Bytes>,
    ) -> Result<Vec<OutputChunk>, ServiceError> {
        let applied = self.apply_here(compute, step, offset, pieces).await;
        self.told_as_owner(applied).await
    }

    /// Gives an answer, and a refusal only where the session is still this server's: one that was taken may
    /// stand elsewhere by now.
    pub(crate) async fn told_as_owner<T>(&self, told: Result<T, ServiceError>) -> Result<T, ServiceError> {
        if let (Err(ServiceError::Core(_)), Some(StoredHere { stored, durable })) = (&told, &self.stored) {
            durable.check_ours(stored).await?;
        }
        told
    }

    async fn apply_here(
        self: &Arc<Self>,
        compute: &Arc<Compute>,
        step: u64,
        offset: usize,
        pieces: Vec<Bytes>,
    ) -> Result<Vec<OutputChunk>, ServiceError> {
        let bytes: usize = pieces.iter().map(Bytes::len).sum();
        let layout = self.resolved.input_layout();
        let lane = |byte: usize| layout.lane_of_byte(byte.min(layout.byte_len())).unwrap_or(layout.lanes());
        let lanes = lane(offset.saturating_add(bytes)).saturating_sub(lane(offset));
        let ends = offset.saturating_add(bytes) == layout.byte_len();
        // Where steps are taken as a whole, the last run has all of them done.
        let lanes = if ends && self.takes_whole_steps() { layout.lanes() } else { lanes };
        // Gradient, noise and sum are planes as well, where there are three of them.
        let work = lanes * (self.resolved.plan().planes() + 3);
        loop {
            let mut session = self.lock().await?;
            let outcome = if work <= INLINE_WORK {
                let applied = self.apply_locked(&mut session, step, offset, &pieces);
                // Whoever draws what is missing needs the lock.
                drop(session);
                applied
            } else {
                let (entry, pieces) = (Arc::clone(self), pieces.clone());
                let applied =
                    compute.run(move || entry.apply_locked(&mut session, step, offset, &pieces)).await;
                if self.deleted.is_cancelled() {
                    return Err(self.not_found());
                }
                applied.unwrap_or_else(|broken| {
                    tracing::error!(
                        session = %self.key,
                        step,
                        "a computation panicked; the session is damaged"
                    );
                    Err(broken)
                })
            };
            let Applied { outcome, rests_on } = outcome?;
            match outcome {
                Outcome::Answer(chunks) => {
                    self.draw_ahead(compute);
                    self.until_stored(rests_on).await?;
                    return Ok(chunks);
                }
                Outcome::NeedsNoise => self.draw_next(compute).await?,
            }
        }
    }

    fn apply_locked(
        &self,
        session: &mut AnySession,
        step: u64,
        offset: usize,
        pieces: &[Bytes],
    ) -> Result<Applied, ServiceError> {
        // A panic leaves the mark, whether or not anybody waits for the answer. Who reads it holds the
        // session's lock.
        self.progress().damaged = true;
        let before = session.next_step();
        let applied = session.take(step, offset, pieces);
        self.note(session);
        let outcome = applied?;
        Ok(Applied { outcome, rests_on: self.note_stored(session, before) })
    }

    /// Tells the store what a step did that was taken from `before` on, and gives what its answer rests on.
    fn note_stored(&self, session: &AnySession, before: u64) -> Option<RestsOn> {
        let here = self.stored.as_ref()?;
        let binding = here.stored.note_step(session, before);
        here.delete_later(here.stored.note_drawn(session.next_step()));
        Some(RestsOn { binding, next_step: session.next_step(), ended: session.next_step() != before })
    }

    /// Waits until an answer may leave: until all is stored that it rests on.
    async fn until_stored(self: &Arc<Self>, rests_on: Option<RestsOn>) -> Result<(), ServiceError> {
        let Some((here, rests_on)) = self.stored.as_ref().zip(rests_on) else { return Ok(()) };
        let RestsOn { mut binding, next_step, ended } = rests_on;
        match here.stored.state_is_due(next_step, ended) {
            Due::No => {}
            Due::Beside => {
                let entry = Arc::clone(self);
                tokio::spawn(async move {
                    if let Err(error) = entry.store_state(false).await {
                        tracing::error!(session = %entry.key, %error, "the state was not stored");
                    }
                });
            }
            Due::Before => binding = self.store_state(true).await?.unwrap_or(binding),
        }
        here.check_lease().await?;
        here.stored.wait(binding).await
    }

    /// Stores the state of a session of the client's input, as it is once the session is free. Answers wait
    /// for that where it `binds`. What was stored before is deleted once the new state counts.
    async fn store_state(&self, binds: bool) -> Result<Option<Binding>, ServiceError> {
        let Some(here) = &self.stored else { return Ok(None) };
        let started = Instant::now();
        let written = match self.lock().await {
            Ok(session) => here.write_state(session).await,
            Err(error) => Err(error),
        };
        here.stored.state_was_tried();
        let (session, state) = written?;
        let before = here.stored.snapshot();
        let binding = here.stored.note_state(state, started, binds);
        drop(session);
        here.delete_later(before);
        Ok(Some(binding))
    }

    /// Whether nothing of a step is answered before all of its gradient has come.
    fn takes_whole_steps(&self) -> bool {
        self.stored.as_ref().is_some_and(|here| here.stored.source == StoredSource::Privatize)
    }

    /// A step of which all is drawn, from byte `offset` on.
    pub(crate) async fn fetch(
        self: &Arc<Self>,
        compute: &Arc<Compute>,
        step: u64,
        offset: usize,
    ) -> Result<Vec<OutputChunk>, ServiceError> {
        let fetched = self.fetch_here(compute, step, offset).await;
        self.told_as_owner(fetched).await
    }

    async fn fetch_here(
        self: &Arc<Self>,
        compute: &Arc<Compute>,
        step: u64,
        offset: usize,
    ) -> Result<Vec<OutputChunk>, ServiceError> {
        loop {
            let mut session = self.lock().await?;
            let before = session.next_step();
            let outcome = session.take(step, offset, &[])?;
            let wanted = session.wanted_steps() > 0;
            self.note(&session);
            let rests_on = self.note_stored(&session, before);
            drop(session);
            match outcome {
                Outcome::Answer(chunks) => {
                    if wanted {
                        self.draw_ahead(compute);
                    }
                    self.until_stored(rests_on).await?;
                    return Ok(chunks);
                }
                Outcome::NeedsNoise => self.draw_next(compute).await?,
            }
        }
    }

    /// Keeps the state of the step that comes next, or of the one before where its answer is held. There may
    /// be `most`. Gives what goes on with a noise at that step, where others may draw it as well.
    pub(crate) async fn keep_state(
        self: &Arc<Self>,
        compute: &Compute,
        step: u64,
        when_full: WhenFull,
        most: usize,
    ) -> Result<Option<StepProof>, ServiceError> {
        let drawer = self.lock_drawer().await?;
        let mut session = self.lock().await?;
        let entry = Arc::clone(self);
        let keep = move || {
            entry.keep_locked(drawer.as_deref(), &mut session, step, when_full, most)?;
            let source = &entry.resolved.spec().source;
            Ok(drawer.filter(|_| source.is_resumable()).map(|drawer| drawer.proof_of_step(step)))
        };
        compute.run(keep).await?
    }

    fn keep_locked(
        &self,
        drawer: Option<&NoiseDrawer>,
        session: &mut AnySession,
        step: u64,
        when_full: WhenFull,
        most: usize,
    ) -> Result<(), ServiceError> {
        let kept = session.standing().kept_steps;
        if !kept.contains(&step) && kept.len() < most {
            let promised = self.memory.reserve(session.kept_state_bytes(drawer)?)?;
            self.kept_memory().push(promised);
        }
        let done = session.keep_state(step, drawer, when_full, most);
        // Copying a state takes a while: nobody who asks how the session stands waits for that.
        self.note_all(session);
        Ok(done?)
    }

    /// Notes where the session stands, for whoever asks.
    pub(crate) fn note(&self, session: &AnySession) {
        let mut progress = self.progress();
        session.note_step(&mut progress.standing);
        progress.damaged = false;
    }

    /// Notes kept states and acts of going back as well, and frees the memory of states that are no longer
    /// kept.
    pub(crate) fn note_all(&self, session: &AnySession) {
        let standing = session.standing();
        self.kept_memory().truncate(standing.kept_steps.len());
        *self.progress() = Progress { standing, damaged: false };
    }

    /// The answering half, unless the session is at an end.
    pub(crate) async fn lock(&self) -> Result<OwnedMutexGuard<AnySession>, ServiceError> {
        let session = Arc::clone(&self.session).lock_owned().await;
        if self.deleted.is_cancelled() || self.is_lost() {
            return Err(self.not_found());
        }
        if self.progress().damaged {
            return Err(Error::damaged("a step broke off in the middle of its computation").into());
        }
        Ok(session)
    }

    /// The drawing half, where there is one.
    pub(crate) async fn lock_drawer(&self) -> Result<Option<DrawerGuard>, ServiceError> {
        let Some(noise) = &self.noise else { return Ok(None) };
        let drawer = Arc::clone(&noise.drawer).lock_owned().await;
        let drawer = OwnedMutexGuard::try_map(drawer, Option::as_mut).map_err(|_| self.not_found())?;
        if noise.broken.load(Ordering::Acquire) {
            return Err(Error::damaged("the drawing of noise broke off in the middle").into());
        }
        Ok(Some(drawer))
    }

    /// Wipes the key, once the drawing that is under way is done. The session is deleted.
    pub(crate) async fn wipe_key(&self) {
        if let Some(noise) = &self.noise {
            drop(noise.drawer.lock().await.take());
        }
    }

    /// Has the drawer, which the caller holds, do its work.
    pub(crate) fn with_drawer<R>(
        &self,
        drawer: &mut NoiseDrawer,
        work: impl FnOnce(&mut NoiseDrawer) -> R,
    ) -> R {
        let broken = self.noise.as_ref().map(|noise| &noise.broken);
        let mark = |value| broken.iter().for_each(|broken| broken.store(value, Ordering::Release));
        mark(true);
        let done = work(drawer);
        mark(false);
        done
    }

    /// All that the session takes.
    pub(crate) fn memory_bytes(&self) -> u64 {
        let kept = self.kept_memory();
        let held = self.held_memory.lock().unwrap_or_else(PoisonError::into_inner);
        self.reservation.bytes()
            + kept.iter().map(Reservation::bytes).sum::<u64>()
            + held.as_ref().map_or(0, Reservation::bytes)
    }

    fn kept_memory(&self) -> MutexGuard<'_, Vec<Reservation>> {
        self.kept_memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn progress(&self) -> MutexGuard<'_, Progress> {
        // Plain numbers are whole whatever happened to the thread that wrote them.
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has others begin the noise from now on. Nothing more may be released of the session.
    pub(crate) fn end_claim(&self) {
        let Some(noise) = &self.noise else { return };
        let released = self.progress().standing.released_steps;
        if let Some(claim) = noise.claim.lock().unwrap_or_else(PoisonError::into_inner).take() {
            claim.end(released);
        }
    }

    /// Whether another server has taken the session, so that this one can store nothing of it.
    pub(crate) fn is_lost(&self) -> bool {
        self.stored.as_ref().is_some_and(|here| here.stored.lost.is_cancelled())
    }

    /// Has nothing more of it stored, and so no answer leave that would have to be.
    pub(crate) fn lose(&self) {
        if let Some(here) = &self.stored {
            here.stored.lost.cancel();
        }
    }

    pub(crate) fn not_found(&self) -> ServiceError {
        if self.is_lost() && !self.deleted.is_cancelled() {
            return elsewhere();
        }
        ServiceError::SessionNotFound { name: self.key.name.clone() }
    }
}

impl Drop for Entry {
    /// What was drawn of a noise is remembered longer than its session.
    fn drop(&mut self) {
        self.end_claim();
    }
}
