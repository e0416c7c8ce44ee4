//! [`NoiseDrawer`]: the half of a session that draws. It knows the key and the matrix's state, and nothing of clients.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use arrayvec::ArrayVec;
use bytes::Bytes;

use super::{NoiseSession, NoiseState, Outcome, OutputChunk, ResolvedSpec, Source, StepBuffer};
use crate::error::Result;
use crate::kernel::{
    Backend, Data, Draw, LaneState, Pass, PassState, Program, Real, StepIo, Steps, state_range,
};
use crate::limits::{MAX_STEPS_A_PASS, TILE_LANES};
use crate::noise::{NoiseKey, StepNoise, StepProof, scrub_stack};
use crate::tree::Layout;

/// Draws the noise of one step after the other: `(A z)_t`, with `z` scaled by the source's stddev.
///
/// What it draws is a function of key, step and lane alone. It may be ahead of what the session has released
/// by as much as anybody likes, and can be set back to step 0 or to a kept state at any time.
#[derive(Debug)]
pub struct NoiseDrawer {
    pub(super) resolved: Arc<ResolvedSpec>,
    backend: Backend,
    key: NoiseKey,
    stddev: f64,
    /// How the noise of a step is written: as answers go out, or where it is still to be added to, in full
    /// precision.
    pub(super) layout: Layout,
    pub(super) state: DrawerState,
    /// The step whose noise comes next, once the drawer is past the steps before `first`.
    step: u64,
    first: u64,
}

/// What is kept between steps.
#[derive(Clone, Debug)]
pub(super) enum DrawerState {
    Kept(LaneState),
    /// Nothing: the inputs of so many earlier steps are drawn again.
    Replayed {
        steps: usize,
    },
}

/// The noise of one step, not released yet.
#[derive(Clone)]
pub struct DrawnStep {
    pub(super) step: u64,
    pub(super) bytes: Bytes,
    /// Whether all of its numbers are. What is not is never released.
    pub(super) finite: bool,
}

impl std::fmt::Debug for DrawnStep {
    /// Its step: the noise is secret until it is released.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DrawnStep").field("step", &self.step).finish_non_exhaustive()
    }
}

/// A state of a drawer to come back to.
#[derive(Clone, Debug)]
pub(super) struct DrawerMark {
    pub(super) step: u64,
    pub(super) state: DrawerState,
}

/// The steps of one pass: those whose input alone is wanted, to fill a ring, and those whose output is.
struct PassPlan<T> {
    programs: Vec<Program<T>>,
    noises: Vec<StepNoise>,
    /// How many of them come before the first whose output is wanted.
    before: usize,
}

impl NoiseDrawer {
    /// A drawer at step 0.
    ///
    /// # Errors
    /// [`Error::Invalid`](crate::Error::Invalid) on `source` where the server draws nothing for it, or the
    /// matrix cannot be replayed as asked.
    pub(super) fn new(
        resolved: Arc<ResolvedSpec>,
        backend: Backend,
        key: NoiseKey,
        state: NoiseState,
    ) -> Result<Self> {
        let noise = resolved.spec.source.noise();
        let stddev = noise.map(|noise| noise.stddev).ok_or_else(|| {
            crate::Error::invalid("source", "must be `gaussian` or `privatize`: a `Session` takes input")
        })?;
        let layout = match resolved.spec.source {
            Source::Privatize { .. } => {
                Layout::flat(resolved.layout.lanes(), resolved.spec.precision.dtype())
            }
            Source::Input | Source::Gaussian(_) => resolved.layout.clone(),
        };
        let state = match (state, resolved.plan.replayed_steps()) {
            (NoiseState::Replayed, Some(steps)) => DrawerState::Replayed { steps },
            (NoiseState::Replayed | NoiseState::Kept, _) => DrawerState::Kept(LaneState::zeroed(
                resolved.spec.precision,
                resolved.layout.lanes(),
                resolved.plan.planes(),
            )),
        };
        Ok(Self { resolved, backend, key, stddev, layout, state, step: 0, first: 0 })
    }

