//! [`Plan`]: a [`MatrixSpec`] as the list of recurrences that run it, in the order in which they are applied.
//!
//! The algebra of inverses happens here, once: `(A B)^-1 = B^-1 A^-1`, the inverse of a scaling is a scaling
//! by reciprocals, an inverse of an inverse is the matrix, a matrix beside its inverse is nothing. What is
//! left is a list of [`Stage`]s, each of which has a native recurrence forwards and backwards. A stage holds
//! `f64`s; [`Plan::program`] resolves it for one step into the numbers that a kernel multiplies with.

use std::ops::Range;
use std::sync::Arc;

use super::ring;
use super::spec::MatrixSpec;
use crate::error::{Error, Result};
use crate::kernel::{Op, Program, Push, Real, StageOps};
use crate::limits::MAX_REPLAY_PLANES;

/// A matrix ready to run.
#[derive(Clone, Debug)]
pub struct Plan {
    stages: Vec<Stage>,
    planes: usize,
    horizon: Option<u64>,
    toeplitz: bool,
    /// Whether stages that undo each other are left out.
    cancel: bool,
}

/// One recurrence. `inverse` runs it backwards.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Stage {
    Scale(Scale),
    PrefixSum { inverse: bool },
    Momentum { momentum: f64, learning_rates: Arc<[f64]>, inverse: bool },
    Banded { rows: Rows, inverse: bool },
    Blt { buf_decay: Arc<[f64]>, output_scale: Arc<[f64]>, inverse: bool },
}

/// A multiplier for each step.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Scale {
    pub(crate) values: ScaleValues,
    pub(crate) reciprocal: bool,
}

/// What the multiplier, or its reciprocal, is.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum ScaleValues {
    /// The last entry repeats.
    List(Arc<[f64]>),
    /// The norms of the columns of an `n x n` banded Toeplitz matrix; `norms[k]` is that of the first `k + 1`
    /// coefficients, which is what is left of column `n - 1 - k`.
    ToeplitzColumns { norms: Arc<[f64]>, n: u64 },
}

/// The entries of a banded lower-triangular matrix, by row and distance from the diagonal.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Rows {
    /// The same in every row.
    Toeplitz(Arc<[f64]>),
    /// `columns[j][k]` is the entry `k` below the diagonal in column `j`.
    Columns(Arc<[Vec<f64>]>),
    /// `rows[i][j]`, written out.
    Dense(Arc<[Vec<f64>]>),
}

impl Rows {
    /// Planes of a ring that holds what later rows still need.
    pub(crate) fn planes(&self) -> usize {
        match self {
            Self::Toeplitz(coef) => coef.len() - 1,
            Self::Columns(columns) => columns[0].len() - 1,
            Self::Dense(rows) => rows.len() - 1,
        }
    }

    /// The number of rows, where they end.
    fn len(&self) -> Option<usize> {
        match self {
            Self::Toeplitz(_) => None,
            Self::Columns(rows) | Self::Dense(rows) => Some(rows.len()),
        }
    }

    /// The entry in row `step`, `back` places left of the diagonal.
    pub(crate) fn entry(&self, step: usize, back: usize) -> f64 {
        match self {
            Self::Toeplitz(coef) => coef[back],
            Self::Columns(columns) => columns[step - back][back],
            Self::Dense(rows) => rows[step][step - back],
        }
    }

    /// Rows that have all entries between them.
    fn telling_rows(&self) -> Range<usize> {
        match self {
            Self::Toeplitz(coef) => coef.len() - 1..coef.len(),
            Self::Columns(_) | Self::Dense(_) => 0..self.distinct_rows(),
        }
    }

    /// Rows that differ from one another, for a check of every entry.
    fn distinct_rows(&self) -> usize {
        match self {
            Self::Toeplitz(coef) => coef.len(),
            Self::Columns(rows) | Self::Dense(rows) => rows.len(),
        }
    }
}

impl Scale {
    fn list(values: &[f64], reciprocal: bool) -> Self {
        Self { values: ScaleValues::List(values.into()), reciprocal }
    }

    /// The multiplier of a step.
    pub(crate) fn at(&self, step: u64) -> f64 {
        let value = self.value(step);
        if self.reciprocal { 1.0 / value } else { value }
    }

    /// Steps at which every value there is occurs.
    pub(super) fn distinct_steps(&self) -> Range<u64> {
        match &self.values {
            ScaleValues::List(list) => 0..list.len() as u64,
            ScaleValues::ToeplitzColumns { norms, n } => n - norms.len() as u64..*n,
        }
    }

