//! Norms of rows and columns: which way is taken.

use super::column::first_column;
use super::covariance::Found;
use super::rows::{check_finite, check_n};
use super::scaled::Scaled;
use super::way::{RowNorms, Way};
use super::{blocks, covariance};
use crate::error::{Error, Result};
use crate::limits::{MAX_ANALYSIS_N, MAX_COVARIANCE_WORK, MAX_STRUCTURED_N};
use crate::matrix::{MatrixSpec, Plan};

/// Of what cancels in an answer by covariances, the most that may be there for each unit of what is left,
/// where the rows can be computed instead. It costs about as many digits.
const MOST_CANCELLED: f64 = 1e4;

/// The same where they are too many.
const MOST_CANCELLED_LARGE: f64 = 1e7;

/// The relative error that norms which are checked may have, a step; rounding adds up.
const ERROR_PER_STEP: f64 = 5e-15;

/// What a matrix is multiplied with so that its small numbers have squares: powers of two. The square of the
/// first has one.
pub(super) const UNDERFLOW_SCALES: [f64; 2] =
    [f64::from_bits((1023 + 450) << 52), f64::from_bits((1023 + 900) << 52)];

/// What it may be in any case.
const LEAST_ERROR: f64 = 1e-11;

/// What it may be at most.
const MOST_ERROR: f64 = 2e-9;

/// The squared L2 norm of each of the first `n` rows: of a decoder `B = A C^-1`, the expected squared error
/// of each query at noise of variance 1. The answer tells which way was taken. `cancelled` is asked every few
/// thousand multiplications.
///
/// # Errors
/// Those of [`MatrixSpec::validate`]; [`Error::Invalid`] on `n` where it is 0, past the end of the matrix,
/// over [`MAX_STRUCTURED_N`], or over [`MAX_ANALYSIS_N`] for a matrix that only its rows tell about, or where
/// a norm is not finite, or is less than any number but zero; [`Error::Cancelled`].
pub fn row_norms_squared(matrix: &MatrixSpec, n: u64, cancelled: impl Fn() -> bool) -> Result<RowNorms> {
    let plan = Plan::for_question(matrix, n)?;
    plan.check_representable::<f64>()?;
    row_norms_of_finite(&plan, n, &cancelled)
}

/// The same of a matrix that is ready to run.
pub(super) fn row_norms_of_finite(plan: &Plan, n: u64, cancelled: &dyn Fn() -> bool) -> Result<RowNorms> {
    let found = row_norms_of(plan, n, cancelled)?;
    check_finite("the squared norm of row", &found.values)?;
    check_underflow(plan, n, "the squared norm of row", &found.values, &|plan| {
        Ok(row_norms_of(plan, n, cancelled)?.values)
    })?;
    Ok(found)
}

/// The same, whatever the numbers come to.
fn row_norms_of(plan: &Plan, n: u64, cancelled: &dyn Fn() -> bool) -> Result<RowNorms> {
    let n = check_n(plan, n, MAX_STRUCTURED_N)?;
    if plan.is_toeplitz() {
        let mut values = first_column(plan.stages(), n, cancelled)?;
        accumulate_squares(&mut values);
        return Ok(RowNorms { values, way: Way::Toeplitz });
    }
    if let Some(scaled) = Scaled::of(plan)
        && let Some(values) = scaled.row_norms(n, work_otherwise(plan, n, 1), cancelled)?
    {
        return Ok(RowNorms { values, way: Way::ScaledToeplitz });
    }
    if covariance_pays(plan, n, 1) {
        let found = covariance::row_norms(plan, n, cancelled)?;
        if is_sound(&found, n) {
            return Ok(RowNorms { values: found.values, way: Way::Covariance });
        }
    }
    check_rows(plan, n)?;
    Ok(RowNorms { values: blocks::norms(plan, n, cancelled)?.rows, way: Way::Rows })
}

/// The squared L2 norm of each of the first `n` columns of the leading `n x n` block.
///
/// # Errors
/// As those of [`row_norms_squared`].
pub fn column_norms_squared(matrix: &MatrixSpec, n: u64, cancelled: impl Fn() -> bool) -> Result<Vec<f64>> {
    let plan = Plan::for_question(matrix, n)?;
    plan.check_representable::<f64>()?;
    let found = column_norms_of(&plan, n, &cancelled)?;
    check_finite("the squared norm of column", &found)?;
    check_underflow(&plan, n, "the squared norm of column", &found, &|plan| {
        column_norms_of(plan, n, &cancelled)
    })?;
    Ok(found)
}

/// The same of a matrix that is ready to run, whatever the numbers come to.
pub(super) fn column_norms_of(plan: &Plan, n: u64, cancelled: &dyn Fn() -> bool) -> Result<Vec<f64>> {
    let n = check_n(plan, n, MAX_STRUCTURED_N)?;
    if plan.is_toeplitz() {
        let mut values = first_column(plan.stages(), n, cancelled)?;
        accumulate_squares(&mut values);
        // Column j is the first n - j entries.
        values.reverse();
        return Ok(values);
    }
    if let Some(scaled) = Scaled::of(plan)
        && let Some(values) = scaled.column_norms(n, work_otherwise(plan, n, 3), cancelled)?
    {
        return Ok(values);
    }
    // An assignment changes as many rows on the way back as it has terms, and not one.
    if covariance_pays(plan, n, 3) {
        let found = covariance::column_norms(plan, n, cancelled)?;
        if is_sound(&found, n) {
            return Ok(found.values);
        }
    }
    check_rows(plan, n)?;
    Ok(blocks::norms(plan, n, cancelled)?.columns)
}

/// Checks that no squared norm came to zero, or lost digits, for being less than the numbers that f64 has:
/// the norms of a matrix times a large number tell.
fn check_underflow(
    plan: &Plan,
    n: u64,
    what: &str,
    norms: &[f64],
    of_scaled: &dyn Fn(&Plan) -> Result<Vec<f64>>,
) -> Result<()> {
    if norms.iter().all(|&norm| norm >= f64::MIN_POSITIVE) {
        return Ok(());
    }
    let scaled = of_scaled(&plan.scaled(UNDERFLOW_SCALES[0]))?;
    let lost = |(&norm, &scaled): (&f64, &f64)| norm < f64::MIN_POSITIVE && scaled > 0.0;
    match norms.iter().zip(&scaled).position(lost) {
        Some(index) => {
            let rule = format!(
                "is {n}, and {what} {index} is less than f64 holds with all digits: multiply the matrix by a number"
            );
            Err(Error::invalid("n", rule))
        }
        None => Ok(()),
    }
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
    by_covariance <= rows_work(plan, n)
}

/// The multiplications of the way that is taken where no convolution is.
fn work_otherwise(plan: &Plan, n: usize, cost: usize) -> usize {
    if covariance_pays(plan, n, cost) {
        covariance_work(plan, n).saturating_mul(cost)
    } else if n <= MAX_ANALYSIS_N {
        rows_work(plan, n)
    } else {
        usize::MAX
    }
}

/// The multiplications of an answer by rows.
fn rows_work(plan: &Plan, n: usize) -> usize {
    let (read, written) = plan.planes_moved();
    n.saturating_mul(n / 2 + 512).saturating_mul(read + written + 2)
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
