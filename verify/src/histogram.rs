//! Counts in cells of one width.

use crate::chance::{chi_square_tails, kolmogorov_above, normal_above, poisson_tails, two_sided};
use crate::report::{Finding, around, digits};

/// Cells. A power of two, so that an index is one by a mask.
const CELLS: usize = 4096;

/// Cells in one standard deviation: odd, so that edges are no binary fractions but at whole numbers, and
/// whole, so that the tails beyond 3, 4, 5 and 6 are sums of cells.
const CELLS_A_SIGMA: f64 = 255.0;

/// The cell whose lower edge is 0.
const MIDDLE: usize = CELLS / 2;

/// The least expected count of a cell of the chi-square; smaller ones are put together with their neighbours.
const MIN_EXPECTED: f64 = 10.0;

/// Where tails begin, in standard deviations.
const TAILS: [u8; 4] = [3, 4, 5, 6];

/// How many values fell into each cell. The first and the last have everything beyond.
#[derive(Clone, Debug)]
pub(crate) struct Histogram {
    counts: Box<[u64; CELLS]>,
}

impl Histogram {
    pub(crate) fn new() -> Self {
        Self { counts: Box::new([0; CELLS]) }
    }

    /// Counts finite values.
    pub(crate) fn add(&mut self, values: &[f64]) {
        /// Added to a number below it, it leaves that number rounded in the low bits.
        const ROUND: f64 = (1_u64 << 52) as f64;
        const LAST: f64 = (CELLS - 1) as f64;
        for &z in values {
            // Rounding after taking off a half is rounding down.
            let cell = z * CELLS_A_SIGMA + (MIDDLE as f64 - 0.5);
            let cell = if cell > 0.0 { cell } else { 0.0 };
            let cell = if cell < LAST { cell } else { LAST };
            self.counts[(cell + ROUND).to_bits() as usize % CELLS] += 1;
        }
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        self.counts.iter_mut().zip(other.counts.iter()).for_each(|(sum, count)| *sum += count);
    }

    pub(crate) fn findings(&self) -> Vec<Finding> {
        let n = self.counts.iter().sum::<u64>() as f64;
        let mut findings = vec![self.chi_square(n), self.kolmogorov_smirnov(n)];
        findings.extend(TAILS.map(|sigma| self.tail(sigma, n)));
        findings
    }

    /// Pearson's statistic. A fit that is too good is no chance either, so both tails count.
    fn chi_square(&self, n: f64) -> Finding {
        let mut groups: Vec<(f64, f64)> = Vec::new();
        let mut open = (0.0, 0.0);
        for (cell, &count) in self.counts.iter().enumerate() {
            open = (open.0 + count as f64, open.1 + n * probability(cell));
            if open.1 >= MIN_EXPECTED {
                groups.push(std::mem::take(&mut open));
            }
        }
        // What is left beyond the last group is too little for one of its own.
        if let Some(last) = groups.last_mut() {
            *last = (last.0 + open.0, last.1 + open.1);
        }
        let statistic = groups.iter().map(|(count, expected)| (count - expected).powi(2) / expected).sum();
        let freedom = groups.len().saturating_sub(1).max(1) as f64;
        let (below, above) = chi_square_tails(statistic, freedom);
        let expected = around(freedom, (2.0 * freedom).sqrt());
        Finding::chance("chi-square", statistic, expected, two_sided(below, above))
    }

    /// The largest difference of the distribution functions at the edges of cells. It is at most the distance
    /// of Kolmogorov and Smirnov, so that the p-value is at least that distance's.
    fn kolmogorov_smirnov(&self, n: f64) -> Finding {
        let mut below = 0;
        let mut distance = 0.0_f64;
        for (cell, &count) in self.counts.iter().enumerate().take(CELLS - 1) {
            below += count;
            let expected = normal_above(-edge(cell + 1));
            distance = distance.max((below as f64 / n - expected).abs());
        }
        // The mean of the Kolmogorov law is 0.869 / sqrt(n), its deviation 0.260 / sqrt(n).
        let expected = around(digits(0.869 / n.sqrt()), 0.260 / n.sqrt());
        Finding::chance("Kolmogorov-Smirnov", distance, expected, kolmogorov_above(distance, n))
    }

    fn tail(&self, sigma: u8, n: f64) -> Finding {
        let cells = usize::from(sigma) * CELLS_A_SIGMA as usize;
        let (low, high) = (&self.counts[..MIDDLE - cells], &self.counts[MIDDLE + cells..]);
        let count: u64 = low.iter().chain(high).sum();
        let mean = n * 2.0 * normal_above(sigma.into());
        let (at_most, at_least) = poisson_tails(count, mean);
        let expected = around(digits(mean), mean.sqrt());
        let p_value = two_sided(at_most, at_least);
        Finding::chance(format!("beyond {sigma} sigma"), count as f64, expected, p_value)
    }
}

/// The lower edge of a cell; that of the first one is where the second begins, less a width.
fn edge(cell: usize) -> f64 {
    (cell as f64 - MIDDLE as f64) / CELLS_A_SIGMA
}

/// How probable a cell is. From the side of the tail, so that small ones have digits.
fn probability(cell: usize) -> f64 {
    let mirrored = if cell < MIDDLE { CELLS - 1 - cell } else { cell };
    let beyond = if mirrored == CELLS - 1 { 0.0 } else { normal_above(edge(mirrored + 1)) };
    normal_above(edge(mirrored)) - beyond
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_where_they_are_said_to_be() {
        let mut histogram = Histogram::new();
        let width = 1.0 / CELLS_A_SIGMA;
        for cell in 0..CELLS {
            histogram.add(&[edge(cell) + 0.01 * width, edge(cell) + 0.99 * width]);
        }
        assert!(histogram.counts.iter().all(|&count| count == 2));
        histogram.add(&[-1e15, -9.0, 9.0, 1e15]);
        assert_eq!((histogram.counts[0], histogram.counts[CELLS - 1]), (4, 4));
    }

    #[test]
    fn probabilities_sum_to_one() {
        let sum: f64 = (0..CELLS).map(probability).sum();
        assert!((sum - 1.0).abs() < 1e-14, "{sum}");
        let tail: f64 = (MIDDLE + 6 * 255..CELLS).map(probability).sum();
        assert!((tail / normal_above(6.0) - 1.0).abs() < 1e-12);
        assert_eq!(probability(MIDDLE - 1), probability(MIDDLE));
    }

    #[test]
    fn counts_as_expected_pass_and_too_regular_ones_do_not() {
        let n = 1e9;
        let mut histogram = Histogram::new();
        for cell in 0..CELLS {
            histogram.counts[cell] = (n * probability(cell)).round() as u64;
        }
        let p_values: Vec<(String, f64)> = histogram
            .findings()
            .into_iter()
            .map(|finding| match finding.evidence {
                crate::Evidence::Chance(p) => (finding.name, p),
                crate::Evidence::Rule(_) => panic!("{finding:?}"),
            })
            .collect();
        assert_eq!(p_values.len(), 6);
        for (name, p) in p_values {
            assert_eq!(p < 1e-9, name == "chi-square", "{name}: {p}");
        }
    }
}
