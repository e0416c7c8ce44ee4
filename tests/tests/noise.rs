//! Sessions whose noise the server draws: the same bits however they are drawn, released once, and again after going back.
#![allow(clippy::unwrap_used, reason = "a panic is a failed test")]

use std::sync::Arc;

use bytes::Bytes;
use noised::kernel::Backend;
use noised::limits::TILE_LANES;
use noised::noise::{NoiseKey, standard_normals};
use noised::session::{
    KeyOrigin, Noise, NoiseDrawer, NoiseOptions, NoiseSession, NoiseState, Outcome, Source, WhenFull,
};
use noised::{DType, Error, Leaf, MatrixSpec, Precision, Session, SessionSpec, Shard, Tree};
use noised_tests::specs;

/// Both halves, put to work together.
struct Driven {
    session: NoiseSession,
    drawer: NoiseDrawer,
}

const STDDEV: f64 = 1.5;

fn key() -> NoiseKey {
    NoiseKey::from_bytes([9; 32])
}

fn noise() -> Noise {
    Noise { stddev: STDDEV, key: KeyOrigin::Given }
}

fn gaussian(matrix: MatrixSpec, tree: Tree) -> SessionSpec {
    SessionSpec { source: Source::Gaussian(noise()), ..SessionSpec::new(matrix, tree) }
}

fn privatize(matrix: MatrixSpec, tree: Tree, answer_dtype: Option<DType>) -> SessionSpec {
    let source = Source::Privatize { noise: noise(), answer_dtype };
    SessionSpec { source, ..SessionSpec::new(matrix, tree) }
}

fn options(lookahead: u32, state: NoiseState) -> NoiseOptions {
    NoiseOptions { lookahead, state }
}

const KEPT: NoiseState = NoiseState::Kept;
const REPLAYED: NoiseState = NoiseState::Replayed;

impl Driven {
    fn new(spec: SessionSpec, options: NoiseOptions) -> Self {
        Self::on(Backend::best(), spec, options)
    }

    fn on(backend: Backend, spec: SessionSpec, options: NoiseOptions) -> Self {
        let resolved = spec.resolve().unwrap();
        let (session, drawer) = NoiseSession::with_backend(resolved, key(), options, backend).unwrap();
        Self { session, drawer }
    }

    fn draw(&mut self, steps: usize) {
        let drawn = self.drawer.draw(self.session.take_buffers(steps));
        self.session.supply(drawn).unwrap();
    }

    /// Draws as many as the options have it.
    fn look_ahead(&mut self) {
        while self.session.wanted_steps() > 0 {
            let before = self.drawer.next_step();
            self.draw(self.session.wanted_steps());
            if self.drawer.next_step() == before {
                return;
            }
        }
    }

    fn answer(
        &mut self,
        mut ask: impl FnMut(&mut NoiseSession) -> Result<Outcome, Error>,
    ) -> Result<Vec<u8>, Error> {
        loop {
            match ask(&mut self.session)? {
                Outcome::Answer(chunks) => {
                    return Ok(chunks.iter().flat_map(|chunk| chunk.bytes.to_vec()).collect());
                }
                Outcome::NeedsNoise => self.draw(1),
            }
        }
    }

    fn fetch(&mut self, step: u64) -> Result<Vec<u8>, Error> {
        self.answer(|session| session.fetch(step, 0))
    }

    fn privatize(&mut self, step: u64, gradient: &[u8]) -> Result<Vec<u8>, Error> {
        let gradient = Bytes::copy_from_slice(gradient);
        self.answer(|session| session.apply(step, 0, vec![gradient.clone()]))
    }

    fn rewind(&mut self, step: u64, allow_divergence: bool) -> Result<(), Error> {
        let rewind = self.session.begin_rewind(step, &mut self.drawer)?;
        while rewind.steps_left(&self.drawer) > 0 {
            self.drawer.pass_over(step);
        }
        self.session.finish_rewind(rewind, &self.drawer, 17, allow_divergence);
        Ok(())
    }

