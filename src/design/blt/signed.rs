//! BLTs with weights of both signs, for several participations.
//!
//! Sums of exponentials with weights of both signs fall faster than those with positive weights can, as a
//! strategy wants it whose participations are a number of steps apart. Their inverse's decays may be complex,
//! so that there is no closed form: loss and gradient come from one sweep forwards and one backwards over the
//! steps. A point whose coefficients are negative, or rise where participations are not at fixed steps, is
//! outside of the domain; all others have an exact sensitivity (arXiv 2405.13763, Theorem 2). So does every
//! point for one participation.

use super::Setting;
use super::interlacing::Pair;
use crate::analysis::Participation;
use crate::design::minimize::{MinimizeOptions, Minimum, minimize};
use crate::design::watch::Watch;
use crate::design::{Design, Objective, Progress};
use crate::error::{Error, Result};

/// Steps up to which weights of both signs are searched: an evaluation takes a time that grows with them.
const MAX_STEPS: usize = 1 << 16;

/// Iterations of one search, and starts whose search is made, of all that are looked at.
const MAX_ITERATIONS: u64 = 300;
const STARTS_KEPT: usize = 3;

/// The same for more than so many steps.
const MANY_STEPS: usize = 1 << 13;
const MAX_ITERATIONS_OF_MANY: u64 = 60;
const STARTS_KEPT_OF_MANY: usize = 1;

/// Rates about which the decays of a start lie, in units of one participation to the next.
const CENTRES: [f64; 4] = [1.5, 3.0, 6.0, 12.0];

/// From one rate of a start to the next.
const SPREADS: [f64; 3] = [1.2, 1.6, 3.0];

/// A rate of the inverse from which on its decay is next to 0, where the search for positive weights ends.
const LAST_RATE: f64 = 6.0;

/// Part of the loss by which a BLT of both signs has to be better than one with positive weights.
const WORTH_IT: f64 = 1e-6;

/// Decays as logarithms of their rates, then as many weights.
pub(super) type Point = Vec<f64>;

