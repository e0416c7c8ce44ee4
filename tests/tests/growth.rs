//! Matrices that grow, and matrices that cancel: what is released is the noise that the description says, and
//! is finite.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a panic is a failed test")]

use bytes::Bytes;
use noised::matrix::strategy;
use noised::session::{NoiseSession, Outcome, Source};
use noised::{DType, Error, Leaf, MatrixSpec, Plan, Precision, SessionSpec, Tree};
use noised_tests::driven::{Driven, KEPT, options};
use noised_tests::specs::{blt, product, toeplitz};
use noised_tests::{noises, trees};

/// Invertible matrices, most of which have an inverse that grows.
fn factors() -> Vec<MatrixSpec> {
    let scales = (Some(vec![0.5, 2.0, -1.0]), Some(vec![1.5, 1.0]));
    let dense = vec![vec![1.0], vec![3.0, 1.0], vec![1.0, 4.0, 2.0]];
    vec![
        MatrixSpec::PrefixSum,
        MatrixSpec::Diagonal { diag: vec![2.0, 3.0, 0.7] },
        MatrixSpec::MomentumSgd { momentum: 1.0, learning_rates: None },
        MatrixSpec::MomentumSgd { momentum: 0.9, learning_rates: Some(vec![1.0, 0.3]) },
        toeplitz(&[1.0, -1.1]),
        toeplitz(&[1.0, 2.0]),
        toeplitz(&[1.0, 3.0, 1.0]),
        blt(&[0.9, 0.5], &[-0.7, -0.5]),
        MatrixSpec::Toeplitz { coef: vec![1.0, -1.1], column_normalize_for_n: Some(600) },
        strategy::column_normalized_banded(600, 5).unwrap(),
        MatrixSpec::Dense { rows: dense },
        toeplitz(&[1.0, -1.1]).scale_rows_and_columns(scales.0, scales.1),
    ]
}

fn plan_of(matrix: &MatrixSpec) -> Plan {
    Plan::new(matrix).unwrap()
}

#[test]
fn a_matrix_beside_its_inverse_leaves_nothing() {
    let inverse = |m: &MatrixSpec| m.clone().inverse();
    for m in factors() {
        let scale = || Some(vec![2.0, 5.0]);
        let pairs = [
            product([m.clone(), inverse(&m)]),
            product([inverse(&m), m.clone()]),
            product([
                product([MatrixSpec::PrefixSum, m.clone()]),
                product([inverse(&m), MatrixSpec::PrefixSum.inverse()]),
            ]),
            product([inverse(&inverse(&m)), inverse(&product([MatrixSpec::Identity, m.clone()]))]),
            product([m.clone(), inverse(&inverse(&inverse(&m)))]),
            product([
                m.clone().scale_rows_and_columns(None, scale()),
                MatrixSpec::Diagonal { diag: vec![2.0, 5.0, 5.0] }.inverse(),
                inverse(&m),
            ]),
        ];
        for pair in pairs {
            let plan = plan_of(&pair);
            assert_eq!((plan.planes(), plan.planes_moved()), (0, (0, 0)), "{}", pair.to_json());
            assert!(plan.is_toeplitz(), "{}", pair.to_json());
            assert_eq!(plan.horizon(), plan_of(&m).horizon(), "{}", pair.to_json());
        }
        // Between three of them, the two that cancel are found.
        let three = product([m.clone(), inverse(&m), m.clone()]);
        assert_eq!(plan_of(&three).planes(), plan_of(&m).planes());
    }
}

