//! One sweep of a step, or of a few, over tiles: decode, recurrences, encode, digest; split between threads.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use arrayvec::ArrayVec;
use pulp::Simd;
use twox_hash::XxHash3_64;

use super::{Aligned, Backend, Program, Real, all_finite, decode, encode};
use crate::dtype::Precision;
use crate::limits::{
    BLOCK_LANES, MAX_REPLAY_PLANES, MAX_STEPS_A_PASS, PARALLEL_BYTES, PARALLEL_GRAIN_BYTES, RUN_LANES,
    TILE_LANES,
};
use crate::noise::StepNoise;
use crate::tree::Layout;

/// Values of `planes` planes of `lanes` lanes, which begin at a tile: lanes are rounded up to whole blocks.
pub(crate) fn state_values(lanes: usize, planes: usize) -> usize {
    lanes.next_multiple_of(BLOCK_LANES) * planes
}

/// The place of the state of these lanes, which begin at a tile, among the values of all.
pub(crate) fn state_range(lanes: &Range<usize>, planes: usize) -> Range<usize> {
    let first = lanes.start * planes;
    first..first + state_values(lanes.len(), planes)
}

/// The state of every lane, laid out so that one step is one sweep through memory: tile after tile, and
/// within a tile the planes of one stage of the matrix after those of another. A stage that moves all its
/// planes in every step has them block of lanes after block, and within a block plane after plane. A ring of
/// which most steps move a few planes only has them plane after plane.
#[derive(Clone, Debug)]
pub(crate) enum LaneState {
    F32(Aligned<f32>),
    F64(Aligned<f64>),
}

impl LaneState {
    /// All zero.
    pub(crate) fn zeroed(precision: Precision, lanes: usize, planes: usize) -> Self {
        let values = state_values(lanes, planes);
        match precision {
            Precision::F32 => Self::F32(Aligned::zeroed(values)),
            Precision::F64 => Self::F64(Aligned::zeroed(values)),
        }
    }

    /// Takes the memory of a state that was just made from the system now, by threads of rayon's, and not
    /// when it is used.
    pub(crate) fn touch(&mut self) {
        match self {
            Self::F32(values) => values.touch(),
            Self::F64(values) => values.touch(),
        }
    }

    /// Becomes a copy of a state of the same session.
    pub(crate) fn copy_from(&mut self, other: &Self) {
        match (self, other) {
            (Self::F32(values), Self::F32(other)) => values.copy_from_slice(other),
            (Self::F64(values), Self::F64(other)) => values.copy_from_slice(other),
            (Self::F32(_), Self::F64(_)) | (Self::F64(_), Self::F32(_)) => {
                debug_assert!(false, "states of one session have one precision");
            }
        }
    }

    /// All of it as it lies in memory, which is how it is stored.
    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            Self::F32(values) => bytemuck::cast_slice(values),
            Self::F64(values) => bytemuck::cast_slice(values),
        }
    }

    /// The same to be written to.
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        match self {
            Self::F32(values) => bytemuck::cast_slice_mut(values),
            Self::F64(values) => bytemuck::cast_slice_mut(values),
        }
    }

    /// Sets all of it to zero.
    pub(crate) fn clear(&mut self) {
        match self {
            Self::F32(values) => values.fill(0.0),
            Self::F64(values) => values.fill(0.0),
        }
    }
}

/// Where steps are done: a run of lanes that starts at a tile and ends at one or at the end of the layout.
#[derive(Clone)]
pub(crate) struct Pass<'a> {
    pub(crate) backend: Backend,
    pub(crate) layout: &'a Layout,
    pub(crate) planes: usize,
    pub(crate) lanes: Range<usize>,
}

/// One step of a pass.
pub(crate) struct StepIo<'a, T> {
    pub(crate) program: &'a Program<T>,
    pub(crate) data: Data<'a>,
    /// Gets a digest of each tile's input, or is empty.
    pub(crate) digests: &'a mut [u64],
}

