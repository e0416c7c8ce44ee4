//! Sessions in this process.

use bytes::Bytes;
use noised::session::{NoiseDrawer, NoiseSession, Outcome, OutputChunk, ResolvedSpec, Session, Source};

use crate::failure::Failure;
use crate::source::NoiseArgs;

/// A session in this process, whatever its source.
pub(crate) enum LocalSession {
    Input(Box<Session>),
    Drawn(Box<Drawn>),
}

/// Both halves of a session that draws, put to work in turn.
pub(crate) struct Drawn {
    session: NoiseSession,
    drawer: NoiseDrawer,
    is_gaussian: bool,
}

impl LocalSession {
    pub(crate) fn new(resolved: ResolvedSpec, noise: &NoiseArgs) -> Result<Self, Failure> {
        let is_gaussian = match resolved.spec().source {
            Source::Input => return Ok(Self::Input(Box::new(Session::new(resolved)))),
            Source::Gaussian(_) => true,
            Source::Privatize { .. } => false,
        };
        let (key, options) = (noise.local_key()?, noise.local_options(&resolved));
        let (session, drawer) = NoiseSession::new(resolved, key, options)?;
        Ok(Self::Drawn(Box::new(Drawn { session, drawer, is_gaussian })))
    }

    /// The answer to a step, of a run that ends before step `end`. `input` is empty where the source has none.
    pub(crate) fn take(&mut self, step: u64, input: Bytes, end: u64) -> Result<Vec<OutputChunk>, Failure> {
        match self {
            Self::Input(session) => Ok(session.apply(step, 0, &input)?),
            Self::Drawn(drawn) => drawn.take(step, input, end),
        }
    }
}

impl Drawn {
    fn take(&mut self, step: u64, input: Bytes, end: u64) -> Result<Vec<OutputChunk>, Failure> {
        loop {
            let outcome = match self.is_gaussian {
                true => self.session.fetch(step, 0)?,
                false => self.session.apply(step, 0, vec![input.clone()])?,
            };
            match outcome {
                Outcome::Answer(chunks) => return Ok(chunks),
                Outcome::NeedsNoise => self.draw(end - step)?,
            }
        }
    }

    /// Draws as many steps at once as the session likes, but none that nobody will ask for.
    fn draw(&mut self, left: u64) -> Result<(), Failure> {
        let wanted = self.session.wanted_steps().min(usize::try_from(left).unwrap_or(usize::MAX)).max(1);
        let drawn = self.drawer.draw(self.session.take_buffers(wanted));
        if drawn.is_empty() {
            return Err(Failure::failed("a step", "there is no noise left to draw"));
        }
        Ok(self.session.supply(drawn)?)
    }
}
