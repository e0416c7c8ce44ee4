//! Sessions: one matrix's state for one tree, without network or clock.
//!
//! A [`Session`] is applied chunk by chunk. Each tile of lanes is a small machine of its own: it has been through some
//! number of steps, it keeps a digest of the last input and the last output, and it takes the next step or repeats the
//! last. The session adds that tiles of a step are taken in order, and that steps follow one another:
//!
//! - the step after the last one released is computed, each tile once;
//! - a tile asked again with the same bytes is answered with the stored bytes;
//! - other bytes, an older step or a later one are refused, and nothing changes.
//!
//! One step's output is kept, tile by tile: when a tile is taken through step `t + 1`, what it gave at step `t` is
//! dropped. So sending bytes `[a, b)` of step `t + 1` says that the answer to bytes `[a, b)` of step `t` has arrived.
//! A client may send the next step while the last one's answer is still coming, and a session never holds more than
//! one step's output.
//!
//! | room | what is in it |
//! |---|---|
//! | [`SessionSpec`], [`ResolvedSpec`] | what a session is bound to; what it costs; its fingerprint |
//! | [`Session`] | the state, and the rule above |
//! | [`Assembler`] | a stream's frames of any size, as runs of whole tiles |
//! | `outputs` | the kept output |
//! | `snapshot` | the state as bytes and back |

mod assembler;
mod outputs;
mod snapshot;
mod spec;

pub use assembler::{Assembler, Run};
pub use spec::{Fingerprint, ResolvedSpec, SessionCost, SessionSpec, Source};

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use crate::error::{Error, Result};
use crate::kernel::{
    Aligned, Backend, Data, LaneState, Pass, PassState, Program, Real, StepIo, Steps, digest_of, state_values,
};
use crate::limits::TILE_LANES;
use outputs::Outputs;

