//! [`AnySession`]: a session of any source behind one set of methods. Nobody outside of this file asks which
//! source a session has to drive it.

use std::io;
use std::sync::Arc;

use bytes::Bytes;

use super::{
    NoiseDrawer, NoiseOptions, NoiseRewind, NoiseSession, Outcome, ResolvedSpec, Rewind, Session,
    SessionCost, StepBuffer, WhenFull,
};
use crate::error::{Error, Result};
use crate::noise::NoiseKey;

/// The answering half of a session, whatever its source. Where noise is drawn, a [`NoiseDrawer`] is the other
/// half.
#[derive(Debug)]
pub struct AnySession(pub(super) Half);

#[derive(Debug)]
pub(super) enum Half {
    Input(Session),
    Noise(NoiseSession),
}

/// What a session needs whose source is `gaussian` or `privatize`.
#[derive(Debug)]
pub struct Drawing {
    /// The key of the noise.
    pub key: NoiseKey,
    /// How the noise is drawn.
    pub options: NoiseOptions,
    /// The first step, where the session goes on with the noise of a session that is gone. See
    /// [`NoiseSession::resumed`].
    pub resumed_at: Option<u64>,
}

/// Where a session stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// The step that is expected next.
    pub next_step: u64,
    /// Bytes of that step's input that are applied already.
    pub next_offset: usize,
    /// Steps that were ever released, in whole or in part.
    pub released_steps: u64,
    /// Whether a server that is gone may have released more of them: see
    /// [`Recovered::may_be_further`](super::Recovered::may_be_further). Until the session has taken a step.
    pub may_be_further: bool,
    /// The steps whose state is kept, in order.
    pub kept_steps: Vec<u64>,
    /// The last acts of going back, the oldest first.
    pub rewinds: Vec<Rewind>,
    /// The number of all acts of going back.
    pub rewind_count: u64,
}

/// A request to go back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RewindTo {
    /// The step that is to be expected next.
    pub step: u64,
    /// When, in seconds since 1970-01-01 UTC.
    pub unix_seconds: u64,
    /// Whether released steps may be asked again with another gradient. A session of the client's input takes
    /// any input after it went back, and notes `false`.
    pub allow_divergence: bool,
}

/// Going back, begun by [`AnySession::begin_rewind`].
#[derive(Debug)]
pub struct AnyRewind {
    to: RewindTo,
    /// Absent where the session is back already.
    noise: Option<NoiseRewind>,
}

impl AnyRewind {
    /// Steps that the drawer has to go past before the session is back: none where the session has no drawer.
    pub fn steps_left(&self, drawer: Option<&NoiseDrawer>) -> u64 {
        let halves = self.noise.as_ref().zip(drawer);
        halves.map_or(0, |(rewind, drawer)| rewind.steps_left(drawer))
    }
}

impl AnySession {
    /// A session, and its drawer where `drawing` is given.
    ///
    /// # Errors
    /// [`Error::Invalid`] where `drawing` is missing for a source that is drawn, or given for one that is
    /// not, or an option breaks its rule; what [`NoiseSession::resumed`] refuses.
    pub fn open(
        resolved: impl Into<Arc<ResolvedSpec>>,
        drawing: Option<Drawing>,
    ) -> Result<(Self, Option<NoiseDrawer>)> {
        let resolved = resolved.into();
        let Some(Drawing { key, options, resumed_at }) = drawing else {
            if resolved.spec.source.noise().is_some() {
                return Err(Error::invalid("source", "must be `input` where there is no key to draw with"));
            }
            return Ok((Self(Half::Input(Session::new(resolved))), None));
        };
        let (session, drawer) = match resumed_at {
            None => NoiseSession::new(resolved, key, options)?,
            Some(step) => NoiseSession::resumed(resolved, key, options, step)?,
        };
        Ok((Self(Half::Noise(session)), Some(drawer)))
    }

