//! A session whose noise is drawn, in this process: both halves, put to work together.

use bytes::Bytes;
use noised::kernel::Backend;
use noised::noise::NoiseKey;
use noised::session::{NoiseDrawer, NoiseOptions, NoiseSession, NoiseState, Outcome, WhenFull};
use noised::{DType, Error, Leaf, SessionSpec, Tree};

use crate::noises::KEY;

/// Both halves of a session, with the given key of [`noises`](crate::noises).
#[derive(Debug)]
pub struct Driven {
    /// The half that answers.
    pub session: NoiseSession,
    /// The half that draws.
    pub drawer: NoiseDrawer,
}

/// The planes of the matrix are kept.
pub const KEPT: NoiseState = NoiseState::Kept;

/// Nothing is kept.
pub const REPLAYED: NoiseState = NoiseState::Replayed;

/// How a session goes about drawing.
pub fn options(lookahead: u32, state: NoiseState) -> NoiseOptions {
    NoiseOptions { lookahead, state }
}

impl Driven {
    /// Both halves at step 0, on the fastest backend.
    pub fn new(spec: SessionSpec, options: NoiseOptions) -> Self {
        Self::on(Backend::best(), spec, options)
    }

    /// The same on a given backend.
    pub fn on(backend: Backend, spec: SessionSpec, options: NoiseOptions) -> Self {
        let resolved = spec.resolve().unwrap();
        let (session, drawer) =
            NoiseSession::with_backend(resolved, NoiseKey::from_bytes(KEY), options, backend).unwrap();
        Self { session, drawer }
    }

    /// Draws so many steps.
    pub fn draw(&mut self, steps: usize) {
        let buffers = self.session.take_buffers(steps, &mut self.drawer);
        let drawn = self.drawer.draw(buffers);
        self.session.supply(drawn).unwrap();
    }

    /// Draws as many as the options have it.
    pub fn look_ahead(&mut self) {
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
        ask: impl FnMut(&mut NoiseSession) -> Result<Outcome, Error>,
    ) -> Result<Vec<u8>, Error> {
        let chunks = self.drawer.answer(&mut self.session, ask)?;
        Ok(chunks.iter().flat_map(|chunk| chunk.bytes.to_vec()).collect())
    }

    /// A step of a gaussian source.
    pub fn fetch(&mut self, step: u64) -> Result<Vec<u8>, Error> {
        self.answer(|session| session.fetch(step, 0))
    }

    /// A step of a gradient.
    pub fn privatize(&mut self, step: u64, gradient: &[u8]) -> Result<Vec<u8>, Error> {
        let gradient = Bytes::copy_from_slice(gradient);
        self.answer(|session| session.apply(step, 0, vec![gradient.clone()]))
    }

    /// Goes back, all the way.
    pub fn rewind(&mut self, step: u64, allow_divergence: bool) -> Result<(), Error> {
        let rewind = self.session.begin_rewind(step, &mut self.drawer)?;
        while rewind.steps_left(&self.drawer) > 0 {
            self.drawer.pass_over(step);
        }
        self.session.finish_rewind(rewind, &self.drawer, 17, allow_divergence);
        Ok(())
    }

    /// Keeps the state of a step.
    pub fn keep(&mut self, step: u64) {
        self.session.keep_state(step, &self.drawer, WhenFull::Refuse, 8).unwrap();
    }
}

/// The first steps of a gaussian source, drawn ahead as the options have it.
pub fn run(mut driven: Driven, steps: u64) -> Vec<Vec<u8>> {
    (0..steps)
        .map(|step| {
            driven.look_ahead();
            driven.fetch(step).unwrap()
        })
        .collect()
}

/// Leaves of every format, none of which ends with a tile.
pub fn tree() -> Tree {
    Tree::new(vec![
        Leaf::new("a", DType::F32, [1500]),
        Leaf::new("b", DType::Bf16, [3, 7]),
        Leaf::new("c", DType::F32, [2000]),
        Leaf::new("d", DType::F64, [5]),
        Leaf::new("e", DType::F16, [700]),
    ])
    .unwrap()
}
