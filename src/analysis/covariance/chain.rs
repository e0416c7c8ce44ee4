//! The chain rule from the weights of assignments to the parameters of stages, and from these to those of a
//! description.

use crate::error::{Error, Result};
use crate::limits::MAX_SCHEDULE;
use crate::matrix::{BandedRows, MatrixSpec, Plan, Scale, Stage, clip};

/// The derivative by a stage's parameters.
#[derive(Clone, Debug)]
pub(super) enum StageGradient {
    /// It has none.
    None,
    /// By the values of [`Scale::distinct`].
    Scale(Vec<f64>),
    Momentum {
        momentum: f64,
        learning_rates: Vec<f64>,
    },
    /// By the entries, laid out as the stage has them; of a Toeplitz matrix, one row of coefficients.
    Banded(Vec<Vec<f64>>),
    Blt {
        buf_decay: Vec<f64>,
        output_scale: Vec<f64>,
    },
}

impl StageGradient {
    /// A derivative of zeros.
    pub(super) fn zeros(stage: &Stage) -> Self {
        let rows = |rows: &[Vec<f64>]| rows.iter().map(|row| vec![0.0; row.len()]).collect();
        match stage {
            Stage::Scale(scale) => Self::Scale(vec![0.0; scale.distinct().len()]),
            Stage::PrefixSum { .. } => Self::None,
            Stage::Momentum { learning_rates, .. } => {
                Self::Momentum { momentum: 0.0, learning_rates: vec![0.0; learning_rates.len()] }
            }
            Stage::Banded { rows: banded, .. } => Self::Banded(match banded {
                BandedRows::Toeplitz(coef) => vec![vec![0.0; coef.len()]],
                BandedRows::Columns(columns) => rows(columns),
                BandedRows::Dense(dense) => rows(dense),
            }),
            Stage::Blt { buf_decay, output_scale, .. } => Self::Blt {
                buf_decay: vec![0.0; buf_decay.len()],
                output_scale: vec![0.0; output_scale.len()],
            },
        }
    }

    /// Takes in the derivative by the weights of one step's terms, in their order.
    pub(super) fn add(&mut self, stage: &Stage, step: usize, by_weight: &[f64]) {
        match (self, stage) {
            (Self::Scale(gradient), Stage::Scale(scale)) => add_scale(gradient, scale, step, by_weight[0]),
            (
                Self::Momentum { momentum: by_momentum, learning_rates: by_rates },
                Stage::Momentum { learning_rates, inverse, .. },
            ) => {
                let index = clip(step as u64, learning_rates.len());
                if *inverse {
                    *by_momentum -= by_weight[4];
                    by_rates[index] -= (by_weight[0] - by_weight[1]) / learning_rates[index].powi(2);
                } else {
                    *by_momentum += by_weight[0];
                    by_rates[index] += by_weight[3];
                }
            }
            (Self::Banded(gradient), Stage::Banded { rows, inverse }) => {
                add_banded(gradient, rows, *inverse, step, by_weight);
            }
            (Self::Blt { buf_decay, output_scale }, Stage::Blt { inverse, .. }) => {
                let sign = if *inverse { -1.0 } else { 1.0 };
                let (_, by_sum) = by_weight.split_at(1);
                let (by_scale, by_buffers) = by_sum.split_at(output_scale.len());
                output_scale.iter_mut().zip(by_scale).for_each(|(sum, by)| *sum += sign * by);
                buf_decay.iter_mut().zip(by_buffers.chunks(2)).for_each(|(sum, by)| *sum += by[0]);
            }
            // A stage's gradient is made for it.
            _ => {}
        }
    }
}

fn add_scale(gradient: &mut [f64], scale: &Scale, step: usize, by_factor: f64) {
    let index = scale.index(step as u64);
    let factor = scale.at(step as u64);
    gradient[index] += if scale.reciprocal { -by_factor * factor * factor } else { by_factor };
}

fn add_banded(gradient: &mut [Vec<f64>], rows: &BandedRows, inverse: bool, step: usize, by_weight: &[f64]) {
    let held = rows.planes().min(step);
    let mut entry = |back: usize, by: f64| match rows {
        BandedRows::Toeplitz(_) => gradient[0][back] += by,
        BandedRows::Columns(_) => gradient[step - back][back] += by,
        BandedRows::Dense(_) => gradient[step][step - back] += by,
    };
    if !inverse {
        return (0..=held).for_each(|back| entry(back, by_weight[back]));
    }
    // The weights are 1 / e_0 and -e_k / e_0.
    let diagonal = rows.entry(step, 0);
    let quotients: f64 = (1..=held).map(|back| by_weight[back] * rows.entry(step, back)).sum();
    entry(0, (quotients - by_weight[0]) / (diagonal * diagonal));
    (1..=held).for_each(|back| entry(back, -by_weight[back] / diagonal));
}

/// The derivative by the parameters of a description, as a description of the same shape, from those of its
/// stages.
pub(super) fn of_spec(spec: &MatrixSpec, plan: &Plan, gradients: Vec<StageGradient>) -> Result<MatrixSpec> {
    let stages = plan.stages().iter().zip(gradients);
    Walk { stages: stages.into_iter() }.matrix(spec, false)
}

