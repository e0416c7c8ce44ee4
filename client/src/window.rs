//! What a stream of steps may send and what it must receive, without a network.

use std::ops::Range;

use bytes::Bytes;
use noised::Layout;
use noised::limits::TILE_LANES;

use crate::error::{Error, Result};

/// A place in a run of steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Position {
    pub(crate) step: u64,
    pub(crate) offset: usize,
}

impl Position {
    pub(crate) fn start_of(step: u64) -> Self {
        Self { step, offset: 0 }
    }
}

/// Part of a step's result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The step.
    pub step: u64,
    /// The first byte, from the start of the step.
    pub offset: usize,
    /// The bytes of `(A x)_t` from there.
    pub payload: Bytes,
    /// Whether an earlier request computed it.
    pub replay: bool,
    /// Whether it is the step's last.
    pub step_end: bool,
}

/// The state of a run of steps: how far it is sent, received on this connection, and received at all.
///
/// The server keeps one step's output, and bytes `[a, b)` of step `t + 1` say that the answer to bytes `[a, b)` of step
/// `t` has arrived. So they are sent only once it has, which also bounds what is under way to one step. After a cut,
/// everything from the last byte received on is asked for again.
#[derive(Clone, Debug)]
pub(crate) struct Window {
    layout: Layout,
    chunk_bytes: usize,
    sent: Position,
    received: Position,
    /// Everything before it has been handed out. Ahead of `received` only after a cut.
    delivered: Position,
}

impl Window {
    /// For steps of this layout, from one place on. Where that is in the middle of a tile, a connection starts with the tile.
    pub(crate) fn new(layout: Layout, chunk_bytes: usize, start: Position) -> Self {
        Self { layout, chunk_bytes, sent: start, received: start, delivered: start }
    }

    /// Everything before it has been handed out.
    pub(crate) fn delivered(&self) -> Position {
        self.delivered
    }

    /// Whether nothing is under way and nothing of `step` has been sent: what a new step needs.
    pub(crate) fn is_at_start_of(&self, step: u64) -> bool {
        let start = Position::start_of(step);
        self.sent == start && self.received == start && self.delivered == start
    }

    /// The next chunk to send, where there is one and it may be sent now. Inputs are at hand for the steps before
    /// `inputs_end`.
    pub(crate) fn next_chunk(&self, inputs_end: u64) -> Option<(u64, Range<usize>)> {
        let Position { step, offset } = self.sent;
        if step >= inputs_end {
            return None;
        }
        let end = self.chunk_end(offset);
        let allowed = match step.checked_sub(self.delivered.step) {
            None | Some(0) => self.layout.byte_len(),
            Some(1) => self.delivered.offset,
            Some(_) => 0,
        };
        (end <= allowed).then_some((step, offset..end))
    }

    /// Notes that a chunk was sent up to `end`.
    pub(crate) fn note_sent(&mut self, end: usize) {
        self.sent = self.after(self.sent.step, end);
    }

    /// Takes an answer, and gives back what of it was not handed out before.
    pub(crate) fn take(&mut self, answer: Answer) -> Result<Option<Answer>> {
        let Answer { step, offset, mut payload, replay, step_end: _ } = answer;
        let end = offset.saturating_add(payload.len());
        let expected = self.received;
        if (Position { step, offset }) != expected || payload.is_empty() || end > self.layout.byte_len() {
            return Err(Error::Protocol {
                message: format!(
                    "the server answered bytes {offset}..{end} of step {step} where byte {} of step {} was next",
                    expected.offset, expected.step
                ),
            });
        }
        self.received = self.after(step, end);
        if self.received <= self.delivered {
            return Ok(None);
        }
        let skip = if self.delivered.step == step { self.delivered.offset.saturating_sub(offset) } else { 0 };
        self.delivered = self.received;
        let payload = payload.split_off(skip);
        Ok(Some(Answer {
            step,
            offset: offset + skip,
            payload,
            replay,
            step_end: end == self.layout.byte_len(),
        }))
    }

    /// Goes back to where a new connection starts: the tile of the first byte that is missing.
    pub(crate) fn reconnect(&mut self) {
        let Position { step, offset } = self.delivered;
        self.sent = Position { step, offset: self.tile_start(offset) };
        self.received = self.sent;
    }

    fn after(&self, step: u64, end: usize) -> Position {
        if end == self.layout.byte_len() {
            Position::start_of(step + 1)
        } else {
            Position { step, offset: end }
        }
    }

    /// Chunks end with a tile, so that the server need not put tiles together; a chunk has one tile at least.
    fn chunk_end(&self, offset: usize) -> usize {
        let wanted = offset.saturating_add(self.chunk_bytes);
        if wanted >= self.layout.byte_len() {
            return self.layout.byte_len();
        }
        let end = self.tile_start(wanted);
        if end > offset { end } else { self.byte_of_tile(self.tile_at(offset) + 1) }
    }

