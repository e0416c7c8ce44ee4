//! Error analysis and strategy design: values of jax_privacy and dp_accounting, values in many digits (see
//! `golden/README.md`), and bounds of the papers.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a panic is a failed test")]

use noised::MatrixSpec;
use noised::analysis::blt::Blt;
use noised::analysis::calibration::{self, PrivacyTarget};
use noised::analysis::{
    Mechanism, Participation, column_norms_squared, query_errors, row_norms_squared, sensitivity,
};
use noised::design::{Family, Objective, Problem, Verdict, optimize};
use noised::matrix::strategy;
use serde_json::Value;

/// Roundings of sums of up to some hundred products.
const WITHIN: f64 = 1e-10;

/// A loss may be so much larger than jax_privacy's.
const NO_WORSE: f64 = 1.0005;

fn cases(section: &str) -> Vec<Value> {
    let file: Value = serde_json::from_str(include_str!("../golden/analysis.json")).unwrap();
    let cases = file[section].as_array().unwrap().clone();
    assert!(!cases.is_empty(), "{section}");
    cases
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap()
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(number).collect()
}

fn spec(value: &Value) -> MatrixSpec {
    MatrixSpec::from_json(&value.to_string()).unwrap()
}

#[track_caller]
fn assert_close(found: f64, expected: f64, within: f64, what: &str) {
    let off = (found - expected).abs();
    assert!(off <= within * expected.abs(), "{what}: {found}, not {expected}, off by {:e}", off / expected);
}

#[track_caller]
fn assert_all_close(found: &[f64], expected: &[f64], within: f64, what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (i, (a, b)) in found.iter().zip(expected).enumerate() {
        assert_close(*a, *b, within, &format!("{what}, entry {i}"));
    }
}

fn never() -> bool {
    false
}

#[test]
fn errors_are_those_of_jax_privacy() {
    let cases = cases("errors");
    assert!(cases.len() >= 60);
    for case in cases {
        let n = case["n"].as_u64().unwrap();
        let what = format!("{}, n = {n}", case["name"].as_str().unwrap());
        let workload = spec(&case["workload"]);
        let noising_matrix = case.get("noising_matrix").map(spec);
        let strategy = case.get("strategy").map(spec);
        let mechanism = match (&strategy, &noising_matrix) {
            (Some(strategy), None) => Mechanism::Strategy(strategy),
            (None, Some(noising_matrix)) => Mechanism::NoisingMatrix(noising_matrix),
            other => panic!("{what}: {other:?}"),
        };
        let errors = query_errors(mechanism, Some(&workload), n, &never).unwrap();
        assert_eq!(errors.per_query.len() as u64, n, "{what}");
        for (figure, found) in
            [("mean", errors.mean()), ("max", errors.max()), ("last", errors.last()), ("rmse", errors.rmse())]
        {
            assert_close(found, number(&case[figure]), WITHIN, &format!("{what}, {figure}"));
        }
        let at: Vec<usize> = numbers(&case["at"]).into_iter().map(|i| i as usize).collect();
        let picked = |values: &[f64]| at.iter().map(|&i| values[i]).collect::<Vec<_>>();
        assert_all_close(&picked(&errors.per_query), &numbers(&case["per_query"]), WITHIN, &what);

        let noising = noising_matrix.unwrap_or_else(|| strategy.unwrap().inverse());
        let decoder = MatrixSpec::Product { factors: vec![workload, noising] };
        let norms = column_norms_squared(&decoder, n, never).unwrap();
        assert_all_close(&picked(&norms), &numbers(&case["column_norms_squared"]), WITHIN, &what);
        let norms = row_norms_squared(&decoder, n, never).unwrap();
        assert_all_close(&norms.values, &errors.per_query, 1e-12, &what);
    }
}

#[test]
fn the_prefix_sum_is_the_workload_where_there_is_none() {
    for case in cases("errors").iter().filter(|case| case["workload"]["kind"] == "prefix_sum") {
        let Some(strategy) = case.get("strategy").map(spec) else { continue };
        let n = case["n"].as_u64().unwrap();
        let errors = query_errors(Mechanism::Strategy(&strategy), None, n, &never).unwrap();
        assert_close(errors.mean(), number(&case["mean"]), WITHIN, "mean");
    }
}

