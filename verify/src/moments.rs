//! Sums of powers, in blocks.

use crate::BEYOND_REASON;
use crate::chance::{chi_square_score, kurtosis_score, normal_two_sided};
use crate::report::{Finding, around};

/// Values that are summed together while they are in cache. Sums of blocks are added to those of everything,
/// so that rounding grows with the number of blocks, and slowly.
pub(crate) const BLOCK: usize = 1024;

/// Sums side by side, for the processor's vectors.
const WIDTH: usize = 4;

/// Sums of the powers of one block, and its extremes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BlockSums {
    pub(crate) powers: [f64; 4],
    /// The largest and the smallest magnitude.
    pub(crate) largest: f64,
    pub(crate) smallest: f64,
}

impl BlockSums {
    pub(crate) fn of(block: &[f64]) -> Self {
        let mut sums = [[0.0_f64; WIDTH]; 4];
        let mut largest = [0.0_f64; WIDTH];
        let mut smallest = [f64::INFINITY; WIDTH];
        let (vectors, rest) = block.as_chunks::<WIDTH>();
        for z in vectors {
            for i in 0..WIDTH {
                let square = z[i] * z[i];
                sums[0][i] += z[i];
                sums[1][i] += square;
                sums[2][i] += square * z[i];
                sums[3][i] += square * square;
                let magnitude = z[i].abs();
                // Comparisons, and not `max`, which does more about NaN than is needed: the sums notice it.
                largest[i] = if magnitude > largest[i] { magnitude } else { largest[i] };
                smallest[i] = if magnitude < smallest[i] { magnitude } else { smallest[i] };
            }
        }
        let mut block = Self {
            powers: sums.map(|lanes| lanes.iter().sum()),
            largest: largest.into_iter().fold(0.0, f64::max),
            smallest: smallest.into_iter().fold(f64::INFINITY, f64::min),
        };
        for &z in rest {
            for (sum, power) in block.powers.iter_mut().zip([z, z * z, z * z * z, z * z * z * z]) {
                *sum += power;
            }
            block.largest = block.largest.max(z.abs());
            block.smallest = block.smallest.min(z.abs());
        }
        block
    }

    /// Whether every value is a number that can be counted.
    pub(crate) fn is_finite(&self) -> bool {
        self.powers[1].is_finite() && self.largest <= BEYOND_REASON
    }
}

/// What mean, variance, skewness and kurtosis of `n` values say, from the sums of their first four powers.
pub(crate) fn findings(powers: [f64; 4], n: f64) -> Vec<Finding> {
    let [m1, m2, m3, m4] = powers.map(|sum| sum / n);
    let variance = m2 - m1 * m1;
    let third = m3 - 3.0 * m1 * m2 + 2.0 * m1.powi(3);
    let fourth = m4 - 4.0 * m1 * m3 + 6.0 * m1 * m1 * m2 - 3.0 * m1.powi(4);
    let skewness = third / variance.powf(1.5);
    let kurtosis = fourth / (variance * variance) - 3.0;
    let chance = |name: &str, statistic, expected: u32, deviation: f64, score| {
        Finding::chance(name, statistic, around(expected, deviation), normal_two_sided(score))
    };
    vec![
        chance("mean", m1, 0, (1.0 / n).sqrt(), m1 * n.sqrt()),
        // About 0, where the mean ought to be: then its law is exact.
        chance("variance", m2, 1, (2.0 / n).sqrt(), chi_square_score(powers[1], n)),
        chance("skewness", skewness, 0, (6.0 / n).sqrt(), skewness * (n / 6.0).sqrt()),
        chance("kurtosis", kurtosis, 0, (24.0 / n).sqrt(), kurtosis_score(kurtosis, n)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_those_of_every_value() {
        for len in [0, 1, 3, 4, 5, 1023, 1024] {
            let block: Vec<f64> = (0..len).map(|i| f64::from(i % 13) - 5.5).collect();
            let sums = BlockSums::of(&block);
            for (power, sum) in (1..).zip(sums.powers) {
                let expected: f64 = block.iter().map(|z| z.powi(power)).sum();
                assert!((sum - expected).abs() <= 1e-12 * expected.abs(), "{len} {power}");
            }
            assert_eq!(sums.largest, block.iter().fold(0.0, |m, z| z.abs().max(m)));
            assert_eq!(sums.smallest, block.iter().fold(f64::INFINITY, |m, z| z.abs().min(m)));
        }
    }

    #[test]
    fn what_cannot_be_summed_is_noticed() {
        for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1e16, -1e200] {
            for place in [0, 3, 7, 8] {
                let mut block = [1.0; 9];
                block[place] = bad;
                assert!(!BlockSums::of(&block).is_finite(), "{bad} {place}");
            }
        }
    }
}