/// A step's bytes for the lanes of a pass.
pub(crate) enum Data<'a> {
    /// From one place to another.
    Between { input: &'a [u8], output: &'a mut [u8] },
    /// The output takes the place of the input, which spares a third of the traffic of a small matrix.
    InPlace(&'a mut [u8]),
    /// The input is drawn. `finite` is set to `false` where a number of the output is not.
    Drawn { noise: Draw<'a>, output: &'a mut [u8], finite: &'a AtomicBool },
    /// The input is drawn, and the output of no use: only the state is to go on.
    Passed(Draw<'a>),
}

/// The noise of one step for the lanes of a layout.
#[derive(Clone, Copy)]
pub(crate) struct Draw<'a> {
    pub(crate) step: &'a StepNoise,
    /// The place of the layout's first lane in the whole tree.
    pub(crate) first_lane: u64,
}

impl Draw<'_> {
    #[inline(always)]
    fn lanes<T: Real, S: Simd>(self, simd: S, start: usize, values: &mut [T]) {
        self.step.draw(simd, self.first_lane + start as u64, values, T::from_f64(self.step.stddev()));
    }
}

/// The steps of a pass, first to last: as many as one sweep gives answers to, after those that fill a ring.
pub(crate) type Steps<'a, T> = ArrayVec<StepIo<'a, T>, { MAX_STEPS_A_PASS + MAX_REPLAY_PLANES }>;

/// The state that a pass runs on.
pub(crate) enum PassState<'a, T> {
    /// That of exactly the pass's lanes, kept from pass to pass.
    Kept(&'a mut [T]),
    /// None: each tile begins with zeros, which are forgotten with it.
    Forgotten,
}

impl<'a, T> PassState<'a, T> {
    fn split_at(self, value: usize) -> (Self, Self) {
        match self {
            Self::Kept(state) => {
                let (a, b) = state.split_at_mut(value);
                (Self::Kept(a), Self::Kept(b))
            }
            Self::Forgotten => (Self::Forgotten, Self::Forgotten),
        }
    }
}

impl<'a> Data<'a> {
    fn split_at(self, byte: usize) -> (Self, Self) {
        match self {
            Self::Between { input, output } => {
                let (input, input_b) = input.split_at(byte);
                let (output, output_b) = output.split_at_mut(byte);
                (Self::Between { input, output }, Self::Between { input: input_b, output: output_b })
            }
            Self::InPlace(bytes) => {
                let (bytes, bytes_b) = bytes.split_at_mut(byte);
                (Self::InPlace(bytes), Self::InPlace(bytes_b))
            }
            Self::Drawn { noise, output, finite } => {
                let (output, output_b) = output.split_at_mut(byte);
                (Self::Drawn { noise, output, finite }, Self::Drawn { noise, output: output_b, finite })
            }
            Self::Passed(noise) => (Self::Passed(noise), Self::Passed(noise)),
        }
    }

    fn slice(&mut self, range: Range<usize>) -> Data<'_> {
        match self {
            Self::Between { input, output } => {
                Data::Between { input: &input[range.clone()], output: &mut output[range] }
            }
            Self::InPlace(bytes) => Data::InPlace(&mut bytes[range]),
            Self::Drawn { noise, output, finite } => {
                Data::Drawn { noise: *noise, output: &mut output[range], finite }
            }
            Self::Passed(noise) => Data::Passed(*noise),
        }
    }

    /// Empty where it is drawn.
    pub(crate) fn input(&self) -> &[u8] {
        match self {
            Self::Between { input, output: _ } => input,
            Self::InPlace(bytes) => bytes,
            Self::Drawn { .. } | Self::Passed(_) => &[],
        }
    }

    /// `None` where it is of no use.
    fn output(&mut self) -> Option<&mut [u8]> {
        match self {
            Self::Between { output, input: _ } | Self::Drawn { output, noise: _, finite: _ } => Some(output),
            Self::InPlace(bytes) => Some(bytes),
            Self::Passed(_) => None,
        }
    }
}

impl<'a, T> StepIo<'a, T> {
    fn split_at(self, tiles: usize, byte: usize) -> (Self, Self) {
        let Self { program, data, digests } = self;
        let (data, data_b) = data.split_at(byte);
        let (digests, digests_b) = digests.split_at_mut(tiles.min(digests.len()));
        (Self { program, data, digests }, Self { program, data: data_b, digests: digests_b })
    }
}

