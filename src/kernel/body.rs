//! The one algorithm over a tile, compiled once for each instruction set.
//!
//! Every loop below is one sweep through memory (see [`LaneState`](super::LaneState)). A block's vectors stay
//! in registers from its input to its output. Each lane goes through what the reference does, in the same
//! order, so the bits do not depend on the width of a vector.

use pulp::Simd;

use super::Real;
use super::op::{Banded, Op, Program, Push};
use super::vector::{Vectors, vectors_in_block};
use crate::limits::MAX_STEPS_AHEAD;

/// Runs one step on a tile of whole blocks, in place.
#[inline(always)]
pub(super) fn run_tile<T: Real, S: Simd>(
    simd: S,
    program: &Program<T>,
    tile: usize,
    values: &mut [T],
    mut state: &mut [T],
) {
    for stage in &program.stages {
        let (of_stage, rest) = state.split_at_mut(values.len() * stage.planes);
        run_stage(simd, stage.of_tile(tile), values, of_stage);
        state = rest;
    }
}

#[inline(always)]
fn run_stage<T: Real, S: Simd>(simd: S, op: &Op<T>, values: &mut [T], state: &mut [T]) {
    let (values, state) = (T::vectors::<S>(values), T::vectors::<S>(state));
    if let Op::Banded(op) = op {
        return banded::<T, S>(simd, op, values, state);
    }
    match const { vectors_in_block::<T, S>() } {
        1 => run_blocks::<T, S, 1>(simd, op, values, state),
        2 => run_blocks::<T, S, 2>(simd, op, values, state),
        4 => run_blocks::<T, S, 4>(simd, op, values, state),
        8 => run_blocks::<T, S, 8>(simd, op, values, state),
        _ => run_blocks::<T, S, 16>(simd, op, values, state),
    }
}

/// A block's vectors in one plane.
type Block<T, S, const N: usize> = [<T as Vectors>::Vector<S>; N];

// Written as loops over indices: a closure would be a function of its own, without the instruction set.

/// `a*b + c`.
#[inline(always)]
fn fma<T: Real, S: Simd, const N: usize>(
    simd: S,
    a: T::Vector<S>,
    b: &Block<T, S, N>,
    c: &Block<T, S, N>,
) -> Block<T, S, N> {
    let mut result = *c;
    for i in 0..N {
        result[i] = T::fma(simd, a, b[i], c[i]);
    }
    result
}

#[inline(always)]
fn sum<T: Real, S: Simd, const N: usize>(simd: S, a: &Block<T, S, N>, b: &Block<T, S, N>) -> Block<T, S, N> {
    let mut result = *a;
    for i in 0..N {
        result[i] = T::sum(simd, a[i], b[i]);
    }
    result
}

#[inline(always)]
fn difference<T: Real, S: Simd, const N: usize>(
    simd: S,
    a: &Block<T, S, N>,
    b: &Block<T, S, N>,
) -> Block<T, S, N> {
    let mut result = *a;
    for i in 0..N {
        result[i] = T::difference(simd, a[i], b[i]);
    }
    result
}

#[inline(always)]
fn multiple<T: Real, S: Simd, const N: usize>(
    simd: S,
    a: T::Vector<S>,
    b: &Block<T, S, N>,
) -> Block<T, S, N> {
    let mut result = *b;
    for i in 0..N {
        result[i] = T::product(simd, a, b[i]);
    }
    result
}

#[inline(always)]
fn run_blocks<T: Real, S: Simd, const N: usize>(
    simd: S,
    op: &Op<T>,
    values: &mut [T::Vector<S>],
    state: &mut [T::Vector<S>],
) {
    let values = values.as_chunks_mut::<N>().0;
    let state = state.as_chunks_mut::<N>().0;
    match op {
        Op::Scale { factor } => {
            let factor = T::splat(simd, *factor);
            for x in values {
                *x = multiple::<T, S, N>(simd, factor, x);
            }
        }
        Op::PrefixSum => {
            for (x, s) in values.iter_mut().zip(state) {
                *s = sum::<T, S, N>(simd, s, x);
                *x = *s;
            }
        }
        Op::FirstDifference => {
            for (x, s) in values.iter_mut().zip(state) {
                (*x, *s) = (difference::<T, S, N>(simd, x, s), *x);
            }
        }
        Op::Momentum { momentum, learning_rate } => {
            let (momentum, learning_rate) = (T::splat(simd, *momentum), T::splat(simd, *learning_rate));
            for (x, [m, r]) in values.iter_mut().zip(state.as_chunks_mut::<2>().0) {
                *m = fma::<T, S, N>(simd, momentum, m, x);
                *r = fma::<T, S, N>(simd, learning_rate, m, r);
                *x = *r;
            }
        }
        Op::MomentumInverse { momentum, inverse_rate } => {
            let (negative, inverse_rate) = (T::splat(simd, -*momentum), T::splat(simd, *inverse_rate));
            for (x, [m, r]) in values.iter_mut().zip(state.as_chunks_mut::<2>().0) {
                let next = multiple::<T, S, N>(simd, inverse_rate, &difference::<T, S, N>(simd, x, r));
                *r = *x;
                *x = fma::<T, S, N>(simd, negative, m, &next);
                *m = next;
            }
        }
        // Not block by block.
        Op::Banded(_) => {}
        Op::Blt { weights, decay, push } => match push {
            Push::Input => blt::<T, S, N, false>(simd, weights, decay, values, state),
            Push::Output => blt::<T, S, N, true>(simd, weights, decay, values, state),
        },
    }
}