    /// The values there are, each for some step.
    pub(crate) fn distinct(&self) -> &[f64] {
        match &self.values {
            ScaleValues::List(list) => list,
            ScaleValues::ToeplitzColumns { norms, n: _ } => norms,
        }
    }

    /// The index into [`Scale::distinct`] of a step.
    pub(crate) fn index(&self, step: u64) -> usize {
        match &self.values {
            ScaleValues::List(list) => clip(step, list.len()),
            ScaleValues::ToeplitzColumns { norms, n } => {
                clip(n.saturating_sub(1).saturating_sub(step), norms.len())
            }
        }
    }

    pub(super) fn value(&self, step: u64) -> f64 {
        self.distinct()[self.index(step)]
    }

    fn is_constant(&self) -> bool {
        let values = self.distinct();
        values.iter().all(|value| *value == values[0])
    }
}

/// The index of a list whose last entry repeats.
pub(crate) fn clip(step: u64, len: usize) -> usize {
    usize::try_from(step).map_or(len - 1, |step| step.min(len - 1))
}

/// The L2 norm, without overflow or underflow on the way.
fn norm(values: &[f64]) -> f64 {
    let largest = values.iter().fold(0.0_f64, |most, value| most.max(value.abs()));
    if largest == 0.0 {
        return 0.0;
    }
    largest * values.iter().map(|value| (value / largest).powi(2)).sum::<f64>().sqrt()
}

impl Plan {
    /// Validates a description and lowers it to stages. A stage and its inverse that stand beside each other,
    /// or with nothing but Toeplitz stages between them where they are Toeplitz, leave no stage: such
    /// matrices commute.
    ///
    /// # Errors
    /// Those of [`MatrixSpec::validate`].
    pub fn new(spec: &MatrixSpec) -> Result<Self> {
        spec.validate()?;
        Ok(Self::lowered(spec, true))
    }

    /// The same for a question about `n` steps, in which a Toeplitz matrix may have as many coefficients.
    ///
    /// # Errors
    /// Those of [`MatrixSpec::validate_for`].
    pub(crate) fn for_question(spec: &MatrixSpec, n: u64) -> Result<Self> {
        spec.validate_for(n)?;
        Ok(Self::lowered(spec, true))
    }

    /// The same with a stage, or two, for each matrix of the description, in its order.
    ///
    /// # Errors
    /// Those of [`MatrixSpec::validate`].
    pub(crate) fn uncancelled(spec: &MatrixSpec) -> Result<Self> {
        spec.validate()?;
        Ok(Self::lowered(spec, false))
    }

    fn lowered(spec: &MatrixSpec, cancel: bool) -> Self {
        let mut plan = Self { stages: Vec::new(), planes: 0, horizon: None, toeplitz: true, cancel };
        plan.lower(spec, false);
        plan.stages.shrink_to_fit();
        plan.planes = plan.stages.iter().map(Stage::planes).sum();
        // Distinct schedules may still make a Toeplitz matrix; that they do not is the honest default.
        plan.toeplitz &= plan.stages.iter().all(Stage::is_toeplitz);
        plan
    }

    /// The product of two matrices, `self` applied last.
    pub(crate) fn after(&self, first: &Self) -> Self {
        let mut product = first.clone();
        self.stages.iter().for_each(|stage| product.push(stage.clone()));
        if let Some(n) = self.horizon {
            product.end_at(n);
        }
        product.planes = product.stages.iter().map(Stage::planes).sum();
        product.toeplitz = product.stages.iter().all(Stage::is_toeplitz);
        product
    }

    /// This matrix times a number.
    pub(crate) fn scaled(&self, factor: f64) -> Self {
        let mut scaled = self.clone();
        scaled.stages.insert(0, Stage::Scale(Scale::list(&[factor], false)));
        scaled
    }

    /// Planes of state a lane.
    pub fn planes(&self) -> usize {
        self.planes
    }

    /// Planes that one step in the steady state reads, and writes, on average and rounded up: of a ring, the
    /// sums ahead spare most of the reading.
    pub fn planes_moved(&self) -> (usize, usize) {
        self.stages.iter().map(Stage::planes_moved).fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
    }

    /// The number of rows, where the matrix ends by itself.
    pub fn horizon(&self) -> Option<u64> {
        self.horizon
    }

    /// Whether every factor is Toeplitz, and so the whole: row `t` is then row `t + 1` shifted.
    pub fn is_toeplitz(&self) -> bool {
        self.toeplitz
    }

    /// The recurrences, the one that is applied first at the front.
    pub(crate) fn stages(&self) -> &[Stage] {
        &self.stages
    }

    /// The same, to be replaced one by one.
    pub(super) fn stages_mut(&mut self) -> &mut [Stage] {
        &mut self.stages
    }

