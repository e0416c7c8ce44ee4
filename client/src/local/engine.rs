//! The state of a session, both of its halves put to work in turn.

use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use noised::limits::MAX_STEPS_A_PASS;
use noised::noise::StepProof;
use noised::session::{
    AnySession, Drawing, NoiseDrawer, Outcome, OutputChunk, ResolvedSpec, RewindTo, Standing, WhenFull,
};
use noised::{Error, Result};

use crate::info::SessionInfo;

/// Both halves of a session; there is no drawer where nothing is drawn.
#[derive(Debug)]
pub(super) struct Engine {
    session: AnySession,
    drawer: Option<NoiseDrawer>,
    /// Steps that are drawn in one sweep. Nobody draws in the background here: what is missing is drawn as
    /// far ahead as the options say.
    a_pass: usize,
}

impl Engine {
    /// A session at step 0, or one that goes on with a noise.
    pub(super) fn new(resolved: Arc<ResolvedSpec>, drawing: Option<Drawing>) -> Result<Self> {
        let lookahead = drawing.as_ref().map_or(0, |drawing| drawing.options.lookahead as usize);
        let (session, drawer) = AnySession::open(resolved, drawing)?;
        Ok(Self { session, drawer, a_pass: lookahead.clamp(1, MAX_STEPS_A_PASS) })
    }

    /// The answer to a whole step. `input` is empty where the source has none.
    pub(super) fn take(&mut self, step: u64, input: &Bytes) -> Result<Vec<OutputChunk>> {
        let Self { session, drawer, a_pass } = self;
        loop {
            if let Outcome::Answer(chunks) = session.take(step, 0, std::slice::from_ref(input))? {
                return Ok(chunks);
            }
            let buffers = session.take_buffers(*a_pass, drawer.as_mut());
            session.supply(drawer.as_mut().map_or_else(Vec::new, |drawer| drawer.draw(buffers)))?;
        }
    }

    /// Bytes that one kept state takes at most.
    pub(super) fn kept_state_bytes(&self) -> Result<u64> {
        self.session.kept_state_bytes(self.drawer.as_ref())
    }

    pub(super) fn keep_state(&mut self, step: u64, when_full: WhenFull, most: usize) -> Result<()> {
        self.session.keep_state(step, self.drawer.as_ref(), when_full, most)
    }

    /// Goes back. Where `on_progress` has it called off, the session stands where it has come to: at the step
    /// that is told.
    pub(super) fn rewind(
        &mut self,
        to: RewindTo,
        mut on_progress: impl FnMut(u64, u64) -> ControlFlow<()>,
    ) -> Result<u64> {
        let Self { session, drawer, .. } = self;
        let rewind = session.begin_rewind(to, drawer.as_mut())?;
        let total = rewind.steps_left(drawer.as_ref());
        while let Some(drawer) = drawer {
            let left = rewind.steps_left(Some(drawer));
            if left == 0 || on_progress(total - left, total).is_break() {
                break;
            }
            drawer.pass_over(to.step);
        }
        session.finish_rewind(rewind, drawer.as_ref())?;
        let stands = session.next_step();
        if stands == to.step {
            // It is done: there is nothing left to be called off.
            let _done = on_progress(total, total);
        }
        Ok(stands)
    }

    /// What goes on with the noise at a step, where others may draw it as well.
    pub(super) fn proof_of_step(&self, step: u64) -> Option<StepProof> {
        let is_resumable = self.session.resolved().spec().source.is_resumable();
        self.drawer.as_ref().filter(|_| is_resumable).map(|drawer| drawer.proof_of_step(step))
    }

    /// Notes where the session stands.
    pub(super) fn note(&self, info: &mut SessionInfo) {
        let mut standing = Standing::default();
        self.session.note_step(&mut standing);
        info.next_step = standing.next_step;
        info.next_offset = standing.next_offset as u64;
        info.released_steps = standing.released_steps;
    }

    /// The same with what changes more rarely.
    pub(super) fn note_all(&self, info: &mut SessionInfo) {
        self.note(info);
        let Standing { kept_steps, rewinds, rewind_count, .. } = self.session.standing();
        let kept_bytes = self.kept_state_bytes().unwrap_or(0).saturating_mul(kept_steps.len() as u64);
        info.memory_bytes = self.session.cost().total().saturating_add(kept_bytes);
        (info.kept_steps, info.rewinds, info.rewind_count) = (kept_steps, rewinds, rewind_count);
    }
}

/// What a session says where a computation on it broke off in the middle.
pub(super) fn damaged() -> Error {
    Error::damaged("a step broke off in the middle of its computation")
}
