//! What is drawn is Gaussian noise of the covariance that is promised, for every kind of matrix.
//!
//! The sizes here are for every run of the tests. `noisectl noise verify` does the same at any size;
//! docs/noise.md has what it said of a billion values and more.
#![allow(clippy::unwrap_used, reason = "a panic is a failed test")]

use noised::noise::{MasterKey, NoiseKey};
use noised::session::{KeyOrigin, Noise, NoiseOptions, NoiseSession, NoiseState, Outcome, Source};
use noised::{DType, MatrixSpec, Plan, Precision, SessionSpec, Tree};
use noised_tests::specs;
use noised_verify::{Independence, Report, Verifier, VerifyOptions};

const STDDEV: f64 = 0.75;

/// Verdicts are made at a level at which a sound generator never fails in the life of this project. The key
/// is fixed, so that what passes once passes always.
const LEVEL: f64 = 1e-6;

fn spec(matrix: &MatrixSpec, lanes: usize, dtype: DType, key: KeyOrigin) -> SessionSpec {
    let source = Source::Gaussian(Noise { stddev: STDDEV, key });
    let tree = Tree::flat(lanes as u64, dtype).unwrap();
    SessionSpec { source, ..SessionSpec::new(matrix.clone(), tree) }
}

/// The steps of a session, as a client gets them.
struct Steps {
    session: NoiseSession,
    drawer: noised::session::NoiseDrawer,
}

impl Steps {
    fn new(spec: SessionSpec, key: NoiseKey) -> Self {
        let options = NoiseOptions { lookahead: 8, state: NoiseState::Kept };
        let (session, drawer) = NoiseSession::new(spec.resolve().unwrap(), key, options).unwrap();
        Self { session, drawer }
    }

    fn next(&mut self) -> Vec<u8> {
        let step = self.session.next_step();
        let chunks = self.drawer.answer(&mut self.session, |session| session.fetch(step, 0)).unwrap();
        chunks[0].bytes.to_vec()
    }
}

