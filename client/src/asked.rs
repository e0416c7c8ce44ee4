//! Which steps of drawn noise a handle asked for itself.
//!
//! A session releases the noise of a step once, and repeats it when it is asked again. Two trainers that ask
//! for the same steps would put one noise under two gradients, and the difference of their gradients would be
//! bare. The only sign is the mark `replay` on an answer to a request that the handle never sent before.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use noised::session::Source;

use crate::error::{Error, Result};
use crate::info::SessionInfo;

/// The steps that may come as a replay. A session's handle and its streams share it.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    /// Of other sources every answer is checked against the bytes that the handle sent: a replay is of the
    /// same request.
    is_drawn: bool,
    steps: Arc<Mutex<Steps>>,
}

#[derive(Debug, Default)]
struct Steps {
    /// Steps before this one may come as a replay: the handle had them or may have had them, or they were
    /// released before the handle took the session up.
    own: u64,
    /// The end of the steps that the attempt under way asks for.
    asked: u64,
}

impl Asked {
    pub(crate) fn new(source: &Source, info: &SessionInfo) -> Self {
        let asked = Self { is_drawn: matches!(source, Source::Gaussian(_)), steps: Arc::default() };
        asked.take_up(info);
        asked
    }

    /// Goes on with a session that stands so: an explicit act, after which all released steps may be asked
    /// for again.
    pub(crate) fn take_up(&self, info: &SessionInfo) {
        let begun = info.next_step + u64::from(info.next_offset > 0);
        // A server that does not tell how far the session ever came may have taken it back: of such a
        // session, only the first step that is no replay tells where new noise begins.
        self.take_up_to(if info.released_steps < begun { u64::MAX } else { info.released_steps });
    }

    /// The same with a session that released the steps before `end`.
    pub(crate) fn take_up_to(&self, end: u64) {
        let mut steps = self.steps();
        steps.own = steps.own.max(end);
    }

    /// A new attempt: the one before may have been answered, whatever came of the answer.
    pub(crate) fn begin(&self) {
        let mut steps = self.steps();
        steps.own = steps.own.max(steps.asked);
    }

    /// Notes that a step is asked for.
    pub(crate) fn note(&self, step: u64) {
        let mut steps = self.steps();
        steps.asked = steps.asked.max(step.saturating_add(1));
    }

    /// Notes how the attempt ended. A step that was refused was not released to this handle.
    pub(crate) fn note_failure(&self, error: &Error) {
        if error.is_refusal() {
            let mut steps = self.steps();
            steps.asked = steps.own;
        }
    }

    /// Checks an answer before anybody sees it.
    ///
    /// # Errors
    /// [`Error::TakenByAnother`] where the step was released to another handle, and each time that it is
    /// asked for again.
    pub(crate) fn check(&self, step: u64, replay: bool) -> Result<()> {
        let mut steps = self.steps();
        if self.is_drawn && replay && step >= steps.own {
            steps.asked = steps.own;
            return Err(Error::TakenByAnother { requested: step });
        }
        let end = step.saturating_add(1);
        steps.own = if steps.own == u64::MAX && !replay { end } else { steps.own.max(end) };
        Ok(())
    }

    fn steps(&self) -> MutexGuard<'_, Steps> {
        // Two numbers are whole whatever happened to a thread that had them.
        self.steps.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use noised::session::{KeyOrigin, Noise};

    use super::*;

    fn asked(source: &Source) -> Asked {
        Asked { is_drawn: matches!(source, Source::Gaussian(_)), steps: Arc::default() }
    }

    fn drawn() -> Asked {
        asked(&Source::Gaussian(Noise { stddev: 1.0, key: KeyOrigin::Fresh }))
    }

    fn attempt(asked: &Asked, step: u64) {
        asked.begin();
        asked.note(step);
    }

    const TAKEN: Result<()> = Err(Error::TakenByAnother { requested: 3 });

    #[test]
    fn a_replay_that_was_not_asked_for_is_refused_again_and_again() {
        let asked = drawn();
        attempt(&asked, 2);
        assert_eq!(asked.check(2, false), Ok(()));
        for _ in 0..3 {
            attempt(&asked, 3);
            assert_eq!(asked.check(3, true), TAKEN);
        }
        // Steps of its own come again.
        attempt(&asked, 2);
        assert_eq!(asked.check(2, true), Ok(()));
        asked.take_up_to(4);
        attempt(&asked, 3);
        assert_eq!(asked.check(3, true), Ok(()));
        attempt(&asked, 4);
        assert_eq!(asked.check(4, true), Err(Error::TakenByAnother { requested: 4 }));
    }

    #[test]
    fn a_step_whose_answer_was_lost_comes_again() {
        let asked = drawn();
        attempt(&asked, 3);
        asked.note_failure(&Error::Transport { message: "cut".into() });
        attempt(&asked, 3);
        assert_eq!(asked.check(3, true), Ok(()));
    }

    #[test]
    fn a_refusal_released_nothing() {
        let asked = drawn();
        attempt(&asked, 7);
        asked.note_failure(&Error::WrongStep { requested: 7, expected: 3 });
        attempt(&asked, 3);
        assert_eq!(asked.check(3, true), TAKEN);
    }

    #[test]
    fn what_was_sent_as_well_is_the_same_request() {
        let noise = Noise { stddev: 1.0, key: KeyOrigin::Fresh };
        for source in [Source::Input, Source::Privatize { noise, answer_dtype: None }] {
            assert_eq!(asked(&source).check(3, true), Ok(()));
        }
    }
}
