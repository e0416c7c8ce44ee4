//! Instruction sets that the kernels are compiled for, and the choice between them at run time.

use std::fmt;
use std::sync::LazyLock;

use pulp::{Simd, WithSimd};

use super::pass::Tile;
use super::{Real, body, reference};
use crate::noise::StepNoise;

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
        static BEST: LazyLock<Backend> =
            LazyLock::new(|| Backend::available().last().copied().unwrap_or(Backend(Kind::Portable)));
        *BEST
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

    /// Takes a tile through one step. `state` is that of the tile.
    pub(super) fn run<T: Real>(self, tile: Tile<'_, T>, state: &mut [T]) {
        match self.0 {
            Kind::Reference => {
                let mut tile = tile;
                let (program, index, in_place) = (tile.program, tile.index(), tile.load(pulp::Scalar));
                reference::run_tile(program, index, tile.numbers(in_place), state);
                tile.store(in_place);
            }
            _ => self.vectorize(TileTask { tile, state }),
        }
    }
}

impl Backend {
    /// Draws the lanes of a step's noise from `first_lane` of the whole tree on.
    pub(crate) fn draw<T: Real>(self, noise: &StepNoise, first_lane: u64, values: &mut [T]) {
        self.vectorize(DrawTask { noise, first_lane, values });
    }

    /// Runs a task compiled for this instruction set.
    pub(super) fn vectorize<R>(self, task: impl WithSimd<Output = R>) -> R {
        match self.0 {
            Kind::Reference | Kind::Portable => task.with_simd(pulp::Scalar),
            #[cfg(target_arch = "x86_64")]
            Kind::V3(simd) => Simd::vectorize(simd, task),
            #[cfg(target_arch = "x86_64")]
            Kind::V4(simd) => Simd::vectorize(simd, task),
            #[cfg(target_arch = "aarch64")]
            Kind::Neon(simd) => Simd::vectorize(simd, task),
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
    tile: Tile<'a, T>,
    state: &'a mut [T],
}

impl<T: Real> WithSimd for TileTask<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { mut tile, state } = self;
        let (program, index, in_place) = (tile.program, tile.index(), tile.load(simd));
        body::run_tile(simd, program, index, tile.numbers(in_place), state);
        tile.store(in_place);
    }
}

/// Normals by themselves, to be compiled likewise.
struct DrawTask<'a, T> {
    noise: &'a StepNoise,
    first_lane: u64,
    values: &'a mut [T],
}

impl<T: Real> WithSimd for DrawTask<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let stddev = T::from_f64(self.noise.stddev());
        self.noise.draw(simd, self.first_lane, self.values, stddev);
    }
}
