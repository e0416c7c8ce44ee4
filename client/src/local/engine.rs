//! The state of a session, both of its halves put to work in turn.

use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use noised::limits::MAX_STEPS_A_PASS;
use noised::noise::{NoiseKey, StepProof};
use noised::session::{
    KeyOrigin, NoiseDrawer, NoiseOptions, NoiseSession, Outcome, OutputChunk, ResolvedSpec, Session, Source,
    WhenFull,
};
use noised::{Error, Result};

use crate::info::SessionInfo;

/// The state of a session, whatever its source.
#[derive(Debug)]
pub(super) enum Engine {
    Input(Session),
    Drawn(Drawn),
}

/// Both halves of a session that draws.
#[derive(Debug)]
pub(super) struct Drawn {
    session: NoiseSession,
    drawer: NoiseDrawer,
}

/// An act of going back.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    pub(super) step: u64,
    pub(super) allow_divergence: bool,
    pub(super) unix_seconds: u64,
}

impl Engine {
    /// A session at step 0, or one that goes on at `first`; one that draws where there is something to draw with.
    pub(super) fn new(
        resolved: Arc<ResolvedSpec>,
        noise: Option<(NoiseKey, NoiseOptions)>,
        first: Option<u64>,
    ) -> Result<Self> {
        let Some((key, options)) = noise else {
            return Ok(Self::Input(Session::new(resolved)));
        };
        let (session, drawer) = match first {
            None => NoiseSession::new(resolved, key, options)?,
            Some(first) => NoiseSession::resumed(resolved, key, options, first)?,
        };
        Ok(Self::Drawn(Drawn { session, drawer }))
    }

    /// The answer to a whole step. `input` is empty where the source has none.
    pub(super) fn take(&mut self, step: u64, input: Bytes) -> Result<Vec<OutputChunk>> {
        match self {
            Self::Input(session) => session.apply(step, 0, &input),
            Self::Drawn(drawn) => drawn.take(step, &input),
        }
    }

    /// Bytes that one kept state takes at most.
    pub(super) fn kept_state_bytes(&self) -> u64 {
        match self {
            Self::Input(session) => session.kept_state_bytes(),
            Self::Drawn(Drawn { session, drawer }) => session.kept_state_bytes(drawer),
        }
    }

    pub(super) fn keep_state(&mut self, step: u64, when_full: WhenFull, most: usize) -> Result<()> {
        match self {
            Self::Input(session) => session.keep_state(step, when_full, most),
            Self::Drawn(Drawn { session, drawer }) => session.keep_state(step, drawer, when_full, most),
        }
    }

    /// Goes back. Where `on_progress` has it called off, the session stands where it has come to: at the step that is told.
    pub(super) fn rewind(
        &mut self,
        wanted: Wanted,
        mut on_progress: impl FnMut(u64, u64) -> ControlFlow<()>,
    ) -> Result<u64> {
        let steps = match self {
            Self::Input(session) => session.rewind(wanted.step, wanted.unix_seconds).map(|()| 0)?,
            Self::Drawn(drawn) => drawn.rewind(wanted, &mut on_progress)?,
        };
        let stands = self.next_step();
        if stands == wanted.step {
            // It is done: there is nothing left to be called off.
            let _done = on_progress(steps, steps);
        }
        Ok(stands)
    }

    /// What goes on with the noise at a step, where others may draw it as well.
    pub(super) fn proof_of_step(&self, step: u64) -> Option<StepProof> {
        let Self::Drawn(Drawn { session, drawer }) = self else { return None };
        match &session.resolved().spec().source {
            Source::Gaussian(noise) if matches!(noise.key, KeyOrigin::Derived { .. }) => {
                Some(drawer.proof_of_step(step))
            }
            _ => None,
        }
    }

    pub(super) fn next_step(&self) -> u64 {
        match self {
            Self::Input(session) => session.next_step(),
            Self::Drawn(drawn) => drawn.session.next_step(),
        }
    }

    /// Notes where the session stands.
    pub(super) fn note(&self, info: &mut SessionInfo) {
        let (offset, released) = match self {
            Self::Input(session) => (session.next_offset(), session.released_steps()),
            Self::Drawn(drawn) => (drawn.session.next_offset(), drawn.session.released_steps()),
        };
        info.next_step = self.next_step();
        info.next_offset = offset as u64;
        info.released_steps = released;
    }

    /// The same with what changes more rarely.
    pub(super) fn note_all(&self, info: &mut SessionInfo) {
        self.note(info);
        let own_bytes;
        (info.kept_steps, (info.rewinds, info.rewind_count), own_bytes) = match self {
            Self::Input(session) => {
                (session.kept_steps(), session.rewinds(), session.resolved().cost().total())
            }
            Self::Drawn(Drawn { session, .. }) => {
                let cost = session.resolved().cost_with(session.options());
                (session.kept_steps(), session.rewinds(), cost.total())
            }
        };
        let kept_bytes = self.kept_state_bytes().saturating_mul(info.kept_steps.len() as u64);
        info.memory_bytes = own_bytes.saturating_add(kept_bytes);
    }
}

impl Drawn {
    fn take(&mut self, step: u64, input: &Bytes) -> Result<Vec<OutputChunk>> {
        let Self { session, drawer } = self;
        let is_gaussian = matches!(session.resolved().spec().source, Source::Gaussian(_));
        // Nobody draws in the background here: what is missing is drawn in one sweep, as far ahead as the options say.
        let a_pass = (session.options().lookahead as usize).clamp(1, MAX_STEPS_A_PASS);
        loop {
            let outcome = match is_gaussian {
                true => session.fetch(step, 0)?,
                false => session.apply(step, 0, vec![input.clone()])?,
            };
            match outcome {
                Outcome::Answer(chunks) => return Ok(chunks),
                Outcome::NeedsNoise => {
                    let buffers = session.take_buffers(a_pass);
                    session.supply(drawer.draw(buffers))?;
                }
            }
        }
    }

    /// Tells how many steps had to be computed again.
    fn rewind(
        &mut self,
        wanted: Wanted,
        mut on_progress: impl FnMut(u64, u64) -> ControlFlow<()>,
    ) -> Result<u64> {
        let Self { session, drawer } = self;
        let rewind = session.begin_rewind(wanted.step, drawer)?;
        let total = rewind.steps_left(drawer);
        loop {
            let left = rewind.steps_left(drawer);
            if left == 0 || on_progress(total - left, total).is_break() {
                break;
            }
            drawer.pass_over(wanted.step);
        }
        session.finish_rewind(rewind, drawer, wanted.unix_seconds, wanted.allow_divergence);
        Ok(total)
    }
}

/// What a session says where a computation on it broke off in the middle.
pub(super) fn damaged() -> Error {
    Error::damaged("a step broke off in the middle of its computation")
}