impl Pass<'_> {
    /// Applies one step after the other; each tile goes through all of them while its state is in cache.
    /// Where it takes longer than waking threads does, those of the rayon pool that this is called in take
    /// part; the thread that calls begins at once, whether or not it is one of the pool's.
    pub(crate) fn run<T: Real>(self, state: PassState<'_, T>, steps: Steps<'_, T>) {
        let bytes = self.lanes.len() * (self.planes + steps.len()) * size_of::<T>();
        if bytes <= PARALLEL_BYTES || self.lanes.len() <= TILE_LANES {
            return self.sweep(state, steps);
        }
        let helpers = (rayon::current_num_threads() - 1).min(bytes / PARALLEL_GRAIN_BYTES);
        let tiles = self.lanes.len().div_ceil(TILE_LANES);
        let of_part = (tiles * PARALLEL_GRAIN_BYTES / bytes).max(1);
        let rest = Mutex::new(Some(Part { pass: self, state, steps }));
        let work = || {
            while let Some(part) = Part::take(&rest, of_part) {
                part.pass.sweep(part.state, part.steps);
            }
        };
        rayon::in_place_scope(|scope| {
            (0..helpers).for_each(|_| scope.spawn(|_| work()));
            work();
        });
    }

    /// Lanes that go through all steps before the next. A tile; or so few of its lanes that their state stays
    /// in the first level of cache from step to step; or of a single step all whole tiles, where numbers are
    /// worked on where they lie: what a tile costs beside its arithmetic is then paid once.
    fn run_lanes<T: Real>(&self, steps: &mut Steps<'_, T>) -> usize {
        if !steps.iter().all(is_apart) {
            return TILE_LANES;
        }
        match &mut steps[..] {
            [StepIo { program, data: Data::InPlace(bytes), digests: _ }] => {
                let whole = self.lanes.len() / TILE_LANES * TILE_LANES;
                let uniform = self.layout.uniform_dtype(&self.lanes) == Some(T::DTYPE);
                let as_they_lie = uniform && bytemuck::try_cast_slice::<u8, T>(bytes).is_ok();
                if as_they_lie && program.is_one_op() { whole.max(TILE_LANES) } else { TILE_LANES }
            }
            [_] | [] => TILE_LANES,
            _ => RUN_LANES,
        }
    }

    /// The same by the thread that calls.
    fn sweep<T: Real>(self, state: PassState<'_, T>, mut steps: Steps<'_, T>) {
        let origin = self.layout.byte_of_lane(self.lanes.start);
        let mut values = TileValues([T::default(); TILE_LANES]);
        let (mut state, mut forgotten) = match state {
            PassState::Kept(state) => (state, Aligned::zeroed(0)),
            PassState::Forgotten => (&mut [][..], Aligned::zeroed(state_values(TILE_LANES, self.planes))),
        };
        let run_lanes = self.run_lanes(&mut steps);
        for (i, start) in self.lanes.clone().step_by(run_lanes).enumerate() {
            let lanes = start..self.lanes.end.min(start + run_lanes);
            let bytes =
                self.layout.byte_of_lane(lanes.start) - origin..self.layout.byte_of_lane(lanes.end) - origin;
            let of_tile = state_values(lanes.len(), self.planes);
            let state = match state.split_off_mut(..of_tile) {
                Some(kept) => kept,
                None => {
                    forgotten.fill(T::default());
                    &mut forgotten[..of_tile]
                }
            };
            for StepIo { program, data, digests } in &mut steps {
                let data = data.slice(bytes.clone());
                if let Some(digest) = digests.get_mut(i) {
                    *digest = digest_of(data.input());
                }
                let tile =
                    Tile { layout: self.layout, lanes: lanes.clone(), program, data, values: &mut values.0 };
                self.backend.run(tile, state);
            }
        }
    }
}

/// Whether tiles of a step can neither be told apart in the state nor by what they take from or give to the
/// step.
fn is_apart<T>(step: &StepIo<'_, T>) -> bool {
    step.program.is_block_by_block() && step.digests.is_empty()
}

/// What is left of a pass, which threads take their parts of.
struct Part<'a, T> {
    pass: Pass<'a>,
    state: PassState<'a, T>,
    steps: Steps<'a, T>,
}

