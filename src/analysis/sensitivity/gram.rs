//! Bounds from the absolute values of the Gram matrix `X = C^T C`: with unit vectors `u_i` for what a user
//! adds in the steps of a pattern, `|sum_i C_i u_i|^2 <= sum_ij |X_ij|` (arXiv 2306.08153, Equation 5), with
//! equality where no `X_ij` is negative.

use rayon::prelude::*;

use super::bands::Bands;
use super::patterns::{Search, table_work};
use super::spaced::largest_spaced_sum;
use super::{Bound, ROUNDING};
use crate::error::{Error, Result};

/// Rows of `C` that are added to the Gram matrix while they are in cache.
const ROWS_A_BLOCK: usize = 64;

/// Rows of the Gram matrix that are bounded between two questions whether to go on.
const BOUNDS_A_BLOCK: usize = 1024;

/// Operations up to which the worst pattern itself is looked for: about a second.
const MAX_WORK: usize = 1 << 28;

/// Entries of its table.
const MAX_TABLE_ENTRIES: usize = 1 << 24;

/// `X = C^T C` of a banded `C`, which is as banded to both sides.
pub(super) struct Gram {
    n: usize,
    bands: usize,
    /// Row `j` holds the entries `(j, j ..= j + bands - 1)`; zero right of the last column.
    rows: Vec<f64>,
}

impl Gram {
    pub(super) fn new(matrix: &Bands, cancelled: &dyn Fn() -> bool) -> Result<Self> {
        let (n, bands) = (matrix.n, matrix.bands);
        let mut rows = vec![0.0; n * bands];
        for start in (0..n).step_by(ROWS_A_BLOCK) {
            if cancelled() {
                return Err(Error::Cancelled);
            }
            let end = n.min(start + ROWS_A_BLOCK);
            let first = (start + 1).saturating_sub(bands);
            rows[first * bands..end * bands].par_chunks_mut(bands).enumerate().for_each(|(at, sums)| {
                let j = first + at;
                for t in start.max(j)..end.min(j + bands) {
                    // Entry (t, j), and those right of it up to the diagonal.
                    let right = &matrix.row(t)[bands - 1 - (t - j)..];
                    let entry = right[0];
                    sums.iter_mut().zip(right).for_each(|(sum, other)| *sum += entry * other);
                }
            });
        }
        Ok(Self { n, bands, rows })
    }

    /// That of the leading `n x n` block of a lower-triangular Toeplitz matrix, whose first column is zero
    /// past the end of `column`: `X_ij = X_(i+1)(j+1) + c_(n-1-i) c_(n-1-j)`.
    pub(super) fn of_toeplitz(column: &[f64], n: usize) -> Self {
        let bands = column.len().clamp(1, n);
        let mut rows = vec![0.0; n * bands];
        for i in (0..n).rev() {
            let (row, below) = rows[i * bands..].split_at_mut(bands);
            let below = below.get(..bands);
            for (back, entry) in row.iter_mut().enumerate().take(n - i) {
                let earlier = below.filter(|_| i + back + 1 < n).map_or(0.0, |below| below[back]);
                let (Some(first), Some(second)) = (column.get(n - 1 - i), column.get(n - 1 - i - back))
                else {
                    *entry = earlier;
                    continue;
                };
                *entry = earlier + first * second;
            }
        }
        Self { n, bands, rows }
    }

    /// That of columns written from the diagonal down, of at most `bands` entries each.
    pub(super) fn of_columns(columns: &[Vec<f64>], bands: usize) -> Self {
        let n = columns.len();
        let entry = |i: usize, j: usize| -> f64 {
            let (above, below) = (columns[i].iter().skip(j - i), columns.get(j));
            below.map_or(0.0, |below| above.zip(below).map(|(a, b)| a * b).sum())
        };
        let rows =
            (0..n).flat_map(|i| (i..i + bands).map(move |j| (i, j))).map(|(i, j)| entry(i, j)).collect();
        Self { n, bands, rows }
    }

    pub(super) fn n(&self) -> usize {
        self.n
    }

    pub(super) fn bands(&self) -> usize {
        self.bands
    }

    /// The sum of the sizes of the entries between the steps of a pattern, which ascend.
    pub(super) fn absolute_sum(&self, steps: &[usize]) -> f64 {
        self.of_pattern(steps).upper
    }

