//! The two factors of the loss of a banded `T`, with their gradients by its coefficients.
//!
//! Of `x = T^-1 r` the weighted squares and their gradient cost one forward and one backward substitution.
//! Such an `x` settles: on `1 / sum(c)`, or on zero. From there on it is not computed, so that the cost does
//! not depend on `n` once `n` is long against the time that takes.

use super::{Setting, Side};
use crate::design::Objective;
use crate::limits::MAX_OPTIMIZED_TERMS;

/// Where gradients go, which are zeros before: of the error, and of the squared sensitivity.
pub(super) type Gradients<'a> = [&'a mut [f64]; 2];

impl Setting<'_> {
    /// The squared sensitivity for participations at steps `0, b, 2b, ...`, and the error.
    pub(super) fn assumed_parts(
        &self,
        coef: &[f64],
        [by_error, by_moved]: Gradients<'_>,
    ) -> Option<(f64, f64)> {
        let error = self.error(coef, by_error)?;
        let moved = match self.side {
            Side::Strategy => self.moved(coef, by_moved),
            Side::NoisingMatrix => self.solved_moved(coef, by_moved)?,
        };
        Some((moved, error))
    }

    pub(super) fn error(&self, coef: &[f64], gradient: &mut [f64]) -> Option<f64> {
        match self.side {
            Side::Strategy => self.solved_error(coef, gradient),
            Side::NoisingMatrix => Some(self.multiplied_error(coef, gradient)),
        }
    }

    /// The strategy's first column as far as it is not zero, with what takes a gradient by its entries to one
    /// by the coefficients.
    pub(super) fn column(&self, coef: &[f64]) -> Option<Column> {
        Some(match self.side {
            Side::Strategy => Column { entries: coef[..coef.len().min(self.n)].to_vec(), solution: None },
            Side::NoisingMatrix => {
                let impulse = |t| f64::from(u8::from(t == 0));
                let solution = Solution::new(coef, self.n, Some(0), impulse)?;
                Column { entries: solution.x.clone(), solution: Some(solution) }
            }
        })
    }

    /// The weight of step `t` in the error.
    pub(super) fn weight(&self, t: usize) -> f64 {
        match self.objective {
            Objective::Max => 1.0,
            Objective::Mean => (self.n - t) as f64 / self.n as f64,
        }
    }

    /// The weights of all steps from `t` on, together.
    fn weights_from(&self, t: usize) -> f64 {
        let left = (self.n - t) as f64;
        match self.objective {
            Objective::Max => left,
            Objective::Mean => left * (left + 1.0) / (2.0 * self.n as f64),
        }
    }

    /// The error of a strategy: `x = C^-1 a` for the workload's first column `a`.
    pub(super) fn solved_error(&self, coef: &[f64], gradient: &mut [f64]) -> Option<f64> {
        let weight = |t| self.weight(t);
        let Some(workload) = &self.workload else {
            let sum: f64 = coef.iter().sum();
            if sum <= 0.0 {
                return None;
            }
            let limit = 1.0 / sum;
            let solution = Solution::prefix_sums(coef, self.n, limit)?;
            let tail = self.weights_from(solution.x.len());
            gradient.iter_mut().for_each(|g| *g -= 2.0 * tail * limit.powi(3));
            return Some(solution.squares(coef, weight, gradient) + tail * limit * limit);
        };
        let solution = Solution::new(coef, self.n, None, |t| workload[t])?;
        Some(solution.squares(coef, weight, gradient))
    }

    /// The error of a noising matrix: `x = A c`, the running sums of the coefficients for prefix sums.
    pub(super) fn multiplied_error(&self, coef: &[f64], gradient: &mut [f64]) -> f64 {
        let Some(workload) = &self.workload else {
            let sums = coef.iter().scan(0.0, |sum, c| {
                *sum += c;
                Some(*sum)
            });
            let sums: Vec<f64> = sums.collect();
            let mut later = 0.0;
            let mut total = 0.0;
            for (t, &sum) in sums.iter().enumerate().rev() {
                let weight = if t + 1 == sums.len() { self.weights_from(t) } else { self.weight(t) };
                total += weight * sum * sum;
                later += 2.0 * weight * sum;
                gradient[t] += later;
            }
            return total;
        };
        let mut total = 0.0;
        for t in 0..self.n {
            let reach = coef.len().min(t + 1);
            let column = &workload[t + 1 - reach..=t];
            let x: f64 = coef[..reach].iter().zip(column.iter().rev()).map(|(c, a)| c * a).sum();
            let weight = self.weight(t);
            total += weight * x * x;
            gradient.iter_mut().zip(column.iter().rev()).for_each(|(g, a)| *g += 2.0 * weight * x * a);
        }
        total
    }

    /// The squared norm of a strategy's columns at `0, b, 2b, ...`, summed.
    pub(super) fn moved(&self, coef: &[f64], gradient: &mut [f64]) -> f64 {
        let (b, k) = (self.separation, self.participations);
        if coef.len() <= b {
            // Columns do not overlap, and the first k - 1 are whole.
            let last = coef.len().min(self.n - (k - 1) * b);
            let times = |i: usize| if i < last { k as f64 } else { (k - 1) as f64 };
            gradient.iter_mut().zip(coef).enumerate().for_each(|(i, (g, c))| *g += 2.0 * times(i) * c);
            return coef.iter().enumerate().map(|(i, c)| times(i) * c * c).sum();
        }
        let mut total = 0.0;
        for t in 0..self.n.min((k - 1) * b + coef.len()) {
            // Participation j at step j b reaches t with the coefficient t - j b.
            let newest = (t / b).min(k - 1);
            let reached = (0..=newest).rev().map(|j| t - j * b).take_while(|&i| i < coef.len());
            let sum: f64 = reached.clone().map(|i| coef[i]).sum();
            total += sum * sum;
            reached.for_each(|i| gradient[i] += 2.0 * sum);
        }
        total
    }

    /// The same where the coefficients are those of the inverse.
    pub(super) fn solved_moved(&self, coef: &[f64], gradient: &mut [f64]) -> Option<f64> {
        let (b, k) = (self.separation, self.participations);
        let last = (k - 1) * b;
        let participates = |t: usize| f64::from(u8::from(t.is_multiple_of(b) && t / b < k));
        let solution = Solution::new(coef, self.n, Some(last), participates)?;
        Some(solution.squares(coef, |_| 1.0, gradient))
    }
}

