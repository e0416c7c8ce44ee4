//! Which memory a connection reads into.

use std::collections::VecDeque;
use std::ops::Range;

/// Buffers that are remembered. Of a connection, frames that are not handed on yet are in the last few.
const MOST_BUFFERS: usize = 16;

/// The addresses that a connection read into lately, up to the end of each buffer. Two slices that are held
/// and belong to one buffer are in one allocation.
#[derive(Debug, Default)]
pub(super) struct Buffers(VecDeque<Range<usize>>);

impl Buffers {
    /// Notes where the next bytes are read to: from here to the end of the buffer.
    pub(super) fn note(&mut self, room: Range<usize>) {
        if let Some(last) = self.0.back_mut()
            && last.end == room.end
        {
            // A buffer that nobody else holds any more is filled from its beginning again.
            last.start = last.start.min(room.start);
            return;
        }
        // What is there now is not what was there before.
        self.0.retain(|old| old.end <= room.start || room.end <= old.start);
        if self.0.len() == MOST_BUFFERS {
            self.0.pop_front();
        }
        self.0.push_back(room);
    }

    /// The end of the buffer that the byte at an address was read into, where that is known.
    pub(super) fn end_of(&self, address: usize) -> Option<usize> {
        self.0.iter().rev().find(|room| room.contains(&address)).map(|room| room.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_belongs_to_the_buffer_that_is_there_now() {
        let mut buffers = Buffers::default();
        buffers.note(100..200);
        buffers.note(150..200);
        buffers.note(300..400);
        buffers.note(120..200);
        buffers.note(200..250);
        for (address, end) in
            [(99, None), (120, Some(200)), (199, Some(200)), (200, Some(250)), (399, Some(400))]
        {
            assert_eq!(buffers.end_of(address), end, "{address}");
        }
        // Another one in the place of two.
        buffers.note(180..240);
        for (address, end) in [(120, None), (190, Some(240)), (245, None), (300, Some(400))] {
            assert_eq!(buffers.end_of(address), end, "{address}");
        }
        for i in 0..100 {
            buffers.note(1000 * i..1000 * i + 10);
        }
        assert_eq!(buffers.0.len(), MOST_BUFFERS);
        assert_eq!(buffers.end_of(99_005), Some(99_010));
    }
}
