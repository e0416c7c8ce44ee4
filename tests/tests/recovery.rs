//! Sessions that a store gives back go on with the bits of one that was never gone, and with no others.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a panic is a failed test")]

use std::io::Cursor;
use std::sync::Arc;

use bytes::Bytes;
use noised::limits::MAX_STEPS_UNKNOWN;
use noised::noise::NoiseKey;
use noised::session::{
    AnySession, Drawing, NoiseDrawer, NoiseState, Outcome, OutputChunk, Recovered, ResolvedSpec, RewindTo,
    Source,
};
use noised::{DType, Error, MatrixSpec, Precision, SessionSpec, Tree};
use noised_tests::driven::{KEPT, REPLAYED, options};
use noised_tests::noises::{self, KEY};
use noised_tests::specs;
use proptest::prelude::*;

const LANES: u64 = 2500;
const STEPS: u64 = 9;

/// Both halves of a session of any source.
struct Halves {
    session: AnySession,
    drawer: Option<NoiseDrawer>,
}

fn drawing(resolved: &ResolvedSpec, state: NoiseState) -> Option<Drawing> {
    resolved.spec().source.noise().map(|_| Drawing {
        key: NoiseKey::from_bytes(KEY),
        options: options(3, state),
        resumed_at: None,
    })
}

impl Halves {
    fn new(resolved: &Arc<ResolvedSpec>, state: NoiseState) -> Self {
        let (mut session, drawer) = AnySession::open(Arc::clone(resolved), drawing(resolved, state)).unwrap();
        session.take_whole_steps();
        Self { session, drawer }
    }

    fn recover(
        resolved: &Arc<ResolvedSpec>,
        state: NoiseState,
        recovered: Recovered,
        snapshot: Option<&[u8]>,
    ) -> Result<Self, Error> {
        let drawing = drawing(resolved, state);
        let snapshot = snapshot.map(Cursor::new);
        let (mut session, drawer) = AnySession::recover(Arc::clone(resolved), drawing, recovered, snapshot)?;
        session.take_whole_steps();
        Ok(Self { session, drawer })
    }

    fn take_part(&mut self, step: u64, offset: usize, input: &[u8]) -> Result<Vec<OutputChunk>, Error> {
        let Self { session, drawer } = self;
        loop {
            match session.take(step, offset, &[Bytes::copy_from_slice(input)])? {
                Outcome::Answer(chunks) => return Ok(chunks),
                Outcome::NeedsNoise => {
                    let buffers = session.take_buffers(session.wanted_steps().max(1), drawer.as_mut());
                    session.supply(drawer.as_mut().unwrap().draw(buffers))?;
                }
            }
        }
    }

    fn take(&mut self, step: u64) -> Result<Vec<u8>, Error> {
        let input = input(self.session.resolved(), step);
        let chunks = self.take_part(step, 0, &input)?;
        Ok(chunks.iter().flat_map(|chunk| chunk.bytes.to_vec()).collect())
    }

    fn rewind(&mut self, step: u64, allow_divergence: bool) -> Result<(), Error> {
        let to = RewindTo { step, unix_seconds: 5, allow_divergence };
        let rewind = self.session.begin_rewind(to, self.drawer.as_mut())?;
        while rewind.steps_left(self.drawer.as_ref()) > 0 {
            self.drawer.as_mut().unwrap().pass_over(step);
        }
        self.session.finish_rewind(rewind, self.drawer.as_ref())
    }

    /// What a store knows that was told of every act.
    fn known(&self) -> Recovered {
        let standing = self.session.standing();
        let digests = (0..standing.released_steps).map(|step| self.session.gradient_digest(step)).collect();
        Recovered {
            next_step: standing.next_step,
            may_be_further: false,
            released_steps: standing.released_steps,
            rewinds: standing.rewinds,
            rewind_count: standing.rewind_count,
            digests,
        }
    }

    /// The state of one tile of the drawer, as a part of what a drawer reads.
    fn tile(&self, tile: usize) -> Vec<u8> {
        self.drawer.as_ref().unwrap().state_of_tiles(tile..tile + 1)
    }

    fn snapshot(&self) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        self.session.snapshot(&mut bytes).unwrap();
        Some(bytes).filter(|bytes| !bytes.is_empty())
    }
}

/// The input of a step, which is a function of the step.
fn input(resolved: &ResolvedSpec, step: u64) -> Vec<u8> {
    let numbers = resolved.input_bytes() / 4;
    (0..numbers).flat_map(|i| (((i as u64 * 31 + step * 7) % 64) as f32 / 8.0).to_le_bytes()).collect()
}

fn tree() -> Tree {
    Tree::flat(LANES, DType::F32).unwrap()
}

