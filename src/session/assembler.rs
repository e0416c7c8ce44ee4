//! Frames of any size, as runs of whole tiles.

use bytes::{Bytes, BytesMut};

use crate::error::{Error, Result};
use crate::limits::TILE_LANES;
use crate::tree::Layout;

/// Puts a stream's frames together. A frame may end anywhere; what is left of a tile waits here, for the stream, so
/// that a stream that is cut takes nothing of the session with it.
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
    /// The bytes.
    pub payload: Bytes,
}

impl Assembler {
    /// For a stream that starts now, on a session of this layout.
    pub fn new(layout: Layout) -> Self {
        Self { layout, step: 0, next: None, partial: BytesMut::new() }
    }

    /// Takes a frame and returns the whole tiles that it completes: none, one run, or two where the first of them is a
    /// tile that an earlier frame began. Bytes are copied only where a tile lies across frames.
    ///
    /// # Errors
    /// [`Error::Invalid`] where a frame is empty, goes past the end of the step, does not follow the one before it, or
    /// starts a step in the middle of a tile. The frame is then not taken.
    pub fn push(&mut self, step: u64, offset: u64, mut payload: Bytes) -> Result<Vec<Run>> {
        let mut at = self.check(step, offset, &payload)?;
        let total = self.layout.byte_len();
        let end = at + payload.len();
        let mut runs = Vec::new();
        if !self.partial.is_empty() {
            let start = at - self.partial.len();
            let tile_end = self.tile_end(start);
            let taken = payload.split_to(payload.len().min(tile_end - at));
            self.partial.extend_from_slice(&taken);
            at += taken.len();
            if at == tile_end {
                runs.push(Run { step, offset: start, payload: self.partial.split().freeze() });
            }
        }
        let whole = self.tile_start(end).max(at) - at;
        if whole > 0 {
            runs.push(Run { step, offset: at, payload: payload.split_to(whole) });
        }
        self.partial.extend_from_slice(&payload);
        self.step = step;
        self.next = (end < total).then_some(end);
        Ok(runs)
    }

    /// Whether the last frame ended its step, or there was none yet.
    pub fn is_between_steps(&self) -> bool {
        self.next.is_none()
    }

    fn check(&self, step: u64, offset: u64, payload: &Bytes) -> Result<usize> {
        let total = self.layout.byte_len();
        if payload.is_empty() {
            return Err(Error::invalid("payload", "must not be empty"));
        }
        let at = usize::try_from(offset)
            .ok()
            .filter(|at| at.checked_add(payload.len()).is_some_and(|end| end <= total));
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
