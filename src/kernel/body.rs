//! The one algorithm over a tile, compiled once for each instruction set.
//!
//! Every loop below is one sweep through memory (see [`LaneState`](super::LaneState)). A block's vectors stay in
//! registers from its input to its output. Each lane goes through what the reference does, in the same order, so the
//! bits do not depend on the width of a vector.

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
        Op::Banded(op) => banded::<T, S, N>(simd, op, values, state),
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
fn banded<T: Real, S: Simd, const N: usize>(
    simd: S,
    op: &Banded<T>,
    values: &mut [Block<T, S, N>],
    state: &mut [Block<T, S, N>],
) {
    if op.planes == 0 {
        let diagonal = T::splat(simd, op.diagonal);
        for x in values {
            *x = multiple::<T, S, N>(simd, diagonal, x);
        }
        return;
    }
    const { assert!(MAX_STEPS_AHEAD == 5, "one arm for each number of sums") };
    match op.ahead.len() {
        0 => banded_ahead::<T, S, N, 0>(simd, op, values, state),
        1 => banded_ahead::<T, S, N, 1>(simd, op, values, state),
        2 => banded_ahead::<T, S, N, 2>(simd, op, values, state),
        3 => banded_ahead::<T, S, N, 3>(simd, op, values, state),
        4 => banded_ahead::<T, S, N, 4>(simd, op, values, state),
        _ => banded_ahead::<T, S, N, 5>(simd, op, values, state),
    }
}

/// The recurrence, and the sums of `A` steps ahead.
#[inline(always)]
fn banded_ahead<T: Real, S: Simd, const N: usize, const A: usize>(
    simd: S,
    op: &Banded<T>,
    values: &mut [Block<T, S, N>],
    state: &mut [Block<T, S, N>],
) {
    let mut ahead = [op.weights.as_slice(); A];
    for (weights, of_later) in ahead.iter_mut().zip(&op.ahead) {
        *weights = &of_later[..op.weights.len()];
    }
    let zero = T::splat(simd, T::default());
    let (plane_stride, block_stride) = if op.interleaved { (1, op.planes) } else { (values.len(), 1) };
    for (block, x) in values.iter_mut().enumerate() {
        let state = &mut state[block * block_stride..];
        let newest = op.newest * plane_stride;
        let mut sum = if op.begun { state[newest] } else { [zero; N] };
        let mut sums_ahead = [[zero; N]; A];
        for (i, weight) in op.weights.iter().enumerate() {
            let s = state[plane(op, i) * plane_stride];
            sum = fma::<T, S, N>(simd, T::splat(simd, *weight), &s, &sum);
            for later in 0..A {
                // The oldest are no part of the sums of the steps that come last.
                if i > later {
                    let weight = T::splat(simd, ahead[later][i]);
                    sums_ahead[later] = fma::<T, S, N>(simd, weight, &s, &sums_ahead[later]);
                }
            }
        }
        let y = fma::<T, S, N>(simd, T::splat(simd, op.diagonal), x, &sum);
        state[newest] = if op.push == Push::Input { *x } else { y };
        *x = y;
        for later in 0..A {
            state[plane(op, later + 1) * plane_stride] = sums_ahead[later];
        }
    }
}

/// The plane `i` after the first weight's, round the ring.
#[inline(always)]
fn plane<T>(op: &Banded<T>, i: usize) -> usize {
    let plane = op.first + i;
    if plane < op.planes { plane } else { plane - op.planes }
}
