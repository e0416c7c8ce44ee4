//! The best BLT.
//!
//! A BLT and its inverse are given by the pair of their decays (arXiv 2404.16706, Lemma 5.2; arXiv
//! 2504.21413, Theorem 2). Where these interlace, `1 > theta_1 > theta^_1 > theta_2 > ... > theta^_d > 0`,
//! the weights of the BLT are positive and those of its inverse negative, the coefficients fall, and so the
//! sensitivity for participations `b` apart is that of participations at `0, b, 2b, ...` (arXiv 2405.13763,
//! Theorem 2). The optimiser sees the logarithms of the gaps of `-ln theta`: every point is such a pair, no
//! constraint is left.
//!
//! Everything else is sums of positive terms. With `theta = exp(-tau)`, prefix sums of the inverse's
//! coefficients are `b_s = b_inf + sum_a beta_a theta^_a^s`, `b_inf` and all `beta` positive, so that errors
//! are a constant plus sums of powers, for any number of steps, and no digit is lost where decays come near 1
//! or each other (`interlacing`).
//!
//! For several participations BLTs with weights of both signs may be better. They are searched as far as
//! their coefficients are not negative and do not increase, so that their sensitivity is exact (`signed`).
//!
//! What is told of a BLT is measured on the numbers that are given away. A BLT whose decays lie so near each
//! other that their rounding shows is not given where one of fewer buffers is there.

mod interlacing;
mod signed;
#[cfg(test)]
mod tests;

use super::minimize::{MinimizeOptions, Minimum, minimize};
use super::problem::ToeplitzProblem;
use super::watch::Watch;
use super::{Design, Problem, Progress};
use crate::analysis::blt::Blt;
use crate::error::{Error, Result};
use crate::limits::{MAX_OPTIMIZED_BUFFERS, MAX_OPTIMIZED_PARTICIPATIONS};
use crate::matrix::MatrixSpec;
use interlacing::Pair;
use signed::Point;

/// Without a number of buffers, one more has to lower the loss by this part to be added.
const WORTH_A_BUFFER: f64 = 0.01;

/// Iterations of one optimisation.
const MAX_ITERATIONS: u64 = 400;

/// Iterations that each start is given, and how many of them go on.
const FIRST_ITERATIONS: u64 = 16;
const STARTS_KEPT: usize = 3;

/// How far two ways to compute the error of what is given away may differ, as a part of it.
const MOST_CANCELLED: f64 = 1e-9;

/// The same where one of them computes as a session does, in f32.
const MOST_ROUNDED: f64 = 0.01;

/// The best BLT with at most `buffers` buffers, or with as many as help. It has fewer than were asked for
/// where more would not be better.
///
/// # Errors
/// [`Error::Invalid`] on `buffers` where it is 0 or over [`MAX_OPTIMIZED_BUFFERS`], on `max_participations`
/// where there are more than [`MAX_OPTIMIZED_PARTICIPATIONS`], on a workload that is not Toeplitz;
/// [`Error::Cancelled`].
pub(super) fn optimize_blt(problem: &Problem, buffers: Option<usize>, watch: &Watch<'_>) -> Result<Design> {
    if buffers.is_some_and(|buffers| buffers == 0 || buffers > MAX_OPTIMIZED_BUFFERS) {
        let found = buffers.unwrap_or_default();
        let rule = format!("must be at least 1 and at most {MAX_OPTIMIZED_BUFFERS}, found {found}");
        return Err(Error::invalid("buffers", rule));
    }
    let setting = Setting::new(problem)?;
    let designs = match buffers {
        Some(buffers) => setting.designs(buffers, false, watch)?,
        None => setting.designs(MAX_OPTIMIZED_BUFFERS, true, watch)?,
    };
    let none = || Error::invalid("workload", "no BLT has a finite loss for it");
    designs.into_iter().next_back().ok_or_else(none)
}

/// The best BLTs with at most 1, 2, ... and `most` buffers, each better than the one before.
///
/// # Errors
/// As those of [`optimize_blt`].
pub(super) fn optimize_each_blt(problem: &Problem, most: usize, watch: &Watch<'_>) -> Result<Vec<Design>> {
    Setting::new(problem)?.designs(most.min(MAX_OPTIMIZED_BUFFERS), false, watch)
}

