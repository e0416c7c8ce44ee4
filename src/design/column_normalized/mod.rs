//! Banded strategies with columns of norm 1, by L-BFGS over all their entries (arXiv 2306.08153, Section 4;
//! 2405.15913).
//!
//! Where two participations of a user are at least as far apart as there are bands, the columns that they
//! meet have no row in common, so that the squared sensitivity is the number of participations whatever the
//! entries (arXiv 2306.08153, Theorem 2). Since columns are normalised, the search is over all of space,
//! without constraints. With more bands than that the error alone is lowered first; then, for small matrices,
//! the loss in the worst of all patterns.

mod worst;

use super::minimize::{MinimizeOptions, minimize};
use super::watch::Watch;
use super::{Design, Objective, Problem, Progress};
use crate::analysis::{Mechanism, QueryErrors, Scan, query_errors, row_norms_squared_gradient_of};
use crate::error::{Error, Result};
use crate::limits::MAX_DESIGNED_ENTRIES;
use crate::matrix::{MatrixSpec, strategy};

/// The power of the first mean that stands for the largest error, and by how much each next one is higher.
const POWER: f64 = 8.0;

/// The highest.
const MOST_POWER: f64 = 32_768.0;

/// How near to the least that the largest error can be, as far as the weights tell, the search for it ends.
const GAP: f64 = 3e-4;

/// Iterations at most, of each search.
const MAX_ITERATIONS: u64 = 300;

/// The relative gain of an iteration that ends a search.
const RELATIVE_TOLERANCE: f64 = 1e-7;

/// The same where another search follows.
const COARSE_TOLERANCE: f64 = 1e-6;

/// Steps that the search remembers.
const MEMORY: usize = 10;

/// The best column-normalised strategy of so many bands that is found: with more bands than there are steps
/// between participations, the best of those of the least error, of fewer bands, and of what is found near
/// these.
///
/// # Errors
/// As those of [`least_error`].
pub(super) fn optimize_column_normalized(
    problem: &Problem,
    bands: usize,
    watch: &Watch<'_>,
) -> Result<Design> {
    let wide = least_error(problem, bands, watch)?;
    let separation = usize::try_from(problem.participation.separation(problem.n)).unwrap_or(bands);
    if separation >= bands || watch.stopped() {
        return Ok(wide);
    }
    let narrow = least_error(problem, separation, watch)?;
    let mut padded = narrow.strategy.clone();
    if let MatrixSpec::ColumnNormalizedBanded { params } = &mut padded {
        params.iter_mut().for_each(|column| column.resize(bands, 0.0));
    }
    let starts = [wide.strategy.clone(), padded];
    let mut best = if narrow.loss < wide.loss { narrow } else { wide };
    let mut search = Search::new(problem, bands);
    for start in starts {
        if watch.stopped() {
            break;
        }
        let Some(found) = search.lower_worst(&start, watch)? else { break };
        let design = Design::of(found.clone(), found.inverse(), problem, &|| watch.abandoned())?;
        if design.loss < best.loss {
            best = design;
        }
    }
    Ok(best)
}

/// The strategy of so many bands whose error is least. The largest error has no gradient where two queries
/// share it: in its place stand means of rising powers of the errors, and of their optima the one is taken
/// whose largest error is least.
///
/// # Errors
/// [`Error::Invalid`] on `n` where that makes more than [`MAX_DESIGNED_ENTRIES`] entries, on `bands` where
/// there are none or more than `n`, and on `workload`; [`Error::Cancelled`].
fn least_error(problem: &Problem, bands: usize, watch: &Watch<'_>) -> Result<Design> {
    check(problem, bands)?;
    let start = strategy::column_normalized_banded(problem.n as usize, bands)?;
    let mut search = Search::new(problem, bands);
    let best = match problem.objective {
        Objective::Mean => search.run(&start, 1.0, RELATIVE_TOLERANCE, watch)?,
        Objective::Max => search.least_max(start, watch)?,
    };
    Design::of(best.clone(), best.inverse(), problem, &|| watch.abandoned())
}

