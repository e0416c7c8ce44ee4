//! Sessions whose noise the server draws: the same bits however they are drawn, released once, and again
//! after going back.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a panic is a failed test")]

use std::sync::Arc;

use noised::kernel::Backend;
use noised::limits::TILE_LANES;
use noised::noise::{NoiseKey, standard_normals};
use noised::session::{KeyOrigin, Noise, NoiseSession, Outcome, Source, WhenFull};
use noised::{DType, Error, MatrixSpec, Precision, Session, SessionSpec, Shard, Tree};
use noised_tests::driven::{Driven, KEPT, REPLAYED, options, run, tree};
use noised_tests::noises::{self, KEY, STDDEV};
use noised_tests::specs;

fn gaussian(matrix: MatrixSpec, tree: Tree) -> SessionSpec {
    noises::gaussian(noises::given(), matrix, tree)
}

fn f32s(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

const STEPS: u64 = 12;

/// The noise is what a session of the client's input makes of the normals that the library gives away.
#[test]
fn a_session_streams_the_matrix_times_the_normals() {
    let lanes = 3 * TILE_LANES + 77;
    let tree = Tree::flat(lanes as u64, DType::F32).unwrap();
    for matrix in specs::nested() {
        let steps = STEPS.min(noised::Plan::new(&matrix).unwrap().horizon().unwrap_or(STEPS));
        let found = run(Driven::new(gaussian(matrix.clone(), tree.clone()), options(3, KEPT)), steps);
        let mut session = Session::new(SessionSpec::new(matrix.clone(), tree.clone()).resolve().unwrap());
        for (step, found) in found.iter().enumerate() {
            let mut z = vec![0.0_f32; lanes];
            standard_normals(&NoiseKey::from_bytes(KEY), step as u64, 0, &mut z);
            // The radius is scaled before it is turned, so each number may be off by a rounding or two.
            let x: Vec<u8> = z.iter().flat_map(|z| (z * STDDEV as f32).to_le_bytes()).collect();
            let expected = session.apply(step as u64, 0, &x).unwrap();
            let expected = f32s(&expected[0].bytes);
            let scale = expected.iter().fold(1.0_f32, |most, y| most.max(y.abs()));
            for (found, expected) in f32s(found).iter().zip(&expected) {
                let error = (found - expected).abs();
                assert!(error <= 1e-5 * scale, "{} step {step}: {found}, not {expected}", matrix.to_json());
            }
        }
    }
}

/// Instruction sets, lookahead, threads, and what is kept between steps.
#[test]
fn bits_do_not_depend_on_how_they_are_drawn() {
    for matrix in specs::nested() {
        let steps = STEPS.min(noised::Plan::new(&matrix).unwrap().horizon().unwrap_or(STEPS));
        for precision in [Precision::F32, Precision::F64] {
            let spec = SessionSpec { precision, ..gaussian(matrix.clone(), tree()) };
            let expected = run(Driven::on(Backend::REFERENCE, spec.clone(), options(0, KEPT)), steps);
            for backend in Backend::available() {
                for lookahead in [0, 1, 5, 16] {
                    let found = run(Driven::on(backend, spec.clone(), options(lookahead, KEPT)), steps);
                    assert!(found == expected, "{} lookahead {lookahead} on {backend}", matrix.to_json());
                }
            }
        }
    }
}

#[test]
fn bits_do_not_depend_on_threads() {
    let spec = gaussian(specs::noising(), Tree::flat(700_000, DType::F32).unwrap());
    let on = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| run(Driven::new(spec.clone(), options(4, KEPT)), 5))
    };
    let expected = on(1);
    assert!(on(2) == expected && on(5) == expected);
}

#[test]
fn shards_put_together_are_the_whole() {
    let matrix = specs::noising();
    for tree in [tree(), Tree::flat(5000, DType::F32).unwrap()] {
        let whole = run(Driven::new(gaussian(matrix.clone(), tree.clone()), options(2, KEPT)), 6);
        let mut cuts: Vec<Vec<Shard>> =
            [1, 2, 3, 7].map(|count| (0..count).map(|index| Shard::new(index, count)).collect()).to_vec();
        if tree.leaves().len() > 1 {
            cuts.push((0..2).map(|index| Shard::of_leaves(index, 2)).collect());
        }
        for shards in cuts {
            let parts: Vec<_> = shards
                .iter()
                .map(|&shard| {
                    let spec = SessionSpec { shard, ..gaussian(matrix.clone(), tree.clone()) };
                    run(Driven::new(spec, options(1, KEPT)), 6)
                })
                .collect();
            for step in 0..6 {
                let joined: Vec<u8> = parts.iter().flat_map(|part| part[step].clone()).collect();
                assert!(joined == whole[step], "{shards:?} step {step}");
            }
        }
    }
}

