//! Against closed forms, and against the best that is found from many random starts.

use super::parts::Solution;
use super::*;
use crate::analysis::Participation;
use crate::design::Verdict;

type Optimizer = fn(&Problem, usize, &Watch<'_>) -> Result<Design>;
const BOTH: [Optimizer; 2] = [strategy_of, noising_matrix_of];

fn strategy_of(problem: &Problem, bands: usize, watch: &Watch<'_>) -> Result<Design> {
    optimize_banded_toeplitz(problem, bands, &Known::default(), watch)
}

fn noising_matrix_of(problem: &Problem, bands: usize, watch: &Watch<'_>) -> Result<Design> {
    optimize_banded_inverse_toeplitz(problem, bands, &Known::default(), watch)
}

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
        let setting = Setting::new(&problem, 5, Side::Strategy).unwrap();
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
            let loss =
                |bands| optimize(&problem, bands, &Watch::new(&mut |_| Verdict::Continue)).unwrap().loss;
            let losses = [1, 2, 3, 5, 9].map(loss);
            assert!(losses.windows(2).all(|pair| pair[1] <= pair[0] * (1.0 + 1e-9)), "{losses:?}");
        }
        let root = strategy::banded_square_root(8, None).unwrap();
        let start = Design::of(root.clone(), root.inverse(), &problem, &|| false).unwrap().loss;
        assert!(strategy_of(&problem, 8, &Watch::new(&mut |_| Verdict::Continue)).unwrap().loss < start);
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
    for (n, objective) in [2000, 5000].into_iter().flat_map(|n| [(n, Objective::Mean), (n, Objective::Max)]) {
        let problem = problem(n, Participation::Single, objective);
        let setting = Setting::new(&problem, 4, Side::Strategy).unwrap();
        let squares = whole[..n as usize].iter().enumerate().map(|(t, x)| setting.weight(t) * x * x);
        let (summed, closed) = (squares.sum::<f64>(), setting.solved_error(&coef, &mut [0.0; 4]).unwrap());
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
        let loss = optimize(&problem, 50, &Watch::new(&mut |_| Verdict::Continue)).unwrap().loss;
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
    let found = noising_matrix_of(&problem, 2, &Watch::new(&mut |_| Verdict::Continue)).unwrap().loss;
    assert!(found <= least && found > least * (1.0 - 1e-5), "{found} {least}");
}

#[test]
fn what_cannot_be_designed_is_refused() {
    let problem = problem(10, Participation::Single, Objective::Mean);
    for optimize in BOTH {
        let refused = |bands, problem: &Problem| {
            let Err(Error::Invalid { field, .. }) =
                optimize(problem, bands, &Watch::new(&mut |_| Verdict::Continue))
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
        assert_eq!(
            optimize(&problem, 2, &Watch::new(&mut |_| Verdict::Abandon)).unwrap_err(),
            Error::Cancelled
        );
    }
}

/// Losses that random restarts found, where the largest sum of the columns is not that of participations as
/// close as may be.
#[test]
fn overlapping_participations_reach_the_losses_that_are_known() {
    let min_sep = |min_sep, most| Participation::MinSep { min_sep, max_participations: Some(most) };
    let cases: [(Optimizer, Problem, usize, f64); 2] = [
        (strategy_of, problem(100, min_sep(33, 3), Objective::Max), 50, 24.55),
        (strategy_of, problem(200, min_sep(10, 5), Objective::Mean), 20, 72.28),
    ];
    for (optimize, problem, bands, known) in cases {
        let design = optimize(&problem, bands, &Watch::new(&mut |_| Verdict::Continue)).unwrap();
        assert!(design.sensitivity.exact, "{problem:?}: {:?}", design.sensitivity);
        assert!(design.loss <= known * 1.0005, "{problem:?}: {} not {known}", design.loss);
    }
}