    /// Bytes that this plan takes beside its own.
    pub(crate) fn heap_bytes(&self) -> u64 {
        size_of_val(self.stages.as_slice()) as u64 + self.stages.iter().map(Stage::heap_bytes).sum::<u64>()
    }

    /// Appends a stage, or takes away the one that it undoes.
    fn push(&mut self, stage: Stage) {
        let commutes = stage.is_toeplitz();
        let mut undone = None;
        if self.cancel {
            for (place, before) in self.stages.iter().enumerate().rev() {
                if stage.undoes(before) {
                    undone = Some(place);
                    break;
                }
                if !(commutes && before.is_toeplitz()) {
                    break;
                }
            }
        }
        match undone {
            Some(place) => {
                self.stages.remove(place);
            }
            None => self.stages.push(stage),
        }
    }

    /// Appends the stages of `spec`, or of its inverse, first applied first.
    fn lower(&mut self, spec: &MatrixSpec, inverse: bool) {
        match spec {
            MatrixSpec::Identity => {}
            MatrixSpec::PrefixSum => self.push(Stage::PrefixSum { inverse }),
            MatrixSpec::Diagonal { diag } => self.scale(diag, inverse),
            MatrixSpec::MomentumSgd { momentum, learning_rates } => {
                let learning_rates = learning_rates.as_deref().unwrap_or(&[1.0]).into();
                self.push(Stage::Momentum { momentum: *momentum, learning_rates, inverse });
            }
            MatrixSpec::Toeplitz { coef, column_normalize_for_n } => {
                let banded = Stage::Banded { rows: Rows::Toeplitz(coef.as_slice().into()), inverse };
                let Some(n) = *column_normalize_for_n else {
                    return self.push(banded);
                };
                let norms = (1..=coef.len()).map(|k| norm(&coef[..k])).collect();
                self.column_normalized(banded, ScaleValues::ToeplitzColumns { norms, n }, inverse);
                self.end_at(n);
            }
            MatrixSpec::BufferedToeplitz { buf_decay, output_scale } => self.push(Stage::Blt {
                buf_decay: buf_decay.as_slice().into(),
                output_scale: output_scale.as_slice().into(),
                inverse,
            }),
            MatrixSpec::ColumnNormalizedBanded { params } => {
                let banded = Stage::Banded { rows: Rows::Columns(params.as_slice().into()), inverse };
                let n = params.len();
                let norms =
                    params.iter().enumerate().map(|(j, column)| norm(&column[..column.len().min(n - j)]));
                self.column_normalized(banded, ScaleValues::List(norms.collect()), inverse);
                self.end_at(n as u64);
            }
            MatrixSpec::Dense { rows } => {
                self.push(Stage::Banded { rows: Rows::Dense(rows.as_slice().into()), inverse });
                self.end_at(rows.len() as u64);
            }
            MatrixSpec::Product { factors } if inverse => factors.iter().for_each(|f| self.lower(f, inverse)),
            MatrixSpec::Product { factors } => factors.iter().rev().for_each(|f| self.lower(f, inverse)),
            MatrixSpec::Scaled { matrix, row_scale, col_scale } => {
                let (first, last) = if inverse { (row_scale, col_scale) } else { (col_scale, row_scale) };
                if let Some(scale) = first {
                    self.scale(scale, inverse);
                }
                self.lower(matrix, inverse);
                if let Some(scale) = last {
                    self.scale(scale, inverse);
                }
            }
            MatrixSpec::Inverse { matrix } => self.lower(matrix, !inverse),
        }
    }

    fn scale(&mut self, values: &[f64], inverse: bool) {
        self.push(Stage::Scale(Scale::list(values, inverse)));
    }

    /// `M diag(1/norms)`, or its inverse `diag(norms) M^-1`.
    fn column_normalized(&mut self, matrix: Stage, norms: ScaleValues, inverse: bool) {
        let scale = Stage::Scale(Scale { values: norms, reciprocal: !inverse });
        let stages = if inverse { [matrix, scale] } else { [scale, matrix] };
        stages.into_iter().for_each(|stage| self.push(stage));
    }

    fn end_at(&mut self, n: u64) {
        self.horizon = Some(self.horizon.map_or(n, |horizon| horizon.min(n)));
    }

    /// The numbers of step `step` for a run of `tiles` tiles, as the kernels take them. `step` is below
    /// [`Plan::horizon`].
    pub(crate) fn program<T: Real>(&self, step: u64, tiles: usize) -> Program<T> {
        let resolve = |stage: &Stage| {
            let turns = stage.turns().min(tiles.max(1));
            StageOps {
                planes: stage.planes(),
                ops: (0..turns).map(|tile| stage.resolve(step, tile)).collect(),
            }
        };
        Program { stages: self.stages.iter().map(resolve).collect() }
    }