    pub(super) fn entry(&self, i: usize, j: usize) -> f64 {
        let (low, high) = (i.min(j), i.max(j));
        if high - low < self.bands { self.rows[low * self.bands + high - low] } else { 0.0 }
    }

    /// What a pattern reaches where every participation adds the same vector or its opposite, and what it is
    /// bounded by. Signs are chosen one step after the other, so that as much as can be adds up.
    fn of_pattern(&self, steps: &[usize]) -> Bound {
        let mut bound = Bound { reached: 0.0, upper: 0.0 };
        let mut signs: Vec<f64> = Vec::with_capacity(steps.len());
        for (at, &j) in steps.iter().enumerate() {
            bound = bound.plus(self.entry(j, j), 1.0);
            let earlier = steps[..at].iter().zip(&signs).rev().take_while(|&(&i, _)| j - i < self.bands);
            let (mut signed, mut sizes) = (0.0, 0.0);
            earlier.for_each(|(&i, sign)| {
                let entry = self.entry(i, j);
                signed += sign * entry;
                sizes += entry.abs();
            });
            signs.push(if signed < 0.0 { -1.0 } else { 1.0 });
            bound.reached += 2.0 * signed.abs();
            bound.upper += 2.0 * sizes;
        }
        bound
    }

    /// Over the `n / apart` patterns of steps exactly `apart` from each other.
    pub(super) fn of_residues(&self, apart: usize) -> Bound {
        let class = |first| self.of_pattern(&(first..self.n).step_by(apart).collect::<Vec<_>>());
        (0..apart).into_par_iter().map(class).reduce(Bound::default, Bound::or)
    }

    /// Over the patterns of at most `most` steps at least `apart` from each other: arXiv 2306.08153,
    /// Algorithm 4, with entries left out that no pattern has together. The bound is reached where the
    /// pattern that it comes from does so. Where it does not, the worst pattern is looked for.
    pub(super) fn of_spaced(&self, apart: usize, most: usize, cancelled: &dyn Fn() -> bool) -> Result<Bound> {
        let mut row_bounds = Vec::with_capacity(self.n);
        for start in (0..self.n).step_by(BOUNDS_A_BLOCK) {
            if cancelled() {
                return Err(Error::Cancelled);
            }
            let block = start..self.n.min(start + BOUNDS_A_BLOCK);
            let bounds: Result<Vec<f64>> =
                block.into_par_iter().map(|i| self.row_bound(i, apart, most)).collect();
            row_bounds.extend(bounds?);
        }
        let best = largest_spaced_sum(&row_bounds, apart, most, cancelled)?;
        let reached = best.picks.map_or(0.0, |picks| self.of_pattern(&picks).reached);
        let bound = Bound { reached, upper: best.sum };
        if bound.upper - bound.reached <= ROUNDING * bound.upper || !self.can_search(apart, most, MAX_WORK) {
            return Ok(bound);
        }
        let found = Search::new(self, apart, most, MAX_WORK).run(cancelled)?;
        let reached = found.patterns.first().map_or(0.0, |worst| self.of_pattern(worst).reached);
        Ok(Bound { reached: reached.max(bound.reached), upper: found.upper.min(bound.upper) })
    }

    /// Whether the worst of the patterns of at most `most` steps at least `apart` from each other can be
    /// looked for in about `most_work` operations.
    pub(super) fn can_search(&self, apart: usize, most: usize, most_work: usize) -> bool {
        self.n.saturating_mul(most) <= MAX_TABLE_ENTRIES
            && table_work(self.n, self.bands, apart, most) <= most_work
    }

    /// The most that row `i` adds to a pattern with step `i`.
    fn row_bound(&self, i: usize, apart: usize, most: usize) -> Result<f64> {
        let (from, to) = ((i + 1).saturating_sub(self.bands), self.n.min(i + self.bands));
        let allowed = |j: usize| if j.abs_diff(i) < apart { 0.0 } else { self.entry(i, j).abs() };
        let others: Vec<f64> = (from..to).map(allowed).collect();
        // A row is short: whether anybody waits is asked between blocks of them.
        Ok(self.entry(i, i) + largest_spaced_sum(&others, apart, most - 1, &|| false)?.sum)
    }
}