impl Setting<'_> {
    /// The best BLT with weights of any sign that is found from decays that lie close together and from
    /// `fewer`, one of less buffers, where it is better than the best one with positive weights.
    pub(super) fn signed(
        &self,
        count: usize,
        positive: &Minimum,
        fewer: Option<&Point>,
        watch: &Watch<'_>,
    ) -> Result<Option<(Point, Design)>> {
        let n = self.problem.n as usize;
        if !self.may_gain(count, positive) || n > MAX_STEPS || watch.stopped() {
            return Ok(None);
        }
        let mut starts: Vec<(f64, Point)> = Vec::new();
        let more = fewer.map(|fewer| self.with_a_buffer(count, fewer)).unwrap_or_default();
        for start in self.signed_starts(count, positive).into_iter().chain(more) {
            if watch.interrupted() {
                watch.check()?;
                return Ok(None);
            }
            if let Some(loss) = self.signed_loss(&start, &mut vec![0.0; start.len()]) {
                starts.push((loss, start));
            }
        }
        starts.sort_by(|a, b| a.0.total_cmp(&b.0));
        let what = format!("buffered_toeplitz, {count} buffers of both signs");
        let mut best: Option<Minimum> = None;
        let (kept, max_iterations) = match n > MANY_STEPS {
            true => (STARTS_KEPT_OF_MANY, MAX_ITERATIONS_OF_MANY),
            false => (STARTS_KEPT, MAX_ITERATIONS),
        };
        for (_, start) in starts.into_iter().take(kept) {
            let mut on_iteration = |iteration, value: f64| {
                watch.report(Progress { what: what.clone(), iteration, loss: value.exp() })
            };
            let options =
                MinimizeOptions { max_iterations, relative_tolerance: 1e-8, ..MinimizeOptions::default() };
            let mut function = |point: &[f64], gradient: &mut [f64]| self.signed_loss(point, gradient);
            let found = match minimize(start, &mut function, &options, &mut on_iteration) {
                Err(Error::Invalid { .. }) => continue,
                other => other?,
            };
            watch.check()?;
            if best.as_ref().is_none_or(|best| found.value < best.value) {
                best = Some(found);
            }
            if watch.stopped() {
                break;
            }
        }
        // Values are logarithms.
        let Some(best) = best.filter(|best| best.value < positive.value - WORTH_IT) else { return Ok(None) };
        let mut buffers: Vec<(f64, f64)> = best.point[..count]
            .iter()
            .map(|log| (-log.exp()).exp())
            .zip(best.point[count..].iter().copied())
            .collect();
        buffers.sort_by(|a, b| b.0.total_cmp(&a.0));
        let (buf_decay, output_scale) = buffers.into_iter().unzip();
        let design = self.measured(buf_decay, output_scale, watch)?;
        Ok(Some((best.point, design)).filter(|(_, design)| design.sensitivity.exact))
    }

    /// Whether weights of any sign can be better. For one buffer or one participation positive ones are best,
    /// but where the last decay of the inverse would rather be negative.
    fn may_gain(&self, count: usize, positive: &Minimum) -> bool {
        let last = positive.point.iter().map(|gap| gap.exp()).sum::<f64>();
        let several = count > 1 && self.problem.participations > 1;
        several || self.problem.workload.is_some() || last > LAST_RATE
    }

    /// `fewer` with buffers without weight up to `count` of them: the gradient tells what weight is worth it.
    fn with_a_buffer(&self, count: usize, fewer: &Point) -> Vec<Point> {
        let (logs, weights) = fewer.split_at(fewer.len() / 2);
        let missing = count - logs.len();
        let separation = self.problem.separation as f64;
        let with = |centre: f64| {
            let new = (0..missing).map(|i| (centre / separation).ln() + 0.5 * i as f64);
            let logs = logs.iter().copied().chain(new);
            logs.chain(weights.iter().copied()).chain(std::iter::repeat_n(0.0, missing)).collect()
        };
        [0.3, 2.0, 10.0, 40.0].map(with).into()
    }

    /// Decays close together, with the weights that come nearest to the coefficients of the best positive
    /// BLT; and with equal weights of the same sum.
    fn signed_starts(&self, count: usize, positive: &Minimum) -> Vec<Point> {
        let pair = Pair::<0>::constant(&positive.point);
        let rates: Vec<f64> = pair.decay_rates().iter().map(|rate| rate.value).collect();
        let weights: Vec<f64> = pair.weights(0).iter().map(|weight| weight.value).collect();
        let separation = self.problem.separation as f64;
        let sum: f64 = weights.iter().sum();
        let mut starts: Vec<Point> =
            vec![rates.iter().map(|rate| rate.ln()).chain(weights.iter().copied()).collect()];
        for (centre, spread) in CENTRES.into_iter().flat_map(|c| SPREADS.map(|spread| (c, spread))) {
            let middle = 0.5 * (count - 1) as f64;
            let near: Vec<f64> =
                (0..count).map(|i| centre / separation * spread.powf(i as f64 - middle)).collect();
            let logs = || near.iter().map(|rate| rate.ln());
            if let Some(fitted) = fit(&rates, &weights, &near, self.problem.separation) {
                starts.push(logs().chain(fitted).collect());
            }
            starts.push(logs().chain(std::iter::repeat_n(sum / count as f64, count)).collect());
        }
        starts
    }

    /// The logarithm of the loss at a point, and its gradient; `None` outside of the domain.
    pub(super) fn signed_loss(&self, point: &[f64], gradient: &mut [f64]) -> Option<f64> {
        let (logs, weights) = point.split_at(point.len() / 2);
        let rates: Vec<f64> = logs.iter().map(|log| log.exp()).collect();
        let decays: Vec<f64> = rates.iter().map(|rate| (-rate).exp()).collect();
        let count = decays.len();
        let mut by_moved = vec![0.0; 2 * count];
        let moved = self.signed_moved(&decays, weights, &mut by_moved)?;
        let mut by_error = vec![0.0; 2 * count];
        let error = self.signed_error(&decays, weights, &mut by_error)?;
        for (i, g) in gradient.iter_mut().enumerate() {
            *g = by_moved[i] / moved + by_error[i] / error;
        }
        // From derivatives by decays to those by the logarithms of rates.
        for ((g, rate), decay) in gradient.iter_mut().zip(&rates).zip(&decays) {
            *g *= -rate * decay;
        }
        Some((moved * error).ln())
    }

    /// The squared norm of the sum of the columns `0, b, 2b, ...`; its gradient by decays and weights.
    fn signed_moved(&self, decays: &[f64], weights: &[f64], gradient: &mut [f64]) -> Option<f64> {
        let (n, b, k) =
            (self.problem.n as usize, self.problem.separation as usize, self.problem.participations as usize);
        let count = decays.len();
        let mut column = Vec::with_capacity(n);
        column.push(1.0);
        let mut powers = weights.to_vec();
        for _ in 1..n {
            let entry: f64 = powers.iter().sum();
            let most = match self.asked.participation {
                _ if k == 1 => f64::INFINITY,
                // Those of one user are where they are.
                Participation::FixedEpochs { .. } => f64::INFINITY,
                _ => column[column.len() - 1],
            };
            if k > 1 && !(0.0..=most).contains(&entry) {
                return None;
            }
            column.push(entry);
            powers.iter_mut().zip(decays).for_each(|(power, decay)| *power *= decay);
        }
        // y_t adds up the last k of c_t, c_(t - b), ...
        let mut sums = column.clone();
        for t in b..n {
            let ended = t.checked_sub(k * b).map_or(0.0, |ended| column[ended]);
            sums[t] += sums[t - b] - ended;
        }
        let mut by_column: Vec<f64> = sums.iter().map(|y| 2.0 * y).collect();
        for t in (0..n.saturating_sub(b)).rev() {
            let ended = sums.get(t + k * b).map_or(0.0, |y| 2.0 * y);
            by_column[t] += by_column[t + b] - ended;
        }
        let (by_decays, by_weights) = gradient.split_at_mut(count);
        for i in 0..count {
            let (mut power, mut derivative) = (1.0, 0.0);
            for &by_entry in &by_column[1..] {
                by_weights[i] += by_entry * power;
                by_decays[i] += by_entry * derivative;
                derivative = derivative * decays[i] + power;
                power *= decays[i];
            }
            by_decays[i] *= weights[i];
        }
        Some(sums.iter().map(|y| y * y).sum())
    }

    /// The error `sum_t weight_t x_t^2`, `x_t = a_t - sum_k w_k s_k; s_k = theta_k s_k + x_t`; its gradient
    /// by decays and weights.
    fn signed_error(&self, decays: &[f64], weights: &[f64], gradient: &mut [f64]) -> Option<f64> {
        let (n, count) = (self.problem.n as usize, decays.len());
        let steps = n as f64;
        let weight = |t: usize| match self.problem.objective {
            Objective::Max => 1.0,
            Objective::Mean => (n - t) as f64 / steps,
        };
        let workload = |t: usize| self.problem.workload.as_ref().map_or(1.0, |column| column[t]);
        let mut states = vec![0.0; n * count];
        let mut answers = Vec::with_capacity(n);
        let mut state = vec![0.0; count];
        let mut total = 0.0;
        for (t, kept) in states.chunks_exact_mut(count).enumerate() {
            kept.copy_from_slice(&state);
            let x = weights.iter().zip(&state).fold(workload(t), |x, (w, s)| x - w * s);
            state.iter_mut().zip(decays).for_each(|(s, decay)| *s = decay * *s + x);
            total += weight(t) * x * x;
            answers.push(x);
        }
        if !total.is_finite() {
            return None;
        }
        let (by_decays, by_weights) = gradient.split_at_mut(count);
        let mut adjoint = vec![0.0; count];
        for (t, state) in states.chunks_exact(count).enumerate().rev() {
            let by_answer = 2.0 * weight(t) * answers[t] + adjoint.iter().sum::<f64>();
            for i in 0..count {
                by_decays[i] += adjoint[i] * state[i];
                by_weights[i] -= by_answer * state[i];
                adjoint[i] = decays[i] * adjoint[i] - weights[i] * by_answer;
            }
        }
        Some(total)
    }
}