    /// Takes the memory of the state from the system now, where this half has a state: see
    /// [`Session::touch_state`].
    pub fn touch_state(&mut self) {
        if let Half::Input(session) = &mut self.0 {
            session.touch_state();
        }
    }

    /// What this session is bound to.
    pub fn resolved(&self) -> &Arc<ResolvedSpec> {
        match &self.0 {
            Half::Input(session) => session.resolved(),
            Half::Noise(session) => session.resolved(),
        }
    }

    /// What the session takes, kept states aside.
    pub fn cost(&self) -> SessionCost {
        match &self.0 {
            Half::Input(session) => session.resolved().cost(),
            Half::Noise(session) => session.resolved().cost_with(session.options()),
        }
    }

    /// Takes a run of whole tiles of a step, in pieces of whole tiles, from byte `offset` on, and answers it.
    /// For `gaussian` the pieces are empty, and the answer is the step from byte `offset` on.
    ///
    /// Where this gives [`Outcome::NeedsNoise`], have the drawer draw into
    /// [`take_buffers`](Self::take_buffers), [`supply`](Self::supply) what it drew, and call this again.
    ///
    /// # Errors
    /// As [`Session::apply`], [`NoiseSession::fetch`] and [`NoiseSession::apply`].
    pub fn take(&mut self, step: u64, offset: usize, pieces: &[Bytes]) -> Result<Outcome> {
        match &mut self.0 {
            Half::Input(session) => session.apply_pieces(step, offset, pieces).map(Outcome::Answer),
            Half::Noise(session) if session.draws_all() && pieces.iter().all(Bytes::is_empty) => {
                session.fetch(step, offset)
            }
            Half::Noise(session) => session.apply(step, offset, pieces.to_vec()),
        }
    }

    /// Whether the next step waits for noise that is not drawn yet.
    pub fn needs_noise(&self) -> bool {
        matches!(&self.0, Half::Noise(session) if !session.has_drawn())
    }

    /// How many steps should be drawn now: see [`NoiseSession::wanted_steps`].
    pub fn wanted_steps(&self) -> usize {
        match &self.0 {
            Half::Input(_) => 0,
            Half::Noise(session) => session.wanted_steps(),
        }
    }

    /// How many more drawn steps there may be memory for: see [`NoiseSession::room`].
    pub fn room(&self) -> usize {
        match &self.0 {
            Half::Input(_) => 0,
            Half::Noise(session) => session.room(),
        }
    }

    /// Memory for so many steps, to be drawn into by `drawer`, the other half; none where nothing is drawn.
    pub fn take_buffers(&mut self, count: usize, drawer: Option<&mut NoiseDrawer>) -> Vec<StepBuffer> {
        match (&mut self.0, drawer) {
            (Half::Noise(session), Some(drawer)) => session.take_buffers(count, drawer),
            (Half::Input(_) | Half::Noise(_), _) => Vec::new(),
        }
    }

    /// Takes the noise of the next steps.
    ///
    /// # Errors
    /// As [`NoiseSession::supply`]; [`Error::Invalid`] where nothing is drawn.
    pub fn supply(&mut self, steps: Vec<super::DrawnStep>) -> Result<()> {
        match &mut self.0 {
            Half::Input(_) => {
                Err(Error::invalid("source", "must be `gaussian` or `privatize` to take noise"))
            }
            Half::Noise(session) => session.supply(steps),
        }
    }

    /// Writes the state of a session of the client's input out; nothing of another, whose state can be drawn
    /// again.
    ///
    /// # Errors
    /// As [`Session::snapshot`].
    pub fn snapshot(&self, writer: impl io::Write) -> io::Result<()> {
        match &self.0 {
            Half::Input(session) => session.snapshot(writer),
            Half::Noise(_) => Ok(()),
        }
    }

    /// The step that is expected next.
    pub fn next_step(&self) -> u64 {
        match &self.0 {
            Half::Input(session) => session.next_step(),
            Half::Noise(session) => session.next_step(),
        }
    }