/// A session of each source.
fn resolved(matrix: &MatrixSpec) -> Vec<Arc<ResolvedSpec>> {
    let input = SessionSpec::new(matrix.clone(), tree());
    let gaussian = noises::gaussian(noises::given(), matrix.clone(), tree());
    let noise = gaussian.source.noise().unwrap().clone();
    let source = Source::Privatize { noise, answer_dtype: None };
    let privatize = SessionSpec { source, ..gaussian.clone() };
    [input, gaussian, privatize].map(|spec| Arc::new(spec.resolve().unwrap())).into()
}

fn undisturbed(resolved: &Arc<ResolvedSpec>) -> Vec<Vec<u8>> {
    let mut halves = Halves::new(resolved, KEPT);
    (0..STEPS).map(|step| halves.take(step).unwrap()).collect()
}

#[test]
fn every_source_goes_on_with_the_same_bits() {
    for resolved in resolved(&specs::noising()) {
        let expected = undisturbed(&resolved);
        let kind = resolved.spec().source.kind();
        for gone in 0..STEPS {
            let mut before = Halves::new(&resolved, KEPT);
            (0..gone).for_each(|step| drop(before.take(step).unwrap()));
            let (known, snapshot) = (before.known(), before.snapshot());
            // The last answer may not have arrived, so its step may be asked for again; or not.
            for first in gone.saturating_sub(1)..=gone {
                let mut after = Halves::recover(&resolved, KEPT, known.clone(), snapshot.as_deref()).unwrap();
                assert_eq!(after.session.standing(), before.session.standing());
                for step in first..STEPS {
                    let found = after.take(step).unwrap();
                    assert!(found == expected[step as usize], "{kind}: step {step}, gone at {gone}");
                }
                assert_eq!(after.session.standing().released_steps, STEPS);
            }
            if gone >= 2 {
                let mut after = Halves::recover(&resolved, KEPT, known.clone(), snapshot.as_deref()).unwrap();
                for step in [gone - 2, gone + 1] {
                    assert_eq!(
                        after.take(step).unwrap_err(),
                        Error::WrongStep { requested: step, expected: gone },
                        "{kind}"
                    );
                }
            }
        }
    }
}

#[test]
fn noise_goes_on_where_its_client_is() {
    let [_, gaussian, _] = resolved(&specs::noising()).try_into().unwrap();
    let expected = undisturbed(&gaussian);
    let known = Recovered { next_step: 3, released_steps: 3, may_be_further: true, ..Recovered::default() };
    for first in 2..STEPS {
        let mut after = Halves::recover(&gaussian, KEPT, known.clone(), None).unwrap();
        // A client may have a part of the step already.
        let part = after.take_part(first, 400, &[]).unwrap();
        assert!(part[0].bytes[..] == expected[first as usize][400..]);
        for step in first..STEPS {
            assert!(after.take(step).unwrap() == expected[step as usize], "{step} after {first}");
        }
        assert!(after.take(first.saturating_sub(1)).is_err());
    }
    let mut after = Halves::recover(&gaussian, KEPT, known, None).unwrap();
    for step in [0, 1, 3 + MAX_STEPS_UNKNOWN + 1] {
        assert_eq!(after.take(step).unwrap_err(), Error::WrongStep { requested: step, expected: 3 });
    }
}

#[test]
fn a_gradient_that_was_released_is_the_only_one() {
    let [_, _, privatize] = resolved(&specs::noising()).try_into().unwrap();
    let expected = undisturbed(&privatize);
    let mut before = Halves::new(&privatize, KEPT);
    (0..4).for_each(|step| drop(before.take(step).unwrap()));
    let other = vec![0; privatize.input_bytes()];
    let mut after = Halves::recover(&privatize, KEPT, before.known(), None).unwrap();
    assert_eq!(after.take_part(3, 0, &other).unwrap_err(), Error::Diverged { requested: 3, expected: 3 });
    // A client that asks for a step it did not have does not lose the next one.
    assert!(after.take(4).unwrap() == expected[4]);
    // The same after going back: what was released stays so.
    after.rewind(1, false).unwrap();
    let mut again = Halves::recover(&privatize, KEPT, after.known(), None).unwrap();
    assert_eq!(again.take_part(1, 0, &other).unwrap_err(), Error::Diverged { requested: 1, expected: 1 });
    (1..STEPS).for_each(|step| assert!(again.take(step).unwrap() == expected[step as usize]));
    assert_eq!(again.session.standing().rewind_count, 1);
}

/// Where a digest has to be stored before an answer, no part of the answer leaves earlier.
#[test]
fn a_whole_gradient_comes_before_its_answer() {
    let [_, _, privatize] = resolved(&specs::noising()).try_into().unwrap();
    let expected = undisturbed(&privatize);
    let mut halves = Halves::new(&privatize, KEPT);
    let gradient = input(&privatize, 0);
    assert_eq!(halves.take_part(0, 0, &gradient[..4096]).unwrap(), []);
    assert_eq!(halves.session.gradient_digest(0), None);
    assert_eq!(halves.session.standing().released_steps, 0);
    let whole = halves.take_part(0, 4096, &gradient[4096..]).unwrap();
    assert!(whole.len() == 1 && whole[0].bytes == expected[0]);
    assert!(halves.session.gradient_digest(0).is_some());
}

