//! The loss of a BLT whose decays and those of its inverse interlace, with its gradient.

use std::ops::Add;

use super::Setting;
use crate::analysis::geometric::of_rate;
use crate::design::Objective;
use crate::design::dual::Dual;
use crate::design::problem::ToeplitzProblem;
use crate::limits::MAX_OPTIMIZED_BUFFERS;

/// Writes the gradient of the logarithm of the loss at a point, and gives its value.
type Evaluation = fn(&Setting<'_>, &[f64], &mut [f64]) -> Option<f64>;

fn evaluate<const W: usize>(setting: &Setting<'_>, point: &[f64], gradient: &mut [f64]) -> Option<f64> {
    let pair = Pair::<W>::new(point)?;
    let moved = setting.sensitivity_squared(&pair.decay_rates(), &pair.weights(0));
    let loss = moved.ln() + setting.error(&pair).ln();
    gradient.copy_from_slice(&loss.gradient);
    Some(loss.value)
}

impl Setting<'_> {
    /// The logarithm of the loss at a point, and its gradient.
    pub(super) fn loss(&self, point: &[f64], gradient: &mut [f64]) -> Option<f64> {
        /// One evaluation for each number of buffers: its parameters are part of its type.
        const OF_BUFFERS: [Evaluation; MAX_OPTIMIZED_BUFFERS] = [
            evaluate::<2>,
            evaluate::<4>,
            evaluate::<6>,
            evaluate::<8>,
            evaluate::<10>,
            evaluate::<12>,
            evaluate::<14>,
            evaluate::<16>,
            evaluate::<18>,
            evaluate::<20>,
        ];
        OF_BUFFERS.get((point.len() / 2).checked_sub(1)?)?(self, point, gradient)
    }

    /// The squared norm of the sum of the columns `0, b, 2b, ...`, in blocks of `b` steps: those from step 1
    /// of block `m` on are `sum_a w_a theta_a^(r-1) (1 + theta_a^b + ... + theta_a^(m b))`, with as many
    /// terms as there were participations.
    pub(super) fn sensitivity_squared<const W: usize>(
        &self,
        rates: &[Dual<W>],
        weights: &[Dual<W>],
    ) -> Dual<W> {
        let ToeplitzProblem { n, separation: b, participations: k, .. } = self.problem;
        let squares = |scales: &[Dual<W>], steps: u64| -> Dual<W> {
            pairs(scales.len())
                .map(|(i, j, count)| {
                    let powers = plain(rates[i] + rates[j], steps);
                    (scales[i] * scales[j] * powers).scale(count)
                })
                .sum()
        };
        // What a buffer is worth at the last step before the next block, and how much of it is left a block
        // later.
        let carried: Vec<_> =
            rates.iter().zip(weights).map(|(rate, &w)| w * rate.scale(1.0 - b as f64).exp()).collect();
        let kept: Vec<_> = rates.iter().map(|rate| rate.scale(-(b as f64)).exp()).collect();
        // Of block `m`, what earlier participations left at its first step is `sum_i carried_i u_i(m)`, and
        // its other steps have the scales `w_i u_i(m + 1)`, with `u_i(m)` the sum of the first `m` powers of
        // `kept_i`. All but the last are whole.
        let earlier = BlockSums::new(&kept, k - 1);
        let mut total = Dual::constant(k as f64);
        for (&carried, &sum) in carried.iter().zip(&earlier.sums) {
            total = total + (carried * sum).scale(2.0);
        }
        for ((i, j, count), &product) in pairs(rates.len()).zip(&earlier.products) {
            let others = weights[i] * weights[j] * plain(rates[i] + rates[j], b - 1);
            total = total + ((carried[i] * carried[j] + others) * product).scale(count);
        }
        let all: Vec<_> =
            earlier.last.iter().zip(&kept).map(|(&last, &kept)| Dual::constant(1.0) + kept * last).collect();
        let scales: Vec<_> = weights.iter().zip(&all).map(|(&w, &sum)| w * sum).collect();
        total = total + squares(&scales, (n - (k - 1) * b).min(b) - 1);
        if n > k * b {
            let scales: Vec<_> = carried.iter().zip(&all).map(|(&carried, &sum)| carried * sum).collect();
            total = total + squares(&scales, n - k * b);
        }
        total
    }

    pub(super) fn error<const W: usize>(&self, pair: &Pair<W>) -> Dual<W> {
        match &self.problem.workload {
            None => self.prefix_sum_error(pair),
            Some(workload) => self.toeplitz_error(&pair.decay_rates(), &pair.weights(0), workload),
        }
    }

    /// `sum_s b_s^2` over `n` steps, or the sum with the weights `(n - s) / n`.
    fn prefix_sum_error<const W: usize>(&self, pair: &Pair<W>) -> Dual<W> {
        let n = self.problem.n as f64;
        let limit = pair.limit();
        let rates: Vec<_> = pair.rates.iter().skip(1).step_by(2).copied().collect();
        let betas = pair.betas();
        let powers = |rate: Dual<W>| match self.problem.objective {
            Objective::Max => plain(rate, self.problem.n),
            Objective::Mean => weighted(rate, self.problem.n).scale(1.0 / n),
        };
        let ones = match self.problem.objective {
            Objective::Max => n,
            Objective::Mean => 0.5 * (n + 1.0),
        };
        let cross: Dual<W> = rates.iter().zip(&betas).map(|(&rate, &beta)| beta * powers(rate)).sum();
        let square: Dual<W> = pairs(rates.len())
            .map(|(i, j, count)| (betas[i] * betas[j] * powers(rates[i] + rates[j])).scale(count))
            .sum();
        limit.square().scale(ones) + (limit * cross).scale(2.0) + square
    }

    /// The same for another Toeplitz workload, step by step: `x_t = a_t - sum_k w_k s_k; s_k = theta_k s_k +
    /// x_t`.
    pub(super) fn toeplitz_error<const W: usize>(
        &self,
        rates: &[Dual<W>],
        weights: &[Dual<W>],
        workload: &[f64],
    ) -> Dual<W> {
        let decays: Vec<_> = rates.iter().map(|rate| rate.scale(-1.0).exp()).collect();
        let mut state = vec![Dual::constant(0.0); decays.len()];
        let n = self.problem.n as f64;
        let mut total = Dual::constant(0.0);
        for (step, &a) in workload.iter().enumerate() {
            let earlier: Dual<W> = weights.iter().zip(&state).map(|(&w, &s)| w * s).sum();
            let x = Dual::constant(a) + earlier.scale(-1.0);
            state.iter_mut().zip(&decays).for_each(|(s, &decay)| *s = decay * *s + x);
            let weight = match self.problem.objective {
                Objective::Max => 1.0,
                Objective::Mean => (n - step as f64) / n,
            };
            total = total + x.square().scale(weight);
        }
        total
    }
}