/// Banded matrices, scaled or not, with nothing kept.
#[test]
fn replayed_inputs_give_the_same_bits() {
    let scaled = specs::toeplitz(&[1.0, -0.5, 0.25])
        .scale_rows_and_columns(Some(vec![0.5, 2.0, 1.5]), Some(vec![1.5, -1.0, 0.75, 2.0]));
    let long = specs::toeplitz(&(0..32).map(|k| 1.0 / f64::from(k + 1)).collect::<Vec<_>>());
    for matrix in [
        MatrixSpec::Identity,
        MatrixSpec::Diagonal { diag: vec![2.0, 0.5] },
        specs::toeplitz(&[1.0, -0.7]),
        noised::matrix::strategy::banded_inverse_square_root(6, None).unwrap().inverse(),
        noised::matrix::strategy::lambda_cgd(0.7, 40).unwrap().inverse(),
        noised::matrix::strategy::column_normalized_banded(40, 5).unwrap(),
        scaled,
        long,
    ] {
        for precision in [Precision::F32, Precision::F64] {
            let spec = SessionSpec { precision, ..gaussian(matrix.clone(), tree()) };
            let expected = run(Driven::on(Backend::REFERENCE, spec.clone(), options(0, KEPT)), 40);
            for lookahead in [0, 1, 6, 16] {
                let replayed = Driven::new(spec.clone(), options(lookahead, REPLAYED));
                assert!(run(replayed, 40) == expected, "{} lookahead {lookahead}", matrix.to_json());
            }
        }
    }
    for matrix in [MatrixSpec::PrefixSum, specs::blt(&[0.5], &[0.1]), specs::toeplitz(&[1.0; 33])] {
        let resolved = gaussian(matrix, tree()).resolve().unwrap();
        let refused =
            NoiseSession::new(resolved, NoiseKey::from_bytes(KEY), options(0, REPLAYED)).unwrap_err();
        assert!(matches!(refused, Error::Invalid { field, .. } if field == "noise_state"));
    }
}

#[test]
fn a_step_is_released_once_and_answered_again() {
    let mut driven = Driven::new(gaussian(specs::noising(), tree()), options(2, KEPT));
    let first = driven.fetch(0).unwrap();
    assert!(driven.fetch(0).unwrap() == first);
    assert_eq!(driven.fetch(2), Err(Error::WrongStep { requested: 2, expected: 1 }));
    let second = driven.fetch(1).unwrap();
    assert!(first != second);
    assert_eq!(driven.fetch(0), Err(Error::WrongStep { requested: 0, expected: 2 }));
    // From any byte of the last one on.
    let Outcome::Answer(rest) = driven.session.fetch(1, 8).unwrap() else { panic!("it is there") };
    assert_eq!((rest[0].offset, &rest[0].bytes[..], rest[0].replay), (8, &second[8..], true));
    assert!(matches!(driven.session.fetch(2, 8), Err(Error::Invalid { field, .. }) if field == "offset"));
    assert!(
        matches!(driven.session.fetch(1, second.len()), Err(Error::Invalid { field, .. }) if field == "offset")
    );
    assert!(
        matches!(driven.session.apply(2, 0, vec![]), Err(Error::Invalid { field, .. }) if field == "payload")
    );
}

#[test]
fn a_horizon_is_a_wall_for_what_is_drawn_ahead_as_well() {
    let spec = SessionSpec { horizon: Some(3), ..gaussian(specs::noising(), tree()) };
    let mut driven = Driven::new(spec, options(8, KEPT));
    for step in 0..3 {
        driven.look_ahead();
        driven.fetch(step).unwrap();
    }
    assert_eq!(driven.drawer.next_step(), 3);
    assert_eq!(driven.fetch(3), Err(Error::PastHorizon { requested: 3, horizon: 3 }));
}

