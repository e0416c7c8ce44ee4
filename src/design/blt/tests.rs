//! Against sums over steps, finite differences and what is known of the optimum.

use super::interlacing::Pair;
use super::*;
use crate::analysis::Participation;
use crate::design::{Objective, Verdict};

fn problem(n: u64, participation: Participation, objective: Objective) -> Problem {
    Problem { n, participation, objective, workload: None }
}

fn optimum(problem: &Problem, buffers: usize) -> Design {
    optimize_blt(problem, Some(buffers), &Watch::new(&mut |_| Verdict::Continue)).unwrap()
}

const PATTERNS: [Participation; 4] = [
    Participation::Single,
    Participation::MinSep { min_sep: 9, max_participations: Some(3) },
    Participation::MinSep { min_sep: 7, max_participations: None },
    Participation::FixedEpochs { epochs: 5 },
];

#[test]
fn closed_forms_are_the_sums_of_the_coefficients() {
    for participation in PATTERNS {
        for objective in [Objective::Mean, Objective::Max] {
            let problem = problem(60, participation, objective);
            let setting = Setting::new(&problem).unwrap();
            let point = [-5.0, 0.3, -1.0, -2.0, 0.5, -0.7];
            // The numbers as they are: those that are given away are rounded to f32.
            let pair = Pair::<0>::constant(&point);
            let strategy = MatrixSpec::BufferedToeplitz {
                buf_decay: pair.decay_rates().iter().map(|rate| (-rate.value).exp()).collect(),
                output_scale: pair.weights(0).iter().map(|weight| weight.value).collect(),
            };
            let noising_matrix = strategy.clone().inverse();
            let design = Design::of(strategy, noising_matrix, &problem, &|| false).unwrap();
            let closed = setting.sensitivity_squared(&pair.decay_rates(), &pair.weights(0)).value;
            assert!((closed / design.sensitivity.squared - 1.0).abs() < 1e-12, "{problem:?}");
            let closed = setting.error(&pair).value;
            let emitted = objective.of(design.mean, design.max);
            assert!((closed / emitted - 1.0).abs() < 1e-12, "{problem:?}");
            // What is given away is measured as it is, and hardly differs.
            let given = setting.design(&point, &Watch::new(&mut |_| Verdict::Continue)).unwrap();
            let again = Design::of(given.strategy.clone(), given.noising_matrix.clone(), &problem, &|| false);
            let again = again.unwrap();
            for (told, summed, exact) in [
                (given.mean, again.mean, design.mean),
                (given.max, again.max, design.max),
                (given.sensitivity.squared, again.sensitivity.squared, design.sensitivity.squared),
            ] {
                assert!((told / summed - 1.0).abs() < 1e-12, "{problem:?}: {told} {summed}");
                assert!((told / exact - 1.0).abs() < 1e-6, "{problem:?}: {told} {exact}");
            }
        }
    }
}

#[test]
fn gradients_are_those_of_finite_differences() {
    let workload = MatrixSpec::MomentumSgd { momentum: 0.9, learning_rates: None };
    for participation in PATTERNS {
        for (objective, workload) in [
            (Objective::Mean, None),
            (Objective::Max, None),
            (Objective::Mean, Some(workload.clone())),
            (Objective::Max, Some(workload.clone())),
        ] {
            let problem = Problem { workload, ..problem(60, participation, objective) };
            let setting = Setting::new(&problem).unwrap();
            let point = [-5.0, 0.3, -1.0, -2.0];
            let mut gradient = [0.0; 4];
            setting.loss(&point, &mut gradient).unwrap();
            for i in 0..4 {
                let shifted = |by: f64| {
                    let mut point = point;
                    point[i] += by;
                    setting.loss(&point, &mut [0.0; 4]).unwrap()
                };
                let difference = (shifted(1e-5) - shifted(-1e-5)) / 2e-5;
                assert!((gradient[i] - difference).abs() < 1e-8, "{i}: {} {difference}", gradient[i]);
            }
        }
    }
}

#[test]
fn a_buffer_more_is_never_worse() {
    for participation in
        [Participation::Single, Participation::MinSep { min_sep: 125, max_participations: Some(8) }]
    {
        for objective in [Objective::Mean, Objective::Max] {
            let problem = problem(1000, participation, objective);
            let losses: Vec<f64> = (1..=5).map(|buffers| optimum(&problem, buffers).loss).collect();
            assert!(losses.windows(2).all(|pair| pair[1] <= pair[0] * (1.0 + 1e-9)), "{losses:?}");
        }
    }
}

#[test]
fn the_loss_comes_near_the_least_that_a_toeplitz_matrix_has() {
    // The square root of the prefix sum has the least largest error of all of them (arXiv 2404.16706).
    for n in [100, 10_000] {
        let least = (0..n).fold((0.0, 1.0), |(sum, c): (f64, f64), k| {
            (sum + c * c, c * (2 * k + 1) as f64 / (2 * k + 2) as f64)
        });
        let least = least.0 * least.0;
        let loss = optimum(&problem(n, Participation::Single, Objective::Max), 6).loss;
        assert!(loss >= least * (1.0 - 1e-12) && loss < least * 1.002, "{n}: {loss} {least}");
    }
}

