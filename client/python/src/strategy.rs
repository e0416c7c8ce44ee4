//! Matrices as JSON: their rules, and the named strategies.

use noised::MatrixSpec;
use noised::matrix::strategy;
use pyo3::prelude::*;

use crate::error::Failure;
use crate::spec::question;

fn json(made: noised::Result<MatrixSpec>) -> Result<String, Failure> {
    Ok(made?.to_json())
}

/// Raises where the matrix breaks a rule. A Toeplitz matrix may have more coefficients than a session runs:
/// it may be asked about.
#[pyfunction]
pub(crate) fn check(json: &str) -> Result<(), Failure> {
    question("matrix", json, u64::MAX)?;
    Ok(())
}

/// arXiv 2202.11205.
#[pyfunction]
pub(crate) fn optimal_max_error(n: usize) -> Result<String, Failure> {
    json(strategy::optimal_max_error(n))
}

/// arXiv 2405.13763.
#[pyfunction]
pub(crate) fn banded_square_root(bands: usize, workload: Option<Vec<f64>>) -> Result<String, Failure> {
    json(strategy::banded_square_root(bands, workload.as_deref()))
}

/// arXiv 2505.12128.
#[pyfunction]
pub(crate) fn banded_inverse_square_root(
    bands: usize,
    workload: Option<Vec<f64>>,
) -> Result<String, Failure> {
    json(strategy::banded_inverse_square_root(bands, workload.as_deref()))
}

/// arXiv 2601.22334.
#[pyfunction]
pub(crate) fn lambda_cgd(lambda: f64, n: usize) -> Result<String, Failure> {
    json(strategy::lambda_cgd(lambda, n))
}

/// arXiv 2404.16706, Proposition 4.5.
#[pyfunction]
pub(crate) fn blt_from_rational_approximation(num_buffers: usize) -> Result<String, Failure> {
    json(strategy::blt_from_rational_approximation(num_buffers))
}

/// The banded strategy with columns of norm 1 that optimisers start from.
#[pyfunction]
pub(crate) fn column_normalized_banded(n: usize, bands: usize) -> Result<String, Failure> {
    json(strategy::column_normalized_banded(n, bands))
}

/// The first column of a matrix, where it is Toeplitz.
#[pyfunction]
pub(crate) fn toeplitz_coefs(json: &str, n: u64) -> Result<Option<Vec<f64>>, Failure> {
    Ok(noised::analysis::toeplitz_coefs(&question("matrix", json, n)?, n)?)
}
