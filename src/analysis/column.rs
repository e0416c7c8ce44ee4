//! The first column of a Toeplitz matrix, in place: one recurrence after another over a whole column.

use std::collections::VecDeque;
use std::ops::Range;

use pulp::{Simd, WithSimd};

use super::rows::check_n;
use crate::error::{Error, Result};
use crate::limits::MAX_STRUCTURED_N;
use crate::matrix::{BandedRows, MatrixSpec, Plan, Stage, banded_weight};

/// Steps between two questions whether the caller still wants the answer.
const STRIDE: usize = 1 << 14;

/// Partial sums of an inner product, which run side by side.
const PARTS: usize = 16;

/// Past values of which a sum is formed one after the other.
const FEW: usize = 8;

/// The first column of the leading `n x n` block of a matrix that is Toeplitz by its algebra, or `None` where
/// it is not. It takes `O(n planes)` steps.
///
/// # Errors
/// Those of [`MatrixSpec::validate`], and [`Error::Invalid`] on `n` where it is 0, over [`MAX_STRUCTURED_N`],
/// or past the end of the matrix.
pub fn toeplitz_coefs(matrix: &MatrixSpec, n: u64) -> Result<Option<Vec<f64>>> {
    let plan = Plan::for_question(matrix, n)?;
    plan.check_representable::<f64>()?;
    coefs_of(&plan, n, &|| false)
}

/// The same of a matrix that is ready to run.
pub(super) fn coefs_of(plan: &Plan, n: u64, cancelled: &dyn Fn() -> bool) -> Result<Option<Vec<f64>>> {
    let n = check_n(plan, n, MAX_STRUCTURED_N)?;
    plan.is_toeplitz().then(|| first_column(plan.stages(), n, cancelled)).transpose()
}

/// The first column of a product of Toeplitz recurrences.
pub(crate) fn first_column(stages: &[Stage], n: usize, cancelled: &dyn Fn() -> bool) -> Result<Vec<f64>> {
    if cancelled() {
        return Err(Error::Cancelled);
    }
    let mut column = vec![0.0; n];
    column[0] = 1.0;
    // Toeplitz matrices commute. With those of short columns first, their product is short and cheap.
    let mut support = 1;
    for stage in stages {
        if let Stage::Banded { rows, inverse: false } = stage {
            let coef = weights(rows, false);
            let most = (support + coef.len() - 1).min(n);
            multiply_banded(&coef, &mut column[..most], support, cancelled)?;
            support = most;
        }
    }
    for stage in stages {
        run(stage, &mut column, cancelled)?;
    }
    Ok(column)
}

/// What the recurrence multiplies the values `0, 1, ...` steps ago with.
fn weights(rows: &BandedRows, inverse: bool) -> Vec<f64> {
    let planes = rows.planes();
    (0..=planes).map(|back| banded_weight(rows, inverse, planes, back)).collect()
}

/// Runs any recurrence that is not forwards banded.
fn run(stage: &Stage, column: &mut [f64], cancelled: &dyn Fn() -> bool) -> Result<()> {
    match stage {
        Stage::Banded { inverse: false, .. } => Ok(()),
        Stage::Scale(scale) => {
            let factor = scale.at(0);
            each(column, cancelled, |x| factor * x)
        }
        Stage::PrefixSum { inverse: false } => {
            let mut sum = 0.0;
            each(column, cancelled, |x| {
                sum += x;
                sum
            })
        }
        Stage::PrefixSum { inverse: true } => {
            let mut last = 0.0;
            each(column, cancelled, |x| x - std::mem::replace(&mut last, x))
        }
        Stage::Momentum { momentum, learning_rates, inverse: false } => {
            let (rate, mut m, mut r) = (learning_rates[0], 0.0, 0.0);
            each(column, cancelled, |x| {
                m = momentum * m + x;
                r += rate * m;
                r
            })
        }
        Stage::Momentum { momentum, learning_rates, inverse: true } => {
            let (inverse_rate, mut m, mut r) = (1.0 / learning_rates[0], 0.0, 0.0);
            each(column, cancelled, |x| {
                let now = inverse_rate * (x - std::mem::replace(&mut r, x));
                now - momentum * std::mem::replace(&mut m, now)
            })
        }
        Stage::Banded { rows, inverse: true } => divide_banded(&weights(rows, true), column, cancelled),
        Stage::Blt { buf_decay, output_scale, inverse } => {
            blt(buf_decay, output_scale, *inverse, column, cancelled)
        }
    }
}