fn f32s(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

fn f64s(bytes: &[u8]) -> Vec<f64> {
    bytes.as_chunks().0.iter().map(|bytes| f64::from_le_bytes(*bytes)).collect()
}

fn key(seed: u8) -> NoiseKey {
    NoiseKey::from_bytes([seed; 32])
}

fn assert_passes(report: &Report, what: &str) {
    let failures: Vec<_> = report.failures().collect();
    assert!(report.passed(), "{what}: {failures:?}");
}

/// The covariance across steps is that of stddev^2 A A^T, and what is left of the noise without its
/// correlation is standard normal, lane by lane and step by step.
#[test]
fn every_matrix_has_its_covariance() {
    const LANES: usize = 1 << 15;
    const STEPS: usize = 24;
    for (i, matrix) in specs::nested().into_iter().enumerate() {
        let steps = STEPS.min(Plan::new(&matrix).unwrap().horizon().map_or(STEPS, |n| n as usize));
        // In f64, so that what is undone is not what was rounded: the inverse of a matrix may grow quickly.
        let spec = spec(&matrix, LANES, DType::F64, KeyOrigin::Given);
        let mut drawn = Steps::new(spec, key(i as u8 + 1));
        let options = VerifyOptions { level: LEVEL, ..VerifyOptions::default() };
        let mut verifier = Verifier::new(&matrix, STDDEV, LANES, options).unwrap();
        for _ in 0..steps {
            verifier.step(&f64s(&drawn.next())).unwrap();
        }
        assert_passes(&verifier.finish().unwrap(), &matrix.to_json());
    }
}

/// Of 2^25 values in each format: moments, distribution, tails, correlations.
#[test]
fn normals_are_normal() {
    const LANES: usize = 1 << 20;
    for (dtype, seed) in [(DType::F32, 101), (DType::F64, 102)] {
        let spec = spec(&MatrixSpec::Identity, LANES, dtype, KeyOrigin::Given);
        let mut drawn = Steps::new(spec, key(seed));
        let options = VerifyOptions { level: LEVEL, covariance_steps: 8, ..VerifyOptions::default() };
        let mut verifier = Verifier::new(&MatrixSpec::Identity, STDDEV, LANES, options).unwrap();
        for _ in 0..32 {
            let bytes = drawn.next();
            match dtype {
                DType::F32 => verifier.step(&f32s(&bytes)).unwrap(),
                _ => verifier.step(&f64s(&bytes)).unwrap(),
            }
        }
        assert_passes(&verifier.finish().unwrap(), dtype.name());
    }
}

/// Noises of other keys, of other names, of other sources and of other matrices have nothing to do with one
/// another.
#[test]
fn other_noises_are_independent() {
    const LANES: usize = 1 << 18;
    let matrix = MatrixSpec::PrefixSum;
    let derived = |matrix: &MatrixSpec, noise_id: &str| {
        let spec = spec(matrix, LANES, DType::F32, KeyOrigin::Derived { noise_id: noise_id.into() });
        let fingerprint = spec.clone().resolve().unwrap().noise_fingerprint();
        let key = MasterKey::from_bytes([5; 32]).derive(noise_id, &fingerprint);
        Steps::new(spec, key)
    };
    let given = |seed| Steps::new(spec(&matrix, LANES, DType::F32, KeyOrigin::Given), key(seed));
    let horizon = SessionSpec { horizon: Some(50), ..spec(&matrix, LANES, DType::F32, KeyOrigin::Given) };
    let fingerprint = horizon.clone().resolve().unwrap().noise_fingerprint();
    let of_other_horizon = Steps::new(horizon, MasterKey::from_bytes([5; 32]).derive("a", &fingerprint));
    for (what, mut a, mut b) in [
        ("keys", given(1), given(2)),
        ("names", derived(&matrix, "a"), derived(&matrix, "b")),
        ("horizons", derived(&matrix, "a"), of_other_horizon),
    ] {
        let mut independence = Independence::new(&matrix, STDDEV, LANES).unwrap();
        for _ in 0..4 {
            independence.add(&f32s(&a.next()), &f32s(&b.next())).unwrap();
        }
        assert_passes(&Report::judge(independence.findings(), LEVEL), what);
    }
    // The same key twice is what the check is for.
    let mut independence = Independence::new(&matrix, STDDEV, LANES).unwrap();
    independence.add(&f32s(&given(1).next()), &f32s(&given(1).next())).unwrap();
    assert!(!Report::judge(independence.findings(), LEVEL).passed());
}

/// bf16 gradients are noised with noise of full precision: their answers in f32 have far more values than
/// bf16 has.
#[test]
fn noise_for_narrow_gradients_is_not_narrow() {
    const LANES: usize = 1 << 16;
    let noise = Noise { stddev: 1.0, key: KeyOrigin::Given };
    let source = Source::Privatize { noise, answer_dtype: Some(DType::F32) };
    let tree = Tree::flat(LANES as u64, DType::Bf16).unwrap();
    let spec = SessionSpec { source, ..SessionSpec::new(MatrixSpec::Identity, tree) };
    assert_eq!(spec.precision, Precision::F32);
    let options = NoiseOptions { lookahead: 1, state: NoiseState::Kept };
    let (mut session, mut drawer) = NoiseSession::new(spec.resolve().unwrap(), key(9), options).unwrap();
    let buffers = session.take_buffers(1, &mut drawer);
    let drawn = drawer.draw(buffers);
    session.supply(drawn).unwrap();
    let gradient = bytes::Bytes::from(vec![0; 2 * LANES]);
    let Outcome::Answer(answer) = session.apply(0, 0, vec![gradient]).unwrap() else {
        panic!("the noise is there")
    };
    let values: std::collections::HashSet<u32> =
        f32s(&answer[0].bytes).into_iter().map(f32::to_bits).collect();
    assert!(values.len() > LANES * 99 / 100, "{} values among {LANES}", values.len());
}