#[test]
fn nothing_near_the_optimum_is_better() {
    let problem = problem(500, PATTERNS[1], Objective::Mean);
    let setting = Setting::new(&problem).unwrap();
    let design = optimum(&problem, 2);
    let MatrixSpec::BufferedToeplitz { buf_decay, output_scale } = design.strategy else { panic!() };
    for (i, by) in (0..2).flat_map(|i| [-1e-3, 1e-3].map(|by| (i, by))) {
        let (mut decays, mut scales) = (buf_decay.clone(), output_scale.clone());
        decays[i] = 1.0 - (1.0 - decays[i]) * (1.0 + by);
        scales[1 - i] *= 1.0 - by;
        let strategy = MatrixSpec::BufferedToeplitz { buf_decay: decays, output_scale: scales };
        let near = Design::of(strategy.clone(), strategy.inverse(), &problem, &|| false).unwrap();
        assert!(near.loss >= design.loss * (1.0 - 1e-9), "{} {}", near.loss, design.loss);
    }
    assert_eq!(setting.problem.participations, 3);
}

#[test]
fn as_many_buffers_as_help() {
    let design = optimize_blt(
        &problem(1000, Participation::Single, Objective::Max),
        None,
        &Watch::new(&mut |_| Verdict::Continue),
    )
    .unwrap();
    let MatrixSpec::BufferedToeplitz { buf_decay, .. } = design.strategy else { panic!() };
    assert!((2..=5).contains(&buf_decay.len()), "{buf_decay:?}");
    assert!(buf_decay.windows(2).all(|pair| pair[0] > pair[1]));
}

#[test]
fn what_cannot_be_designed_is_refused() {
    let problem = problem(10, Participation::Single, Objective::Mean);
    let refused = |buffers, problem: &Problem| {
        let Err(Error::Invalid { field, .. }) =
            optimize_blt(problem, buffers, &Watch::new(&mut |_| Verdict::Continue))
        else {
            panic!()
        };
        field
    };
    assert_eq!(refused(Some(0), &problem), "buffers");
    assert_eq!(refused(Some(11), &problem), "buffers");
    assert_eq!(refused(None, &Problem { n: 0, ..problem.clone() }), "n");
    assert_eq!(
        optimize_blt(&problem, None, &Watch::new(&mut |_| Verdict::Abandon)).unwrap_err(),
        Error::Cancelled
    );
    let workload = Some(MatrixSpec::Diagonal { diag: vec![1.0, 2.0] });
    assert_eq!(refused(None, &Problem { workload, ..problem }), "workload");
}

#[test]
fn what_is_told_is_what_the_numbers_that_are_given_away_achieve() {
    for n in [1, 2, 3, 5, 9, 13, 16] {
        for (objective, participation) in
            [Objective::Mean, Objective::Max].into_iter().flat_map(|objective| {
                [Participation::Single, Participation::MinSep { min_sep: 2, max_participations: None }]
                    .into_iter()
                    .filter(move |p| p.true_max_participations(n).is_ok())
                    .map(move |participation| (objective, participation))
            })
        {
            let problem = problem(n, participation, objective);
            let mut before = f64::INFINITY;
            for buffers in [1, 2, 4, 8, 10] {
                let design = optimum(&problem, buffers);
                let MatrixSpec::BufferedToeplitz { buf_decay, output_scale } = &design.strategy else {
                    panic!()
                };
                let what = format!("{problem:?} {buffers}: {buf_decay:?} {output_scale:?}");
                assert!(design.loss <= before, "{what}: {} after {before}", design.loss);
                before = design.loss;
                // By another way: a dense matrix and its inverse.
                let noising = crate::matrix::DenseMatrix::new(&design.noising_matrix, n as usize).unwrap();
                let mut sums = vec![0.0; n as usize];
                let errors: Vec<f64> = (0..n as usize)
                    .map(|i| {
                        sums.iter_mut().zip(noising.row(i)).for_each(|(sum, entry)| *sum += entry);
                        sums.iter().map(|sum| sum * sum).sum()
                    })
                    .collect();
                let mean = errors.iter().sum::<f64>() / n as f64;
                assert!((design.mean / mean - 1.0).abs() < 1e-12, "{what}: {} {mean}", design.mean);
                let max = errors.iter().copied().fold(0.0, f64::max);
                assert!((design.max / max - 1.0).abs() < 1e-12, "{what}: {} {max}", design.max);
                if output_scale.iter().all(|&weight| weight > 0.0) {
                    let closed = Blt::new(buf_decay, output_scale).unwrap().mean_error(n).unwrap();
                    assert!((closed / mean - 1.0).abs() < 1e-8, "{what}: {closed} {mean}");
                }
            }
        }
    }
}

#[test]
fn gradients_of_both_signs_are_those_of_finite_differences() {
    let point = [-3.0_f64, -2.0, -1.0, 0.6, -0.5, 0.4];
    for participation in PATTERNS {
        for objective in [Objective::Mean, Objective::Max] {
            let problem = problem(60, participation, objective);
            let setting = Setting::new(&problem).unwrap();
            let mut gradient = [0.0; 6];
            setting.signed_loss(&point, &mut gradient).unwrap();
            for i in 0..6 {
                let shifted = |by: f64| {
                    let mut point = point;
                    point[i] += by;
                    setting.signed_loss(&point, &mut [0.0; 6]).unwrap()
                };
                let difference = (shifted(1e-5) - shifted(-1e-5)) / 2e-5;
                assert!((gradient[i] - difference).abs() < 1e-7, "{i}: {} {difference}", gradient[i]);
            }
        }
    }
}

#[test]
fn weights_of_both_signs_are_found_where_they_are_better() {
    let participation = Participation::MinSep { min_sep: 125, max_participations: Some(8) };
    let problem = problem(1000, participation, Objective::Mean);
    let design = optimum(&problem, 3);
    assert!(
        design.sensitivity.exact && design.loss <= 106.858 * 1.0005,
        "{} {:?}",
        design.loss,
        design.strategy
    );
}