#[test]
fn toeplitz_matrices_cancel_across_each_other() {
    let unstable = || toeplitz(&[1.0, -1.1]);
    let between = product([unstable(), MatrixSpec::PrefixSum, toeplitz(&[2.0, 0.5]), unstable().inverse()]);
    assert_eq!(plan_of(&between).planes(), 2);
    // Written otherwise: zeros at the end, and the first difference.
    let zeros = product([toeplitz(&[1.0, -1.1, 0.0]), unstable().inverse()]);
    assert_eq!(plan_of(&zeros).planes(), 0);
    let difference = toeplitz(&[1.0, -1.0]);
    for pair in [
        product([MatrixSpec::PrefixSum, difference.clone()]),
        product([difference.inverse(), MatrixSpec::PrefixSum.inverse()]),
    ] {
        assert_eq!(plan_of(&pair).planes(), 0, "{}", pair.to_json());
    }
    // A schedule stands between them: they do not commute with it.
    let schedule = MatrixSpec::Diagonal { diag: vec![1.0, 2.0] };
    assert_eq!(plan_of(&product([unstable(), schedule, unstable().inverse()])).planes(), 2);
    for other in [toeplitz(&[1.0, -1.2]), toeplitz(&[1.0, -1.1, 0.1]), blt(&[0.5], &[1.0])] {
        let planes = plan_of(&other).planes() + 1;
        assert_eq!(plan_of(&product([other, unstable().inverse()])).planes(), planes);
    }
}

/// What is left of a product is still the matrix that is described.
#[test]
fn what_cancels_is_the_dense_matrix() {
    let tree = Tree::flat(3, DType::F64).unwrap();
    for m in factors() {
        for matrix in [
            product([m.clone(), MatrixSpec::PrefixSum, m.clone().inverse()]),
            product([MatrixSpec::PrefixSum, m.clone().inverse(), m.clone(), toeplitz(&[1.0, 0.5])]),
            m.clone().scale_rows_and_columns(Some(vec![3.0]), None).inverse(),
        ] {
            let n = plan_of(&matrix).horizon().unwrap_or(9).min(9);
            let dense = noised::DenseMatrix::new(&matrix, n as usize).unwrap();
            let mut session =
                noised_tests::drive::session(&matrix, &tree, Precision::F64, noised::kernel::Backend::best());
            let inputs: Vec<Vec<f64>> =
                (0..n).map(|t| trees::lanes(&tree, &trees::payload(&tree, t))).collect();
            for t in 0..n {
                let payload = trees::payload(&tree, t);
                let answer = noised_tests::drive::step(&mut session, t, &payload, &[usize::MAX / 2]);
                for (lane, found) in trees::lanes(&tree, &answer).into_iter().enumerate() {
                    let x: Vec<f64> = inputs.iter().map(|step| step[lane]).collect();
                    let expected = dense.apply_row(t as usize, &x);
                    let unit = dense.apply_row_magnitude(t as usize, &x).max(1.0) * 1e4;
                    assert!((found - expected).abs() <= 1e-13 * unit, "{}: {found}", matrix.to_json());
                }
            }
        }
    }
}

/// A product of a matrix with its own inverse is noise as it was drawn, however long it runs.
#[test]
fn noise_does_not_vanish_in_a_product_that_cancels() {
    const STEPS: u64 = 400;
    let tree = Tree::flat(256, DType::F32).unwrap();
    let plain = SessionSpec::new(MatrixSpec::Identity, tree.clone());
    let mut expected =
        Driven::new(SessionSpec { source: Source::Gaussian(noises::given()), ..plain }, options(2, KEPT));
    let mut released = Vec::new();
    for step in 0..STEPS {
        released.push(expected.fetch(step).unwrap());
    }
    for m in factors().into_iter().filter(|m| plan_of(m).horizon().is_none_or(|n| n >= STEPS)) {
        let matrix = product([m.clone(), m.inverse()]);
        let mut driven =
            Driven::new(noises::gaussian(noises::given(), matrix.clone(), tree.clone()), options(2, KEPT));
        let gradient = vec![0; tree.byte_len() as usize];
        let mut under = Driven::new(
            noises::privatize(noises::given(), matrix.clone(), tree.clone(), None),
            options(2, KEPT),
        );
        for step in 0..STEPS {
            let expected = &released[step as usize];
            assert!(driven.fetch(step).unwrap() == *expected, "{} step {step}", matrix.to_json());
            assert!(
                under.privatize(step, &gradient).unwrap() == *expected,
                "{} step {step}",
                matrix.to_json()
            );
        }
    }
}

