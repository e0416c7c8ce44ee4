//! When a session was last used.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The last use of a session: for people by the calendar, and for the server by a clock that nobody sets
/// back.
#[derive(Debug)]
pub(crate) struct LastUse(Mutex<Moment>);

#[derive(Clone, Copy, Debug)]
struct Moment {
    instant: Instant,
    unix_seconds: u64,
}

impl Moment {
    fn now() -> Self {
        let unix_seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        Self { instant: Instant::now(), unix_seconds }
    }
}

impl LastUse {
    /// The use that makes a session.
    pub(crate) fn now() -> Self {
        Self(Mutex::new(Moment::now()))
    }

    /// Notes that the session is used now.
    pub(crate) fn note(&self) {
        *self.moment() = Moment::now();
    }

    /// How long ago the last use was.
    pub(crate) fn idle_time(&self) -> Duration {
        self.moment().instant.elapsed()
    }

    /// When the last use was, in seconds since 1970-01-01 UTC.
    pub(crate) fn unix_seconds(&self) -> u64 {
        self.moment().unix_seconds
    }

    fn moment(&self) -> MutexGuard<'_, Moment> {
        // Plain numbers are whole whatever happened to the thread that wrote them.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
