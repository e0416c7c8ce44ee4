//! What a stream of steps may send and what it must receive, without a network.

use std::ops::Range;

use bytes::Bytes;
use noised::Layout;
use noised::limits::TILE_LANES;
use noised::session::{ResolvedSpec, Source};

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
    /// The first byte, from the start of the step's answer.
    pub offset: usize,
    /// The bytes of `(A x)_t`, `(A z)_t` or `g_t + (A z)_t` from there.
    pub payload: Bytes,
    /// Whether an earlier request computed it.
    pub replay: bool,
    /// Whether it is the step's last.
    pub step_end: bool,
}

/// The bytes of a step, on their way up and on their way down. Both are the same lanes, so tiles join them.
#[derive(Clone, Debug)]
pub(crate) struct Traffic {
    /// What goes up, where it is not laid out as what comes down.
    upward: Upward,
    answer: Layout,
}

#[derive(Clone, Debug)]
enum Upward {
    /// One message without payload asks for a step.
    Nothing,
    /// Laid out as answers are.
    AsAnswers,
    Input(Layout),
}

impl Traffic {
    pub(crate) fn of(resolved: &ResolvedSpec) -> Self {
        let upward = match resolved.spec().source {
            Source::Gaussian(_) => Upward::Nothing,
            Source::Input | Source::Privatize { noise: _, answer_dtype: None } => Upward::AsAnswers,
            Source::Privatize { noise: _, answer_dtype: Some(_) } => {
                Upward::Input(resolved.input_layout().clone())
            }
        };
        Self { upward, answer: resolved.layout().clone() }
    }

    /// The lanes of an answer.
    pub(crate) fn answer(&self) -> &Layout {
        &self.answer
    }

    /// Bytes that go up for a step.
    pub(crate) fn input_bytes(&self) -> usize {
        self.input().map_or(0, Layout::byte_len)
    }

    /// Bytes that come down for a step.
    pub(crate) fn answer_bytes(&self) -> usize {
        self.answer.byte_len()
    }

    /// The byte of an answer that an offset in a request is of: the start of the same tile.
    pub(crate) fn answer_byte(&self, offset: usize) -> usize {
        match &self.upward {
            Upward::Nothing | Upward::AsAnswers => offset,
            Upward::Input(input) => byte_of_tile(&self.answer, tile_at(input, offset)),
        }
    }

    fn input(&self) -> Option<&Layout> {
        match &self.upward {
            Upward::Nothing => None,
            Upward::AsAnswers => Some(&self.answer),
            Upward::Input(layout) => Some(layout),
        }
    }

    /// Where a request starts that has the answer come from `offset` on, or from a little before: the start
    /// of a tile.
    fn request_offset(&self, offset: usize) -> usize {
        let tile = tile_at(&self.answer, offset);
        byte_of_tile(self.input().unwrap_or(&self.answer), tile)
    }
}

/// The tile that a byte lies in. Tiles differ in bytes where leaves differ in format, so it is searched for.
fn tile_at(layout: &Layout, byte: usize) -> usize {
    let tiles = layout.lanes().div_ceil(TILE_LANES);
    let (mut low, mut high) = (0, tiles);
    while low + 1 < high {
        let middle = low.midpoint(high);
        if byte_of_tile(layout, middle) <= byte {
            low = middle;
        } else {
            high = middle;
        }
    }
    low
}

fn byte_of_tile(layout: &Layout, tile: usize) -> usize {
    layout.byte_of_lane((tile * TILE_LANES).min(layout.lanes()))
}

/// Chunks end with a tile, so that the server need not put tiles together; a chunk has one tile at least.
fn chunk_end(layout: &Layout, offset: usize, chunk_bytes: usize) -> usize {
    let wanted = offset.saturating_add(chunk_bytes);
    if wanted >= layout.byte_len() {
        return layout.byte_len();
    }
    let end = byte_of_tile(layout, tile_at(layout, wanted));
    if end > offset { end } else { byte_of_tile(layout, tile_at(layout, offset) + 1) }
}

/// What is to be sent next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Chunk {
    pub(crate) step: u64,
    /// The request's offset.
    pub(crate) offset: usize,
    /// The bytes of the step's input; none where the server draws it.
    pub(crate) input: Range<usize>,
}

