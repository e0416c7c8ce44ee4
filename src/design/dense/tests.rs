//! Against optima of another program, and against every small change.

use super::descent::Space;
use super::*;
use crate::design::Verdict;
use crate::matrix::DenseMatrix;

fn problem(n: u64, participation: Participation) -> Problem {
    Problem { n, participation, objective: Objective::Mean, workload: None }
}

fn solve(problem: &Problem) -> Design {
    optimize_dense(problem, &Watch::new(&mut |_| Verdict::Continue)).unwrap()
}

fn min_sep(min_sep: u64) -> Participation {
    Participation::MinSep { min_sep, max_participations: None }
}

fn epochs(epochs: u64) -> Participation {
    Participation::FixedEpochs { epochs }
}

/// Losses of jax_privacy 2.0.0's `dense.optimize` for the prefix sum, in f64, times the squared sensitivity.
#[test]
fn losses_are_no_worse_than_those_known() {
    for (n, participation, known) in [
        (64, Participation::Single, 4.409_448),
        (128, Participation::Single, 5.342_261),
        (64, epochs(4), 19.429_185),
        (128, epochs(4), 23.083_328),
        (64, min_sep(16), 21.024_635),
        (128, min_sep(16), 63.567_372),
    ] {
        let design = solve(&problem(n, participation));
        let what = format!("{n} {participation:?}: {}, not {known}", design.loss);
        assert!(design.loss <= known * 1.0001, "{what}");
        // Both are near the optimum, which is unique.
        assert!(design.loss >= known * 0.999, "{what}");
        let k = participation.true_max_participations(n).unwrap() as f64;
        assert!(design.sensitivity.exact, "{:?}", design.sensitivity);
        assert!((design.sensitivity.squared - k).abs() < 1e-12 * k, "{:?}", design.sensitivity);
        assert_eq!(design.loss, design.sensitivity.squared * design.mean);
        assert!(design.max > design.mean);
    }
}

#[test]
fn columns_that_need_few_bands_come_as_such() {
    let design = solve(&problem(24, min_sep(6)));
    let MatrixSpec::ColumnNormalizedBanded { params } = &design.strategy else {
        panic!("{}", design.strategy.kind());
    };
    assert_eq!((params.len(), params[0].len()), (24, 6));
    assert_eq!(solve(&problem(24, epochs(4))).strategy.kind(), "dense");
}

/// The loss, from its definition.
fn loss_of(strategy: &MatrixSpec, workload: &MatrixSpec, n: usize) -> f64 {
    let factors = vec![workload.clone(), strategy.clone().inverse()];
    let decoder = DenseMatrix::new(&MatrixSpec::Product { factors }, n).unwrap();
    (0..n).flat_map(|i| decoder.row(i)).map(|entry| entry * entry).sum::<f64>() / n as f64
}

#[test]
fn no_small_change_is_better() {
    let workload = MatrixSpec::MomentumSgd { momentum: 0.9, learning_rates: Some(vec![1.0, 0.5, 2.0, 0.25]) };
    let n = 12;
    for participation in [Participation::Single, min_sep(1), min_sep(5), epochs(3), epochs(12)] {
        let problem = Problem { workload: Some(workload.clone()), ..problem(n, participation) };
        let (n, design) = (n as usize, solve(&problem));
        assert!((loss_of(&design.strategy, &workload, n) / design.mean - 1.0).abs() < 1e-10);
        let constraint = Constraint::new(participation, n as u64).unwrap();
        let strategy = DenseMatrix::new(&design.strategy, n).unwrap();
        let entry = |i: usize, j: usize| if j <= i { strategy.row(i)[j] } else { 0.0 };
        let gram = Mat::from_fn(n, n, |i, j| (0..n).map(|t| entry(t, i) * entry(t, j)).sum());
        let space = Space::new(n, constraint);
        let mut state = 1_u64;
        for _ in 0..50 {
            let noise = Mat::from_fn(n, n, |_, _| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 11) as f64 / (1_u64 << 52) as f64 - 1.0
            });
            let mut changed = gram.clone();
            space.add(&mut changed, 2e-3, &space.project(&noise));
            let changed = strategy_of(&changed, constraint).unwrap();
            let loss = loss_of(&changed, &workload, n);
            assert!(loss >= design.mean * (1.0 - 1e-5), "{participation:?}: {loss} {}", design.mean);
        }
    }
}

#[test]
fn independent_noise_is_best_for_independent_queries() {
    for participation in [Participation::Single, min_sep(3), epochs(3), min_sep(9)] {
        let problem = Problem { workload: Some(MatrixSpec::Identity), ..problem(9, participation) };
        let design = solve(&problem);
        let k = participation.true_max_participations(9).unwrap() as f64;
        assert!((design.loss / k - 1.0).abs() < 1e-5, "{participation:?}: {}", design.loss);
    }
    assert!((solve(&problem(1, Participation::Single)).loss - 1.0).abs() < 1e-12);
}

#[test]
fn bad_input_is_told() {
    let field = |problem: &Problem| match optimize_dense(problem, &Watch::new(&mut |_| Verdict::Continue)) {
        Err(Error::Invalid { field, .. }) => field,
        other => panic!("{other:?}"),
    };
    assert_eq!(field(&problem(0, Participation::Single)), "n");
    assert_eq!(field(&problem(MAX_DENSE_N as u64 + 1, Participation::Single)), "n");
    assert_eq!(field(&problem(8, epochs(3))), "epochs");
    assert_eq!(field(&problem(8, min_sep(9))), "min_sep");
    let single = problem(8, Participation::Single);
    assert_eq!(field(&Problem { objective: Objective::Max, ..single.clone() }), "objective");
    let workload = |workload| Problem { workload: Some(workload), ..single.clone() };
    assert_eq!(field(&workload(MatrixSpec::Diagonal { diag: vec![0.0] })), "workload");
    assert_eq!(field(&workload(MatrixSpec::Dense { rows: vec![vec![1.0]] })), "n");
    let huge = MatrixSpec::Toeplitz { coef: vec![1e300, -1e300], column_normalize_for_n: None };
    assert_eq!(field(&workload(huge)), "workload");
}

#[test]
fn a_call_can_be_cancelled() {
    for participation in [Participation::Single, epochs(4)] {
        let until_third = |verdict: Verdict| {
            let mut hear =
                |progress: Progress| if progress.iteration < 3 { Verdict::Continue } else { verdict };
            optimize_dense(&problem(32, participation), &Watch::new(&mut hear))
        };
        assert_eq!(until_third(Verdict::Abandon), Err(Error::Cancelled));
        let (early, whole) = (until_third(Verdict::Finish).unwrap(), solve(&problem(32, participation)));
        assert!(early.loss >= whole.loss && early.loss < 1.2 * whole.loss, "{} {}", early.loss, whole.loss);
    }
}

/// A learning rate that begins with 0 makes the workload singular: as an ever smaller one does, in the limit.
#[test]
fn a_workload_may_be_singular() {
    let loss = |first: f64, participation| {
        let rates = Some(vec![first, 0.5, 1.0]);
        let workload = Some(MatrixSpec::MomentumSgd { momentum: 0.9, learning_rates: rates });
        solve(&Problem { workload, ..problem(16, participation) }).loss
    };
    for participation in [Participation::Single, epochs(4), min_sep(4)] {
        let (zero, nearly) = (loss(0.0, participation), loss(1e-3, participation));
        assert!((zero / nearly - 1.0).abs() < 1e-3, "{participation:?}: {zero} {nearly}");
    }
}
