//! The covariance of the first steps.

use noised::analysis::Rows;
use noised::{Error, MatrixSpec, Plan, Result};

use crate::chance::{chi_square_score, chi_square_tails, normal_two_sided, smallest_of};
use crate::correlations::check_lanes;
use crate::report::{Finding, around};
use crate::whiten::scale;
use crate::{MIN_VALUES, tamed};

/// Steps whose covariance is looked at, at most.
pub const MAX_COVARIANCE_STEPS: usize = 64;

/// Sums side by side, for the processor's vectors.
const WIDTH: usize = 8;

/// The covariance over lanes of the first steps as they were released, `S = (1/N) sum y y^T`, against
/// `Sigma = stddev^2 A A^T`.
///
/// With the inverse of `A`, `W = A^-1 S A^-T / stddev^2` ought to be a Wishart matrix of the identity over
/// `N`. Its diagonal then has the law `chi2_N / N`, and `atanh(W_ij / sqrt(W_ii W_jj)) sqrt(N - 2)` is close
/// to a standard normal (Fisher); in such scores, the largest entry and the sum of all squares are told. A
/// matrix with a zero on its diagonal has no inverse: the entries of `S` are then compared one by one, `Var
/// S_ij = (Sigma_ii Sigma_jj + Sigma_ij^2) / N`, and the largest is told, which says less about a covariance
/// that is wrong all over.
///
/// It keeps the steps, at so many lanes as it is told, which it takes spread over all of them.
#[derive(Debug)]
pub struct Covariance {
    matrix: MatrixSpec,
    /// `None` where there is none.
    inverse: Option<MatrixSpec>,
    horizon: u64,
    scale: f64,
    lanes: usize,
    picked: usize,
    most_steps: usize,
    steps: Vec<Vec<f64>>,
    /// Row by row up to the diagonal, over `stddev^2`.
    products: Vec<Vec<f64>>,
    /// Lanes in the sums: those picked, and of merged ones theirs.
    summed_lanes: u64,
}

impl Covariance {
    /// Before the first step. `most_steps` are looked at, at `most_lanes`: later steps are let pass.
    ///
    /// # Errors
    /// Those of [`MatrixSpec::validate`]; [`Error::Invalid`] where `stddev` is not positive and finite, there
    /// are no lanes to look at, or `most_steps` is over [`MAX_COVARIANCE_STEPS`].
    pub fn new(
        matrix: &MatrixSpec,
        stddev: f64,
        lanes: usize,
        most_steps: usize,
        most_lanes: usize,
    ) -> Result<Self> {
        let scale = scale(stddev)?;
        let horizon = Plan::new(matrix)?.horizon().unwrap_or(u64::MAX);
        let inverse = Some(matrix.clone().inverse()).filter(|inverse| inverse.validate().is_ok());
        if most_steps > MAX_COVARIANCE_STEPS {
            let rule = format!("must be at most {MAX_COVARIANCE_STEPS}, found {most_steps}");
            return Err(Error::invalid("covariance_steps", rule));
        }
        let picked = lanes.min(most_lanes);
        if picked == 0 {
            return Err(Error::invalid("lanes", "there must be some, and some to look at"));
        }
        Ok(Self {
            matrix: matrix.clone(),
            inverse,
            horizon,
            scale,
            lanes,
            picked,
            most_steps,
            steps: Vec::new(),
            products: Vec::new(),
            summed_lanes: picked as u64,
        })
    }

    /// Whether the matrix has an inverse, so that the covariance can be whitened.
    pub fn has_inverse(&self) -> bool {
        self.inverse.is_some()
    }

    /// Takes the next step's released values.
    ///
    /// # Errors
    /// [`Error::Invalid`] where there is not one for each lane, or this has been merged;
    /// [`Error::PastHorizon`] where the matrix has ended.
    pub fn step<T: Copy + Into<f64>>(&mut self, values: &[T]) -> Result<()> {
        check_lanes(values.len(), self.lanes)?;
        if self.summed_lanes != self.picked as u64 {
            return Err(Error::invalid("values", "no steps are taken after a merge"));
        }
        let step = self.products.len();
        if step >= self.most_steps {
            self.steps = Vec::new();
            return Ok(());
        }
        if step as u64 >= self.horizon {
            return Err(Error::PastHorizon { requested: step as u64, horizon: self.horizon });
        }
        let stride = self.lanes / self.picked;
        let pick = |i: usize| tamed(self.scale * values[i * stride + place(i, stride)].into());
        self.steps.push((0..self.picked).map(pick).collect());
        let now = &self.steps[step];
        self.products.push(self.steps.iter().map(|then| dot(now, then)).collect());
        Ok(())
    }