    /// The step whose noise comes next.
    pub fn next_step(&self) -> u64 {
        self.step
    }

    /// Has the drawer go past the steps before this one before it draws.
    pub(super) fn begin_at(&mut self, first: u64) {
        self.first = first;
    }

    /// Steps that the drawer has to go past before it can draw: those that a session which is gone released.
    pub fn steps_behind(&self) -> u64 {
        self.first.saturating_sub(self.step)
    }

    /// Goes past some of them.
    pub fn catch_up(&mut self) {
        self.pass_over(self.first);
    }

    /// Proves to whoever has the key that these lanes of the noise stood at `step`.
    pub fn proof_of_step(&self, step: u64) -> StepProof {
        self.key.proof_of_step(step, &self.resolved.lanes())
    }

    /// Draws a step into each buffer, the first first, in one sweep through the state where there are at most
    /// [`MAX_STEPS_A_PASS`]. There are fewer steps than buffers where the session's horizon comes first.
    ///
    /// Call it within a rayon pool to have the lanes split between its threads.
    pub fn draw(&mut self, mut buffers: Vec<StepBuffer>) -> Vec<DrawnStep> {
        while self.steps_behind() > 0 {
            self.catch_up();
        }
        buffers.truncate(self.steps_left(buffers.len() as u64) as usize);
        let finite: Vec<AtomicBool> = buffers.iter().map(|_| AtomicBool::new(true)).collect();
        for (of_pass, finite) in buffers.chunks_mut(MAX_STEPS_A_PASS).zip(finite.chunks(MAX_STEPS_A_PASS)) {
            self.pass(0..self.layout.lanes(), of_pass.len(), of_pass, finite);
        }
        scrub_stack();
        let first = self.step - buffers.len() as u64;
        let drawn = |((step, buffer), finite): ((u64, StepBuffer), AtomicBool)| DrawnStep {
            step,
            bytes: buffer.freeze(),
            finite: finite.into_inner(),
        };
        (first..).zip(buffers).zip(finite).map(drawn).collect()
    }

    /// Has the other half of this session answer, and draws what it lacks for that: a session in a program's
    /// own memory.
    ///
    /// # Errors
    /// Those of `ask`, which is [`NoiseSession::fetch`] or [`NoiseSession::apply`].
    pub fn answer(
        &mut self,
        session: &mut NoiseSession,
        mut ask: impl FnMut(&mut NoiseSession) -> Result<Outcome>,
    ) -> Result<Vec<OutputChunk>> {
        loop {
            match ask(session)? {
                Outcome::Answer(chunks) => return Ok(chunks),
                Outcome::NeedsNoise => {
                    let buffers = session.take_buffers(session.wanted_steps().max(1), self);
                    session.supply(self.draw(buffers))?;
                }
            }
        }
    }

    /// Goes past at most [`MAX_STEPS_A_PASS`] steps without making anything of them, and not past step `end`.
    pub fn pass_over(&mut self, end: u64) {
        let steps = end.saturating_sub(self.step);
        match self.state {
            DrawerState::Replayed { .. } => self.step += steps,
            DrawerState::Kept(_) => {
                let steps = self.steps_left(steps).min(MAX_STEPS_A_PASS as u64);
                self.pass(0..self.layout.lanes(), steps as usize, &mut [], &[]);
                scrub_stack();
            }
        }
    }

    /// What to come back to.
    pub(super) fn mark(&self) -> DrawerMark {
        DrawerMark { step: self.step, state: self.state.clone() }
    }

    /// Comes back to a mark of this session, or to step 0.
    pub(super) fn go_back(&mut self, mark: Option<&DrawerMark>) {
        match (mark, &mut self.state) {
            // Into the memory that is there: there is none promised for one more.
            (Some(DrawerMark { state: DrawerState::Kept(kept), step: _ }), DrawerState::Kept(state)) => {
                state.copy_from(kept);
            }
            (Some(_), DrawerState::Replayed { .. } | DrawerState::Kept(_)) => {}
            (None, DrawerState::Kept(state)) => state.clear(),
            (None, DrawerState::Replayed { .. }) => {}
        }
        self.step = mark.map_or(0, |mark| mark.step);
    }

