//! Against closed forms and integrals, between bounds, and at the edges.

use super::discretise::{Pld, Rounding};
use super::pair::{Direction, Pair};
use super::*;
use crate::analysis::{Participation, calibration};
use crate::{MatrixSpec, limits};

fn never() -> bool {
    false
}

fn rounds(kinds: &[(f64, f64, u64)]) -> Composition {
    kinds.iter().fold(Composition::new(), |before, &(sampling_probability, noise_multiplier, count)| {
        before.with(PoissonGaussian { sampling_probability, noise_multiplier }, count).unwrap()
    })
}

fn field<T: std::fmt::Debug>(found: Result<T>) -> String {
    match found {
        Err(Error::Invalid { field, .. }) => field,
        other => panic!("{other:?}"),
    }
}

/// `delta` of one round, from the definition: the masses of the outputs whose loss exceeds epsilon.
fn exact(pair: &Pair, epsilon: f64) -> f64 {
    let at = pair.at_loss(epsilon);
    if at == f64::INFINITY {
        return 0.0;
    }
    let other = Pair { probability: 1e-300, direction: Direction::Add, ..*pair };
    let under_q = match pair.direction {
        Direction::Remove => other.mass_above(at),
        Direction::Add => Pair { direction: Direction::Remove, ..*pair }.mass_below(-at),
    };
    pair.mass_above(at) - epsilon.exp() * under_q
}

#[test]
fn grids_bound_the_curve_of_one_round() {
    for (probability, noise) in [(0.01, 1.0), (0.3, 0.5), (0.9, 3.0), (1.0, 1.0)] {
        for direction in [Direction::Remove, Direction::Add] {
            let pair = Pair { probability, noise, direction };
            let pld = |rounding| Pld::new(&pair, 0.002, 1e-15, rounding);
            let bounds = [Rounding::Up, Rounding::ConnectTheDots, Rounding::Merge].map(pld);
            for epsilon in [0.0, 0.005, 0.1, 0.333, 1.0, 2.0] {
                let delta = |pld: &Pld| {
                    let losses = pld.masses.iter().enumerate().map(|(index, mass)| (pld.loss(index), mass));
                    let terms = losses.filter(|(loss, _)| *loss > epsilon);
                    pld.infinity + terms.map(|(loss, mass)| -(epsilon - loss).exp_m1() * mass).sum::<f64>()
                };
                let [up, dots, merged] = [delta(&bounds[0]), delta(&bounds[1]), delta(&bounds[2])];
                let exact = exact(&pair, epsilon);
                let what = format!("{pair:?} {epsilon}: {up} {dots} {exact} {merged}");
                assert!(
                    up >= dots * (1.0 - 1e-9) && dots >= exact - 1e-13 && merged <= exact + 1e-13,
                    "{what}"
                );
                assert!(dots - exact < 1e-3 && exact - merged < 3e-3, "{what}");
            }
        }
    }
}

#[test]
fn gaussians_without_sampling_are_one_gaussian() {
    let found = rounds(&[(1.0, 4.0, 7), (1.0, 3.0, 2)]);
    let together = (7.0 / 16.0 + 2.0 / 9.0_f64).sqrt().recip();
    for delta in [1e-3, 1e-8] {
        let exact = calibration::epsilon(together, delta).unwrap();
        let upper = found.epsilon(delta, &never).unwrap();
        assert!(upper.value >= exact * (1.0 - 1e-15) && upper.value <= exact * (1.0 + 1e-9));
        assert_eq!(upper.interval, None);
        assert!(found.epsilon_lower(delta, &never).unwrap().value <= exact);
        // Nearly all examples: the grid comes to the same.
        let nearly = rounds(&[(1.0 - 1e-12, 4.0, 7), (1.0 - 1e-12, 3.0, 2)]).epsilon(delta, &never).unwrap();
        assert!((nearly.value / exact - 1.0).abs() < 2e-4, "{nearly:?} {exact}");
    }
}

