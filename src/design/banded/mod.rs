//! The best banded Toeplitz matrix, as strategy or as noising matrix.
//!
//! Both are a banded `T` with coefficients `c`, of which `x = T^-1 r` is taken: of a strategy the prefix sums of its
//! inverse (`r` = 1, 1, ...), of a noising matrix the sum of the columns of its inverse in which a user takes part
//! (`r` = 1 at steps `0, b, 2b, ...`; arXiv 2405.13763, Theorem 2). The weighted squares of `x` and their gradient cost
//! one forward and one backward substitution.
//!
//! Such an `x` settles: on `1 / sum(c)`, or on zero. From there on it is not computed, so that the cost does not depend on
//! `n` once `n` is long against the time that takes.

use super::minimize::{MinimizeOptions, Minimum, minimize};
use super::problem::ToeplitzProblem;
use super::watch::Watch;
use super::{Design, Objective, Problem, Progress};
use crate::error::{Error, Result};
use crate::limits::{MAX_BANDS, MAX_OPTIMIZED_TERMS};
use crate::matrix::{MatrixSpec, strategy};

/// The best Toeplitz strategy with `bands` bands (arXiv 2405.15913), from the banded square root (arXiv 2405.13763).
///
/// # Errors
/// [`Error::Invalid`] on `bands` where it is 0, over `n` or over [`MAX_BANDS`], on a workload that is not Toeplitz;
/// [`Error::Cancelled`].
pub(super) fn optimize_banded_toeplitz(problem: &Problem, bands: usize, watch: &Watch<'_>) -> Result<Design> {
    let setting = Setting::new(problem, bands)?;
    let column = setting.workload.as_ref().map(|column| &column[..bands.min(column.len())]);
    let start = strategy::banded_square_root(bands, column)?;
    let parts = |coef: &[f64], [by_error, by_moved]: Gradients<'_>| {
        let error = setting.solved_error(coef, by_error)?;
        Some((setting.moved(coef, by_moved), error))
    };
    let column = |coef: &[f64]| Some(coef.to_vec());
    let design = |coef| {
        let strategy = toeplitz(coef);
        Design::of(strategy.clone(), strategy.inverse(), problem, &|| watch.cancelled())
    };
    let smaller = |bands| Ok(coefficients(optimize_banded_toeplitz(problem, bands, watch)?.strategy));
    let search = Search {
        family: "banded_toeplitz",
        parts: &parts,
        column: &column,
        design: &design,
        smaller: &smaller,
    };
    setting.best(&coefficients(start), &search, watch)
}

/// The best strategy whose noising matrix is Toeplitz with `bands` bands, from the banded inverse square root (arXiv
/// 2505.12128).
///
/// # Errors
/// As those of [`optimize_banded_toeplitz`].
pub(super) fn optimize_banded_inverse_toeplitz(
    problem: &Problem,
    bands: usize,
    watch: &Watch<'_>,
) -> Result<Design> {
    let setting = Setting::new(problem, bands)?;
    let column = setting.workload.as_ref().map(|column| &column[..bands.min(column.len())]);
    let start = match strategy::banded_inverse_square_root(bands, column)? {
        MatrixSpec::Inverse { matrix } => *matrix,
        other => other,
    };
    let parts = |coef: &[f64], [by_error, by_moved]: Gradients<'_>| {
        let moved = setting.solved_moved(coef, by_moved)?;
        Some((moved, setting.multiplied_error(coef, by_error)))
    };
    let impulse = |t| f64::from(u8::from(t == 0));
    let column = |coef: &[f64]| Some(Solution::new(coef, setting.n, Some(0), impulse)?.x);
    let design = |coef| {
        let noising_matrix = toeplitz(coef);
        Design::of(noising_matrix.clone().inverse(), noising_matrix, problem, &|| watch.cancelled())
    };
    let smaller =
        |bands| Ok(coefficients(optimize_banded_inverse_toeplitz(problem, bands, watch)?.noising_matrix));
    let family = "banded_inverse_toeplitz";
    let search = Search { family, parts: &parts, column: &column, design: &design, smaller: &smaller };
    setting.best(&coefficients(start), &search, watch)
}

