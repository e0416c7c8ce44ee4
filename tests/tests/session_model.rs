//! Random operations on a session against a naive model, which keeps all answers of a straight run and
//! counts, for each tile, the steps that it has been through.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a panic is a failed test")]

use std::ops::Range;

use noised::{DType, Error, MatrixSpec, Precision, Session, SessionSpec, Tree};
use noised_tests::{drive, specs, trees};
use proptest::prelude::*;
use proptest::sample::Index;

const HORIZON: u64 = 6;

/// What a session may do, without its state.
struct Model {
    bounds: Vec<usize>,
    payloads: Vec<Vec<u8>>,
    answers: Vec<Vec<u8>>,
    /// Steps that each tile has been through.
    through: Vec<u64>,
}

#[derive(Debug, PartialEq)]
enum Outcome {
    /// The bytes, and whether each of them is a replay.
    Answer(Vec<u8>, Vec<bool>),
    /// A rule about this field.
    Invalid(String),
    Refused(Error),
}

impl Model {
    fn step(&self) -> u64 {
        *self.through.last().unwrap()
    }

    fn done(&self) -> usize {
        self.through.iter().filter(|&&through| through > self.step()).count()
    }

    /// What has to come of these bytes; goes on to the state after it.
    fn apply(&mut self, step: u64, offset: usize, payload: &[u8]) -> Outcome {
        let tiles = match self.tiles(offset, payload.len()) {
            Ok(tiles) => tiles,
            Err(field) => return Outcome::Invalid(field.to_owned()),
        };
        let current = self.step();
        let wrong = Outcome::Refused(Error::WrongStep { requested: step, expected: current });
        if step >= HORIZON && step + 1 != current {
            return Outcome::Refused(Error::PastHorizon { requested: step, horizon: HORIZON });
        }
        if step > current || tiles.clone().any(|tile| self.through[tile] > step + 1) {
            return wrong;
        }
        if step == current && tiles.start > self.done() {
            return Outcome::Invalid("offset".to_owned());
        }
        let canonical = &self.payloads[step as usize];
        for tile in tiles.clone().filter(|&tile| self.through[tile] == step + 1) {
            let bytes = self.bounds[tile]..self.bounds[tile + 1];
            if payload[bytes.start - offset..bytes.end - offset] != canonical[bytes.clone()] {
                let offset = bytes.start as u64;
                return Outcome::Refused(Error::PayloadMismatch {
                    requested: step,
                    expected: current,
                    offset,
                });
            }
        }
        let mut replays = Vec::new();
        for tile in tiles {
            replays.resize(self.bounds[tile + 1] - offset, self.through[tile] == step + 1);
            self.through[tile] = step + 1;
        }
        Outcome::Answer(self.answers[step as usize][offset..offset + payload.len()].to_vec(), replays)
    }

    fn tiles(&self, offset: usize, length: usize) -> Result<Range<usize>, &'static str> {
        let bound = |byte: usize| self.bounds.iter().position(|&bound| bound == byte);
        let Some(end) = offset.checked_add(length).filter(|end| end <= self.bounds.last().unwrap()) else {
            return Err("payload");
        };
        let start = bound(offset).ok_or("offset")?;
        let end = bound(end).ok_or("payload")?;
        if start == end { Err("payload") } else { Ok(start..end) }
    }
}

/// One request, relative to where the session stands.
#[derive(Clone, Debug)]
struct Request {
    /// Steps from the one that is expected.
    ahead: i64,
    /// The tiles: from where the step stands, or from anywhere, and how many.
    from: Option<Index>,
    tiles: Index,
    /// Bytes that the start and the end are off by.
    misaligned: (isize, isize),
    /// A bit flipped in a tile that was applied before.
    flipped: Option<Index>,
    /// The session is written out and read back before.
    restored: bool,
}