#[test]
fn what_is_ahead_shows_nowhere() {
    let mut driven = Driven::new(gaussian(specs::noising(), tree()), options(8, KEPT));
    driven.look_ahead();
    assert_eq!(driven.drawer.next_step(), 8);
    assert_eq!((driven.session.next_step(), driven.session.next_offset()), (0, 0));
    assert_eq!(driven.session.released_steps(), 0);
    assert_eq!(driven.rewind(1, false), Err(Error::PastReleased { requested: 1, released: 0 }));
}

/// To every step, from kept states and from none, with noise drawn ahead: the same bits come again.
#[test]
fn going_back_brings_the_same_bits() {
    for (state, matrix) in [(KEPT, specs::noising()), (REPLAYED, specs::toeplitz(&[1.0, -0.5, 0.2]))] {
        for lookahead in [0, 3, 8] {
            let spec = gaussian(matrix.clone(), tree());
            let expected = run(Driven::new(spec.clone(), options(0, KEPT)), 20);
            let mut driven = Driven::new(spec, options(lookahead, state));
            for step in 0..20_u64 {
                driven.look_ahead();
                if step == 4 || step == 11 {
                    driven.keep(step);
                }
                assert!(driven.fetch(step).unwrap() == expected[step as usize]);
            }
            assert_eq!(driven.session.kept_steps(), [4, 11]);
            for to in [20, 19, 13, 11, 7, 4, 3, 0, 12, 20, 5] {
                driven.rewind(to, false).unwrap();
                assert_eq!(driven.session.next_step(), to);
                // Nothing of the step before is kept.
                if let Some(before) = to.checked_sub(1) {
                    assert!(matches!(driven.fetch(before), Err(Error::WrongStep { .. })));
                }
                for step in to..20.min(to + 4) {
                    assert!(driven.fetch(step).unwrap() == expected[step as usize], "step {step} after {to}");
                    driven.look_ahead();
                }
            }
            assert_eq!(driven.session.released_steps(), 20);
            assert_eq!(driven.rewind(21, false), Err(Error::PastReleased { requested: 21, released: 20 }));
            let (last, count) = driven.session.rewinds();
            assert_eq!((count, last.len(), last[0].from_step, last[0].to_step), (11, 11, 20, 20));
        }
    }
}

/// Where a client gives up half way, the session stands where it has come to, and can go on from there.
#[test]
fn going_back_half_way() {
    let spec = gaussian(specs::noising(), tree());
    let expected = run(Driven::new(spec.clone(), options(0, KEPT)), 30);
    let mut driven = Driven::new(spec, options(3, KEPT));
    (0..30).for_each(|step| drop(driven.fetch(step).unwrap()));
    let rewind = driven.session.begin_rewind(25, &mut driven.drawer).unwrap();
    assert_eq!(rewind.steps_left(&driven.drawer), 25);
    driven.drawer.pass_over(25);
    assert_eq!(rewind.steps_left(&driven.drawer), 17);
    driven.session.finish_rewind(rewind, &driven.drawer, 0, false);
    assert_eq!(driven.session.next_step(), 8);
    assert!(driven.fetch(8).unwrap() == expected[8]);
    let rewind = driven.session.begin_rewind(25, &mut driven.drawer).unwrap();
    assert_eq!(rewind.steps_left(&driven.drawer), 16);
    driven.session.finish_rewind(rewind, &driven.drawer, 0, false);
    driven.rewind(25, false).unwrap();
    assert!(driven.fetch(25).unwrap() == expected[25]);
}

#[test]
fn kept_states_are_bounded() {
    let mut driven = Driven::new(gaussian(specs::noising(), tree()), options(1, KEPT));
    let keep =
        |driven: &mut Driven, step, when_full| driven.session.keep_state(step, &driven.drawer, when_full, 2);
    for step in 0..2 {
        keep(&mut driven, step, WhenFull::Refuse).unwrap();
        keep(&mut driven, step, WhenFull::Refuse).unwrap();
        driven.fetch(step).unwrap();
    }
    assert_eq!(keep(&mut driven, 2, WhenFull::Refuse), Err(Error::KeptStates { limit: 2 }));
    assert_eq!(
        keep(&mut driven, 3, WhenFull::ReleaseOldest),
        Err(Error::WrongStep { requested: 3, expected: 2 })
    );
    assert_eq!(driven.session.kept_steps(), [0, 1]);
    keep(&mut driven, 2, WhenFull::ReleaseOldest).unwrap();
    assert_eq!(driven.session.kept_steps(), [1, 2]);
}

