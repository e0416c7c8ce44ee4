//! Frames of any size, as runs of whole tiles.

use bytes::{Bytes, BytesMut};

use crate::error::{Error, Result};
use crate::limits::TILE_LANES;
use crate::tree::Layout;

/// Puts a stream's frames together. A frame may end anywhere; what is left of a tile waits here, for the
/// stream, so that a stream that is cut takes nothing of the session with it.
#[derive(Debug)]
pub struct Assembler {
    layout: Layout,
    /// The step that frames are of.
    step: u64,
    /// Where the next frame of that step starts; `None` between steps.
    next: Option<usize>,
    /// The first bytes of a tile that is not whole yet.
    partial: BytesMut,
}

/// Whole tiles of a step, as [`Session::apply`](super::Session::apply) takes them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// The step.
    pub step: u64,
    /// The first byte, from the start of the step.
    pub offset: usize,
    /// The bytes, in pieces of whole tiles.
    pub pieces: Vec<Bytes>,
}

impl Assembler {
    /// For a stream that starts now, on a session of this layout.
    pub fn new(layout: Layout) -> Self {
        Self { layout, step: 0, next: None, partial: BytesMut::new() }
    }

    /// Takes a frame, whose bytes may lie in pieces, and returns the whole tiles that it completes. Bytes are
    /// copied only where a tile lies across pieces.
    ///
    /// # Errors
    /// [`Error::Invalid`] where a frame is empty, goes past the end of the step, does not follow the one
    /// before it, or starts a step in the middle of a tile. The frame is then not taken.
    pub fn push(&mut self, step: u64, offset: u64, payload: Vec<Bytes>) -> Result<Option<Run>> {
        let length = payload.iter().map(Bytes::len).sum();
        let at = self.check(step, offset, length)?;
        let end = at + length;
        let mut run = Run { step, offset: at - self.partial.len(), pieces: Vec::new() };
        payload.into_iter().fold(at, |at, piece| self.push_piece(at, piece, &mut run.pieces));
        self.step = step;
        self.next = (end < self.layout.byte_len()).then_some(end);
        Ok((!run.pieces.is_empty()).then_some(run))
    }

    /// Takes a piece that starts at byte `at`; returns where it ends.
    fn push_piece(&mut self, mut at: usize, mut piece: Bytes, whole: &mut Vec<Bytes>) -> usize {
        let end = at + piece.len();
        if !self.partial.is_empty() {
            let tile_end = self.tile_end(at - self.partial.len());
            let taken = piece.split_to(piece.len().min(tile_end - at));
            self.partial.extend_from_slice(&taken);
            at += taken.len();
            if at == tile_end {
                whole.push(self.partial.split().freeze());
            }
        }
        let tiles = self.tile_start(end).max(at) - at;
        if tiles > 0 {
            whole.push(piece.split_to(tiles));
        }
        self.partial.extend_from_slice(&piece);
        end
    }

    /// Whether the last frame ended its step, or there was none yet.
    pub fn is_between_steps(&self) -> bool {
        self.next.is_none()
    }

    fn check(&self, step: u64, offset: u64, length: usize) -> Result<usize> {
        let total = self.layout.byte_len();
        if length == 0 {
            return Err(Error::invalid("payload", "must not be empty"));
        }
        let at =
            usize::try_from(offset).ok().filter(|at| at.checked_add(length).is_some_and(|end| end <= total));
        let Some(at) = at else {
            return Err(Error::invalid("payload", format!("must end within the step's {total} bytes")));
        };
        match self.next {
            Some(_) if step != self.step => {
                Err(Error::invalid("step", format!("step {} is not finished on this stream", self.step)))
            }
            Some(next) if at != next => Err(Error::invalid(
                "offset",
                format!("must be {next}: the frames of a step follow one another"),
            )),
            None if self.tile_start(at) != at => Err(Error::invalid(
                "offset",
                format!("must be the first byte of a tile of {TILE_LANES} lanes"),
            )),
            Some(_) | None => Ok(at),
        }
    }

    /// The end of the tile that `byte` lies in.
    fn tile_end(&self, byte: usize) -> usize {
        let (lane, _) = self.layout.lane_holding(byte);
        self.layout.byte_of_lane(((lane / TILE_LANES + 1) * TILE_LANES).min(self.layout.lanes()))
    }

    /// The last start of a tile at or before `byte`; the end of the step is one.
    fn tile_start(&self, byte: usize) -> usize {
        if byte == self.layout.byte_len() {
            return byte;
        }
        let (lane, _) = self.layout.lane_holding(byte);
        self.layout.byte_of_lane(lane / TILE_LANES * TILE_LANES)
    }
}