fn participation(value: &Value) -> Participation {
    if value == "single" {
        return Participation::Single;
    }
    if let Some(epochs) = value["epochs"].as_u64() {
        return Participation::FixedEpochs { epochs };
    }
    let min_sep = value["min_sep"].as_u64().unwrap();
    Participation::MinSep { min_sep, max_participations: value["max_participations"].as_u64() }
}

#[test]
fn sensitivities_are_those_of_jax_privacy() {
    let (mut exact, mut bounds) = (0, 0);
    for case in cases("sensitivities") {
        let n = case["n"].as_u64().unwrap();
        let strategy = spec(&case["strategy"]);
        let found = sensitivity(&strategy, n, participation(&case["participation"]), &never).unwrap();
        let kind = case["strategy"]["kind"].as_str().unwrap();
        let what = format!("{kind}, n = {n}, {}", case["participation"]);
        let squared = number(&case["squared"]);
        assert_close(found.value(), found.squared.sqrt(), 1e-15, &what);
        if case["exact"] == true {
            assert_close(found.squared, squared, WITHIN, &what);
            exact += 1;
        } else {
            // A better bound than jax_privacy's is welcome, one below what brute force finds is not.
            let least = number(&case["at_least"]);
            let slack = 1.0 + WITHIN;
            assert!(found.squared <= squared * slack, "{what}: {} is over {squared}", found.squared);
            assert!(found.squared * slack >= least, "{what}: {} is under {least}", found.squared);
            // Steps that only one user's data moves in one way: an exact answer is the one of brute force.
            if found.exact {
                assert_close(found.squared, least, WITHIN, &what);
            }
            bounds += 1;
        }
    }
    assert!(exact >= 100 && bounds >= 15, "{exact} and {bounds}");
}

/// The squared norm of the first `n` coefficients of the square root of the prefix sum, binom(2j, j) / 4^j:
/// the Landau constant `G_{n-1}`.
fn landau(n: u64) -> f64 {
    let mut coef = 1.0;
    (1..=n).fold(0.0, |sum, j| {
        let squared = coef * coef;
        coef *= (2.0 * j as f64 - 1.0) / (2.0 * j as f64);
        sum + squared
    })
}

/// The sum of the singular values of the prefix sum over `n`: those of its inverse are 2 sin((2k-1) pi /
/// (4n+2)).
fn mean_singular_value(n: u64) -> f64 {
    let turn = std::f64::consts::PI / (4 * n + 2) as f64;
    (1..=n).map(|k| 0.5 / ((2 * k - 1) as f64 * turn).sin()).sum::<f64>() / n as f64
}

/// What no strategy of the family goes below. One user's data takes part once at least, so that the
/// sensitivity is at least the largest norm of a column.
///
/// - Any: `|A|_* <= |B|_F |C|_F <= n sqrt(mean error) sensitivity`, where `|A|_*` is the sum of the singular
///   values.
/// - Toeplitz, max error: the square of the square root's (arXiv 2404.16706, Theorem 2.1: the square root is
///   optimal).
fn least_loss(family: &Family, problem: &Problem) -> f64 {
    let toeplitz = matches!(
        family,
        Family::BandedToeplitz { .. }
            | Family::BandedInverseToeplitz { .. }
            | Family::BufferedToeplitz { .. }
    );
    if toeplitz && problem.objective == Objective::Max {
        landau(problem.n).powi(2) * (1.0 - 1e-12)
    } else {
        mean_singular_value(problem.n).powi(2) * (1.0 - 1e-12)
    }
}

struct Setting {
    family: Family,
    problem: Problem,
    loss: f64,
    what: String,
}

fn settings() -> Vec<Setting> {
    let setting = |case: Value| {
        let size = |key: &str| case[key].as_u64();
        let bands = size("bands").unwrap_or_default() as usize;
        let family = match case["family"].as_str().unwrap() {
            "banded_toeplitz" => Family::BandedToeplitz { bands },
            "buffered_toeplitz" => {
                Family::BufferedToeplitz { buffers: Some(size("buffers").unwrap() as usize) }
            }
            "column_normalized_banded" => Family::ColumnNormalizedBanded { bands },
            "dense" => Family::Dense,
            other => panic!("an unknown family: {other}"),
        };
        let participation = match size("epochs") {
            Some(epochs) => Participation::FixedEpochs { epochs },
            None => Participation::from_limits(size("min_sep"), size("max_participations")),
        };
        let objective = if case["objective"] == "max" { Objective::Max } else { Objective::Mean };
        let n = size("n").unwrap();
        let problem = Problem { n, participation, objective, workload: None };
        Setting { what: format!("{family:?} for {problem:?}"), family, problem, loss: number(&case["loss"]) }
    };
    cases("losses").into_iter().map(setting).collect()
}

