//! The kept output of one step, as the pieces it was computed in.

use std::collections::VecDeque;
use std::ops::Range;

use bytes::{Bytes, BytesMut};

use super::OutputChunk;

/// The last output of every tile that has one: pieces in the order in which they were computed, which goes
/// round the step's bytes. The newest piece ends where the oldest begins.
#[derive(Debug, Default)]
pub(super) struct Outputs {
    pieces: VecDeque<Piece>,
}

#[derive(Debug)]
struct Piece {
    offset: usize,
    bytes: Bytes,
}

impl Piece {
    fn range(&self) -> Range<usize> {
        self.offset..self.offset + self.bytes.len()
    }
}

impl Outputs {
    /// Drops what is kept of `range` and returns a buffer of its length with anything in it. Where the
    /// dropped piece is exactly that range and no answer that is still on its way holds it, its memory is
    /// used again.
    pub(super) fn take_buffer(&mut self, range: Range<usize>) -> BytesMut {
        let mut reused = None;
        while let Some(piece) = self.pieces.front_mut().filter(|piece| overlap(&piece.range(), &range)) {
            let of_piece = piece.range();
            if of_piece.end > range.end {
                let _dropped = piece.bytes.split_to(range.end - of_piece.start);
                piece.offset = range.end;
                break;
            }
            if let Some(piece) = self.pieces.pop_front()
                && of_piece == range
            {
                reused = piece.bytes.try_into_mut().ok();
            }
        }
        reused.unwrap_or_else(|| BytesMut::zeroed(range.len()))
    }

    /// Keeps the output of the range that was taken last.
    pub(super) fn push(&mut self, range: Range<usize>, bytes: Bytes) {
        debug_assert_eq!(range.len(), bytes.len());
        self.pieces.push_back(Piece { offset: range.start, bytes });
    }

    /// Appends what is kept of `range`, in order.
    pub(super) fn collect(&self, range: Range<usize>, chunks: &mut Vec<OutputChunk>) {
        let first = chunks.len();
        for piece in self.pieces.iter().filter(|piece| overlap(&piece.range(), &range)) {
            let of_piece = piece.range();
            let (start, end) = (of_piece.start.max(range.start), of_piece.end.min(range.end));
            let bytes = piece.bytes.slice(start - of_piece.start..end - of_piece.start);
            chunks.push(OutputChunk { offset: start, bytes, replay: true });
        }
        // Pieces are kept from the oldest on, which may be in the middle of the step.
        chunks[first..].sort_by_key(|chunk| chunk.offset);
    }

    /// All that is kept, in the order of bytes.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Bytes> {
        let mut pieces: Vec<&Piece> = self.pieces.iter().collect();
        pieces.sort_by_key(|piece| piece.offset);
        pieces.into_iter().map(|piece| &piece.bytes)
    }
}

fn overlap(a: &Range<usize>, b: &Range<usize>) -> bool {
    a.start < b.end && b.start < a.end
}
