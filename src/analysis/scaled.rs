//! A Toeplitz matrix between two diagonals, `diag(r) T diag(c)`: the squared norm of row `i` is
//! `r_i^2 sum_j t_{i-j}^2 c_j^2`, a convolution of squares; that of column `j` is one with `r` backwards.

use realfft::RealFftPlanner;

use super::column::{dot, first_column};
use crate::error::{Error, Result};
use crate::matrix::{Plan, Stage};

/// What a Fourier transform of a number costs, in multiplications of an inner product.
const FFT_COST: usize = 400;

/// Multiplications that are always made, for the digits that a Fourier transform would lose.
const DIRECT_WORK: usize = 1 << 23;

/// The relative error that a result of a Fourier transform may have.
const FFT_TOLERANCE: f64 = 1e-10;

/// Rows between two questions whether the caller still wants the answer.
const STRIDE: usize = 1 << 10;

/// The stages of `diag(r) T diag(c)`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scaled<'a> {
    columns: &'a [Stage],
    toeplitz: &'a [Stage],
    rows: &'a [Stage],
}

impl<'a> Scaled<'a> {
    /// Takes a matrix apart, where it is of this form.
    pub(super) fn of(plan: &'a Plan) -> Option<Self> {
        let is_scale = |stage: &&Stage| matches!(stage, Stage::Scale(_));
        let stages = plan.stages();
        let (columns, rest) = stages.split_at(stages.iter().take_while(is_scale).count());
        let (toeplitz, rows) = rest.split_at(rest.len() - rest.iter().rev().take_while(is_scale).count());
        toeplitz.iter().all(Stage::is_toeplitz).then_some(Self { columns, toeplitz, rows })
    }

    /// The squared norms of rows; `None` where rounding would show in them, and other ways take less than the
    /// multiplications of a plain sum: `otherwise`.
    pub(super) fn row_norms(
        &self,
        n: usize,
        otherwise: usize,
        cancelled: &dyn Fn() -> bool,
    ) -> Result<Option<Vec<f64>>> {
        let (r, c) = (squares(self.rows, n), squares(self.columns, n));
        let norms = convolve(&self.squared_column(n, cancelled)?, &c, otherwise, cancelled)?;
        Ok(norms.map(|norms| norms.iter().zip(&r).map(|(norm, r)| norm * r).collect()))
    }

    /// The squared norms of columns, as [`Scaled::row_norms`] has those of rows.
    pub(super) fn column_norms(
        &self,
        n: usize,
        otherwise: usize,
        cancelled: &dyn Fn() -> bool,
    ) -> Result<Option<Vec<f64>>> {
        let (mut r, c) = (squares(self.rows, n), squares(self.columns, n));
        r.reverse();
        let norms = convolve(&self.squared_column(n, cancelled)?, &r, otherwise, cancelled)?;
        Ok(norms.map(|norms| norms.iter().rev().zip(&c).map(|(norm, c)| norm * c).collect()))
    }

    fn squared_column(&self, n: usize, cancelled: &dyn Fn() -> bool) -> Result<Vec<f64>> {
        let mut column = first_column(self.toeplitz, n, cancelled)?;
        column.iter_mut().for_each(|entry| *entry *= *entry);
        Ok(column)
    }
}

/// The squares of a product of diagonals.
fn squares(scales: &[Stage], n: usize) -> Vec<f64> {
    let mut products = vec![1.0; n];
    for stage in scales {
        if let Stage::Scale(scale) = stage {
            products.iter_mut().zip(0..).for_each(|(product, step)| *product *= scale.at(step));
        }
    }
    products.iter_mut().for_each(|product| *product *= *product);
    products
}