/// Where to start with `count` buffers: rates spread evenly on a logarithmic scale, and the best of one
/// buffer less with a pair put in that nearly cancels, at every place.
fn starts(n: u64, count: usize, best: Option<&Minimum>) -> Vec<Vec<f64>> {
    let parameters = |rates: &[f64]| -> Vec<f64> {
        let before = std::iter::once(0.0).chain(rates.iter().copied());
        rates.iter().zip(before).map(|(rate, before)| (rate - before).ln()).collect()
    };
    let spread = |low: f64, high: f64| -> Vec<f64> {
        let last = (2 * count - 1) as f64;
        (0..2 * count).map(|i| low * (high / low).powf(i as f64 / last)).collect()
    };
    let steps = n as f64;
    let mut starts = vec![parameters(&spread(0.5 / steps, 2.0)), parameters(&spread(0.05 / steps, 3.0))];
    let Some(best) = best else { return starts };
    let rates: Vec<f64> = best
        .point
        .iter()
        .scan(0.0, |rate, gap| {
            *rate += gap.exp();
            Some(*rate)
        })
        .collect();
    for place in 0..=rates.len() {
        let above = rates.get(place).copied().unwrap_or(4.0 * rates[rates.len() - 1]);
        let below = if place == 0 { 0.1 * above } else { rates[place - 1] };
        for gap in [0.2, 1e-7] {
            let middle = (below * above).sqrt();
            let half = 0.5 * gap * (above - middle).min(middle - below);
            let mut with_pair = rates.clone();
            with_pair.splice(place..place, [middle - half, middle + half]);
            starts.push(parameters(&with_pair));
        }
    }
    starts
}

/// What a loss depends on beside the decays.
struct Setting<'a> {
    asked: &'a Problem,
    problem: ToeplitzProblem,
}

impl<'a> Setting<'a> {
    fn new(asked: &'a Problem) -> Result<Self> {
        let problem = ToeplitzProblem::new(asked)?;
        if problem.participations > MAX_OPTIMIZED_PARTICIPATIONS {
            let found = problem.participations;
            let rule = format!("at most {MAX_OPTIMIZED_PARTICIPATIONS} for this family, found {found}");
            return Err(Error::invalid("max_participations", rule));
        }
        Ok(Self { asked, problem })
    }

    /// The best designs with at most one buffer, two, and so on, each better than the one before it: up to
    /// `most` buffers, or as many as each help where `while_it_helps`.
    fn designs(&self, most: usize, while_it_helps: bool, watch: &Watch<'_>) -> Result<Vec<Design>> {
        // Two parameters a buffer: with more of them than a Toeplitz matrix has coefficients, none is better.
        let most = most.min((self.problem.n / 2).max(1) as usize);
        let mut designs: Vec<Design> = Vec::new();
        let mut optimum: Option<Minimum> = None;
        let mut of_both_signs: Option<Point> = None;
        for count in 1..=most {
            let Some(found) = self.interlacing(count, optimum.as_ref(), watch)? else { break };
            let mut best = Some(self.design(&found.point, watch)?).filter(|design| self.is_sound(design));
            if let Some((point, design)) = self.signed(count, &found, of_both_signs.as_ref(), watch)? {
                of_both_signs = Some(point);
                let signed = Some(design).filter(|design| self.is_sound(design));
                best = [best, signed].into_iter().flatten().min_by(|a, b| a.loss.total_cmp(&b.loss));
            }
            if designs.is_empty() && best.is_none() {
                best = Some(self.design(&found.point, watch)?);
            }
            let before = designs.last().map_or(f64::INFINITY, |design| design.loss);
            let worth = if while_it_helps { 1.0 - WORTH_A_BUFFER } else { 1.0 };
            let better = best.filter(|design| design.loss < before * worth || designs.is_empty());
            let helps = better.is_some();
            designs.extend(better);
            optimum = Some(found);
            if watch.stopped() || (while_it_helps && !helps) {
                break;
            }
        }
        Ok(designs)
    }

