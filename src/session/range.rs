//! Whether the noise of a session fits the numbers that it is answered in.
//!
//! A value that is too large for its format is infinite: a parameter with infinite noise is lost, and that it
//! is infinite tells that its noise was large.

use super::{SessionSpec, Source};
use crate::analysis::{Rows, first_column};
use crate::dtype::Precision;
use crate::error::{Error, Result};
use crate::matrix::{Plan, Stage};

/// Entries of a Toeplitz matrix's first column that are looked at.
const COLUMN: u64 = 4096;

/// Rows of any other matrix that are looked at.
const ROWS: u64 = 128;

/// A standard deviation so much smaller than what fits is not looked at more closely.
const FAR_BELOW: f64 = 1e-12;

/// No standard normal of this precision is larger.
const fn largest_normal(precision: Precision) -> f64 {
    match precision {
        Precision::F32 => 7.54,
        Precision::F64 => 9.5,
    }
}

/// Checks that the largest value of the noise fits every answer, of all shards alike.
///
/// Of `privatize` the noise may take half of the range: the other half is for the gradient.
///
/// # Errors
/// [`Error::Invalid`] on `source.stddev`, with the largest one that fits.
pub(super) fn check(spec: &SessionSpec, plan: &Plan) -> Result<()> {
    let Some(noise) = spec.source.noise() else { return Ok(()) };
    let (dtype, share) = match spec.source {
        Source::Privatize { answer_dtype, .. } => (answer_dtype, 0.5),
        Source::Input | Source::Gaussian(_) => (None, 1.0),
    };
    let of_leaves = || spec.tree.leaves().iter().map(|leaf| leaf.dtype);
    // Where a leaf has more range than the arithmetic, that of the arithmetic counts.
    let answers = match dtype {
        Some(dtype) => vec![dtype],
        None => of_leaves().collect(),
    };
    let answers = answers.into_iter().chain([spec.precision.dtype()]);
    let Some(narrowest) = answers.min_by(|a, b| a.largest().total_cmp(&b.largest())) else { return Ok(()) };
    let range = share * narrowest.largest();
    let normal = largest_normal(spec.precision);
    if noise.stddev * normal <= range * FAR_BELOW {
        return Ok(());
    }
    let growth = growth(spec, plan)?;
    // What overflows in the arithmetic has no largest value, and is no question of the format.
    if !growth.is_finite() {
        return Ok(());
    }
    let most = range / (normal * growth);
    if noise.stddev <= most {
        return Ok(());
    }
    let of_range =
        if share < 1.0 { "half of the range, to leave the gradient the other half," } else { "range" };
    let rule = format!(
        "must be at most {most:?} for answers in {narrowest}, found {:?}: the largest noise is {normal} standard deviations, \
         times {growth:.3} by the matrix, and the {of_range} ends at {range:?}; make it smaller, or answers wider",
        noise.stddev
    );
    Err(Error::invalid("source.stddev", rule))
}

/// By how much the largest normal grows in the matrix: the largest sum of a row's absolute entries. In a
/// matrix that sums without end, whose rows are Gaussian by their number of terms, it is the largest norm of
/// a row.
///
/// Only the first steps are looked at, since a session begins without waiting. What grows beyond them is
/// found where it is released.
fn growth(spec: &SessionSpec, plan: &Plan) -> Result<f64> {
    let horizon = spec.horizon.or(plan.horizon()).unwrap_or(u64::MAX);
    if let Some(scale) = scale_alone(plan) {
        return Ok(scale);
    }
    let rows = match plan.is_toeplitz() {
        // The last row of a Toeplitz matrix has the entries of all others.
        true => vec![first_column(plan.stages(), horizon.min(COLUMN) as usize, &|| false)?],
        false => Rows::new(&spec.matrix, horizon.min(ROWS))?.collect(),
    };
    Ok(rows.iter().map(|row| growth_of_row(row)).fold(0.0, f64::max))
}

fn growth_of_row(row: &[f64]) -> f64 {
    let sum = |entries: &[f64]| entries.iter().map(|entry| entry.abs()).sum::<f64>();
    let (all, half) = (sum(row), sum(&row[..row.len().div_ceil(2)]));
    let converges = row.len() <= 2 || all - half.min(all) <= all / 16.0;
    if converges { all } else { row.iter().map(|entry| entry * entry).sum::<f64>().sqrt() }
}

/// The largest entry of a diagonal matrix.
fn scale_alone(plan: &Plan) -> Option<f64> {
    plan.stages().iter().try_fold(1.0, |product, stage| match stage {
        Stage::Scale(scale) => {
            let entries = scale.distinct().iter();
            let largest = entries.map(|entry| if scale.reciprocal { 1.0 / entry } else { *entry }.abs());
            Some(product * largest.fold(0.0, f64::max))
        }
        _ => None,
    })
}
