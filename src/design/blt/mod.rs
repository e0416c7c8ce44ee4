//! The best BLT: buffers whose decays and those of the inverse interlace.
//!
//! A BLT and its inverse are given by the pair of their decays (arXiv 2404.16706, Lemma 5.2; arXiv 2504.21413, Theorem 2).
//! Where these interlace, `1 > theta_1 > theta^_1 > theta_2 > ... > theta^_d > 0`, the weights of the BLT are positive and
//! those of its inverse negative, the coefficients fall, and so the sensitivity for participations `b` apart is that of
//! participations at `0, b, 2b, ...` (arXiv 2405.13763, Theorem 2). The optimiser sees the logarithms of the gaps of
//! `-ln theta`: every point is such a pair, no constraint is left.
//!
//! Everything else is sums of positive terms. With `theta = exp(-tau)`, prefix sums of the inverse's coefficients are
//! `b_s = b_inf + sum_a beta_a theta^_a^s`, `b_inf` and all `beta` positive, so that errors are a constant plus sums of
//! powers, for any number of steps, and no digit is lost where decays come near 1 or each other.

use std::ops::Add;

use super::dual::Dual;
use super::minimize::{MinimizeOptions, Minimum, minimize};
use super::problem::ToeplitzProblem;
use super::watch::Watch;
use super::{Design, Objective, Problem, Progress};
use crate::analysis::blt::Blt;
use crate::analysis::geometric::of_rate;
use crate::analysis::sensitivity;
use crate::error::{Error, Result};
use crate::limits::{MAX_OPTIMIZED_BUFFERS, MAX_OPTIMIZED_PARTICIPATIONS};
use crate::matrix::MatrixSpec;

/// Without a number of buffers, one more has to lower the loss by this part to be added.
const WORTH_A_BUFFER: f64 = 0.01;

/// Iterations of one optimisation.
const MAX_ITERATIONS: u64 = 400;

/// The best BLT with `buffers` buffers, or with as many as help.
///
/// # Errors
/// [`Error::Invalid`] on `buffers` where it is 0 or over [`MAX_OPTIMIZED_BUFFERS`], on `max_participations` where there are
/// more than [`MAX_OPTIMIZED_PARTICIPATIONS`], on a workload that is not Toeplitz; [`Error::Cancelled`].
pub(super) fn optimize_blt(problem: &Problem, buffers: Option<usize>, watch: &Watch<'_>) -> Result<Design> {
    if buffers.is_some_and(|buffers| buffers == 0 || buffers > MAX_OPTIMIZED_BUFFERS) {
        let found = buffers.unwrap_or_default();
        let rule = format!("must be at least 1 and at most {MAX_OPTIMIZED_BUFFERS}, found {found}");
        return Err(Error::invalid("buffers", rule));
    }
    let setting = Setting::new(problem)?;
    let optima = setting.optima(buffers.unwrap_or(MAX_OPTIMIZED_BUFFERS), buffers.is_none(), watch)?;
    let none = || Error::invalid("workload", "no BLT has a finite loss for it");
    setting.design(&optima.last().ok_or_else(none)?.point, problem, watch)
}

/// The best BLTs with 1, 2, ... and `most` buffers.
///
/// # Errors
/// As those of [`optimize_blt`].
pub(super) fn optimize_each_blt(problem: &Problem, most: usize, watch: &Watch<'_>) -> Result<Vec<Design>> {
    let setting = Setting::new(problem)?;
    let optima = setting.optima(most.min(MAX_OPTIMIZED_BUFFERS), false, watch)?;
    optima.iter().map(|optimum| setting.design(&optimum.point, problem, watch)).collect()
}

/// Where to start with `count` buffers: rates spread evenly on a logarithmic scale, and the best of one buffer less with a
/// pair put in that nearly cancels, at every place.
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
struct Setting(ToeplitzProblem);

