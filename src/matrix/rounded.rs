//! The matrix that a session applies: the one whose recurrences have the numbers that the session multiplies
//! with.
//!
//! A session rounds the numbers of its recurrences to its precision, and its matrix is the one with the
//! rounded numbers. A strategy's decay of `1 - 1e-6` is another decay in f32, and the strategy that such a
//! session realises has another sensitivity. What is told about a mechanism is told about the matrix that is
//! applied.

use std::sync::Arc;

use super::plan::{Plan, Rows, Scale, ScaleValues, Stage};
use crate::dtype::Precision;
use crate::error::Result;

/// Which of a matrix and its inverse a session runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Runs {
    /// The matrix: a noising matrix.
    Matrix,
    /// The inverse of the matrix, which is a strategy.
    Inverse,
}

impl Plan {
    /// This matrix as a session of a precision realises it.
    ///
    /// # Errors
    /// [`Error::Invalid`](crate::Error::Invalid) on `matrix` where no such session can hold the numbers.
    pub(crate) fn rounded(&self, precision: Precision, runs: Runs) -> Result<Self> {
        let round = match precision {
            Precision::F32 => |value: f64| f64::from(value as f32),
            Precision::F64 => |value: f64| value,
        };
        let flip = runs == Runs::Inverse;
        let mut run = self.clone();
        if flip {
            run.stages_mut().iter_mut().for_each(Stage::flip);
        }
        match precision {
            Precision::F32 => run.check_representable::<f32>()?,
            Precision::F64 => run.check_representable::<f64>()?,
        }
        if precision == Precision::F64 {
            return Ok(self.clone());
        }
        run.stages_mut().iter_mut().for_each(|stage| stage.round(&round));
        if flip {
            run.stages_mut().iter_mut().for_each(Stage::flip);
        }
        Ok(run)
    }
}

/// The reciprocal of what a reciprocal is rounded to.
fn reciprocal(value: f64, round: &impl Fn(f64) -> f64) -> f64 {
    1.0 / round(1.0 / value)
}

impl Stage {
    /// Becomes the inverse.
    fn flip(&mut self) {
        match self {
            Self::Scale(scale) => scale.reciprocal = !scale.reciprocal,
            Self::PrefixSum { inverse }
            | Self::Momentum { momentum: _, learning_rates: _, inverse }
            | Self::Banded { rows: _, inverse }
            | Self::Blt { buf_decay: _, output_scale: _, inverse } => *inverse = !*inverse,
        }
    }

    /// Sets the parameters to those of the matrix whose recurrence has the numbers that the step of this one
    /// multiplies with.
    fn round(&mut self, round: &impl Fn(f64) -> f64) {
        let each = |list: &Arc<[f64]>| list.iter().map(|&value| round(value)).collect();
        match self {
            Self::Scale(Scale { values, reciprocal: inverse }) => {
                let of = |value: &f64| if *inverse { reciprocal(*value, round) } else { round(*value) };
                match values {
                    ScaleValues::List(list) => *list = list.iter().map(of).collect(),
                    ScaleValues::ToeplitzColumns { norms, n: _ } => *norms = norms.iter().map(of).collect(),
                }
            }
            Self::PrefixSum { inverse: _ } => {}
            Self::Momentum { momentum, learning_rates, inverse } => {
                *momentum = round(*momentum);
                let of = |rate: &f64| if *inverse { reciprocal(*rate, round) } else { round(*rate) };
                *learning_rates = learning_rates.iter().map(of).collect();
            }
            Self::Banded { rows, inverse } => rows.round(*inverse, round),
            Self::Blt { buf_decay, output_scale, inverse: _ } => {
                (*buf_decay, *output_scale) = (each(buf_decay), each(output_scale));
            }
        }
    }
}

impl Rows {
    fn round(&mut self, inverse: bool, round: &impl Fn(f64) -> f64) {
        // Forward substitution multiplies with quotients by the diagonal of the row.
        let entry = |entry: f64, back: usize, diagonal: f64| match (inverse, back) {
            (false, _) => round(entry),
            (true, 0) => reciprocal(entry, round),
            (true, _) => round(entry / diagonal) * reciprocal(diagonal, round),
        };
        match self {
            Self::Toeplitz(coef) => {
                let first = coef[0];
                *coef = coef.iter().enumerate().map(|(back, &value)| entry(value, back, first)).collect();
            }
            Self::Columns(columns) => {
                let n = columns.len();
                let diagonal = |row: usize| columns[row.min(n - 1)][0];
                let column = |(j, column): (usize, &Vec<f64>)| {
                    column
                        .iter()
                        .enumerate()
                        .map(|(back, &value)| entry(value, back, diagonal(j + back)))
                        .collect()
                };
                *columns = columns.iter().enumerate().map(column).collect();
            }
            Self::Dense(rows) => {
                let row = |(i, row): (usize, &Vec<f64>)| {
                    row.iter()
                        .take(i + 1)
                        .enumerate()
                        .map(|(j, &value)| entry(value, i - j, row[i]))
                        .collect()
                };
                *rows = rows.iter().enumerate().map(row).collect();
            }
        }
    }
}