    /// Takes what another one has seen of other lanes of the same steps, or of another stream of the same
    /// kind. That ends it: no steps are taken any more.
    ///
    /// # Errors
    /// [`Error::Invalid`] where it is of another matrix or deviation, or has seen more or fewer steps.
    pub fn merge(&mut self, other: &Self) -> Result<()> {
        if self.matrix != other.matrix || self.scale != other.scale {
            return Err(Error::invalid("other", "is of another matrix or deviation"));
        }
        if self.products.len() != other.products.len() {
            return Err(Error::invalid("other", "has seen another number of steps"));
        }
        let sums = self.products.iter_mut().flatten();
        sums.zip(other.products.iter().flatten()).for_each(|(sum, of_other)| *sum += of_other);
        self.summed_lanes += other.summed_lanes;
        Ok(())
    }

    /// What was found. Nothing where there are less than [`MIN_VALUES`] lanes or no steps; but of a matrix
    /// without an inverse nothing else is known, and too few lanes are a failure.
    ///
    /// # Errors
    /// Those of [`Rows::new`].
    pub fn findings(&self) -> Result<Vec<Finding>> {
        let enough = self.summed_lanes >= MIN_VALUES && !self.products.is_empty();
        match &self.inverse {
            None => {
                let expected = format!("at least {MIN_VALUES}");
                let mut findings =
                    vec![Finding::rule("lanes of the covariance", self.summed_lanes, expected, enough)];
                if enough {
                    findings.push(largest(&self.entry_scores()?));
                }
                Ok(findings)
            }
            Some(_) if !enough => Ok(Vec::new()),
            Some(inverse) => {
                let scores = self.whitened_scores(inverse)?;
                Ok(vec![all(&scores), largest(&scores)])
            }
        }
    }

    /// `S / stddev^2`, for all `i` and `j`.
    fn entry(&self, i: usize, j: usize) -> f64 {
        self.products[i.max(j)][i.min(j)] / self.summed_lanes as f64
    }

    /// The lower triangle of `W` in normal scores.
    fn whitened_scores(&self, inverse: &MatrixSpec) -> Result<Vec<Score>> {
        let steps = self.products.len();
        let rows: Vec<Vec<f64>> = Rows::new(inverse, steps as u64)?.collect();
        // Both factors are triangular: row i has the entries up to the diagonal.
        let half = |i: usize, j: usize| -> f64 {
            rows[i].iter().enumerate().map(|(k, entry)| entry * self.entry(k, j)).sum()
        };
        let half: Vec<Vec<f64>> = (0..steps).map(|i| (0..steps).map(|j| half(i, j)).collect()).collect();
        let whitened = |i: usize, j: usize| -> f64 { rows[j].iter().zip(&half[i]).map(|(a, b)| a * b).sum() };
        let diagonal: Vec<f64> = (0..steps).map(|i| whitened(i, i)).collect();
        let n = self.summed_lanes as f64;
        let score = |(i, j): (usize, usize)| {
            let score = if i == j {
                chi_square_score(n * diagonal[i].max(0.0), n)
            } else {
                let cosine = whitened(i, j) / (diagonal[i] * diagonal[j]).sqrt();
                // Without a length there is no angle. That it has none is told by the diagonal.
                let cosine = if cosine.is_finite() { cosine.clamp(-1.0, 1.0) } else { 0.0 };
                cosine.atanh() * (n - 2.0).sqrt()
            };
            Score { i, j, score }
        };
        Ok(lower_triangle(steps).map(score).collect())
    }