/// Sums of sums that leave the range of f16, beyond the steps that the bound on a stddev looks at.
fn overflowing(answers: Source) -> SessionSpec {
    let tree =
        Tree::new(vec![Leaf::new("a", DType::F32, [1500]), Leaf::new("b", DType::F16, [700])]).unwrap();
    let learning_rates = Some(vec![0.5, 1.0]);
    let matrix = MatrixSpec::MomentumSgd { momentum: 1.0, learning_rates };
    SessionSpec { source: answers, ..SessionSpec::new(matrix, tree) }
}

#[test]
fn noise_that_is_not_finite_is_never_released() {
    let noise = || noised::session::Noise { stddev: 4.0, ..noises::given() };
    let tree = overflowing(Source::Input).tree;
    let mut driven = Driven::new(overflowing(Source::Gaussian(noise())), options(4, KEPT));
    let ended = (0..1000).find(|&step| match driven.fetch(step) {
        Ok(answer) => {
            let lanes = trees::lanes(&tree, &answer);
            assert!(lanes.iter().all(|lane| lane.is_finite()), "step {step}");
            false
        }
        Err(error) => {
            assert_eq!(error, Error::NoiseNotFinite { requested: step });
            true
        }
    });
    let ended = ended.unwrap();
    assert!(ended > 0);
    // It stays so, and what was released before is answered again.
    assert_eq!(driven.fetch(ended), Err(Error::NoiseNotFinite { requested: ended }));
    driven.rewind(ended - 1, false).unwrap();
    driven.fetch(ended - 1).unwrap();
    assert_eq!(driven.fetch(ended), Err(Error::NoiseNotFinite { requested: ended }));
}

/// A gradient that is not finite is refused, and another may come in its place.
#[test]
fn gradients_that_are_not_finite_are_refused() {
    let tree = Tree::new(vec![
        Leaf::new("a", DType::F32, [1500]),
        Leaf::new("b", DType::F16, [700]),
        Leaf::new("c", DType::Bf16, [1000]),
        Leaf::new("d", DType::F64, [1000]),
    ])
    .unwrap();
    let spec = SessionSpec {
        precision: Precision::F32,
        ..noises::privatize(noises::given(), MatrixSpec::PrefixSum, tree.clone(), None)
    };
    let good = |step| trees::payload(&tree, step);
    let (mut driven, mut expected) =
        (Driven::new(spec.clone(), options(1, KEPT)), Driven::new(spec, options(1, KEPT)));
    let layout = noised::tree::Layout::new(&tree, noised::Shard::WHOLE).unwrap();
    for (step, lane) in [0, 1499, 1500, 2199, 2200, 3000, 3200, 4199].into_iter().enumerate() {
        let step = step as u64;
        let byte = layout.byte_of_lane(lane);
        let infinities: &[u8] = match layout.spans(lane..lane + 1).next().unwrap().dtype {
            DType::F32 => &f32::NEG_INFINITY.to_le_bytes(),
            DType::F64 => &f64::NAN.to_le_bytes(),
            DType::Bf16 => &0x7f80_u16.to_le_bytes(),
            DType::F16 => &0x7c00_u16.to_le_bytes(),
        };
        let mut bad = good(step);
        bad[byte..byte + infinities.len()].copy_from_slice(infinities);
        for _ in 0..2 {
            match driven.privatize(step, &bad) {
                Err(Error::Invalid { field, rule }) => {
                    assert!(field == "payload" && rule.contains(&format!("lane {lane} ")), "{field}: {rule}");
                }
                other => panic!("step {step}: {other:?}"),
            }
            assert_eq!(driven.session.next_step(), step);
        }
        assert!(
            driven.privatize(step, &good(step)).unwrap() == expected.privatize(step, &good(step)).unwrap()
        );
        // The same gradient again is a replay, and another is not.
        assert!(
            driven.privatize(step, &good(step)).unwrap() == expected.privatize(step, &good(step)).unwrap()
        );
        assert!(matches!(driven.privatize(step, &bad), Err(Error::PayloadMismatch { .. })));
    }
    // f64 gradients whose sums leave the range of the f32 that they are added in.
    let mut large = good(8);
    let byte = layout.byte_of_lane(3200);
    large[byte..byte + 8].copy_from_slice(&1e300_f64.to_le_bytes());
    assert!(matches!(driven.privatize(8, &large), Err(Error::Invalid { field, .. }) if field == "payload"));
    // What was released of a step stays so: after a rewind the same gradient gives the same bytes.
    let answers: Vec<_> = (8..10).map(|step| driven.privatize(step, &good(step)).unwrap()).collect();
    driven.rewind(8, false).unwrap();
    for (step, answer) in (8..).zip(&answers) {
        assert!(driven.privatize(step, &good(step)).unwrap() == *answer);
    }
}

