//! Composition: the distribution of a sum of privacy losses, and the curve `delta(epsilon)` that it gives.
//!
//! Masses are multiplied with `e^(order * loss)` before they are transformed, and divided by it afterwards.
//! So what is large after the transform is what delta consists of, and a transform's error, which is relative
//! to what is largest, is relative to delta. The error is bounded as well, and added to each mass of an upper
//! bound and taken from each of a lower one:
//!
//! - A coefficient `z` of a transform of masses `p` is off by at most `g = 8 u log2(N) sqrt(N) |p|_2`, `u`
//!   the unit roundoff; its power by `k (g + 4 u |z|) (|z| + g)^(k - 1)`; a mass by the mean of these and the
//!   error of the way back.
//! - The sum is computed modulo the length of the window. A sum outside of it adds to masses within, which an
//!   upper bound may have more of. What lies above the window is counted as an infinite loss, by Chernoff's
//!   bound.

use std::cmp::Ordering;

use realfft::RealFftPlanner;
use realfft::num_complex::Complex;

use super::discretise::{Pld, tilted};
use super::plan::{Estimate, Plan, ln_moment};

/// Roundings of a transform, for each of its stages.
const ROUNDINGS: f64 = 8.0 * f64::EPSILON;

/// A power of a coefficient that is not worth computing.
const NEGLIGIBLE: f64 = 1e-40;

/// Relative error of the masses of one round: of their quadrature and of exponentials.
const MASS_ERROR: f64 = 1e-13;

/// Relative error of epsilon: of losses, and of the solution between two points of the grid.
const LOSS_ERROR: f64 = 1e-12;

/// The distribution of a sum of losses, above the lower end of a window.
pub(super) struct Curve {
    interval: f64,
    /// The loss of the first mass, in intervals above `offset`.
    first: i64,
    /// The loss of the grid's zero.
    offset: f64,
    /// The tilted masses.
    masses: Vec<f64>,
    order: f64,
    /// The logarithm of what the tilted masses are to be multiplied with, beside the tilt.
    scale: f64,
    /// The mass whose loss is infinite.
    infinity: f64,
    /// What a tilted mass may have too much, all together.
    outside: f64,
    upper: bool,
    slack: f64,
}

impl Curve {
    /// Composes distributions, each with its number of rounds: an upper bound of delta, or a lower one.
    pub(super) fn new(plds: &[(Pld, u32)], estimate: &Estimate, plan: &Plan, upper: bool) -> Self {
        let interval = plan.interval;
        let offset: f64 = plds.iter().map(|(pld, rounds)| f64::from(*rounds) * pld.offset).sum();
        let first = ((plan.window.0 - offset) / interval).floor() as i64;
        let needed = (((plan.window.1 - offset) / interval).ceil() as i64 - first + 1).max(2) as usize;
        let length = smooth(needed);
        let end = ((first + length as i64) as f64).mul_add(interval, offset);
        let scale = ln_moment(plds, estimate, plan.order);
        // Chernoff's bounds of what is outside of the window.
        let above = ln_moment(plds, estimate, plan.beyond.1) - plan.beyond.1 * end;
        let start = (first as f64).mul_add(interval, offset);
        let below = ln_moment(plds, estimate, plan.beyond.0) - plan.beyond.0 * start;
        let tilted_above = (above + plan.order * end - scale).exp();
        let tilted_below = (below + plan.order * start - scale).exp();
        let lost: f64 = plds.iter().map(|(pld, rounds)| f64::from(*rounds) * pld.infinity).sum();
        let (masses, error) = transformed(plds, estimate, plan.order, length, first);
        let adjust = |mass: f64| if upper { mass.max(0.0) + error } else { (mass - error).max(0.0) };
        let rounds: f64 = plds.iter().map(|(_, rounds)| f64::from(*rounds)).sum();
        Self {
            interval,
            first,
            offset,
            masses: masses.into_iter().map(adjust).collect(),
            order: plan.order,
            scale,
            infinity: if upper { (lost + above.exp()).min(1.0) } else { 0.0 },
            outside: if upper { 0.0 } else { (tilted_above + tilted_below).min(1.0) },
            upper,
            slack: MASS_ERROR * (rounds + 1.0),
        }
    }

    fn loss(&self, index: usize) -> f64 {
        ((self.first + index as i64) as f64).mul_add(self.interval, self.offset)
    }

    /// What a tilted mass at a loss is without the tilt.
    fn untilted(&self, mass: f64, loss: f64) -> f64 {
        tilted(mass, self.scale - self.order * loss)
    }

