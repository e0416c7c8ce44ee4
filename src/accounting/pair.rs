//! The dominating pair of a Gaussian mechanism that sees a Poisson sample.

use std::f64::consts::{FRAC_1_SQRT_2, PI};

use super::quadrature::Rule;

/// Above this exponent `1 - q` is lost beside `q e^y`.
const LARGE_EXPONENT: f64 = 500.0;

/// A panel of a quadrature is at most this fraction of the noise's standard deviation.
const PANEL: f64 = 0.25;

/// Panels of a quadrature at most.
const MAX_PANELS: f64 = 1e6;

/// Which of two neighbouring data sets has the example.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    /// The mechanism ran on the data set with the example; the other data set lacks it.
    Remove,
    /// The mechanism ran on the data set without the example; the other data set has it.
    Add,
}

/// The dominating pair `(P, Q)` of one round: with `M = (1 - q) N(0, s^2) + q N(1, s^2)`,
/// [`Direction::Remove`] is `(M, N(0, s^2))` and [`Direction::Add`] is `(N(0, s^2), M)` (arXiv 2106.08567).
/// `x` is the output, and `t` is `x` on an axis on which the privacy loss `ln P/Q` rises: `x` itself, or
/// `-x`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pair {
    pub(super) probability: f64,
    pub(super) noise: f64,
    pub(super) direction: Direction,
}

impl Pair {
    /// `ln M/N` at `x`.
    fn ln_ratio(&self, x: f64) -> f64 {
        let q = self.probability;
        let y = (x - 0.5) / (self.noise * self.noise);
        if q >= 1.0 {
            return y;
        }
        if y > LARGE_EXPONENT {
            return y + q.ln();
        }
        let part = q * y.exp_m1();
        if part > -0.5 { part.ln_1p() } else { ((1.0 - q) + q * y.exp()).ln() }
    }

    /// Where `ln M/N` is `ratio`; negative infinity where it is larger everywhere.
    fn inverse_ratio(&self, ratio: f64) -> f64 {
        let q = self.probability;
        let y = if q >= 1.0 {
            ratio
        } else if ratio > LARGE_EXPONENT {
            ratio - q.ln()
        } else {
            let part = ratio.exp_m1() / q;
            if part > -1.0 { part.ln_1p() } else { f64::NEG_INFINITY }
        };
        (self.noise * self.noise).mul_add(y, 0.5)
    }

    /// The privacy loss at `t`.
    pub(super) fn loss(&self, t: f64) -> f64 {
        match self.direction {
            Direction::Remove => self.ln_ratio(t),
            Direction::Add => -self.ln_ratio(-t),
        }
    }

    /// The `t` at which the privacy loss is `loss`; infinite beyond all losses.
    pub(super) fn at_loss(&self, loss: f64) -> f64 {
        match self.direction {
            Direction::Remove => self.inverse_ratio(loss),
            Direction::Add => -self.inverse_ratio(-loss),
        }
    }

    /// The privacy loss at `t`, and the density of `P` there.
    pub(super) fn loss_and_density(&self, t: f64) -> (f64, f64) {
        let loss = self.loss(t);
        let z = t / self.noise;
        let above = match self.direction {
            Direction::Remove => loss,
            Direction::Add => 0.0,
        };
        (loss, (above - z * z / 2.0).exp() / (self.noise * (2.0 * PI).sqrt()))
    }

    /// A loss that is nowhere exceeded.
    pub(super) fn most(&self) -> f64 {
        match self.direction {
            Direction::Remove => f64::INFINITY,
            Direction::Add => -(-self.probability).ln_1p(),
        }
    }

    /// The mass of `P` above `t`.
    pub(super) fn mass_above(&self, t: f64) -> f64 {
        let upper = |z: f64| 0.5 * libm::erfc(z * FRAC_1_SQRT_2);
        let q = self.probability;
        match self.direction {
            Direction::Remove => (1.0 - q) * upper(t / self.noise) + q * upper((t - 1.0) / self.noise),
            Direction::Add => upper(t / self.noise),
        }
    }

    /// The mass of `P` below `t`.
    pub(super) fn mass_below(&self, t: f64) -> f64 {
        let lower = |z: f64| 0.5 * libm::erfc(-z * FRAC_1_SQRT_2);
        let q = self.probability;
        match self.direction {
            Direction::Remove => (1.0 - q) * lower(t / self.noise) + q * lower((t - 1.0) / self.noise),
            Direction::Add => lower(t / self.noise),
        }
    }

    /// An interval of `t` outside of which `P` has at most `tail` at either end: `P(Z > z) <= e^(-z^2/2) /
    /// 2`.
    pub(super) fn support(&self, tail: f64) -> (f64, f64) {
        let z = (2.0 * (0.5 / tail).ln()).max(1.0).sqrt();
        let shift = if self.direction == Direction::Remove { 1.0 } else { 0.0 };
        (-z * self.noise, z.mul_add(self.noise, shift))
    }

    /// The number of panels that a quadrature takes between two points.
    pub(super) fn panels(&self, from: f64, to: f64) -> u32 {
        let panel = PANEL * self.noise.min(2.0 * self.noise * self.noise);
        ((to - from) / panel).ceil().clamp(1.0, MAX_PANELS) as u32
    }

    /// Calls `add(t, weight)` for the points of a quadrature between two points.
    pub(super) fn each(&self, rule: &Rule, from: f64, to: f64, mut add: impl FnMut(f64, f64)) {
        let panels = self.panels(from, to);
        let width = (to - from) / f64::from(panels);
        for panel in 0..panels {
            let start = f64::from(panel).mul_add(width, from);
            let end = if panel + 1 == panels { to } else { start + width };
            rule.each(start, end, &mut add);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_invert() {
        for probability in [1e-9, 1e-3, 0.3, 0.9, 1.0] {
            for noise in [0.1, 1.0, 20.0] {
                for direction in [Direction::Remove, Direction::Add] {
                    let pair = Pair { probability, noise, direction };
                    for step in -20..=20 {
                        let t = f64::from(step) * noise / 3.0 + 0.25;
                        let loss = pair.loss(t);
                        let back = pair.loss(pair.at_loss(loss));
                        let off = (back - loss).abs() / loss.abs().max(1e-300);
                        assert!(off < 1e-9 || (back - loss).abs() < 1e-15, "{pair:?} {t}: {loss} {back}");
                    }
                }
            }
        }
    }

    #[test]
    fn densities_have_mass_one() {
        let rule = Rule::new(12);
        for probability in [1e-3, 0.3, 1.0] {
            for direction in [Direction::Remove, Direction::Add] {
                let pair = Pair { probability, noise: 0.7, direction };
                let (from, to) = pair.support(1e-20);
                let (mut mass, mut other) = (0.0, 0.0);
                pair.each(&rule, from, to, |t, weight| {
                    let (loss, density) = pair.loss_and_density(t);
                    mass += weight * density;
                    other += weight * density * (-loss).exp();
                });
                assert!((mass - 1.0).abs() < 1e-14, "{mass}");
                assert!((other - 1.0).abs() < 1e-14 || probability == 1.0, "{other}");
                assert!((pair.mass_above(0.2) + pair.mass_below(0.2) - 1.0).abs() < 1e-15);
            }
        }
    }
}
