//! The rule of a session: every step is released once, a broken connection loses nothing, a horizon is a
//! wall.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a panic is a failed test")]

use std::sync::Mutex;

use bytes::Bytes;
use noised::session::{Assembler, Run};
use noised::{DType, Error, MatrixSpec, Precision, Session, SessionSpec, Tree};
use noised_tests::{drive, specs, trees};

struct Fixture {
    session: Session,
    payloads: Vec<Vec<u8>>,
    answers: Vec<Vec<u8>>,
    bounds: Vec<usize>,
}

fn fixture_of(matrix: &MatrixSpec, tree: &Tree, horizon: Option<u64>) -> Fixture {
    let rows = noised::Plan::new(matrix).unwrap().horizon().unwrap_or(8).min(8);
    let spec = SessionSpec { horizon, ..SessionSpec::new(matrix.clone(), tree.clone()) };
    let session = Session::new(spec.resolve().unwrap());
    let bounds = drive::tile_bounds(session.resolved().layout());
    Fixture {
        payloads: (0..8).map(|t| trees::payload(tree, t)).collect(),
        answers: drive::straight(matrix, tree, session.resolved().spec().precision, rows),
        bounds,
        session,
    }
}

fn fixture() -> Fixture {
    fixture_of(&specs::noising(), &trees::six_tiles(), None)
}

impl Fixture {
    /// Applies tiles of a step with the right bytes and checks the answer; `replay` is what every chunk has
    /// to say.
    fn apply(&mut self, step: u64, tiles: std::ops::Range<usize>, replay: bool) {
        let bytes = self.bounds[tiles.start]..self.bounds[tiles.end];
        let payload = &self.payloads[step as usize][bytes.clone()];
        let chunks = self.session.apply(step, bytes.start, payload).unwrap();
        let (answer, replays) = drive::join(bytes.start, &chunks);
        assert!(answer == self.answers[step as usize][bytes], "step {step} tiles {tiles:?}");
        assert!(replays.iter().all(|&is| is == replay), "step {step} tiles {tiles:?}");
    }

    fn refused(&mut self, step: u64, tiles: std::ops::Range<usize>) -> Error {
        let bytes = self.bounds[tiles.start]..self.bounds[tiles.end];
        let payload = self.payloads[step as usize][bytes.clone()].to_vec();
        drive::refused(&mut self.session, step, bytes.start, &payload)
    }

    fn tiles(&self) -> usize {
        self.bounds.len() - 1
    }

    fn whole(&self) -> std::ops::Range<usize> {
        0..self.tiles()
    }
}

fn invalid_field(error: &Error) -> &str {
    match error {
        Error::Invalid { field, .. } => field,
        other => panic!("not about a field: {other}"),
    }
}

#[test]
fn a_step_asked_again_is_answered_with_the_same_bytes() {
    let mut f = fixture();
    for step in 0..4 {
        f.apply(step, f.whole(), false);
        assert_eq!((f.session.next_step(), f.session.next_offset()), (step + 1, 0));
        for _ in 0..3 {
            let before = drive::snapshot(&f.session);
            f.apply(step, f.whole(), true);
            for tile in 0..f.tiles() {
                f.apply(step, tile..tile + 1, true);
            }
            f.apply(step, 1..4, true);
            assert!(drive::snapshot(&f.session) == before, "a replay changed the session");
        }
    }
}

#[test]
fn a_step_asked_again_with_other_bytes_is_refused() {
    let mut f = fixture();
    f.apply(0, f.whole(), false);
    f.apply(1, f.whole(), false);
    let total = f.payloads[1].len();
    for byte in [0, 1, 4095, 4096, 10_000, total - 1] {
        let mut payload = f.payloads[1].clone();
        payload[byte] ^= 0x10;
        let error = drive::refused(&mut f.session, 1, 0, &payload);
        let tile = *f.bounds.iter().rfind(|&&start| start <= byte).unwrap() as u64;
        assert_eq!(error, Error::PayloadMismatch { requested: 1, expected: 2, offset: tile });
    }
    // The bytes of another step are other bytes.
    let payload = f.payloads[0].clone();
    let error = drive::refused(&mut f.session, 1, 0, &payload);
    assert_eq!(error, Error::PayloadMismatch { requested: 1, expected: 2, offset: 0 });
    f.apply(1, f.whole(), true);
    f.apply(2, f.whole(), false);
}

#[test]
fn older_and_later_steps_are_refused_and_the_expected_one_is_named() {
    let mut f = fixture();
    assert_eq!(f.refused(1, f.whole()), Error::WrongStep { requested: 1, expected: 0 });
    for step in 0..4 {
        f.apply(step, f.whole(), false);
    }
    let expected = 4;
    for requested in [0, 1, 2, 5, 6, 7] {
        assert_eq!(f.refused(requested, f.whole()), Error::WrongStep { requested, expected });
    }
    let payload = f.payloads[0].clone();
    for requested in [u64::MAX, u64::MAX - 1, 1 << 62] {
        let error = drive::refused(&mut f.session, requested, 0, &payload);
        assert_eq!(error, Error::WrongStep { requested, expected });
    }
}