    /// The steps whose inputs make up all of the state, where there are such: of a matrix that remembers
    /// inputs alone, by one banded recurrence at most.
    pub(crate) fn replayed_steps(&self) -> Option<usize> {
        let inputs_alone = |stage: &Stage| match stage {
            Stage::Scale(_) | Stage::Banded { inverse: false, .. } => true,
            Stage::PrefixSum { .. } | Stage::Momentum { .. } | Stage::Banded { .. } | Stage::Blt { .. } => {
                false
            }
        };
        let rings = self.stages.iter().filter(|stage| stage.planes() > 0).count();
        let few = rings <= 1 && self.planes <= MAX_REPLAY_PLANES;
        (few && self.stages.iter().all(inputs_alone)).then_some(self.planes)
    }

    /// The numbers of step `step` for a pass that forgets its state. `input_alone` says that the step only
    /// brings its input into the ring.
    pub(crate) fn replay_program<T: Real>(&self, step: u64, input_alone: bool) -> Program<T> {
        let resolve = |stage: &Stage| {
            let op = match stage {
                Stage::Banded { rows, inverse } => {
                    let weight = |step, back| T::from_f64(banded_weight(rows, *inverse, step, back));
                    let mut op = ring::replayed_banded(rows.planes(), step as usize, weight, Push::Input);
                    if input_alone {
                        op.weights.clear();
                    }
                    Op::Banded(op)
                }
                Stage::Scale(_) | Stage::PrefixSum { .. } | Stage::Momentum { .. } | Stage::Blt { .. } => {
                    stage.resolve(step, 0)
                }
            };
            StageOps { planes: stage.planes(), ops: vec![op] }
        };
        Program { stages: self.stages.iter().map(resolve).collect() }
    }

    /// Checks that every number of every step is finite in `T`, and that none on a diagonal becomes zero
    /// there: the matrix would have lost a row, or an inverse one that it has not. Elsewhere a number that
    /// becomes zero is off by less than any rounding.
    ///
    /// # Errors
    /// [`Error::Invalid`] on `matrix`: a parameter or a quotient of two overflows `T`, or one on a diagonal
    /// underflows.
    pub(crate) fn check_representable<T: Real>(&self) -> Result<()> {
        let precision = T::PRECISION;
        let rule = if !self.stages.iter().all(Stage::is_finite::<T>) {
            format!("a coefficient of the recurrence is not finite in {precision}")
        } else if self.stages.iter().any(Stage::vanishes::<T>) {
            format!(
                "a scale, a diagonal entry or a learning rate that is not zero rounds to zero in {precision}"
            )
        } else {
            return Ok(());
        };
        Err(Error::invalid("matrix", rule))
    }
}

impl Stage {
    fn heap_bytes(&self) -> u64 {
        let list = |list: &[f64]| size_of_val(list) as u64;
        match self {
            Self::Scale(Scale { values, reciprocal: _ }) => match values {
                ScaleValues::List(values) => list(values),
                ScaleValues::ToeplitzColumns { norms, n: _ } => list(norms),
            },
            Self::PrefixSum { inverse: _ } => 0,
            Self::Momentum { momentum: _, learning_rates, inverse: _ } => list(learning_rates),
            Self::Banded { rows, inverse: _ } => match rows {
                Rows::Toeplitz(coef) => list(coef),
                Rows::Columns(rows) | Rows::Dense(rows) => {
                    size_of_val(&**rows) as u64 + rows.iter().map(|row| list(row)).sum::<u64>()
                }
            },
            Self::Blt { buf_decay, output_scale, inverse: _ } => list(buf_decay) + list(output_scale),
        }
    }

    /// Planes of its state.
    pub(crate) fn planes(&self) -> usize {
        match self {
            Self::Scale(_) => 0,
            Self::PrefixSum { .. } => 1,
            Self::Momentum { .. } => 2,
            Self::Banded { rows, .. } => rows.planes(),
            Self::Blt { buf_decay, .. } => buf_decay.len(),
        }
    }

    fn planes_moved(&self) -> (usize, usize) {
        match self {
            Self::Banded { .. } => ring::planes_moved(self.planes()),
            Self::Scale(_) | Self::PrefixSum { .. } | Self::Momentum { .. } | Self::Blt { .. } => {
                (self.planes(), self.planes())
            }
        }
    }

