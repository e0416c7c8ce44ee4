//! A session that a store gives back: what is known of one whose process is gone, and going on from there.
//!
//! A process may end between any two acts, so a store knows a little less than what clients saw:
//!
//! - of `input`, the state of the last step that was stored;
//! - of `gaussian`, a step that the session had come to. The bits of a step are a function of key, step and
//!   lane, so the session goes on with the step that its client asks for;
//! - of `privatize`, which gradients the noise of each step was released under. A client may ask for the last
//!   of them again, since nobody knows whether its answer arrived.

use std::io::Read;
use std::sync::Arc;

use super::any::Half;
use super::kept::Rewinds;
use super::noise::Release;
use super::{AnySession, Drawing, GradientDigest, NoiseDrawer, NoiseSession, ResolvedSpec, Rewind, Session};
use crate::error::{Error, Result};
use crate::limits::MAX_STEPS_UNKNOWN;

/// What a store knows of a session whose process is gone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// The step that came next. Of `gaussian`, where `may_be_further`, one that the session had come to.
    pub next_step: u64,
    /// Whether steps from `next_step` on may have been released as well. Of `gaussian` alone.
    pub may_be_further: bool,
    /// Steps that were ever released, in whole or in part.
    pub released_steps: u64,
    /// The last acts of going back, the oldest first.
    pub rewinds: Vec<Rewind>,
    /// The number of all acts of going back.
    pub rewind_count: u64,
    /// Of `privatize`: the digests of the gradients under which steps 0, 1, ... were released, as
    /// [`AnySession::gradient_digest`] told them. `None` where a step may be released under any.
    pub digests: Vec<Option<GradientDigest>>,
}

impl AnySession {
    /// A session that goes on where one that is gone left off, and its drawer where `drawing` is given. Of
    /// `input`, `state` is what [`AnySession::snapshot`] wrote last; without it the session stands at step 0.
    ///
    /// The drawer is at step 0, and goes past the steps that are not wanted of it when it first draws.
    ///
    /// # Errors
    /// As [`AnySession::open`]; [`Error::Damaged`] where `state` is not that of this session, or what is
    /// known contradicts itself; [`Error::PastHorizon`].
    pub fn recover(
        resolved: impl Into<Arc<ResolvedSpec>>,
        drawing: Option<Drawing>,
        recovered: Recovered,
        state: Option<impl Read>,
    ) -> Result<(Self, Option<NoiseDrawer>)> {
        let resolved = resolved.into();
        if let Some(horizon) = resolved.spec.horizon.filter(|&horizon| recovered.next_step > horizon) {
            return Err(Error::PastHorizon { requested: recovered.next_step, horizon });
        }
        let (mut session, drawer) = Self::open(Arc::clone(&resolved), drawing)?;
        match &mut session.0 {
            Half::Input(session) => {
                if let Some(state) = state {
                    *session = Session::restore_as(resolved, state)?;
                }
                session.go_on(recovered)?;
            }
            Half::Noise(session) => session.go_on(recovered)?,
        }
        Ok((session, drawer))
    }

    /// From now on, answers nothing of a step of `privatize` before all of its gradient has come, so that
    /// its digest can be stored before. Of other sources this changes nothing.
    pub fn take_whole_steps(&mut self) {
        if let Half::Noise(NoiseSession { release: Release::Privatize(privatize), .. }) = &mut self.0 {
            privatize.take_whole_steps();
        }
    }

    /// The digest of the gradient under which all of a step of `privatize` was released.
    pub fn gradient_digest(&self, step: u64) -> Option<GradientDigest> {
        match &self.0 {
            Half::Noise(NoiseSession { release: Release::Privatize(privatize), .. }) => {
                privatize.digest_of(step)
            }
            Half::Noise(_) | Half::Input(_) => None,
        }
    }
}

impl Session {
    /// [`Session::restore`] of a session whose description is known.
    fn restore_as(resolved: Arc<ResolvedSpec>, state: impl Read) -> Result<Self> {
        let mut session = Self::restore(state)?;
        if session.resolved().fingerprint() != resolved.fingerprint() {
            return Err(Error::damaged("the state is that of another session"));
        }
        // One description for all that ask for it.
        session.track.resolved = resolved;
        Ok(session)
    }

    fn go_on(&mut self, recovered: Recovered) -> Result<()> {
        let Recovered { next_step, released_steps, rewinds, rewind_count, .. } = recovered;
        if self.next_step() != next_step {
            let found = self.next_step();
            return Err(Error::damaged(format!("the state is of step {found}, and not of step {next_step}")));
        }
        self.rewinds = Rewinds::known(rewinds, rewind_count, released_steps);
        Ok(())
    }
}

impl NoiseSession {
    fn go_on(&mut self, recovered: Recovered) -> Result<()> {
        let Recovered { next_step, may_be_further, released_steps, rewinds, rewind_count, digests } =
            recovered;
        self.rewinds = Rewinds::known(rewinds, rewind_count, released_steps.max(next_step));
        let last = next_step.saturating_sub(1);
        let open = match &mut self.release {
            Release::Gaussian { next_step: at, .. } => {
                *at = next_step;
                let further = if may_be_further { MAX_STEPS_UNKNOWN } else { 0 };
                let most = self.resolved.spec.horizon.unwrap_or(u64::MAX);
                last..=next_step.saturating_add(further).min(most)
            }
            Release::Privatize(privatize) => {
                if may_be_further {
                    return Err(Error::damaged("nobody knows how far a session of gradients came"));
                }
                privatize.go_on(next_step, digests);
                // Only under the gradient that is known.
                let first = if privatize.digest_of(last).is_some() { last } else { next_step };
                first..=next_step
            }
        };
        self.open = Some(open);
        Ok(())
    }

    /// Of a session that a store gave back: stands before `step`, where it may go on with that.
    pub(super) fn go_on_with(&mut self, step: u64) {
        if !self.open.as_ref().is_some_and(|open| open.contains(&step)) {
            return;
        }
        match &mut self.release {
            Release::Gaussian { next_step, last: _, in_part } => {
                *next_step = step;
                *in_part = Some(step);
            }
            Release::Privatize(privatize) if privatize.next_step() != step => {
                privatize.restart_at(step, None);
            }
            Release::Privatize(_) => {}
        }
        self.drawn.retain(|drawn| drawn.step >= step);
    }

    /// Whether a session that is gone may have released steps that this one does not know of.
    pub(super) fn may_be_further(&self) -> bool {
        self.open.as_ref().is_some_and(|open| *open.end() > self.next_step())
    }

    /// After noise was drawn, the drawer does not go back by itself.
    pub(super) fn close(&mut self) {
        let (next_step, draws_all) = (self.next_step(), self.draws_all());
        self.open = self.open.take().filter(|open| !draws_all && *open.end() > next_step);
        if let Some(open) = &mut self.open {
            *open = next_step..=*open.end();
        }
    }
}
