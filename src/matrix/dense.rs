//! The dense oracle: a matrix written out entry by entry from its definition.
//!
//! Nothing here is a recurrence or shares code with one: products are sums over an index, inverses are
//! columns of `M x = e_j` solved by substitution. It is what the streaming forms are checked against, in f64.

use super::spec::MatrixSpec;
use crate::error::{Error, Result};

/// An `n x n` lower-triangular matrix, row by row; row `i` holds its `i + 1` entries up to the diagonal.
#[derive(Clone, Debug, PartialEq)]
pub struct DenseMatrix {
    rows: Vec<Vec<f64>>,
}

impl DenseMatrix {
    /// Writes out the leading `n x n` block of a matrix, in `O(n^3)`.
    ///
    /// # Errors
    /// Those of [`MatrixSpec::validate`], and [`Error::Invalid`] on `n` where the matrix ends before `n`.
    pub fn new(spec: &MatrixSpec, n: usize) -> Result<Self> {
        spec.validate()?;
        Self::of(spec, n)
    }

    fn from_fn(n: usize, mut entry: impl FnMut(usize, usize) -> f64) -> Self {
        Self { rows: (0..n).map(|i| (0..=i).map(|j| entry(i, j)).collect()).collect() }
    }

    fn of(spec: &MatrixSpec, n: usize) -> Result<Self> {
        let repeat_last = |list: &[f64], i: usize| list[i.min(list.len() - 1)];
        let fits = |rows: usize| {
            let rule = format!("at most {rows}, where the matrix ends");
            if n <= rows { Ok(()) } else { Err(Error::invalid("n", rule)) }
        };
        Ok(match spec {
            MatrixSpec::Identity => Self::from_fn(n, |i, j| f64::from(i == j)),
            MatrixSpec::PrefixSum => Self::from_fn(n, |_, _| 1.0),
            MatrixSpec::Diagonal { diag } => {
                Self::from_fn(n, |i, j| if i == j { repeat_last(diag, i) } else { 0.0 })
            }
            MatrixSpec::MomentumSgd { momentum, learning_rates } => {
                // x_j has the weight momentum^(k - j) in the step taken at k, and that step counts from then
                // on.
                let rate = |k| learning_rates.as_ref().map_or(1.0, |rates| repeat_last(rates, k));
                Self::from_fn(n, |i, j| (j..=i).map(|k| rate(k) * momentum.powi((k - j) as i32)).sum())
            }
            MatrixSpec::Toeplitz { coef, column_normalize_for_n } => {
                let entry = |i: usize, j: usize| coef.get(i - j).copied().unwrap_or(0.0);
                match column_normalize_for_n {
                    None => Self::from_fn(n, entry),
                    Some(rows) => {
                        let rows = usize::try_from(*rows).unwrap_or(usize::MAX);
                        fits(rows)?;
                        let norm = |j: usize| {
                            let held = coef.len().min(rows - j);
                            coef[..held].iter().map(|c| c * c).sum::<f64>().sqrt()
                        };
                        Self::from_fn(n, |i, j| entry(i, j) / norm(j))
                    }
                }
            }
            MatrixSpec::BufferedToeplitz { buf_decay, output_scale } => {
                Self::from_fn(n, |i, j| match i - j {
                    0 => 1.0,
                    gap => buf_decay
                        .iter()
                        .zip(output_scale)
                        .map(|(theta, w)| w * theta.powi(gap as i32 - 1))
                        .sum(),
                })
            }
            MatrixSpec::ColumnNormalizedBanded { params } => {
                fits(params.len())?;
                let norm = |j: usize| {
                    let held = params[j].len().min(params.len() - j);
                    params[j][..held].iter().map(|p| p * p).sum::<f64>().sqrt()
                };
                Self::from_fn(n, |i, j| params[j].get(i - j).copied().unwrap_or(0.0) / norm(j))
            }
            MatrixSpec::Dense { rows } => {
                fits(rows.len())?;
                Self::from_fn(n, |i, j| rows[i][j])
            }
            MatrixSpec::Product { factors } => {
                let mut product = Self::from_fn(n, |i, j| f64::from(i == j));
                for factor in factors {
                    product = product.times(&Self::of(factor, n)?);
                }
                product
            }
            MatrixSpec::Scaled { matrix, row_scale, col_scale } => {
                let inner = Self::of(matrix, n)?;
                let scale =
                    |list: &Option<Vec<f64>>, i| list.as_ref().map_or(1.0, |list| repeat_last(list, i));
                Self::from_fn(n, |i, j| scale(row_scale, i) * inner.rows[i][j] * scale(col_scale, j))
            }
            MatrixSpec::Inverse { matrix } => Self::of(matrix, n)?.inverse(),
        })
    }

    fn times(&self, right: &Self) -> Self {
        Self::from_fn(self.n(), |i, j| (j..=i).map(|k| self.rows[i][k] * right.rows[k][j]).sum())
    }

    /// Solves `M x = e_j` for every `j`.
    fn inverse(&self) -> Self {
        let n = self.n();
        let mut inverse = Self::from_fn(n, |_, _| 0.0);
        for j in 0..n {
            for i in j..n {
                let known: f64 = (j..i).map(|k| self.rows[i][k] * inverse.rows[k][j]).sum();
                inverse.rows[i][j] = (f64::from(i == j) - known) / self.rows[i][i];
            }
        }
        inverse
    }

    /// The number of rows.
    pub fn n(&self) -> usize {
        self.rows.len()
    }

    /// Row `i`, up to the diagonal.
    pub fn row(&self, i: usize) -> &[f64] {
        &self.rows[i]
    }

    /// `sum_j M_ij x_j` for one lane, with `x` holding at least `i + 1` steps.
    pub fn apply_row(&self, i: usize, x: &[f64]) -> f64 {
        self.rows[i].iter().zip(x).map(|(entry, x)| entry * x).sum()
    }

    /// `sum_j |M_ij x_j|`: the size of what cancels in [`DenseMatrix::apply_row`], and so the natural unit of
    /// its rounding errors.
    pub fn apply_row_magnitude(&self, i: usize, x: &[f64]) -> f64 {
        self.rows[i].iter().zip(x).map(|(entry, x)| (entry * x).abs()).sum()
    }
}