fn toeplitz(coef: Vec<f64>) -> MatrixSpec {
    MatrixSpec::Toeplitz { coef, column_normalize_for_n: None }
}

fn coefficients(spec: MatrixSpec) -> Vec<f64> {
    match spec {
        MatrixSpec::Toeplitz { coef, .. } => coef,
        _ => vec![1.0],
    }
}

struct Setting {
    n: usize,
    objective: Objective,
    /// Steps from one participation to the next, and participations.
    separation: usize,
    participations: usize,
    /// The first column of the workload, where it is not the prefix sum.
    workload: Option<Vec<f64>>,
}

/// Where gradients go, which are zeros before: of the error, and of the squared sensitivity.
type Gradients<'a> = [&'a mut [f64]; 2];

/// The squared sensitivity and the error of coefficients.
type Parts<'a> = dyn Fn(&[f64], Gradients<'_>) -> Option<(f64, f64)> + 'a;

/// The best coefficients of so many bands.
type Smaller<'a> = dyn Fn(usize) -> Result<Vec<f64>> + 'a;

/// A family, as the search sees it.
struct Search<'a> {
    family: &'static str,
    parts: &'a Parts<'a>,
    /// The strategy's first column, as far as it is not zero.
    column: &'a dyn Fn(&[f64]) -> Option<Vec<f64>>,
    design: &'a dyn Fn(Vec<f64>) -> Result<Design>,
    /// The best coefficients of fewer bands.
    smaller: &'a Smaller<'a>,
}

impl Setting {
    fn new(problem: &Problem, bands: usize) -> Result<Self> {
        let ToeplitzProblem { n, objective, separation, participations, workload } =
            ToeplitzProblem::new(problem)?;
        let most = n.min(MAX_BANDS as u64);
        if bands == 0 || bands as u64 > most {
            let rule = format!("must be at least 1 and at most {most}, found {bands}");
            return Err(Error::invalid("bands", rule));
        }
        let (n, separation) = (n as usize, separation as usize);
        // Of every step the coefficients that reach it: those of overlapping participations, or of the workload.
        let overlapping = if participations > 1 { n * bands.div_ceil(separation) } else { 0 };
        let by_workload = if workload.is_some() { n * bands } else { 0 };
        if overlapping.max(by_workload) > MAX_OPTIMIZED_TERMS {
            let rule =
                format!("too many for n = {n}: an evaluation takes at most {MAX_OPTIMIZED_TERMS} products");
            return Err(Error::invalid("bands", rule));
        }
        Ok(Self { n, objective, separation, participations: participations as usize, workload })
    }