    /// The least epsilon, 0 or more, at which the curve is at most `delta`; of a lower bound, at least
    /// `delta`.
    pub(super) fn epsilon(&self, delta: f64) -> f64 {
        let delta = if self.upper { delta / (1.0 + self.slack) } else { delta * (1.0 + self.slack) };
        if !(self.infinity.is_finite() && self.infinity <= delta) {
            return if self.upper { f64::INFINITY } else { 0.0 };
        }
        let shrink = (-self.interval).exp();
        let (mut found, mut above) = (self.infinity, 0.0);
        for index in (0..self.masses.len()).rev() {
            let loss = self.loss(index);
            if loss <= 0.0 {
                return 0.0;
            }
            let counted = above + self.untilted(self.masses[index], loss);
            let before = loss - self.interval;
            let most = delta + self.untilted(self.outside, before.max(0.0));
            let next = found - counted * (-self.interval).exp_m1();
            // A number that is not one counts as too large.
            if !matches!(next.partial_cmp(&most), Some(Ordering::Less | Ordering::Equal)) {
                let epsilon = loss + (-(most - found).max(0.0) / counted).max(-1.0).ln_1p();
                let error = LOSS_ERROR * loss.abs();
                if epsilon.is_nan() {
                    return if self.upper { f64::INFINITY } else { 0.0 };
                }
                return (if self.upper { epsilon + error } else { epsilon - error }).max(0.0);
            }
            (found, above) = (next, counted * shrink);
        }
        match (self.upper, found.is_finite()) {
            (true, true) => self.loss(0),
            (true, false) => f64::INFINITY,
            (false, _) => 0.0,
        }
    }

    /// The curve at an epsilon.
    pub(super) fn delta(&self, epsilon: f64) -> f64 {
        let masses = self.masses.iter().enumerate().rev();
        let terms =
            masses.map(|(index, mass)| (self.loss(index), mass)).take_while(|(loss, _)| *loss > epsilon);
        let sum: f64 =
            terms.map(|(loss, mass)| -(epsilon - loss).exp_m1() * self.untilted(*mass, loss)).sum();
        if self.upper {
            // The lowest losses are not in the window: none of them has more than the whole.
            let known = epsilon >= self.loss(0);
            return if known { ((self.infinity + sum) * (1.0 + self.slack)).min(1.0) } else { 1.0 };
        }
        ((sum - self.untilted(self.outside, epsilon)) / (1.0 + self.slack)).clamp(0.0, 1.0)
    }
}

/// The tilted masses of the sum in the window that begins at `first`, and how far off each may be.
fn transformed(
    plds: &[(Pld, u32)],
    estimate: &Estimate,
    order: f64,
    length: usize,
    first: i64,
) -> (Vec<f64>, f64) {
    let mut planner = RealFftPlanner::<f64>::new();
    let (there, back) = (planner.plan_fft_forward(length), planner.plan_fft_inverse(length));
    let unit = ROUNDINGS * (length as f64).log2();
    let root = (length as f64).sqrt();
    let mut product = vec![Complex::new(1.0, 0.0); length / 2 + 1];
    // The product of the absolute values, each with its error, and the sum of the relative errors.
    let mut bound = vec![(1.0, 0.0); length / 2 + 1];
    for ((pld, rounds), (nodes, _)) in plds.iter().zip(&estimate.0) {
        let ln_moment = pld.ln_moment(order, nodes.peak(order));
        let mut masses = vec![0.0; length];
        for (index, mass) in pld.masses.iter().enumerate() {
            let at = (pld.first + index as i64).rem_euclid(length as i64) as usize;
            masses[at] += tilted(*mass, order * pld.loss(index) - ln_moment);
        }
        let error = unit * root * masses.iter().map(|mass| mass * mass).sum::<f64>().sqrt();
        let mut coefficients = there.make_output_vec();
        // The lengths are those of the plan.
        let _done = there.process(&mut masses, &mut coefficients);
        for ((product, bound), z) in product.iter_mut().zip(&mut bound).zip(coefficients) {
            let size = z.norm_sqr().sqrt() * (1.0 + 4.0 * f64::EPSILON) + error;
            let power = size.powi(*rounds as i32);
            bound.0 *= power;
            if power < NEGLIGIBLE {
                // All of it counts as an error.
                *product = Complex::new(0.0, 0.0);
                bound.1 += 1.0;
            } else {
                *product *= z.powu(*rounds);
                bound.1 += f64::from(*rounds) * (error / size + 4.0 * f64::EPSILON);
            }
        }
    }
    let scale = 1.0 / length as f64;
    let mirrored = |index: usize| if index == 0 || 2 * index == length { 1.0 } else { 2.0 };
    let each = bound.iter().enumerate();
    let error: f64 = each.map(|(index, (size, relative))| mirrored(index) * size * relative * scale).sum();
    let norm =
        product.iter().enumerate().map(|(index, z)| mirrored(index) * z.norm_sqr()).sum::<f64>().sqrt();
    let error = error + unit * norm / root;
    product[0].im = 0.0;
    product[length / 2].im = 0.0;
    let mut masses = back.make_output_vec();
    let _done = back.process(&mut product, &mut masses);
    masses.iter_mut().for_each(|mass| *mass *= scale);
    masses.rotate_left(first.rem_euclid(length as i64) as usize);
    (masses, error)
}

/// The least even length that is not less and that transforms well.
fn smooth(least: usize) -> usize {
    let fits = |odd: usize| {
        let mut length = 2 * odd;
        while length < least {
            length *= 2;
        }
        length
    };
    [1, 3, 5, 9, 15].into_iter().map(fits).min().unwrap_or(least)
}
