//! Correlations between values some lanes or some steps apart.

use std::collections::VecDeque;

use noised::{Error, Result};

use crate::chance::normal_two_sided;
use crate::report::{Finding, around};
use crate::tamed;

/// Steps that are kept for those to come.
const MAX_STEP_LAG: usize = 64;

/// Lanes that all lags go through while they are in cache.
const TILE: usize = 8192;

/// Products that are summed in f32. That is exact to 1e-6 of the sum's own deviation.
const BLOCK: usize = 1024;

/// Sums side by side, for the processor's vectors.
const WIDTH: usize = 16;

/// A sum of products of pairs.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Lag {
    apart: usize,
    products: f64,
    pairs: u64,
}

impl Lag {
    fn list(field: &str, lags: &[usize], most: usize) -> Result<Vec<Self>> {
        if let Some(lag) = lags.iter().find(|&&lag| lag == 0 || lag > most) {
            return Err(Error::invalid(field, format!("must be at least 1 and at most {most}, found {lag}")));
        }
        Ok(lags.iter().map(|&apart| Self { apart, products: 0.0, pairs: 0 }).collect())
    }
}

/// Correlations of whitened values: within a step between lanes so many apart, within a lane between steps so
/// many apart.
///
/// Keeps as many steps as the longest lag, in f32. A correlation is the mean of the pairs' products over the
/// mean of all squares, so that a wrong scale is no correlation; of `n` pairs of independent values it has
/// the variance `1/n`.
#[derive(Clone, Debug)]
pub struct Correlations {
    lanes: usize,
    lane_lags: Vec<Lag>,
    step_lags: Vec<Lag>,
    /// The latest step last.
    steps: VecDeque<Vec<f32>>,
    kept: usize,
    squares: f64,
    count: u64,
}

impl Correlations {
    /// Before the first step. Lags of as many lanes as there are, or more, have no pairs and are left out of
    /// what is found.
    ///
    /// # Errors
    /// [`Error::Invalid`] where a lag is 0, or one of steps is over 64.
    pub fn new(lanes: usize, lane_lags: &[usize], step_lags: &[usize]) -> Result<Self> {
        let lane_lags = Lag::list("lane_lags", lane_lags, usize::MAX)?;
        let step_lags = Lag::list("step_lags", step_lags, MAX_STEP_LAG)?;
        let kept = 1 + step_lags.iter().map(|lag| lag.apart).max().unwrap_or(0);
        Ok(Self { lanes, lane_lags, step_lags, steps: VecDeque::new(), kept, squares: 0.0, count: 0 })
    }

    /// Takes the next step's whitened values.
    ///
    /// # Errors
    /// [`Error::Invalid`] where there is not one for each lane.
    pub fn step<T: Copy + Into<f64>>(&mut self, values: &[T]) -> Result<()> {
        check_lanes(values.len(), self.lanes)?;
        let reused = if self.steps.len() == self.kept { self.steps.pop_front() } else { None };
        let mut now = reused.unwrap_or_else(|| vec![0.0; self.lanes]);
        now.iter_mut().zip(values).for_each(|(target, &value)| *target = tamed(value.into()) as f32);
        for start in (0..self.lanes).step_by(TILE) {
            let end = self.lanes.min(start + TILE);
            self.squares += dot(&now[start..end], &now[start..end]);
            for Lag { apart, products, pairs } in &mut self.lane_lags {
                let end = end.min(self.lanes.saturating_sub(*apart));
                if start < end {
                    *products += dot(&now[start..end], &now[start + *apart..end + *apart]);
                    *pairs += (end - start) as u64;
                }
            }
            for Lag { apart, products, pairs } in &mut self.step_lags {
                if let Some(then) = self.steps.len().checked_sub(*apart).and_then(|i| self.steps.get(i)) {
                    *products += dot(&now[start..end], &then[start..end]);
                    *pairs += (end - start) as u64;
                }
            }
        }
        self.count += self.lanes as u64;
        self.steps.push_back(now);
        Ok(())
    }

    /// Takes what another one has seen, of other lanes or of another stream. Pairs between the two are not
    /// made.
    ///
    /// # Errors
    /// [`Error::Invalid`] where its lags are others.
    pub fn merge(&mut self, other: &Self) -> Result<()> {
        let apart = |lags: &[Lag]| -> Vec<usize> { lags.iter().map(|lag| lag.apart).collect() };
        if apart(&self.lane_lags) != apart(&other.lane_lags)
            || apart(&self.step_lags) != apart(&other.step_lags)
        {
            return Err(Error::invalid("other", "has other lags"));
        }
        let lags = self.lane_lags.iter_mut().chain(&mut self.step_lags);
        for (lag, of_other) in lags.zip(other.lane_lags.iter().chain(&other.step_lags)) {
            lag.products += of_other.products;
            lag.pairs += of_other.pairs;
        }
        self.squares += other.squares;
        self.count += other.count;
        Ok(())
    }

