//! Strategies without any structure but the triangle: the optimum among those that a participation pattern's
//! constraints leave.
//!
//! With `X = C^T C`, `A` the workload and `M = A^T A / n` the mean squared error is `tr(M X^-1)`, which is
//! convex in `X`, and what a participation pattern allows is linear in `X`:
//!
//! - one participation: a unit diagonal (arXiv 2202.08312);
//! - participations `min_sep` apart: a unit diagonal, and zeros from `min_sep` away from it, so that columns
//!   of one pattern are orthogonal whatever the pattern is (arXiv 2306.08153);
//! - fixed epochs: zeros between the steps of one user, and a fixed sum of their diagonal entries (arXiv
//!   2211.06530).
//!
//! The first is solved by a fixed point of its dual, the others by descent over the free entries of `X`.

mod descent;
mod fixed_point;
#[cfg(test)]
mod tests;

use faer::{Mat, Side};

use super::watch::Watch;
use super::{Design, Objective, Problem, Progress};
use crate::analysis::{Participation, Rows};
use crate::error::{Error, Result};
use crate::limits::{MAX_BANDS, MAX_DENSE_N};
use crate::matrix::MatrixSpec;

/// What `X` may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Constraint {
    /// A unit diagonal.
    UnitDiagonal,
    /// A unit diagonal, and zeros from the `bands`-th diagonal on.
    Banded { bands: usize },
    /// Zeros between steps that are a multiple of `apart` from each other, whose diagonal entries sum up to
    /// their number.
    Orthogonal { apart: usize },
}

impl Constraint {
    fn new(participation: Participation, n: u64) -> Result<Self> {
        let most = participation.true_max_participations(n)?;
        Ok(match participation {
            _ if most == 1 => Self::UnitDiagonal,
            Participation::Single => Self::UnitDiagonal,
            Participation::MinSep { min_sep, max_participations: _ } => {
                Self::Banded { bands: min_sep as usize }
            }
            Participation::FixedEpochs { epochs } => Self::Orthogonal { apart: (n / epochs) as usize },
        })
    }

    /// Whether the entry of two different steps may be other than zero.
    fn is_free(self, i: usize, j: usize) -> bool {
        match self {
            Self::UnitDiagonal => true,
            Self::Banded { bands } => i.abs_diff(j) < bands,
            Self::Orthogonal { apart } => !i.abs_diff(j).is_multiple_of(apart),
        }
    }
}

/// Hears of each iteration, and tells whether to go on.
type OnIteration<'a> = &'a mut dyn FnMut(u64, f64) -> bool;

/// The lower-triangular strategy with the least mean squared error at a sensitivity of 1, of those whose
/// columns that one user can meet are orthogonal (so that the sensitivity is that of each alone; with fewer
/// participations than fit, others may be better), to a relative `1e-6` of the loss or so for one
/// participation (a duality gap, which is checked), and to where descent no longer helps else.
///
/// Where the optimum has at most [`MAX_BANDS`] diagonals, of columns of norm 1, it comes as
/// [`MatrixSpec::ColumnNormalizedBanded`], whose noising matrix keeps as many planes.
///
/// # Errors
/// [`Error::Invalid`] on `n` where it is 0 or over [`MAX_DENSE_N`], on `objective` where it is not the mean,
/// on `problem.workload` where it is zero; those of the participation and of the workload;
/// [`Error::Cancelled`].
pub(crate) fn optimize_dense(problem: &Problem, watch: &Watch<'_>) -> Result<Design> {
    let Problem { n, participation, objective, workload } = problem;
    if *n == 0 || *n > MAX_DENSE_N as u64 {
        return Err(Error::invalid("n", format!("must be at least 1 and at most {MAX_DENSE_N}, found {n}")));
    }
    if *objective != Objective::Mean {
        return Err(Error::invalid("objective", "dense strategies are optimised for the mean error only"));
    }
    let constraint = Constraint::new(*participation, *n)?;
    let gram = workload_gram(workload.as_ref().unwrap_or(&MatrixSpec::PrefixSum), *n as usize)?;
    let mut on_iteration =
        |iteration, loss| watch.report(Progress { what: "dense".to_owned(), iteration, loss });
    let found = match constraint {
        Constraint::UnitDiagonal => fixed_point::minimize(&gram, &mut on_iteration)?,
        Constraint::Banded { .. } | Constraint::Orthogonal { .. } => {
            descent::minimize(&gram, constraint, &mut on_iteration)?
        }
    };
    watch.check()?;
    let strategy = strategy_of(&found, constraint)?;
    let noising_matrix = strategy.clone().inverse();
    Design::of(strategy, noising_matrix, problem, &|| watch.abandoned())
}

