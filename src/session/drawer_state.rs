//! A drawer's state as bytes, in parts, and back.
//!
//! What a drawer draws is a function of key, step and lane, and no lane depends on another. So the parts of
//! one state may stand at different steps: a drawer gives away one part after one pass and the next part
//! after a later pass, and never stops for the whole. Reading takes each part on to the latest of the steps.
//!
//! ```text
//! magic "noised drawn\n"     13 bytes, for each part anew
//! version                    u32
//! numbers                    u64 each: bytes a value, planes, lanes a tile, lanes a block, steps ahead,
//!                            lanes in all, first tile, tiles, the step that comes next on these tiles
//! state                      of these tiles, as it lies in memory
//! ```
//!
//! Numbers are little endian. The bytes hold secrets and no digest of their own: they belong in a place that
//! seals them.

use std::io::Read;
use std::ops::Range;

use super::NoiseDrawer;
use super::drawer::DrawerState;
use super::snapshot::{read_beginning, read_exactly};
use crate::error::{Error, Result};
use crate::kernel::state_range;
use crate::limits::{BLOCK_LANES, MAX_STEPS_AHEAD, TILE_LANES};

const MAGIC: &[u8; 13] = b"noised drawn\n";

/// Goes up when a reader of the last version would read this one wrongly.
const VERSION: u32 = 1;

/// No head of a part is longer.
const MAX_HEAD_BYTES: usize = 128;

/// A step that a session could never come to; a damaged state is not believed past it.
const MAX_STEP: u64 = 1 << 48;

/// What a part says of itself.
struct Head {
    tiles: Range<usize>,
    step: u64,
}

impl NoiseDrawer {
    /// The number of tiles whose state is kept between steps: 0 where earlier steps are drawn again instead.
    pub fn state_tiles(&self) -> usize {
        match self.state {
            DrawerState::Kept(_) => self.layout.lanes().div_ceil(TILE_LANES),
            DrawerState::Replayed { .. } => 0,
        }
    }

    /// Bytes of the state of one tile.
    pub fn tile_state_bytes(&self) -> usize {
        self.bytes_of(&(0..1)).len()
    }

    /// The state of these tiles before [`next_step`](Self::next_step), as a part of what
    /// [`restore_state`](Self::restore_state) reads. Empty where no state is kept.
    pub fn state_of_tiles(&self, tiles: Range<usize>) -> Vec<u8> {
        let DrawerState::Kept(state) = &self.state else { return Vec::new() };
        let tiles = tiles.start.min(self.state_tiles())..tiles.end.min(self.state_tiles());
        let bytes = &state.bytes()[self.bytes_of(&tiles)];
        let mut part = Vec::with_capacity(MAX_HEAD_BYTES + bytes.len());
        part.extend(MAGIC);
        part.extend(VERSION.to_le_bytes());
        for number in self.shape() {
            part.extend(number.to_le_bytes());
        }
        for number in [tiles.start as u64, tiles.len() as u64, self.next_step()] {
            part.extend(number.to_le_bytes());
        }
        part.extend_from_slice(bytes);
        part
    }

    /// Puts back the state of all tiles: parts that [`state_of_tiles`](Self::state_of_tiles) gave, one after
    /// the other, the first tile first. The drawer then stands at the latest of their steps; the other parts
    /// are taken on to that step.
    ///
    /// # Errors
    /// [`Error::Damaged`] where the bytes are no such parts, or those of another session. The drawer stands
    /// at step 0 then.
    pub fn restore_state(&mut self, mut state: impl Read) -> Result<()> {
        self.go_back(None);
        let restored = self.read_parts(&mut state);
        if restored.is_err() {
            self.go_back(None);
        }
        restored
    }

    fn read_parts(&mut self, input: &mut impl Read) -> Result<()> {
        let all = self.state_tiles();
        // The tiles of each part, with their step.
        let mut parts: Vec<Head> = Vec::new();
        let mut next = 0;
        while next < all {
            let head = self.read_head(input)?;
            if head.tiles.start != next || head.tiles.is_empty() || head.tiles.end > all {
                return Err(Error::damaged(format!("a part has tiles {:?} of {all}", head.tiles)));
            }
            next = head.tiles.end;
            let bytes = self.bytes_of(&head.tiles);
            if let DrawerState::Kept(state) = &mut self.state {
                read_exactly(input, &mut state.bytes_mut()[bytes])?;
            }
            parts.push(head);
        }
        let latest = parts.iter().map(|part| part.step).max().unwrap_or_default();
        for Head { tiles, step } in parts {
            self.advance(self.lanes_of(&tiles), step, latest);
        }
        self.stand_at(latest);
        Ok(())
    }

    fn read_head(&self, input: &mut impl Read) -> Result<Head> {
        read_beginning(input, MAGIC, VERSION, "a drawer's state")?;
        let mut numbers = [0_u64; 9];
        read_exactly(input, bytemuck::cast_slice_mut(&mut numbers))?;
        let [shape @ .., first, tiles, step] = numbers;
        if shape != self.shape() {
            return Err(Error::damaged(format!(
                "bytes a value, planes, lanes a tile, lanes a block, steps ahead and lanes are {shape:?}; \
                 of this session they are {:?}",
                self.shape()
            )));
        }
        let horizon = self.resolved.spec().horizon.unwrap_or(MAX_STEP);
        let number = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
        if step > horizon {
            return Err(Error::damaged(format!(
                "a part stands at step {step}, past the last one, {horizon}"
            )));
        }
        let first = number(first);
        Ok(Head { tiles: first..first.saturating_add(number(tiles)), step })
    }

    /// What the bytes of a state depend on beside the session's matrix.
    fn shape(&self) -> [u64; 6] {
        let resolved = &self.resolved;
        [
            resolved.spec().precision.size(),
            resolved.plan().planes(),
            TILE_LANES,
            BLOCK_LANES,
            MAX_STEPS_AHEAD,
            self.layout.lanes(),
        ]
        .map(|number| number as u64)
    }

    fn lanes_of(&self, tiles: &Range<usize>) -> Range<usize> {
        tiles.start * TILE_LANES..self.layout.lanes().min(tiles.end * TILE_LANES)
    }

    /// The place of the state of these tiles in the bytes of all.
    fn bytes_of(&self, tiles: &Range<usize>) -> Range<usize> {
        let values = state_range(&self.lanes_of(tiles), self.resolved.plan().planes());
        let size = self.resolved.spec().precision.size();
        values.start * size..values.end * size
    }
}
