//! One participation: the fixed point of the dual (arXiv 2202.08312, Section 3).
//!
//! With a multiplier `v_i` for each `X_ii = 1` the dual of `min tr(M X^-1)` is
//!
//! ```text
//! max over v > 0 of  2 tr(R(v)) - sum v,      R(v) = (V^1/2 M V^1/2)^1/2,  V = diag(v)
//! X(v) = V^-1/2 R(v) V^-1/2
//! ```
//!
//! and at its solution `X(v)_ii = 1`. For any `v`, `tr(R)^2 / sum v` (the best multiple of `v`) is no more
//! than the least loss, and `X(v)` with its rows and columns scaled to a unit diagonal has no less: the two
//! close in on the optimum, and tell how far it is.

use faer::{Mat, Side};

use super::{OnIteration, not_definite};
use crate::error::Result;

/// The relative gap to the optimum that is good enough.
const GAP: f64 = 1e-6;

/// Some 12 are what `n = 400` takes.
const MAX_ITERATIONS: u64 = 60;

/// The `X` of unit diagonal with the least `tr(M X^-1)`.
pub(super) fn minimize(gram: &Mat<f64>, on_iteration: OnIteration<'_>) -> Result<Mat<f64>> {
    let n = gram.nrows();
    let mut multipliers = vec![1.0; n];
    let mut best: Option<(f64, Mat<f64>)> = None;
    for iteration in 1..=MAX_ITERATIONS {
        let scales: Vec<f64> = multipliers.iter().map(|v: &f64| v.sqrt()).collect();
        let scaled = Mat::from_fn(n, n, |i, j| scales[i] * gram[(i, j)] * scales[j]);
        let eigen = scaled.self_adjoint_eigen(Side::Lower).map_err(|_| not_definite())?;
        let vectors = eigen.U();
        let roots: Vec<f64> = eigen.S().column_vector().iter().map(|value| value.max(0.0).sqrt()).collect();
        if roots.iter().any(|&root| root <= 0.0 || !root.is_finite()) {
            return Err(not_definite());
        }
        let with = |weight: &dyn Fn(f64) -> f64| {
            let weighted = Mat::from_fn(n, n, |i, k| vectors[(i, k)] * weight(roots[k]));
            &weighted * vectors.transpose()
        };
        let (root, inverse) = (with(&|root| root), with(&|root| 1.0 / root));
        let diagonal: Vec<f64> = (0..n).map(|i| root[(i, i)]).collect();
        // X(v)_ii, and with it the loss of what is scaled to a unit diagonal.
        let excess: Vec<f64> = diagonal.iter().zip(&multipliers).map(|(r, v)| r / v).collect();
        let column = |j: usize| {
            let sum: f64 = (0..n).map(|i| excess[i].sqrt() * inverse[(i, j)] * scaled[(i, j)]).sum();
            sum * excess[j].sqrt()
        };
        let loss: f64 = (0..n).map(column).sum();
        let bound = roots.iter().sum::<f64>().powi(2) / multipliers.iter().sum::<f64>();
        if best.as_ref().is_none_or(|(least, _)| loss < *least) {
            let unit = |i: usize, j: usize| root[(i, j)] / (diagonal[i] * diagonal[j]).sqrt();
            best = Some((loss, Mat::from_fn(n, n, unit)));
        }
        if !on_iteration(iteration, loss) {
            break;
        }
        if loss - bound <= GAP * bound {
            break;
        }
        // The published v <- v X_ii halves the distance of a common factor to its place; its square takes it
        // there.
        multipliers.iter_mut().zip(&excess).for_each(|(v, excess)| *v *= excess * excess);
    }
    best.map(|(_, found)| found).ok_or_else(not_definite)
}
