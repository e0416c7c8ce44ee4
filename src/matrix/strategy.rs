//! The named strategies of the literature, as specifications.
//!
//! Each function gives a strategy `C`; what a session streams is its noising matrix,
//! [`strategy.inverse()`](MatrixSpec::inverse). DP-SGD, with independent noise at each step, is
//! [`MatrixSpec::Identity`].

use super::spec::MatrixSpec;
use crate::error::{Error, Result};
use crate::limits::{MAX_BANDS, MAX_SCHEDULE};

/// The Toeplitz strategy that is optimal for the max error of prefix sums over `n` steps in a single
/// participation: `c_0 = 1, c_k = c_{k-1} (2k-1)/(2k)`, the square root of the prefix sum (arXiv 2202.11205;
/// its optimality: arXiv 2404.16706).
///
/// # Errors
/// [`Error::Invalid`] where `n` is 0 or over [`MAX_BANDS`]: it takes a plane a step.
pub fn optimal_max_error(n: usize) -> Result<MatrixSpec> {
    check_bands("n", n)?;
    Ok(toeplitz(prefix_sum_square_root(n)))
}

/// The first `bands` diagonals of the square root of a Toeplitz workload (arXiv 2405.13763). `workload` is
/// its first column, zero below its end; without one it is the prefix sum.
///
/// # Errors
/// [`Error::Invalid`] where `bands` is 0 or over [`MAX_BANDS`], or the workload's first entry is not positive
/// or any entry not finite.
pub fn banded_square_root(bands: usize, workload: Option<&[f64]>) -> Result<MatrixSpec> {
    check_bands("bands", bands)?;
    square_root_or_default(bands, workload).map(toeplitz)
}

/// The strategy whose noising matrix is the first `bands` diagonals of the inverse of the square root of a
/// Toeplitz workload (arXiv 2505.12128). `workload` is its first column, zero below its end; without one it
/// is the prefix sum.
///
/// # Errors
/// As those of [`banded_square_root`].
pub fn banded_inverse_square_root(bands: usize, workload: Option<&[f64]>) -> Result<MatrixSpec> {
    check_bands("bands", bands)?;
    let root = square_root_or_default(bands, workload)?;
    Ok(toeplitz(power_series_inverse(&root)).inverse())
}

/// The strategy of lambda-CGD over `n` steps (arXiv 2601.22334): `C = E D`, with `E` the Toeplitz matrix of
/// `1, lambda, lambda^2, ...` and `D` the diagonal that gives each of its `n` columns the L2 norm 1. Its
/// noising matrix `D^-1 E^-1` takes a multiple of `lambda` of the last step's noise away from this step's,
/// and keeps one plane.
///
/// # Errors
/// [`Error::Invalid`] where `lambda` is not in `[0, 1)`, or `n` is 0 or over [`MAX_SCHEDULE`].
pub fn lambda_cgd(lambda: f64, n: usize) -> Result<MatrixSpec> {
    if !(0.0..1.0).contains(&lambda) {
        return Err(Error::invalid("lambda", format!("must be in [0, 1), found {lambda}")));
    }
    if n == 0 || n > MAX_SCHEDULE {
        return Err(Error::invalid("n", format!("must be at least 1 and at most {MAX_SCHEDULE}, found {n}")));
    }
    // Column j has the n - j entries 1, lambda, ...; the squares of its norm, from the last column to the
    // first.
    let squares = (0..n).scan((0.0, 1.0), |(sum, power), _| {
        *sum += *power;
        *power *= lambda * lambda;
        Some(*sum)
    });
    let mut inverse_norms: Vec<f64> = squares.map(|square| 1.0 / square.sqrt()).collect();
    inverse_norms.reverse();
    Ok(toeplitz(vec![1.0, -lambda]).inverse().scale_rows_and_columns(None, Some(inverse_norms)))
}

/// A BLT from a rational approximation of `1/sqrt(1 - x)`, the generating function of the optimal Toeplitz
/// strategy (arXiv 2404.16706, Proposition 4.5, with the step width and shift of jax_privacy's
/// `from_rational_approx_to_sqrt_x`).
///
/// # Errors
/// [`Error::Invalid`] where `num_buffers` is 0 or more than 24: past that, decays come so near to 1 that f64
/// cannot tell them apart.
pub fn blt_from_rational_approximation(num_buffers: usize) -> Result<MatrixSpec> {
    const MOST: usize = 24;
    if num_buffers == 0 || num_buffers > MOST {
        return Err(Error::invalid(
            "num_buffers",
            format!("must be at least 1 and at most {MOST}, found {num_buffers}"),
        ));
    }
    // The proposition approximates sqrt(1 - x), which gives the BLT of C^-1.
    let first = (num_buffers as i64 + 1) / 2;
    let width = 1.6 * std::f64::consts::PI / (2.0 * (first + 1) as f64).sqrt();
    let shift = -1;
    let counters = (0..num_buffers as i64).map(|i| (i - first + 1 + shift) as f64 * width);
    let decay: Vec<f64> = counters.clone().map(|k| 1.0 / (1.0 + (2.0 * k).exp())).collect();
    let constant: f64 = counters.clone().zip(&decay).map(|(k, c)| k.exp() * c).sum();
    let scale: Vec<f64> = counters.zip(&decay).map(|(k, c)| -c * c * (3.0 * k).exp() / constant).collect();
    let inverse = invert_negative_blt(&decay, &scale).into_iter();
    let (mut buf_decay, output_scale): (Vec<_>, Vec<_>) =
        inverse.map(|buffer| (buffer.pole + buffer.offset, buffer.weight)).unzip();
    // Rounding may carry the largest decay past 1.
    let excess = buf_decay[0].max(1.0);
    buf_decay.iter_mut().for_each(|theta| *theta /= excess);
    Ok(MatrixSpec::BufferedToeplitz { buf_decay, output_scale })
}