/// Weights for `near` rates whose sum of exponentials comes nearest, in the squares over the steps up to the
/// next participation, to that of `rates` and `weights`. `None` where rates lie too close to tell.
fn fit(rates: &[f64], weights: &[f64], near: &[f64], steps: u64) -> Option<Vec<f64>> {
    let count = near.len();
    let inner = |a: f64, b: f64| {
        let ratio = a + b;
        (-(ratio * steps as f64)).exp_m1() / (-ratio).exp_m1()
    };
    let mut rows: Vec<Vec<f64>> = near
        .iter()
        .map(|&a| {
            let right: f64 = rates.iter().zip(weights).map(|(&b, w)| w * inner(a, b)).sum();
            near.iter().map(|&b| inner(a, b)).chain([right]).collect()
        })
        .collect();
    // A little of the diagonal more keeps the weights in bounds.
    rows.iter_mut().enumerate().for_each(|(i, row)| row[i] *= 1.0 + 1e-9);
    // Gaussian elimination of a positive definite matrix needs no other pivots.
    for i in 0..count {
        let pivot = rows[i].clone();
        if pivot[i] <= 0.0 {
            return None;
        }
        for row in &mut rows[i + 1..] {
            let factor = row[i] / pivot[i];
            row.iter_mut().zip(&pivot).for_each(|(entry, above)| *entry -= factor * above);
        }
    }
    let mut solution = vec![0.0; count];
    for i in (0..count).rev() {
        let known: f64 = (i + 1..count).map(|j| rows[i][j] * solution[j]).sum();
        solution[i] = (rows[i][count] - known) / rows[i][i];
    }
    solution.iter().all(|weight| weight.is_finite()).then_some(solution)
}