    /// Bytes that a mark takes.
    pub(super) fn mark_bytes(&self) -> u64 {
        match &self.state {
            DrawerState::Kept(state) => state.byte_len(),
            DrawerState::Replayed { .. } => 0,
        }
    }

    /// Takes these lanes, whose state stands before step `from`, on to step `to`. They begin at a tile.
    pub(super) fn advance(&mut self, lanes: Range<usize>, from: u64, to: u64) {
        let here = std::mem::replace(&mut self.step, from);
        while self.step < to {
            let steps = (to - self.step).min(MAX_STEPS_A_PASS as u64);
            self.pass(lanes.clone(), steps as usize, &mut [], &[]);
        }
        self.step = here;
        scrub_stack();
    }

    /// The state is that before this step.
    pub(super) fn stand_at(&mut self, step: u64) {
        self.step = step;
    }

    fn steps_left(&self, wanted: u64) -> u64 {
        let left = self.resolved.spec.horizon.map_or(u64::MAX, |horizon| horizon.saturating_sub(self.step));
        left.min(wanted)
    }

    /// Takes the state of these lanes through `steps` steps, into the buffers where there are any. For each
    /// of these, `finite` tells whether all that was drawn is.
    fn pass(&mut self, lanes: Range<usize>, steps: usize, buffers: &mut [StepBuffer], finite: &[AtomicBool]) {
        match self.resolved.spec.precision {
            crate::Precision::F32 => self.pass_in::<f32>(lanes, steps, buffers, finite),
            crate::Precision::F64 => self.pass_in::<f64>(lanes, steps, buffers, finite),
        }
        self.step += steps as u64;
    }

    #[inline(never)]
    fn pass_in<T: Real>(
        &mut self,
        lanes: Range<usize>,
        steps: usize,
        buffers: &mut [StepBuffer],
        finite: &[AtomicBool],
    ) {
        let plan = self.plan_of::<T>(steps);
        let first_lane = self.resolved.first_lane;
        let draws = plan.noises.iter().map(|step| Draw { step, first_lane });
        let mut outputs = buffers.iter_mut().zip(finite);
        let mut io = ArrayVec::new();
        for (i, (program, noise)) in plan.programs.iter().zip(draws).enumerate() {
            let output = if i < plan.before { None } else { outputs.next() };
            let data = match output {
                Some((output, finite)) => Data::Drawn { noise, output: &mut output[..], finite },
                None => Data::Passed(noise),
            };
            io.push(StepIo { program, data, digests: &mut [] });
        }
        let io: Steps<'_, T> = io;
        let planes = self.resolved.plan.planes();
        let values = state_range(&lanes, planes);
        let pass = Pass { backend: self.backend, layout: &self.layout, planes, lanes };
        match &mut self.state {
            DrawerState::Replayed { .. } => pass.run(PassState::Forgotten, io),
            DrawerState::Kept(state) => {
                if let Some(state) = T::of_state(state) {
                    pass.run(PassState::Kept(&mut state[values]), io);
                }
            }
        }
    }

    fn plan_of<T: Real>(&self, steps: usize) -> PassPlan<T> {
        let end = self.step + steps as u64;
        let plan = &self.resolved.plan;
        let noises = |first: u64| (first..end).map(|step| StepNoise::new(&self.key, step, self.stddev));
        match self.state {
            DrawerState::Kept(_) => {
                let tiles = self.layout.lanes().div_ceil(TILE_LANES);
                let programs = (self.step..end).map(|step| plan.program(step, tiles)).collect();
                PassPlan { programs, noises: noises(self.step).collect(), before: 0 }
            }
            DrawerState::Replayed { steps: remembered } => {
                let first = self.step.saturating_sub(remembered as u64);
                let programs = (first..end).map(|step| plan.replay_program(step, step < self.step)).collect();
                let before = (self.step - first) as usize;
                PassPlan { programs, noises: noises(first).collect(), before }
            }
        }
    }
}
