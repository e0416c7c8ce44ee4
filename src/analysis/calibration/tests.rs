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
        // What rounding of the argument alone moves the value by, and what it is rounded up by for that.
        let a = epsilon * multiplier - 0.5 / multiplier;
        let condition = 1.0 + (1.0 + a.abs()) * (a.abs() + 1.0 / multiplier);
        assert!(off < 8e-15 + 8e-16 * condition, "{multiplier} {epsilon}: {found}, not {expected}");
        assert!(found >= expected, "{multiplier} {epsilon}: {found}, less than {expected}");
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

/// The least numbers that suffice, by rational arithmetic.
#[test]
fn what_is_told_is_on_the_safe_side() {
    const MULTIPLIERS_OF_RHO: &[(f64, f64)] = &[
        (2.554450164868458e+89, 1.399059822680314e-45),
        (795.1935655656966, 0.02507544064673561),
        (2.9005228283614735e+88, 4.151899745598739e-45),
        (7.759585674357169e-101, 8.027230538081693e+49),
        (6.489745531369243e-6, 277.56913253157467),
        (1.1320596465314438e-6, 664.5847130094965),
        (8.684454578650953e-101, 7.587762487712286e+49),
        (5.4376085923593044e-101, 9.589170277484673e+49),
        (2.493307144426866e+89, 1.4161103972209194e-45),
        (4.08151054974514e-6, 350.0052352971391),
        (9.16345371808552e-6, 233.59062399972842),
        (1.5960421235803823e-101, 1.769957456227123e+50),
    ];
    const RHOS_OF_MULTIPLIER: &[(f64, f64)] = &[
        (0.13876741839890316, 25.965398165765446),
        (4.448356861375214e+89, 2.5267993902179883e-180),
        (1.774862202534644e-08, 1587233140776712.0),
        (0.2094563824951179, 11.396796854693966),
        (9.601271002174997e-06, 5423910918.278416),
        (8.72407765436802e-06, 6569479458.876378),
        (313.6513677349536, 5.08247946881796e-06),
        (5.392234688708107e-06, 17196197819.705227),
        (1.8166866854560372e-06, 151499059876.62708),
        (9.665643123171955e-06, 5351906189.849223),
        (2.9878889785386774e-71, 5.600684283853531e+140),
        (414.90671162274515, 2.9044846398019502e-06),
    ];
    for &(target, least) in MULTIPLIERS_OF_RHO {
        let found = noise_multiplier(PrivacyTarget::ZeroConcentratedDp { rho: target }).unwrap();
        assert!(found >= least && found <= least.next_up().next_up(), "{target}: {found}, not {least}");
    }
    for &(multiplier, least) in RHOS_OF_MULTIPLIER {
        let found = rho(multiplier).unwrap();
        assert!(found >= least && found <= least.next_up(), "{multiplier}: {found}, not {least}");
    }
    for i in 1..3000_i32 {
        let value = f64::from(i).sqrt() * 1.3_f64.powi(i % 400 - 200);
        // A fused product tells on which side of 1 the exact one is.
        let found = noise_multiplier(PrivacyTarget::GaussianDp { mu: value }).unwrap();
        assert!(found.mul_add(value, -1.0) >= 0.0 && found.next_down().mul_add(value, -1.0) < 0.0, "{value}");
        let found = mu(value).unwrap();
        assert!(found.mul_add(value, -1.0) >= 0.0 && found.next_down().mul_add(value, -1.0) < 0.0, "{value}");
    }
    assert!(
        noise_multiplier(PrivacyTarget::GaussianDp { mu: 0.012799063610818872 }).unwrap()
            * 0.012799063610818872
            >= 1.0
    );
}

/// Deltas of which nothing is left but an exponent: the curve's logarithm has lost digits that its slack
/// makes up for.
#[test]
fn small_deltas_are_reached() {
    for exponent in [20, 50, 100, 200, 300] {
        let target = 10.0_f64.powi(-exponent);
        for epsilon in [0.01, 0.5, 1.0, 7.0, 40.0] {
            let multiplier = approximate(epsilon, target).unwrap();
            assert!(delta(multiplier, epsilon).unwrap() <= target, "{epsilon} {target:e}");
            // And it is no more than its slack too large.
            let less = multiplier * (1.0 - 1e-13);
            assert!(delta(less, epsilon).unwrap() > target * (1.0 - 1e-12), "{epsilon} {target:e}");
        }
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