impl<T: Real> Part<'_, T> {
    /// The next `tiles` of what is left.
    fn take<'a>(rest: &Mutex<Option<Part<'a, T>>>, tiles: usize) -> Option<Part<'a, T>> {
        // A thread that panics has taken its part: what is left is whole.
        let mut rest = rest.lock().unwrap_or_else(PoisonError::into_inner);
        let Part { pass, state, steps } = rest.take()?;
        let lanes = pass.lanes.clone();
        let middle = lanes.start + tiles * TILE_LANES;
        if middle >= lanes.end {
            return Some(Part { pass, state, steps });
        }
        let byte = pass.layout.byte_of_lane(middle) - pass.layout.byte_of_lane(lanes.start);
        let (state, state_rest) = state.split_at((middle - lanes.start) * pass.planes);
        let (mut of_part, mut steps_rest) = (ArrayVec::new(), ArrayVec::new());
        for step in steps {
            let (a, b) = step.split_at(tiles, byte);
            of_part.push(a);
            steps_rest.push(b);
        }
        let of_rest = Pass { lanes: middle..lanes.end, ..pass.clone() };
        *rest = Some(Part { pass: of_rest, state: state_rest, steps: steps_rest });
        Some(Part { pass: Pass { lanes: lanes.start..middle, ..pass }, state, steps: of_part })
    }
}

/// One step of one tile, or of another run of lanes.
pub(super) struct Tile<'a, T> {
    pub(super) layout: &'a Layout,
    pub(super) lanes: Range<usize>,
    pub(super) program: &'a Program<T>,
    pub(super) data: Data<'a>,
    /// Room for the tile's numbers, where they cannot be worked on where they lie.
    pub(super) values: &'a mut [T; TILE_LANES],
}

impl<T: Real> Tile<'_, T> {
    /// The tile's place among the tiles of the layout; the first one's, where it is a run of several.
    #[inline(always)]
    pub(super) fn index(&self) -> usize {
        self.lanes.start / TILE_LANES
    }

    /// Brings the input to where [`Tile::numbers`] gives it: to the place of the output where its bytes are
    /// numbers of `T` as they lie, and else into `values`. Tells whether it is the former.
    #[inline(always)]
    pub(super) fn load<S: Simd>(&mut self, simd: S) -> bool {
        let whole_blocks = self.lanes.len().is_multiple_of(BLOCK_LANES);
        if whole_blocks && self.layout.uniform_dtype(&self.lanes) == Some(T::DTYPE) {
            match &mut self.data {
                Data::Between { input, output } if bytemuck::try_cast_slice::<u8, T>(output).is_ok() => {
                    output.copy_from_slice(input);
                    return true;
                }
                Data::InPlace(bytes) if bytemuck::try_cast_slice::<u8, T>(bytes).is_ok() => return true,
                Data::Drawn { noise, output, finite: _ } => {
                    if let Ok(numbers) = bytemuck::try_cast_slice_mut::<u8, T>(output) {
                        noise.lanes(simd, self.lanes.start, numbers);
                        return true;
                    }
                }
                Data::Between { .. } | Data::InPlace(_) | Data::Passed(_) => {}
            }
        }
        if let Data::Drawn { noise, output: _, finite: _ } | Data::Passed(noise) = self.data {
            noise.lanes(simd, self.lanes.start, &mut self.values[..self.lanes.len()]);
        } else {
            self.decode();
        }
        // The last block of a tree is run whole: lanes that are none are zero, and stay it.
        self.values[self.lanes.len()..self.lanes.len().next_multiple_of(BLOCK_LANES)].fill(T::default());
        false
    }

    #[inline(always)]
    fn decode(&mut self) {
        for span in self.layout.spans(self.lanes.clone()) {
            decode(span.dtype, &self.data.input()[span.bytes], &mut self.values[span.lanes]);
        }
    }

    /// The numbers to be worked on, after [`Tile::load`]: whole blocks.
    #[inline(always)]
    pub(super) fn numbers(&mut self, in_place: bool) -> &mut [T] {
        if in_place && let Some(Ok(numbers)) = self.data.output().map(bytemuck::try_cast_slice_mut) {
            return numbers;
        }
        &mut self.values[..self.lanes.len().next_multiple_of(BLOCK_LANES)]
    }

    /// Brings the numbers to the output, where they are not there yet, and looks at what was drawn while it
    /// is in cache.
    #[inline(always)]
    pub(super) fn store(mut self, in_place: bool) {
        if !in_place && let Some(output) = self.data.output() {
            for span in self.layout.spans(self.lanes.clone()) {
                encode(span.dtype, &self.values[span.lanes], &mut output[span.bytes]);
            }
        }
        if let Data::Drawn { noise: _, output, finite } = self.data {
            for span in self.layout.spans(self.lanes) {
                if !all_finite(span.dtype, &output[span.bytes]) {
                    finite.store(false, Ordering::Relaxed);
                }
            }
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