/// The state of a run of steps: how far it is sent, received on this connection, and received at all.
///
/// The server keeps one step's output, and bytes `[a, b)` of step `t + 1` say that the answer to bytes `[a,
/// b)` of step `t` has arrived. So they are sent only once it has, which also bounds what is under way to one
/// step. A step that has no input says so of all of the step before. After a cut, everything from the last
/// byte received on is asked for again.
///
/// All of a step may be sent before any of its answer is there: of a step that was released before a rewind,
/// the server holds the answer back until then.
#[derive(Clone, Debug)]
pub(crate) struct Window {
    traffic: Traffic,
    chunk_bytes: usize,
    /// In the bytes of a request's offset; the others are in those of answers.
    sent: Position,
    received: Position,
    /// Everything before it has been handed out. Ahead of `received` only after a cut.
    delivered: Position,
}

impl Window {
    /// From one place in the answers on. Where that is in the middle of a tile, a connection starts with the
    /// tile.
    pub(crate) fn new(traffic: Traffic, chunk_bytes: usize, start: Position) -> Self {
        let mut window = Self { traffic, chunk_bytes, sent: start, received: start, delivered: start };
        window.reconnect();
        window
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

    /// The next chunk to send, where there is one and it may be sent now. Inputs are at hand for the steps
    /// before `inputs_end`.
    pub(crate) fn next_chunk(&self, inputs_end: u64) -> Option<Chunk> {
        let Position { step, offset } = self.sent;
        if step >= inputs_end {
            return None;
        }
        let steps_ahead = step.saturating_sub(self.delivered.step);
        let Some(input) = self.traffic.input() else {
            return (steps_ahead == 0).then_some(Chunk { step, offset, input: 0..0 });
        };
        let end = chunk_end(input, offset, self.chunk_bytes);
        let allowed = match steps_ahead {
            0 => input.byte_len(),
            1 => self.traffic.request_offset(self.delivered.offset),
            _ => 0,
        };
        (end <= allowed).then_some(Chunk { step, offset, input: offset..end })
    }

    /// Notes that a chunk was sent.
    pub(crate) fn note_sent(&mut self, chunk: &Chunk) {
        let Chunk { step, offset: _, input } = chunk;
        self.sent = place(*step, input.end, self.traffic.input_bytes());
    }

    /// Takes an answer, and gives back what of it was not handed out before.
    pub(crate) fn take(&mut self, answer: Answer) -> Result<Option<Answer>> {
        let Answer { step, offset, mut payload, replay, step_end: _ } = answer;
        let total = self.traffic.answer_bytes();
        let end = offset.saturating_add(payload.len());
        let expected = self.received;
        if (Position { step, offset }) != expected || payload.is_empty() || end > total {
            return Err(Error::Protocol {
                message: format!(
                    "the server answered bytes {offset}..{end} of step {step} where byte {} of step {} was next",
                    expected.offset, expected.step
                ),
            });
        }
        self.received = place(step, end, total);
        if self.received <= self.delivered {
            return Ok(None);
        }
        let skip = if self.delivered.step == step { self.delivered.offset.saturating_sub(offset) } else { 0 };
        self.delivered = self.received;
        let payload = payload.split_off(skip);
        Ok(Some(Answer { step, offset: offset + skip, payload, replay, step_end: end == total }))
    }

    /// Goes back to the beginning of the step whose answer is not complete. What of it was handed out is not
    /// handed out again.
    pub(crate) fn restart(&mut self) {
        self.sent = Position::start_of(self.delivered.step);
        self.received = self.sent;
    }

    /// Goes back to where a new connection starts: the tile of the first byte that is missing.
    pub(crate) fn reconnect(&mut self) {
        let Position { step, offset } = self.delivered;
        let answer = &self.traffic.answer;
        self.sent = Position { step, offset: self.traffic.request_offset(offset) };
        self.received = Position { step, offset: byte_of_tile(answer, tile_at(answer, offset)) };
    }
}

/// The place after byte `end` of a step of `total` bytes.
fn place(step: u64, end: usize, total: usize) -> Position {
    if end == total { Position::start_of(step + 1) } else { Position { step, offset: end } }
}

#[cfg(test)]
mod tests {
    use noised::session::{KeyOrigin, Noise};
    use noised::{DType, Leaf, MatrixSpec, SessionSpec, Tree};

    use super::*;

    /// Tiles of 4 KiB, the last of 4 bytes.
    const STEP: usize = 3 * 4096 + 4;

    fn traffic(tree: Tree, source: Source) -> Traffic {
        let spec = SessionSpec::new(MatrixSpec::PrefixSum, tree);
        Traffic::of(&SessionSpec { source, ..spec }.resolve().unwrap())
    }

    fn noise() -> Noise {
        Noise { stddev: 1.0, key: KeyOrigin::Fresh }
    }

    fn flat() -> Tree {
        Tree::flat(3 * 1024 + 1, DType::F32).unwrap()
    }

    /// Tiles of 8192, 7600 and 904 bytes.
    fn mixed() -> Tree {
        let leaves = vec![Leaf::new("a", DType::F64, [1500]), Leaf::new("b", DType::F16, [1000])];
        Tree::new(leaves).unwrap()
    }

