//! A session written out and read back goes on bit for bit; anything else than what was written is refused.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a panic is a failed test")]

use std::io::{self, Read};

use noised::kernel::Backend;
use noised::{DType, Error, MatrixSpec, Precision, Session, Tree};
use noised_tests::{drive, specs, trees};
use proptest::prelude::*;
use proptest::sample::Index;

/// Bytes before the header: magic, version, length.
const PREAMBLE: usize = 15 + 4 + 8;

fn restore(bytes: &[u8]) -> noised::Result<Session> {
    Session::restore(bytes)
}

fn trees_to_hold() -> Vec<Tree> {
    let mut all = vec![trees::mixed(), trees::of_shapes(DType::F32, &[&[3000], &[17, 121], &[250]])];
    all.extend(DType::ALL.into_iter().flat_map(trees::odd));
    all
}

/// In the middle of its third step.
fn halfway() -> Session {
    let tree = trees::of_shapes(DType::F16, &[&[1024], &[7, 11], &[0], &[1100]]);
    let matrix = specs::product([MatrixSpec::PrefixSum, specs::blt(&[0.5], &[0.25]).inverse()]);
    let mut session = drive::session(&matrix, &tree, Precision::F32, Backend::best());
    for step in 0..2 {
        drive::step(&mut session, step, &trees::payload(&tree, step), &[usize::MAX / 2]);
    }
    let first_tile = drive::tile_bounds(session.resolved().layout())[1];
    session.apply(2, 0, &trees::payload(&tree, 2)[..first_tile]).unwrap();
    session
}

fn is_damaged(result: noised::Result<Session>) -> String {
    match result {
        Err(Error::Damaged { what }) => what,
        Err(other) => panic!("another error: {other}"),
        Ok(_) => panic!("damaged state was read"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_restored_session_goes_on_bit_for_bit(
        matrix in specs::arbitrary(),
        tree in any::<Index>(),
        f64_state: bool,
        steps in 0_u64..5,
        tiles in any::<Index>(),
        asked_again in any::<Index>(),
    ) {
        let tree = tree.get(&trees_to_hold()).clone();
        let precision = if f64_state { Precision::F64 } else { Precision::F32 };
        let answers = drive::straight(&matrix, &tree, precision, steps + 3);
        let mut session = drive::session(&matrix, &tree, precision, Backend::best());
        let bounds = drive::tile_bounds(session.resolved().layout());
        let total = bounds[bounds.len() - 1];
        for step in 0..steps {
            drive::step(&mut session, step, &trees::payload(&tree, step), &[5000]);
        }
        let middle = bounds[tiles.index(bounds.len() - 1)];
        if middle > 0 {
            session.apply(steps, 0, &trees::payload(&tree, steps)[..middle]).unwrap();
        }
        let written = drive::snapshot(&session);
        // What is left to read after it is another's.
        let mut reader = written.as_slice().chain(&b"next"[..]);
        let mut restored = Session::restore(&mut reader).unwrap();
        let mut rest = Vec::new();
        reader.read_to_end(&mut rest).unwrap();
        prop_assert_eq!(rest, b"next");

        prop_assert!(drive::snapshot(&restored) == written);
        prop_assert_eq!(restored.resolved().spec(), session.resolved().spec());
        prop_assert_eq!(restored.resolved().fingerprint(), session.resolved().fingerprint());
        prop_assert_eq!((restored.next_step(), restored.next_offset()), (steps, middle));
        // What was kept is kept: of the step under way, and of the one before it past there.
        let kept = if middle > 0 { Some((steps, 0..middle)) } else { None };
        for (step, range) in kept.into_iter().chain(steps.checked_sub(1).map(|step| (step, middle..total))) {
            let bounds: Vec<usize> = bounds.iter().copied().filter(|b| range.start <= *b && *b < range.end).collect();
            let from = *asked_again.get(&bounds);
            let payload = &trees::payload(&tree, step)[from..range.end];
            let (answer, replays) = drive::join(from, &restored.apply(step, from, payload).unwrap());
            prop_assert!(answer == answers[step as usize][from..range.end]);
            prop_assert!(replays.iter().all(|&replay| replay));
        }
        // Then the rest of the step, and steps after it.
        for step in steps..steps + 3 {
            let answer = drive::step(&mut restored, step, &trees::payload(&tree, step), &[4097]);
            prop_assert!(answer == answers[step as usize]);
        }
        for step in steps..steps + 3 {
            drive::step(&mut session, step, &trees::payload(&tree, step), &[usize::MAX / 2]);
        }
        prop_assert!(drive::snapshot(&restored) == drive::snapshot(&session));
    }
}

#[test]
fn a_session_at_its_horizon_is_restored() {
    let matrix = noised::matrix::strategy::column_normalized_banded(3, 2).unwrap();
    let tree = trees::of_shapes(DType::F32, &[&[1500]]);
    let mut session = drive::session(&matrix, &tree, Precision::F32, Backend::best());
    let answers = drive::straight(&matrix, &tree, Precision::F32, 3);
    for step in 0..3 {
        drive::step(&mut session, step, &trees::payload(&tree, step), &[6000]);
    }
    let mut restored = restore(&drive::snapshot(&session)).unwrap();
    let error = drive::refused(&mut restored, 3, 0, &trees::payload(&tree, 3));
    assert_eq!(error, Error::PastHorizon { requested: 3, horizon: 3 });
    assert!(drive::step(&mut restored, 2, &trees::payload(&tree, 2), &[6000]) == answers[2]);
}

#[test]
fn a_state_cut_short_is_damaged() {
    let written = drive::snapshot(&halfway());
    for length in 0..written.len() {
        is_damaged(restore(&written[..length]));
    }
    restore(&written).unwrap();
}

#[test]
fn a_flipped_bit_is_noticed() {
    let mut written = drive::snapshot(&halfway());
    for byte in 0..written.len() {
        // Every bit where lengths and versions stand, one elsewhere.
        let bits = if byte < PREAMBLE { 0..8 } else { byte % 8..byte % 8 + 1 };
        for bit in bits {
            written[byte] ^= 1 << bit;
            is_damaged(restore(&written));
            written[byte] ^= 1 << bit;
        }
    }
    restore(&written).unwrap();
}

#[test]
fn bytes_left_out_or_put_in_are_noticed() {
    let written = drive::snapshot(&halfway());
    for at in (0..written.len()).step_by(7) {
        let (head, tail) = written.split_at(at);
        is_damaged(restore(&[head, &tail[1..]].concat()));
        is_damaged(restore(&[head, &[0], tail].concat()));
    }
    is_damaged(restore(&vec![0; 4096]));
    is_damaged(restore(&vec![0xff; 4096]));
    is_damaged(restore(b"PK\x03\x04 not a session at all"));
}

#[test]
fn a_reader_that_fails_is_told() {
    struct Fails;
    impl Read for Fails {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("the disk is gone"))
        }
    }
    let written = drive::snapshot(&halfway());
    for length in [0, 10, 17, 100, written.len() / 2, written.len() - 1] {
        let reader = written[..length].chain(Fails);
        assert_eq!(is_damaged(Session::restore(reader)), "the disk is gone");
    }
}