    fn keep(&mut self, step: u64) {
        self.session.keep_state(step, &self.drawer, WhenFull::Refuse, 8).unwrap();
    }
}

fn run(mut driven: Driven, steps: u64) -> Vec<Vec<u8>> {
    (0..steps)
        .map(|step| {
            driven.look_ahead();
            driven.fetch(step).unwrap()
        })
        .collect()
}

fn tree() -> Tree {
    Tree::new(vec![
        Leaf::new("a", DType::F32, [1500]),
        Leaf::new("b", DType::Bf16, [3, 7]),
        Leaf::new("c", DType::F32, [2000]),
        Leaf::new("d", DType::F64, [5]),
        Leaf::new("e", DType::F16, [700]),
    ])
    .unwrap()
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
            standard_normals(&key(), step as u64, 0, &mut z);
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
        let refused = NoiseSession::new(resolved, key(), options(0, REPLAYED)).unwrap_err();
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

/// A step's gradient, in the formats of a tree.
fn gradient(tree: &Tree, step: u64) -> Vec<u8> {
    noised_tests::trees::payload(tree, step)
}

/// For every format of gradients and answers: the sum of gradient and noise in full precision, rounded once.
#[test]
fn privatize_adds_the_noise() {
    let matrix = specs::noising();
    for answer_dtype in [None, Some(DType::F32), Some(DType::Bf16), Some(DType::F64)] {
        let whole = tree();
        let in_f64 = Tree::flat(whole.lanes(), DType::F64).unwrap();
        for precision in [Precision::F32, Precision::F64] {
            let spec = SessionSpec { precision, ..privatize(matrix.clone(), whole.clone(), answer_dtype) };
            let mut driven = Driven::new(spec, options(1, KEPT));
            let noise_spec = SessionSpec { precision, ..gaussian(matrix.clone(), in_f64.clone()) };
            let mut noise = Driven::new(noise_spec, options(0, KEPT));
            for step in 0..4 {
                let gradient = gradient(&whole, step);
                let g = noised_tests::trees::lanes(&whole, &gradient);
                let y = noised_tests::trees::lanes(&in_f64, &noise.fetch(step).unwrap());
                let found = driven.privatize(step, &gradient).unwrap();
                let answers = answer_dtype.map_or(whole.clone(), |d| Tree::flat(whole.lanes(), d).unwrap());
                let formats = noised_tests::trees::formats(&answers);
                let found = noised_tests::trees::lanes(&answers, &found);
                for (lane, found) in found.iter().enumerate() {
                    let expected = match precision {
                        Precision::F32 => f64::from(g[lane] as f32 + y[lane] as f32),
                        Precision::F64 => g[lane] + y[lane],
                    };
                    let allowed = noised_tests::trees::roundoff(formats[lane]) * expected.abs() + 1e-7;
                    assert!((found - expected).abs() <= allowed, "lane {lane}: {found}, not {expected}");
                }
            }
        }
    }
}

#[test]
fn a_stddev_of_zero_leaves_the_gradient_as_it_is() {
    let source = Source::Privatize { noise: Noise { stddev: 0.0, ..noise() }, answer_dtype: None };
    let spec = SessionSpec { source, ..SessionSpec::new(specs::noising(), tree()) };
    let mut driven = Driven::new(spec, options(1, KEPT));
    for step in 0..3 {
        let gradient = gradient(&tree(), step);
        let found = driven.privatize(step, &gradient).unwrap();
        assert_eq!(
            noised_tests::trees::lanes(&tree(), &found),
            noised_tests::trees::lanes(&tree(), &gradient)
        );
    }
}

/// Cut anywhere, with tiles sent again: each tile once, the same bytes.
#[test]
fn privatize_in_chunks_is_privatize_at_once() {
    let spec = privatize(specs::noising(), Tree::flat(5 * 1024 + 9, DType::F32).unwrap(), Some(DType::Bf16));
    let whole = spec.tree.clone();
    let mut at_once = Driven::new(spec.clone(), options(0, KEPT));
    let mut in_chunks = Driven::new(spec, options(2, KEPT));
    for step in 0..4 {
        let gradient = gradient(&whole, step);
        let expected = at_once.privatize(step, &gradient).unwrap();
        let mut found = vec![0; expected.len()];
        for (start, end) in [(0, 2), (1, 2), (0, 4), (3, 6)] {
            let bytes = (start * 4096).min(gradient.len())..(end * 4096).min(gradient.len());
            let piece = Bytes::copy_from_slice(&gradient[bytes.clone()]);
            loop {
                match in_chunks.session.apply(step, bytes.start, vec![piece.clone()]).unwrap() {
                    Outcome::NeedsNoise => in_chunks.draw(1),
                    Outcome::Answer(chunks) => {
                        for chunk in chunks {
                            found[chunk.offset..chunk.offset + chunk.bytes.len()]
                                .copy_from_slice(&chunk.bytes);
                        }
                        break;
                    }
                }
            }
        }
        assert!(found == expected);
        // The last step again, and with another byte.
        assert!(in_chunks.privatize(step, &gradient).unwrap() == expected);
        let mut other = gradient.clone();
        other[5000] ^= 1;
        let mismatch = Error::PayloadMismatch { requested: step, expected: step + 1, offset: 4096 };
        assert_eq!(in_chunks.privatize(step, &other), Err(mismatch));
    }
}

/// After going back: the same gradient is answered with the same bytes, another one is refused, unless divergence is
/// allowed.
#[test]
fn one_noise_is_not_put_under_two_gradients() {
    let mut driven = Driven::new(privatize(specs::noising(), tree(), None), options(2, KEPT));
    let gradients: Vec<_> = (0..6).map(|step| gradient(&tree(), step)).collect();
    let answers: Vec<_> =
        (0..6).map(|step| driven.privatize(step, &gradients[step as usize]).unwrap()).collect();
    driven.rewind(2, false).unwrap();
    let mut other = gradients[2].clone();
    other[102] ^= 0x40;
    for _ in 0..2 {
        assert_eq!(driven.privatize(2, &other), Err(Error::Diverged { requested: 2, expected: 2 }));
    }
    for step in 2..6 {
        assert!(driven.privatize(step, &gradients[step as usize]).unwrap() == answers[step as usize]);
    }
    // A step that is new is taken with any gradient.
    driven.privatize(6, &gradients[0]).unwrap();
    driven.rewind(2, true).unwrap();
    let diverged = driven.privatize(2, &other).unwrap();
    assert!(diverged != answers[2]);
    // From then on the new gradient is the one it was released under.
    driven.rewind(2, false).unwrap();
    assert_eq!(driven.privatize(2, &gradients[2]), Err(Error::Diverged { requested: 2, expected: 2 }));
    assert!(driven.privatize(2, &other).unwrap() == diverged);
    let allowed: Vec<bool> =
        driven.session.rewinds().0.iter().map(|rewind| rewind.allow_divergence).collect();
    assert_eq!(allowed, [false, true, false]);
}

/// A step that was released in part is bound to that part.
#[test]
fn a_step_released_in_part_is_bound_to_that_part() {
    let whole = Tree::flat(4 * 1024, DType::F32).unwrap();
    let mut driven = Driven::new(privatize(specs::noising(), whole.clone(), None), options(1, KEPT));
    driven.privatize(0, &gradient(&whole, 0)).unwrap();
    let first = gradient(&whole, 1);
    driven.look_ahead();
    let half = Bytes::copy_from_slice(&first[..2 * 4096]);
    let Outcome::Answer(part) = driven.session.apply(1, 0, vec![half]).unwrap() else {
        panic!("it is drawn")
    };
    assert_eq!((driven.session.next_step(), driven.session.next_offset()), (1, 2 * 4096));
    assert_eq!(driven.session.released_steps(), 2);
    driven.rewind(0, false).unwrap();
    driven.privatize(0, &gradient(&whole, 0)).unwrap();
    let mut other = first.clone();
    other[4096] ^= 1;
    assert_eq!(driven.privatize(1, &other), Err(Error::Diverged { requested: 1, expected: 1 }));
    // The other half was not released under anything.
    let mut other = first.clone();
    other[3 * 4096] ^= 1;
    let answer = driven.privatize(1, &other).unwrap();
    assert!(answer[..2 * 4096] == part[0].bytes[..]);
    driven.rewind(1, false).unwrap();
    assert_eq!(driven.privatize(1, &first), Err(Error::Diverged { requested: 1, expected: 1 }));
}

/// Of a step that was released before, nothing comes before all of the gradient is there.
#[test]
fn answers_to_a_step_released_before_wait_for_the_whole_gradient() {
    let whole = Tree::flat(4 * 1024, DType::F32).unwrap();
    let mut driven = Driven::new(privatize(specs::noising(), whole.clone(), None), options(1, KEPT));
    let first = gradient(&whole, 0);
    let answer = driven.privatize(0, &first).unwrap();
    driven.rewind(0, false).unwrap();
    driven.look_ahead();
    let chunk = |range: std::ops::Range<usize>| vec![Bytes::copy_from_slice(&first[range])];
    assert_eq!(driven.session.apply(0, 0, chunk(0..8192)).unwrap(), Outcome::Answer(vec![]));
    assert!(matches!(driven.session.apply(0, 12288, chunk(12288..16384)), Err(Error::Invalid { .. })));
    assert_eq!(driven.session.next_offset(), 0);
    // A client that starts again.
    assert_eq!(driven.session.apply(0, 0, chunk(0..4096)).unwrap(), Outcome::Answer(vec![]));
    let Outcome::Answer(found) = driven.session.apply(0, 4096, chunk(4096..16384)).unwrap() else {
        panic!("it is drawn")
    };
    assert!(found.iter().flat_map(|chunk| chunk.bytes.to_vec()).collect::<Vec<_>>() == answer);
}

#[test]
fn noise_that_is_not_next_is_not_taken() {
    let mut driven = Driven::new(gaussian(specs::noising(), tree()), options(1, KEPT));
    let mut other = Driven::new(gaussian(specs::noising(), tree()), options(1, KEPT));
    other.fetch(0).unwrap();
    let drawn = other.drawer.draw(other.session.take_buffers(1));
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
    let error = NoiseSession::new(resolved, key(), options(65, KEPT)).unwrap_err();
    assert!(matches!(error, Error::Invalid { field, .. } if field == "lookahead"));
    let input = SessionSpec::new(MatrixSpec::Identity, tree()).resolve().unwrap();
    assert!(NoiseSession::new(input, key(), options(0, KEPT)).is_err());
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

/// Divergence that is allowed from a step on is allowed from there on, also where the way to that step was called off.
#[test]
fn a_rewind_that_is_called_off_allows_no_more_than_was_asked() {
    let mut driven = Driven::new(privatize(specs::noising(), tree(), None), options(0, KEPT));
    let gradients: Vec<_> = (0..12).map(|step| gradient(&tree(), step)).collect();
    let answers: Vec<_> =
        (0..12).map(|step| driven.privatize(step, &gradients[step as usize]).unwrap()).collect();
    let rewind = driven.session.begin_rewind(10, &mut driven.drawer).unwrap();
    driven.session.finish_rewind(rewind, &driven.drawer, 0, true);
    assert_eq!(driven.session.next_step(), 0);
    for step in 0..10 {
        let expected = Error::Diverged { requested: step, expected: step };
        assert_eq!(driven.privatize(step, &gradients[11]), Err(expected));
        assert!(driven.privatize(step, &gradients[step as usize]).unwrap() == answers[step as usize]);
    }
    for step in 10..12 {
        driven.privatize(step, &gradients[0]).unwrap();
    }
}
