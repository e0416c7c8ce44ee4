//! When a call is tried again, and how long it waits before that.

use std::time::{Duration, Instant};

use crate::error::{Error, Result};

/// How a call that met a fault of the connection, or a server that is not ready or too busy, is tried again.
///
/// Only calls whose repetition is harmless are tried again: a step is, since a session answers a repeated
/// step with the same bytes. A refusal (a wrong step, a bad field) is never tried again. What the server says
/// about when to come back is respected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Give up where the next attempt would start later than this after the first failed, or after it began
    /// where no server was there, or none that spoke. Zero: never try again. A stream that makes progress
    /// starts counting anew.
    pub max_elapsed: Duration,
    /// The longest wait before the second attempt; it doubles with each further one.
    pub initial_backoff: Duration,
    /// The longest wait at all.
    pub max_backoff: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            max_elapsed: Duration::from_secs(60),
            initial_backoff: Duration::from_millis(50),
            max_backoff: Duration::from_secs(5),
        }
    }
}

impl RetryPolicy {
    /// Never tries again.
    pub const NEVER: Self =
        Self { max_elapsed: Duration::ZERO, initial_backoff: Duration::ZERO, max_backoff: Duration::ZERO };

    /// The longest wait after the attempt with this number, from 0.
    fn ceiling(&self, attempt: u32) -> Duration {
        let doubled = 2_u32.checked_pow(attempt).and_then(|factor| self.initial_backoff.checked_mul(factor));
        doubled.unwrap_or(self.max_backoff).min(self.max_backoff)
    }
}

/// The failed attempts at one thing.
#[derive(Debug)]
pub(crate) struct Attempts {
    policy: RetryPolicy,
    /// When the attempt under way began.
    begun: Instant,
    /// What the time for retries is counted from.
    since: Option<Instant>,
    failures: u32,
}

impl Attempts {
    pub(crate) fn new(policy: RetryPolicy) -> Self {
        Self { policy, begun: Instant::now(), since: None, failures: 0 }
    }

    /// Waits until the next attempt is due, or gives the error back where there shall be none.
    pub(crate) async fn pause(&mut self, error: Error) -> Result<()> {
        self.pause_at_most(Duration::MAX, error).await
    }

    /// The same for a wait that is no longer than `most`.
    pub(crate) async fn pause_at_most(&mut self, most: Duration, error: Error) -> Result<()> {
        let Some(wait) = self.next_wait(&error, Instant::now()) else { return Err(error) };
        let wait = wait.min(most);
        tracing::warn!("attempt {} has failed, the next is in {wait:.1?}: {error}", self.failures);
        tokio::time::sleep(wait).await;
        self.begun = Instant::now();
        Ok(())
    }

    /// Takes note of an attempt that failed, after which another server is asked at once.
    pub(crate) fn hop(&mut self) {
        self.since.get_or_insert(self.begun);
    }

    /// Takes note of an attempt that did not fail.
    pub(crate) fn succeeded(&self) {
        if let Some(started) = self.since {
            tracing::info!("goes on after {} failed attempts, {:.1?}", self.failures, started.elapsed());
        }
    }

    fn next_wait(&mut self, error: &Error, now: Instant) -> Option<Duration> {
        if !error.is_retryable() {
            return None;
        }
        // An attempt that found no server has been waiting for one since it began; one that broke off may
        // have computed.
        let found_nobody = matches!(error, Error::Unavailable { retry_after: None, .. });
        let failed = if found_nobody { self.begun } else { now };
        let started = *self.since.get_or_insert(failed);
        let ceiling = self.policy.ceiling(self.failures);
        self.failures += 1;
        // Workers that lost the same server must not come back in step: the upper half of the wait is random.
        let wait = ceiling.mul_f64(0.5 + 0.5 * fastrand::f64()).max(error.retry_after().unwrap_or_default());
        (now.duration_since(started) + wait < self.policy.max_elapsed).then_some(wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unavailable(retry_after: Option<Duration>) -> Error {
        Error::Unavailable { message: "draining".into(), retry_after }
    }

    #[test]
    fn waits_double_up_to_the_longest_and_end_with_the_budget() {
        let policy = RetryPolicy {
            max_elapsed: Duration::from_secs(10),
            initial_backoff: Duration::from_millis(100),
            max_backoff: Duration::from_millis(350),
        };
        let mut attempts = Attempts::new(policy);
        let start = Instant::now();
        for ceiling in [100, 200, 350, 350] {
            let wait = attempts.next_wait(&unavailable(None), start).unwrap();
            let ceiling = Duration::from_millis(ceiling);
            assert!(ceiling / 2 <= wait && wait <= ceiling, "{wait:?} of {ceiling:?}");
        }
        assert_eq!(attempts.next_wait(&unavailable(None), start + Duration::from_secs(10)), None);
    }

    #[test]
    fn waiting_for_a_server_that_is_silent_is_part_of_the_time() {
        let policy = RetryPolicy { max_elapsed: Duration::from_secs(5), ..RetryPolicy::default() };
        let mut silent = Attempts::new(policy);
        let later = silent.begun + Duration::from_secs(5);
        assert_eq!(silent.next_wait(&unavailable(None), later), None);
        // A call that was under way for long is tried again.
        let broken = Error::Transport { message: "cut".into() };
        assert!(Attempts::new(policy).next_wait(&broken, later).is_some());
    }

    #[test]
    fn the_servers_wish_is_respected() {
        let mut attempts = Attempts::new(RetryPolicy::default());
        let wish = Duration::from_secs(30);
        assert_eq!(attempts.next_wait(&unavailable(Some(wish)), Instant::now()), Some(wish));
    }

    #[test]
    fn refusals_are_final() {
        let mut attempts = Attempts::new(RetryPolicy::default());
        let refusal = Error::WrongStep { requested: 3, expected: 4 };
        assert_eq!(attempts.next_wait(&refusal, Instant::now()), None);
        assert_eq!(Attempts::new(RetryPolicy::NEVER).next_wait(&unavailable(None), Instant::now()), None);
    }

    #[test]
    fn many_failures_do_not_overflow() {
        assert_eq!(RetryPolicy::default().ceiling(u32::MAX), Duration::from_secs(5));
    }
}
