//! Columns that one user can meet twice: lowering the worst of all patterns, as for banded Toeplitz
//! strategies (`banded::worst`), over all entries of a small matrix.

use super::{COARSE_TOLERANCE, MEMORY, Search, entries};
use crate::analysis::{Columns, worst_patterns};
use crate::design::banded::log_power_sum;
use crate::design::minimize::{MinimizeOptions, minimize};
use crate::design::watch::Watch;
use crate::design::{Objective, Progress};
use crate::error::{Error, Result};
use crate::matrix::MatrixSpec;

/// Entries of a strategy that is searched so.
const MAX_ENTRIES: usize = 1 << 12;

/// The power of the first mean that stands for the largest, by how much each next one is higher, and the
/// highest.
const POWER: f64 = 64.0;
const POWER_STEP: f64 = 8.0;
const MOST_POWER: f64 = 32_768.0;

/// A pattern that is worse than all collected ones by less than this part does not call for another search.
const GAP: f64 = 2e-5;

/// Searches, and iterations of each.
const MAX_ROUNDS: usize = 60;
const MAX_ITERATIONS: u64 = 60;

/// Pieces that are added after one search.
const MAX_ADDED: usize = 16;

/// Operations, about, of one look through all patterns.
const MAX_WORK: usize = 1 << 22;

/// What one pattern comes to: `sum weight <c_i, c_j>`.
type Piece = Vec<(usize, usize, f64)>;

impl Search<'_> {
    /// A strategy near `start` with a lower loss in the worst of all patterns; `None` where there are too
    /// many entries or patterns.
    pub(super) fn lower_worst(
        &mut self,
        start: &MatrixSpec,
        watch: &Watch<'_>,
    ) -> Result<Option<MatrixSpec>> {
        let mut point = entries(start);
        if point.len() > MAX_ENTRIES {
            return Ok(None);
        }
        let (mut pieces, mut power) = (Vec::<Piece>::new(), POWER);
        let mut best: Option<(f64, Vec<f64>)> = None;
        for _ in 0..MAX_ROUNDS {
            let columns = self.columns(&point);
            let n = columns.len();
            let stop = || watch.interrupted();
            let participation = self.problem.participation;
            let worst = match worst_patterns(Columns::Banded(&columns), n, participation, MAX_WORK, &stop) {
                Err(Error::Cancelled) => break,
                other => other?,
            };
            let Some(worst) = worst else { return Ok(None) };
            let errors = self.errors(&self.strategy(&point), watch)?;
            let loss = worst.squared * self.problem.objective.of(errors.mean(), errors.max());
            if best.as_ref().is_none_or(|(least, _)| loss < *least) {
                best = Some((loss, point.clone()));
            }
            let largest = pieces.iter().map(|piece| value(piece, &columns)).fold(0.0, f64::max);
            if worst.squared > largest * (1.0 + GAP) {
                let new = worst.patterns.iter().map(|pattern| piece(pattern, &columns));
                let new: Vec<Piece> = new.filter(|piece| !pieces.contains(piece)).take(MAX_ADDED).collect();
                pieces.extend(new);
            } else if power < MOST_POWER {
                power *= POWER_STEP;
            } else {
                break;
            }
            match self.lower_pieces(&point, &pieces, power, watch) {
                Ok(found) => point = found,
                Err(Error::Invalid { .. }) => break,
                Err(other) => return Err(other),
            }
            if watch.stopped() {
                break;
            }
        }
        Ok(best.map(|(_, point)| self.strategy(&point)))
    }

    /// The columns from the diagonal down, of norm 1.
    fn columns(&self, point: &[f64]) -> Vec<Vec<f64>> {
        let n = self.problem.n as usize;
        let normalized = |(j, column): (usize, &[f64])| {
            let within = &column[..self.bands.min(n - j)];
            let norm = within.iter().map(|entry| entry * entry).sum::<f64>().sqrt();
            within.iter().map(|entry| entry / norm).collect()
        };
        point.chunks(self.bands).enumerate().map(normalized).collect()
    }

    /// Minimises the error times a mean of a power of the pieces.
    fn lower_pieces(
        &mut self,
        start: &[f64],
        pieces: &[Piece],
        power: f64,
        watch: &Watch<'_>,
    ) -> Result<Vec<f64>> {
        let error_power = match self.problem.objective {
            Objective::Mean => 1.0,
            Objective::Max => power,
        };
        let mut function = |point: &[f64], gradient: &mut [f64]| {
            let error = self.value_and_gradient(point, error_power, gradient, watch).ok()?;
            gradient.iter_mut().for_each(|g| *g /= error);
            let columns = self.columns(point);
            let values: Vec<f64> = pieces.iter().map(|piece| value(piece, &columns)).collect();
            let (log, derivatives) = log_power_sum(&values, power);
            let mut by_columns: Vec<Vec<f64>> =
                columns.iter().map(|column| vec![0.0; column.len()]).collect();
            for (piece, derivative) in pieces.iter().zip(derivatives) {
                add_gradient(piece, &columns, derivative, &mut by_columns);
            }
            let places = gradient.chunks_mut(self.bands).zip(point.chunks(self.bands));
            for ((g, entries), (column, by_column)) in places.zip(columns.iter().zip(&by_columns)) {
                // Along the column itself nothing changes.
                let along: f64 = column.iter().zip(by_column).map(|(c, by)| c * by).sum();
                let norm = entries[..column.len()].iter().map(|entry| entry * entry).sum::<f64>().sqrt();
                let tangent = column.iter().zip(by_column).map(|(c, by)| (by - along * c) / norm);
                g.iter_mut().zip(tangent).for_each(|(g, tangent)| *g += tangent);
            }
            Some(error.ln() + log)
        };
        let (what, before) = (self.what.clone(), self.iterations);
        let mut hear = |iteration, value: f64| {
            watch.report(Progress { what: what.clone(), iteration: before + iteration, loss: value.exp() })
        };
        let options = MinimizeOptions {
            max_iterations: MAX_ITERATIONS,
            relative_tolerance: COARSE_TOLERANCE * 1e-2,
            memory: MEMORY,
        };
        let found = minimize(start.to_vec(), &mut function, &options, &mut hear)?;
        watch.check()?;
        self.iterations += found.iterations;
        Ok(found.point)
    }
}

fn piece(pattern: &[usize], columns: &[Vec<f64>]) -> Piece {
    let mut piece = Piece::new();
    for (at, &j) in pattern.iter().enumerate() {
        for &i in &pattern[..=at] {
            let sign = if product(columns, i, j) < 0.0 { -1.0 } else { 1.0 };
            piece.push((i, j, if i == j { 1.0 } else { 2.0 * sign }));
        }
    }
    piece
}

/// The product of columns `i` and `j >= i`.
fn product(columns: &[Vec<f64>], i: usize, j: usize) -> f64 {
    columns[i].iter().skip(j - i).zip(&columns[j]).map(|(a, b)| a * b).sum()
}

fn value(piece: &Piece, columns: &[Vec<f64>]) -> f64 {
    piece.iter().map(|&(i, j, weight)| weight * product(columns, i, j)).sum()
}

fn add_gradient(piece: &Piece, columns: &[Vec<f64>], scale: f64, gradient: &mut [Vec<f64>]) {
    for &(i, j, weight) in piece {
        let (factor, apart) = (scale * weight, j - i);
        let shared = columns[i].len().saturating_sub(apart).min(columns[j].len());
        for s in 0..shared {
            gradient[i][apart + s] += factor * columns[j][s];
            gradient[j][s] += factor * columns[i][apart + s];
        }
    }
}