#[test]
fn a_horizon_is_a_wall() {
    let banded = noised::matrix::strategy::column_normalized_banded(5, 2).unwrap();
    let toeplitz = MatrixSpec::Toeplitz { coef: vec![1.0, 0.5], column_normalize_for_n: Some(5) };
    let dense = MatrixSpec::Dense { rows: (1..=5).map(|i| vec![1.0; i]).collect() };
    // A matrix ends by itself; a session may end sooner; the shortest factor ends a product.
    let cases = [
        (specs::noising(), Some(3), 3),
        (banded.clone(), None, 5),
        (banded.clone(), Some(5), 5),
        (banded.clone(), Some(2), 2),
        (toeplitz.clone(), None, 5),
        (toeplitz.inverse(), Some(1), 1),
        (dense.clone(), None, 5),
        (dense.clone().inverse(), None, 5),
        (specs::product([MatrixSpec::Dense { rows: vec![vec![2.0]] }, banded]), None, 1),
        (dense.scale_rows_and_columns(Some(vec![2.0]), None), None, 5),
    ];
    for (matrix, asked, horizon) in cases {
        let mut f = fixture_of(&matrix, &trees::six_tiles(), asked);
        assert_eq!(f.session.resolved().spec().horizon, Some(horizon));
        for step in 0..horizon {
            assert_eq!(f.refused(horizon, f.whole()), Error::PastHorizon { requested: horizon, horizon });
            f.apply(step, f.whole(), false);
        }
        for requested in horizon..8 {
            assert_eq!(f.refused(requested, f.whole()), Error::PastHorizon { requested, horizon });
        }
        let payload = f.payloads[0].clone();
        let error = drive::refused(&mut f.session, u64::MAX, 0, &payload);
        assert_eq!(error, Error::PastHorizon { requested: u64::MAX, horizon });
        // The last step is still answered, and none before it.
        f.apply(horizon - 1, f.whole(), true);
        if horizon > 1 {
            assert_eq!(
                f.refused(horizon - 2, f.whole()),
                Error::WrongStep { requested: horizon - 2, expected: horizon }
            );
        }
        assert_eq!((f.session.next_step(), f.session.next_offset()), (horizon, 0));
    }
}

#[test]
fn a_step_cut_off_is_finished_from_any_tile() {
    for done in 1..6 {
        for from in 0..=done {
            let mut f = fixture();
            f.apply(0, f.whole(), false);
            f.apply(1, 0..done, false);
            assert_eq!((f.session.next_step(), f.session.next_offset()), (1, f.bounds[done]));
            // What was applied comes again as a replay, by itself or before what is new.
            let start = f.bounds[from];
            let chunks = f.session.apply(1, start, &f.payloads[1][start..]).unwrap();
            let (answer, replays) = drive::join(start, &chunks);
            assert!(answer == f.answers[1][start..], "{done} tiles applied, sent again from tile {from}");
            let replayed = f.bounds[done] - start;
            assert!(replays[..replayed].iter().all(|&replay| replay));
            assert!(replays[replayed..].iter().all(|&replay| !replay));
            f.apply(1, f.whole(), true);
            f.apply(2, f.whole(), false);
        }
    }
}

#[test]
fn a_step_cut_off_is_not_finished_with_other_bytes() {
    let mut f = fixture();
    f.apply(0, 0..3, false);
    for byte in [0, 5000, f.bounds[3] - 1] {
        let mut payload = f.payloads[0].clone();
        payload[byte] ^= 1;
        let offset = *f.bounds.iter().rfind(|&&start| start <= byte).unwrap() as u64;
        let error = drive::refused(&mut f.session, 0, 0, &payload);
        assert_eq!(error, Error::PayloadMismatch { requested: 0, expected: 0, offset });
    }
    // Nor is a tile skipped.
    assert_eq!(invalid_field(&f.refused(0, 4..6)), "offset");
    f.apply(0, 3..6, false);
    f.apply(0, 0..6, true);
}

#[test]
fn the_window_of_kept_answers_slides() {
    let mut f = fixture();
    f.apply(0, f.whole(), false);
    f.apply(1, f.whole(), false);
    for done in 1..f.tiles() {
        f.apply(2, done - 1..done, false);
        for tile in 0..f.tiles() {
            if tile < done {
                // Its answer of step 1 gave way to that of step 2.
                assert_eq!(f.refused(1, tile..f.tiles()), Error::WrongStep { requested: 1, expected: 2 });
                f.apply(2, tile..done, true);
            } else {
                f.apply(1, tile..f.tiles(), true);
                f.apply(1, tile..tile + 1, true);
            }
        }
        assert_eq!(f.refused(0, f.whole()), Error::WrongStep { requested: 0, expected: 2 });
        assert_eq!(f.refused(3, 0..1), Error::WrongStep { requested: 3, expected: 2 });
    }
}