    fn window(chunk_bytes: usize) -> Window {
        Window::new(traffic(flat(), Source::Input), chunk_bytes, Position::start_of(7))
    }

    fn answer(step: u64, range: Range<usize>) -> Answer {
        let payload = Bytes::from(vec![step as u8; range.len()]);
        Answer { step, offset: range.start, payload, replay: false, step_end: false }
    }

    fn send_all(window: &mut Window, inputs_end: u64) -> Vec<(u64, Range<usize>)> {
        let mut sent = Vec::new();
        while let Some(chunk) = window.next_chunk(inputs_end) {
            window.note_sent(&chunk);
            assert_eq!(chunk.offset, chunk.input.start);
            sent.push((chunk.step, chunk.input));
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
        let traffic = traffic(mixed(), Source::Input);
        let sent = send_all(&mut Window::new(traffic, 1, Position::start_of(0)), 1);
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
    #[test]
    fn a_step_without_input_is_asked_for_once_the_last_one_is_there() {
        let mut window = Window::new(traffic(flat(), Source::Gaussian(noise())), 4096, Position::start_of(7));
        let asked = |step, offset| Some(Chunk { step, offset, input: 0..0 });
        assert_eq!(window.next_chunk(7), None);
        assert_eq!(window.next_chunk(9), asked(7, 0));
        window.note_sent(&asked(7, 0).unwrap());
        assert_eq!(window.next_chunk(9), None);
        window.take(answer(7, 0..STEP - 1)).unwrap();
        assert_eq!(window.next_chunk(9), None);
        assert!(window.take(answer(7, STEP - 1..STEP)).unwrap().unwrap().step_end);
        assert!(window.is_at_start_of(8));
        assert_eq!(window.next_chunk(9), asked(8, 0));
        window.note_sent(&asked(8, 0).unwrap());
        window.take(answer(8, 0..9000)).unwrap();
        window.reconnect();
        assert_eq!(window.next_chunk(9), asked(8, 8192));
        window.note_sent(&asked(8, 8192).unwrap());
        assert_eq!(window.next_chunk(10), None);
        let rest = window.take(answer(8, 8192..STEP)).unwrap().unwrap();
        assert_eq!((rest.offset, rest.payload.len(), rest.step_end), (9000, STEP - 9000, true));
        assert_eq!(window.next_chunk(10), asked(9, 0));
    }

    /// Gradients of mixed formats, answers of f32: tiles of 4096, 4096 and 1808 bytes.
    #[test]
    fn tiles_join_gradients_and_answers_of_other_formats() {
        let source = Source::Privatize { noise: noise(), answer_dtype: Some(DType::F32) };
        let traffic = traffic(mixed(), source);
        let (second, step) = (1500 * 8 + 548 * 2, 14000);
        assert_eq!((traffic.input_bytes(), traffic.answer_bytes()), (step, 10_000));
        assert_eq!([0, 8192, second].map(|byte| traffic.answer_byte(byte)), [0, 4096, 8192]);
        let mut window = Window::new(traffic, 1, Position::start_of(0));
        // All of a step goes before any of its answer comes.
        assert_eq!(send_all(&mut window, 2), [(0, 0..8192), (0, 8192..second), (0, second..step)]);
        window.take(answer(0, 0..4095)).unwrap();
        assert_eq!(window.next_chunk(2), None);
        window.take(answer(0, 4095..8191)).unwrap();
        assert_eq!(send_all(&mut window, 2), [(1, 0..8192)]);
        window.reconnect();
        assert_eq!(send_all(&mut window, 1), [(0, 8192..second), (0, second..step)]);
        assert_eq!(window.take(answer(0, 4096..8191)).unwrap(), None);
        let rest = window.take(answer(0, 8191..10_000)).unwrap().unwrap();
        assert_eq!((rest.offset, rest.step_end), (8191, true));
        assert_eq!(send_all(&mut window, 2), [(1, 0..8192), (1, 8192..second), (1, second..step)]);
    }

    #[test]
    fn a_run_goes_on_from_the_tile_of_what_is_missing() {
        let source = Source::Privatize { noise: noise(), answer_dtype: Some(DType::F32) };
        let start = Position { step: 3, offset: 5000 };
        let mut window = Window::new(traffic(mixed(), source), 1 << 20, start);
        assert_eq!(send_all(&mut window, 4), [(3, 8192..14000)]);
        let missing = window.take(answer(3, 4096..10_000)).unwrap().unwrap();
        assert_eq!((missing.offset, missing.step_end), (5000, true));
    }
}
