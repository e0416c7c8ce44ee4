//! Sessions: one matrix's state for one tree, without network or clock.
//!
//! A [`Session`] is applied chunk by chunk. Each tile of lanes is a small machine of its own: it has been
//! through some number of steps, it keeps a digest of the last input and the last output, and it takes the
//! next step or repeats the last. The session adds that tiles of a step are taken in order, and that steps
//! follow one another:
//!
//! - the step after the last one released is computed, each tile once;
//! - a tile asked again with the same bytes is answered with the stored bytes;
//! - other bytes, an older step or a later one are refused, and nothing changes.
//!
//! One step's output is kept, tile by tile: when a tile is taken through step `t + 1`, what it gave at step
//! `t` is dropped. So sending bytes `[a, b)` of step `t + 1` says that the answer to bytes `[a, b)` of step
//! `t` has arrived. A client may send the next step while the last one's answer is still coming, and a
//! session never holds more than one step's output.
//!
//! | room | what is in it |
//! |---|---|
//! | [`SessionSpec`], [`ResolvedSpec`] | what a session is bound to; what it costs; its fingerprint |
//! | `range` | whether its noise fits the numbers that it is answered in |
//! | [`Session`] | the state, and the rule above |
//! | [`AnySession`], [`Standing`] | a session of any source behind one set of methods; where it stands |
//! | [`Assembler`] | a stream's frames of any size, as runs of whole tiles |
//! | `track` | the rule for steps that a client sends bytes for |
//! | `source` | where the input comes from |
//! | `drawer` | the half that draws noise: it knows the key and the matrix's state |
//! | `drawer_state` | that state as bytes, in parts, and back |
//! | `noise` | the half that answers where the server draws |
//! | `privatize` | noise released under gradients, each step under one gradient |
//! | `kept` | states that are kept, and going back to them |
//! | `recovery` | going on with a session that a store gives back |
//! | `buffers` | memory for drawn steps, used again |
//! | `outputs` | the kept output |
//! | `snapshot` | the state as bytes and back |
//!
//! | word | what it means |
//! |---|---|
//! | taken | a tile is taken through a step: its input has come, and its answer is made |
//! | drawn | noise that the [`NoiseDrawer`] has computed and no answer has used |
//! | released | an answer has left the session, in whole or in part; that cannot be undone |
//! | kept | a state, or a step's output, that the session stores so that it can come back to it |
//! | held | an answer or a gradient that waits: the last answer for a replay, a gradient for its end |
//! | supplied | drawn noise that the answering half has received |

mod any;
mod assembler;
mod buffers;
mod drawer;
mod drawer_state;
mod kept;
mod noise;
mod outputs;
mod privatize;
mod range;
mod recovery;
mod snapshot;
mod source;
mod spec;
mod track;

pub use any::{AnyRewind, AnySession, Drawing, RewindTo, Standing};
pub use assembler::{Assembler, Run};
pub use buffers::StepBuffer;
pub use drawer::{DrawnStep, NoiseDrawer};
pub use kept::WhenFull;
pub use noise::{NoiseRewind, NoiseSession, Outcome};
pub use privatize::GradientDigest;
pub use recovery::Recovered;
pub use source::{KeyOrigin, Noise, NoiseOptions, NoiseState, Rewind, Source};
pub use spec::{Fingerprint, ResolvedSpec, SessionCost, SessionSpec};

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use crate::error::{Error, Result};
use crate::kernel::{
    Aligned, Backend, Data, LaneState, Pass, PassState, Program, Real, StepIo, Steps, state_range,
};
use crate::limits::TILE_LANES;
use kept::Rewinds;
use track::{Checked, Track};

/// One matrix's state for one tree, for input that a client sends.
#[derive(Debug)]
pub struct Session {
    backend: Backend,
    state: LaneState,
    /// What the step being produced multiplies with.
    program: StepProgram,
    track: Track,
    /// States that were asked to be kept, by the step that comes next on them.
    kept: BTreeMap<u64, LaneState>,
    rewinds: Rewinds,
}

#[derive(Debug)]
enum StepProgram {
    F32(Program<f32>),
    F64(Program<f64>),
}

/// A part of a step's result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutputChunk {
    /// Its first byte, from the start of the step.
    pub offset: usize,
    /// The bytes.
    pub bytes: Bytes,
    /// Whether it was computed by an earlier call.
    pub replay: bool,
}

impl Session {
    /// A session at step 0, with its state all zero.
    ///
    /// This takes [`ResolvedSpec::cost`] bytes of memory; large state is touched only when it is used.
    pub fn new(resolved: impl Into<Arc<ResolvedSpec>>) -> Self {
        Self::with_backend(resolved, Backend::best())
    }

    /// A session that runs on a given backend. The bits do not depend on it.
    pub fn with_backend(resolved: impl Into<Arc<ResolvedSpec>>, backend: Backend) -> Self {
        let resolved = resolved.into();
        let lanes = resolved.layout.lanes();
        let state = LaneState::zeroed(resolved.spec.precision, lanes, resolved.plan.planes());
        let program = StepProgram::of(&resolved, 0);
        let (track, kept) = (Track::new(resolved), BTreeMap::new());
        Self { backend, state, program, track, kept, rewinds: Rewinds::default() }
    }