#[test]
fn noise_that_is_not_next_is_not_taken() {
    let mut driven = Driven::new(gaussian(specs::noising(), tree()), options(1, KEPT));
    let mut other = Driven::new(gaussian(specs::noising(), tree()), options(1, KEPT));
    other.fetch(0).unwrap();
    let buffers = other.session.take_buffers(1, &mut other.drawer);
    let drawn = other.drawer.draw(buffers);
    assert!(matches!(driven.session.supply(drawn), Err(Error::WrongStep { .. })));
}

#[test]
fn bad_noises_are_refused() {
    let with = |stddev, key| SessionSpec {
        source: Source::Gaussian(Noise { stddev, key }),
        ..SessionSpec::new(MatrixSpec::Identity, tree())
    };
    for stddev in [-1.0, f64::NAN, f64::INFINITY, -0.5e-300, 1e-310] {
        let error = with(stddev, KeyOrigin::Fresh).resolve().unwrap_err();
        assert!(matches!(error, Error::Invalid { field, .. } if field == "source.stddev"), "{stddev}");
    }
    let narrow = |stddev| SessionSpec { precision: Precision::F32, ..with(stddev, KeyOrigin::Fresh) };
    for stddev in [1e39, 1e-40] {
        assert!(narrow(stddev).resolve().is_err());
    }
    narrow(0.0).resolve().unwrap();
    for noise_id in ["", "a b", "ü", &"x".repeat(129)] {
        let error = with(1.0, KeyOrigin::Derived { noise_id: noise_id.into() }).resolve().unwrap_err();
        assert!(matches!(error, Error::Invalid { field, .. } if field == "source.key.noise_id"));
    }
    let resolved = Arc::new(with(1.0, KeyOrigin::Given).resolve().unwrap());
    let error = NoiseSession::new(resolved, NoiseKey::from_bytes(KEY), options(65, KEPT)).unwrap_err();
    assert!(matches!(error, Error::Invalid { field, .. } if field == "lookahead"));
    let input = SessionSpec::new(MatrixSpec::Identity, tree()).resolve().unwrap();
    assert!(NoiseSession::new(input, NoiseKey::from_bytes(KEY), options(0, KEPT)).is_err());
    let mut input = Session::new(with(1.0, KeyOrigin::Given).resolve().unwrap());
    assert!(matches!(input.apply(0, 0, &[]), Err(Error::Invalid { field, .. }) if field == "source"));
}

/// Shards have one noise between them; whatever else a session is bound to has another.
#[test]
fn keys_are_derived_from_all_that_a_noise_is_bound_to() {
    let master = noised::noise::MasterKey::from_bytes([3; 32]);
    let spec = || {
        let key = KeyOrigin::Derived { noise_id: "run".into() };
        SessionSpec {
            source: Source::Gaussian(Noise { stddev: 1.0, key }),
            ..SessionSpec::new(MatrixSpec::PrefixSum, tree())
        }
    };
    let check = |spec: SessionSpec| {
        let resolved = spec.resolve().unwrap();
        master.derive("run", &resolved.noise_fingerprint()).check()
    };
    let whole = check(spec());
    for shard in [Shard::new(0, 2), Shard::new(1, 2), Shard::of_leaves(1, 2)] {
        assert_eq!(check(SessionSpec { shard, ..spec() }), whole);
    }
    let noise = |stddev| Noise { stddev, key: KeyOrigin::Derived { noise_id: "run".into() } };
    for other in [
        SessionSpec { matrix: MatrixSpec::Identity, ..spec() },
        SessionSpec { tree: Tree::flat(5, DType::F32).unwrap(), ..spec() },
        SessionSpec { precision: Precision::F32, ..spec() },
        SessionSpec { horizon: Some(9), ..spec() },
        SessionSpec { source: Source::Gaussian(noise(2.0)), ..spec() },
        SessionSpec { source: Source::Privatize { noise: noise(1.0), answer_dtype: None }, ..spec() },
    ] {
        assert_ne!(check(other), whole);
    }
}