impl Setting {
    fn new(problem: &Problem) -> Result<Self> {
        let problem = ToeplitzProblem::new(problem)?;
        if problem.participations > MAX_OPTIMIZED_PARTICIPATIONS {
            let found = problem.participations;
            let rule = format!("at most {MAX_OPTIMIZED_PARTICIPATIONS} for this family, found {found}");
            return Err(Error::invalid("max_participations", rule));
        }
        Ok(Self(problem))
    }

    /// The optima with one buffer, two, and so on: `most` of them, or as many as each help where `while_it_helps`.
    fn optima(&self, most: usize, while_it_helps: bool, watch: &Watch<'_>) -> Result<Vec<Minimum>> {
        let mut optima: Vec<Minimum> = Vec::new();
        for count in 1..=most {
            let what = format!("buffered_toeplitz, {count} buffers");
            let mut found: Option<Minimum> = None;
            for start in starts(self.0.n, count, optima.last()) {
                let mut on_iteration = |iteration, value: f64| {
                    watch.report(Progress { what: what.clone(), iteration, loss: value.exp() })
                };
                let options =
                    MinimizeOptions { max_iterations: MAX_ITERATIONS, ..MinimizeOptions::default() };
                let mut function = |point: &[f64], gradient: &mut [f64]| self.loss(point, gradient);
                // A start whose loss is not finite is none.
                let minimum = match minimize(start, &mut function, &options, &mut on_iteration) {
                    Err(Error::Invalid { .. }) => continue,
                    other => other?,
                };
                if found.as_ref().is_none_or(|found| minimum.value < found.value) {
                    found = Some(minimum);
                }
            }
            let Some(found) = found else { break };
            // Values are logarithms.
            let gain = optima.last().map_or(f64::INFINITY, |last| last.value - found.value);
            if while_it_helps && gain < WORTH_A_BUFFER {
                break;
            }
            optima.push(found);
        }
        Ok(optima)
    }

    /// The logarithm of the loss at a point, and its gradient.
    fn loss(&self, point: &[f64], gradient: &mut [f64]) -> Option<f64> {
        fn run<const W: usize>(setting: &Setting, point: &[f64], gradient: &mut [f64]) -> Option<f64> {
            let pair = Pair::<W>::new(point)?;
            let loss = setting.sensitivity_squared(&pair).ln() + setting.error(&pair).ln();
            gradient.copy_from_slice(&loss.gradient);
            Some(loss.value)
        }
        match point.len() / 2 {
            1 => run::<2>(self, point, gradient),
            2 => run::<4>(self, point, gradient),
            3 => run::<6>(self, point, gradient),
            4 => run::<8>(self, point, gradient),
            5 => run::<10>(self, point, gradient),
            6 => run::<12>(self, point, gradient),
            7 => run::<14>(self, point, gradient),
            8 => run::<16>(self, point, gradient),
            9 => run::<18>(self, point, gradient),
            10 => run::<20>(self, point, gradient),
            _ => None,
        }
    }

    /// What the BLT at a point achieves, its decays and weights as they are given away.
    fn design(&self, point: &[f64], problem: &Problem, watch: &Watch<'_>) -> Result<Design> {
        // Without derivatives a pair of any number of buffers is of one type.
        let pair = Pair::<0>::constant(point);
        let buf_decay: Vec<f64> = pair.rates.iter().step_by(2).map(|rate| (-rate.value).exp()).collect();
        let output_scale: Vec<f64> = pair.weights(0).iter().map(|weight| weight.value).collect();
        let blt = Blt::new(&buf_decay, &output_scale)?;
        let strategy = MatrixSpec::BufferedToeplitz { buf_decay, output_scale };
        let noising_matrix = strategy.clone().inverse();
        let cancelled = || watch.cancelled();
        if self.0.workload.is_some() {
            return Design::of(strategy, noising_matrix, problem, &cancelled);
        }
        let sensitivity = sensitivity(&strategy, problem.n, problem.participation, &cancelled)?;
        let (mean, max) = (blt.mean_error(problem.n)?, blt.max_error(problem.n)?);
        let loss = sensitivity.squared * problem.objective.of(mean, max);
        Ok(Design { strategy, noising_matrix, sensitivity, mean, max, loss })
    }

