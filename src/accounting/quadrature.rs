//! Gauss-Legendre rules.

use std::f64::consts::PI;

/// A rule of `n` points on `[-1, 1]`.
#[derive(Clone, Debug)]
pub(super) struct Rule {
    points: Vec<(f64, f64)>,
}

impl Rule {
    pub(super) fn new(n: u32) -> Self {
        let points = (0..n).map(|i| {
            let mut x = (PI * (f64::from(i) + 0.75) / (f64::from(n) + 0.5)).cos();
            let mut slope = 1.0;
            // Newton's method squares its error; eight rounds are more than f64 has digits for.
            for _ in 0..8 {
                let (value, derivative) = legendre(n, x);
                slope = derivative;
                x -= value / derivative;
            }
            (x, 2.0 / ((1.0 - x * x) * slope * slope))
        });
        Self { points: points.collect() }
    }

    /// Calls `add(x, weight)` for every point of the rule on `[from, to]`.
    pub(super) fn each(&self, from: f64, to: f64, mut add: impl FnMut(f64, f64)) {
        let (half, middle) = ((to - from) / 2.0, from + (to - from) / 2.0);
        for &(x, weight) in &self.points {
            add(half.mul_add(x, middle), half * weight);
        }
    }
}

/// The Legendre polynomial of degree `n` at `x`, and its derivative.
fn legendre(n: u32, x: f64) -> (f64, f64) {
    let (mut before, mut value) = (1.0, x);
    for k in 2..=n {
        let k = f64::from(k);
        (before, value) = (value, ((2.0 * k - 1.0) * x * value - (k - 1.0) * before) / k);
    }
    (value, f64::from(n) * (x * value - before) / (x * x - 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_integrate_polynomials() {
        for n in [4_u32, 5, 12] {
            let rule = Rule::new(n);
            for degree in 0..2 * n {
                let mut found = 0.0;
                rule.each(1.0, 3.0, |x, weight| found += weight * x.powi(degree as i32));
                let power = f64::from(degree + 1);
                let expected = (3_f64.powf(power) - 1.0) / power;
                assert!((found / expected - 1.0).abs() < 1e-13, "{n} {degree}: {found} {expected}");
            }
        }
    }
}