#[test]
fn what_does_not_fit_is_damage() {
    let [input, gaussian, privatize] = resolved(&specs::noising()).try_into().unwrap();
    let mut before = Halves::new(&input, KEPT);
    before.take(0).unwrap();
    let (known, snapshot) = (before.known(), before.snapshot().unwrap());
    let damaged = |found: Result<Halves, Error>| matches!(found.err().unwrap(), Error::Damaged { .. });
    assert!(damaged(Halves::recover(&input, KEPT, known.clone(), None)));
    let later = Recovered { next_step: 2, ..known.clone() };
    assert!(damaged(Halves::recover(&input, KEPT, later, Some(&snapshot))));
    let others = Arc::new(SessionSpec::new(MatrixSpec::PrefixSum, tree()).resolve().unwrap());
    assert!(damaged(Halves::recover(&others, KEPT, known.clone(), Some(&snapshot))));
    assert!(damaged(Halves::recover(&input, KEPT, known, Some(&snapshot[1..]))));
    let unknown = Recovered { may_be_further: true, ..Recovered::default() };
    assert!(damaged(Halves::recover(&privatize, KEPT, unknown, None)));
    let spec = SessionSpec { horizon: Some(5), ..gaussian.spec().clone() };
    let past = Recovered { next_step: 6, ..Recovered::default() };
    let refused = Halves::recover(&Arc::new(spec.resolve().unwrap()), KEPT, past, None).err().unwrap();
    assert_eq!(refused, Error::PastHorizon { requested: 6, horizon: 5 });
}

/// Tiles of a state that stand at different steps are taken on to the latest of them.
#[test]
fn a_drawer_goes_on_from_tiles_of_different_steps() {
    let banded = MatrixSpec::Toeplitz { coef: vec![1.0, 0.4, 0.2, 0.1], column_normalize_for_n: None };
    let inverse = MatrixSpec::Inverse { matrix: Box::new(banded.clone()) };
    for matrix in [specs::noising(), MatrixSpec::PrefixSum, banded, inverse] {
        for precision in [Precision::F32, Precision::F64] {
            let spec = noises::gaussian(noises::given(), matrix.clone(), tree());
            let resolved = Arc::new(SessionSpec { precision, ..spec }.resolve().unwrap());
            let expected = undisturbed(&resolved);
            for order in [[0, 1, 2], [2, 0, 1], [1, 1, 1]] {
                let mut before = Halves::new(&resolved, KEPT);
                let mut tiles = [const { Vec::new() }; 3];
                for step in 0..3 {
                    assert!(before.take(step).unwrap() == expected[step as usize]);
                    let now = (0..3).filter(|&tile| order[tile] == step);
                    now.for_each(|tile| tiles[tile] = before.tile(tile));
                }
                let (mut after, mut drawer) = (Halves::new(&resolved, KEPT), before.drawer.unwrap());
                let latest = after.drawer.as_mut().unwrap();
                latest.restore_state(&tiles.concat()[..]).unwrap();
                let next = latest.next_step();
                assert!(next >= 1 && next <= drawer.next_step());
                // Both draw the same from there.
                let known = Recovered { next_step: next, released_steps: next, ..Recovered::default() };
                let mut again = Halves::recover(&resolved, KEPT, known, None).unwrap();
                again.drawer.as_mut().unwrap().restore_state(&tiles.concat()[..]).unwrap();
                for step in next..STEPS {
                    assert!(again.take(step).unwrap() == expected[step as usize], "{matrix:?} {order:?}");
                }
                drawer.restore_state(&tiles.concat()[..]).unwrap();
                assert_eq!(drawer.state_of_tiles(0..3), latest.state_of_tiles(0..3));
            }
        }
    }
}