    /// Notes the step that comes next and the steps released, which change with every step.
    pub fn note_step(&self, standing: &mut Standing) {
        (standing.next_step, standing.next_offset, standing.released_steps) = match &self.0 {
            Half::Input(session) => (session.next_step(), session.next_offset(), session.released_steps()),
            Half::Noise(session) => (session.next_step(), session.next_offset(), session.released_steps()),
        };
        standing.may_be_further = matches!(&self.0, Half::Noise(session) if session.may_be_further());
    }

    /// Where the session stands.
    pub fn standing(&self) -> Standing {
        let (kept_steps, (rewinds, rewind_count)) = match &self.0 {
            Half::Input(session) => (session.kept_steps(), session.rewinds()),
            Half::Noise(session) => (session.kept_steps(), session.rewinds()),
        };
        let mut standing = Standing { kept_steps, rewinds, rewind_count, ..Standing::default() };
        self.note_step(&mut standing);
        standing
    }

    /// Bytes that one kept state takes at most. `drawer` is the other half, where there is one.
    ///
    /// # Errors
    /// [`Error::Invalid`] where the other half is missing.
    pub fn kept_state_bytes(&self, drawer: Option<&NoiseDrawer>) -> Result<u64> {
        match &self.0 {
            Half::Input(session) => Ok(session.kept_state_bytes()),
            Half::Noise(session) => Ok(session.kept_state_bytes(drawer.ok_or_else(no_drawer)?)),
        }
    }

    /// Keeps the state of a step, of which there may be `most`. `drawer` is the other half, where there is
    /// one.
    ///
    /// # Errors
    /// As [`Session::keep_state`] and [`NoiseSession::keep_state`]; [`Error::Invalid`] where the other half
    /// is missing.
    pub fn keep_state(
        &mut self,
        step: u64,
        drawer: Option<&NoiseDrawer>,
        when_full: WhenFull,
        most: usize,
    ) -> Result<()> {
        match &mut self.0 {
            Half::Input(session) => session.keep_state(step, when_full, most),
            Half::Noise(session) => session.keep_state(step, drawer.ok_or_else(no_drawer)?, when_full, most),
        }
    }

    /// Begins to go back. A session of the client's input is back when this returns. Of another, take the
    /// drawer past the [steps that are left](AnyRewind::steps_left), as long as nobody calls it off.
    /// [Finish](Self::finish_rewind) in any case: the session then stands where the drawer has come to.
    ///
    /// # Errors
    /// Nothing is changed by a call that fails. As [`Session::rewind`] and [`NoiseSession::begin_rewind`];
    /// [`Error::Invalid`] where the other half is missing.
    pub fn begin_rewind(&mut self, to: RewindTo, drawer: Option<&mut NoiseDrawer>) -> Result<AnyRewind> {
        let noise = match &mut self.0 {
            Half::Input(session) => {
                session.rewind(to.step, to.unix_seconds)?;
                None
            }
            Half::Noise(session) => Some(session.begin_rewind(to.step, drawer.ok_or_else(no_drawer)?)?),
        };
        Ok(AnyRewind { to, noise })
    }

    /// Ends going back. `drawer` is the other half, with which the rewind was begun.
    ///
    /// # Errors
    /// [`Error::Invalid`] where the other half is missing.
    pub fn finish_rewind(&mut self, rewind: AnyRewind, drawer: Option<&NoiseDrawer>) -> Result<()> {
        let AnyRewind { to, noise } = rewind;
        if let (Half::Noise(session), Some(rewind)) = (&mut self.0, noise) {
            let drawer = drawer.ok_or_else(no_drawer)?;
            session.finish_rewind(rewind, drawer, to.unix_seconds, to.allow_divergence);
        }
        Ok(())
    }
}

fn no_drawer() -> Error {
    Error::invalid("drawer", "must be the other half of a session whose noise is drawn")
}