/// The first column of a strategy.
pub(super) struct Column {
    pub(super) entries: Vec<f64>,
    /// Of a noising matrix that is banded.
    solution: Option<Solution>,
}

impl Column {
    /// Adds the gradient by the coefficients, given that by the entries.
    pub(super) fn pull_back(&self, coef: &[f64], by_entries: &[f64], gradient: &mut [f64]) {
        match &self.solution {
            None => gradient.iter_mut().zip(by_entries).for_each(|(g, entry)| *g += entry),
            Some(solution) => solution.pull_back(coef, |t| by_entries[t], gradient),
        }
    }
}

/// `x = T^-1 r`, until it has settled.
pub(super) struct Solution {
    pub(super) x: Vec<f64>,
}

impl Solution {
    /// Solves for `r` = 1, 1, ... for up to `n` steps, or until `x` has settled on its `limit`, `1 / sum(c)`.
    ///
    /// What is solved for is how far `x` is from the limit: `T (x - limit)` is the limit times the sum of the
    /// coefficients after the `t`-th. That falls to zero with all its digits, while `x` itself comes to rest
    /// only to within its rounding.
    pub(super) fn prefix_sums(coef: &[f64], n: usize, limit: f64) -> Option<Self> {
        let mut left: Vec<f64> = coef[1..]
            .iter()
            .rev()
            .scan(0.0, |sum, c| {
                *sum += c;
                Some(*sum * limit)
            })
            .collect();
        left.reverse();
        let mut solution = Self::new(coef, n, Some(0), |t| left.get(t).copied().unwrap_or(0.0))?;
        solution.x.iter_mut().for_each(|x| *x += limit);
        Some(solution)
    }

