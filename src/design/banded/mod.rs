//! The best banded Toeplitz matrix, as strategy or as noising matrix.
//!
//! Both are a banded `T` with coefficients `c`, of which `x = T^-1 r` is taken: of a strategy the prefix sums
//! of its inverse (`r` = 1, 1, ...), of a noising matrix the sum of the columns of its inverse in which a
//! user takes part (`r` = 1 at steps `0, b, 2b, ...`; arXiv 2405.13763, Theorem 2).
//!
//! Participations at `0, b, 2b, ...` are the worst where the strategy's first column does not rise, and are
//! never worse than the worst. So the optimum for them is the optimum itself wherever its own sensitivity is
//! that. Mostly it is. Where it is not, `worst` lowers the largest of what the patterns come to.

mod parts;
#[cfg(test)]
mod tests;
mod worst;

use std::cell::RefCell;
use std::collections::HashMap;

use super::minimize::{MinimizeOptions, Minimum, minimize};
use super::problem::ToeplitzProblem;
use super::watch::Watch;
use super::{Design, Objective, Problem, Progress};
use crate::error::{Error, Result};
use crate::limits::{MAX_BANDS, MAX_OPTIMIZED_TERMS};
use crate::matrix::{MatrixSpec, strategy};
use parts::Gradients;
pub(super) use worst::log_power_sum;

/// The best Toeplitz strategy with `bands` bands (arXiv 2405.15913), from the banded square root (arXiv
/// 2405.13763).
///
/// # Errors
/// [`Error::Invalid`] on `bands` where it is 0, over `n` or over [`MAX_BANDS`], on a workload that is not
/// Toeplitz; [`Error::Cancelled`].
pub(super) fn optimize_banded_toeplitz(
    problem: &Problem,
    bands: usize,
    known: &Known,
    watch: &Watch<'_>,
) -> Result<Design> {
    Setting::new(problem, bands, Side::Strategy)?.best(known, watch)
}

/// The best strategy whose noising matrix is Toeplitz with `bands` bands, from the banded inverse square root
/// (arXiv 2505.12128).
///
/// # Errors
/// As those of [`optimize_banded_toeplitz`].
pub(super) fn optimize_banded_inverse_toeplitz(
    problem: &Problem,
    bands: usize,
    known: &Known,
    watch: &Watch<'_>,
) -> Result<Design> {
    Setting::new(problem, bands, Side::NoisingMatrix)?.best(known, watch)
}

/// The best that searches for one problem have found so far, from which those for more bands go on.
#[derive(Debug, Default)]
pub(super) struct Known(RefCell<HashMap<(Side, usize), Found>>);

fn toeplitz(coef: Vec<f64>) -> MatrixSpec {
    MatrixSpec::Toeplitz { coef, column_normalize_for_n: None }
}

/// Which of the two is banded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Side {
    Strategy,
    NoisingMatrix,
}

impl Side {
    fn family(self) -> &'static str {
        match self {
            Self::Strategy => "banded_toeplitz",
            Self::NoisingMatrix => "banded_inverse_toeplitz",
        }
    }
}

struct Setting<'a> {
    problem: &'a Problem,
    side: Side,
    bands: usize,
    n: usize,
    objective: Objective,
    /// Steps from one participation to the next, and participations.
    separation: usize,
    participations: usize,
    /// The first column of the workload, where it is not the prefix sum.
    workload: Option<Vec<f64>>,
}

/// A point and what its strategy achieves.
#[derive(Clone, Debug)]
struct Found {
    coef: Vec<f64>,
    design: Design,
}

/// Writes the gradients of the squared sensitivity and of the error of coefficients, and gives both.
type Parts<'a> = dyn Fn(&[f64], Gradients<'_>) -> Option<(f64, f64)> + 'a;