/// `sum_m a_m c_{i-m}` for every `i`, of lists without negative entries; `None` where rounding would show in
/// a Fourier transform, and a plain sum takes more multiplications than there are `otherwise`.
fn convolve(
    a: &[f64],
    c: &[f64],
    otherwise: usize,
    cancelled: &dyn Fn() -> bool,
) -> Result<Option<Vec<f64>>> {
    let n = a.len();
    let support = a.iter().rposition(|&a| a != 0.0).map_or(0, |last| last + 1);
    // Past its head, `c` repeats its last entry.
    let head = c.iter().rposition(|&entry| entry != c[n - 1]).map_or(0, |last| last + 1);
    let work = n.saturating_mul(support.min(head).min(n / 2));
    if work > DIRECT_WORK.max(FFT_COST * n) {
        let found = fourier(a, c, cancelled)?;
        if found.is_some() || work > otherwise {
            return Ok(found);
        }
    }
    let direct =
        if support <= head { short(&a[..support], c, cancelled) } else { headed(a, c, head, cancelled) };
    direct.map(Some)
}

/// The convolution of a short `a` with `c`.
fn short(a: &[f64], c: &[f64], cancelled: &dyn Fn() -> bool) -> Result<Vec<f64>> {
    let reversed: Vec<f64> = a.iter().rev().copied().collect();
    let term = |i: usize| {
        let first = (i + 1).saturating_sub(a.len());
        if a.is_empty() { 0.0 } else { dot(&c[first..=i], &reversed[a.len() - 1 - (i - first)..]) }
    };
    rows(c.len(), cancelled, term)
}

/// The convolution of `a` with a `c` that repeats its last entry past its head. Nothing is taken away from
/// anything.
fn headed(a: &[f64], c: &[f64], head: usize, cancelled: &dyn Fn() -> bool) -> Result<Vec<f64>> {
    let reversed: Vec<f64> = c[..head].iter().rev().copied().collect();
    let last = c[c.len() - 1];
    let mut sum = 0.0;
    let term = |i: usize| {
        if i >= head {
            sum += a[i - head];
        }
        let first = (i + 1).saturating_sub(head);
        let of_head = if head == 0 { 0.0 } else { dot(&a[first..=i], &reversed[head - 1 - (i - first)..]) };
        of_head + last * sum
    };
    rows(a.len(), cancelled, term)
}

fn rows(n: usize, cancelled: &dyn Fn() -> bool, mut term: impl FnMut(usize) -> f64) -> Result<Vec<f64>> {
    let mut values = Vec::with_capacity(n);
    for i in 0..n {
        if i % STRIDE == 0 && cancelled() {
            return Err(Error::Cancelled);
        }
        values.push(term(i));
    }
    Ok(values)
}

/// The same by Fourier transforms. Their error is about the same everywhere, `eps log(n) |a| |c|`, and so may
/// show in small results.
fn fourier(a: &[f64], c: &[f64], cancelled: &dyn Fn() -> bool) -> Result<Option<Vec<f64>>> {
    let n = a.len();
    let length = (2 * n).next_power_of_two();
    let mut planner = RealFftPlanner::<f64>::new();
    let (forward, backward) = (planner.plan_fft_forward(length), planner.plan_fft_inverse(length));
    let transform = |list: &[f64]| {
        let mut padded = vec![0.0; length];
        padded[..n].copy_from_slice(list);
        let mut spectrum = forward.make_output_vec();
        forward.process(&mut padded, &mut spectrum).map_err(|e| Error::invalid("n", e))?;
        if cancelled() { Err(Error::Cancelled) } else { Ok((spectrum, padded)) }
    };
    let (mut spectrum, mut product) = transform(a)?;
    let (other, _) = transform(c)?;
    spectrum.iter_mut().zip(&other).for_each(|(a, c)| *a *= *c);
    drop(other);
    // Rounding leaves imaginary parts where a real signal has none.
    let last = spectrum.len() - 1;
    spectrum[0].im = 0.0;
    spectrum[last].im = 0.0;
    backward.process(&mut spectrum, &mut product).map_err(|e| Error::invalid("n", e))?;
    product.truncate(n);
    product.iter_mut().for_each(|value| *value /= length as f64);
    let norm = |list: &[f64]| list.iter().map(|value| value * value).sum::<f64>().sqrt();
    let error = f64::EPSILON * f64::from(length.ilog2()) * norm(a) * norm(c);
    Ok(product.iter().all(|&value| value * FFT_TOLERANCE > error).then_some(product))
}