    /// Solves for up to `n` steps, or until `x` has been zero for as many steps as there are bands, later
    /// than step `settles`, where `r` is zero from there on. `None` where it runs away.
    pub(super) fn new(
        coef: &[f64],
        n: usize,
        settles: Option<usize>,
        r: impl Fn(usize) -> f64,
    ) -> Option<Self> {
        let bands = coef.len();
        let reversed: Vec<f64> = coef[1..].iter().rev().copied().collect();
        let mut x: Vec<f64> = Vec::with_capacity(n.min(4096));
        let mut settled = 0;
        let mut largest = 0.0_f64;
        for t in 0..n {
            let reach = (bands - 1).min(t);
            let earlier = dot(&reversed[bands - 1 - reach..], &x[t - reach..]);
            let value = (r(t) - earlier) / coef[0];
            // A strategy worth looking at has an inverse whose sums are of the size of one.
            if value.abs() > 1e8 || x.len().saturating_mul(bands) > MAX_OPTIMIZED_TERMS {
                return None;
            }
            x.push(value);
            largest = largest.max(value.abs());
            let near = value.abs() <= 1e-17 * largest;
            settled = if near && settles.is_some_and(|earliest| t >= earliest) { settled + 1 } else { 0 };
            if settled >= bands {
                break;
            }
        }
        Some(Self { x })
    }

    /// `sum_t weight_t x_t^2`, and its gradient by the matrix.
    fn squares(&self, coef: &[f64], weight: impl Fn(usize) -> f64, gradient: &mut [f64]) -> f64 {
        let mut total = 0.0;
        let by_solution = |t: usize| {
            let weighted = weight(t) * self.x[t];
            total += weighted * self.x[t];
            2.0 * weighted
        };
        self.pull_back(coef, by_solution, gradient);
        total
    }

    /// Takes the gradient by the solution to that by the matrix: subtracts the sums over `t` of `lambda_t
    /// x_(t-i)`, where `T^T lambda` is the gradient by the solution.
    fn pull_back(&self, coef: &[f64], mut by_solution: impl FnMut(usize) -> f64, gradient: &mut [f64]) {
        let (x, bands) = (&self.x, coef.len());
        let mut lambda = vec![0.0; x.len()];
        let mut reversed = vec![0.0; bands];
        for t in (0..x.len()).rev() {
            let reach = (bands - 1).min(x.len() - 1 - t);
            let later = dot(&coef[1..=reach], &lambda[t + 1..]);
            lambda[t] = (by_solution(t) - later) / coef[0];
            let reach = bands.min(t + 1);
            let places = reversed[bands - reach..].iter_mut().zip(&x[t + 1 - reach..=t]);
            places.for_each(|(g, x)| *g += lambda[t] * x);
        }
        gradient.iter_mut().zip(reversed.iter().rev()).for_each(|(g, sum)| *g -= sum);
    }
}

/// The product of the first entries that both have, in eight sums, so that it is one of vectors.
fn dot(a: &[f64], b: &[f64]) -> f64 {
    const LANES: usize = 8;
    let len = a.len().min(b.len());
    let (a, b) = (a[..len].as_chunks::<LANES>(), b[..len].as_chunks::<LANES>());
    let mut sums = [0.0; LANES];
    for (a, b) in a.0.iter().zip(b.0) {
        sums.iter_mut().zip(a.iter().zip(b)).for_each(|(sum, (a, b))| *sum += a * b);
    }
    let rest: f64 = a.1.iter().zip(b.1).map(|(a, b)| a * b).sum();
    sums.iter().sum::<f64>() + rest
}
