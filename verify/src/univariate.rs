//! Values that should be standard normals, one by one.

use crate::BEYOND_REASON;
use crate::chance::{normal_two_sided, poisson_tails, two_sided};
use crate::histogram::Histogram;
use crate::moments::{self, BLOCK, BlockSums};
use crate::report::{Finding, digits};

/// Values that are needed to tell anything.
pub const MIN_VALUES: u64 = 1_000;

/// What values that should be standard normals, independent of one another, look like, whatever their order.
///
/// Moments, cells, tails and atoms; see [the checks](crate#the-checks). Takes 32 KiB, however many values
/// there are.
#[derive(Clone, Debug)]
pub struct Univariate {
    count: u64,
    powers: [f64; 4],
    histogram: Histogram,
    largest: f64,
    zeros: u64,
    not_finite: u64,
}

impl Default for Univariate {
    fn default() -> Self {
        Self::new()
    }
}

impl Univariate {
    /// Before any value.
    pub fn new() -> Self {
        Self {
            count: 0,
            powers: [0.0; 4],
            histogram: Histogram::new(),
            largest: 0.0,
            zeros: 0,
            not_finite: 0,
        }
    }

    /// Takes values, f32 or f64. What is not finite is counted and left out of everything else.
    pub fn add<T: Copy + Into<f64>>(&mut self, values: &[T]) {
        let mut buffer = [0.0; BLOCK];
        for chunk in values.chunks(BLOCK) {
            let block = &mut buffer[..chunk.len()];
            block.iter_mut().zip(chunk).for_each(|(target, &value)| *target = value.into());
            self.add_block(block);
        }
    }

    fn add_block(&mut self, block: &[f64]) {
        let sums = BlockSums::of(block);
        if sums.is_finite() {
            return self.add_finite(block, sums);
        }
        let finite: Vec<f64> = block.iter().copied().filter(|z| z.abs() <= BEYOND_REASON).collect();
        self.not_finite += (block.len() - finite.len()) as u64;
        self.add_finite(&finite, BlockSums::of(&finite));
    }

    fn add_finite(&mut self, block: &[f64], sums: BlockSums) {
        let BlockSums { powers, largest, smallest } = sums;
        self.count += block.len() as u64;
        self.powers.iter_mut().zip(powers).for_each(|(sum, of_block)| *sum += of_block);
        self.largest = self.largest.max(largest);
        if smallest == 0.0 {
            self.zeros += block.iter().filter(|&&z| z == 0.0).count() as u64;
        }
        self.histogram.add(block);
    }

    /// Takes what another one has seen, of other values.
    pub fn merge(&mut self, other: &Self) {
        let Self { count, powers, histogram, largest, zeros, not_finite } = other;
        self.count += count;
        self.powers.iter_mut().zip(powers).for_each(|(sum, of_other)| *sum += of_other);
        self.histogram.merge(histogram);
        self.largest = self.largest.max(*largest);
        self.zeros += zeros;
        self.not_finite += not_finite;
    }

    /// How many finite values there were.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// What was found. `zero_probability` is how often a sound source may at most give exactly 0; `None`
    /// leaves zeros out, for values that were computed from rounded ones.
    pub fn findings(&self, zero_probability: Option<f64>) -> Vec<Finding> {
        let n = self.count as f64;
        let enough = self.count >= MIN_VALUES;
        let mut findings = vec![
            Finding::rule("values", self.count, format!("at least {MIN_VALUES}"), enough),
            Finding::rule("not finite", self.not_finite, "none", self.not_finite == 0),
        ];
        if enough {
            findings.extend(moments::findings(self.powers, n));
            findings.extend(self.histogram.findings());
            findings.push(self.largest_finding());
            findings.extend(zero_probability.map(|p| zeros_finding("zeros", self.zeros, n, p)));
        }
        findings
    }

    fn largest_finding(&self) -> Finding {
        let n = self.count as f64;
        // The logarithm of the probability that none of n is larger.
        let none_larger = n * (-normal_two_sided(self.largest)).ln_1p();
        let p_value = two_sided(none_larger.exp(), -none_larger.exp_m1());
        // Extreme values of the normal law: where one of n is expected beyond, and a scale of 1/that.
        let typical = (2.0 * n.ln()).sqrt();
        let typical = typical - (n.ln().ln() + std::f64::consts::PI.ln()) / (2.0 * typical);
        let expected = format!("about {typical:.1}");
        Finding::chance("largest", self.largest, expected, p_value)
    }
}

/// Whether there are more zeros among `n` values than a source gives that gives one with `probability`.
pub(crate) fn zeros_finding(name: &str, zeros: u64, n: f64, probability: f64) -> Finding {
    let mean = n * probability;
    let (_, at_least) = poisson_tails(zeros, mean);
    Finding::chance(name, zeros as f64, format!("at most {} on average", digits(mean)), at_least)
}

/// Zeros, and values that are not finite, among values as they were released.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Atoms {
    pub(crate) count: u64,
    pub(crate) zeros: u64,
    pub(crate) not_finite: u64,
}

impl Atoms {
    /// Takes values and the factor that brings them to the scale of a standard normal.
    pub(crate) fn add<T: Copy + Into<f64>>(&mut self, values: &[T], scale: f64) {
        self.count += values.len() as u64;
        for chunk in values.chunks(BLOCK) {
            let (mut zeros, mut kept) = (0_u64, 0_u64);
            for &value in chunk {
                let value = scale * value.into();
                zeros += u64::from(value == 0.0);
                kept += u64::from(value.abs() <= BEYOND_REASON);
            }
            self.zeros += zeros;
            self.not_finite += chunk.len() as u64 - kept;
        }
    }

    pub(crate) fn merge(&mut self, other: Self) {
        let Self { count, zeros, not_finite } = other;
        self.count += count;
        self.zeros += zeros;
        self.not_finite += not_finite;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tamed;

    #[test]
    fn parts_together_are_the_whole() {
        let values: Vec<f32> =
            (0..10_000).map(|i| ((i * 7919 % 10_007) as f32 / 5_003.0 - 1.0) * 3.0).collect();
        let mut whole = Univariate::new();
        whole.add(&values);
        let mut parts = Univariate::default();
        for part in values.chunks(3_333) {
            let mut one = Univariate::new();
            one.add(part);
            parts.merge(&one);
        }
        assert_eq!((whole.count(), parts.count()), (10_000, 10_000));
        for (a, b) in whole.findings(Some(0.0)).iter().zip(parts.findings(Some(0.0))) {
            assert_eq!(a.name, b.name);
            assert!((a.statistic - b.statistic).abs() <= 1e-9 * a.statistic.abs().max(1e-3), "{a:?} {b:?}");
        }
    }

    #[test]
    fn what_is_not_finite_is_left_out() {
        let mut found = Univariate::new();
        found.add(&[1.0, f64::NAN, 0.0, f64::INFINITY, -2.0, -1e300, -0.0]);
        assert_eq!((found.count, found.not_finite, found.zeros), (4, 3, 2));
        assert_eq!((found.powers[1], found.largest), (5.0, 2.0));
        let mut atoms = Atoms::default();
        atoms.add(&[1.0_f32, f32::NAN, 0.0, f32::INFINITY], 0.5);
        assert_eq!((atoms.count, atoms.zeros, atoms.not_finite), (4, 1, 2));
        assert_eq!([tamed(f64::NAN), tamed(1e16), tamed(-3.0)], [0.0, 0.0, -3.0]);
    }
}
