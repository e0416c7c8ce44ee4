//! Sessions in a store, served by real programs that are killed: they go on with the bits of a run that
//! nobody disturbed.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a panic is a failed test")]
#![allow(clippy::print_stderr, reason = "a test tells what it did, such as its seed")]

mod coming_and_going;
mod damage;
mod fleet;
mod house;
mod kills;
mod members;
mod noises;
mod state_command;
mod steps;
mod still;

use std::sync::Arc;

use bytes::Bytes;
use noised::noise::NoiseKey;
use noised::session::{AnySession, Drawing, KeyOrigin, Noise, NoiseOptions, NoiseState, Outcome, Source};
use noised::{DType, SessionSpec, Tree};
use noised_client::{Client, CreateOptions, Error, GivenKey, Session};
use noised_tests::noises::{KEY, STDDEV};
use noised_tests::specs;

/// What a session of each source is made for. A given key, so that the right bits are known.
fn sources() -> [Source; 3] {
    let noise = Noise { stddev: STDDEV, key: KeyOrigin::Given };
    [Source::Input, Source::Gaussian(noise.clone()), Source::Privatize { noise, answer_dtype: None }]
}

fn privatize() -> Source {
    sources()[2].clone()
}

fn spec(source: &Source, lanes: u64) -> SessionSpec {
    let tree = Tree::flat(lanes, DType::F32).unwrap();
    SessionSpec { source: source.clone(), ..SessionSpec::new(specs::noising(), tree) }
}

fn options(id: &str, spec: &SessionSpec) -> CreateOptions {
    let noise_key = spec.source.noise().map(|_| GivenKey::from_bytes(KEY));
    CreateOptions { id: id.to_owned(), noise_key, ..CreateOptions::default() }
}

async fn create(client: &Client, id: &str, spec: &SessionSpec) -> Session {
    client.create_session(spec, options(id, spec)).await.unwrap()
}

/// The input of a step, which is a function of the step.
fn input(spec: &SessionSpec, step: u64) -> Bytes {
    let lanes = spec.tree.lanes();
    let value = |lane: u64| ((lane * 31 + step * 7) % 64) as f32 / 8.0;
    match spec.source {
        Source::Gaussian(_) => Bytes::new(),
        Source::Input | Source::Privatize { .. } => {
            (0..lanes).flat_map(|lane| value(lane).to_le_bytes()).collect::<Vec<u8>>().into()
        }
    }
}

async fn take(session: &mut Session, step: u64) -> Result<Bytes, Error> {
    let input = input(session.spec(), step);
    match session.spec().source {
        Source::Input => session.multiply_next(step, input).await,
        Source::Gaussian(_) => session.fetch(step).await,
        Source::Privatize { .. } => session.privatize(step, input).await,
    }
}

/// The answers of a session that nobody disturbs, in this process.
struct Undisturbed {
    spec: SessionSpec,
    session: AnySession,
    drawer: Option<noised::session::NoiseDrawer>,
    answers: Vec<Bytes>,
}

impl Undisturbed {
    fn new(spec: &SessionSpec) -> Self {
        let resolved = Arc::new(spec.clone().resolve().unwrap());
        let options = NoiseOptions { lookahead: 2, state: NoiseState::Kept };
        let drawing = spec.source.noise().map(|_| Drawing {
            key: NoiseKey::from_bytes(KEY),
            options,
            resumed_at: None,
        });
        let (session, drawer) = AnySession::open(resolved, drawing).unwrap();
        Self { spec: spec.clone(), session, drawer, answers: Vec::new() }
    }

    fn answer(&mut self, step: u64) -> Bytes {
        while self.answers.len() as u64 <= step {
            let next = self.answers.len() as u64;
            let input = input(&self.spec, next);
            let chunks = loop {
                match self.session.take(next, 0, std::slice::from_ref(&input)).unwrap() {
                    Outcome::Answer(chunks) => break chunks,
                    Outcome::NeedsNoise => {
                        let buffers = self.session.take_buffers(2, self.drawer.as_mut());
                        self.session.supply(self.drawer.as_mut().unwrap().draw(buffers)).unwrap();
                    }
                }
            };
            self.answers
                .push(chunks.iter().flat_map(|chunk| chunk.bytes.to_vec()).collect::<Vec<u8>>().into());
        }
        self.answers[step as usize].clone()
    }
}