/// The column-normalised banded strategy that jax_privacy starts its optimiser from: the optimal Toeplitz
/// coefficients, cut to `bands`, in each of `n` columns (the coefficients: arXiv 2202.11205).
///
/// # Errors
/// [`Error::Invalid`] where `bands` is 0 or over [`MAX_BANDS`], or `n` is less than `bands` or over
/// [`MAX_SCHEDULE`].
pub fn column_normalized_banded(n: usize, bands: usize) -> Result<MatrixSpec> {
    check_bands("bands", bands)?;
    if n < bands || n > MAX_SCHEDULE {
        let rule = format!("must be at least {bands}, the bands, and at most {MAX_SCHEDULE}; found {n}");
        return Err(Error::invalid("n", rule));
    }
    let coef = prefix_sum_square_root(bands);
    let norm = coef.iter().map(|c| c * c).sum::<f64>().sqrt();
    let entry = |j: usize, k: usize| if k < n - j { coef[k] / norm } else { 0.0 };
    let params = (0..n).map(|j| (0..bands).map(|k| entry(j, k)).collect()).collect();
    Ok(MatrixSpec::ColumnNormalizedBanded { params })
}

fn toeplitz(coef: Vec<f64>) -> MatrixSpec {
    MatrixSpec::Toeplitz { coef, column_normalize_for_n: None }
}

fn check_bands(field: &str, bands: usize) -> Result<()> {
    if bands == 0 || bands > MAX_BANDS {
        return Err(Error::invalid(
            field,
            format!("must be at least 1 and at most {MAX_BANDS}, found {bands}"),
        ));
    }
    Ok(())
}

fn square_root_or_default(bands: usize, workload: Option<&[f64]>) -> Result<Vec<f64>> {
    let Some(workload) = workload else {
        return Ok(prefix_sum_square_root(bands));
    };
    if let Some(i) = workload.iter().position(|a| !a.is_finite()) {
        return Err(Error::invalid(format!("workload[{i}]"), "must be finite"));
    }
    if workload.first().is_none_or(|&a| a <= 0.0) {
        return Err(Error::invalid("workload[0]", "must be greater than zero"));
    }
    Ok(power_series_square_root(workload, bands))
}

fn prefix_sum_square_root(bands: usize) -> Vec<f64> {
    let ratio = |k: usize| {
        if k == 0 { 1.0 } else { (2 * k - 1) as f64 / (2 * k) as f64 }
    };
    (0..bands)
        .scan(1.0, |c, k| {
            *c *= ratio(k);
            Some(*c)
        })
        .collect()
}

/// The first `n` coefficients of the square root of a power series with a positive constant.
fn power_series_square_root(series: &[f64], n: usize) -> Vec<f64> {
    let mut root = vec![series[0].sqrt()];
    for k in 1..n {
        let known: f64 = (1..k).map(|j| root[j] * root[k - j]).sum();
        root.push((series.get(k).unwrap_or(&0.0) - known) / (2.0 * root[0]));
    }
    root
}

/// As many coefficients of the reciprocal of a power series.
fn power_series_inverse(series: &[f64]) -> Vec<f64> {
    let mut inverse = vec![1.0 / series[0]];
    for k in 1..series.len() {
        let known: f64 = (1..=k).map(|j| series[j] * inverse[k - j]).sum();
        inverse.push(-known / series[0]);
    }
    inverse
}

/// A decay of the inverse of a BLT, with its weight.
pub(crate) struct InverseBuffer {
    /// A decay of the BLT.
    pub(crate) pole: f64,
    /// How far right of it the decay is: where the two are close, their sum has not its digits.
    pub(crate) offset: f64,
    /// The weight.
    pub(crate) weight: f64,
}

/// The inverse of a BLT all of whose weights `w_k` are negative, its decays `theta_k` distinct and falling.
///
/// The BLT is `f(1/x)` with `f(u) = 1 + sum_k w_k / (u - theta_k)`, so the inverse's decays are the zeros
/// `mu` of `f` and its weights the residues `1 / f'(mu)` there (the reciprocal of a rational generating
/// function, arXiv 2404.16706, Proposition 5.6). With negative weights `f` rises from minus to plus infinity
/// between two poles, and from minus infinity to 1 right of the largest: one zero in each place.
pub(crate) fn invert_negative_blt(theta: &[f64], w: &[f64]) -> Vec<InverseBuffer> {
    let zero = |k: usize| {
        let pole = theta[k];
        let width = if k == 0 { -w.iter().sum::<f64>() } else { theta[k - 1] - pole };
        let gaps: Vec<f64> = theta.iter().map(|other| pole - other).collect();
        let f = |d: f64| 1.0 + w.iter().zip(&gaps).map(|(w, gap)| w / (gap + d)).sum::<f64>();
        let offset = bisect(f, width);
        let slope: f64 = w.iter().zip(&gaps).map(|(w, gap)| -w / (gap + offset).powi(2)).sum();
        InverseBuffer { pole, offset, weight: 1.0 / slope }
    };
    (0..theta.len()).map(zero).collect()
}

/// The zero of a rising function in `(0, width]`, to the last bit.
fn bisect(f: impl Fn(f64) -> f64, width: f64) -> f64 {
    let (mut low, mut high) = (0.0, width);
    loop {
        let middle = 0.5 * (low + high);
        if middle <= low || middle >= high {
            return high;
        }
        if f(middle) < 0.0 {
            low = middle;
        } else {
            high = middle;
        }
    }
}