/// A gradient may take half of the range of its answer, whatever the noise: a refusal that depended on the
/// noise of the step would tell of it, before the step has a gradient.
#[test]
fn the_range_of_a_gradient_does_not_depend_on_the_noise() {
    // Half of the largest number, and the number after it.
    let edges: [(DType, Vec<u8>, Vec<u8>); 4] = [
        (DType::F16, 0x77ff_u16.to_le_bytes().into(), 0x7800_u16.to_le_bytes().into()),
        (DType::Bf16, 0x7eff_u16.to_le_bytes().into(), 0x7f00_u16.to_le_bytes().into()),
        (DType::F32, (f32::MAX / 2.0).to_le_bytes().into(), (f32::MAX / 2.0).next_up().to_le_bytes().into()),
        (DType::F64, (f64::MAX / 2.0).to_le_bytes().into(), (f64::MAX / 2.0).next_up().to_le_bytes().into()),
    ];
    for (dtype, largest, too_large) in edges {
        let tree = Tree::flat(3, dtype).unwrap();
        let precision = if dtype == DType::F64 { Precision::F64 } else { Precision::F32 };
        let spec = noises::privatize(noises::given(), MatrixSpec::PrefixSum, tree, None);
        let mut driven = Driven::new(SessionSpec { precision, ..spec }, options(1, KEPT));
        for step in 0..64 {
            for sign in [0, 0x80] {
                let gradient = |edge: &[u8]| {
                    let mut bytes = edge.repeat(3);
                    bytes.chunks_mut(edge.len()).for_each(|number| number[edge.len() - 1] |= sign);
                    bytes
                };
                match driven.privatize(step, &gradient(&too_large)) {
                    Err(Error::Invalid { field, rule }) => {
                        assert!(field == "payload" && rule.contains("half of the range"), "{field}: {rule}");
                        assert!(rule.contains("lane 0 "), "{rule}");
                    }
                    other => panic!("{dtype}, step {step}: {other:?}"),
                }
                if u64::from(sign >> 7) == step % 2 {
                    driven.privatize(step, &gradient(&largest)).unwrap();
                    break;
                }
            }
        }
    }
}