/// A header with a right digest around other contents, and the state that follows it.
fn with_header(session: &Session, change: impl FnOnce(&mut serde_json::Value)) -> Vec<u8> {
    let written = drive::snapshot(session);
    let length = u64::from_le_bytes(written[PREAMBLE - 8..PREAMBLE].try_into().unwrap()) as usize;
    let mut header = serde_json::from_slice(&written[PREAMBLE..PREAMBLE + length]).unwrap();
    change(&mut header);
    let header = serde_json::to_vec(&header).unwrap();
    let mut bytes = written[..PREAMBLE - 8].to_vec();
    bytes.extend((header.len() as u64).to_le_bytes());
    bytes.extend(header);
    bytes.extend(blake3::hash(&bytes).as_bytes());
    bytes.extend(&written[PREAMBLE + length + 32..written.len() - 32]);
    bytes.extend(blake3::hash(&bytes).as_bytes());
    bytes
}

#[test]
fn a_header_that_is_not_sound_is_damaged() {
    use serde_json::json;
    let halfway = halfway();
    restore(&with_header(&halfway, |_| {})).unwrap();
    type Change = fn(&mut serde_json::Value);
    let changes: [(&str, Change); 14] = [
        ("fingerprint", |h| h["fingerprint"] = json!("00")),
        ("fingerprint", |h| h["horizon"] = json!(10)),
        ("fingerprint", |h| h["matrix"] = json!({"kind": "prefix_sum"})),
        ("matrix.diag", |h| h["matrix"] = json!({"kind": "diagonal", "diag": []})),
        ("matrix.kind", |h| h["matrix"] = json!({"kind": "circulant"})),
        ("tree.leaves", |h| h["leaves"] = json!([])),
        ("tree.leaves[1].shape", |h| h["leaves"][1]["shape"] = json!([1_u64 << 41])),
        ("shard.count", |h| h["shard"]["count"] = json!(0)),
        ("horizon", |h| h["horizon"] = json!(0)),
        ("tile", |h| h["tile_lanes"] = json!(512)),
        ("step", |h| h["tiles_done"] = json!(3)),
        ("step", |h| h["tiles_done"] = json!(u64::MAX)),
        ("dtype", |h| h["leaves"][0] = json!({"path": "a", "shape": [1]})),
        ("unknown", |h| h["unknown"] = json!(1)),
    ];
    for (what, change) in changes {
        let found = is_damaged(restore(&with_header(&halfway, change)));
        assert!(found.contains(what), "{found} does not tell of {what}");
    }
    // A step past the horizon was never released.
    let matrix = noised::matrix::strategy::column_normalized_banded(3, 2).unwrap();
    let tree = Tree::flat(5, DType::F32).unwrap();
    let mut session = drive::session(&matrix, &tree, Precision::F32, Backend::best());
    drive::step(&mut session, 0, &trees::payload(&tree, 0), &[20]);
    restore(&with_header(&session, |h| h["step"] = json!(3))).unwrap();
    assert!(is_damaged(restore(&with_header(&session, |h| h["step"] = json!(4)))).contains("step"));
}

#[test]
fn another_version_is_named() {
    for version in [0_u32, 1, 7, u32::MAX] {
        let mut written = drive::snapshot(&halfway());
        written[15..19].copy_from_slice(&version.to_le_bytes());
        assert!(is_damaged(restore(&written)).contains(&format!("version {version}")));
    }
}