/// Checks the optimum of every setting that is chosen, and that it is what it says it is.
fn check_losses(chosen: impl Fn(&Setting) -> bool) {
    let mut checked = 0;
    for setting in settings().into_iter().filter(chosen) {
        let Setting { family, problem, loss, what } = setting;
        let design = optimize(&family, &problem, &mut |_| Verdict::Continue).unwrap();
        assert!(
            design.loss <= loss * NO_WORSE,
            "{what}: {} is {} of {loss}",
            design.loss,
            design.loss / loss
        );

        let errors =
            query_errors(Mechanism::NoisingMatrix(&design.noising_matrix), None, problem.n, &never).unwrap();
        assert_close(design.mean, errors.mean(), 1e-8, &what);
        assert_close(design.max, errors.max(), 1e-8, &what);
        let found = sensitivity(&design.strategy, problem.n, problem.participation, &never).unwrap();
        assert_close(design.sensitivity.squared, found.squared, 1e-8, &what);
        let error = if problem.objective == Objective::Max { design.max } else { design.mean };
        assert_close(design.loss, found.squared * error, 1e-8, &what);
        assert!(design.loss >= least_loss(&family, &problem), "{what}: {} is too good", design.loss);
        checked += 1;
    }
    assert!(checked > 0);
}

#[test]
fn banded_toeplitz_is_no_worse_than_jax_privacys() {
    check_losses(|setting| matches!(setting.family, Family::BandedToeplitz { .. }));
}

#[test]
fn buffered_toeplitz_is_no_worse_than_jax_privacys() {
    check_losses(|setting| matches!(setting.family, Family::BufferedToeplitz { .. }));
}

#[test]
fn column_normalized_banded_is_no_worse_than_jax_privacys() {
    check_losses(|setting| matches!(setting.family, Family::ColumnNormalizedBanded { .. }));
}

#[test]
fn dense_is_no_worse_than_jax_privacys() {
    check_losses(|setting| matches!(setting.family, Family::Dense));
}

/// arXiv 2202.11205 and 2404.16706: the square root of the prefix sum has the same error and squared
/// sensitivity, the Landau constant, which lies between `1 + ln(n)/pi` and `(gamma + ln(16) + ln(n))/pi`
/// (Brutman 1982; the latter is what it tends to).
#[test]
fn the_square_root_has_the_published_error() {
    const EULER_GAMMA: f64 = 0.577_215_664_901_532_9;
    let pi = std::f64::consts::PI;
    for n in [1, 2, 3, 10, 100, 1000] {
        let root = strategy::optimal_max_error(n as usize).unwrap();
        let errors = query_errors(Mechanism::Strategy(&root), None, n, &never).unwrap();
        let squared = sensitivity(&root, n, Participation::Single, &never).unwrap().squared;
        let expected = landau(n);
        assert_close(errors.max(), expected, 1e-12, "max error");
        assert_close(errors.last(), expected, 1e-12, "last error");
        assert_close(squared, expected, 1e-12, "sensitivity");
        let log = (n as f64).ln();
        assert!(1.0 + log / pi <= squared, "{n}: {squared}");
        let limit = (EULER_GAMMA + 16.0_f64.ln() + log) / pi;
        assert!(squared < limit, "{n}: {squared}");
        assert!(limit - squared < 0.08 / n as f64, "{n}: {squared} is far from {limit}");
    }
}

/// Without a strategy (DP-SGD) the prefix sums have the variance of as many steps; with all of it before the
/// noise, the sensitivity is that of as many steps.
#[test]
fn the_two_ends_of_a_factorisation() {
    let n = 1000_u64;
    let steps = n as f64;
    let identity = MatrixSpec::Identity;
    let errors = query_errors(Mechanism::Strategy(&identity), None, n, &never).unwrap();
    assert_eq!((errors.mean(), errors.max(), errors.last()), ((steps + 1.0) / 2.0, steps, steps));
    let errors = query_errors(Mechanism::Strategy(&MatrixSpec::PrefixSum), None, n, &never).unwrap();
    assert_eq!((errors.mean(), errors.max()), (1.0, 1.0));
    let squared =
        |participation| sensitivity(&MatrixSpec::PrefixSum, n, participation, &never).unwrap().squared;
    assert_close(squared(Participation::Single), steps, 1e-14, "once");
    // A user in every step: the sum of the squares of 1 to n.
    let always = Participation::MinSep { min_sep: 1, max_participations: None };
    assert_close(squared(always), steps * (steps + 1.0) * (2.0 * steps + 1.0) / 6.0, 1e-12, "always");
}