    /// Takes the memory of the state from the system now, by threads of the rayon pool that this is called
    /// in. Without it the first step takes it piece by piece, which takes several times as long as a step.
    /// For a session that has made no step.
    pub fn touch_state(&mut self) {
        if self.track.step == 0 && self.track.tiles_done == 0 {
            self.state.touch();
        }
    }

    /// What this session is bound to.
    pub fn resolved(&self) -> &Arc<ResolvedSpec> {
        &self.track.resolved
    }

    /// The step that is expected next.
    pub fn next_step(&self) -> u64 {
        self.track.step
    }

    /// Bytes of that step that are applied already.
    pub fn next_offset(&self) -> usize {
        self.track.next_offset()
    }

    /// Applies or repeats a run of whole tiles of a step: `payload` starts at byte `offset`, which is the
    /// first of a tile, and ends with a tile. The result has the same bytes' answer in one or more chunks, in
    /// order.
    ///
    /// Call it within a rayon pool to have long runs split between its threads.
    ///
    /// # Errors
    /// Nothing is changed by a call that fails. [`Error::Invalid`] where the run is not one of whole tiles,
    /// or not the next in order; [`Error::WrongStep`], [`Error::PayloadMismatch`], [`Error::PastHorizon`] as
    /// the session's rule has it.
    pub fn apply(&mut self, step: u64, offset: usize, payload: &[u8]) -> Result<Vec<OutputChunk>> {
        self.apply_pieces(step, offset, &[payload])
    }

    /// The same for a run that lies in several pieces of memory, each of whole tiles, one after the other.
    ///
    /// # Errors
    /// As [`Session::apply`].
    pub fn apply_pieces<P: AsRef<[u8]>>(
        &mut self,
        step: u64,
        offset: usize,
        pieces: &[P],
    ) -> Result<Vec<OutputChunk>> {
        if self.resolved().spec.source != Source::Input {
            return Err(Error::invalid("source", "must be `input`: a `NoiseSession` is what draws"));
        }
        let checked = self.track.check(step, offset, pieces)?;
        let mut chunks = Vec::new();
        self.track.collect(&checked.replayed, &mut chunks);
        if !checked.fresh.is_empty() {
            chunks.push(self.advance(&checked));
        }
        Ok(chunks)
    }

    /// Takes the next tiles through the step.
    fn advance(&mut self, checked: &Checked<'_>) -> OutputChunk {
        let mut buffer = self.track.take_buffer(&checked.fresh);
        let mut output = &mut buffer[..];
        let fresh: Vec<_> = checked.fresh_pieces(&self.track).collect();
        for (tiles, input) in fresh {
            let (of_fresh, rest) = std::mem::take(&mut output).split_at_mut(input.len());
            self.sweep(tiles, Data::Between { input, output: of_fresh });
            output = rest;
        }
        let (chunk, step_ended) = self.track.finish(&checked.fresh, buffer);
        if step_ended {
            self.resolve_program();
        }
        chunk
    }

    fn sweep(&mut self, tiles: Range<usize>, data: Data<'_>) {
        let lanes = self.track.lanes(&tiles);
        let digests = &mut self.track.digests[tiles];
        let resolved = &self.track.resolved;
        let pass =
            Pass { backend: self.backend, layout: &resolved.layout, planes: resolved.plan.planes(), lanes };
        match (&mut self.state, &self.program) {
            (LaneState::F32(state), StepProgram::F32(program)) => {
                run(pass, state, StepIo { program, data, digests });
            }
            (LaneState::F64(state), StepProgram::F64(program)) => {
                run(pass, state, StepIo { program, data, digests });
            }
            (LaneState::F32(_), StepProgram::F64(_)) | (LaneState::F64(_), StepProgram::F32(_)) => {
                debug_assert!(false, "state and program have the precision of the specification");
            }
        }
    }

    fn resolve_program(&mut self) {
        let resolved = &self.track.resolved;
        if resolved.spec.horizon.is_none_or(|horizon| self.track.step < horizon) {
            self.program = StepProgram::of(resolved, self.track.step);
        }
    }
}

impl StepProgram {
    fn of(resolved: &ResolvedSpec, step: u64) -> Self {
        let tiles = resolved.layout.lanes().div_ceil(TILE_LANES);
        match resolved.spec.precision {
            crate::Precision::F32 => Self::F32(resolved.plan.program(step, tiles)),
            crate::Precision::F64 => Self::F64(resolved.plan.program(step, tiles)),
        }
    }
}

/// One step of the lanes of `pass`, with the state of all lanes at hand.
fn run<T: Real>(pass: Pass<'_>, state: &mut Aligned<T>, step: StepIo<'_, T>) {
    let values = state_range(&pass.lanes, pass.planes);
    let mut steps = Steps::new();
    steps.push(step);
    pass.run(PassState::Kept(&mut state[values]), steps);
}
