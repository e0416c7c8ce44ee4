//! What the memory of this machine gives: an array updated in place.

use std::time::{Duration, Instant};

use bytemuck::cast_slice_mut;
use memmap2::{Advice, MmapMut};
use rayon::prelude::*;

/// Values that a thread takes at a time.
const CHUNK: usize = 1 << 16;

/// An array in huge pages, which is the best that this machine does.
pub(crate) struct InPlace {
    array: MmapMut,
}

impl InPlace {
    /// An array whose update reads and writes `moved` bytes altogether.
    pub(crate) fn new(moved: usize) -> anyhow::Result<Self> {
        let mut array = MmapMut::map_anon((moved / 2).next_multiple_of(64))?;
        #[cfg(target_os = "linux")]
        let _slower = array.advise(Advice::HugePage);
        cast_slice_mut::<u8, f32>(&mut array).fill(1.0);
        Ok(Self { array })
    }

    /// `a = a*s + b`, on all threads.
    pub(crate) fn update(&mut self) -> Duration {
        let start = Instant::now();
        cast_slice_mut::<u8, f32>(&mut self.array).par_chunks_mut(CHUNK).for_each(|chunk| {
            for a in chunk {
                *a = *a * 0.999 + 0.001;
            }
        });
        start.elapsed()
    }
}