impl<'a> Setting<'a> {
    fn new(problem: &'a Problem, bands: usize, side: Side) -> Result<Self> {
        let ToeplitzProblem { n, objective, separation, participations, workload } =
            ToeplitzProblem::new(problem)?;
        let most = n.min(MAX_BANDS as u64);
        if bands == 0 || bands as u64 > most {
            let rule = format!("must be at least 1 and at most {most}, found {bands}");
            return Err(Error::invalid("bands", rule));
        }
        let (n, separation) = (n as usize, separation as usize);
        // Of every step the coefficients that reach it: those of overlapping participations, or of the
        // workload.
        let overlapping = if participations > 1 { n * bands.div_ceil(separation) } else { 0 };
        let by_workload = if workload.is_some() { n * bands } else { 0 };
        if overlapping.max(by_workload) > MAX_OPTIMIZED_TERMS {
            let rule =
                format!("too many for n = {n}: an evaluation takes at most {MAX_OPTIMIZED_TERMS} products");
            return Err(Error::invalid("bands", rule));
        }
        let participations = participations as usize;
        Ok(Self { problem, side, bands, n, objective, separation, participations, workload })
    }

    fn best(&self, known: &Known, watch: &Watch<'_>) -> Result<Design> {
        Ok(self.found(known, watch)?.design)
    }

    /// The best that is found, or that was found before.
    fn found(&self, known: &Known, watch: &Watch<'_>) -> Result<Found> {
        let place = (self.side, self.bands);
        let before = known.0.borrow().get(&place).cloned();
        if let Some(before) = before {
            return Ok(before);
        }
        let found = self.searched(known, watch)?;
        known.0.borrow_mut().insert(place, found.clone());
        Ok(found)
    }

    fn searched(&self, known: &Known, watch: &Watch<'_>) -> Result<Found> {
        let root = self.square_root()?;
        let assumed = self.minimize(&root, watch, &|coef, gradients| self.assumed_parts(coef, gradients))?;
        let mut best = self.measured(assumed.point.clone(), watch)?;
        // No strategy is better than the optimum for these participations alone.
        let least = assumed.value.exp();
        let done = |best: &Found| watch.stopped() || best.design.loss <= least * (1.0 + 1e-9);
        if self.bands < 2 || done(&best) {
            return Ok(best);
        }
        let mut narrow =
            Self { bands: self.narrower(), workload: self.workload.clone(), ..*self }.found(known, watch)?;
        narrow.coef.resize(self.bands, 0.0);
        let mut starts = vec![assumed.point, narrow.coef.clone(), root];
        if narrow.design.loss < best.design.loss {
            best = narrow;
        }
        let jitter = if self.n * self.bands <= FEW_ENTRIES { JITTERED } else { 0 };
        starts.extend((1..=jitter).map(|seed| jittered(&best.coef, seed as u64)));
        for start in starts {
            if done(&best) {
                break;
            }
            let lowered =
                self.lower_worst(&start, watch)?.map(|coef| self.measured(coef, watch)).transpose()?;
            // What was bounded only may be worse than what is known to be exact.
            let exact = lowered.as_ref().is_some_and(|found| found.design.sensitivity.exact);
            let falling = if exact { None } else { self.lower_falling(&start, watch)? };
            let falling = falling.map(|coef| self.measured(coef, watch)).transpose()?;
            for found in lowered.into_iter().chain(falling) {
                if found.design.loss < best.design.loss {
                    best = found;
                }
            }
        }
        Ok(best)
    }

    /// As many bands as the search for fewer, from which this one goes on, has.
    fn narrower(&self) -> usize {
        let half = self.bands.div_ceil(2);
        match self.side {
            // With no more bands than steps between participations, columns of one user share no row.
            Side::Strategy if self.separation < self.bands => half.max(self.separation),
            Side::Strategy | Side::NoisingMatrix => half,
        }
    }

