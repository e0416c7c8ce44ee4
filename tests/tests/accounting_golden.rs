//! Accounting against dp_accounting and against integrals in 30 digits (see `golden/README.md`).
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a panic is a failed test")]

use noised::accounting::{Asked, Composition, PoissonGaussian, Sampling, account, renyi};
use serde_json::Value;

/// An upper bound may be so much larger than dp_accounting's.
const NO_WORSE: f64 = 1.001;

/// A delta moves by more than the epsilon that it belongs to.
const DELTA_NO_WORSE: f64 = 1.005;

fn cases(section: &str) -> Vec<Value> {
    let file: Value = serde_json::from_str(include_str!("../golden/accounting.json")).unwrap();
    let cases = file[section].as_array().unwrap().clone();
    assert!(!cases.is_empty(), "{section}");
    cases
}

fn number(value: &Value) -> f64 {
    value.as_f64().or_else(|| value.as_str()?.parse().ok()).unwrap()
}

fn never() -> bool {
    false
}

fn composition(case: &Value) -> Composition {
    case["rounds"].as_array().unwrap().iter().fold(Composition::new(), |before, kind| {
        let (sampling_probability, noise_multiplier) = (number(&kind[0]), number(&kind[1]));
        let round = PoissonGaussian { sampling_probability, noise_multiplier };
        before.with(round, kind[2].as_u64().unwrap()).unwrap()
    })
}

#[test]
fn bounds_are_those_of_dp_accounting() {
    for case in cases("compositions") {
        let composition = composition(&case);
        let (delta, theirs) = (number(&case["delta"]), number(&case["epsilon"]));
        let upper = composition.epsilon(delta, &never).unwrap().value;
        let lower = composition.epsilon_lower(delta, &never).unwrap().value;
        println!("{}: {lower} <= {upper}, theirs {theirs}, {:e}", case["rounds"], upper / theirs - 1.0);
        assert!(upper <= theirs * NO_WORSE, "{case}: {upper}");
        // Both are upper bounds, so what is proven from below is below both.
        assert!(lower <= upper && lower <= theirs, "{case}: {lower} {upper}");
        assert!(lower >= upper * 0.995, "{case}: {lower} {upper}");

        let (epsilon, theirs) = (number(&case["of_epsilon"]), number(&case["delta_found"]));
        let upper = composition.delta(epsilon, &never).unwrap().value;
        let lower = composition.delta_lower(epsilon, &never).unwrap().value;
        assert!(upper <= theirs * DELTA_NO_WORSE, "{case}: {upper}");
        assert!(lower <= upper && lower <= theirs && lower >= upper * 0.98, "{case}: {lower} {upper}");
    }
}

#[test]
fn integrals_lie_between_the_bounds() {
    for case in cases("integrals") {
        let composition = composition(&case);
        let epsilon = number(&case["epsilon"]);
        let (remove, add) = (number(&case["remove"]), number(&case["add"]));
        let exact = remove.max(add);
        assert!(add <= remove * (1.0 + 1e-9), "adding is not worse here: {case}");
        let upper = composition.delta(epsilon, &never).unwrap().value;
        let lower = composition.delta_lower(epsilon, &never).unwrap().value;
        assert!(exact <= upper * (1.0 + 1e-12) && lower <= exact * (1.0 + 1e-12), "{case}: {lower} {upper}");
        assert!(upper <= 1.02 * exact + 1e-9 && lower >= 0.7 * exact - 1e-9, "{case}: {lower} {upper}");
        if exact > 1e-12 && exact < 1.0 && epsilon > 0.0 {
            let upper = composition.epsilon(exact, &never).unwrap().value;
            let lower = composition.epsilon_lower(exact, &never).unwrap().value;
            assert!(lower <= epsilon && epsilon <= upper * (1.0 + 1e-11), "{case}: {lower} {upper}");
        }
    }
}

#[test]
fn renyi_divergences_are_those_of_dp_accounting() {
    for case in cases("renyi") {
        let round = PoissonGaussian {
            sampling_probability: number(&case["sampling_probability"]),
            noise_multiplier: number(&case["noise_multiplier"]),
        };
        let found = renyi::poisson_gaussian(round, number(&case["order"])).unwrap();
        let off = found / number(&case["divergence"]) - 1.0;
        assert!(off.abs() < 1e-6, "{case}: {found}, off by {off:e}");
    }
}

#[test]
fn samples_of_fixed_size_are_not_far_from_dp_accounting() {
    for case in cases("fixed_sizes") {
        let whole = |name: &str| case[name].as_u64().unwrap();
        let sampling = Sampling::FixedSize { batch_size: whole("batch_size"), examples: whole("examples") };
        let asked = Asked::Epsilon { delta: number(&case["delta"]) };
        let multiplier = number(&case["noise_multiplier"]);
        let found = account(sampling, whole("steps"), multiplier, asked, &never).unwrap();
        let theirs = number(&case["epsilon"]);
        println!("{}: {}, theirs {theirs}", case["steps"], found.epsilon);
        // Theirs has a bound for Gaussians in place of the general one, which is less by up to a quarter
        // here.
        assert!(found.epsilon <= theirs * 1.35 && found.epsilon >= theirs * 0.98, "{case}: {found:?}");
    }
}