    /// The best design that is found from `start`.
    ///
    /// What is optimised is the loss of participations exactly `b` apart from step 0, which is that of the mechanism where
    /// the strategy's first column does not rise. The optimum of all coefficients mostly is so; where it is not, what its
    /// sensitivity can be proved to be is worse. Then the search is made again among columns that do not rise, from the
    /// best of about half as many bands, so that it never ends with less than that.
    fn best(&self, start: &[f64], search: &Search<'_>, watch: &Watch<'_>) -> Result<Design> {
        let found = self.minimize(search.family, start, watch, search.parts)?;
        let assumed = found.value.exp();
        let free = (search.design)(found.point)?;
        if start.len() < 2 || free.loss <= assumed * (1.0 + 1e-9) {
            return Ok(free);
        }
        let falling = |coef: &[f64], gradients: Gradients<'_>| {
            let column = (search.column)(coef)?;
            let falls = column.windows(2).all(|pair| pair[1] <= pair[0]) && column.iter().all(|&c| c >= 0.0);
            falls.then(|| (search.parts)(coef, gradients))?
        };
        let mut smaller = (search.smaller)(start.len().div_ceil(2))?;
        smaller.resize(start.len(), 0.0);
        let padded = (search.design)(smaller.clone())?;
        let mut best = if padded.loss < free.loss { padded } else { free };
        for start in [start, &smaller] {
            match self.minimize(search.family, start, watch, &falling) {
                Ok(found) => {
                    let design = (search.design)(found.point)?;
                    if design.loss < best.loss {
                        best = design;
                    }
                }
                // A start that rises is none.
                Err(Error::Invalid { .. }) => {}
                Err(other) => return Err(other),
            }
        }
        Ok(best)
    }

    /// Minimises the logarithm of a loss over the coefficients after the first, which is 1.
    fn minimize(&self, family: &str, start: &[f64], watch: &Watch<'_>, parts: &Parts<'_>) -> Result<Minimum> {
        let bands = start.len();
        let what = format!("{family}, {bands} bands");
        let mut function = |point: &[f64], gradient: &mut [f64]| {
            let coef: Vec<f64> = std::iter::once(1.0).chain(point.iter().copied()).collect();
            let (mut by_error, mut by_moved) = (vec![0.0; bands], vec![0.0; bands]);
            let (moved, error) = parts(&coef, [&mut by_error, &mut by_moved])?;
            for (i, g) in gradient.iter_mut().enumerate() {
                *g = by_error[i + 1] / error + by_moved[i + 1] / moved;
            }
            Some((moved * error).ln())
        };
        let mut on_iteration = |iteration, value: f64| {
            watch.report(Progress { what: what.clone(), iteration, loss: value.exp() })
        };
        let point = start[1..].iter().map(|c| c / start[0]).collect();
        let found = minimize(point, &mut function, &MinimizeOptions::default(), &mut on_iteration)?;
        Ok(Minimum { point: std::iter::once(1.0).chain(found.point).collect(), ..found })
    }

    /// The weight of step `t` in the error.
    fn weight(&self, t: usize) -> f64 {
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
    fn solved_error(&self, coef: &[f64], gradient: &mut [f64]) -> Option<f64> {
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
    fn multiplied_error(&self, coef: &[f64], gradient: &mut [f64]) -> f64 {
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
    fn moved(&self, coef: &[f64], gradient: &mut [f64]) -> f64 {
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
    fn solved_moved(&self, coef: &[f64], gradient: &mut [f64]) -> Option<f64> {
        let (b, k) = (self.separation, self.participations);
        let last = (k - 1) * b;
        let participates = |t: usize| f64::from(u8::from(t.is_multiple_of(b) && t / b < k));
        let solution = Solution::new(coef, self.n, Some(last), participates)?;
        Some(solution.squares(coef, |_| 1.0, gradient))
    }
}

/// `x = T^-1 r`, until it has settled.
struct Solution {
    x: Vec<f64>,
}

impl Solution {
    /// Solves for `r` = 1, 1, ... for up to `n` steps, or until `x` has settled on its `limit`, `1 / sum(c)`.
    ///
    /// What is solved for is how far `x` is from the limit: `T (x - limit)` is the limit times the sum of the coefficients
    /// after the `t`-th. That falls to zero with all its digits, while `x` itself comes to rest only to within its rounding.
    fn prefix_sums(coef: &[f64], n: usize, limit: f64) -> Option<Self> {
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

    /// Solves for up to `n` steps, or until `x` has been zero for as many steps as there are bands, later than step
    /// `settles`, where `r` is zero from there on. `None` where it runs away.
    fn new(coef: &[f64], n: usize, settles: Option<usize>, r: impl Fn(usize) -> f64) -> Option<Self> {
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

    /// `sum_t weight_t x_t^2`; subtracts from the gradient the sums over `t` of `lambda_t x_(t-i)`, where
    /// `T^T lambda = 2 weight x`: the derivative of a solution by the matrix.
    fn squares(&self, coef: &[f64], weight: impl Fn(usize) -> f64, gradient: &mut [f64]) -> f64 {
        let (x, bands) = (&self.x, coef.len());
        let mut lambda = vec![0.0; x.len()];
        let mut reversed = vec![0.0; bands];
        let mut total = 0.0;
        for t in (0..x.len()).rev() {
            let weighted = weight(t) * x[t];
            total += weighted * x[t];
            let reach = (bands - 1).min(x.len() - 1 - t);
            let later = dot(&coef[1..=reach], &lambda[t + 1..]);
            lambda[t] = (2.0 * weighted - later) / coef[0];
            let reach = bands.min(t + 1);
            let places = reversed[bands - reach..].iter_mut().zip(&x[t + 1 - reach..=t]);
            places.for_each(|(g, x)| *g += lambda[t] * x);
        }
        gradient.iter_mut().zip(reversed.iter().rev()).for_each(|(g, sum)| *g -= sum);
        total
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::Participation;

    type Optimizer = fn(&Problem, usize, &Watch<'_>) -> Result<Design>;
    const BOTH: [Optimizer; 2] = [optimize_banded_toeplitz, optimize_banded_inverse_toeplitz];

    fn problem(n: u64, participation: Participation, objective: Objective) -> Problem {
        Problem { n, participation, objective, workload: None }
    }

    fn momentum() -> Option<MatrixSpec> {
        Some(MatrixSpec::MomentumSgd { momentum: 0.9, learning_rates: None })
    }

    const PATTERNS: [Participation; 4] = [
        Participation::Single,
        Participation::MinSep { min_sep: 9, max_participations: Some(3) },
        Participation::MinSep { min_sep: 3, max_participations: None },
        Participation::FixedEpochs { epochs: 5 },
    ];

    #[test]
    fn parts_are_the_errors_and_sensitivities_and_gradients_their_differences() {
        let coef = [1.0, 0.45, 0.3, 0.2, 0.18];
        let noising = [1.0, -0.4, -0.15, -0.1, -0.05];
        for (participation, objective, workload) in PATTERNS
            .iter()
            .flat_map(|&p| [(p, Objective::Mean), (p, Objective::Max)])
            .flat_map(|(p, o)| [(p, o, None), (p, o, momentum())])
        {
            let problem = Problem { workload, ..problem(40, participation, objective) };
            let setting = Setting::new(&problem, 5).unwrap();
            type Part<'a> = (&'a [f64; 5], Box<dyn Fn(&[f64], &mut [f64]) -> f64 + 'a>);
            let parts: [Part<'_>; 4] = [
                (&coef, Box::new(|c, g| setting.solved_error(c, g).unwrap())),
                (&coef, Box::new(|c, g| setting.moved(c, g))),
                (&noising, Box::new(|c, g| setting.multiplied_error(c, g))),
                (&noising, Box::new(|c, g| setting.solved_moved(c, g).unwrap())),
            ];
            for (part, (at, function)) in parts.iter().enumerate() {
                let mut gradient = [0.0; 5];
                function(at.as_slice(), &mut gradient);
                for i in 0..5 {
                    let shifted = |by: f64| {
                        let mut coef = **at;
                        coef[i] += by;
                        function(&coef, &mut [0.0; 5])
                    };
                    let difference = (shifted(1e-6) - shifted(-1e-6)) / 2e-6;
                    let close = (gradient[i] - difference).abs() < 1e-6 * difference.abs().max(1.0);
                    assert!(close, "{problem:?} {part} {i}: {} {difference}", gradient[i]);
                }
            }
            let strategy = toeplitz(coef.to_vec());
            let design = Design::of(strategy.clone(), strategy.inverse(), &problem, &|| false).unwrap();
            let error = setting.solved_error(&coef, &mut [0.0; 5]).unwrap();
            assert!((error / objective.of(design.mean, design.max) - 1.0).abs() < 1e-12, "{problem:?}");
            let moved = setting.moved(&coef, &mut [0.0; 5]);
            assert!((moved / design.sensitivity.squared - 1.0).abs() < 1e-12, "{problem:?}");
        }
    }

    #[test]
    fn the_best_is_better_than_where_it_starts_and_more_bands_are_not_worse() {
        for (participation, objective) in
            PATTERNS.iter().flat_map(|&p| [(p, Objective::Mean), (p, Objective::Max)])
        {
            let problem = problem(60, participation, objective);
            for optimize in BOTH {
                let loss = |bands| optimize(&problem, bands, &Watch::new(&mut |_| true)).unwrap().loss;
                let losses = [1, 2, 3, 5, 9].map(loss);
                assert!(losses.windows(2).all(|pair| pair[1] <= pair[0] * (1.0 + 1e-9)), "{losses:?}");
            }
            let root = strategy::banded_square_root(8, None).unwrap();
            let start = Design::of(root.clone(), root.inverse(), &problem, &|| false).unwrap().loss;
            assert!(optimize_banded_toeplitz(&problem, 8, &Watch::new(&mut |_| true)).unwrap().loss < start);
        }
    }

    #[test]
    fn solutions_settle_and_their_tail_is_not_computed() {
        // The optimum for 10^4 steps.
        let coef = [1.0, 0.707, 0.607, 0.525];
        let limit = 1.0 / coef.iter().sum::<f64>();
        let settled = Solution::prefix_sums(&coef, 1_000_000, limit).unwrap().x;
        assert!(settled.len() < 2000, "{}", settled.len());
        let whole = Solution::new(&coef, 5000, None, |_| 1.0).unwrap().x;
        for (t, x) in whole.iter().enumerate() {
            assert!((x - settled.get(t).unwrap_or(&limit)).abs() < 1e-14, "{t}");
        }
        for (n, objective) in
            [2000, 5000].into_iter().flat_map(|n| [(n, Objective::Mean), (n, Objective::Max)])
        {
            let setting = Setting::new(&problem(n, Participation::Single, objective), 4).unwrap();
            let squares = whole[..n as usize].iter().enumerate().map(|(t, x)| setting.weight(t) * x * x);
            let (summed, closed) =
                (squares.sum::<f64>(), setting.solved_error(&coef, &mut [0.0; 4]).unwrap());
            assert!((closed / summed - 1.0).abs() < 1e-12, "{closed} {summed}");
        }
    }

    #[test]
    fn all_bands_for_the_largest_error_are_the_square_root() {
        // Which is the optimum (arXiv 2404.16706).
        let problem = problem(50, Participation::Single, Objective::Max);
        let root = strategy::optimal_max_error(50).unwrap();
        let least = Design::of(root.clone(), root.inverse(), &problem, &|| false).unwrap().loss;
        for optimize in BOTH {
            let loss = optimize(&problem, 50, &Watch::new(&mut |_| true)).unwrap().loss;
            assert!((loss / least - 1.0).abs() < 1e-6, "{loss} {least}");
        }
    }

    #[test]
    fn two_bands_of_a_noising_matrix_by_hand() {
        // C^-1 = 1, -l: sensitivity^2 = (1 - l^2n) / (1 - l^2), largest error 1 + (n - 1) (1 - l)^2.
        let n = 1000;
        let loss =
            |l: f64| (1.0 - l.powi(2 * n)) / (1.0 - l * l) * (1.0 + f64::from(n - 1) * (1.0 - l) * (1.0 - l));
        let least = (1..10_000).map(|i| loss(f64::from(i) * 1e-4)).fold(f64::INFINITY, f64::min);
        let problem = problem(1000, Participation::Single, Objective::Max);
        let found = optimize_banded_inverse_toeplitz(&problem, 2, &Watch::new(&mut |_| true)).unwrap().loss;
        assert!(found <= least && found > least * (1.0 - 1e-5), "{found} {least}");
    }

    #[test]
    fn what_cannot_be_designed_is_refused() {
        let problem = problem(10, Participation::Single, Objective::Mean);
        for optimize in BOTH {
            let refused = |bands, problem: &Problem| {
                let Err(Error::Invalid { field, .. }) = optimize(problem, bands, &Watch::new(&mut |_| true))
                else {
                    panic!()
                };
                field
            };
            assert_eq!(refused(0, &problem), "bands");
            assert_eq!(refused(11, &problem), "bands");
            assert_eq!(refused(2, &Problem { n: 0, ..problem.clone() }), "n");
            let workload = Some(MatrixSpec::Diagonal { diag: vec![1.0, 2.0] });
            assert_eq!(refused(2, &Problem { workload, ..problem.clone() }), "workload");
            assert_eq!(optimize(&problem, 2, &Watch::new(&mut |_| false)).unwrap_err(), Error::Cancelled);
        }
    }
}