/// One matrix's state for one tree.
#[derive(Debug)]
pub struct Session {
    resolved: Arc<ResolvedSpec>,
    backend: Backend,
    state: LaneState,
    /// What `step` multiplies with.
    program: StepProgram,
    /// The step being produced.
    step: u64,
    /// Tiles that have been through it.
    tiles_done: usize,
    /// Of the last input of each tile.
    digests: Vec<u64>,
    outputs: Outputs,
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
        let digests = vec![0; lanes.div_ceil(TILE_LANES)];
        Self {
            resolved,
            backend,
            state,
            program,
            step: 0,
            tiles_done: 0,
            digests,
            outputs: Outputs::default(),
        }
    }

    /// What this session is bound to.
    pub fn resolved(&self) -> &Arc<ResolvedSpec> {
        &self.resolved
    }

    /// The step that is expected next.
    pub fn next_step(&self) -> u64 {
        self.step
    }

    /// Bytes of that step that are applied already.
    pub fn next_offset(&self) -> usize {
        self.byte_of_tile(self.tiles_done)
    }

    /// Applies or repeats a run of whole tiles of a step: `payload` starts at byte `offset`, which is the first of a
    /// tile, and ends with a tile. The result has the same bytes' answer in one or more chunks, in order.
    ///
    /// Call it within a rayon pool to have long runs split between its threads.
    ///
    /// # Errors
    /// Nothing is changed by a call that fails. [`Error::Invalid`] where the run is not one of whole tiles, or not the
    /// next in order; [`Error::WrongStep`], [`Error::PayloadMismatch`], [`Error::PastHorizon`] as the session's rule has
    /// it.
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
        let length = pieces.iter().map(|piece| piece.as_ref().len()).sum();
        let tiles = self.tiles_of(offset, length)?;
        let pieces = self.check_pieces(offset, pieces)?;
        let replayed = self.check_step(step, &tiles)?;
        self.check_digests(step, replayed.clone(), &pieces)?;
        let mut chunks = Vec::new();
        self.outputs.collect(self.bytes_of_tiles(&replayed), &mut chunks);
        if replayed.end < tiles.end {
            let fresh = replayed.end..tiles.end;
            let offset = self.byte_of_tile(fresh.start);
            chunks.push(OutputChunk { offset, bytes: self.advance(fresh, &pieces), replay: false });
        }
        Ok(chunks)
    }

    /// The tiles of each piece with its bytes. Each is of whole tiles.
    fn check_pieces<'p, P: AsRef<[u8]>>(
        &self,
        mut offset: usize,
        pieces: &'p [P],
    ) -> Result<Vec<(Range<usize>, &'p [u8])>> {
        let of_piece = |piece: &'p P| {
            let piece = piece.as_ref();
            let tiles = self.tiles_of(offset, piece.len())?;
            offset += piece.len();
            Ok((tiles, piece))
        };
        pieces.iter().map(of_piece).collect()
    }

    /// The tiles that a run of bytes covers.
    fn tiles_of(&self, offset: usize, length: usize) -> Result<Range<usize>> {
        let total = self.resolved.layout.byte_len();
        let end = offset
            .checked_add(length)
            .filter(|&end| end <= total)
            .ok_or_else(|| Error::invalid("payload", format!("must end within the step's {total} bytes")))?;
        let tile_at = |byte: usize| {
            let lane = self.resolved.layout.lane_of_byte(byte)?;
            let whole = lane % TILE_LANES == 0 || lane == self.resolved.layout.lanes();
            whole.then_some(lane.div_ceil(TILE_LANES))
        };
        let start = tile_at(offset).ok_or_else(|| {
            Error::invalid("offset", format!("must be the first byte of a tile of {TILE_LANES} lanes"))
        })?;
        let end = tile_at(end).ok_or_else(|| {
            Error::invalid("payload", format!("must end with a tile of {TILE_LANES} lanes"))
        })?;
        if start == end {
            return Err(Error::invalid("payload", "must not be empty"));
        }
        Ok(start..end)
    }

    /// The tiles of the run that were through this step already; the others are next in order.
    fn check_step(&self, step: u64, tiles: &Range<usize>) -> Result<Range<usize>> {
        let wrong = Error::WrongStep { requested: step, expected: self.step };
        if self.step.checked_sub(1) == Some(step) {
            // What a tile gave at this step is kept until the tile is taken through the next.
            return if tiles.start >= self.tiles_done { Ok(tiles.clone()) } else { Err(wrong) };
        }
        if let Some(horizon) = self.resolved.spec.horizon.filter(|&horizon| step >= horizon) {
            return Err(Error::PastHorizon { requested: step, horizon });
        }
        if step != self.step {
            return Err(wrong);
        }
        if tiles.start > self.tiles_done {
            let expected = self.next_offset();
            return Err(Error::invalid(
                "offset",
                format!("step {step} is applied up to byte {expected}; go on from there"),
            ));
        }
        Ok(tiles.start..tiles.end.min(self.tiles_done))
    }

    fn check_digests(&self, step: u64, tiles: Range<usize>, pieces: &[(Range<usize>, &[u8])]) -> Result<()> {
        for (of_piece, payload) in pieces {
            let origin = self.byte_of_tile(of_piece.start);
            for tile in of_piece.start.max(tiles.start)..of_piece.end.min(tiles.end) {
                let bytes = self.byte_of_tile(tile)..self.byte_of_tile(tile + 1);
                if digest_of(&payload[bytes.start - origin..bytes.end - origin]) != self.digests[tile] {
                    let offset = bytes.start as u64;
                    return Err(Error::PayloadMismatch { requested: step, expected: self.step, offset });
                }
            }
        }
        Ok(())
    }

    /// Takes the next tiles through the step; they are known to be next, and are the last of `pieces`.
    fn advance(&mut self, tiles: Range<usize>, pieces: &[(Range<usize>, &[u8])]) -> Bytes {
        let range = self.bytes_of_tiles(&tiles);
        let mut buffer = self.outputs.take_buffer(range.clone());
        let mut output = &mut buffer[..];
        for (of_piece, payload) in pieces.iter().filter(|(of_piece, _)| of_piece.end > tiles.start) {
            let fresh = of_piece.start.max(tiles.start)..of_piece.end;
            let bytes = self.bytes_of_tiles(&fresh);
            let input = &payload[payload.len() - bytes.len()..];
            let (of_fresh, rest) = std::mem::take(&mut output).split_at_mut(bytes.len());
            self.sweep(fresh, Data::Between { input, output: of_fresh });
            output = rest;
        }
        let output = buffer.freeze();
        self.outputs.push(range, output.clone());
        if tiles.end == self.digests.len() {
            self.go_to(self.step + 1, 0);
        } else {
            self.tiles_done = tiles.end;
        }
        output
    }

    fn sweep(&mut self, tiles: Range<usize>, data: Data<'_>) {
        let lanes = tiles.start * TILE_LANES..self.resolved.layout.lanes().min(tiles.end * TILE_LANES);
        let digests = &mut self.digests[tiles];
        let planes = self.resolved.plan.planes();
        let pass = Pass { backend: self.backend, layout: &self.resolved.layout, planes, lanes };
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

    fn go_to(&mut self, step: u64, tiles_done: usize) {
        self.step = step;
        self.tiles_done = tiles_done;
        if self.resolved.spec.horizon.is_none_or(|horizon| step < horizon) {
            self.program = StepProgram::of(&self.resolved, step);
        }
    }

    fn bytes_of_tiles(&self, tiles: &Range<usize>) -> Range<usize> {
        self.byte_of_tile(tiles.start)..self.byte_of_tile(tiles.end)
    }

    fn byte_of_tile(&self, tile: usize) -> usize {
        let layout = &self.resolved.layout;
        layout.byte_of_lane((tile * TILE_LANES).min(layout.lanes()))
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
    let first = pass.lanes.start * pass.planes;
    let values = state_values(pass.lanes.len(), pass.planes);
    let mut steps = Steps::new();
    steps.push(step);
    pass.run(PassState::Kept(&mut state[first..first + values]), steps);
}