/// Checks the size of the search.
fn check(problem: &Problem, bands: usize) -> Result<()> {
    let n = problem.n;
    let most = MAX_DESIGNED_ENTRIES / bands.max(1);
    if n == 0 || n > most as u64 {
        let rule = format!("must be at least 1 and at most {most} for {bands} bands, found {n}");
        return Err(Error::invalid("n", rule));
    }
    if bands == 0 || bands as u64 > n {
        return Err(Error::invalid(
            "bands",
            format!("must be at least 1 and at most n = {n}, found {bands}"),
        ));
    }
    problem.validate()
}

/// What searches have in common.
struct Search<'a> {
    problem: &'a Problem,
    bands: usize,
    what: String,
    /// Those of the searches before this one.
    iterations: u64,
}

impl<'a> Search<'a> {
    fn new(problem: &'a Problem, bands: usize) -> Self {
        Self { problem, bands, what: format!("column_normalized_banded, {bands} bands"), iterations: 0 }
    }

    fn errors(&self, strategy: &MatrixSpec, watch: &Watch<'_>) -> Result<QueryErrors> {
        let workload = self.problem.workload.as_ref();
        query_errors(Mechanism::Strategy(strategy), workload, self.problem.n, &|| watch.abandoned())
    }

    /// Minimises means of rising powers, each from the last optimum. At the optimum of one, its weights say
    /// that no strategy near it has a weighted mean below that one, and so no largest error below it either:
    /// that tells when to end.
    fn least_max(&mut self, start: MatrixSpec, watch: &Watch<'_>) -> Result<MatrixSpec> {
        let (mut found, mut power) = (start, POWER);
        let mut best = (self.errors(&found, watch)?.max(), found.clone());
        while power <= MOST_POWER {
            found = self.run(&found, power, COARSE_TOLERANCE, watch)?;
            let errors = self.errors(&found, watch)?;
            if errors.max() < best.0 {
                best = (errors.max(), found.clone());
            }
            if watch.stopped() {
                break;
            }
            let weights = power_mean(&errors.per_query, power).1;
            let weighted: f64 = weights.iter().zip(&errors.per_query).map(|(w, error)| w * error).sum();
            if best.0 * (1.0 - GAP) <= weighted / weights.iter().sum::<f64>() {
                break;
            }
            power *= POWER;
        }
        Ok(best.1)
    }

    /// Minimises the mean of a power of the errors, to the inverse of that power.
    fn run(
        &mut self,
        start: &MatrixSpec,
        power: f64,
        relative_tolerance: f64,
        watch: &Watch<'_>,
    ) -> Result<MatrixSpec> {
        let mut failed = None;
        let mut value_and_gradient = |point: &[f64], gradient: &mut [f64]| {
            match self.value_and_gradient(point, power, gradient, watch) {
                Ok(value) => value.is_finite().then_some(value),
                // A step too far, where a diagonal entry is zero or something overflows, is one to take back.
                // A search that is told to end takes no more steps.
                Err(Error::Invalid { .. } | Error::Cancelled) => None,
                Err(error) => {
                    failed = Some(error);
                    None
                }
            }
        };
        let before = self.iterations;
        let mut hear = |iteration, loss| {
            watch.report(Progress { what: self.what.clone(), iteration: before + iteration, loss })
        };
        let options = MinimizeOptions { max_iterations: MAX_ITERATIONS, relative_tolerance, memory: MEMORY };
        let found = minimize(entries(start), &mut value_and_gradient, &options, &mut hear);
        if let Some(error) = failed {
            return Err(error);
        }
        watch.check()?;
        let found = match found {
            // Ended before the start itself was measured.
            Err(_) if watch.stopped() => return Ok(start.clone()),
            found => found?,
        };
        self.iterations += found.iterations;
        Ok(self.strategy(&found.point))
    }

    fn strategy(&self, point: &[f64]) -> MatrixSpec {
        MatrixSpec::ColumnNormalizedBanded { params: point.chunks(self.bands).map(<[f64]>::to_vec).collect() }
    }

