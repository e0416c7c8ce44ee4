//! The plain form of every recurrence: one lane after the other, one operation after the other.
//!
//! It is written for being read, and is what every backend is compared with bit for bit.

use super::{Op, Push, Real};
use crate::limits::BLOCK_LANES;

/// Runs one step of `ops` on a tile, in place. `state` holds the tile's planes, block after block.
pub(super) fn run_tile<T: Real>(ops: &[Op<T>], planes: usize, values: &mut [T], state: &mut [T]) {
    let lanes = values.len();
    for (lane, value) in values.iter_mut().enumerate() {
        let block = lane / BLOCK_LANES * BLOCK_LANES;
        let width = BLOCK_LANES.min(lanes - block);
        let at = |plane: usize| block * planes + plane * width + (lane - block);
        for op in ops {
            *value = run_lane(op, *value, at, state);
        }
    }
}

fn run_lane<T: Real>(op: &Op<T>, x: T, at: impl Fn(usize) -> usize, state: &mut [T]) -> T {
    match op {
        Op::Scale { factor } => *factor * x,
        Op::PrefixSum { plane } => {
            let s = state[at(*plane)] + x;
            state[at(*plane)] = s;
            s
        }
        Op::FirstDifference { plane } => {
            let y = x - state[at(*plane)];
            state[at(*plane)] = x;
            y
        }
        Op::Momentum { plane, momentum, learning_rate } => {
            let m = momentum.mul_add(state[at(*plane)], x);
            let r = learning_rate.mul_add(m, state[at(*plane + 1)]);
            state[at(*plane)] = m;
            state[at(*plane + 1)] = r;
            r
        }
        Op::MomentumInverse { plane, momentum, inverse_rate } => {
            let m = *inverse_rate * (x - state[at(*plane + 1)]);
            let y = (-*momentum).mul_add(state[at(*plane)], m);
            state[at(*plane)] = m;
            state[at(*plane + 1)] = x;
            y
        }
        Op::Banded { diagonal, taps, keep_in, push } => {
            let mut y = *diagonal * x;
            for tap in taps {
                y = tap.weight.mul_add(state[at(tap.plane)], y);
            }
            if let Some(plane) = keep_in {
                state[at(*plane)] = if *push == Push::Input { x } else { y };
            }
            y
        }
        Op::Blt { taps, decay, push } => {
            let mut y = x;
            for tap in taps {
                y = tap.weight.mul_add(state[at(tap.plane)], y);
            }
            let pushed = if *push == Push::Input { x } else { y };
            for (tap, theta) in taps.iter().zip(decay) {
                state[at(tap.plane)] = theta.mul_add(state[at(tap.plane)], pushed);
            }
            y
        }
    }
}