#[inline(always)]
fn blt<T: Real, S: Simd, const N: usize, const OUTPUT: bool>(
    simd: S,
    weights: &[T],
    decay: &[T],
    values: &mut [Block<T, S, N>],
    state: &mut [Block<T, S, N>],
) {
    /// The number of buffers known at compile time: loops unroll, and weights stay in registers.
    #[inline(always)]
    fn of<T: Real, S: Simd, const N: usize, const OUTPUT: bool, const D: usize>(
        simd: S,
        weights: &[T],
        decay: &[T],
        values: &mut [Block<T, S, N>],
        state: &mut [Block<T, S, N>],
    ) {
        let zero = T::splat(simd, T::default());
        let (mut weight, mut theta) = ([zero; D], [zero; D]);
        for k in 0..D {
            (weight[k], theta[k]) = (T::splat(simd, weights[k]), T::splat(simd, decay[k]));
        }
        for (x, s) in values.iter_mut().zip(state.as_chunks_mut::<D>().0) {
            let input = *x;
            let mut y = input;
            for k in 0..D {
                y = fma::<T, S, N>(simd, weight[k], &s[k], &y);
            }
            let pushed = if OUTPUT { y } else { input };
            for k in 0..D {
                s[k] = fma::<T, S, N>(simd, theta[k], &s[k], &pushed);
            }
            *x = y;
        }
    }
    match weights.len() {
        1 => of::<T, S, N, OUTPUT, 1>(simd, weights, decay, values, state),
        2 => of::<T, S, N, OUTPUT, 2>(simd, weights, decay, values, state),
        3 => of::<T, S, N, OUTPUT, 3>(simd, weights, decay, values, state),
        4 => of::<T, S, N, OUTPUT, 4>(simd, weights, decay, values, state),
        5 => of::<T, S, N, OUTPUT, 5>(simd, weights, decay, values, state),
        6 => of::<T, S, N, OUTPUT, 6>(simd, weights, decay, values, state),
        7 => of::<T, S, N, OUTPUT, 7>(simd, weights, decay, values, state),
        8 => of::<T, S, N, OUTPUT, 8>(simd, weights, decay, values, state),
        planes => {
            for (x, s) in values.iter_mut().zip(state.chunks_exact_mut(planes)) {
                let input = *x;
                let mut y = input;
                for (s, weight) in s.iter().zip(weights) {
                    y = fma::<T, S, N>(simd, T::splat(simd, *weight), s, &y);
                }
                let pushed = if OUTPUT { y } else { input };
                for (s, theta) in s.iter_mut().zip(decay) {
                    *s = fma::<T, S, N>(simd, T::splat(simd, *theta), s, &pushed);
                }
                *x = y;
            }
        }
    }
}

#[inline(always)]
fn banded<T: Real, S: Simd>(
    simd: S,
    op: &Banded<T>,
    values: &mut [T::Vector<S>],
    state: &mut [T::Vector<S>],
) {
    if op.planes == 0 {
        let diagonal = T::splat(simd, op.diagonal);
        for x in values {
            *x = T::product(simd, diagonal, *x);
        }
        return;
    }
    const { assert!(MAX_STEPS_AHEAD == 5, "one arm for each number of sums") };
    match op.ahead.len() {
        0 => banded_in::<T, S, 0>(simd, op, values, state),
        1 => banded_in::<T, S, 1>(simd, op, values, state),
        2 => banded_in::<T, S, 2>(simd, op, values, state),
        3 => banded_in::<T, S, 3>(simd, op, values, state),
        4 => banded_in::<T, S, 4>(simd, op, values, state),
        _ => banded_in::<T, S, 5>(simd, op, values, state),
    }
}