    fn value_and_gradient(
        &self,
        point: &[f64],
        power: f64,
        gradient: &mut [f64],
        watch: &Watch<'_>,
    ) -> Result<f64> {
        let n = self.problem.n;
        let workload = self.problem.workload.clone().unwrap_or(MatrixSpec::PrefixSum);
        let decoder = MatrixSpec::Product { factors: vec![workload, self.strategy(point).inverse()] };
        // The weights of a mean of powers follow from the norms, which come first.
        let mut value = 0.0;
        let weigh = |norms: &[f64]| {
            let (mean, weights) = power_mean(norms, power);
            value = mean;
            weights
        };
        let scan = Scan::Checkpointed { checkpoints: n.isqrt() as usize };
        let found = row_norms_squared_gradient_of(&decoder, n, weigh, scan, || watch.interrupted())?;
        gradient.copy_from_slice(&entries_of_decoder(&found.gradient));
        Ok(value)
    }
}

/// `(mean of x^p)^(1/p)`, which nears the largest as `p` grows, and its derivative by every entry.
fn power_mean(values: &[f64], power: f64) -> (f64, Vec<f64>) {
    let count = values.len() as f64;
    let largest = values.iter().copied().fold(0.0, f64::max);
    let mean = values.iter().map(|value| (value / largest).powf(power)).sum::<f64>() / count;
    let root = mean.powf(1.0 / power);
    // d/dx_i = x_i^(p-1) / n * mean^(1/p - 1), where all are divided by the largest.
    let derivative = |value: &f64| (value / largest).powf(power - 1.0) / count * root / mean;
    (largest * root, values.iter().map(derivative).collect())
}

fn entries(strategy: &MatrixSpec) -> Vec<f64> {
    match strategy {
        MatrixSpec::ColumnNormalizedBanded { params } => params.concat(),
        _ => Vec::new(),
    }
}

