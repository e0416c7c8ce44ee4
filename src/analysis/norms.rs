//! Norms of rows and columns: which way is taken.

use super::column::first_column;
use super::covariance::Found;
use super::rows::check_n;
use super::scaled::Scaled;
use super::way::{RowNorms, Way};
use super::{blocks, covariance};
use crate::error::{Error, Result};
use crate::limits::{MAX_ANALYSIS_N, MAX_COVARIANCE_WORK, MAX_STRUCTURED_N};
use crate::matrix::{MatrixSpec, Plan};

/// Of what cancels in an answer by covariances, the most that may be there for each unit of what is left, where the rows
/// can be computed instead. It costs about as many digits.
const MOST_CANCELLED: f64 = 1e4;

/// The same where they are too many.
const MOST_CANCELLED_LARGE: f64 = 1e7;

/// The relative error that norms which are checked may have, a step; rounding adds up.
const ERROR_PER_STEP: f64 = 5e-15;

/// What it may be in any case.
const LEAST_ERROR: f64 = 1e-11;

/// What it may be at most.
const MOST_ERROR: f64 = 2e-9;

/// The squared L2 norm of each of the first `n` rows: of a decoder `B = A C^-1`, the expected squared error of each
/// query at noise of variance 1. The answer tells which way was taken. `cancelled` is asked every few thousand
/// multiplications.
///
/// # Errors
/// Those of [`MatrixSpec::validate`]; [`Error::Invalid`] on `n` where it is 0, past the end of the matrix, over
/// [`MAX_STRUCTURED_N`], or over [`MAX_ANALYSIS_N`] for a matrix that only its rows tell about; [`Error::Cancelled`].
pub fn row_norms_squared(matrix: &MatrixSpec, n: u64, cancelled: impl Fn() -> bool) -> Result<RowNorms> {
    let plan = Plan::new(matrix)?;
    plan.check_representable::<f64>()?;
    let n = check_n(&plan, n, MAX_STRUCTURED_N)?;
    let cancelled: &dyn Fn() -> bool = &cancelled;
    if plan.is_toeplitz() {
        let mut values = first_column(plan.stages(), n, cancelled)?;
        accumulate_squares(&mut values);
        return Ok(RowNorms { values, way: Way::Toeplitz });
    }
    if let Some(scaled) = Scaled::of(&plan)
        && let Some(values) = scaled.row_norms(n, cancelled)?
    {
        return Ok(RowNorms { values, way: Way::ScaledToeplitz });
    }
    if covariance_pays(&plan, n, 1) {
        let found = covariance::row_norms(&plan, n, cancelled)?;
        if is_sound(&found, n) {
            return Ok(RowNorms { values: found.values, way: Way::Covariance });
        }
    }
    check_rows(&plan, n)?;
    Ok(RowNorms { values: blocks::norms(&plan, n, cancelled)?.rows, way: Way::Rows })
}

/// The squared L2 norm of each of the first `n` columns of the leading `n x n` block.
///
/// # Errors
/// As those of [`row_norms_squared`].
pub fn column_norms_squared(matrix: &MatrixSpec, n: u64, cancelled: impl Fn() -> bool) -> Result<Vec<f64>> {
    let plan = Plan::new(matrix)?;
    plan.check_representable::<f64>()?;
    let n = check_n(&plan, n, MAX_STRUCTURED_N)?;
    let cancelled: &dyn Fn() -> bool = &cancelled;
    if plan.is_toeplitz() {
        let mut values = first_column(plan.stages(), n, cancelled)?;
        accumulate_squares(&mut values);
        // Column j is the first n - j entries.
        values.reverse();
        return Ok(values);
    }
    if let Some(scaled) = Scaled::of(&plan)
        && let Some(values) = scaled.column_norms(n, cancelled)?
    {
        return Ok(values);
    }
    // An assignment changes as many rows on the way back as it has terms, and not one.
    if covariance_pays(&plan, n, 3) {
        let found = covariance::column_norms(&plan, n, cancelled)?;
        if is_sound(&found, n) {
            return Ok(found.values);
        }
    }
    check_rows(&plan, n)?;
    Ok(blocks::norms(&plan, n, cancelled)?.columns)
}

fn accumulate_squares(values: &mut [f64]) {
    let mut sum = 0.0;
    for value in values {
        sum += *value * *value;
        *value = sum;
    }
}

/// Whether an answer by covariances has the digits that it should.
fn is_sound(found: &Found, n: usize) -> bool {
    let most_cancelled = if n <= MAX_ANALYSIS_N { MOST_CANCELLED } else { MOST_CANCELLED_LARGE };
    let most_error = (ERROR_PER_STEP * n as f64).clamp(LEAST_ERROR, MOST_ERROR);
    found.cancelled <= most_cancelled && found.error <= most_error
}

/// Whether covariances, at `cost` a multiplication, take less than rows, or are all there is.
fn covariance_pays(plan: &Plan, n: usize, cost: usize) -> bool {
    let by_covariance = covariance_work(plan, n).saturating_mul(cost);
    if n > MAX_ANALYSIS_N {
        return by_covariance <= MAX_COVARIANCE_WORK;
    }
    let (read, written) = plan.planes_moved();
    let by_rows = n.saturating_mul(n / 2 + 512).saturating_mul(read + written + 2);
    by_covariance <= by_rows
}

/// The multiplications of an answer by covariances, and what each step costs beside them.
fn covariance_work(plan: &Plan, n: usize) -> usize {
    let slots = plan.planes() + 2;
    let stages = plan.stages().len();
    n.saturating_mul(slots * (slots + 3 * stages) + 100 * stages)
}

fn check_rows(plan: &Plan, n: usize) -> Result<()> {
    if n <= MAX_ANALYSIS_N {
        return Ok(());
    }
    let rule = if covariance_work(plan, n) > MAX_COVARIANCE_WORK {
        format!("at most {MAX_ANALYSIS_N} for a matrix of {} planes that is not Toeplitz", plan.planes())
    } else {
        format!("at most {MAX_ANALYSIS_N} for a matrix whose factors cancel each other, or that overflows")
    };
    Err(Error::invalid("n", rule))
}
