//! States of sessions whose noise is drawn, put away beside their steps.
//!
//! Such a state can be computed again from step 0, so nothing waits for it; a stored one makes that short.
//! After each pass of the drawer one part of the state is copied while the drawer is locked anyhow, and a
//! task writes it. So the parts stand at different steps. The state counts once the session has come past
//! all of them: nobody may ask for an earlier step then.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use noised::session::NoiseDrawer;
use noised_store::{SealedStore, StoreError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::objects::state_object;
use super::past::Snapshot;
use super::snapshots::{MOST_OF_THE_TIME, PART_BYTES, PARTS_AHEAD, delete_state};
use crate::config::SnapshotEvery;

/// Parts of states that are in memory at once, all sessions together.
pub(super) const PARTS_AT_ONCE: usize = 8;

/// What storing a state takes before one was stored: so long, and as long as at so many bytes a second.
const FIRST_GUESS: (Duration, u64) = (Duration::from_millis(5), 200_000_000);

/// The stored states of one session.
#[derive(Debug)]
pub(crate) struct Rolling {
    every: SnapshotEvery,
    course: Mutex<Course>,
}

#[derive(Debug)]
struct Course {
    /// When the last state was begun or given up, and at which step.
    last: Instant,
    last_step: Option<u64>,
    /// How long the drawer has drawn since.
    drew: Duration,
    /// What storing the last one took.
    took: Option<Duration>,
    under_way: Option<UnderWay>,
    /// A whole state that does not count yet.
    written: Option<Snapshot>,
    /// The one that counts.
    noted: Option<Snapshot>,
}

/// A state of which some parts are put away.
#[derive(Debug)]
struct UnderWay {
    next_tile: usize,
    latest: u64,
    parts: mpsc::Sender<Part>,
}

/// A part of a state, on its way to the store.
#[derive(Debug)]
struct Part {
    bytes: Bytes,
    /// In the last part, the step of the whole state.
    whole: Option<u64>,
    _room: OwnedSemaphorePermit,
}

/// A state that has begun.
#[derive(Debug)]
pub(crate) struct Begun(mpsc::Receiver<Part>);

impl Rolling {
    /// `noted` is the state that the store has.
    pub(super) fn new(every: SnapshotEvery, noted: Option<Snapshot>) -> Self {
        let last_step = noted.as_ref().map(|state| state.step);
        let course = Course {
            last: Instant::now(),
            last_step,
            drew: Duration::ZERO,
            took: None,
            under_way: None,
            written: None,
            noted,
        };
        Self { every, course: Mutex::new(course) }
    }

    /// A pass of the drawer has ended, which took `drew`. Puts the next part of a state away, where there is
    /// room for it. Gives a state that begins.
    pub(super) fn after_pass(
        &self,
        drawer: &NoiseDrawer,
        drew: Duration,
        room: &Arc<Semaphore>,
    ) -> Option<Begun> {
        let mut course = self.course();
        course.drew += drew;
        let mut begun = None;
        if course.under_way.is_none() && self.is_due(&course, drawer) {
            let (parts, queue) = mpsc::channel(PARTS_AHEAD);
            (course.last, course.last_step) = (Instant::now(), Some(drawer.next_step()));
            course.drew = Duration::ZERO;
            course.under_way = Some(UnderWay { next_tile: 0, latest: 0, parts });
            begun = Some(Begun(queue));
        }
        if course.under_way.as_mut().is_some_and(|state| state.put_away(drawer, room)) {
            course.under_way = None;
        }
        begun
    }

    fn is_due(&self, course: &Course, drawer: &NoiseDrawer) -> bool {
        let bytes = drawer.state_tiles() as u64 * drawer.tile_state_bytes() as u64;
        if bytes == 0 || course.written.is_some() {
            return false;
        }
        match self.every {
            SnapshotEvery::Steps(steps) => {
                // After going back, the drawer is before the last state.
                let last = course.last_step.filter(|&last| last <= drawer.next_step()).unwrap_or_default();
                drawer.next_step() >= last.saturating_add(steps)
            }
            SnapshotEvery::Time(time) => {
                let (least, a_second) = FIRST_GUESS;
                let guess = || least + Duration::from_secs_f64(bytes as f64 / a_second as f64);
                let took = course.took.unwrap_or_else(guess);
                course.last.elapsed() >= time && course.drew >= took.saturating_mul(MOST_OF_THE_TIME)
            }
        }
    }

    /// A state that the store has whole, and that counts once the session has come to `next_step`; with it
    /// the one that counted before.
    pub(super) fn take_written(&self, next_step: u64) -> Option<(Snapshot, Option<Snapshot>)> {
        let mut course = self.course();
        let written = course.written.take_if(|written| written.step < next_step)?;
        let before = course.noted.replace(written.clone());
        Some((written, before))
    }

    /// Writes a state that has begun, with the name of this session. One of which a part cannot be written,
    /// or does not come, is deleted.
    ///
    /// `lost` fires where the session is this server's no more.
    pub(super) async fn write(
        &self,
        begun: Begun,
        store: &SealedStore,
        place: (&str, &str),
        lost: &CancellationToken,
    ) {
        let Begun(mut parts) = begun;
        let id = Uuid::new_v4().simple().to_string();
        let mut state = Snapshot { id, step: 0, parts: 0 };
        let mut spent = Duration::ZERO;
        let mut is_whole = false;
        while let Some(Some(Part { bytes, whole, _room })) = lost.run_until_cancelled(parts.recv()).await {
            let started = Instant::now();
            let name = state_object(place.0, place.1, &state.id, state.parts);
            if let Err(error) = store.create(&name, bytes).await {
                tell(&name, &error);
                break;
            }
            spent += started.elapsed();
            state.parts += 1;
            if let Some(step) = whole {
                (state.step, is_whole) = (step, true);
            }
        }
        // Whoever puts parts away sees that nobody takes them.
        drop(parts);
        if is_whole {
            let mut course = self.course();
            (course.took, course.written) = (Some(spent), Some(state));
        } else {
            delete_state(store, place, &state).await;
        }
    }

    /// Gives up what does not count yet: nothing more will be noted of the session.
    pub(super) fn abandon(&self) -> Option<Snapshot> {
        let mut course = self.course();
        course.under_way = None;
        course.written.take()
    }

    fn course(&self) -> MutexGuard<'_, Course> {
        // Each call leaves it whole.
        self.course.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl UnderWay {
    /// Puts the next part away, unless the last ones are still on their way. Tells whether the state is at an
    /// end.
    fn put_away(&mut self, drawer: &NoiseDrawer, room: &Arc<Semaphore>) -> bool {
        let Ok(in_memory) = Arc::clone(room).try_acquire_owned() else { return false };
        let place = match self.parts.try_reserve() {
            Ok(room) => room,
            Err(mpsc::error::TrySendError::Full(())) => return false,
            Err(mpsc::error::TrySendError::Closed(())) => return true,
        };
        let end = self.next_tile + (PART_BYTES / drawer.tile_state_bytes().max(1)).max(1);
        let bytes = Bytes::from(drawer.state_of_tiles(self.next_tile..end));
        self.latest = self.latest.max(drawer.next_step());
        self.next_tile = end;
        let is_last = end >= drawer.state_tiles();
        place.send(Part { bytes, whole: is_last.then_some(self.latest), _room: in_memory });
        is_last
    }
}

fn tell(name: &str, error: &StoreError) {
    tracing::warn!(%error, name, "the state of a session was not stored: it is tried again later");
}
