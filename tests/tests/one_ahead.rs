//! A client that fetches one step ahead of what it trains: it keeps, and goes back to, the step before the
//! one that the session expects.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a panic is a failed test")]

use std::collections::BTreeSet;

use noised::session::{NoiseState, WhenFull};
use noised::{Error, MatrixSpec, SessionSpec};
use noised_tests::driven::{Driven, KEPT, REPLAYED, options, run, tree};
use noised_tests::{noises, specs, trees};
use proptest::prelude::*;

const STEPS: u64 = 24;

fn cases() -> [(NoiseState, MatrixSpec); 2] {
    [(KEPT, specs::noising()), (REPLAYED, specs::toeplitz(&[1.0, -0.5, 0.2]))]
}

fn gaussian(matrix: MatrixSpec) -> SessionSpec {
    SessionSpec { horizon: Some(STEPS), ..noises::gaussian(noises::given(), matrix, tree()) }
}

fn keep(driven: &mut Driven, step: u64) -> Result<(), Error> {
    driven.session.keep_state(step, &driven.drawer, WhenFull::Refuse, 8)
}

/// Steps that going to `step` computes again.
fn recomputed(driven: &mut Driven, step: u64) -> u64 {
    let rewind = driven.session.begin_rewind(step, &mut driven.drawer).unwrap();
    let left = rewind.steps_left(&driven.drawer);
    while rewind.steps_left(&driven.drawer) > 0 {
        driven.drawer.pass_over(step);
    }
    driven.session.finish_rewind(rewind, &driven.drawer, 17, false);
    assert_eq!(driven.session.next_step(), step);
    left
}

#[test]
fn the_step_before_is_kept_and_comes_again() {
    for (state, matrix) in cases() {
        for lookahead in [0, 1, 3, 8] {
            let expected = run(Driven::new(gaussian(matrix.clone()), options(0, KEPT)), STEPS);
            let mut driven = Driven::new(gaussian(matrix.clone()), options(lookahead, state));
            let bound = driven.session.kept_state_bytes(&driven.drawer);
            for step in 0..STEPS {
                driven.look_ahead();
                driven.fetch(step).unwrap();
                if [4, 11, STEPS - 1].contains(&step) {
                    keep(&mut driven, step).unwrap();
                    assert_eq!(driven.session.next_step(), step + 1, "it goes on where it was");
                    assert!(driven.fetch(step).unwrap() == expected[step as usize]);
                    keep(&mut driven, step).unwrap();
                }
                if let Some(older) = step.checked_sub(1).filter(|older| ![4, 11].contains(older)) {
                    let refused = Err(Error::WrongStep { requested: older, expected: step + 1 });
                    assert_eq!(keep(&mut driven, older), refused);
                }
            }
            assert_eq!(driven.session.kept_steps(), [4, 11, STEPS - 1]);
            assert_eq!(driven.session.kept_state_bytes(&driven.drawer), bound);
            for to in [11, 4, STEPS - 1, 4, 11] {
                assert_eq!(recomputed(&mut driven, to), 0, "step {to} is kept");
                for step in to..STEPS.min(to + 12) {
                    assert!(driven.fetch(step).unwrap() == expected[step as usize], "step {step} after {to}");
                    driven.look_ahead();
                }
            }
            // To one between them, from the one before.
            assert!(recomputed(&mut driven, 13) <= 2);
            assert!(driven.fetch(13).unwrap() == expected[13]);
        }
    }
}

#[test]
fn the_last_answer_is_gone_back_to_without_drawing_it_again() {
    for (state, matrix) in cases() {
        for lookahead in [0, 1, 3, 8] {
            let expected = run(Driven::new(gaussian(matrix.clone()), options(0, KEPT)), STEPS);
            let mut driven = Driven::new(gaussian(matrix.clone()), options(lookahead, state));
            for step in 0..STEPS {
                driven.look_ahead();
                driven.fetch(step).unwrap();
                let drawn = driven.drawer.next_step();
                assert_eq!(recomputed(&mut driven, step), 0);
                assert_eq!(driven.drawer.next_step(), drawn, "the drawer stays where it is");
                // There is no answer now: the step itself is the one that comes next.
                if let Some(before) = step.checked_sub(1) {
                    let refused = Err(Error::WrongStep { requested: before, expected: step });
                    assert_eq!(keep(&mut driven, before), refused);
                    assert_eq!(
                        driven.fetch(before),
                        Err(Error::WrongStep { requested: before, expected: step })
                    );
                }
                assert!(driven.fetch(step).unwrap() == expected[step as usize]);
                assert_eq!(driven.drawer.next_step(), drawn, "nothing is drawn again");
            }
        }
    }
}