    /// The squared norm of the sum of the columns `0, b, 2b, ...`, in blocks of `b` steps: those from step 1 of block `m` on
    /// are `sum_a w_a theta_a^(r-1) (1 + theta_a^b + ... + theta_a^(m b))`, with as many terms as there were participations.
    fn sensitivity_squared<const W: usize>(&self, pair: &Pair<W>) -> Dual<W> {
        let ToeplitzProblem { n, separation: b, participations: k, .. } = self.0;
        let rates: Vec<_> = pair.rates.iter().step_by(2).copied().collect();
        let weights = pair.weights(0);
        let squares = |scales: &[Dual<W>], steps: u64| -> Dual<W> {
            pairs(scales.len())
                .map(|(i, j, count)| {
                    let powers = plain(rates[i] + rates[j], steps);
                    (scales[i] * scales[j] * powers).scale(count)
                })
                .sum()
        };
        // `squares` of the same number of steps is asked for at every block: its powers do not change.
        let whole: Vec<_> = pairs(rates.len()).map(|(i, j, _)| plain(rates[i] + rates[j], b - 1)).collect();
        // What a buffer is worth at the last step before the next block, and how much of it is left a block later.
        let carried: Vec<_> =
            rates.iter().zip(&weights).map(|(rate, &w)| w * rate.scale(1.0 - b as f64).exp()).collect();
        let kept: Vec<_> = rates.iter().map(|rate| rate.scale(-(b as f64)).exp()).collect();
        // The sum of the first `m` powers of `kept`.
        let mut sums = vec![Dual::constant(0.0); rates.len()];
        let mut total = Dual::constant(0.0);
        for m in 0..k {
            let steps = (n - m * b).min(b) - 1;
            let earlier: Dual<W> = carried.iter().zip(&sums).map(|(&carried, &sum)| carried * sum).sum();
            total = total + (Dual::constant(1.0) + earlier).square();
            sums.iter_mut().zip(&kept).for_each(|(sum, &kept)| *sum = Dual::constant(1.0) + kept * *sum);
            let scales: Vec<_> = weights.iter().zip(&sums).map(|(&w, &sum)| w * sum).collect();
            total = total
                + if steps == b - 1 {
                    pairs(rates.len())
                        .zip(&whole)
                        .map(|((i, j, count), &powers)| (scales[i] * scales[j] * powers).scale(count))
                        .sum()
                } else {
                    squares(&scales, steps)
                };
        }
        if n > k * b {
            let scales: Vec<_> = carried.iter().zip(&sums).map(|(&carried, &sum)| carried * sum).collect();
            total = total + squares(&scales, n - k * b);
        }
        total
    }

    fn error<const W: usize>(&self, pair: &Pair<W>) -> Dual<W> {
        match &self.0.workload {
            None => self.prefix_sum_error(pair),
            Some(workload) => self.toeplitz_error(pair, workload),
        }
    }

    /// `sum_s b_s^2` over `n` steps, or the sum with the weights `(n - s) / n`.
    fn prefix_sum_error<const W: usize>(&self, pair: &Pair<W>) -> Dual<W> {
        let n = self.0.n as f64;
        let limit = pair.limit();
        let rates: Vec<_> = pair.rates.iter().skip(1).step_by(2).copied().collect();
        let betas = pair.betas();
        let powers = |rate: Dual<W>| match self.0.objective {
            Objective::Max => plain(rate, self.0.n),
            Objective::Mean => weighted(rate, self.0.n).scale(1.0 / n),
        };
        let ones = match self.0.objective {
            Objective::Max => n,
            Objective::Mean => 0.5 * (n + 1.0),
        };
        let cross: Dual<W> = rates.iter().zip(&betas).map(|(&rate, &beta)| beta * powers(rate)).sum();
        let square: Dual<W> = pairs(rates.len())
            .map(|(i, j, count)| (betas[i] * betas[j] * powers(rates[i] + rates[j])).scale(count))
            .sum();
        limit.square().scale(ones) + (limit * cross).scale(2.0) + square
    }