    /// What was found: a correlation for each lag that has pairs.
    pub fn findings(&self) -> Vec<Finding> {
        let variance = self.squares / self.count as f64;
        let of = |what: &str, lags: &[Lag]| -> Vec<Finding> {
            let with_pairs = lags.iter().filter(|lag| lag.pairs > 0);
            let finding = |lag: &Lag| {
                let mean = lag.products / lag.pairs as f64;
                correlation(format!("{what} {} apart", lag.apart), mean / variance, lag.pairs)
            };
            with_pairs.map(finding).collect()
        };
        let mut findings = of("lanes", &self.lane_lags);
        findings.extend(of("steps", &self.step_lags));
        findings
    }
}

/// A correlation of so many pairs. Where every value is 0 it is not a number, and fails.
pub(crate) fn correlation(name: impl Into<String>, statistic: f64, pairs: u64) -> Finding {
    let root = (pairs as f64).sqrt();
    Finding::chance(name, statistic, around(0, 1.0 / root), normal_two_sided(statistic * root))
}

pub(crate) fn check_lanes(found: usize, lanes: usize) -> Result<()> {
    if found != lanes {
        return Err(Error::invalid("values", format!("must have {lanes} lanes, found {found}")));
    }
    Ok(())
}

/// The sum of products: in f32 for a block, in f64 over blocks.
fn dot(a: &[f32], b: &[f32]) -> f64 {
    let of_block = |(a, b): (&[f32], &[f32])| -> f64 {
        let mut sums = [0.0_f32; WIDTH];
        let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<WIDTH>(), b.as_chunks::<WIDTH>());
        for (a, b) in a.iter().zip(b) {
            for i in 0..WIDTH {
                sums[i] += a[i] * b[i];
            }
        }
        let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
        sums.into_iter().chain([rest]).map(f64::from).sum()
    };
    a.chunks(BLOCK).zip(b.chunks(BLOCK)).map(of_block).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn statistics(found: &Correlations) -> Vec<(String, f64)> {
        found.findings().into_iter().map(|finding| (finding.name, finding.statistic)).collect()
    }

    #[test]
    fn pairs_are_those_of_the_definition() {
        // Small whole numbers, so that sums are exact.
        let lanes = 20_011;
        let steps: Vec<Vec<f64>> = (0..5_usize)
            .map(|t| (0..lanes).map(|i| ((i * 31 + t * 17 + i * i % 11) % 7) as f64 - 3.0).collect())
            .collect();
        let mut found = Correlations::new(lanes, &[1, 1024, 30_000], &[1, 3, 8]).unwrap();
        for step in &steps {
            found.step(step).unwrap();
        }
        let variance = steps.iter().flatten().map(|z| z * z).sum::<f64>() / (5 * lanes) as f64;
        let lane = |lag: usize| {
            let products = steps.iter().flat_map(|z| z.iter().zip(&z[lag..]).map(|(a, b)| a * b));
            products.sum::<f64>() / (5 * (lanes - lag)) as f64 / variance
        };
        let step = |lag: usize| {
            let pairs = steps.iter().zip(&steps[lag..]).flat_map(|(a, b)| a.iter().zip(b));
            pairs.map(|(a, b)| a * b).sum::<f64>() / ((5 - lag) * lanes) as f64 / variance
        };
        let expected = [("lanes 1 apart", lane(1)), ("lanes 1024 apart", lane(1024))];
        let expected = expected.into_iter().chain([("steps 1 apart", step(1)), ("steps 3 apart", step(3))]);
        let found = statistics(&found);
        assert_eq!(found.len(), 4);
        for ((name, found), (expected_name, expected)) in found.into_iter().zip(expected) {
            assert_eq!(name, expected_name);
            assert!((found - expected).abs() < 1e-12, "{name}: {found} {expected}");
        }
    }

    #[test]
    fn parts_are_merged_and_mistakes_refused() {
        let values: Vec<f32> = (0..100_u8).map(|i| f32::from(i % 5) - 2.0).collect();
        let new = || Correlations::new(100, &[1], &[2]).unwrap();
        let (mut a, mut b) = (new(), new());
        for _ in 0..4 {
            a.step(&values).unwrap();
            b.step(&values).unwrap();
        }
        let alone = statistics(&a);
        a.merge(&b).unwrap();
        assert_eq!(statistics(&a), alone);
        assert_eq!(a.step_lags[0].pairs, 2 * 2 * 100);
        assert!(a.merge(&Correlations::new(100, &[2], &[2]).unwrap()).is_err());
        assert!(a.step(&values[1..]).is_err());
        assert!(Correlations::new(100, &[0], &[]).is_err());
        assert!(Correlations::new(100, &[], &[65]).is_err());
    }
}
