//! One sweep of a step over tiles: decode, recurrences, encode, digest; split between threads.

use std::ops::Range;

use twox_hash::XxHash3_64;

use super::{Aligned, Backend, Op, Real, decode, encode};
use crate::dtype::Precision;
use crate::limits::{PARALLEL_GRAIN_TILES, TILE_LANES};
use crate::tree::Layout;

/// The state of every lane of a session: block of lanes after block, and within a block plane after plane, so that one
/// step is one sweep through memory. The last block is as wide as the lanes that are left for it.
///
/// Blocks are short so that the planes of one do not lie a power of two of kilobytes apart: those would all fall into
/// the same few lines of a cache.
#[derive(Clone, Debug)]
pub(crate) enum LaneState {
    F32(Aligned<f32>),
    F64(Aligned<f64>),
}

impl LaneState {
    /// All zero.
    pub(crate) fn zeroed(precision: Precision, values: usize) -> Self {
        match precision {
            Precision::F32 => Self::F32(Aligned::zeroed(values)),
            Precision::F64 => Self::F64(Aligned::zeroed(values)),
        }
    }
}

/// What one step of one plan does, wherever it is done.
pub(crate) struct Pass<'a, T> {
    pub(crate) backend: Backend,
    pub(crate) layout: &'a Layout,
    pub(crate) ops: &'a [Op<T>],
    pub(crate) planes: usize,
}

impl<T: Real> Pass<'_, T> {
    /// Applies the step to `lanes`, which start at a tile and end at one or at the end of the layout.
    ///
    /// `state` is the state of exactly these lanes, `input` and `output` their bytes; `digests` gets a digest of each
    /// tile's input, or is empty. Long runs are split between the threads of the rayon pool that this is called in.
    pub(crate) fn run(
        &self,
        lanes: Range<usize>,
        state: &mut [T],
        input: &[u8],
        output: &mut [u8],
        digests: &mut [u64],
    ) {
        let tiles = lanes.len().div_ceil(TILE_LANES);
        if tiles > PARALLEL_GRAIN_TILES {
            let middle = lanes.start + tiles / 2 * TILE_LANES;
            let byte = self.layout.byte_of_lane(middle) - self.layout.byte_of_lane(lanes.start);
            let (state_a, state_b) = state.split_at_mut((middle - lanes.start) * self.planes);
            let (input_a, input_b) = input.split_at(byte);
            let (output_a, output_b) = output.split_at_mut(byte);
            let (digests_a, digests_b) = digests.split_at_mut((tiles / 2).min(digests.len()));
            rayon::join(
                || self.run(lanes.start..middle, state_a, input_a, output_a, digests_a),
                || self.run(middle..lanes.end, state_b, input_b, output_b, digests_b),
            );
            return;
        }
        let origin = self.layout.byte_of_lane(lanes.start);
        let mut values = TileValues([T::default(); TILE_LANES]);
        for (i, start) in lanes.clone().step_by(TILE_LANES).enumerate() {
            let tile = start..lanes.end.min(start + TILE_LANES);
            let bytes =
                self.layout.byte_of_lane(tile.start) - origin..self.layout.byte_of_lane(tile.end) - origin;
            let first = (start - lanes.start) * self.planes;
            let state = &mut state[first..first + tile.len() * self.planes];
            if let Some(digest) = digests.get_mut(i) {
                *digest = digest_of(&input[bytes.clone()]);
            }
            self.tile(tile, state, &input[bytes.clone()], &mut output[bytes], &mut values.0);
        }
    }

    fn tile(
        &self,
        lanes: Range<usize>,
        state: &mut [T],
        input: &[u8],
        output: &mut [u8],
        values: &mut [T; TILE_LANES],
    ) {
        let values = &mut values[..lanes.len()];
        for span in self.layout.spans(lanes.clone()) {
            decode(span.dtype, &input[span.bytes], &mut values[span.lanes]);
        }
        self.backend.run_tile(self.ops, self.planes, values, state);
        for span in self.layout.spans(lanes) {
            encode(span.dtype, &values[span.lanes], &mut output[span.bytes]);
        }
    }
}

/// A tile's numbers between its formats and its recurrences, on a cache line.
#[repr(align(64))]
struct TileValues<T>([T; TILE_LANES]);

/// Notices that a tile came with other bytes. It keeps nothing secret: a replay answers with stored bytes.
pub(crate) fn digest_of(tile: &[u8]) -> u64 {
    XxHash3_64::oneshot(tile)
}