#[test]
fn noise_is_calibrated_to_many_digits() {
    let mut checked = 0;
    for case in cases("calibrations") {
        let (epsilon, delta) = (number(&case["epsilon"]), number(&case["delta"]));
        let multiplier = number(&case["noise_multiplier"]);
        let what = format!("epsilon = {epsilon}, delta = {delta}, noise multiplier {multiplier}");
        let target = PrivacyTarget::ApproximateDp { epsilon, delta };
        assert_close(calibration::noise_multiplier(target).unwrap(), multiplier, WITHIN, &what);
        assert_close(calibration::stddev(target, 2.5).unwrap(), 2.5 * multiplier, WITHIN, &what);
        assert_close(calibration::epsilon(multiplier, delta).unwrap(), epsilon, WITHIN, &what);
        assert_close(calibration::delta(multiplier, epsilon).unwrap(), delta, 1e-8, &what);
        checked += 1;
        // The classical bound (Dwork and Roth, Theorem A.1) is for epsilon under 1, and larger.
        if epsilon < 1.0 {
            assert!(multiplier < (2.0 * (1.25 / delta).ln()).sqrt() / epsilon, "{what}");
        }
    }
    assert!(checked >= 40, "{checked}");
}

/// Within the roundings of numbers as large as the largest.
#[track_caller]
fn assert_near(found: &[f64], expected: &[f64], within: f64, what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let unit = expected.iter().fold(0.0_f64, |most, x| most.max(x.abs()));
    for (a, b) in found.iter().zip(expected) {
        assert!((a - b).abs() <= within * unit, "{what}: {found:?}, not {expected:?}");
    }
}

#[test]
fn blts_have_the_values_of_many_digits() {
    for case in cases("blts") {
        let (decay, scale) = (numbers(&case["buf_decay"]), numbers(&case["output_scale"]));
        let what = format!("decays {decay:?}");
        let blt = Blt::new(&decay, &scale).unwrap();
        let inverse = blt.inverse().unwrap();
        assert_near(inverse.buf_decay(), &numbers(&case["inverse_buf_decay"]), 1e-14, &what);
        assert_near(inverse.output_scale(), &numbers(&case["inverse_output_scale"]), 1e-12, &what);
        for at in case["at_n"].as_array().unwrap() {
            let n = at["n"].as_u64().unwrap();
            let what = format!("{what}, n = {n}");
            let close = |found: f64, figure: &str| {
                assert_close(found, number(&at[figure]), WITHIN, &format!("{what}, {figure}"));
            };
            close(blt.sensitivity_squared(n).unwrap(), "sensitivity_squared");
            close(blt.max_error(n).unwrap(), "max_error");
            close(blt.mean_error(n).unwrap(), "mean_error");
            close(blt.max_loss(n).unwrap(), "max_loss");
            close(blt.coef(n - 1), "last_coef");
        }
        let close = |found: f64, figure: &str| {
            assert_close(found, number(&case[figure]), WITHIN, &format!("{what}, {figure}"));
        };
        close(blt.limit_sensitivity_squared(), "limit_sensitivity_squared");
        close(blt.limit_max_error().unwrap(), "limit_max_error");
        close(blt.limit_max_loss().unwrap(), "limit_max_loss");
    }
}

#[test]
fn a_pair_of_decays_is_a_blt_and_its_inverse() {
    for case in cases("pairs") {
        let (decay, inverse_decay) = (numbers(&case["buf_decay"]), numbers(&case["inverse_buf_decay"]));
        let (blt, inverse) = Blt::from_decay_pair(&decay, &inverse_decay).unwrap();
        let what = format!("decays {decay:?} and {inverse_decay:?}");
        assert_all_close(blt.output_scale(), &numbers(&case["output_scale"]), WITHIN, &what);
        assert_all_close(inverse.output_scale(), &numbers(&case["inverse_output_scale"]), WITHIN, &what);
    }
}
