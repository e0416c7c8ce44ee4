//! The plain form of every recurrence: one lane after the other, one operation after the other.
//!
//! It is written for being read, and is what every backend is compared with bit for bit.

use super::Real;
use super::op::{Banded, Op, Program, Push};
use crate::limits::BLOCK_LANES;

/// Runs one step on a tile of whole blocks, in place.
pub(super) fn run_tile<T: Real>(program: &Program<T>, tile: usize, values: &mut [T], mut state: &mut [T]) {
    let lanes = values.len();
    for stage in &program.stages {
        let op = stage.of_tile(tile);
        let (of_stage, rest) = state.split_at_mut(lanes * stage.planes);
        for (lane, value) in values.iter_mut().enumerate() {
            let at = |plane: usize| match op {
                Op::Banded(ring) if !ring.interleaved => plane * lanes + lane,
                _ => (lane / BLOCK_LANES * stage.planes + plane) * BLOCK_LANES + lane % BLOCK_LANES,
            };
            *value = run_lane(op, *value, at, of_stage);
        }
        state = rest;
    }
}

fn run_lane<T: Real>(op: &Op<T>, x: T, at: impl Fn(usize) -> usize, state: &mut [T]) -> T {
    match op {
        Op::Scale { factor } => *factor * x,
        Op::PrefixSum => {
            let s = state[at(0)] + x;
            state[at(0)] = s;
            s
        }
        Op::FirstDifference => {
            let y = x - state[at(0)];
            state[at(0)] = x;
            y
        }
        Op::Momentum { momentum, learning_rate } => {
            let m = momentum.mul_add(state[at(0)], x);
            let r = learning_rate.mul_add(m, state[at(1)]);
            state[at(0)] = m;
            state[at(1)] = r;
            r
        }
        Op::MomentumInverse { momentum, inverse_rate } => {
            let m = *inverse_rate * (x - state[at(1)]);
            let y = (-*momentum).mul_add(state[at(0)], m);
            state[at(0)] = m;
            state[at(1)] = x;
            y
        }
        Op::Banded(banded) => run_banded(banded, x, at, state),
        Op::Blt { weights, decay, push } => {
            let mut y = x;
            for (plane, weight) in weights.iter().enumerate() {
                y = weight.mul_add(state[at(plane)], y);
            }
            let pushed = if *push == Push::Input { x } else { y };
            for (plane, theta) in decay.iter().enumerate() {
                state[at(plane)] = theta.mul_add(state[at(plane)], pushed);
            }
            y
        }
    }
}

fn run_banded<T: Real>(op: &Banded<T>, x: T, at: impl Fn(usize) -> usize, state: &mut [T]) -> T {
    let Banded { planes, interleaved: _, newest, begun, first, weights, ahead, diagonal, push } = op;
    if *planes == 0 {
        return *diagonal * x;
    }
    let mut sum = if *begun { state[at(*newest)] } else { T::default() };
    for (i, weight) in weights.iter().enumerate() {
        sum = weight.mul_add(state[at((first + i) % planes)], sum);
    }
    let sums_ahead: Vec<T> = ahead
        .iter()
        .enumerate()
        .map(|(later, weights)| {
            let kept = weights.iter().enumerate().skip(later + 1);
            kept.fold(T::default(), |sum, (i, weight)| weight.mul_add(state[at((first + i) % planes)], sum))
        })
        .collect();
    let y = diagonal.mul_add(x, sum);
    state[at(*newest)] = if *push == Push::Input { x } else { y };
    for (later, sum) in sums_ahead.into_iter().enumerate() {
        state[at((newest + later + 1) % planes)] = sum;
    }
    y
}