#[test]
fn upper_bounds_are_above_lower_bounds_and_near_them() {
    let kinds: [&[(f64, f64, u64)]; 7] = [
        &[(0.01, 1.0, 10_000)],
        &[(0.01, 0.5, 10)],
        &[(0.3, 2.0, 100)],
        &[(1e-3, 0.3, 100)],
        &[(0.9, 5.0, 100)],
        &[(0.01, 1.0, 100), (1.0, 5.0, 2), (0.2, 3.0, 50)],
        &[(0.5, 20.0, 1)],
    ];
    for kinds in kinds {
        let composition = rounds(kinds);
        for delta in [1e-3, 1e-7] {
            let upper = composition.epsilon(delta, &never).unwrap().value;
            let lower = composition.epsilon_lower(delta, &never).unwrap().value;
            assert!(lower <= upper, "{kinds:?} {delta}: {lower} {upper}");
            assert!(upper - lower <= 2e-3 * upper + 1e-5, "{kinds:?} {delta}: {lower} {upper}");
            let back = composition.delta(upper, &never).unwrap().value;
            let below = composition.delta_lower(upper, &never).unwrap().value;
            assert!(below <= delta && below <= back, "{kinds:?} {delta}: {below} {back}");
            assert!(
                upper == 0.0 || back <= delta * 1.01 && back >= delta * 0.97,
                "{kinds:?} {delta}: {back}"
            );
        }
    }
}

#[test]
fn more_noise_fewer_steps_and_a_larger_delta_are_more_private() {
    let epsilon = |q, s, k, delta| rounds(&[(q, s, k)]).epsilon(delta, &never).unwrap().value;
    let base = epsilon(0.02, 1.0, 200, 1e-5);
    assert!(epsilon(0.02, 1.1, 200, 1e-5) < base);
    assert!(epsilon(0.02, 1.0, 150, 1e-5) < base);
    assert!(epsilon(0.02, 1.0, 200, 1e-4) < base);
    assert!(epsilon(0.015, 1.0, 200, 1e-5) < base);
    assert!(base < calibration::epsilon(1.0 / 200_f64.sqrt(), 1e-5).unwrap());
}

#[test]
fn calibration_ends_on_the_safe_side() {
    let samplings = [
        Sampling::None,
        Sampling::Poisson { probability: 0.02 },
        Sampling::CyclicPoisson { probability: 0.1, bands: 8 },
        Sampling::FixedSize { batch_size: 10, examples: 1000 },
    ];
    for sampling in samplings {
        let found = noise_multiplier(sampling, 100, 1.5, 1e-6, &never).unwrap();
        let epsilon = |multiplier| {
            let asked = Asked::Epsilon { delta: 1e-6 };
            account(sampling, 100, multiplier, asked, &never).unwrap().epsilon
        };
        assert!(epsilon(found) <= 1.5, "{sampling:?} {found}");
        assert!(epsilon(found * 0.9999) > 1.5, "{sampling:?} {found}");
    }
}

#[test]
fn cyclic_sampling_is_a_round_a_cycle() {
    let asked = Asked::Epsilon { delta: 1e-6 };
    let cyclic = Sampling::CyclicPoisson { probability: 0.05, bands: 10 };
    let found = account(cyclic, 95, 1.3, asked, &never).unwrap();
    let rounds = account(Sampling::Poisson { probability: 0.05 }, 10, 1.3, asked, &never).unwrap();
    assert_eq!(found, rounds);
    assert_eq!((found.method, found.adjacency), (Method::Pld, Adjacency::AddOrRemove));
    assert!(found.lower.is_some_and(|lower| lower <= found.epsilon));
}

