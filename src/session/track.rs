//! The rule of a session for steps that a client sends bytes for: which tiles of which step come next, which
//! are answered with what is kept, and what is refused.

use std::ops::Range;
use std::sync::Arc;

use bytes::BytesMut;

use super::outputs::Outputs;
use super::{OutputChunk, ResolvedSpec};
use crate::error::{Error, Result};
use crate::kernel::digest_of;
use crate::limits::TILE_LANES;
use crate::tree::Layout;

/// How far a session is, and what it keeps of the last step.
#[derive(Debug)]
pub(super) struct Track {
    pub(super) resolved: Arc<ResolvedSpec>,
    /// The step being produced.
    pub(super) step: u64,
    /// Tiles that have been through it.
    pub(super) tiles_done: usize,
    /// Tiles up to which the answers to the step before are given up for a run that was refused.
    given_up: usize,
    /// The first step since the state was last set: of those before it nothing is kept.
    pub(super) first_step: u64,
    /// Of the last input of each tile.
    pub(super) digests: Vec<u64>,
    pub(super) outputs: Outputs,
}

/// A run of whole tiles that is in order.
pub(super) struct Checked<'p> {
    /// Its tiles that were through the step already.
    pub(super) replayed: Range<usize>,
    /// The others, which come next.
    pub(super) fresh: Range<usize>,
    /// The tiles of each piece of memory, with its bytes.
    pub(super) pieces: Vec<(Range<usize>, &'p [u8])>,
}

impl<'p> Checked<'p> {
    /// The fresh tiles of each piece, with their bytes.
    pub(super) fn fresh_pieces<'t>(
        &'t self,
        track: &'t Track,
    ) -> impl Iterator<Item = (Range<usize>, &'p [u8])> + 't {
        self.pieces.iter().filter(|(tiles, _)| tiles.end > self.fresh.start).map(|(tiles, bytes)| {
            let fresh = tiles.start.max(self.fresh.start)..tiles.end;
            let length = track.input_bytes(&fresh).len();
            (fresh, &bytes[bytes.len() - length..])
        })
    }
}

impl Track {
    pub(super) fn new(resolved: Arc<ResolvedSpec>) -> Self {
        let digests = vec![0; resolved.layout.lanes().div_ceil(TILE_LANES)];
        let outputs = Outputs::default();
        Self { resolved, step: 0, tiles_done: 0, given_up: 0, first_step: 0, digests, outputs }
    }

    /// Bytes of the step's input that are applied already.
    pub(super) fn next_offset(&self) -> usize {
        self.input_bytes(&(0..self.tiles_done)).end
    }

