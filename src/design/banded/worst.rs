//! Lowering the worst of all patterns of participations.
//!
//! What a pattern `S` comes to, `sum over i, j in S of |X_ij|`, `X = C^T C`, is a smooth function of the
//! strategy as long as no entry changes its sign: a piece. The largest of all pieces is the squared
//! sensitivity. It has no gradient where two share it, which is where its optimum lies. So the search
//! collects the pieces that matter: it minimises a mean of a high power of those that it has, asks which
//! pattern is the worst of what that gives, and goes on until it has that one already.

use super::{Setting, Side};
use crate::analysis::{Columns, worst_patterns};
use crate::design::minimize::MinimizeOptions;
use crate::design::watch::Watch;
use crate::error::{Error, Result};

/// The power of the first mean that stands for the largest piece, and by how much each next one is higher.
const POWER: f64 = 64.0;
const POWER_STEP: f64 = 8.0;

/// The highest: the mean of all pieces that the optimum has in common is within a ten-thousandth of the
/// largest.
const MOST_POWER: f64 = 32_768.0;

/// A pattern that is worse than all collected ones by less than this part does not call for another search.
const GAP: f64 = 2e-5;

/// Searches for one start, each with the pieces that the one before turned up.
const MAX_ROUNDS: usize = 60;

/// Pieces that are kept, and pieces that are added after one search.
const MAX_PIECES: usize = 96;
const MAX_ADDED: usize = 12;

/// Operations, about, of one look through all patterns.
const MAX_WORK: usize = 1 << 24;

/// Iterations of one search.
const MAX_ITERATIONS: u64 = 120;

/// Products of a column's entries that all pieces together may take.
const MAX_PIECE_TERMS: usize = 1 << 22;

/// What one pattern comes to, with the signs of its entries fixed: a sum of autocorrelations of the column.
#[derive(Clone, Debug, PartialEq)]
struct Piece(Vec<Term>);

/// `weight * sum over s < length of c_s c_(s + distance)`.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Term {
    distance: usize,
    length: usize,
    weight: f64,
}

impl Term {
    fn sum(&self, column: &[f64]) -> f64 {
        column[..self.length].iter().zip(&column[self.distance..]).map(|(a, b)| a * b).sum()
    }
}

impl Piece {
    /// That of a pattern, with the signs that its entries have at `column`.
    fn new(steps: &[usize], column: &[f64], n: usize) -> Self {
        let mut terms: Vec<Term> = Vec::new();
        for (at, &j) in steps.iter().enumerate() {
            for &i in steps[..=at].iter().rev().take_while(|&&i| j - i < column.len()) {
                let distance = j - i;
                let length = (n - j).min(column.len() - distance);
                let term = Term { distance, length, weight: if i == j { 1.0 } else { 2.0 } };
                let sign = if term.sum(column) < 0.0 { -1.0 } else { 1.0 };
                terms.push(Term { weight: sign * term.weight, ..term });
            }
        }
        terms.sort_by_key(|term| (term.distance, term.length));
        // Far from the end, pairs at the same distance are the same.
        terms.dedup_by(|next, kept| {
            let same = (next.distance, next.length) == (kept.distance, kept.length);
            if same {
                kept.weight += next.weight;
            }
            same
        });
        Self(terms)
    }

    fn terms(&self) -> usize {
        self.0.iter().map(|term| term.length).sum()
    }

    fn value(&self, column: &[f64]) -> f64 {
        self.0.iter().map(|term| term.weight * term.sum(column)).sum()
    }

    /// Adds `scale` times the gradient by the column.
    fn add_gradient(&self, column: &[f64], scale: f64, gradient: &mut [f64]) {
        for &Term { distance, length, weight } in &self.0 {
            let factor = scale * weight;
            let (ahead, behind) = (&column[distance..distance + length], &column[..length]);
            gradient[..length].iter_mut().zip(ahead).for_each(|(g, c)| *g += factor * c);
            gradient[distance..distance + length].iter_mut().zip(behind).for_each(|(g, c)| *g += factor * c);
        }
    }
}

/// The logarithm of `(sum v^p)^(1/p)`, and its derivative by every value.
pub(in crate::design) fn log_power_sum(values: &[f64], power: f64) -> (f64, Vec<f64>) {
    let largest = values.iter().copied().fold(0.0, f64::max);
    let ratios: Vec<f64> = values.iter().map(|value| value.max(0.0) / largest).collect();
    let sum: f64 = ratios.iter().map(|ratio| ratio.powf(power)).sum();
    let derivatives = ratios.iter().map(|ratio| ratio.powf(power - 1.0) / (sum * largest)).collect();
    (largest.ln() + sum.ln() / power, derivatives)
}

