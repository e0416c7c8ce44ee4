//! Gradient plus noise, tile by tile: decode, add, encode, digest; split between threads.

use std::ops::Range;

use pulp::{Simd, WithSimd};

use super::{Backend, Real, all_finite, decode, digest_of, encode};
use crate::dtype::{DType, Precision};
use crate::limits::{PARALLEL_GRAIN_BYTES, TILE_LANES};
use crate::tree::Layout;

/// A run of lanes that starts at a tile and ends at one or at the end of the layout, with the bytes of just
/// these lanes.
pub(crate) struct Sum<'a> {
    pub(crate) backend: Backend,
    pub(crate) lanes: Range<usize>,
    /// How the gradient is written.
    pub(crate) gradient_layout: &'a Layout,
    pub(crate) gradient: &'a [u8],
    /// Numbers of the format of the arithmetic, as they lie in memory.
    pub(crate) noise: &'a [u8],
    /// How the sum is written.
    pub(crate) layout: &'a Layout,
    pub(crate) output: &'a mut [u8],
    /// Gets a digest of each tile of the gradient.
    pub(crate) digests: &'a mut [u64],
}

impl Sum<'_> {
    /// Adds in `T`, and rounds each sum once to the format that it is written in. Tells whether each number
    /// of the gradient is in the [range](gradient_range) that leaves room for the noise, and each sum is
    /// finite.
    pub(crate) fn run<T: Real>(self) -> bool {
        let tiles = self.lanes.len().div_ceil(TILE_LANES);
        if tiles > 1 && self.gradient.len() + self.noise.len() + self.output.len() > PARALLEL_GRAIN_BYTES {
            let (a, b) = self.split_at(tiles / 2, size_of::<T>());
            let (a, b) = rayon::join(|| a.run::<T>(), || b.run::<T>());
            return a && b;
        }
        let task =
            SumTask::<T> { sum: self, values: [T::default(); TILE_LANES], noise: [T::default(); TILE_LANES] };
        task.sum.backend.vectorize(task)
    }

    fn split_at(self, tiles: usize, number_bytes: usize) -> (Self, Self) {
        let Self { backend, lanes, gradient_layout, gradient, noise, layout, output, digests } = self;
        let middle = lanes.start + tiles * TILE_LANES;
        let byte = |layout: &Layout| layout.byte_of_lane(middle) - layout.byte_of_lane(lanes.start);
        let (gradient, gradient_b) = gradient.split_at(byte(gradient_layout));
        let (output, output_b) = output.split_at_mut(byte(layout));
        let (noise, noise_b) = noise.split_at(tiles * TILE_LANES * number_bytes);
        let (digests, digests_b) = digests.split_at_mut(tiles);
        let a = Self {
            backend,
            lanes: lanes.start..middle,
            gradient_layout,
            gradient,
            noise,
            layout,
            output,
            digests,
        };
        let b = Self {
            backend,
            lanes: middle..lanes.end,
            gradient_layout,
            gradient: gradient_b,
            noise: noise_b,
            layout,
            output: output_b,
            digests: digests_b,
        };
        (a, b)
    }
}

/// The largest absolute value of a gradient whose sum with noise is written in `dtype`: half of the format's
/// range, or of the arithmetic's where that is narrower. A session refuses noise that takes more than the
/// other half.
///
/// The rule does not depend on the noise: whether a gradient is refused tells nothing about the noise of its
/// step.
pub(crate) fn gradient_range(precision: Precision, dtype: DType) -> f64 {
    0.5 * dtype.largest().min(precision.dtype().largest())
}

/// Whether all values are in `-range..=range`; a NaN is not.
#[inline(always)]
fn in_range<T: Real>(values: &[T], range: f64) -> bool {
    let (low, high) = (T::from_f64(-range), T::from_f64(range));
    values.iter().fold(true, |all, &value| all & (low <= value) & (value <= high))
}

/// The loop over tiles, to be compiled within a function that has an instruction set switched on.
struct SumTask<'a, T> {
    sum: Sum<'a>,
    values: [T; TILE_LANES],
    noise: [T; TILE_LANES],
}

impl<T: Real> WithSimd for SumTask<'_, T> {
    type Output = bool;

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, _: S) -> bool {
        let Sum { backend: _, lanes, gradient_layout, gradient, noise, layout, output, digests } = self.sum;
        let place = |layout: &Layout, tile: &Range<usize>| {
            let origin = layout.byte_of_lane(lanes.start);
            layout.byte_of_lane(tile.start) - origin..layout.byte_of_lane(tile.end) - origin
        };
        let mut finite = true;
        for (i, start) in lanes.clone().step_by(TILE_LANES).enumerate() {
            let tile = start..lanes.end.min(start + TILE_LANES);
            let of_tile = &gradient[place(gradient_layout, &tile)];
            digests[i] = digest_of(of_tile);
            for span in gradient_layout.spans(tile.clone()) {
                decode(span.dtype, &of_tile[span.bytes], &mut self.values[span.lanes]);
            }
            for span in layout.spans(tile.clone()) {
                finite &= in_range(&self.values[span.lanes], gradient_range(T::PRECISION, span.dtype));
            }
            let first = (start - lanes.start) * size_of::<T>();
            let of_noise = &noise[first..first + tile.len() * size_of::<T>()];
            decode(T::DTYPE, of_noise, &mut self.noise[..tile.len()]);
            for (value, noise) in self.values.iter_mut().zip(&self.noise) {
                *value = *value + *noise;
            }
            let of_output = &mut output[place(layout, &tile)];
            for span in layout.spans(tile) {
                let written = &mut of_output[span.bytes];
                encode(span.dtype, &self.values[span.lanes], written);
                finite &= all_finite(span.dtype, written);
            }
        }
        finite
    }
}