    /// Checks a run of bytes of a step: `pieces`, one after the other, from byte `offset` on.
    pub(super) fn check<'p, P: AsRef<[u8]>>(
        &self,
        step: u64,
        offset: usize,
        pieces: &'p [P],
    ) -> Result<Checked<'p>> {
        let length = pieces.iter().map(|piece| piece.as_ref().len()).sum();
        let tiles = self.tiles_of(offset, length)?;
        let pieces = self.check_pieces(offset, pieces)?;
        let replayed = self.check_step(step, &tiles)?;
        self.check_digests(step, replayed.clone(), &pieces)?;
        let fresh = replayed.end..tiles.end.max(replayed.end);
        Ok(Checked { replayed, fresh, pieces })
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
    pub(super) fn tiles_of(&self, offset: usize, length: usize) -> Result<Range<usize>> {
        let layout = self.resolved.input_layout();
        let total = layout.byte_len();
        let end = offset
            .checked_add(length)
            .filter(|&end| end <= total)
            .ok_or_else(|| Error::invalid("payload", format!("must end within the step's {total} bytes")))?;
        let tile_at = |byte: usize| {
            let lane = layout.lane_of_byte(byte)?;
            let whole = lane % TILE_LANES == 0 || lane == layout.lanes();
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
        if self.is_kept(step) {
            // What a tile gave at this step is kept until the tile is taken through the next.
            let wrong = Error::WrongStep { requested: step, expected: self.step };
            let kept_from = self.tiles_done.max(self.given_up);
            return if tiles.start >= kept_from { Ok(tiles.clone()) } else { Err(wrong) };
        }
        self.check_next(step)?;
        if tiles.start > self.tiles_done {
            let expected = self.next_offset();
            return Err(Error::invalid(
                "offset",
                format!("step {step} is applied up to byte {expected}; go on from there"),
            ));
        }
        Ok(tiles.start..tiles.end.min(self.tiles_done))
    }

    /// Whether this is the step before the one being produced, of which answers are kept.
    fn is_kept(&self, step: u64) -> bool {
        self.step.checked_sub(1) == Some(step) && step >= self.first_step
    }

    /// Checks that this is the step being produced.
    pub(super) fn check_next(&self, step: u64) -> Result<()> {
        if let Some(horizon) = self.resolved.spec.horizon.filter(|&horizon| step >= horizon) {
            return Err(Error::PastHorizon { requested: step, horizon });
        }
        if step != self.step {
            return Err(Error::WrongStep { requested: step, expected: self.step });
        }
        Ok(())
    }

    fn check_digests(&self, step: u64, tiles: Range<usize>, pieces: &[(Range<usize>, &[u8])]) -> Result<()> {
        for (of_piece, payload) in pieces {
            let origin = self.input_bytes(of_piece).start;
            for tile in of_piece.start.max(tiles.start)..of_piece.end.min(tiles.end) {
                let bytes = self.input_bytes(&(tile..tile + 1));
                if digest_of(&payload[bytes.start - origin..bytes.end - origin]) != self.digests[tile] {
                    let offset = bytes.start as u64;
                    return Err(Error::PayloadMismatch { requested: step, expected: self.step, offset });
                }
            }
        }
        Ok(())
    }

    /// Appends what is kept of these tiles.
    pub(super) fn collect(&self, tiles: &Range<usize>, chunks: &mut Vec<OutputChunk>) {
        self.outputs.collect(self.output_bytes(tiles), chunks);
    }

    /// A buffer for the answer of the next tiles.
    pub(super) fn take_buffer(&mut self, tiles: &Range<usize>) -> BytesMut {
        let range = self.output_bytes(tiles);
        self.outputs.take_buffer(range)
    }

    /// Keeps the answer of the next tiles, and goes on behind them. Tells whether that ends the step.
    pub(super) fn finish(&mut self, tiles: &Range<usize>, answer: BytesMut) -> (OutputChunk, bool) {
        let range = self.output_bytes(tiles);
        let chunk = OutputChunk { offset: range.start, bytes: answer.freeze(), replay: false };
        self.outputs.push(range, chunk.bytes.clone());
        let ended = tiles.end == self.digests.len();
        if ended {
            self.step += 1;
            self.tiles_done = 0;
            self.given_up = 0;
        } else {
            self.tiles_done = tiles.end;
        }
        (chunk, ended)
    }

    /// Does not take the next tiles after all: a buffer was taken for them, and what it held of the step
    /// before is gone.
    pub(super) fn give_up(&mut self, tiles: &Range<usize>, digests: &[u64]) {
        self.digests[tiles.clone()].copy_from_slice(digests);
        self.given_up = self.given_up.max(tiles.end);
    }

    /// Stands before `step`, with nothing kept of the steps before it.
    pub(super) fn restart_at(&mut self, step: u64) {
        self.step = step;
        self.tiles_done = 0;
        self.given_up = 0;
        self.first_step = step;
        self.outputs = Outputs::default();
    }

    /// The lanes of a run of tiles.
    pub(super) fn lanes(&self, tiles: &Range<usize>) -> Range<usize> {
        tiles.start * TILE_LANES..self.resolved.layout.lanes().min(tiles.end * TILE_LANES)
    }

    /// The bytes of a run of tiles in a step's input.
    pub(super) fn input_bytes(&self, tiles: &Range<usize>) -> Range<usize> {
        bytes_of_tiles(self.resolved.input_layout(), tiles)
    }

    /// The bytes of a run of tiles in a step's answer.
    pub(super) fn output_bytes(&self, tiles: &Range<usize>) -> Range<usize> {
        bytes_of_tiles(&self.resolved.layout, tiles)
    }
}

fn bytes_of_tiles(layout: &Layout, tiles: &Range<usize>) -> Range<usize> {
    let byte = |tile: usize| layout.byte_of_lane((tile * TILE_LANES).min(layout.lanes()));
    byte(tiles.start)..byte(tiles.end)
}