    /// Coefficients near `start` with a lower loss among strategies whose first column does not rise. `None`
    /// where that of `start` does.
    fn lower_falling(&self, start: &[f64], watch: &Watch<'_>) -> Result<Option<Vec<f64>>> {
        let falling = |coef: &[f64], gradients: Gradients<'_>| {
            let column = self.column(coef)?.entries;
            let falls = column.windows(2).all(|pair| pair[1] <= pair[0]) && column.iter().all(|&c| c >= 0.0);
            falls.then(|| self.assumed_parts(coef, gradients))?
        };
        match self.minimize(start, watch, &falling) {
            Ok(found) => Ok(Some(found.point)),
            Err(Error::Invalid { .. }) => Ok(None),
            Err(other) => Err(other),
        }
    }

    /// The coefficients of the square root of the workload or of its inverse.
    fn square_root(&self) -> Result<Vec<f64>> {
        let column = self.workload.as_ref().map(|column| &column[..self.bands.min(column.len())]);
        let root = match self.side {
            Side::Strategy => strategy::banded_square_root(self.bands, column)?,
            Side::NoisingMatrix => strategy::banded_inverse_square_root(self.bands, column)?,
        };
        let coefficients = |matrix: MatrixSpec| match matrix {
            MatrixSpec::Toeplitz { coef, .. } => coef,
            _ => vec![1.0],
        };
        Ok(match root {
            MatrixSpec::Inverse { matrix } => coefficients(*matrix),
            other => coefficients(other),
        })
    }

    /// What coefficients achieve.
    fn measured(&self, coef: Vec<f64>, watch: &Watch<'_>) -> Result<Found> {
        let banded = toeplitz(coef.clone());
        let inverse = banded.clone().inverse();
        let (strategy, noising_matrix) = match self.side {
            Side::Strategy => (banded, inverse),
            Side::NoisingMatrix => (inverse, banded),
        };
        let design = Design::of(strategy, noising_matrix, self.problem, &|| watch.abandoned())?;
        Ok(Found { coef, design })
    }

    /// Minimises the logarithm of a loss over the coefficients after the first, which is 1.
    fn minimize(&self, start: &[f64], watch: &Watch<'_>, parts: &Parts<'_>) -> Result<Minimum> {
        let function = |coef: &[f64], gradient: &mut [f64]| {
            let (mut by_error, mut by_moved) = (vec![0.0; coef.len()], vec![0.0; coef.len()]);
            let (moved, error) = parts(coef, [&mut by_error, &mut by_moved])?;
            for (i, g) in gradient.iter_mut().enumerate() {
                *g = by_error[i] / error + by_moved[i] / moved;
            }
            Some((moved * error).ln())
        };
        self.minimize_by(start, watch, MinimizeOptions::default(), function)
    }

    /// Minimises a function of all coefficients over those after the first, which is 1.
    fn minimize_by(
        &self,
        start: &[f64],
        watch: &Watch<'_>,
        options: MinimizeOptions,
        function: impl Fn(&[f64], &mut [f64]) -> Option<f64>,
    ) -> Result<Minimum> {
        let what = format!("{}, {} bands", self.side.family(), self.bands);
        let mut of_point = |point: &[f64], gradient: &mut [f64]| {
            let coef: Vec<f64> = std::iter::once(1.0).chain(point.iter().copied()).collect();
            let mut by_coef = vec![0.0; coef.len()];
            let value = function(&coef, &mut by_coef)?;
            gradient.copy_from_slice(&by_coef[1..]);
            Some(value)
        };
        let mut on_iteration = |iteration, value: f64| {
            watch.report(Progress { what: what.clone(), iteration, loss: value.exp() })
        };
        let point = start[1..].iter().map(|c| c / start[0]).collect();
        let found = minimize(point, &mut of_point, &options, &mut on_iteration)?;
        watch.check()?;
        Ok(Minimum { point: std::iter::once(1.0).chain(found.point).collect(), ..found })
    }
}

/// Entries of a matrix up to which the search is also made from points about the best one.
const FEW_ENTRIES: usize = 1 << 14;

/// How many such points.
const JITTERED: usize = 2;

/// Coefficients each moved by up to a fifth of itself and a fiftieth of the first, as a seed says.
fn jittered(coef: &[f64], seed: u64) -> Vec<f64> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let mut number = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 11) as f64 / (1_u64 << 52) as f64 - 1.0
    };
    let moved = coef[1..].iter().map(|c| c + number() * (0.2 * c.abs() + 0.02 * coef[0].abs()));
    std::iter::once(coef[0]).chain(moved).collect()
}