fn each(
    column: &mut [f64],
    cancelled: &dyn Fn() -> bool,
    mut recurrence: impl FnMut(f64) -> f64,
) -> Result<()> {
    for chunk in column.chunks_mut(STRIDE) {
        if cancelled() {
            return Err(Error::Cancelled);
        }
        chunk.iter_mut().for_each(|value| *value = recurrence(*value));
    }
    Ok(())
}

/// `y_t = x_t + sum_k w_k s_k; s_k = theta_k s_k + x_t` (arXiv 2408.08868, Algorithm 2), or the inverse, in
/// which the sum is taken away and `y_t` is pushed (Algorithm 3).
fn blt(
    buf_decay: &[f64],
    output_scale: &[f64],
    inverse: bool,
    column: &mut [f64],
    cancelled: &dyn Fn() -> bool,
) -> Result<()> {
    let mut buffers = vec![0.0; buf_decay.len()];
    // The sum for the next step is formed where buffers change, so that they are gone through once a step.
    let mut sum = 0.0;
    each(column, cancelled, |x| {
        let y = if inverse { x - sum } else { x + sum };
        let pushed = if inverse { y } else { x };
        sum = 0.0;
        for ((buffer, theta), weight) in buffers.iter_mut().zip(buf_decay).zip(output_scale) {
            *buffer = theta * *buffer + pushed;
            sum += weight * *buffer;
        }
        y
    })
}

/// `y_t = sum_j c_j x_{t-j}`, from the last to the first, for a column that is zero from `support` on.
fn multiply_banded(
    coef: &[f64],
    column: &mut [f64],
    support: usize,
    cancelled: &dyn Fn() -> bool,
) -> Result<()> {
    let reversed: Vec<f64> = coef.iter().rev().copied().collect();
    for t in (0..column.len()).rev() {
        if t % STRIDE == 0 && cancelled() {
            return Err(Error::Cancelled);
        }
        let first = (t + 1).saturating_sub(coef.len());
        let end = (t + 1).min(support);
        let skipped = coef.len() - 1 - (t - first);
        column[t] = if first < end { dot(&column[first..end], &reversed[skipped..]) } else { 0.0 };
    }
    Ok(())
}

/// Forward substitution (arXiv 2306.08153, Algorithm 9). `weights` are the reciprocal of the diagonal, and
/// the negative quotients of the other coefficients by it.
fn divide_banded(weights: &[f64], column: &mut [f64], cancelled: &dyn Fn() -> bool) -> Result<()> {
    let (diagonal, planes) = (weights[0], weights.len() - 1);
    if planes < FEW {
        let mut ring: VecDeque<f64> = vec![0.0; planes].into();
        return each(column, cancelled, |x| {
            let y =
                ring.iter().zip(&weights[1..]).fold(diagonal * x, |sum, (past, weight)| sum + weight * past);
            ring.push_front(y);
            ring.truncate(planes);
            y
        });
    }
    let reversed: Vec<f64> = weights[1..].iter().rev().copied().collect();
    let arch = pulp::Arch::new();
    for start in (0..column.len()).step_by(STRIDE) {
        if cancelled() {
            return Err(Error::Cancelled);
        }
        let steps = start..column.len().min(start + STRIDE);
        arch.dispatch(Substitute { diagonal, reversed: &reversed, column, steps });
    }
    Ok(())
}

/// Some steps of forward substitution, to be compiled within a function that has an instruction set switched
/// on. Sums are formed in one order, so that they do not depend on it.
struct Substitute<'a> {
    diagonal: f64,
    reversed: &'a [f64],
    column: &'a mut [f64],
    steps: Range<usize>,
}

impl WithSimd for Substitute<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let Self { diagonal, reversed, column, steps } = self;
        for t in steps {
            let first = t.saturating_sub(reversed.len());
            let sum = dot(&column[first..t], &reversed[reversed.len() - (t - first)..]);
            column[t] = diagonal * column[t] + sum;
        }
    }
}

/// The inner product of two lists, as far as the shorter goes.
#[inline(always)]
pub(super) fn dot(a: &[f64], b: &[f64]) -> f64 {
    let length = a.len().min(b.len());
    let (a_whole, a_rest) = a[..length].as_chunks::<PARTS>();
    let (b_whole, b_rest) = b[..length].as_chunks::<PARTS>();
    let mut sums = [0.0; PARTS];
    for (a, b) in a_whole.iter().zip(b_whole) {
        for i in 0..PARTS {
            sums[i] += a[i] * b[i];
        }
    }
    let rest: f64 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    sums.iter().sum::<f64>() + rest
}