/// Answers that nobody reads hold memory, and no more than so much.
#[test]
fn answers_that_are_held_bound_what_is_drawn() {
    let mut driven = Driven::new(gaussian(specs::noising(), tree()), options(2, KEPT));
    let mut held = Vec::new();
    while driven.session.room() > 0 {
        driven.draw(1);
        let Outcome::Answer(answer) = driven.session.fetch(driven.session.next_step(), 0).unwrap() else {
            panic!("it is drawn")
        };
        held.push(answer);
    }
    assert_eq!(held.len(), 2 + noised::limits::MAX_STEPS_UNDER_WAY);
    held.truncate(3);
    // The last answer is the session's as well.
    assert_eq!(driven.session.room(), 2);
    // What is kept with a state has room of its own.
    driven.draw(2);
    assert_eq!(driven.session.room(), 0);
    driven.keep(driven.session.next_step());
    assert_eq!(driven.session.room(), 2);
}

/// The largest standard deviation that an error names, and whether it is one about that.
fn named_by(error: &Error) -> f64 {
    let Error::Invalid { field, rule } = error else { panic!("{error}") };
    assert_eq!(field, "source.stddev");
    let named = rule.strip_prefix("must be at most ").and_then(|rest| rest.split(' ').next());
    named.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("{rule}"))
}

/// For every format, precision, source and kind of matrix: what is refused names what is not, and of that no
/// value is infinite.
#[test]
fn noise_fits_the_format_of_its_answers() {
    let unbounded = MatrixSpec::PrefixSum;
    let matrices = [
        (MatrixSpec::Identity, 1.0),
        (MatrixSpec::Diagonal { diag: vec![1.0, -3.0, 0.0] }, 3.0),
        (specs::toeplitz(&[1.0, -0.5, 0.2]), 1.7),
        (MatrixSpec::PrefixSum.inverse(), 2.0),
        (MatrixSpec::Dense { rows: vec![vec![1.0], vec![2.0, 2.0]] }, 4.0),
    ];
    for (dtype, range) in [(DType::F16, 65504.0), (DType::Bf16, 3.39e38), (DType::F32, 3.4e38)] {
        for (matrix, growth) in &matrices {
            for privatizes in [false, true] {
                let with = |stddev: f64| {
                    let noise = Noise { stddev, ..noises::given() };
                    let source = match privatizes {
                        true => Source::Privatize { noise, answer_dtype: Some(dtype) },
                        false => Source::Gaussian(noise),
                    };
                    let tree = Tree::flat(3000, if privatizes { DType::F32 } else { dtype }).unwrap();
                    SessionSpec { source, ..SessionSpec::new(matrix.clone(), tree) }
                };
                let most = named_by(&with(range).resolve().unwrap_err());
                let share = if privatizes { 0.5 } else { 1.0 };
                let expected = share * range / (7.54 * growth);
                assert!((most / expected - 1.0).abs() < 0.01, "{dtype} {matrix:?}: {most} is not {expected}");
                let named = with(most);
                assert!(named.clone().resolve().is_ok());
                assert!(with(most * 1.000_001).resolve().is_err());
                if dtype == DType::F16 && !privatizes {
                    let answers = run(Driven::new(named, options(0, KEPT)), 2);
                    let infinite = |bytes: &[u8; 2]| u16::from_le_bytes(*bytes) & 0x7fff == 0x7c00;
                    assert!(answers.iter().all(|step| !step.as_chunks().0.iter().any(infinite)));
                }
            }
        }
    }
    // Of what sums without end, each row is as large as its norm.
    let noise = |stddev| Noise { stddev, ..noises::given() };
    let long = |stddev| SessionSpec {
        horizon: Some(1000),
        ..noises::gaussian(noise(stddev), unbounded.clone(), Tree::flat(5, DType::F16).unwrap())
    };
    let most = named_by(&long(1e4).resolve().unwrap_err());
    assert!((most - 65504.0 / (7.54 * 1000_f64.sqrt())).abs() < 1.0, "{most}");
    // The narrowest leaf counts, and of wide leaves the arithmetic.
    let mixed = noises::gaussian(noise(3e4), MatrixSpec::Identity, tree());
    assert!(named_by(&mixed.resolve().unwrap_err()) < 8700.0);
    let narrow = SessionSpec {
        precision: Precision::F32,
        ..noises::gaussian(noise(1e38), MatrixSpec::Identity, Tree::flat(5, DType::F64).unwrap())
    };
    assert!(named_by(&narrow.clone().resolve().unwrap_err()) < 4.6e37);
    assert!(SessionSpec { precision: Precision::F64, ..narrow }.resolve().is_ok());
}