    /// The same for another Toeplitz workload, step by step: `x_t = a_t - sum_k w_k s_k; s_k = theta_k s_k + x_t`.
    fn toeplitz_error<const W: usize>(&self, pair: &Pair<W>, workload: &[f64]) -> Dual<W> {
        let decays: Vec<_> = pair.rates.iter().step_by(2).map(|rate| rate.scale(-1.0).exp()).collect();
        let weights = pair.weights(0);
        let mut state = vec![Dual::constant(0.0); decays.len()];
        let n = self.0.n as f64;
        let mut total = Dual::constant(0.0);
        for (step, &a) in workload.iter().enumerate() {
            let earlier: Dual<W> = weights.iter().zip(&state).map(|(&w, &s)| w * s).sum();
            let x = Dual::constant(a) + earlier.scale(-1.0);
            state.iter_mut().zip(&decays).for_each(|(s, &decay)| *s = decay * *s + x);
            let weight = match self.0.objective {
                Objective::Max => 1.0,
                Objective::Mean => (n - step as f64) / n,
            };
            total = total + x.square().scale(weight);
        }
        total
    }
}

/// All pairs of `count` things without order, each with the number of its orders.
fn pairs(count: usize) -> impl Iterator<Item = (usize, usize, f64)> {
    (0..count).flat_map(move |i| (0..=i).map(move |j| (i, j, if i == j { 1.0 } else { 2.0 })))
}

fn plain<const W: usize>(rate: Dual<W>, n: u64) -> Dual<W> {
    let sums = of_rate(rate.value, n);
    rate.map(sums.plain, sums.plain_derivative)
}

fn weighted<const W: usize>(rate: Dual<W>, n: u64) -> Dual<W> {
    let sums = of_rate(rate.value, n);
    rate.map(sums.weighted, sums.weighted_derivative)
}

/// Interlacing decays, as rates `-ln theta`: at even places those of the BLT, at odd ones those of its inverse.
struct Pair<const W: usize> {
    rates: Vec<Dual<W>>,
    gaps: Vec<Dual<W>>,
}

impl<const W: usize> Pair<W> {
    /// From the logarithms of the gaps between rates, one a derivative.
    fn new(point: &[f64]) -> Option<Self> {
        let seeded = |(i, &log): (usize, &f64)| {
            let mut dual = Dual::constant(log);
            *dual.gradient.get_mut(i)? = 1.0;
            Some(dual.exp())
        };
        Some(Self::of_gaps(point.iter().enumerate().map(seeded).collect::<Option<_>>()?))
    }

    fn of_gaps(gaps: Vec<Dual<W>>) -> Self {
        let mut rate = Dual::constant(0.0);
        let rates = gaps.iter().map(|&gap| {
            rate = rate + gap;
            rate
        });
        Self { rates: rates.collect(), gaps }
    }

    /// `ln |theta_i - theta_j|`, from the gaps between them: their difference would cancel.
    fn log_difference(&self, i: usize, j: usize) -> Dual<W> {
        let (low, high) = (i.min(j), i.max(j));
        let between: Dual<W> = self.gaps[low + 1..=high].iter().copied().sum();
        self.rates[low].scale(-1.0) + between.ln_one_minus_exp_neg()
    }

    /// The sizes of the weights of the BLT (`side` 0) or of its inverse (1): `prod_j |theta_a - theta^_j|` over
    /// `prod_{j != a} |theta_a - theta_j|` (arXiv 2504.21413, Theorem 2).
    fn weights(&self, side: usize) -> Vec<Dual<W>> {
        let places = 0..self.rates.len();
        let weight = |a: usize| {
            let others = places.clone().filter(|&j| j != a);
            let logs = others.map(|j| {
                let sign = if j % 2 == side { -1.0 } else { 1.0 };
                self.log_difference(a, j).scale(sign)
            });
            logs.fold(Dual::constant(0.0), Add::add).exp()
        };
        places.clone().skip(side).step_by(2).map(weight).collect()
    }

