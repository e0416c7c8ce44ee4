//! Kernels: one step of a list of recurrences over tiles of lanes.
//!
//! Everything that runs is one picture: decode a tile of the step's bytes, run each recurrence on it against
//! that tile's planes while it is in cache, encode it into the output. `Op` is what a step multiplies with,
//! `body` the one algorithm over a tile, [`Backend`] the instruction sets that it is compiled for,
//! `reference` the plain form that each of them is compared with bit for bit, `codec` the formats, `pass` the
//! sweep over tiles and threads.

mod aligned;
mod backend;
mod body;
mod codec;
mod op;
mod pass;
mod reference;
mod sum;
mod vector;

pub(crate) use aligned::Aligned;
pub use backend::Backend;
pub(crate) use codec::{all_finite, decode, encode};
pub(crate) use op::{Banded, Op, Program, Push, StageOps};
pub(crate) use pass::{
    Data, Draw, LaneState, Pass, PassState, StepIo, Steps, digest_of, state_range, state_values,
};
pub(crate) use sum::{Sum, gradient_range};

use std::fmt::Debug;

use bytemuck::Pod;

use crate::dtype::{DType, Precision};
use crate::noise::Normal;
use vector::Vectors;

// Payloads are little endian, and are worked on where they lie.
const _: () = assert!(cfg!(target_endian = "little"), "numbers in memory are as they are on the wire");

/// A number format of state and arithmetic: f32 or f64.
pub(crate) trait Real:
    Copy
    + Debug
    + Default
    + Pod
    + Vectors
    + Normal
    + PartialOrd
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
    /// The same, in a leaf.
    const DTYPE: DType;
    /// The values of a state of this format.
    fn of_state(state: &mut LaneState) -> Option<&mut [Self]>;
    /// Rounds to nearest, ties to even.
    fn from_f64(value: f64) -> Self;
    /// Exact.
    fn to_f64(self) -> f64;
    /// Exact in f64.
    fn from_f32(value: f32) -> Self;
    /// Rounds to nearest, ties to even.
    fn to_f32(self) -> f32;
    /// Where it is not exact, the neighbour whose last bit is 1. A later rounding to a format with at least
    /// two bits less then gives what one rounding would have given.
    fn to_f32_odd(self) -> f32;
    /// `self * factor + addend`, rounded once.
    fn mul_add(self, factor: Self, addend: Self) -> Self;
    /// Neither infinite nor NaN.
    fn is_finite(self) -> bool;
}

impl Real for f32 {
    const PRECISION: Precision = Precision::F32;
    const DTYPE: DType = DType::F32;

    fn of_state(state: &mut LaneState) -> Option<&mut [Self]> {
        match state {
            LaneState::F32(values) => Some(values),
            LaneState::F64(_) => None,
        }
    }

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
    const DTYPE: DType = DType::F64;

    fn of_state(state: &mut LaneState) -> Option<&mut [Self]> {
        match state {
            LaneState::F32(_) => None,
            LaneState::F64(values) => Some(values),
        }
    }

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
