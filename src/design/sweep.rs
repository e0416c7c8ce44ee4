//! Every family against random restarts, for every relation of steps, size, `min_sep` and participations, on
//! small matrices.
//!
//! The loss is computed again from its definition: over all patterns, by a dense inverse. Restarts go down by
//! random steps, which takes no gradient and stops at no kink.

use super::*;
use crate::analysis::Participation;
use crate::matrix::DenseMatrix;

/// A search is as good as restarts within this factor.
const AS_GOOD: f64 = 1.0005;

/// Numbers that a seed fixes.
struct Numbers(u64);

impl Numbers {
    /// In `[-1, 1)`.
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 11) as f64 / (1_u64 << 52) as f64 - 1.0
    }

    fn below(&mut self, n: u64) -> u64 {
        (0.5 * (self.next() + 1.0) * n as f64) as u64
    }
}

/// Rows of a lower-triangular matrix.
type Lower = Vec<Vec<f64>>;

fn inverse(matrix: &Lower) -> Lower {
    let n = matrix.len();
    let column = |j: usize| {
        let mut column: Vec<f64> = vec![0.0; j];
        for (i, row) in matrix.iter().enumerate().skip(j) {
            let known: f64 = row.iter().zip(&column).map(|(entry, x)| entry * x).sum();
            column.push((f64::from(u8::from(i == j)) - known) / row[i]);
        }
        column
    };
    let columns: Lower = (0..n).map(column).collect();
    (0..n).map(|i| columns.iter().map(|column| column[i]).collect()).collect()
}

fn toeplitz(coef: &[f64], n: usize) -> Lower {
    (0..n)
        .map(|i| (0..n).map(|j| if j <= i { *coef.get(i - j).unwrap_or(&0.0) } else { 0.0 }).collect())
        .collect()
}

/// The largest sum of `|C^T C|` over the patterns that a problem allows.
fn squared_sensitivity(strategy: &Lower, problem: &Problem) -> f64 {
    fn spaced(gram: &Lower, apart: usize, most: usize, from: usize, extra: &[f64]) -> f64 {
        if most == 0 {
            return 0.0;
        }
        let mut best = 0.0_f64;
        for step in from..gram.len() {
            let more: Vec<f64> = extra.iter().zip(&gram[step]).map(|(e, x)| e + 2.0 * x.abs()).collect();
            let rest = spaced(gram, apart, most - 1, step + apart, &more);
            best = best.max(gram[step][step] + extra[step] + rest);
        }
        best
    }
    let n = strategy.len();
    let dot = |i: usize, j: usize| (0..n).map(|t| strategy[t][i] * strategy[t][j]).sum::<f64>();
    let gram: Lower = (0..n).map(|i| (0..n).map(|j| dot(i, j)).collect()).collect();
    let apart = problem.participation.separation(problem.n) as usize;
    let most = problem.participation.true_max_participations(problem.n).unwrap() as usize;
    match problem.participation {
        Participation::FixedEpochs { .. } => (0..apart)
            .map(|first| {
                let steps: Vec<usize> = (first..n).step_by(apart).collect();
                steps.iter().map(|&i| steps.iter().map(|&j| gram[i][j].abs()).sum::<f64>()).sum()
            })
            .fold(0.0, f64::max),
        _ => spaced(&gram, apart, most, 0, &vec![0.0; n]),
    }
}

/// The loss on prefix sums.
fn loss(strategy: &Lower, problem: &Problem) -> f64 {
    let n = strategy.len();
    let mut sums = vec![0.0; n];
    let errors: Vec<f64> = inverse(strategy)
        .iter()
        .map(|row| {
            sums.iter_mut().zip(row).for_each(|(sum, entry)| *sum += entry);
            sums.iter().map(|sum| sum * sum).sum()
        })
        .collect();
    let (mean, max) = (errors.iter().sum::<f64>() / n as f64, errors.iter().copied().fold(0.0, f64::max));
    squared_sensitivity(strategy, problem) * problem.objective.of(mean, max)
}

/// The strategy of a family at a point, and a number that is infinite outside of the family.
fn strategy_at(family: &Family, point: &[f64], n: usize) -> Option<Lower> {
    let with_one = |point: &[f64]| [&[1.0], point].concat();
    Some(match *family {
        Family::BandedToeplitz { .. } => toeplitz(&with_one(point), n),
        Family::BandedInverseToeplitz { .. } => inverse(&toeplitz(&with_one(point), n)),
        Family::BufferedToeplitz { .. } => {
            let (logs, weights) = point.split_at(point.len() / 2);
            let decays: Vec<f64> = logs.iter().map(|log| (-log.exp()).exp()).collect();
            let entry = |t: i32| decays.iter().zip(weights).map(|(d, w)| w * d.powi(t)).sum::<f64>();
            let column = with_one(&(0..n as i32 - 1).map(entry).collect::<Vec<_>>());
            let falls = column.windows(2).all(|pair| pair[1] <= pair[0]) && column.iter().all(|&c| c >= 0.0);
            toeplitz(&falls.then_some(column)?, n)
        }
        Family::ColumnNormalizedBanded { bands } => {
            let mut rows = vec![vec![0.0; n]; n];
            for (j, column) in point.chunks(bands).enumerate() {
                let within = &column[..bands.min(n - j)];
                let norm = within.iter().map(|x| x * x).sum::<f64>().sqrt();
                within.iter().enumerate().for_each(|(k, x)| rows[j + k][j] = x / norm);
            }
            rows
        }
        Family::Dense => return None,
    })
}