/// What is added to the diagonal of the Gram matrix of a singular workload, in units of its mean: the optimum
/// for it is that of the workload as near as the search comes to it.
const SINGULAR_SHARE: f64 = 1e-7;

/// `A^T A / n`. A workload with zeros on its diagonal, such as a learning rate that begins with 0, gets a
/// little more.
fn workload_gram(workload: &MatrixSpec, n: usize) -> Result<Mat<f64>> {
    let mut matrix = Mat::<f64>::zeros(n, n);
    let mut is_singular = false;
    for (i, row) in Rows::new(workload, n as u64)?.enumerate() {
        if row.iter().any(|entry| !entry.is_finite()) {
            return Err(Error::invalid("workload", format!("row {i} is not finite in f64")));
        }
        is_singular |= row[i] == 0.0;
        row.into_iter().enumerate().for_each(|(j, entry)| matrix[(i, j)] = entry);
    }
    let mut gram = matrix.transpose() * &matrix;
    for j in 0..n {
        let column = gram.col_as_slice_mut(j);
        column.iter_mut().for_each(|entry| *entry /= n as f64);
        if column.iter().any(|entry| !entry.is_finite()) {
            return Err(Error::invalid("workload", "its squares are not finite in f64"));
        }
    }
    let mean = (0..n).map(|i| gram[(i, i)]).sum::<f64>() / n as f64;
    if mean == 0.0 {
        return Err(Error::invalid("workload", "must not be zero within n steps"));
    }
    if is_singular {
        (0..n).for_each(|i| gram[(i, i)] += SINGULAR_SHARE * mean);
    }
    Ok(gram)
}

/// What a step of the optimisers cannot go on without.
fn not_definite() -> Error {
    Error::invalid("workload", "so near to singular that no strategy for it is found in f64")
}

/// The lower-triangular `C` with `C^T C = X`, its columns scaled so that the constraint holds to rounding.
fn strategy_of(gram: &Mat<f64>, constraint: Constraint) -> Result<MatrixSpec> {
    let n = gram.nrows();
    // Cholesky gives L L^T; from the last row to the first it gives C^T C.
    let reversed = Mat::from_fn(n, n, |i, j| gram[(n - 1 - i, n - 1 - j)]);
    let factor = reversed.llt(Side::Lower).map_err(|_| not_definite())?;
    let factor = factor.L();
    let bands = match constraint {
        Constraint::Banded { bands } => bands,
        Constraint::UnitDiagonal | Constraint::Orthogonal { .. } => n,
    };
    let entry = |i: usize, j: usize| if i - j < bands { factor[(n - 1 - j, n - 1 - i)] } else { 0.0 };
    if bands <= MAX_BANDS && bands < n {
        let column = |j: usize| (j..j + bands).map(|i| if i < n { entry(i, j) } else { 0.0 }).collect();
        return Ok(MatrixSpec::ColumnNormalizedBanded { params: (0..n).map(column).collect() });
    }
    let apart = match constraint {
        Constraint::Orthogonal { apart } => apart,
        Constraint::UnitDiagonal | Constraint::Banded { .. } => n,
    };
    let mut squares = vec![0.0; apart];
    for j in 0..n {
        squares[j % apart] += (j..n).map(|i| entry(i, j).powi(2)).sum::<f64>();
    }
    let steps = n.div_ceil(apart) as f64;
    let scales: Vec<f64> = squares.into_iter().map(|square| (steps / square).sqrt()).collect();
    let row = |i: usize| (0..=i).map(|j| entry(i, j) * scales[j % apart]).collect();
    Ok(MatrixSpec::Dense { rows: (0..n).map(row).collect() })
}
