//! What error a mechanism makes on a workload.

use super::norms::row_norms_of_finite;
use super::{RowNorms, Way};
use crate::dtype::Precision;
use crate::error::{Error, Result};
use crate::limits::MAX_STRUCTURED_N;
use crate::matrix::{MatrixSpec, Plan, Runs};

/// The half of a factorisation that is known.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Mechanism<'a> {
    /// `C`.
    Strategy(&'a MatrixSpec),
    /// `C^-1`.
    NoisingMatrix(&'a MatrixSpec),
}

/// The expected squared error of each query at noise of variance 1: the row norms of `B = A C^-1`.
#[derive(Clone, Debug, PartialEq)]
pub struct QueryErrors {
    /// One a query.
    pub per_query: Vec<f64>,
    /// How they were found.
    pub way: Way,
}

impl QueryErrors {
    /// The mean squared error.
    pub fn mean(&self) -> f64 {
        self.per_query.iter().sum::<f64>() / self.per_query.len() as f64
    }

    /// The largest squared error.
    pub fn max(&self) -> f64 {
        self.per_query.iter().copied().fold(0.0, f64::max)
    }

    /// The squared error of the last query.
    pub fn last(&self) -> f64 {
        self.per_query.last().copied().unwrap_or_default()
    }

    /// The root of the mean squared error.
    pub fn rmse(&self) -> f64 {
        self.mean().sqrt()
    }
}

/// The errors of the first `n` queries of `workload`, the prefix sum where there is none.
///
/// # Errors
/// Those of [`row_norms_squared`](super::row_norms_squared) on the decoder, with the field's path under
/// `strategy`, `noising_matrix` or `workload`; [`Error::Invalid`] on one of these where it ends before step
/// `n`.
pub fn query_errors(
    mechanism: Mechanism<'_>,
    workload: Option<&MatrixSpec>,
    n: u64,
    cancelled: &dyn Fn() -> bool,
) -> Result<QueryErrors> {
    query_errors_in(mechanism, workload, n, Precision::F64, cancelled)
}

/// The same where a session of a precision runs the noising matrix: with the numbers of its recurrences
/// rounded to it.
///
/// # Errors
/// As [`query_errors`], and [`Error::Invalid`] on `strategy` or `noising_matrix` where the precision cannot
/// hold the numbers.
pub fn query_errors_in(
    mechanism: Mechanism<'_>,
    workload: Option<&MatrixSpec>,
    n: u64,
    precision: Precision,
    cancelled: &dyn Fn() -> bool,
) -> Result<QueryErrors> {
    let workload = workload.cloned().unwrap_or(MatrixSpec::PrefixSum);
    let noising = match mechanism {
        Mechanism::Strategy(strategy) => {
            let noising = strategy.clone().inverse();
            // Its own path is `matrix` inside the inverse.
            let plan = check_half(&noising, "matrix.matrix", "strategy", n)?;
            plan.rounded(precision, Runs::Matrix).map_err(|error| error.about_matrix("strategy"))?
        }
        Mechanism::NoisingMatrix(noising) => {
            let plan = check_half(noising, "matrix", "noising_matrix", n)?;
            plan.rounded(precision, Runs::Matrix).map_err(|error| error.about_matrix("noising_matrix"))?
        }
    };
    let workload = check_half(&workload, "matrix", "workload", n)?;
    let RowNorms { values, way } = row_norms_of_finite(&workload.after(&noising), n, cancelled)?;
    Ok(QueryErrors { per_query: values, way })
}

/// Checks one factor of a decoder by itself, so that what is wrong with it is told in the caller's terms.
fn check_half(factor: &MatrixSpec, path: &str, name: &str, n: u64) -> Result<Plan> {
    let rename = |error: Error| error.moved(path, name).about_matrix(name);
    let plan = Plan::for_question(factor, n).map_err(rename)?;
    plan.check_representable::<f64>().map_err(rename)?;
    match plan.horizon() {
        Some(rows) if rows < n && n <= MAX_STRUCTURED_N as u64 => {
            Err(Error::invalid(name, format!("ends at row {rows}, before n = {n}")))
        }
        _ => Ok(plan),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matrix::{DenseMatrix, strategy};

    fn field(mechanism: Mechanism<'_>, workload: Option<&MatrixSpec>, n: u64) -> String {
        match query_errors(mechanism, workload, n, &|| false) {
            Err(Error::Invalid { field, .. }) => field,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_errors_are_the_row_norms_of_the_decoder() {
        let strategy = strategy::banded_square_root(3, None).unwrap();
        let momentum = MatrixSpec::MomentumSgd { momentum: 0.5, learning_rates: Some(vec![1.0, 0.5]) };
        for workload in [None, Some(&momentum)] {
            let factors =
                vec![workload.cloned().unwrap_or(MatrixSpec::PrefixSum), strategy.clone().inverse()];
            let dense = DenseMatrix::new(&MatrixSpec::Product { factors }, 9).unwrap();
            let expected: Vec<f64> = (0..9).map(|i| dense.row(i).iter().map(|x| x * x).sum()).collect();
            let noising = strategy.clone().inverse();
            for mechanism in [Mechanism::Strategy(&strategy), Mechanism::NoisingMatrix(&noising)] {
                let found = query_errors(mechanism, workload, 9, &|| false).unwrap();
                let close = |(a, b): (&f64, &f64)| (a - b).abs() <= 1e-12 * b;
                assert!(found.per_query.iter().zip(&expected).all(close), "{found:?} not {expected:?}");
                assert!((found.mean() - expected.iter().sum::<f64>() / 9.0).abs() < 1e-12);
                assert_eq!(found.rmse(), found.mean().sqrt());
                assert_eq!(found.last(), found.per_query[8]);
                assert_eq!(found.max(), found.per_query.iter().copied().fold(0.0, f64::max));
            }
        }
    }

    #[test]
    fn what_is_wrong_is_told_by_the_callers_names() {
        let toeplitz =
            |coef: &[f64]| MatrixSpec::Toeplitz { coef: coef.to_vec(), column_normalize_for_n: None };
        let (good, singular, empty) = (toeplitz(&[1.0, 0.5]), toeplitz(&[0.0, 1.0]), toeplitz(&[]));
        let short = MatrixSpec::Dense { rows: vec![vec![1.0], vec![1.0, 1.0]] };
        let overflowing = toeplitz(&[1e-300, 1e300]);
        assert_eq!(field(Mechanism::Strategy(&good), None, 0), "n");
        assert_eq!(field(Mechanism::Strategy(&good), None, u64::MAX), "n");
        assert_eq!(field(Mechanism::Strategy(&short), None, u64::MAX), "n");
        assert_eq!(field(Mechanism::Strategy(&singular), None, 3), "strategy.coef[0]");
        assert_eq!(field(Mechanism::Strategy(&overflowing), None, 3), "strategy");
        assert_eq!(field(Mechanism::Strategy(&short), None, 3), "strategy");
        assert_eq!(field(Mechanism::NoisingMatrix(&empty), None, 3), "noising_matrix.coef");
        assert_eq!(field(Mechanism::NoisingMatrix(&good), Some(&empty), 3), "workload.coef");
        assert_eq!(field(Mechanism::NoisingMatrix(&good), Some(&short), 3), "workload");
        query_errors(Mechanism::NoisingMatrix(&good), Some(&short), 2, &|| false).unwrap();
    }
}
