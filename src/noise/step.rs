//! The noise of one step, as kernels draw it.

use pulp::Simd;
use zeroize::Zeroizing;

use super::gaussian::{Normal, transform};
use super::keystream::{BLOCK_BYTES, Keystream, Sink};
use super::secret::KEY_BYTES;
use super::{GROUP_LANES, NoiseKey};

/// The random words of one step, and what its normals are multiplied with.
#[derive(Clone, Debug)]
pub(crate) struct StepNoise {
    keystream: Keystream,
    stddev: f64,
}

impl StepNoise {
    /// The noise of a step. What its making leaves on the stack is for the caller to scrub.
    pub(crate) fn new(key: &NoiseKey, step: u64, stddev: f64) -> Self {
        let mut subkey = Zeroizing::new([0; KEY_BYTES]);
        key.of_step(step, &mut subkey);
        Self { keystream: Keystream::new(&subkey, 0), stddev }
    }

    /// Draws the lanes from `first_lane` of the whole tree on, as many as `values` holds. Words become
    /// normals in `simd`.
    #[inline(always)]
    pub(crate) fn draw<T: Normal, S: Simd>(&self, simd: S, first_lane: u64, values: &mut [T], stddev: T) {
        if self.stddev == 0.0 || values.is_empty() {
            values.fill(T::default());
            return;
        }
        let skipped = (first_lane % GROUP_LANES as u64) as usize;
        let group_blocks = Normals::<T>::GROUP_BLOCKS;
        let first_block = first_lane / GROUP_LANES as u64 * group_blocks as u64;
        let groups = (skipped + values.len()).div_ceil(GROUP_LANES);
        let normals = Normals { stddev, skipped, rest: values };
        self.keystream.run(first_block, groups * group_blocks, simd, normals);
    }

    /// The standard deviation of what is drawn.
    pub(crate) fn stddev(&self) -> f64 {
        self.stddev
    }
}

/// Keystream to normals.
struct Normals<'a, T> {
    stddev: T,
    /// Lanes of the next group that are before the first one wanted.
    skipped: usize,
    /// The lanes that are not drawn yet.
    rest: &'a mut [T],
}

impl<T: Normal> Sink for Normals<'_, T> {
    const GROUP_BLOCKS: usize = GROUP_LANES * size_of::<T::Word>() / BLOCK_BYTES;

    #[inline(always)]
    fn take(&mut self, blocks: &[[u64; 2]]) {
        let words = bytemuck::cast_slice::<_, T::Word>(blocks);
        let skipped = if words.is_empty() { 0 } else { std::mem::take(&mut self.skipped) };
        let taken = (words.len() - skipped).min(self.rest.len());
        let (values, rest) = std::mem::take(&mut self.rest).split_at_mut(taken);
        self.rest = rest;
        transform(words, self.stddev, skipped, values);
    }
}