#[test]
fn a_state_of_a_drawer_that_does_not_fit_is_damage() {
    let [_, gaussian, _] = resolved(&specs::noising()).try_into().unwrap();
    let mut before = Halves::new(&gaussian, KEPT);
    before.take(0).unwrap();
    let good = before.drawer.as_ref().unwrap().state_of_tiles(0..3);
    let mut other = good.clone();
    // The number of planes.
    other[13 + 4 + 8] ^= 1;
    let mut late = good.clone();
    late[13 + 4 + 8 * 8 + 7] = 1;
    let (cut, gap) = (&good[..good.len() - 1], before.tile(1));
    for bad in [cut, &good[1..], &other, &late, &gap, &[]] {
        let mut drawer = Halves::new(&gaussian, KEPT).drawer.unwrap();
        assert!(matches!(drawer.restore_state(bad), Err(Error::Damaged { .. })));
        assert_eq!(drawer.next_step(), 0);
        assert_eq!(
            drawer.state_of_tiles(0..3),
            Halves::new(&gaussian, KEPT).drawer.unwrap().state_of_tiles(0..3)
        );
    }
    // Where earlier steps are drawn again, there is no state.
    let matrix = MatrixSpec::Toeplitz { coef: vec![1.0, -0.5, 0.25], column_normalize_for_n: None };
    let [_, replayed, _] = resolved(&matrix).try_into().unwrap();
    let drawer = Halves::new(&replayed, REPLAYED).drawer.unwrap();
    assert_eq!((drawer.state_tiles(), drawer.state_of_tiles(0..3)), (0, Vec::new()));
}

#[derive(Clone, Debug)]
enum Act {
    Step,
    Again,
    Rewind { to: u64 },
    Crash,
    CrashBeforeLastAnswer,
}

/// The state of a drawer, tile by tile, as a store has it.
#[derive(Default)]
struct StoredDrawer {
    whole: Option<(u64, Vec<u8>)>,
    parts: Vec<u8>,
    tiles: usize,
    latest: u64,
}

impl StoredDrawer {
    fn put_away(&mut self, halves: &Halves) {
        let Some(drawer) = halves.drawer.as_ref().filter(|drawer| drawer.state_tiles() > 0) else { return };
        self.parts.extend(halves.tile(self.tiles));
        (self.tiles, self.latest) = (self.tiles + 1, self.latest.max(drawer.next_step()));
        if self.tiles == drawer.state_tiles() {
            *self = Self { whole: Some((self.latest, std::mem::take(&mut self.parts))), ..Self::default() };
        }
    }

    /// A state serves a session that may be asked for no step before it.
    fn restore(&mut self, halves: &mut Halves, next: u64) {
        let drawer = halves.drawer.as_mut();
        if let (Some(drawer), Some((_, state))) = (drawer, self.whole.as_ref().filter(|(at, _)| *at < next)) {
            drawer.restore_state(&state[..]).unwrap();
        }
        *self = Self { whole: self.whole.take(), ..Self::default() };
    }
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        4 => Just(Act::Step),
        1 => Just(Act::Again),
        1 => (0..STEPS).prop_map(|to| Act::Rewind { to }),
        2 => Just(Act::Crash),
        1 => Just(Act::CrashBeforeLastAnswer),
    ];
    proptest::collection::vec(act, 1..30)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// Whatever happens in whatever order, a step has the bits of an undisturbed run, and none is lost. A
    /// tile of the drawer's state is put away with each act.
    #[test]
    fn crashes_between_any_two_acts(acts in acts(), replayed in any::<bool>()) {
        let matrix = if replayed {
            MatrixSpec::Toeplitz { coef: vec![1.0, -0.5, 0.25], column_normalize_for_n: None }
        } else {
            specs::noising()
        };
        let state = if replayed { REPLAYED } else { KEPT };
        for resolved in resolved(&matrix) {
            let expected = undisturbed(&resolved);
            let is_input = resolved.spec().source == Source::Input;
            let mut halves = Halves::new(&resolved, state);
            let (mut next, mut released) = (0, 0);
            let mut stored = StoredDrawer::default();
            for act in &acts {
                match *act {
                    Act::Step if next < STEPS => {
                        prop_assert!(halves.take(next).unwrap() == expected[next as usize]);
                        next += 1;
                        released = released.max(next);
                    }
                    Act::Rewind { to } if to <= released && (!is_input || to == 0) => {
                        halves.rewind(to, false).unwrap();
                        next = to;
                    }
                    Act::Again => {
                        if let Some(last) = next.checked_sub(1)
                            && let Ok(found) = halves.take(last)
                        {
                            prop_assert!(found == expected[last as usize]);
                        }
                    }
                    Act::Crash | Act::CrashBeforeLastAnswer => {
                        let (known, snapshot) = (halves.known(), halves.snapshot());
                        halves = Halves::recover(&resolved, state, known, snapshot.as_deref()).unwrap();
                        stored.restore(&mut halves, next);
                        if let (Act::CrashBeforeLastAnswer, Some(last)) = (act, next.checked_sub(1))
                            && let Ok(found) = halves.take(last)
                        {
                            prop_assert!(found == expected[last as usize]);
                        }
                    }
                    Act::Step | Act::Rewind { .. } => {}
                }
                stored.put_away(&halves);
                prop_assert_eq!(halves.session.standing().released_steps, released);
            }
            if next < STEPS {
                prop_assert!(halves.take(next).unwrap() == expected[next as usize]);
            }
        }
    }
}