/// Sums over blocks `1, ..., m` of `u_i`, the sum of the first so many powers of `kept_i`: for each buffer
/// and each pair.
struct BlockSums<const W: usize> {
    blocks: u64,
    /// `u_i(m)`.
    last: Vec<Dual<W>>,
    /// `u_i(1) + ... + u_i(m)`.
    sums: Vec<Dual<W>>,
    /// `u_i(1) u_j(1) + ... + u_i(m) u_j(m)`, in the order of [`pairs`].
    products: Vec<Dual<W>>,
    /// `kept_i^m`.
    powers: Vec<Dual<W>>,
}

impl<const W: usize> BlockSums<W> {
    /// By doubling, in `O(log m)`.
    fn new(kept: &[Dual<W>], m: u64) -> Self {
        let all = |value: f64, count: usize| vec![Dual::constant(value); count];
        let of = |blocks: u64, value: f64, powers: Vec<Dual<W>>| Self {
            blocks,
            last: all(value, kept.len()),
            sums: all(value, kept.len()),
            products: all(value, pairs(kept.len()).count()),
            powers,
        };
        let one = of(1, 1.0, kept.to_vec());
        let mut found = of(0, 0.0, all(1.0, kept.len()));
        for bit in (0..u64::BITS - m.leading_zeros()).rev() {
            found = found.then(&found);
            if m >> bit & 1 == 1 {
                found = one.then(&found);
            }
        }
        found
    }

    /// These blocks and as many more as `other` has: `u(a + m) = u(a) + kept^a u(m)`. All that is added is
    /// positive, so no digit is lost.
    fn then(&self, other: &Self) -> Self {
        let more = other.blocks as f64;
        let each = 0..self.last.len();
        let product = |((i, j, _), (&own, &others)): ((usize, usize, f64), (&Dual<W>, &Dual<W>))| {
            let (u_i, u_j, p_i, p_j) = (self.last[i], self.last[j], self.powers[i], self.powers[j]);
            let mixed = u_i * p_j * other.sums[j] + u_j * p_i * other.sums[i];
            own + (u_i * u_j).scale(more) + mixed + p_i * p_j * others
        };
        let products = self.products.iter().zip(&other.products);
        Self {
            blocks: self.blocks + other.blocks,
            last: each.clone().map(|i| self.last[i] + self.powers[i] * other.last[i]).collect(),
            sums: each
                .clone()
                .map(|i| self.sums[i] + self.last[i].scale(more) + self.powers[i] * other.sums[i])
                .collect(),
            products: pairs(self.last.len()).zip(products).map(product).collect(),
            powers: each.map(|i| self.powers[i] * other.powers[i]).collect(),
        }
    }
}

/// All pairs of `count` things without order, each with the number of its orders.
pub(super) fn pairs(count: usize) -> impl Iterator<Item = (usize, usize, f64)> {
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

/// Interlacing decays, as rates `-ln theta`: at even places those of the BLT, at odd ones those of its
/// inverse.
pub(super) struct Pair<const W: usize> {
    pub(super) rates: Vec<Dual<W>>,
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

    /// Those of the BLT.
    pub(super) fn decay_rates(&self) -> Vec<Dual<W>> {
        self.rates.iter().step_by(2).copied().collect()
    }

    /// The sizes of the weights of the BLT (`side` 0) or of its inverse (1): `prod_j |theta_a - theta^_j|`
    /// over `prod_{j != a} |theta_a - theta_j|` (arXiv 2504.21413, Theorem 2).
    pub(super) fn weights(&self, side: usize) -> Vec<Dual<W>> {
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
    pub(super) fn constant(point: &[f64]) -> Self {
        Self::of_gaps(point.iter().map(|&log| Dual::constant(log.exp())).collect())
    }
}