/// The entries of `C` in `A C^-1`.
fn entries_of_decoder(decoder: &MatrixSpec) -> Vec<f64> {
    match decoder {
        MatrixSpec::Product { factors } => match factors.last() {
            Some(MatrixSpec::Inverse { matrix }) => entries(matrix),
            _ => Vec::new(),
        },
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::Participation;
    use crate::design::Verdict;

    fn problem(n: u64, objective: Objective) -> Problem {
        Problem { n, participation: Participation::Single, objective, workload: None }
    }

    fn design(problem: &Problem, bands: usize) -> Design {
        optimize_column_normalized(problem, bands, &Watch::new(&mut |_| Verdict::Continue)).unwrap()
    }

    #[test]
    fn a_power_mean_goes_from_the_mean_to_the_largest() {
        let values = [1.0, 2.0, 4.0];
        let (mean, weights) = power_mean(&values, 1.0);
        assert!((mean - 7.0 / 3.0).abs() < 1e-14 && weights.iter().all(|w| (w - 1.0 / 3.0).abs() < 1e-15));
        let (high, weights) = power_mean(&values, 256.0);
        assert!((high / 4.0 - 1.0).abs() < 0.01 && weights[2] > 0.98 && weights[1] < 1e-10);
        for (i, weight) in power_mean(&values, 4.0).1.iter().enumerate() {
            let mut moved = values;
            moved[i] += 1e-6;
            let above = power_mean(&moved, 4.0).0;
            moved[i] -= 2e-6;
            let below = power_mean(&moved, 4.0).0;
            assert!(((above - below) / 2e-6 - weight).abs() < 1e-8);
        }
    }

    #[test]
    fn the_optimum_is_better_than_its_start_and_than_what_is_near_it() {
        for objective in [Objective::Mean, Objective::Max] {
            let problem = problem(40, objective);
            let found = design(&problem, 4);
            let loss = |strategy: &MatrixSpec| {
                let errors = query_errors(Mechanism::Strategy(strategy), None, 40, &|| false).unwrap();
                objective.of(errors.mean(), errors.max())
            };
            let start = loss(&strategy::column_normalized_banded(40, 4).unwrap());
            assert!(found.loss < 0.99 * start, "{} from {start}", found.loss);
            assert!((loss(&found.strategy) / found.loss - 1.0).abs() < 1e-12);
            for seed in 0..20 {
                let mut moved = found.strategy.clone();
                if let MatrixSpec::ColumnNormalizedBanded { params } = &mut moved {
                    for (i, entry) in params.iter_mut().flatten().enumerate() {
                        *entry += 0.01 * (((i + 1) * (seed + 3)) as f64 * 0.618_033_988_75).fract() - 0.005;
                    }
                }
                assert!(loss(&moved) > found.loss, "{objective:?} {seed}");
            }
        }
    }

    #[test]
    fn all_bands_of_a_small_matrix_reach_the_known_optimum() {
        // One step has nothing to correlate; with two, the optimum over all strategies of the mean error:
        // C = [[c, 0], [s, 1]], c = cos a, s = sin a, has row norms 1/c^2 and ((1 - s)/c)^2 + 1.
        assert!((design(&problem(1, Objective::Mean), 1).loss - 1.0).abs() < 1e-12);
        let loss = |a: f64| (1.0 / a.cos().powi(2) + ((1.0 - a.sin()) / a.cos()).powi(2) + 1.0) / 2.0;
        let least = (0..100_000).map(|i| loss(f64::from(i) * 1e-5)).fold(f64::INFINITY, f64::min);
        assert!((design(&problem(2, Objective::Mean), 2).loss / least - 1.0).abs() < 1e-8);
    }

    #[test]
    fn participations_multiply_the_loss() {
        let single = design(&problem(24, Objective::Mean), 3);
        let participation = Participation::MinSep { min_sep: 4, max_participations: Some(5) };
        let many = design(&Problem { participation, ..problem(24, Objective::Mean) }, 3);
        assert_eq!(many.strategy, single.strategy);
        assert!(many.sensitivity.exact && (many.sensitivity.squared - 5.0).abs() < 1e-12);
        assert!((many.loss / single.loss / 5.0 - 1.0).abs() < 1e-14);
    }

    #[test]
    fn what_cannot_be_searched_is_refused() {
        let field = |problem: &Problem, bands| match optimize_column_normalized(
            problem,
            bands,
            &Watch::new(&mut |_| Verdict::Continue),
        ) {
            Err(Error::Invalid { field, .. }) => field,
            other => panic!("{other:?}"),
        };
        let small = problem(10, Objective::Mean);
        assert_eq!(field(&problem(0, Objective::Mean), 1), "n");
        assert_eq!(field(&problem(u64::MAX, Objective::Mean), 8), "n");
        assert_eq!(field(&small, 0), "bands");
        assert_eq!(field(&small, 11), "bands");
        let workload = Some(MatrixSpec::Dense { rows: vec![vec![1.0]] });
        assert_eq!(field(&Problem { workload, ..problem(10, Objective::Mean) }, 2), "workload");
        let mut heard = 0;
        let stopped = optimize_column_normalized(
            &small,
            2,
            &Watch::new(&mut |_| {
                heard += 1;
                if heard < 3 { Verdict::Continue } else { Verdict::Abandon }
            }),
        );
        assert_eq!(stopped, Err(Error::Cancelled));
        assert_eq!(heard, 3);
    }

    #[test]
    fn a_search_that_is_ended_early_gives_a_strategy() {
        // Also before its start was measured.
        for most in [0, 1, 5] {
            let mut heard = 0;
            let mut hear = |_| {
                heard += 1;
                if heard <= most { Verdict::Continue } else { Verdict::Finish }
            };
            let early = optimize_column_normalized(&problem(40, Objective::Max), 4, &Watch::new(&mut hear));
            let early = early.unwrap();
            assert!(early.loss >= design(&problem(40, Objective::Max), 4).loss, "{most}: {}", early.loss);
        }
    }
}