/// Several vectors of a plane at a time, as many as registers hold the sums of: what it costs to find a plane
/// and a weight is shared by them, and their sums do not wait for one another.
#[inline(always)]
fn banded_in<T: Real, S: Simd, const A: usize>(
    simd: S,
    op: &Banded<T>,
    values: &mut [T::Vector<S>],
    state: &mut [T::Vector<S>],
) {
    let stride = if op.interleaved { 0 } else { values.len() };
    let done = match const { vectors_at_a_time::<S>(A) } {
        4.. => banded_ahead::<T, S, 4, A>(simd, op, 0, stride, values, state),
        2.. => banded_ahead::<T, S, 2, A>(simd, op, 0, stride, values, state),
        _ => 0,
    };
    banded_ahead::<T, S, 1, A>(simd, op, done, stride, values, state);
}

/// Vectors whose sums, with those of `ahead` steps more, leave registers for what is read and what it is
/// multiplied with.
const fn vectors_at_a_time<S: Simd>(ahead: usize) -> usize {
    (S::REGISTER_COUNT - 2) / (ahead + 2)
}

/// The recurrence, and the sums of `A` steps ahead, from vector `first` on as far as there are `M` at a time.
/// Planes lie `stride` vectors apart, or block by block where that is 0. Returns the vector behind the last.
#[inline(always)]
fn banded_ahead<T: Real, S: Simd, const M: usize, const A: usize>(
    simd: S,
    op: &Banded<T>,
    first: usize,
    stride: usize,
    values: &mut [T::Vector<S>],
    state: &mut [T::Vector<S>],
) -> usize {
    let mut ahead = [op.weights.as_slice(); A];
    for (weights, of_later) in ahead.iter_mut().zip(&op.ahead) {
        *weights = &of_later[..op.weights.len()];
    }
    let zero = T::splat(simd, T::default());
    let groups = values[first..].as_chunks_mut::<M>().0;
    let end = first + groups.len() * M;
    for (group, x) in groups.iter_mut().enumerate() {
        let at = Place { vector: first + group * M, stride, planes: op.planes };
        let mut sum = if op.begun { at.load::<T, S, M>(state, op.newest) } else { [zero; M] };
        let mut sums_ahead = [[zero; M]; A];
        for (i, weight) in op.weights.iter().enumerate() {
            let s = at.load::<T, S, M>(state, plane(op, i));
            sum = fma::<T, S, M>(simd, T::splat(simd, *weight), &s, &sum);
            for later in 0..A {
                // The oldest are no part of the sums of the steps that come last.
                if i > later {
                    let weight = T::splat(simd, ahead[later][i]);
                    sums_ahead[later] = fma::<T, S, M>(simd, weight, &s, &sums_ahead[later]);
                }
            }
        }
        let y = fma::<T, S, M>(simd, T::splat(simd, op.diagonal), x, &sum);
        let pushed = if op.push == Push::Input { *x } else { y };
        at.store::<T, S, M>(state, op.newest, pushed);
        *x = y;
        for (later, sum) in sums_ahead.into_iter().enumerate() {
            at.store::<T, S, M>(state, plane(op, later + 1), sum);
        }
    }
    end
}

/// Where neighbouring vectors lie in each plane.
#[derive(Clone, Copy)]
struct Place {
    vector: usize,
    stride: usize,
    planes: usize,
}

impl Place {
    /// The vector `i` after the first in a plane.
    #[inline(always)]
    fn index<T: Vectors, S: Simd>(self, plane: usize, i: usize) -> usize {
        let in_block = const { vectors_in_block::<T, S>() };
        let vector = self.vector + i;
        (vector / in_block * self.planes + plane) * in_block + vector % in_block
    }

    #[inline(always)]
    fn load<T: Real, S: Simd, const M: usize>(self, state: &[T::Vector<S>], plane: usize) -> Block<T, S, M> {
        if self.stride > 0 {
            let start = plane * self.stride + self.vector;
            if let Some(block) = state[start..].first_chunk() {
                return *block;
            }
        }
        let mut block = [state[self.index::<T, S>(plane, 0)]; M];
        for (i, vector) in block.iter_mut().enumerate() {
            *vector = state[self.index::<T, S>(plane, i)];
        }
        block
    }

    #[inline(always)]
    fn store<T: Real, S: Simd, const M: usize>(
        self,
        state: &mut [T::Vector<S>],
        plane: usize,
        block: Block<T, S, M>,
    ) {
        if self.stride > 0 {
            let start = plane * self.stride + self.vector;
            if let Some(place) = state[start..].first_chunk_mut() {
                *place = block;
                return;
            }
        }
        for (i, vector) in block.into_iter().enumerate() {
            state[self.index::<T, S>(plane, i)] = vector;
        }
    }
}

/// The plane `i` after the first weight's, round the ring.
#[inline(always)]
fn plane<T>(op: &Banded<T>, i: usize) -> usize {
    let plane = op.first + i;
    if plane < op.planes { plane } else { plane - op.planes }
}