    /// The optimum of so many buffers whose decays interlace with those of the inverse.
    fn interlacing(
        &self,
        count: usize,
        fewer: Option<&Minimum>,
        watch: &Watch<'_>,
    ) -> Result<Option<Minimum>> {
        let what = format!("buffered_toeplitz, {count} buffers");
        let search = |start: Vec<f64>, max_iterations| {
            let mut on_iteration = |iteration, value: f64| {
                watch.report(Progress { what: what.clone(), iteration, loss: value.exp() })
            };
            let options = MinimizeOptions { max_iterations, ..MinimizeOptions::default() };
            let mut function = |point: &[f64], gradient: &mut [f64]| self.loss(point, gradient);
            let found = match minimize(start, &mut function, &options, &mut on_iteration) {
                // A start whose loss is not finite is no start.
                Err(Error::Invalid { .. }) => None,
                other => Some(other?),
            };
            watch.check()?;
            Ok::<_, Error>(found)
        };
        let mut found: Vec<Minimum> = Vec::new();
        for start in starts(self.problem.n, count, fewer) {
            found.extend(search(start, FIRST_ITERATIONS)?);
            if watch.stopped() {
                break;
            }
        }
        found.sort_by(|a, b| a.value.total_cmp(&b.value));
        let mut best: Option<Minimum> = None;
        for first in found.into_iter().take(STARTS_KEPT) {
            let goes_on = first.iterations >= FIRST_ITERATIONS && !watch.stopped();
            let minimum =
                if goes_on { search(first.point.clone(), MAX_ITERATIONS)?.unwrap_or(first) } else { first };
            if best.as_ref().is_none_or(|best| minimum.value < best.value) {
                best = Some(minimum);
            }
        }
        Ok(best)
    }

    /// What the BLT at a point achieves, its decays and weights as they are given away.
    fn design(&self, point: &[f64], watch: &Watch<'_>) -> Result<Design> {
        // Without derivatives a pair of any number of buffers is of one type.
        let pair = Pair::<0>::constant(point);
        let buf_decay: Vec<f64> = pair.decay_rates().iter().map(|rate| (-rate.value).exp()).collect();
        let output_scale: Vec<f64> = pair.weights(0).iter().map(|weight| weight.value).collect();
        self.measured(buf_decay, output_scale, watch)
    }

    fn measured(&self, buf_decay: Vec<f64>, output_scale: Vec<f64>, watch: &Watch<'_>) -> Result<Design> {
        // Numbers that a session in f32 has as well: what is told of the strategy holds in either precision.
        // Near 1, decays that round to others would make another strategy.
        let in_f32 = |list: Vec<f64>| list.into_iter().map(|value| f64::from(value as f32)).collect();
        let (buf_decay, output_scale) = (in_f32(buf_decay), in_f32(output_scale));
        let strategy = MatrixSpec::BufferedToeplitz { buf_decay, output_scale };
        let noising_matrix = strategy.clone().inverse();
        Design::of(strategy, noising_matrix, self.asked, &|| watch.abandoned())
    }

    /// Whether the errors of a design do not hang on digits that rounding takes: two ways in f64 agree, and
    /// so does the arithmetic of a session in f32.
    fn is_sound(&self, design: &Design) -> bool {
        let MatrixSpec::BufferedToeplitz { buf_decay, output_scale } = &design.strategy else { return false };
        if self.problem.workload.is_some() {
            return true;
        }
        let near = |a: f64, b: f64, part: f64| (a - b).abs() <= part * b;
        let n = self.problem.n;
        let closed =
            Blt::new(buf_decay, output_scale).and_then(|blt| Ok((blt.mean_error(n)?, blt.max_error(n)?)));
        // Closed forms know positive weights alone, and inverses that do not grow.
        if let Ok((mean, max)) = closed
            && !(near(mean, design.mean, MOST_CANCELLED) && near(max, design.max, MOST_CANCELLED))
        {
            return false;
        }
        near(max_error_in_f32(buf_decay, output_scale, n), design.max, MOST_ROUNDED)
    }
}

/// The largest error of the noise that a session in f32 makes: the sum of the squares of the prefix sums of
/// what its recurrence answers to an impulse.
fn max_error_in_f32(buf_decay: &[f64], output_scale: &[f64], n: u64) -> f64 {
    let single = |list: &[f64]| -> Vec<f32> { list.iter().map(|&value| value as f32).collect() };
    let (decays, weights) = (single(buf_decay), single(output_scale));
    let mut buffers = vec![0.0_f32; decays.len()];
    let (mut prefix, mut total) = (0.0, 0.0);
    for step in 0..n {
        let impulse = if step == 0 { 1.0 } else { 0.0 };
        let y = weights.iter().zip(&buffers).fold(impulse, |y, (weight, buffer)| y - weight * buffer);
        buffers.iter_mut().zip(&decays).for_each(|(buffer, decay)| *buffer = decay * *buffer + y);
        prefix += f64::from(y);
        total += prefix * prefix;
    }
    total
}