/// Goes through a description in the order in which a plan lowers it.
struct Walk<I> {
    stages: I,
}

impl<'a, I: Iterator<Item = (&'a Stage, StageGradient)>> Walk<I> {
    fn matrix(&mut self, spec: &MatrixSpec, inverse: bool) -> Result<MatrixSpec> {
        Ok(match spec {
            MatrixSpec::Identity => MatrixSpec::Identity,
            MatrixSpec::PrefixSum => {
                self.next()?;
                MatrixSpec::PrefixSum
            }
            MatrixSpec::Diagonal { .. } => MatrixSpec::Diagonal { diag: self.scale()? },
            MatrixSpec::MomentumSgd { learning_rates: rates, .. } => match self.next()? {
                StageGradient::Momentum { momentum, learning_rates } => MatrixSpec::MomentumSgd {
                    momentum,
                    learning_rates: rates.as_ref().map(|_| learning_rates),
                },
                _ => return Err(out_of_step()),
            },
            MatrixSpec::Toeplitz { coef, column_normalize_for_n } => {
                let normalized = column_normalize_for_n.is_some();
                let (mut by_entry, by_norm) = self.banded(inverse, normalized)?;
                let mut by_coef = by_entry.pop().unwrap_or_default();
                for (last, by_norm) in by_norm.iter().enumerate() {
                    add_norm(&mut by_coef, &coef[..=last], *by_norm);
                }
                MatrixSpec::Toeplitz { coef: by_coef, column_normalize_for_n: *column_normalize_for_n }
            }
            MatrixSpec::BufferedToeplitz { .. } => match self.next()? {
                StageGradient::Blt { buf_decay, output_scale } => {
                    MatrixSpec::BufferedToeplitz { buf_decay, output_scale }
                }
                _ => return Err(out_of_step()),
            },
            MatrixSpec::ColumnNormalizedBanded { params } => {
                let (mut by_params, by_norm) = self.banded(inverse, true)?;
                let n = params.len();
                for (j, (by_column, by_norm)) in by_params.iter_mut().zip(by_norm).enumerate() {
                    let held = params[j].len().min(n - j);
                    add_norm(by_column, &params[j][..held], by_norm);
                }
                MatrixSpec::ColumnNormalizedBanded { params: by_params }
            }
            MatrixSpec::Dense { .. } => MatrixSpec::Dense { rows: self.banded(inverse, false)?.0 },
            MatrixSpec::Product { factors } => {
                let mut found = Vec::with_capacity(factors.len());
                if inverse {
                    for factor in factors {
                        found.push(self.matrix(factor, inverse)?);
                    }
                } else {
                    for factor in factors.iter().rev() {
                        found.push(self.matrix(factor, inverse)?);
                    }
                    found.reverse();
                }
                MatrixSpec::Product { factors: found }
            }
            MatrixSpec::Scaled { matrix, row_scale, col_scale } => {
                let (first, last) = if inverse { (row_scale, col_scale) } else { (col_scale, row_scale) };
                let first = first.as_ref().map(|_| self.scale()).transpose()?;
                let matrix = Box::new(self.matrix(matrix, inverse)?);
                let last = last.as_ref().map(|_| self.scale()).transpose()?;
                let (row_scale, col_scale) = if inverse { (first, last) } else { (last, first) };
                MatrixSpec::Scaled { matrix, row_scale, col_scale }
            }
            MatrixSpec::Inverse { matrix } => {
                MatrixSpec::Inverse { matrix: Box::new(self.matrix(matrix, !inverse)?) }
            }
        })
    }

    fn next(&mut self) -> Result<StageGradient> {
        self.stages.next().map(|(_, gradient)| gradient).ok_or_else(out_of_step)
    }

    fn scale(&mut self) -> Result<Vec<f64>> {
        match self.next()? {
            StageGradient::Scale(values) => Ok(values),
            _ => Err(out_of_step()),
        }
    }

    /// The derivatives by the entries of a banded matrix, and by the norms of its columns where there are
    /// such.
    fn banded(&mut self, inverse: bool, normalized: bool) -> Result<(Vec<Vec<f64>>, Vec<f64>)> {
        let first = if normalized && !inverse { self.scale()? } else { Vec::new() };
        let StageGradient::Banded(entries) = self.next()? else {
            return Err(out_of_step());
        };
        let norms = if normalized && inverse { self.scale()? } else { first };
        Ok((entries, norms))
    }
}

/// The derivative by `entries` of their norm, times `by_norm`.
fn add_norm(gradient: &mut [f64], entries: &[f64], by_norm: f64) {
    let norm = entries.iter().map(|entry| entry * entry).sum::<f64>().sqrt();
    if by_norm != 0.0 {
        gradient.iter_mut().zip(entries).for_each(|(sum, entry)| *sum += by_norm * entry / norm);
    }
}

/// A plan's stages follow from its description, so this is not seen.
fn out_of_step() -> Error {
    Error::invalid(
        "matrix",
        format!("has other stages than its plan, of at most {MAX_SCHEDULE} numbers each"),
    )
}
