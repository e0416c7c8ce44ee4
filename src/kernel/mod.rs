//! Kernels: one step of a list of recurrences over tiles of lanes.
//!
//! Everything that runs is one picture: decode a tile of the step's bytes, run each recurrence on it against that
//! tile's planes while it is in cache, encode it into the output. `Op` is what a step multiplies with, `body` the
//! one algorithm over a tile, [`Backend`] the instruction sets that it is compiled for, `reference` the plain form
//! that each of them is compared with bit for bit, `codec` the formats, `pass` the sweep over tiles and threads.

mod aligned;
mod backend;
mod body;
mod codec;
mod pass;
mod reference;

pub(crate) use aligned::Aligned;
pub use backend::Backend;
pub(crate) use codec::{decode, encode};
pub(crate) use pass::{LaneState, Pass, digest_of};

use std::fmt::Debug;

use crate::dtype::Precision;

/// A number format of state and arithmetic: f32 or f64.
pub trait Real:
    Copy
    + Debug
    + Default
    + PartialEq
    + Send
    + Sync
    + 'static
    + std::ops::Add<Output = Self>
    + std::ops::Sub<Output = Self>
    + std::ops::Mul<Output = Self>
    + std::ops::Neg<Output = Self>
{
    /// Which format this is.
    const PRECISION: Precision;
    /// Rounds to nearest, ties to even.
    fn from_f64(value: f64) -> Self;
    /// Exact.
    fn to_f64(self) -> f64;
    /// Exact in f64.
    fn from_f32(value: f32) -> Self;
    /// Rounds to nearest, ties to even.
    fn to_f32(self) -> f32;
    /// Where it is not exact, the neighbour whose last bit is 1. A later rounding to a format with at least two bits
    /// less then gives what one rounding would have given.
    fn to_f32_odd(self) -> f32;
    /// `self * factor + addend`, rounded once.
    fn mul_add(self, factor: Self, addend: Self) -> Self;
    /// Neither infinite nor NaN.
    fn is_finite(self) -> bool;
}

impl Real for f32 {
    const PRECISION: Precision = Precision::F32;

    #[inline(always)]
    fn from_f64(value: f64) -> Self {
        value as f32
    }

    #[inline(always)]
    fn to_f64(self) -> f64 {
        f64::from(self)
    }

    #[inline(always)]
    fn from_f32(value: f32) -> Self {
        value
    }

    #[inline(always)]
    fn to_f32(self) -> f32 {
        self
    }

    #[inline(always)]
    fn to_f32_odd(self) -> f32 {
        self
    }

    #[inline(always)]
    fn mul_add(self, factor: Self, addend: Self) -> Self {
        f32::mul_add(self, factor, addend)
    }

    #[inline(always)]
    fn is_finite(self) -> bool {
        f32::is_finite(self)
    }
}

impl Real for f64 {
    const PRECISION: Precision = Precision::F64;

    #[inline(always)]
    fn from_f64(value: f64) -> Self {
        value
    }

    #[inline(always)]
    fn to_f64(self) -> f64 {
        self
    }

    #[inline(always)]
    fn from_f32(value: f32) -> Self {
        f64::from(value)
    }

    #[inline(always)]
    fn to_f32(self) -> f32 {
        self as f32
    }

    #[inline(always)]
    fn to_f32_odd(self) -> f32 {
        let nearest = self as f32;
        let back = f64::from(nearest);
        if back == self || self.is_nan() || nearest.to_bits() & 1 == 1 {
            return nearest;
        }
        // The other neighbour is the odd one; bits of one sign are ordered as magnitudes are.
        let bits = nearest.to_bits();
        f32::from_bits(if back.abs() > self.abs() { bits - 1 } else { bits + 1 })
    }

    #[inline(always)]
    fn mul_add(self, factor: Self, addend: Self) -> Self {
        f64::mul_add(self, factor, addend)
    }

    #[inline(always)]
    fn is_finite(self) -> bool {
        f64::is_finite(self)
    }
}

/// A plane of state and what it is multiplied with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Tap<T> {
    pub(crate) plane: usize,
    pub(crate) weight: T,
}

/// Whether a recurrence remembers what came in or what goes out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Push {
    Input,
    Output,
}

/// One recurrence of one step: `x` comes in and `y` goes out, a lane at a time. `fma(a, b, c)` is `a*b + c` rounded
/// once; sums over taps run in the order of the list.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Op<T> {
    /// `y = factor*x`.
    Scale { factor: T },
    /// `s = s + x; y = s`.
    PrefixSum { plane: usize },
    /// `y = x - s; s = x`.
    FirstDifference { plane: usize },
    /// `m = fma(momentum, m, x); r = fma(learning_rate, m, r); y = r`, with `m, r` at `plane, plane + 1`.
    Momentum { plane: usize, momentum: T, learning_rate: T },
    /// `m' = inverse_rate*(x - r); y = fma(-momentum, m, m'); m = m'; r = x`.
    MomentumInverse { plane: usize, momentum: T, inverse_rate: T },
    /// `y = diagonal*x; y = fma(w_k, s_k, y)` for each tap; then `s_keep_in` is `x` or `y`.
    Banded { diagonal: T, taps: Vec<Tap<T>>, keep_in: Option<usize>, push: Push },
    /// `y = x; y = fma(w_k, s_k, y)` for each tap; then `s_k = fma(theta_k, s_k, p)` where `p` is `x` or `y`.
    Blt { taps: Vec<Tap<T>>, decay: Vec<T>, push: Push },
}
