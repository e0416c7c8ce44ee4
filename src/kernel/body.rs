//! The one algorithm over a tile, compiled once for each instruction set.
//!
//! Every loop below runs over a fixed number of neighbouring lanes and does to each of them what the reference does,
//! in the same order, so the compiler may use any vector width without a change of bits. `mul_add` is one rounding
//! on every machine: an instruction where there is one, a library call where there is none.

use super::{Op, Push, Real, Tap};
use crate::limits::BLOCK_LANES;

/// Runs one step of `ops` on a tile, in place. `state` holds the tile's planes, block after block.
#[inline(always)]
pub(super) fn run_tile<T: Real>(ops: &[Op<T>], planes: usize, values: &mut [T], state: &mut [T]) {
    let (blocks, rest) = values.as_chunks_mut::<BLOCK_LANES>();
    let (of_blocks, of_rest) = state.split_at_mut(blocks.len() * BLOCK_LANES * planes);
    for (i, block) in blocks.iter_mut().enumerate() {
        let state = &mut of_blocks[i * BLOCK_LANES * planes..(i + 1) * BLOCK_LANES * planes];
        let mut planes = Planes { state, width: BLOCK_LANES, first: 0 };
        for op in ops {
            run_block(op, block, &mut planes);
        }
    }
    let width = rest.len();
    for (first, lane) in rest.iter_mut().enumerate() {
        let mut planes = Planes { state: of_rest, width, first };
        for op in ops {
            run_block(op, std::array::from_mut(lane), &mut planes);
        }
    }
}

/// `N` neighbouring lanes of every plane of a block.
struct Planes<'a, T> {
    state: &'a mut [T],
    width: usize,
    first: usize,
}

impl<T: Real> Planes<'_, T> {
    #[inline(always)]
    fn get<const N: usize>(&self, plane: usize) -> &[T; N] {
        let start = plane * self.width + self.first;
        &self.state[start..start + N].as_chunks::<N>().0[0]
    }

    #[inline(always)]
    fn get_mut<const N: usize>(&mut self, plane: usize) -> &mut [T; N] {
        let start = plane * self.width + self.first;
        &mut self.state[start..start + N].as_chunks_mut::<N>().0[0]
    }
}

#[inline(always)]
fn run_block<T: Real, const N: usize>(op: &Op<T>, values: &mut [T; N], planes: &mut Planes<'_, T>) {
    match op {
        Op::Scale { factor } => {
            for value in values {
                *value = *factor * *value;
            }
        }
        Op::PrefixSum { plane } => {
            for (value, s) in values.iter_mut().zip(planes.get_mut::<N>(*plane)) {
                *s = *s + *value;
                *value = *s;
            }
        }
        Op::FirstDifference { plane } => {
            for (value, s) in values.iter_mut().zip(planes.get_mut::<N>(*plane)) {
                let x = *value;
                *value = x - *s;
                *s = x;
            }
        }
        Op::Momentum { plane, momentum, learning_rate } => {
            let m = planes.get_mut::<N>(*plane);
            for (m, value) in m.iter_mut().zip(values.iter_mut()) {
                *m = momentum.mul_add(*m, *value);
                *value = *m;
            }
            for (r, value) in planes.get_mut::<N>(*plane + 1).iter_mut().zip(values) {
                *r = learning_rate.mul_add(*value, *r);
                *value = *r;
            }
        }
        Op::MomentumInverse { plane, momentum, inverse_rate } => {
            for (r, value) in planes.get_mut::<N>(*plane + 1).iter_mut().zip(values.iter_mut()) {
                let x = *value;
                *value = *inverse_rate * (x - *r);
                *r = x;
            }
            for (m, value) in planes.get_mut::<N>(*plane).iter_mut().zip(values) {
                let next = *value;
                *value = (-*momentum).mul_add(*m, next);
                *m = next;
            }
        }
        Op::Banded { diagonal, taps, keep_in, push } => {
            let input = *values;
            for value in values.iter_mut() {
                *value = *diagonal * *value;
            }
            accumulate(taps, values, planes);
            if let Some(plane) = keep_in {
                *planes.get_mut::<N>(*plane) = if *push == Push::Input { input } else { *values };
            }
        }
        Op::Blt { taps, decay, push } => {
            let input = *values;
            accumulate(taps, values, planes);
            let pushed = if *push == Push::Input { input } else { *values };
            for (tap, theta) in taps.iter().zip(decay) {
                for (s, p) in planes.get_mut::<N>(tap.plane).iter_mut().zip(&pushed) {
                    *s = theta.mul_add(*s, *p);
                }
            }
        }
    }
}

/// `value = fma(w_k, s_k, value)` for each tap, in order. Four planes a pass: the sums stay in registers.
#[inline(always)]
fn accumulate<T: Real, const N: usize>(taps: &[Tap<T>], values: &mut [T; N], planes: &Planes<'_, T>) {
    let (quads, rest) = taps.as_chunks::<4>();
    for [a, b, c, d] in quads {
        let (p, q) = (planes.get::<N>(a.plane), planes.get::<N>(b.plane));
        let (r, s) = (planes.get::<N>(c.plane), planes.get::<N>(d.plane));
        for i in 0..N {
            let sum = b.weight.mul_add(q[i], a.weight.mul_add(p[i], values[i]));
            values[i] = d.weight.mul_add(s[i], c.weight.mul_add(r[i], sum));
        }
    }
    for tap in rest {
        for (value, s) in values.iter_mut().zip(planes.get::<N>(tap.plane)) {
            *value = tap.weight.mul_add(*s, *value);
        }
    }
}
