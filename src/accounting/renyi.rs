//! Renyi differential privacy: of Gaussian mechanisms that see a sample, and what it says of epsilon and
//! delta.

use super::composition::PoissonGaussian;
use super::pair::{Direction, Pair};
use super::quadrature::Rule;
use super::{check_delta, check_epsilon, check_noise_multiplier, check_probability};
use crate::error::{Error, Result};
use crate::limits;

/// Points of a rule in a moment of fractional order.
const POINTS: u32 = 12;

/// Standard deviations beyond which a moment has nothing.
const REACH: f64 = 40.0;

/// Relative error of a divergence, of sums and of the quadrature, beside that of the logarithm of a number
/// near 1.
const ROUNDING: f64 = 1e-12;

/// The Renyi divergence of one round on a Poisson sample, at an order above 1; neighbouring data sets differ
/// in one example that one of them lacks. At whole orders it is the sum of arXiv 1908.10530 (Section 3.3), at
/// others the integral that stands there.
///
/// # Errors
/// [`Error::Invalid`] on `sampling_probability` or `noise_multiplier`, out of range, and on `order`, not
/// above 1 and at most [`limits::MAX_RENYI_ORDER`].
pub fn poisson_gaussian(round: PoissonGaussian, order: f64) -> Result<f64> {
    let PoissonGaussian { sampling_probability: q, noise_multiplier: s } = round;
    check_probability("sampling_probability", q)?;
    check_noise_multiplier(s)?;
    check_order(order)?;
    if q >= 1.0 {
        return Ok(upward(order / (2.0 * s * s)));
    }
    let ln_moment = if order.fract() == 0.0 {
        let choose = LnChoose::new(order as u32);
        ln_sum((0..=order as u32).map(|k| {
            let k_real = f64::from(k);
            let chosen = choose.at(k) + (order - k_real) * (-q).ln_1p() + k_real * q.ln();
            chosen + k_real * (k_real - 1.0) / (2.0 * s * s)
        }))
    } else {
        fractional(q, s, order)
    };
    Ok(upward(ln_moment.max(0.0) / (order - 1.0)) + ROUNDING / (order - 1.0))
}

fn fractional(probability: f64, noise: f64, order: f64) -> f64 {
    let pair = Pair { probability, noise, direction: Direction::Remove };
    let mut terms = Vec::new();
    let (from, to) = (-REACH * noise, order + REACH * noise);
    pair.each(&Rule::new(POINTS), from, to, |t, weight| {
        let z = t / noise;
        let density = -z * z / 2.0 - (noise * (2.0 * std::f64::consts::PI).sqrt()).ln();
        terms.push(weight.ln() + density + order * pair.loss(t));
    });
    ln_sum(terms.into_iter())
}

/// A bound of the Renyi divergence of one Gaussian round on a sample of `batch_size` of `examples`, drawn
/// without replacement, at a whole order of 2 or more; one example is replaced, which moves the clipped sum
/// by twice the clip norm: arXiv 1808.00087, Theorem 9, with the unsampled divergence `2 j / s^2` of order
/// `j`.
///
/// # Errors
/// [`Error::Invalid`] on `batch_size`, 0 or more than `examples`, on `noise_multiplier` and on `order`, out
/// of range.
pub fn fixed_size_gaussian(batch_size: u64, examples: u64, noise_multiplier: f64, order: u32) -> Result<f64> {
    check_batch(batch_size, examples)?;
    check_noise_multiplier(noise_multiplier)?;
    check_order(f64::from(order))?;
    let unsampled = |j: f64| 2.0 * j / noise_multiplier.powi(2);
    let real = f64::from(order);
    if batch_size == examples {
        return Ok(upward(unsampled(real)));
    }
    let ln_rate = (batch_size as f64 / examples as f64).ln();
    let choose = LnChoose::new(order);
    let second = unsampled(2.0);
    let pairs = (4.0 * second.exp_m1()).ln().min(2_f64.ln() + second);
    let term = |j: u32| {
        let of_order = f64::from(j);
        let factor = if j == 2 { pairs } else { 2_f64.ln() + (of_order - 1.0) * unsampled(of_order) };
        of_order * ln_rate + choose.at(j) + factor
    };
    let ln_moment = ln_sum(std::iter::once(0.0).chain((2..=order).map(term)));
    let bound = upward(ln_moment / (real - 1.0)) + ROUNDING / (real - 1.0);
    // A sample is never less private than the whole.
    Ok(bound.min(upward(unsampled(real))))
}

/// The epsilon that a Renyi divergence of an order gives at a delta: arXiv 2004.00010, Proposition 12.
///
/// # Errors
/// [`Error::Invalid`] on `order` or `delta`, out of range.
pub fn epsilon(order: f64, divergence: f64, delta: f64) -> Result<f64> {
    check_order(order)?;
    check_delta(delta)?;
    let found = divergence + (-order.recip()).ln_1p() - (delta.ln() + order.ln()) / (order - 1.0);
    Ok((found + ROUNDING * (divergence + found.abs())).max(0.0))
}

/// The delta that a Renyi divergence of an order gives at an epsilon, by the same proposition.
///
/// # Errors
/// [`Error::Invalid`] on `order` or `epsilon`, out of range.
pub fn delta(order: f64, divergence: f64, epsilon: f64) -> Result<f64> {
    check_order(order)?;
    check_epsilon(epsilon)?;
    let exponent = (order - 1.0) * (divergence - epsilon + (-order.recip()).ln_1p()) - order.ln();
    Ok((exponent + ROUNDING * (1.0 + (order - 1.0) * (divergence + epsilon))).exp().min(1.0))
}

pub(super) fn check_batch(batch_size: u64, examples: u64) -> Result<()> {
    if batch_size >= 1 && batch_size <= examples {
        return Ok(());
    }
    let rule = format!("must be at least 1 and at most examples = {examples}, found {batch_size}");
    Err(Error::invalid("batch_size", rule))
}

fn check_order(order: f64) -> Result<()> {
    if order > 1.0 && order <= f64::from(limits::MAX_RENYI_ORDER) {
        return Ok(());
    }
    let most = limits::MAX_RENYI_ORDER;
    Err(Error::invalid("order", format!("must be greater than 1 and at most {most}, found {order}")))
}

fn upward(value: f64) -> f64 {
    value * (1.0 + ROUNDING)
}

/// The logarithm of a sum of exponentials.
fn ln_sum(terms: impl Iterator<Item = f64> + Clone) -> f64 {
    let peak = terms.clone().fold(f64::NEG_INFINITY, f64::max);
    peak + terms.map(|term| (term - peak).exp()).sum::<f64>().ln()
}

/// Logarithms of the binomial coefficients of one number.
struct LnChoose(Vec<f64>);

impl LnChoose {
    fn new(n: u32) -> Self {
        let mut chosen = vec![0.0];
        let mut last = 0.0;
        for k in 1..=n {
            last += (f64::from(n - k + 1) / f64::from(k)).ln();
            chosen.push(last);
        }
        Self(chosen)
    }

    fn at(&self, k: u32) -> f64 {
        self.0[k as usize]
    }
}