/// A session that goes on with the noise of another that is gone begins where it is told, however it draws.
#[test]
fn a_noise_is_gone_on_with() {
    let key = || NoiseKey::from_bytes(KEY);
    for (state, matrix) in [(KEPT, specs::noising()), (REPLAYED, specs::toeplitz(&[1.0, -0.5, 0.2]))] {
        for lookahead in [0, 3] {
            let spec = SessionSpec { horizon: Some(30), ..gaussian(matrix.clone(), tree()) };
            let expected = run(Driven::new(spec.clone(), options(0, KEPT)), 30);
            for first in [0, 1, 9, 17, 30] {
                let resumed = || {
                    let resolved = spec.clone().resolve().unwrap();
                    let (session, drawer) =
                        NoiseSession::resumed(resolved, key(), options(lookahead, state), first).unwrap();
                    Driven { session, drawer }
                };
                let mut driven = resumed();
                assert_eq!(driven.drawer.steps_behind(), first);
                assert_eq!((driven.session.next_step(), driven.session.released_steps()), (first, first));
                for before in [0, first.saturating_sub(1)].into_iter().filter(|&before| before < first) {
                    let refused = driven.fetch(before);
                    assert_eq!(refused, Err(Error::WrongStep { requested: before, expected: first }));
                }
                for step in first..30 {
                    assert!(
                        driven.fetch(step).unwrap() == expected[step as usize],
                        "step {step} from {first}"
                    );
                    driven.look_ahead();
                }
                assert!(matches!(driven.fetch(30), Err(Error::PastHorizon { .. })));
                // The way there may be gone step by step, and on from where it was called off; back is an
                // explicit act.
                let mut driven = resumed();
                let mut rewind = driven.session.begin_rewind(first, &mut driven.drawer).unwrap();
                if rewind.steps_left(&driven.drawer) > 8 {
                    driven.drawer.pass_over(8);
                    driven.session.finish_rewind(rewind, &driven.drawer, 17, false);
                    rewind = driven.session.begin_rewind(first, &mut driven.drawer).unwrap();
                }
                while rewind.steps_left(&driven.drawer) > 0 {
                    driven.drawer.pass_over(first);
                }
                driven.session.finish_rewind(rewind, &driven.drawer, 17, false);
                driven.keep(first);
                for to in [first, 3.min(first), first] {
                    driven.rewind(to, false).unwrap();
                    for step in to..30 {
                        assert!(
                            driven.fetch(step).unwrap() == expected[step as usize],
                            "step {step} from {to}"
                        );
                    }
                }
            }
            let resolved = || spec.clone().resolve().unwrap();
            let past = NoiseSession::resumed(resolved(), key(), options(0, state), 31).unwrap_err();
            assert_eq!(past, Error::PastHorizon { requested: 31, horizon: 30 });
        }
    }
    let private = noises::privatize(noises::given(), specs::noising(), tree(), None).resolve().unwrap();
    let refused = NoiseSession::resumed(private, key(), options(0, KEPT), 3).unwrap_err();
    assert!(matches!(refused, Error::Invalid { field, .. } if field == "source"));
}

/// A proof is of one key, one step and some lanes.
#[test]
fn proofs_of_steps_differ() {
    let proof = |key: u8, step, lanes| NoiseKey::from_bytes([key; 32]).proof_of_step(step, &lanes);
    let one = proof(1, 5, 0..10);
    assert_eq!(one, proof(1, 5, 0..10));
    for other in [proof(2, 5, 0..10), proof(1, 6, 0..10), proof(1, 5, 0..11), proof(1, 5, 1..10)] {
        assert_ne!(one, other);
    }
    assert_eq!(noised::noise::StepProof::from_slice(one.as_bytes()), Some(one));
    assert_eq!(noised::noise::StepProof::from_slice(&[0; 31]), None);
}