impl Setting<'_> {
    /// Coefficients of a lower loss than `start` in the worst of all patterns, or `None` where there are too
    /// many of them to look through, or where `start` has no loss.
    pub(super) fn lower_worst(&self, start: &[f64], watch: &Watch<'_>) -> Result<Option<Vec<f64>>> {
        let mut point: Vec<f64> = start.iter().map(|c| c / start[0]).collect();
        let mut best = (f64::INFINITY, point.clone());
        let mut pieces: Vec<Piece> = Vec::new();
        let mut power = POWER;
        for _ in 0..MAX_ROUNDS {
            let Some(column) = self.whole_column(&point) else { break };
            let Some(error) = self.error(&point, &mut vec![0.0; self.bands]) else { break };
            let stop = || watch.interrupted();
            let worst = match worst_patterns(
                Columns::Toeplitz(&column),
                self.n,
                self.problem.participation,
                MAX_WORK,
                &stop,
            ) {
                Err(Error::Cancelled) => break,
                other => other?,
            };
            let Some(worst) = worst else { return Ok(None) };
            let loss = worst.squared * error;
            if loss < best.0 {
                best = (loss, point.clone());
            }
            let largest = pieces.iter().map(|piece| piece.value(&column)).fold(0.0, f64::max);
            if worst.squared > largest * (1.0 + GAP) {
                self.collect(&mut pieces, &worst.patterns, &column);
            } else if power < MOST_POWER {
                power *= POWER_STEP;
            } else {
                break;
            }
            if pieces.iter().map(Piece::terms).sum::<usize>() > MAX_PIECE_TERMS {
                return Ok(None);
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
        Ok(best.0.is_finite().then_some(best.1))
    }

    fn whole_column(&self, coef: &[f64]) -> Option<Vec<f64>> {
        Some(self.whole(self.column(coef)?.entries))
    }

    /// A column of the length that all have: that of a noising matrix ends where it has settled.
    fn whole(&self, mut entries: Vec<f64>) -> Vec<f64> {
        let length = match self.side {
            Side::Strategy => self.bands,
            Side::NoisingMatrix => self.n,
        };
        entries.resize(length, 0.0);
        entries
    }

    /// Adds the pieces of the worst patterns, in place of those that are the least where there are too many.
    fn collect(&self, pieces: &mut Vec<Piece>, patterns: &[Vec<usize>], column: &[f64]) {
        let mut added = 0;
        for pattern in patterns {
            let piece = Piece::new(pattern, column, self.n);
            if !pieces.contains(&piece) {
                pieces.push(piece);
                added += 1;
            }
            if added == MAX_ADDED {
                break;
            }
        }
        if pieces.len() > MAX_PIECES {
            pieces.sort_by(|a, b| b.value(column).total_cmp(&a.value(column)));
            pieces.truncate(MAX_PIECES);
        }
    }

    /// Minimises the error times a mean of a power of the pieces.
    fn lower_pieces(
        &self,
        start: &[f64],
        pieces: &[Piece],
        power: f64,
        watch: &Watch<'_>,
    ) -> Result<Vec<f64>> {
        let function = |coef: &[f64], gradient: &mut [f64]| {
            let mut by_error = vec![0.0; coef.len()];
            let error = self.error(coef, &mut by_error)?;
            let column = self.column(coef)?;
            let entries = self.whole(column.entries.clone());
            let values: Vec<f64> = pieces.iter().map(|piece| piece.value(&entries)).collect();
            let (log, derivatives) = log_power_sum(&values, power);
            let mut by_entries = vec![0.0; entries.len()];
            for (piece, &derivative) in pieces.iter().zip(&derivatives) {
                if derivative > 0.0 {
                    piece.add_gradient(&entries, derivative, &mut by_entries);
                }
            }
            column.pull_back(coef, &by_entries, gradient);
            gradient.iter_mut().zip(&by_error).for_each(|(g, by_error)| *g += by_error / error);
            Some(error.ln() + log)
        };
        let options = MinimizeOptions {
            max_iterations: MAX_ITERATIONS,
            relative_tolerance: 1e-8,
            ..MinimizeOptions::default()
        };
        Ok(self.minimize_by(start, watch, options, function)?.point)
    }
}