#[test]
fn strategies_have_to_fit_the_sampling() {
    let of = |sampling, json: &str| {
        unit(sampling, &MatrixSpec::from_json(json).unwrap(), 16, Participation::Single, &never)
    };
    let banded = r#"{"kind":"toeplitz","coef":[3,4]}"#;
    let blt = r#"{"kind":"buffered_toeplitz","buf_decay":[0.9],"output_scale":[0.5]}"#;
    let cyclic = Sampling::CyclicPoisson { probability: 0.1, bands: 4 };
    let near = |found: Result<f64>, expected: f64| (found.unwrap() / expected - 1.0).abs() < 1e-6;
    assert!(near(of(cyclic, banded), 5.0) && near(of(Sampling::None, banded), 5.0));
    assert_eq!(field(of(cyclic, blt)), "strategy");
    assert_eq!(field(of(Sampling::Poisson { probability: 0.1 }, banded)), "strategy");
    assert!(near(of(Sampling::Poisson { probability: 0.1 }, r#"{"kind":"identity"}"#), 1.0));
    let participation = Participation::FixedEpochs { epochs: 2 };
    let identity = MatrixSpec::from_json(r#"{"kind":"identity"}"#).unwrap();
    assert_eq!(field(unit(cyclic, &identity, 16, participation, &never)), "participation");
    assert!(near(unit(Sampling::None, &identity, 16, participation, &never), 2_f64.sqrt()));
}

#[test]
fn what_is_out_of_range_is_refused() {
    let asked = Asked::Epsilon { delta: 1e-6 };
    let of = |sampling, n, multiplier, asked| field(account(sampling, n, multiplier, asked, &never));
    for probability in [0.0, -0.1, 1.1, f64::NAN] {
        assert_eq!(of(Sampling::Poisson { probability }, 9, 1.0, asked), "sampling_probability");
        let cyclic = Sampling::CyclicPoisson { probability, bands: 2 };
        assert_eq!(of(cyclic, 9, 1.0, asked), "sampling_probability");
    }
    let poisson = Sampling::Poisson { probability: 0.1 };
    for n in [0, limits::MAX_ACCOUNTING_ROUNDS + 1] {
        assert_eq!(of(poisson, n, 1.0, asked), "n");
    }
    for multiplier in [0.0, -1.0, 1e-3, 1e7, f64::NAN, f64::INFINITY] {
        assert_eq!(of(poisson, 9, multiplier, asked), "noise_multiplier");
    }
    for bands in [0, 10] {
        assert_eq!(of(Sampling::CyclicPoisson { probability: 0.1, bands }, 9, 1.0, asked), "bands");
    }
    for (batch_size, examples) in [(0, 5), (6, 5)] {
        assert_eq!(of(Sampling::FixedSize { batch_size, examples }, 9, 1.0, asked), "batch_size");
    }
    for delta in [0.0, 1.0, f64::NAN] {
        assert_eq!(of(poisson, 9, 1.0, Asked::Epsilon { delta }), "delta");
    }
    for epsilon in [-1.0, f64::NAN, f64::INFINITY] {
        assert_eq!(of(poisson, 9, 1.0, Asked::Delta { epsilon }), "epsilon");
    }
    assert_eq!(field(noise_multiplier(poisson, 9, 0.0, 1e-6, &never)), "epsilon");
    assert_eq!(field(Composition::new().epsilon(1e-6, &never)), "rounds");
    assert!(matches!(rounds(&[(0.1, 1.0, 9)]).epsilon(1e-6, &|| true), Err(Error::Cancelled)));
}

/// Whatever is in range is answered, and by a number.
#[test]
fn the_edges_are_answered() {
    for q in [1e-12, 1e-3, 0.999_999] {
        for s in [limits::MIN_NOISE_MULTIPLIER, 1.0, limits::MAX_NOISE_MULTIPLIER] {
            for k in [1, 1_000_000] {
                let composition = rounds(&[(q, s, k)]);
                let found = composition.epsilon(1e-9, &never).unwrap().value;
                let lower = composition.epsilon_lower(1e-9, &never).unwrap().value;
                assert!(lower >= 0.0 && lower <= found && found.is_finite(), "{q} {s} {k}: {lower} {found}");
            }
        }
    }
}
