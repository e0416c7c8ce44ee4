//! The noise of one step, as kernels draw it.

use super::gaussian::{Normal, transform};
use super::keystream::{BLOCK_BYTES, Keystream};
use super::{GROUP_LANES, NoiseKey};
use crate::limits::TILE_LANES;

/// Groups that a run of a tile's lanes may lie in: one more than fills it, where it starts within one.
const TILE_GROUPS: usize = TILE_LANES / GROUP_LANES + 1;

/// The random words of one step, and what its normals are multiplied with.
#[derive(Clone, Debug)]
pub(crate) struct StepNoise {
    keystream: Keystream,
    stddev: f64,
}

impl StepNoise {
    pub(crate) fn new(key: &NoiseKey, step: u64, stddev: f64) -> Self {
        Self { keystream: Keystream::new(&key.of_step(step), 0), stddev }
    }

    /// Draws the lanes from `first_lane` of the whole tree on, as many as `values` holds.
    ///
    /// To be compiled within a function that has an instruction set switched on.
    #[inline(always)]
    pub(crate) fn draw<T: Normal>(&self, first_lane: u64, values: &mut [T], stddev: T) {
        if self.stddev == 0.0 {
            values.fill(T::default());
            return;
        }
        let mut words = Words([T::Word::default(); TILE_GROUPS * GROUP_LANES]);
        let mut lane = first_lane;
        let mut rest = values;
        while !rest.is_empty() {
            let before = (lane % GROUP_LANES as u64) as usize;
            let taken = rest.len().min(TILE_LANES);
            let (values, others) = rest.split_at_mut(taken);
            let words = &mut words.0[..(before + taken).next_multiple_of(GROUP_LANES)];
            let group_blocks = (GROUP_LANES * size_of::<T::Word>() / BLOCK_BYTES) as u64;
            let first_block = lane / GROUP_LANES as u64 * group_blocks;
            self.keystream.fill(first_block, bytemuck::cast_slice_mut(words));
            if before == 0 && taken == words.len() {
                transform(words, stddev, values);
            } else {
                let mut normals = Words([T::default(); TILE_GROUPS * GROUP_LANES]);
                transform(words, stddev, &mut normals.0);
                values.copy_from_slice(&normals.0[before..before + taken]);
            }
            lane += taken as u64;
            rest = others;
        }
    }

    /// The standard deviation of what is drawn.
    pub(crate) fn stddev(&self) -> f64 {
        self.stddev
    }
}

/// Words or normals on a cache line.
#[repr(align(64))]
struct Words<T>([T; TILE_GROUPS * GROUP_LANES]);