fn request() -> impl Strategy<Value = Request> {
    let ahead = prop_oneof![12 => Just(0), 6 => Just(-1), 1 => -4..5_i64];
    let off = || prop_oneof![12 => Just(0), 1 => -5..6_isize];
    let parts = (
        ahead,
        prop::option::weighted(0.5, any::<Index>()),
        any::<Index>(),
        (off(), off()),
        prop::option::weighted(0.15, any::<Index>()),
        prop::bool::weighted(0.1),
    );
    parts.prop_map(|(ahead, from, tiles, misaligned, flipped, restored)| Request {
        ahead,
        from,
        tiles,
        misaligned,
        flipped,
        restored,
    })
}

fn cases() -> Vec<(MatrixSpec, Tree)> {
    vec![
        (specs::noising(), trees::mixed()),
        (specs::toeplitz(&[1.0, 0.5, 0.25]).inverse(), trees::of_shapes(DType::F32, &[&[4096], &[5, 205]])),
        (MatrixSpec::Identity, trees::of_shapes(DType::Bf16, &[&[2048]])),
        (specs::noising(), trees::of_shapes(DType::F16, &[&[3]])),
    ]
}

fn outcome(offset: usize, result: noised::Result<Vec<noised::session::OutputChunk>>) -> Outcome {
    match result {
        Ok(chunks) => {
            let (bytes, replays) = drive::join(offset, &chunks);
            Outcome::Answer(bytes, replays)
        }
        Err(Error::Invalid { field, .. }) => Outcome::Invalid(field),
        Err(error) => Outcome::Refused(error),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_session_does_what_its_rule_says(
        case in any::<Index>(),
        f64_state: bool,
        requests in prop::collection::vec(request(), 1..60),
    ) {
        let (matrix, tree) = case.get(&cases()).clone();
        let precision = if f64_state { Precision::F64 } else { Precision::F32 };
        let spec = SessionSpec {
            precision,
            horizon: Some(HORIZON),
            ..SessionSpec::new(matrix.clone(), tree.clone())
        };
        let mut session = Session::new(spec.resolve().unwrap());
        let bounds = drive::tile_bounds(session.resolved().layout());
        let mut model = Model {
            // A step past the horizon may be asked for as well.
            payloads: (0..HORIZON + 8).map(|t| trees::payload(&tree, t)).collect(),
            answers: drive::straight(&matrix, &tree, precision, HORIZON),
            through: vec![0; bounds.len() - 1],
            bounds,
        };
        for request in requests {
            let Request { ahead, from, tiles, misaligned, flipped, restored } = request;
            if restored {
                session = Session::restore(drive::snapshot(&session).as_slice()).unwrap();
            }
            let Some(step) = model.step().checked_add_signed(ahead) else { continue };
            let count = model.through.len();
            let first = from.map_or(model.done(), |from| from.index(count));
            let last = first + 1 + tiles.index(count - first);
            let shifted = |byte: usize, off: isize| byte.saturating_add_signed(off);
            let (start, end) = (shifted(model.bounds[first], misaligned.0), shifted(model.bounds[last], misaligned.1));
            let mut payload = model.payloads[step as usize].clone();
            payload.resize(payload.len() + 8, 0);
            let mut payload = payload[start.min(end)..end].to_vec();
            if let Some(flipped) = flipped {
                // Other bytes in a tile that is new are simply the input.
                let known = (first..last).rfind(|&tile| model.through[tile] == step + 1);
                let known = known.map_or(0, |tile| model.bounds[tile + 1].saturating_sub(start).min(payload.len()));
                if known > 0 {
                    payload[flipped.index(known)] ^= 1;
                }
            }
            let before = drive::snapshot(&session);
            let result = session.apply(step, start, &payload);
            let changed = result.as_ref().is_ok_and(|chunks| chunks.iter().any(|chunk| !chunk.replay));
            prop_assert_eq!(drive::snapshot(&session) != before, changed);
            let expected = model.apply(step, start, &payload);
            prop_assert_eq!(outcome(start, result), expected);
            prop_assert_eq!(session.next_step(), model.step());
            prop_assert_eq!(session.next_offset(), model.bounds[model.done()]);
        }
    }
}