/// A run in the middle of a step is refused; what came before it stands, and the answers to the step before
/// that the run took the place of are not told in part.
#[test]
fn a_refused_run_leaves_the_others_as_they_are() {
    const TILE: usize = 1024 * 4;
    let tree = Tree::flat(4 * 1024, DType::F32).unwrap();
    let spec = noises::privatize(noises::given(), MatrixSpec::PrefixSum, tree.clone(), None);
    let mut driven = Driven::new(spec.clone(), options(2, KEPT));
    let mut expected = Driven::new(spec, options(2, KEPT));
    let payloads = [trees::payload(&tree, 0), trees::payload(&tree, 1)];
    let whole: Vec<Vec<u8>> =
        (0..2).map(|step| expected.privatize(step as u64, &payloads[step]).unwrap()).collect();
    driven.privatize(0, &payloads[0]).unwrap();
    driven.draw(1);
    let mut run = |step: u64, tiles: std::ops::Range<usize>, bytes: &[u8]| {
        let piece = Bytes::copy_from_slice(&bytes[tiles.start * TILE..tiles.end * TILE]);
        let answer =
            |session: &mut NoiseSession| session.apply(step, tiles.start * TILE, vec![piece.clone()]);
        match answer(&mut driven.session)? {
            Outcome::Answer(chunks) => {
                Ok(chunks.iter().flat_map(|chunk| chunk.bytes.to_vec()).collect::<Vec<u8>>())
            }
            Outcome::NeedsNoise => panic!("the noise is drawn"),
        }
    };
    assert!(run(1, 0..1, &payloads[1]).unwrap() == whole[1][..TILE]);
    let mut bad = payloads[1].clone();
    bad[2 * TILE..2 * TILE + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    assert!(matches!(run(1, 1..3, &bad), Err(Error::Invalid { field, .. }) if field == "payload"));
    assert!(matches!(run(0, 1..3, &payloads[0]), Err(Error::WrongStep { requested: 0, expected: 1 })));
    assert!(run(0, 3..4, &payloads[0]).unwrap() == whole[0][3 * TILE..]);
    assert!(run(1, 0..2, &payloads[1]).unwrap() == whole[1][..2 * TILE]);
    assert!(run(1, 2..4, &payloads[1]).unwrap() == whole[1][2 * TILE..]);
    assert!(run(1, 0..4, &payloads[1]).unwrap() == whole[1]);
}

/// Of every matrix here, the noise is gone or infinite after some steps: the session is refused, with the
/// step, and a shorter horizon is taken.
#[test]
fn noise_that_would_overflow_or_vanish_is_refused() {
    let tree = |precision: Precision| Tree::flat(64, precision.dtype()).unwrap();
    let spec = |matrix: &MatrixSpec, precision, horizon| SessionSpec {
        precision,
        horizon,
        ..noises::gaussian(noises::given(), matrix.clone(), tree(precision))
    };
    let schedule = || MatrixSpec::Diagonal { diag: vec![1.0, 2.0, 1.0] };
    let scaled = |coef: &[f64], by: f64| toeplitz(&coef.iter().map(|c| c * by).collect::<Vec<_>>());
    let growing = [
        toeplitz(&[1.0, -1.1]).inverse(),
        toeplitz(&[1.0, 2.0]).inverse(),
        toeplitz(&[1.0, 3.0, 1.0]).inverse(),
        blt(&[0.9, 0.5], &[-0.7, -0.5]).inverse(),
        product([MatrixSpec::PrefixSum, toeplitz(&[1.0, -1.1]).inverse()]),
        // Cancels, and not by the letter.
        product([scaled(&[1.0, -1.1], 3.0), toeplitz(&[1.0, -1.1]).inverse()]),
        product([toeplitz(&[1.0, -1.1]), schedule(), toeplitz(&[1.0, -1.1]).inverse()]),
        product([toeplitz(&[1.0, -2.0]), toeplitz(&[1.0, -2.0000001]).inverse()]),
        product([
            toeplitz(&[1.0, -0.2, -0.99]),
            toeplitz(&[1.0, -1.1]),
            toeplitz(&[1.0, -1.3, 0.02, 1.0]).inverse(),
        ]),
    ];
    for matrix in growing {
        for precision in [Precision::F32, Precision::F64] {
            for horizon in [None, Some(20_000)] {
                let what = matrix.to_json();
                let Err(Error::Invalid { field, rule }) = spec(&matrix, precision, horizon).resolve() else {
                    panic!("{what} {precision} {horizon:?}: taken");
                };
                assert_eq!(field, "horizon", "{what}");
                let most: u64 = rule
                    .strip_prefix("must be at most ")
                    .unwrap()
                    .split(' ')
                    .next()
                    .unwrap()
                    .parse()
                    .unwrap();
                assert!(rule.contains(&format!("from step {most} on")), "{rule}");
                assert_eq!(rule.contains("F64"), precision == Precision::F32, "{rule}");
                assert!(most > 4, "{what}: {rule}");
                // Up to there, the noise is what the dense matrix says.
                let most = most.min(300);
                let mut driven = Driven::new(spec(&matrix, precision, Some(most)), options(4, KEPT));
                for step in 0..most {
                    let answer = driven.fetch(step).unwrap();
                    let lanes = trees::lanes(&tree(precision), &answer);
                    // Where rounding errors are 1%, a few lanes may come to zero.
                    let noisy = lanes.iter().filter(|lane| lane.is_finite() && **lane != 0.0).count();
                    assert!(noisy > 56, "{what} {precision}: {noisy} of 64 lanes at step {step} of {most}");
                }
            }
        }
    }
}

/// Rounding errors are about as large as is told: measured against the same lanes in f64.
#[test]
fn rounding_errors_are_those_that_are_told() {
    const STEPS: u64 = 2000;
    let lanes = 64;
    let momentum =
        |rates: &[f64]| MatrixSpec::MomentumSgd { momentum: 1.0, learning_rates: Some(rates.to_vec()) };
    let schedule = || MatrixSpec::Diagonal { diag: vec![1.0, 2.0] };
    for matrix in [
        MatrixSpec::PrefixSum,
        toeplitz(&[1.0, 0.5, 0.375, 0.3125]).inverse(),
        product([MatrixSpec::PrefixSum, toeplitz(&[1.0, 0.5, 0.375]).inverse()]),
        product([momentum(&[1.0]), momentum(&[2.0]).inverse()]),
        product([MatrixSpec::PrefixSum.inverse(), schedule(), MatrixSpec::PrefixSum]),
        blt(&[0.9, 0.5], &[0.1, 0.2]).inverse(),
    ] {
        let of = |precision, dtype| {
            let spec = SessionSpec {
                precision,
                horizon: Some(STEPS),
                ..SessionSpec::new(matrix.clone(), Tree::flat(lanes, dtype).unwrap())
            };
            noised::Session::new(spec.resolve().unwrap())
        };
        let (mut narrow, mut wide) = (of(Precision::F32, DType::F32), of(Precision::F64, DType::F64));
        let (mut errors, mut values) = (0.0, 0.0);
        let mut seed = 17_u64;
        for step in 0..STEPS {
            let signs: Vec<f32> = (0..lanes)
                .map(|_| {
                    seed =
                        seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    (seed >> 40) as f32 / (1 << 23) as f32 - 1.0
                })
                .collect();
            let in_f32: Vec<u8> = signs.iter().flat_map(|x| x.to_le_bytes()).collect();
            let in_f64: Vec<u8> = signs.iter().flat_map(|x| f64::from(*x).to_le_bytes()).collect();
            let a = narrow.apply(step, 0, &in_f32).unwrap().remove(0).bytes;
            let b = wide.apply(step, 0, &in_f64).unwrap().remove(0).bytes;
            if step < STEPS - 16 {
                continue;
            }
            for (a, b) in a.as_chunks().0.iter().zip(b.as_chunks().0) {
                let (a, b) = (f64::from(f32::from_le_bytes(*a)), f64::from_le_bytes(*b));
                (errors, values) = (errors + (a - b).powi(2), values + b * b);
            }
        }
        let measured: f64 = (errors / values).sqrt();
        let spec = SessionSpec {
            horizon: Some(STEPS),
            ..SessionSpec::new(matrix.clone(), Tree::flat(lanes, DType::F32).unwrap())
        };
        let told = noised::analysis::growth_of(&spec.matrix, Precision::F32, Some(STEPS)).unwrap();
        assert_eq!((told.steps, told.sound_steps), (STEPS, None), "{}", matrix.to_json());
        let ratio = told.relative_error / measured;
        assert!((0.2..8.0).contains(&ratio), "{}: {measured:e}, told {told:?}", matrix.to_json());
    }
}

#[test]
fn what_grows_is_told() {
    let told = |matrix: &MatrixSpec, precision| {
        noised::analysis::describe(matrix, None, Some(precision)).unwrap().growth
    };
    let unstable = toeplitz(&[1.0, -1.1]).inverse();
    let cancelling = product([toeplitz(&[3.0, -3.3]), unstable.clone()]);
    let (narrow, wide) = (told(&unstable, Precision::F32), told(&unstable, Precision::F64));
    // 1.1^t leaves the range of f32 at step 930, and that of f64 at step 7450.
    assert!(narrow.overflows && (850..930).contains(&narrow.sound_steps.unwrap()), "{narrow:?}");
    assert!(wide.overflows && (7300..7450).contains(&wide.sound_steps.unwrap()), "{wide:?}");
    // 1.1^t takes the last of 24 bits, and of 53, to a hundredth of what is given.
    let (narrow, wide) = (told(&cancelling, Precision::F32), told(&cancelling, Precision::F64));
    assert!(!narrow.overflows && (80..160).contains(&narrow.sound_steps.unwrap()), "{narrow:?}");
    assert!(!wide.overflows && (280..370).contains(&wide.sound_steps.unwrap()), "{wide:?}");
    // A stable matrix, and one that grows as slowly as sums do.
    for matrix in [toeplitz(&[1.0, 0.5]).inverse(), MatrixSpec::PrefixSum, noised_tests::specs::noising()] {
        for precision in [Precision::F32, Precision::F64] {
            let growth = told(&matrix, precision);
            assert!(growth.sound_steps.is_none() && growth.relative_error < 1e-3, "{growth:?}");
            assert!(growth.relative_error > 0.0);
        }
    }
    // A pole so near the unit circle that it shows after many steps.
    let slowly = told(&toeplitz(&[1.0, -1.001]).inverse(), Precision::F32);
    assert!(slowly.overflows && (60_000..120_000).contains(&slowly.sound_steps.unwrap()), "{slowly:?}");
}

/// Sums of noise that a strategy correlates: their rounding errors are a random walk, which grows as a power
/// of the step.
#[test]
fn sums_through_a_strategy_serve_for_ever() {
    let decays = [0.9214, 0.9565, 0.9672, 0.99, 0.5];
    let scales = [0.1, 0.05, 0.02, 0.01, 0.2];
    let strategies = (2..=5)
        .map(|buffers| blt(&decays[..buffers], &scales[..buffers]))
        .chain([blt(&decays[..3], &[1.3541, -3.4588, 2.5286])])
        .chain([4, 8, 16].map(|bands| strategy::banded_square_root(bands, None).unwrap()))
        .chain([2, 3, 4].map(|buffers| strategy::blt_from_rational_approximation(buffers).unwrap()));
    let momentum = |momentum| MatrixSpec::MomentumSgd { momentum, learning_rates: None };
    for strategy in strategies {
        for workload in [MatrixSpec::PrefixSum, momentum(0.9), momentum(0.95), momentum(0.99)] {
            let matrix = product([workload, strategy.clone().inverse()]);
            let sessions =
                [(None, Precision::F32, DType::F32), (Some(10_000_000), Precision::F64, DType::F64)];
            for (horizon, precision, dtype) in sessions {
                let spec = SessionSpec {
                    precision,
                    horizon,
                    source: Source::Gaussian(noises::given()),
                    ..SessionSpec::new(matrix.clone(), Tree::flat(3, dtype).unwrap())
                };
                let refused = spec.resolve().err();
                assert!(refused.is_none(), "{horizon:?} {precision}: {} {refused:?}", matrix.to_json());
            }
        }
    }
}