    /// Whether it is the same at every step.
    pub(crate) fn is_toeplitz(&self) -> bool {
        match self {
            Self::Scale(scale) => scale.is_constant(),
            Self::Momentum { learning_rates, .. } => {
                learning_rates.iter().all(|rate| *rate == learning_rates[0])
            }
            Self::Banded { rows, .. } => matches!(rows, Rows::Toeplitz(_)),
            Self::PrefixSum { .. } | Self::Blt { .. } => true,
        }
    }

    /// Tiles with an operation of their own.
    fn turns(&self) -> usize {
        match self {
            Self::Banded { rows, .. } => ring::sweep_period(rows.planes()),
            Self::Scale(_) | Self::PrefixSum { .. } | Self::Momentum { .. } | Self::Blt { .. } => 1,
        }
    }

    /// The operation of one step on the tiles whose index is `tile` modulo [`Stage::turns`].
    fn resolve<T: Real>(&self, step: u64, tile: usize) -> Op<T> {
        match self {
            Self::Scale(scale) => Op::Scale { factor: T::from_f64(scale.at(step)) },
            Self::PrefixSum { inverse: false } => Op::PrefixSum,
            Self::PrefixSum { inverse: true } => Op::FirstDifference,
            Self::Momentum { momentum, learning_rates, inverse } => {
                let rate = learning_rates[clip(step, learning_rates.len())];
                let momentum = T::from_f64(*momentum);
                match inverse {
                    false => Op::Momentum { momentum, learning_rate: T::from_f64(rate) },
                    true => Op::MomentumInverse { momentum, inverse_rate: T::from_f64(1.0 / rate) },
                }
            }
            Self::Banded { rows, inverse } => {
                let weight = |step, back| T::from_f64(banded_weight(rows, *inverse, step, back));
                let push = if *inverse { Push::Output } else { Push::Input };
                Op::Banded(ring::banded(rows.planes(), rows.len(), step as usize, tile, weight, push))
            }
            Self::Blt { buf_decay, output_scale, inverse } => {
                let sign = if *inverse { -1.0 } else { 1.0 };
                Op::Blt {
                    weights: output_scale.iter().map(|&weight| T::from_f64(sign * weight)).collect(),
                    decay: buf_decay.iter().map(|&decay| T::from_f64(decay)).collect(),
                    push: if *inverse { Push::Output } else { Push::Input },
                }
            }
        }
    }

    /// Whether every number of every step is finite in `T`.
    fn is_finite<T: Real>(&self) -> bool {
        let finite = |value: f64| T::from_f64(value).is_finite();
        match self {
            Self::Scale(scale) => {
                // A norm that overflows has a finite reciprocal, which is not its own.
                scale.distinct_steps().all(|step| scale.value(step).is_finite() && finite(scale.at(step)))
            }
            Self::PrefixSum { .. } => true,
            Self::Momentum { learning_rates, inverse, .. } => {
                learning_rates.iter().all(|&rate| finite(if *inverse { 1.0 / rate } else { rate }))
            }
            Self::Banded { rows, inverse } => rows.telling_rows().all(|step| {
                (0..=rows.planes().min(step)).all(|back| finite(banded_weight(rows, *inverse, step, back)))
            }),
            Self::Blt { output_scale, .. } => output_scale.iter().all(|&weight| finite(weight)),
        }
    }

    /// Whether a number on the diagonal, which is not zero, is zero in `T`.
    fn vanishes<T: Real>(&self) -> bool {
        let vanishes = |value: f64| value != 0.0 && T::from_f64(value) == T::from_f64(0.0);
        match self {
            Self::Scale(scale) => scale.distinct_steps().any(|step| vanishes(scale.at(step))),
            Self::Momentum { learning_rates, inverse, .. } => {
                learning_rates.iter().any(|&rate| vanishes(if *inverse { 1.0 / rate } else { rate }))
            }
            Self::Banded { rows, inverse } => {
                (0..rows.distinct_rows()).any(|step| vanishes(banded_weight(rows, *inverse, step, 0)))
            }
            // Their diagonals are ones.
            Self::PrefixSum { .. } | Self::Blt { .. } => false,
        }
    }
}

/// What a banded recurrence multiplies the value `back` steps ago with: the entry itself, or in forward
/// substitution (arXiv 2306.08153, Algorithm 9) its negative quotient by the diagonal.
pub(crate) fn banded_weight(rows: &Rows, inverse: bool, step: usize, back: usize) -> f64 {
    let entry = rows.entry(step, back);
    match (inverse, back) {
        (false, _) => entry,
        (true, 0) => 1.0 / entry,
        (true, _) => -entry / rows.entry(step, 0),
    }
}