/// Goes down from a point by random steps whose length follows from how often they help.
fn descend(family: &Family, problem: &Problem, start: Vec<f64>, steps: usize, numbers: &mut Numbers) -> f64 {
    let value = |point: &[f64]| {
        let found =
            strategy_at(family, point, problem.n as usize).map_or(f64::INFINITY, |c| loss(&c, problem));
        if found.is_nan() { f64::INFINITY } else { found }
    };
    let mut point = start;
    let mut best = value(&point);
    let mut length = 0.1;
    for _ in 0..steps {
        // One of two kinds of steps: all coordinates, or one.
        let only = (numbers.next() > 0.0).then(|| numbers.below(point.len() as u64) as usize);
        let moved: Vec<f64> = point
            .iter()
            .enumerate()
            .map(|(i, x)| x + if only.is_none_or(|only| only == i) { length * numbers.next() } else { 0.0 })
            .collect();
        let there = value(&moved);
        if there < best {
            (best, point) = (there, moved);
            length *= 1.5;
        } else {
            length = (length * 0.93).max(1e-7);
        }
    }
    best
}

/// The point of a design in its family.
fn point_of(family: &Family, design: &Design) -> Vec<f64> {
    let coef = |matrix: &MatrixSpec| match matrix {
        MatrixSpec::Toeplitz { coef, .. } => coef[1..].iter().map(|c| c / coef[0]).collect(),
        _ => Vec::new(),
    };
    match (&design.strategy, &design.noising_matrix) {
        (MatrixSpec::BufferedToeplitz { buf_decay, output_scale }, _) => buf_decay
            .iter()
            .map(|decay: &f64| (-decay.ln()).ln())
            .chain(output_scale.iter().copied())
            .collect(),
        (MatrixSpec::ColumnNormalizedBanded { params }, _) => {
            let Family::ColumnNormalizedBanded { bands } = *family else { panic!() };
            let padded = |column: &Vec<f64>| {
                let mut column = column.clone();
                column.resize(bands, 0.0);
                column
            };
            params.iter().flat_map(padded).collect()
        }
        (strategy @ MatrixSpec::Toeplitz { .. }, _) => coef(strategy),
        (_, noising) => coef(noising),
    }
}

fn check(family: &Family, problem: &Problem, numbers: &mut Numbers) {
    let design = optimize(family, problem, &mut |_| Verdict::Continue).unwrap();
    let n = problem.n as usize;
    let dense = DenseMatrix::new(&design.strategy, n).unwrap();
    let rows: Lower = (0..n)
        .map(|i| dense.row(i).iter().copied().chain(std::iter::repeat(0.0)).take(n).collect())
        .collect();
    let again = loss(&rows, problem);
    let what = format!("{family} for {problem:?}: {}", design.loss);
    assert!((again / design.loss - 1.0).abs() < 1e-9, "{what}, and {again} from its definition");
    let ours = point_of(family, &design);
    let mut best = (f64::INFINITY, 0);
    for restart in 0..5 {
        let wide = matches!(family, Family::ColumnNormalizedBanded { .. });
        let start: Vec<f64> = match restart {
            // Near what was found, to see whether anything there is better.
            0 | 1 => ours.iter().map(|x| x + 0.02 * f64::from(restart) * numbers.next()).collect(),
            _ => ours.iter().map(|_| 0.35 + 0.6 * numbers.next()).collect(),
        };
        let found = descend(family, problem, start, if wide { 1500 } else { 700 }, numbers);
        if found < best.0 {
            best = (found, restart);
        }
    }
    assert!(design.loss <= best.0 * AS_GOOD, "{what}, and {} from restart {}", best.0, best.1);
}

fn problems(count: usize, numbers: &mut Numbers) -> Vec<Problem> {
    let mut problems = Vec::new();
    while problems.len() < count {
        let n = 4 + numbers.below(6);
        let participation = match numbers.below(4) {
            0 => Participation::Single,
            1 => Participation::FixedEpochs { epochs: 1 + numbers.below(n) },
            _ => Participation::MinSep {
                min_sep: 1 + numbers.below(n),
                max_participations: (numbers.next() > -0.5).then(|| 1 + numbers.below(4)),
            },
        };
        let objective = if numbers.next() > 0.0 { Objective::Mean } else { Objective::Max };
        let problem = Problem { n, participation, objective, workload: None };
        if problem.validate().is_ok() {
            problems.push(problem);
        }
    }
    problems
}

#[test]
fn banded_toeplitz_strategies() {
    let mut numbers = Numbers(1);
    for problem in problems(40, &mut numbers) {
        let bands = 2 + numbers.below(problem.n - 1) as usize;
        check(&Family::BandedToeplitz { bands }, &problem, &mut numbers);
    }
}

#[test]
fn banded_inverse_toeplitz_strategies() {
    let mut numbers = Numbers(2);
    for problem in problems(40, &mut numbers) {
        let bands = 2 + numbers.below(problem.n - 1) as usize;
        check(&Family::BandedInverseToeplitz { bands }, &problem, &mut numbers);
    }
}

#[test]
fn buffered_toeplitz_strategies() {
    let mut numbers = Numbers(3);
    for problem in problems(25, &mut numbers) {
        // Up to as many buffers as steps.
        let buffers = Some(1 + numbers.below(problem.n.min(10)) as usize);
        check(&Family::BufferedToeplitz { buffers }, &problem, &mut numbers);
    }
}

#[test]
fn column_normalized_strategies() {
    let mut numbers = Numbers(4);
    for problem in problems(25, &mut numbers) {
        let bands = 2 + numbers.below(problem.n - 1) as usize;
        check(&Family::ColumnNormalizedBanded { bands }, &problem, &mut numbers);
    }
}