    fn tile_start(&self, byte: usize) -> usize {
        self.byte_of_tile(self.tile_at(byte))
    }

    /// The tile that a byte lies in. Tiles differ in bytes where leaves differ in format, so it is searched for.
    fn tile_at(&self, byte: usize) -> usize {
        let tiles = self.layout.lanes().div_ceil(TILE_LANES);
        let (mut low, mut high) = (0, tiles);
        while low + 1 < high {
            let middle = low.midpoint(high);
            if self.byte_of_tile(middle) <= byte {
                low = middle;
            } else {
                high = middle;
            }
        }
        low
    }

    fn byte_of_tile(&self, tile: usize) -> usize {
        self.layout.byte_of_lane((tile * TILE_LANES).min(self.layout.lanes()))
    }
}

#[cfg(test)]
mod tests {
    use noised::{DType, Leaf, Shard, Tree};

    use super::*;

    /// Tiles of 4 KiB, the last of 4 bytes.
    const STEP: usize = 3 * 4096 + 4;

    fn window(chunk_bytes: usize) -> Window {
        Window::new(Layout::flat(3 * 1024 + 1, DType::F32), chunk_bytes, Position::start_of(7))
    }

    fn answer(step: u64, range: Range<usize>) -> Answer {
        let payload = Bytes::from(vec![step as u8; range.len()]);
        Answer { step, offset: range.start, payload, replay: false, step_end: false }
    }

    fn send_all(window: &mut Window, inputs_end: u64) -> Vec<(u64, Range<usize>)> {
        let mut sent = Vec::new();
        while let Some((step, range)) = window.next_chunk(inputs_end) {
            window.note_sent(range.end);
            sent.push((step, range));
        }
        sent
    }

    #[test]
    fn chunks_are_whole_tiles() {
        let sent = send_all(&mut window(9000), 8);
        assert_eq!(sent, [(7, 0..8192), (7, 8192..STEP)]);
        let sent = send_all(&mut window(1), 8);
        assert_eq!(sent, [(7, 0..4096), (7, 4096..8192), (7, 8192..12288), (7, 12288..STEP)]);
    }

    #[test]
    fn chunks_are_whole_tiles_where_formats_differ() {
        let leaves = vec![Leaf::new("a", DType::F64, [1500]), Leaf::new("b", DType::F16, [1000])];
        let layout = Layout::new(&Tree::new(leaves).unwrap(), Shard::WHOLE).unwrap();
        let sent = send_all(&mut Window::new(layout, 1, Position::start_of(0)), 1);
        let second_tile_end = 1500 * 8 + 548 * 2;
        assert_eq!(sent, [(0, 0..8192), (0, 8192..second_tile_end), (0, second_tile_end..14000)]);
    }

    #[test]
    fn the_next_step_waits_for_the_same_bytes_of_the_last() {
        let mut window = window(4096);
        assert_eq!(send_all(&mut window, 9).len(), 4);
        assert!(window.take(answer(7, 0..4000)).unwrap().is_some());
        assert_eq!(window.next_chunk(9), None);
        assert!(window.take(answer(7, 4000..8192)).unwrap().is_some());
        assert_eq!(send_all(&mut window, 9), [(8, 0..4096), (8, 4096..8192)]);
        let last = window.take(answer(7, 8192..STEP)).unwrap().unwrap();
        assert!(last.step_end);
        assert_eq!(send_all(&mut window, 10), [(8, 8192..12288), (8, 12288..STEP)]);
    }

    #[test]
    fn after_a_cut_the_missing_tile_is_asked_again_and_bytes_are_handed_out_once() {
        let mut window = window(4096);
        send_all(&mut window, 9);
        window.take(answer(7, 0..8192)).unwrap();
        window.take(answer(7, 8192..9000)).unwrap();
        send_all(&mut window, 9);
        window.reconnect();
        assert_eq!(send_all(&mut window, 8), [(7, 8192..12288), (7, 12288..STEP)]);
        assert_eq!(window.take(answer(7, 8192..8200)).unwrap(), None);
        let rest = window.take(answer(7, 8200..STEP)).unwrap().unwrap();
        assert_eq!((rest.offset, rest.payload.len(), rest.step_end), (9000, STEP - 9000, true));
        assert!(window.is_at_start_of(8));
    }

    #[test]
    fn answers_out_of_order_are_refused() {
        for (step, range) in [(7, 4096..8192), (8, 0..4096), (7, 0..STEP + 1), (7, 0..0)] {
            let mut window = window(4096);
            send_all(&mut window, 8);
            assert!(matches!(window.take(answer(step, range)), Err(Error::Protocol { .. })));
        }
    }
}
