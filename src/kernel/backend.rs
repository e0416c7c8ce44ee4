//! Instruction sets that the kernels are compiled for, and the choice between them at run time.

use std::fmt;

use pulp::NullaryFnOnce;
// On x86 `vectorize` is an inherent method.
#[cfg(target_arch = "aarch64")]
use pulp::Simd;

use super::{Op, Real, body, reference};

/// An instruction set, known to be there on this machine. Every backend gives the same bits.
#[derive(Clone, Copy, Debug)]
pub struct Backend(Kind);

#[derive(Clone, Copy, Debug)]
enum Kind {
    Reference,
    Portable,
    #[cfg(target_arch = "x86_64")]
    V3(pulp::x86::V3),
    #[cfg(target_arch = "x86_64")]
    V4(pulp::x86::V4),
    #[cfg(target_arch = "aarch64")]
    Neon(pulp::aarch64::Neon),
}

impl Backend {
    /// The plain scalar form, which the others are compared with.
    pub const REFERENCE: Self = Self(Kind::Reference);

    /// The fastest backend of this machine.
    pub fn best() -> Self {
        Self::available().last().copied().unwrap_or(Self(Kind::Portable))
    }

    /// Every backend that runs on this machine, slowest first.
    pub fn available() -> Vec<Self> {
        let mut all = vec![Self::REFERENCE, Self(Kind::Portable)];
        #[cfg(target_arch = "x86_64")]
        {
            all.extend(pulp::x86::V3::try_new().map(|simd| Self(Kind::V3(simd))));
            all.extend(pulp::x86::V4::try_new().map(|simd| Self(Kind::V4(simd))));
        }
        #[cfg(target_arch = "aarch64")]
        all.extend(pulp::aarch64::Neon::try_new().map(|simd| Self(Kind::Neon(simd))));
        all
    }

    /// A short name for logs and reports.
    pub fn name(self) -> &'static str {
        match self.0 {
            Kind::Reference => "reference",
            Kind::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            Kind::V3(_) => "avx2+fma",
            #[cfg(target_arch = "x86_64")]
            Kind::V4(_) => "avx512",
            #[cfg(target_arch = "aarch64")]
            Kind::Neon(_) => "neon",
        }
    }

    /// Runs one step of `ops` on a tile, in place. `state` holds the tile's planes, block after block.
    pub(super) fn run_tile<T: Real>(self, ops: &[Op<T>], planes: usize, values: &mut [T], state: &mut [T]) {
        let task = TileTask { ops, planes, values, state };
        match self.0 {
            Kind::Reference => reference::run_tile(task.ops, task.planes, task.values, task.state),
            Kind::Portable => task.call(),
            #[cfg(target_arch = "x86_64")]
            Kind::V3(simd) => simd.vectorize(task),
            #[cfg(target_arch = "x86_64")]
            Kind::V4(simd) => simd.vectorize(task),
            #[cfg(target_arch = "aarch64")]
            Kind::Neon(simd) => simd.vectorize(task),
        }
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The body, to be compiled again within a function that has an instruction set switched on.
struct TileTask<'a, T> {
    ops: &'a [Op<T>],
    planes: usize,
    values: &'a mut [T],
    state: &'a mut [T],
}

impl<T: Real> NullaryFnOnce for TileTask<'_, T> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        body::run_tile(self.ops, self.planes, self.values, self.state);
    }
}
