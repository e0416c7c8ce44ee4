//! Against values of many digits, there and back, and at the edges.

use super::*;

#[path = "values.rs"]
#[allow(clippy::excessive_precision, reason = "as they were computed, in many digits")]
mod values;

fn approximate(epsilon: f64, delta: f64) -> Result<f64> {
    noise_multiplier(PrivacyTarget::ApproximateDp { epsilon, delta })
}

#[test]
fn deltas_are_those_of_the_theorem() {
    let mut worst = 0.0_f64;
    for &(multiplier, epsilon, expected) in values::DELTAS {
        let found = delta(multiplier, epsilon).unwrap();
        let off = (found / expected - 1.0).abs();
        // What rounding of the argument alone moves the value by.
        let a = epsilon * multiplier - 0.5 / multiplier;
        let condition = 1.0 + a.abs() * (a + 1.0 / multiplier);
        assert!(off < 4e-15 + 4e-16 * condition, "{multiplier} {epsilon}: {found}, not {expected}");
        worst = worst.max(off);
    }
    assert!(worst < 1e-12, "{worst}");
}

#[test]
fn multipliers_are_the_least_that_fit() {
    for &(epsilon, delta, expected) in values::MULTIPLIERS {
        let found = approximate(epsilon, delta).unwrap();
        let off = found / expected - 1.0;
        assert!((0.0..2e-14).contains(&off), "{epsilon} {delta}: {found}, not {expected} ({off:e})");
    }
}

#[test]
fn epsilons_are_the_least_that_fit() {
    for &(epsilon, delta, multiplier) in values::MULTIPLIERS {
        let found = super::epsilon(multiplier, delta).unwrap();
        // What rounding of the multiplier and of delta's value move epsilon by.
        let mu = 1.0 / multiplier;
        let unit = epsilon + mu + mu * mu;
        let off = (found - epsilon) / unit;
        assert!(off.abs() < 1e-14, "{epsilon} {delta}: {found} at {multiplier} ({off:e})");
        assert!(super::delta(multiplier, found).unwrap() <= delta, "{epsilon} {delta}");
        // And with the multiplier that is answered, the target is met.
        let answered = approximate(epsilon, delta).unwrap();
        assert!(super::delta(answered, epsilon).unwrap() <= delta, "{epsilon} {delta}");
    }
}

#[test]
fn delta_falls_with_noise_and_with_epsilon() {
    // Across the borders between the ways of evaluating it.
    let multipliers: Vec<f64> = (0..400).map(|i| 0.05 * 1.02_f64.powi(i)).collect();
    for epsilon in [0.0, 1e-5, 0.3, 1.0, 2.5, 10.0] {
        let deltas: Vec<f64> = multipliers.iter().map(|&m| delta(m, epsilon).unwrap()).collect();
        assert!(deltas.windows(2).all(|pair| pair[1] <= pair[0]), "{epsilon}");
        assert!(deltas.iter().all(|delta| (0.0..=1.0).contains(delta)));
    }
    for multiplier in [0.1, 0.5, 0.9, 1.1, 30.0] {
        let deltas: Vec<f64> = (0..400).map(|i| delta(multiplier, f64::from(i) * 0.05).unwrap()).collect();
        assert!(deltas.windows(2).all(|pair| pair[1] <= pair[0]), "{multiplier}");
    }
}

#[test]
fn no_epsilon_is_needed_where_noise_is_enough() {
    assert_eq!(epsilon(100.0, 0.5), Ok(0.0));
    assert!(epsilon(100.0, 1e-3).unwrap() > 0.0);
}

#[test]
fn other_notions_of_privacy() {
    let zero_concentrated = |rho| noise_multiplier(PrivacyTarget::ZeroConcentratedDp { rho });
    let gaussian = |mu| noise_multiplier(PrivacyTarget::GaussianDp { mu });
    assert_eq!(zero_concentrated(0.5), Ok(1.0));
    assert_eq!(zero_concentrated(0.125), Ok(2.0));
    assert_eq!(gaussian(4.0), Ok(0.25));
    assert_eq!(rho(2.0), Ok(0.125));
    assert_eq!(mu(0.25), Ok(4.0));
    for i in 1..2000 {
        let target = 1.37_f64.powi(i % 90 - 45) * f64::from(i);
        let found = zero_concentrated(target).unwrap();
        assert!(rho(found).unwrap() <= target && rho(found).unwrap() > target * (1.0 - 1e-14));
        let found = gaussian(target).unwrap();
        assert!(mu(found).unwrap() <= target && mu(found).unwrap() > target * (1.0 - 1e-14));
    }
}

#[test]
fn stddev_is_the_multiplier_at_the_sensitivity() {
    let target = PrivacyTarget::ApproximateDp { epsilon: 1.0, delta: 1e-5 };
    for sensitivity in [1e-200, 0.1, 1.0, 3.7, 1e200] {
        let found = stddev(target, sensitivity).unwrap();
        let multiplier = noise_multiplier(target).unwrap();
        assert!(found / sensitivity >= multiplier && found / sensitivity < multiplier * (1.0 + 1e-15));
    }
}

#[test]
fn bad_input_is_told() {
    fn field<T: std::fmt::Debug>(result: Result<T>) -> String {
        match result {
            Err(Error::Invalid { field, .. }) => field,
            other => panic!("{other:?}"),
        }
    }
    for bad in [0.0, -1.0, f64::NAN, f64::INFINITY, -f64::INFINITY] {
        assert_eq!(field(approximate(bad, 0.1)), "epsilon");
        assert_eq!(field(noise_multiplier(PrivacyTarget::ZeroConcentratedDp { rho: bad })), "rho");
        assert_eq!(field(noise_multiplier(PrivacyTarget::GaussianDp { mu: bad })), "mu");
        assert_eq!(field(stddev(PrivacyTarget::GaussianDp { mu: 1.0 }, bad)), "sensitivity");
        assert_eq!(field(approximate(1.0, bad)), "delta");
        assert_eq!(field(epsilon(bad, 0.1)), "noise_multiplier");
        assert_eq!(field(delta(bad, 0.1)), "noise_multiplier");
        assert_eq!(field(rho(bad)), "noise_multiplier");
        assert_eq!(field(mu(bad)), "noise_multiplier");
        assert_eq!(field(epsilon(1.0, bad)), "delta");
    }
    assert_eq!(field(approximate(1.0, 1.0)), "delta");
    assert_eq!(field(delta(1.0, -1e-9)), "epsilon");
    assert_eq!(field(delta(1.0, f64::NAN)), "epsilon");
}

/// Whatever finite numbers come in, what comes out is a number or an error.
#[test]
fn the_edges_of_f64_are_numbers() {
    let extremes = [5e-324, 1e-310, 1e-200, 1e-100, 1e-20, 1.0, 1e20, 1e100, 1e200, 1e308, f64::MAX];
    for x in extremes {
        for y in extremes {
            let Ok(found) = delta(x, y) else {
                assert!(!(1e-153..1e153).contains(&x), "{x}");
                continue;
            };
            assert!((0.0..=1.0).contains(&found), "delta({x}, {y}) = {found}");
            if y < 1.0 {
                for found in [approximate(x, y), epsilon(x, y)].into_iter().flatten() {
                    assert!(found >= 0.0 && found.is_finite(), "{x} {y}: {found}");
                }
            }
        }
        for target in [PrivacyTarget::ZeroConcentratedDp { rho: x }, PrivacyTarget::GaussianDp { mu: x }] {
            assert!(noise_multiplier(target).is_ok_and(|m| m > 0.0 && m.is_finite()) || x < 1e-300);
        }
    }
}