/// The answer is let go once the next step is asked for, also where that is not there yet.
#[test]
fn an_answer_that_has_arrived_is_not_held() {
    let mut driven = Driven::new(gaussian(specs::noising()), options(0, KEPT));
    driven.fetch(0).unwrap();
    driven.session.fetch(1, 0).unwrap();
    assert_eq!(keep(&mut driven, 0), Err(Error::WrongStep { requested: 0, expected: 1 }));
    assert_eq!(recomputed(&mut driven, 0), 0, "nothing comes before step 0");
    keep(&mut driven, 0).unwrap();
    let mut fresh = Driven::new(gaussian(specs::noising()), options(0, KEPT));
    assert_eq!(keep(&mut fresh, u64::MAX), Err(Error::WrongStep { requested: u64::MAX, expected: 0 }));
}

#[test]
fn under_gradients_only_the_next_step_is_kept() {
    let tree = trees::six_tiles();
    let spec = noises::privatize(noises::given(), specs::noising(), tree.clone(), None);
    let mut driven = Driven::new(spec, options(2, KEPT));
    for step in 0..3 {
        driven.privatize(step, &trees::payload(&tree, step)).unwrap();
        assert_eq!(keep(&mut driven, step), Err(Error::WrongStep { requested: step, expected: step + 1 }));
    }
    keep(&mut driven, 3).unwrap();
    assert_eq!(driven.session.kept_steps(), [3]);
}

/// What is done with a session.
#[derive(Clone, Copy, Debug)]
enum Act {
    /// Steps from the one that is expected.
    Fetch(i64),
    Keep(i64),
    Rewind(u64),
    LookAhead,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        8 => Just(Act::Fetch(0)),
        2 => (-2..2_i64).prop_map(Act::Fetch),
        3 => (-2..2_i64).prop_map(Act::Keep),
        2 => (0..STEPS).prop_map(Act::Rewind),
        3 => Just(Act::LookAhead),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    /// Against a model that knows what is expected, held and kept, and all answers.
    #[test]
    fn a_session_does_what_its_rule_says(
        case in 0..2_usize,
        lookahead in 0..6_u32,
        acts in prop::collection::vec(act(), 1..80),
    ) {
        let (state, matrix) = cases()[case].clone();
        let expected = run(Driven::new(gaussian(matrix.clone()), options(0, KEPT)), STEPS);
        let mut driven = Driven::new(gaussian(matrix), options(lookahead, state));
        let (mut next, mut held, mut released, mut kept) = (0_u64, false, 0, BTreeSet::new());
        for act in acts {
            let last = next.checked_sub(1).filter(|_| held);
            match act {
                Act::Fetch(ahead) => {
                    let Some(step) = next.checked_add_signed(ahead) else { continue };
                    let found = driven.fetch(step);
                    if Some(step) == last || (step == next && step < STEPS) {
                        prop_assert!(found.unwrap() == expected[step as usize]);
                        (next, held) = (step + 1, true);
                        released = released.max(next);
                    } else if step >= STEPS {
                        prop_assert_eq!(found, Err(Error::PastHorizon { requested: step, horizon: STEPS }));
                    } else {
                        prop_assert_eq!(found, Err(Error::WrongStep { requested: step, expected: next }));
                    }
                }
                Act::Keep(ahead) => {
                    let Some(step) = next.checked_add_signed(ahead) else { continue };
                    let found = driven.session.keep_state(step, &driven.drawer, WhenFull::ReleaseOldest, 3);
                    if kept.contains(&step) {
                        prop_assert_eq!(found, Ok(()));
                    } else if step == next || Some(step) == last {
                        prop_assert_eq!(found, Ok(()));
                        if kept.len() == 3 {
                            kept.pop_first();
                        }
                        kept.insert(step);
                    } else {
                        prop_assert_eq!(found, Err(Error::WrongStep { requested: step, expected: next }));
                    }
                }
                Act::Rewind(step) if step > released => {
                    prop_assert_eq!(driven.rewind(step, false), Err(Error::PastReleased { requested: step, released }));
                }
                Act::Rewind(step) => {
                    let left = recomputed(&mut driven, step);
                    if kept.contains(&step) || Some(step) == last || step == next {
                        prop_assert_eq!(left, 0);
                    }
                    (next, held) = (step, false);
                }
                Act::LookAhead => driven.look_ahead(),
            }
            prop_assert_eq!(driven.session.next_step(), next);
            prop_assert_eq!(driven.session.released_steps(), released);
            prop_assert_eq!(driven.session.kept_steps(), kept.iter().copied().collect::<Vec<_>>());
        }
    }
}