    /// The lower triangle of `S` in normal scores, each entry by itself.
    fn entry_scores(&self) -> Result<Vec<Score>> {
        let steps = self.products.len();
        let rows: Vec<Vec<f64>> = Rows::new(&self.matrix, steps as u64)?.collect();
        let sigma = |i: usize, j: usize| -> f64 { rows[i].iter().zip(&rows[j]).map(|(a, b)| a * b).sum() };
        let n = self.summed_lanes as f64;
        let score = |(i, j): (usize, usize)| {
            let (found, expected) = (self.entry(i, j), sigma(i, j));
            let variance = (sigma(i, i) * sigma(j, j) + expected * expected) / n;
            let score = if found == expected {
                0.0
            } else if i == j && expected > 0.0 {
                chi_square_score(n * found / expected, n)
            } else {
                // Infinite where there ought to be nothing.
                (found - expected) / variance.sqrt()
            };
            Score { i, j, score }
        };
        Ok(lower_triangle(steps).map(score).collect())
    }
}

/// How far an entry is from where it ought to be: a standard normal where the source is sound.
#[derive(Clone, Copy, Debug)]
struct Score {
    i: usize,
    j: usize,
    score: f64,
}

fn lower_triangle(steps: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..steps).flat_map(|i| (0..=i).map(move |j| (i, j)))
}

fn all(scores: &[Score]) -> Finding {
    let sum = scores.iter().map(|entry| entry.score * entry.score).sum();
    let freedom = scores.len() as f64;
    let (_, above) = chi_square_tails(sum, freedom);
    Finding::chance("covariance", sum, around(freedom, (2.0 * freedom).sqrt()), above)
}

fn largest(scores: &[Score]) -> Finding {
    let none = Score { i: 0, j: 0, score: 0.0 };
    let larger = |a: Score, &b: &Score| if b.score.abs() > a.score.abs() { b } else { a };
    let Score { i, j, score } = scores.iter().fold(none, larger);
    let expected = format!("0 ± 1, the largest of {}; of steps {j}, {i}", scores.len());
    let p_value = smallest_of(normal_two_sided(score), scores.len() as f64);
    Finding::chance("covariance entry", score, expected, p_value)
}

/// Where in its stride lane `i` is picked: another place each time, so that no residue is left out.
fn place(i: usize, stride: usize) -> usize {
    (i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32) as usize % stride
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut sums = [0.0; WIDTH];
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<WIDTH>(), b.as_chunks::<WIDTH>());
    for (a, b) in a.iter().zip(b) {
        for i in 0..WIDTH {
            sums[i] += a[i] * b[i];
        }
    }
    let rest: f64 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    sums.iter().sum::<f64>() + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lanes_are_spread_over_all() {
        for (lanes, picked) in [(100, 100), (100, 7), (1 << 20, 1 << 10), (100_003, 1000)] {
            let stride = lanes / picked;
            let places: Vec<usize> = (0..picked).map(|i| i * stride + place(i, stride)).collect();
            assert!(places.is_sorted_by(|a, b| a < b) && places[picked - 1] < lanes);
        }
        let stride = 1024;
        let mut residues: Vec<usize> = (0..1 << 14).map(|i| place(i, stride)).collect();
        residues.sort_unstable();
        residues.dedup();
        assert_eq!(residues.len(), stride);
    }

    #[test]
    fn mistakes_are_refused() {
        let new = |matrix: MatrixSpec, stddev| Covariance::new(&matrix, stddev, 4, 64, 4);
        assert!(Covariance::new(&MatrixSpec::Identity, 1.0, 4, 65, 4).is_err());
        assert!(Covariance::new(&MatrixSpec::Identity, 1.0, 4, 64, 0).is_err());
        assert!(new(MatrixSpec::Identity, 0.0).is_err());
        let mut ends = new(MatrixSpec::Dense { rows: vec![vec![0.0]] }, 1.0).unwrap();
        assert!(ends.step(&[1.0; 3]).is_err());
        ends.step(&[1.0; 4]).unwrap();
        assert!(matches!(ends.step(&[1.0; 4]), Err(Error::PastHorizon { requested: 1, horizon: 1 })));
        let mut fresh = new(MatrixSpec::Dense { rows: vec![vec![0.0]] }, 1.0).unwrap();
        assert!(fresh.merge(&ends).is_err());
        assert!(new(MatrixSpec::Identity, 1.0).unwrap().merge(&ends).is_err());
    }
}
