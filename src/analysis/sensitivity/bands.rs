//! How many diagonals of a matrix are not zero, by its structure, and those diagonals written out.

use ndarray::Array2;

use super::super::{Rows, multiply::multiply_plan};
use crate::error::{Error, Result};
use crate::matrix::{BandedRows, Plan, Stage};

/// Diagonals of the leading `n x n` block of a matrix from the main one to the last that may hold a number
/// that is not zero.
pub(super) fn bandwidth(plan: &Plan, n: usize) -> usize {
    plan.stages().iter().fold(1, |sum, stage| (sum + bands_of(stage, n) - 1).min(n))
}

fn bands_of(stage: &Stage, n: usize) -> usize {
    let bands = match stage {
        Stage::Scale(_) => 1,
        // The first difference, and that of what momentum adds up.
        Stage::PrefixSum { inverse: true } => 2,
        Stage::Momentum { inverse: true, .. } => 3,
        Stage::PrefixSum { .. } | Stage::Momentum { .. } | Stage::Blt { .. } => n,
        Stage::Banded { rows, inverse } => {
            let bands = bands_of_rows(rows, n);
            // The inverse of a banded matrix is full, that of a diagonal one diagonal.
            if *inverse && bands > 1 { n } else { bands }
        }
    };
    bands.clamp(1, n)
}

fn bands_of_rows(rows: &BandedRows, n: usize) -> usize {
    match rows {
        BandedRows::Toeplitz(coef) => length(coef),
        BandedRows::Columns(columns) => {
            let within =
                |(j, column): (usize, &Vec<f64>)| length(&column[..column.len().min(columns.len() - j)]);
            columns.iter().enumerate().map(within).max().unwrap_or(1)
        }
        BandedRows::Dense(rows) => {
            let back = |(i, row): (usize, &Vec<f64>)| {
                row[..=i].iter().position(|&entry| entry != 0.0).map_or(1, |first| i - first + 1)
            };
            rows.iter().take(n).enumerate().map(back).max().unwrap_or(1)
        }
    }
}

/// The length of a list without the zeros at its end.
fn length(values: &[f64]) -> usize {
    values.iter().rposition(|&value| value != 0.0).map_or(1, |last| last + 1)
}

/// The diagonals of the leading block of a matrix.
pub(super) struct Bands {
    pub(super) n: usize,
    pub(super) bands: usize,
    /// Row `t` holds the entries `(t, t - bands + 1 ..= t)`; zero left of the first column.
    rows: Vec<f64>,
}

impl Bands {
    /// Writes out `n x bands` numbers. `bands` is at least [`bandwidth`].
    pub(super) fn new(plan: &Plan, n: usize, bands: usize, cancelled: &dyn Fn() -> bool) -> Result<Self> {
        if bands == n {
            let mut rows = vec![0.0; n * bands];
            for (row, held) in Rows::of(plan.clone(), n as u64)?.zip(rows.chunks_exact_mut(bands)) {
                if cancelled() {
                    return Err(Error::Cancelled);
                }
                held[bands - row.len()..].copy_from_slice(&row);
            }
            return Ok(Self { n, bands, rows });
        }
        // Columns that are `bands` apart share no row: one lane holds all of them.
        let probe = Array2::from_shape_fn((n, bands), |(t, lane)| f64::from(t % bands == lane));
        let answer = multiply_plan(plan, probe.view().into_dyn(), cancelled)?;
        drop(probe);
        let mut rows = vec![0.0; n * bands];
        for (t, (row, held)) in answer.outer_iter().zip(rows.chunks_exact_mut(bands)).enumerate() {
            for (back, entry) in held.iter_mut().rev().enumerate().take(t + 1) {
                *entry = row[(t - back) % bands];
            }
        }
        Ok(Self { n, bands, rows })
    }

    pub(super) fn row(&self, t: usize) -> &[f64] {
        &self.rows[t * self.bands..][..self.bands]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matrix::{DenseMatrix, MatrixSpec};

    fn plan(matrix: &MatrixSpec) -> Plan {
        Plan::new(matrix).unwrap()
    }

    fn toeplitz(coef: &[f64]) -> MatrixSpec {
        MatrixSpec::Toeplitz { coef: coef.to_vec(), column_normalize_for_n: None }
    }

    fn product(factors: Vec<MatrixSpec>) -> MatrixSpec {
        MatrixSpec::Product { factors }
    }

    fn cases() -> Vec<(MatrixSpec, usize)> {
        let momentum = MatrixSpec::MomentumSgd { momentum: 0.5, learning_rates: Some(vec![1.0, 2.0, 0.5]) };
        let columns = MatrixSpec::ColumnNormalizedBanded {
            params: vec![
                vec![1.0, 0.5, 0.0],
                vec![1.0, 0.0, 0.0],
                vec![1.0, 0.5, 0.0],
                vec![2.0, 1.0, 9.0],
                vec![2.0, 1.0, 9.0],
            ],
        };
        let dense = MatrixSpec::Dense {
            rows: vec![
                vec![1.0],
                vec![1.0, 2.0],
                vec![0.0, 1.0, 2.0],
                vec![0.0, 1.0, 2.0, 1.0],
                vec![0.0, 0.0, 0.0, 0.0, 1.0],
            ],
        };
        vec![
            (MatrixSpec::Identity, 1),
            (MatrixSpec::PrefixSum, 5),
            (MatrixSpec::PrefixSum.inverse(), 2),
            (MatrixSpec::Diagonal { diag: vec![1.0, 2.0] }.inverse(), 1),
            (momentum.clone(), 5),
            (momentum.inverse(), 3),
            (toeplitz(&[1.0, 0.5, 0.0]), 2),
            (toeplitz(&[1.0, 0.0]).inverse(), 1),
            (toeplitz(&[1.0, 0.5]).inverse(), 5),
            (toeplitz(&[1.0, 0.5]).inverse().inverse(), 2),
            (toeplitz(&[1.0; 9]), 5),
            (columns, 2),
            (dense.clone(), 3),
            (dense.inverse(), 5),
            (product(vec![toeplitz(&[1.0, 0.5]), toeplitz(&[1.0, 0.5, 0.25])]), 4),
            (product(vec![toeplitz(&[1.0, 0.5]), toeplitz(&[1.0, 0.5, 0.25])]).inverse(), 5),
            (toeplitz(&[1.0, 0.5]).scale_rows_and_columns(Some(vec![2.0, 3.0]), Some(vec![1.0, 0.5])), 2),
        ]
    }

    #[test]
    fn structure_tells_the_bands() {
        for (matrix, expected) in cases() {
            assert_eq!(bandwidth(&plan(&matrix), 5), expected, "{matrix:?}");
            let dense = DenseMatrix::new(&matrix, 5).unwrap();
            for i in 0..5 {
                assert!(dense.row(i)[..(i + 1).saturating_sub(expected)].iter().all(|&entry| entry == 0.0));
            }
        }
    }

    #[test]
    fn probes_write_the_bands_out() {
        for (matrix, bands) in cases() {
            let (dense, held) = (
                DenseMatrix::new(&matrix, 5).unwrap(),
                Bands::new(&plan(&matrix), 5, bands, &|| false).unwrap(),
            );
            for t in 0..5 {
                for (back, entry) in held.row(t).iter().rev().enumerate() {
                    let expected = if back <= t { dense.row(t)[t - back] } else { 0.0 };
                    assert!((entry - expected).abs() < 1e-14, "{matrix:?} row {t}: {:?}", held.row(t));
                }
            }
        }
    }
}
