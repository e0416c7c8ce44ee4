//! Pieces of memory that follow one another, such as the leaves of a tree where they lie.

use std::ops::Range;

use bytes::{Bytes, BytesMut};

/// Pieces of memory as one, of which parts are put together as they are sent.
#[derive(Debug)]
pub(crate) struct Pieces<'p> {
    pieces: &'p [&'p [u8]],
    /// Where each ends, from the start of the first.
    ends: Vec<usize>,
}

impl<'p> Pieces<'p> {
    pub(crate) fn of(pieces: &'p [&'p [u8]]) -> Self {
        let mut end = 0;
        let add = |piece: &&[u8]| {
            end += piece.len();
            end
        };
        Self { pieces, ends: pieces.iter().map(add).collect() }
    }

    /// Bytes of all of them.
    pub(crate) fn len(&self) -> usize {
        self.ends.last().copied().unwrap_or(0)
    }

    /// A range of them, copied.
    pub(crate) fn gather(&self, range: Range<usize>) -> Bytes {
        let mut bytes = BytesMut::with_capacity(range.len());
        let mut index = self.ends.partition_point(|&end| end <= range.start);
        while bytes.len() < range.len() {
            let piece = self.pieces[index];
            let first = self.ends[index] - piece.len();
            let start = range.start + bytes.len() - first;
            let end = (range.end - first).min(piece.len());
            bytes.extend_from_slice(&piece[start..end]);
            index += 1;
        }
        bytes.freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_gathered() {
        let pieces: [&[u8]; 4] = [&[0, 1, 2], &[], &[3], &[4, 5, 6, 7]];
        let pieces = Pieces::of(&pieces);
        let whole: Vec<u8> = (0..8).collect();
        assert_eq!(pieces.len(), 8);
        for start in 0..=8 {
            for end in start..=8 {
                assert_eq!(pieces.gather(start..end), whole[start..end], "{start}..{end}");
            }
        }
        assert!(Pieces::of(&[]).gather(0..0).is_empty());
    }
}