#[test]
fn runs_that_are_not_whole_tiles_are_refused() {
    let mut f = fixture();
    f.apply(0, f.whole(), false);
    f.apply(1, 0..2, false);
    let total = *f.bounds.last().unwrap();
    let cases = [
        (0, 0, "payload"),
        (total, 0, "payload"),
        (1, 4096, "offset"),
        (4, 4096, "offset"),
        (4095, 1, "offset"),
        (0, 1, "payload"),
        (0, 4, "payload"),
        (0, 4095, "payload"),
        (0, total - 1, "payload"),
        (0, total + 1, "payload"),
        (0, total + 4, "payload"),
        (4096, total, "payload"),
        (total - 4, 4, "offset"),
        (total, 1, "payload"),
        (total + 4096, 4096, "payload"),
        (usize::MAX, 1, "payload"),
        (usize::MAX - 4095, 4096, "payload"),
        (usize::MAX, 0, "payload"),
        (f.bounds[3], 4096, "offset"),
    ];
    for (offset, length, field) in cases {
        for step in [0, 1] {
            // The bytes of step 0 past tile 2 may be asked again, so the gap is one of step 1 alone.
            if step == 0 && offset == f.bounds[3] {
                continue;
            }
            let error = drive::refused(&mut f.session, step, offset, &vec![0; length]);
            assert_eq!(invalid_field(&error), field, "step {step}, {length} bytes from {offset}: {error}");
        }
    }
    f.apply(1, 2..6, false);
}

#[test]
fn a_session_of_one_lane_takes_only_the_whole_lane() {
    let tree = trees::of_shapes(DType::F64, &[&[]]);
    let mut f = fixture_of(&MatrixSpec::PrefixSum, &tree, None);
    for length in [1, 7, 9, 16] {
        assert_eq!(invalid_field(&drive::refused(&mut f.session, 0, 0, &vec![0; length])), "payload");
    }
    f.apply(0, 0..1, false);
    f.apply(0, 0..1, true);
    f.apply(1, 0..1, false);
}

/// Two clients send each step, cut differently, at the same time: each gets the right answer, and every tile
/// is computed once.
#[test]
fn two_clients_racing_on_a_step_get_the_same_answer() {
    let f = fixture();
    let layout = f.session.resolved().layout().clone();
    let session = Mutex::new(f.session);
    let client = |step: u64, size: usize| {
        let (mut answer, mut computed) = (Vec::new(), 0);
        let mut assembler = Assembler::new(layout.clone());
        for (i, frame) in f.payloads[step as usize].chunks(size).enumerate() {
            let frame = Bytes::copy_from_slice(frame);
            if let Some(Run { step, offset, pieces }) =
                assembler.push(step, (i * size) as u64, vec![frame]).unwrap()
            {
                let payload = pieces.concat();
                let (bytes, replays) =
                    drive::join(offset, &session.lock().unwrap().apply(step, offset, &payload).unwrap());
                answer.extend(bytes);
                computed += replays.iter().filter(|&&replay| !replay).count();
            }
        }
        (answer, computed)
    };
    for step in 0..8 {
        let answers = std::thread::scope(|scope| {
            let clients = [1024, 5000].map(|size| scope.spawn(move || client(step, size)));
            clients.map(|client| client.join().unwrap())
        });
        assert!(answers.iter().all(|(answer, _)| *answer == f.answers[step as usize]), "step {step}");
        assert_eq!(answers.iter().map(|(_, computed)| computed).sum::<usize>(), f.payloads[0].len());
    }
}

#[test]
fn what_differs_is_named_when_a_session_is_resumed() {
    let whole = SessionSpec::new(specs::noising(), trees::six_tiles());
    let session = Session::new(whole.clone().resolve().unwrap());
    let same = whole.clone().resolve().unwrap();
    assert_eq!(session.resolved().check_same(&same), Ok(()));
    let shard = noised::Shard::new(1, 2);
    let others = [
        ("matrix", SessionSpec { matrix: MatrixSpec::Identity, ..whole.clone() }),
        ("tree", SessionSpec { tree: Tree::flat(5308, DType::F32).unwrap(), ..whole.clone() }),
        ("shard", SessionSpec { shard, ..whole.clone() }),
        ("precision", SessionSpec { precision: Precision::F64, ..whole.clone() }),
        ("horizon", SessionSpec { horizon: Some(1000), ..whole }),
    ];
    for (field, other) in others {
        let other = other.resolve().unwrap();
        let error = Error::FingerprintMismatch { field };
        assert_eq!(session.resolved().check_same(&other), Err(error.clone()));
        assert_eq!(other.check_same(session.resolved()), Err(error));
        assert_ne!(other.fingerprint(), session.resolved().fingerprint());
    }
}