    /// Where the prefix sums of the inverse's coefficients end: `prod (1 - theta) / (1 - theta^)`.
    fn limit(&self) -> Dual<W> {
        let log = |(i, rate): (usize, &Dual<W>)| {
            let sign = if i % 2 == 0 { 1.0 } else { -1.0 };
            rate.ln_one_minus_exp_neg().scale(sign)
        };
        self.rates.iter().enumerate().map(log).sum::<Dual<W>>().exp()
    }

    /// What each buffer of the inverse adds to the prefix sums beside their limit: `|w^| / (1 - theta^)`.
    fn betas(&self) -> Vec<Dual<W>> {
        let rates = self.rates.iter().skip(1).step_by(2);
        let beta =
            |(weight, rate): (Dual<W>, &Dual<W>)| weight * rate.ln_one_minus_exp_neg().scale(-1.0).exp();
        self.weights(1).into_iter().zip(rates).map(beta).collect()
    }
}

impl Pair<0> {
    fn constant(point: &[f64]) -> Self {
        Self::of_gaps(point.iter().map(|&log| Dual::constant(log.exp())).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::Participation;

    fn problem(n: u64, participation: Participation, objective: Objective) -> Problem {
        Problem { n, participation, objective, workload: None }
    }

    fn optimum(problem: &Problem, buffers: usize) -> Design {
        optimize_blt(problem, Some(buffers), &Watch::new(&mut |_| true)).unwrap()
    }

    const PATTERNS: [Participation; 4] = [
        Participation::Single,
        Participation::MinSep { min_sep: 9, max_participations: Some(3) },
        Participation::MinSep { min_sep: 7, max_participations: None },
        Participation::FixedEpochs { epochs: 5 },
    ];

    #[test]
    fn closed_forms_are_the_sums_of_the_coefficients() {
        for participation in PATTERNS {
            for objective in [Objective::Mean, Objective::Max] {
                let problem = problem(60, participation, objective);
                let setting = Setting::new(&problem).unwrap();
                let point = [-5.0, 0.3, -1.0, -2.0, 0.5, -0.7];
                let design = setting.design(&point, &problem, &Watch::new(&mut |_| true)).unwrap();
                let pair = Pair::<0>::constant(&point);
                let closed = setting.sensitivity_squared(&pair).value;
                assert!((closed / design.sensitivity.squared - 1.0).abs() < 1e-12, "{problem:?}");
                let closed = setting.error(&pair).value;
                let emitted = objective.of(design.mean, design.max);
                assert!((closed / emitted - 1.0).abs() < 1e-12, "{problem:?}");
                let again =
                    Design::of(design.strategy.clone(), design.noising_matrix.clone(), &problem, &|| false)
                        .unwrap();
                for (closed, summed) in [
                    (design.mean, again.mean),
                    (design.max, again.max),
                    (design.sensitivity.squared, again.sensitivity.squared),
                ] {
                    assert!((closed / summed - 1.0).abs() < 1e-12, "{problem:?}: {closed} {summed}");
                }
            }
        }
    }

    #[test]
    fn gradients_are_those_of_finite_differences() {
        let workload = MatrixSpec::MomentumSgd { momentum: 0.9, learning_rates: None };
        for participation in PATTERNS {
            for (objective, workload) in [
                (Objective::Mean, None),
                (Objective::Max, None),
                (Objective::Mean, Some(workload.clone())),
                (Objective::Max, Some(workload.clone())),
            ] {
                let problem = Problem { workload, ..problem(60, participation, objective) };
                let setting = Setting::new(&problem).unwrap();
                let point = [-5.0, 0.3, -1.0, -2.0];
                let mut gradient = [0.0; 4];
                setting.loss(&point, &mut gradient).unwrap();
                for i in 0..4 {
                    let shifted = |by: f64| {
                        let mut point = point;
                        point[i] += by;
                        setting.loss(&point, &mut [0.0; 4]).unwrap()
                    };
                    let difference = (shifted(1e-5) - shifted(-1e-5)) / 2e-5;
                    assert!((gradient[i] - difference).abs() < 1e-8, "{i}: {} {difference}", gradient[i]);
                }
            }
        }
    }

    #[test]
    fn a_buffer_more_is_never_worse() {
        for participation in
            [Participation::Single, Participation::MinSep { min_sep: 125, max_participations: Some(8) }]
        {
            for objective in [Objective::Mean, Objective::Max] {
                let problem = problem(1000, participation, objective);
                let losses: Vec<f64> = (1..=5).map(|buffers| optimum(&problem, buffers).loss).collect();
                assert!(losses.windows(2).all(|pair| pair[1] <= pair[0] * (1.0 + 1e-9)), "{losses:?}");
            }
        }
    }

    #[test]
    fn the_loss_comes_near_the_least_that_a_toeplitz_matrix_has() {
        // The square root of the prefix sum has the least largest error of all of them (arXiv 2404.16706).
        for n in [100, 10_000] {
            let least = (0..n).fold((0.0, 1.0), |(sum, c): (f64, f64), k| {
                (sum + c * c, c * (2 * k + 1) as f64 / (2 * k + 2) as f64)
            });
            let least = least.0 * least.0;
            let loss = optimum(&problem(n, Participation::Single, Objective::Max), 6).loss;
            assert!(loss >= least * (1.0 - 1e-12) && loss < least * 1.002, "{n}: {loss} {least}");
        }
    }

    #[test]
    fn nothing_near_the_optimum_is_better() {
        let problem = problem(500, PATTERNS[1], Objective::Mean);
        let setting = Setting::new(&problem).unwrap();
        let design = optimum(&problem, 2);
        let MatrixSpec::BufferedToeplitz { buf_decay, output_scale } = design.strategy else { panic!() };
        for (i, by) in (0..2).flat_map(|i| [-1e-3, 1e-3].map(|by| (i, by))) {
            let (mut decays, mut scales) = (buf_decay.clone(), output_scale.clone());
            decays[i] = 1.0 - (1.0 - decays[i]) * (1.0 + by);
            scales[1 - i] *= 1.0 - by;
            let strategy = MatrixSpec::BufferedToeplitz { buf_decay: decays, output_scale: scales };
            let near = Design::of(strategy.clone(), strategy.inverse(), &problem, &|| false).unwrap();
            assert!(near.loss >= design.loss * (1.0 - 1e-9), "{} {}", near.loss, design.loss);
        }
        assert_eq!(setting.0.participations, 3);
    }

    #[test]
    fn as_many_buffers_as_help() {
        let design = optimize_blt(
            &problem(1000, Participation::Single, Objective::Max),
            None,
            &Watch::new(&mut |_| true),
        )
        .unwrap();
        let MatrixSpec::BufferedToeplitz { buf_decay, .. } = design.strategy else { panic!() };
        assert!((2..=5).contains(&buf_decay.len()), "{buf_decay:?}");
        assert!(buf_decay.windows(2).all(|pair| pair[0] > pair[1]));
    }

    #[test]
    fn what_cannot_be_designed_is_refused() {
        let problem = problem(10, Participation::Single, Objective::Mean);
        let refused = |buffers, problem: &Problem| {
            let Err(Error::Invalid { field, .. }) =
                optimize_blt(problem, buffers, &Watch::new(&mut |_| true))
            else {
                panic!()
            };
            field
        };
        assert_eq!(refused(Some(0), &problem), "buffers");
        assert_eq!(refused(Some(11), &problem), "buffers");
        assert_eq!(refused(None, &Problem { n: 0, ..problem.clone() }), "n");
        assert_eq!(optimize_blt(&problem, None, &Watch::new(&mut |_| false)).unwrap_err(), Error::Cancelled);
        let workload = Some(MatrixSpec::Diagonal { diag: vec![1.0, 2.0] });
        assert_eq!(refused(None, &Problem { workload, ..problem }), "workload");
    }
}
