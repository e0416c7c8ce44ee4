//! Noise released under gradients: the sum, tile by tile and as a whole, and no noise under two of them.
#![allow(clippy::unwrap_used, reason = "a panic is a failed test")]

use std::sync::Arc;

use bytes::Bytes;
use noised::session::{Noise, Outcome, Source};
use noised::{DType, Error, MatrixSpec, Precision, SessionSpec, Tree};
use noised_tests::driven::{Driven, KEPT, options, tree};
use noised_tests::{noises, specs};

fn gaussian(matrix: MatrixSpec, tree: Tree) -> SessionSpec {
    noises::gaussian(noises::given(), matrix, tree)
}

fn privatize(matrix: MatrixSpec, tree: Tree, answer_dtype: Option<DType>) -> SessionSpec {
    noises::privatize(noises::given(), matrix, tree, answer_dtype)
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
    let source = Source::Privatize { noise: Noise { stddev: 0.0, ..noises::given() }, answer_dtype: None };
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

/// After going back: the same gradient is answered with the same bytes, another one is refused, unless
/// divergence is allowed.
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

/// Memory of a longer message, of which a session is given a part.
#[derive(Clone)]
struct Message(Arc<Vec<u8>>);

impl AsRef<[u8]> for Message {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// A gradient that waits for its rest keeps no message alive whose part it is: the session answers for its
/// own bytes alone.
#[test]
fn a_gradient_that_waits_keeps_no_message_alive() {
    let whole = Tree::flat(4 * 1024, DType::F32).unwrap();
    let mut driven = Driven::new(privatize(specs::noising(), whole.clone(), None), options(1, KEPT));
    let first = gradient(&whole, 0);
    let answer = driven.privatize(0, &first).unwrap();
    driven.rewind(0, false).unwrap();
    driven.look_ahead();
    let mut answers = Vec::new();
    for (offset, tile) in (0..).step_by(4096).zip(first.chunks(4096)) {
        let message = Message(Arc::new([tile, &[0; 60 << 10]].concat()));
        let part = Bytes::from_owner(message.clone()).slice(..4096);
        match driven.session.apply(0, offset, vec![part]).unwrap() {
            Outcome::Answer(chunks) => answers.extend(chunks),
            Outcome::NeedsNoise => panic!("it is drawn"),
        }
        assert_eq!(Arc::strong_count(&message.0), 1, "a message is kept at byte {offset}");
    }
    assert!(answers.iter().flat_map(|chunk| chunk.bytes.to_vec()).collect::<Vec<_>>() == answer);
}

/// Divergence that is allowed from a step on is allowed from there on, also where the way to that step was
/// called off.
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
