//! Sessions in this process.

use bytes::Bytes;
use noised::session::{NoiseDrawer, NoiseSession, OutputChunk, ResolvedSpec, Session, Source};

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

    /// The answer to a step. `input` is empty where the source has none.
    pub(crate) fn take(&mut self, step: u64, input: Bytes) -> Result<Vec<OutputChunk>, Failure> {
        let Drawn { session, drawer, is_gaussian } = match self {
            Self::Input(session) => return Ok(session.apply(step, 0, &input)?),
            Self::Drawn(drawn) => &mut **drawn,
        };
        let ask = |session: &mut NoiseSession| match is_gaussian {
            true => session.fetch(step, 0),
            false => session.apply(step, 0, vec![input.clone()]),
        };
        Ok(drawer.answer(session, ask)?)
    }
}
