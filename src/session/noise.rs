//! [`NoiseSession`]: the half of a session that answers, where the server draws the noise. It knows which step comes next
//! and what has been released, and has the noise of a few steps ready that a [`NoiseDrawer`] drew.
//!
//! The two halves have no lock in common: while one step is drawn, another is answered.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::ops::RangeInclusive;
use std::sync::Arc;

use bytes::Bytes;

use super::buffers::{Buffers, StepBuffer};
use super::drawer::DrawerMark;
use super::kept::{Rewinds, WhenFull, make_room};
use super::privatize::{Privatize, Taken};
use super::{DrawnStep, NoiseDrawer, NoiseOptions, NoiseState, OutputChunk, ResolvedSpec, Rewind, Source};
use crate::error::{Error, Result};
use crate::kernel::Backend;
use crate::limits::{MAX_STEPS_A_PASS, MAX_STEPS_UNDER_WAY};
use crate::noise::NoiseKey;

/// The answering half of a session whose noise the server draws.
pub struct NoiseSession {
    pub(super) resolved: Arc<ResolvedSpec>,
    options: NoiseOptions,
    /// The noise of the next step and those after it, as far as it is drawn.
    pub(super) drawn: VecDeque<DrawnStep>,
    /// Memory to draw into.
    buffers: Buffers,
    pub(super) release: Release,
    kept: BTreeMap<u64, Kept>,
    pub(super) rewinds: Rewinds,
    /// Of a session that a store gave back: with which step it may go on. None once it went on.
    pub(super) open: Option<RangeInclusive<u64>>,
}

/// How noise is released.
pub(super) enum Release {
    /// As it is.
    Gaussian {
        next_step: u64,
        /// The answer to the step before, unless the session went back since.
        last: Option<Bytes>,
        /// A step of which a client may have a part already, from a server that is gone.
        in_part: Option<u64>,
    },
    /// Under a gradient.
    Privatize(Box<Privatize>),
}

/// What going back to a step takes.
#[derive(Clone, Debug)]
struct Kept {
    mark: DrawerMark,
    /// What was drawn before the mark and was not released.
    drawn: VecDeque<DrawnStep>,
}

/// The answer to a request, or why there is none yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Parts of a step's answer, in order. None where more of the request has to come first.
    Answer(Vec<OutputChunk>),
    /// The noise of the step is not drawn yet. Nothing was changed, but that the answer to the step before
    /// has arrived: supply it, and ask again.
    NeedsNoise,
}

/// Going back, begun by [`NoiseSession::begin_rewind`].
#[derive(Debug)]
pub struct NoiseRewind {
    to_step: u64,
    drawn: VecDeque<DrawnStep>,
}

impl NoiseRewind {
    /// Steps that the drawer has to go past before it is done.
    pub fn steps_left(&self, drawer: &NoiseDrawer) -> u64 {
        self.to_step.saturating_sub(drawer.next_step())
    }
}

impl NoiseSession {
    /// Both halves of a session at step 0.
    ///
    /// # Errors
    /// [`Error::Invalid`] where the source is the client's input, or an option breaks its rule.
    pub fn new(
        resolved: impl Into<Arc<ResolvedSpec>>,
        key: NoiseKey,
        options: NoiseOptions,
    ) -> Result<(Self, NoiseDrawer)> {
        Self::with_backend(resolved, key, options, Backend::best())
    }

    /// Both halves of a `gaussian` session that goes on at `step` with the noise of a session that is gone,
    /// which released the steps before. None of those is released again, unless the session is told to go
    /// back.
    ///
    /// The drawer is at step 0 still, and goes past the steps before `step` when it first draws; or before
    /// that, within going back to `step`, which tells how far it has come.
    ///
    /// # Errors
    /// [`Error::Invalid`] where the source is another, or an option breaks its rule; [`Error::PastHorizon`].
    pub fn resumed(
        resolved: impl Into<Arc<ResolvedSpec>>,
        key: NoiseKey,
        options: NoiseOptions,
        step: u64,
    ) -> Result<(Self, NoiseDrawer)> {
        let (mut session, mut drawer) = Self::new(resolved, key, options)?;
        let Release::Gaussian { next_step, .. } = &mut session.release else {
            let rule = "must be `gaussian`: of another source nobody knows which gradients had the noise of the steps before";
            return Err(Error::invalid("source", rule));
        };
        if let Some(horizon) = session.resolved.spec.horizon.filter(|&horizon| step > horizon) {
            return Err(Error::PastHorizon { requested: step, horizon });
        }
        *next_step = step;
        session.rewinds = Rewinds::after(step);
        drawer.begin_at(step);
        Ok((session, drawer))
    }

    /// [`new`](Self::new) on a given backend. The bits do not depend on it.
    ///
    /// # Errors
    /// As [`NoiseSession::new`].
    pub fn with_backend(
        resolved: impl Into<Arc<ResolvedSpec>>,
        key: NoiseKey,
        options: NoiseOptions,
        backend: Backend,
    ) -> Result<(Self, NoiseDrawer)> {
        let resolved = resolved.into();
        resolved.check_noise_options(options)?;
        let release = match resolved.spec.source {
            Source::Input | Source::Gaussian(_) => {
                Release::Gaussian { next_step: 0, last: None, in_part: None }
            }
            Source::Privatize { .. } => {
                Release::Privatize(Box::new(Privatize::new(Arc::clone(&resolved), backend, &key)))
            }
        };
        let drawer = NoiseDrawer::new(Arc::clone(&resolved), backend, key, options.state)?;
        // What is drawn ahead, and the last answer.
        let buffers = Buffers::new(resolved.step_noise_bytes() as usize, options.lookahead as usize + 1);
        let session = Self {
            resolved,
            options,
            drawn: VecDeque::new(),
            buffers,
            release,
            kept: BTreeMap::new(),
            rewinds: Rewinds::default(),
            open: None,
        };
        Ok((session, drawer))
    }

    /// What this session is bound to.
    pub fn resolved(&self) -> &Arc<ResolvedSpec> {
        &self.resolved
    }

    /// How it goes about drawing.
    pub fn options(&self) -> NoiseOptions {
        self.options
    }

    /// Whether a step is asked for without a payload.
    pub(super) fn draws_all(&self) -> bool {
        matches!(self.release, Release::Gaussian { .. })
    }

    /// The step that is expected next.
    pub fn next_step(&self) -> u64 {
        match &self.release {
            Release::Gaussian { next_step, .. } => *next_step,
            Release::Privatize(privatize) => privatize.next_step(),
        }
    }

    /// Bytes of that step's gradient that are applied already.
    pub fn next_offset(&self) -> usize {
        match &self.release {
            Release::Gaussian { .. } => 0,
            Release::Privatize(privatize) => privatize.next_offset(),
        }
    }

    /// The number of steps that were ever released, in whole or in part.
    pub fn released_steps(&self) -> u64 {
        self.rewinds.released(self.next_step(), self.next_offset() > 0)
    }

    /// Of a `gaussian` source: the answer to a step from byte `offset` on.
    ///
    /// The step after the last one released is released as a whole, and says that the answer to the step
    /// before it has arrived; the last one is answered again with the same bytes.
    ///
    /// # Errors
    /// Nothing is changed by a call that fails. [`Error::Invalid`] where the source is another or the offset
    /// past the end; [`Error::WrongStep`], [`Error::PastHorizon`]; [`Error::NoiseNotFinite`], at which the
    /// session ends.
    pub fn fetch(&mut self, step: u64, offset: usize) -> Result<Outcome> {
        let length = self.resolved.layout.byte_len();
        if self.draws_all() && offset >= length {
            return Err(Error::invalid("offset", format!("must be less than the step's {length} bytes")));
        }
        self.go_on_with(step);
        let Release::Gaussian { next_step, last, in_part } = &mut self.release else {
            return Err(Error::invalid("source", "must be `gaussian` for a step without a payload"));
        };
        let answer = |bytes: &Bytes, replay| {
            Outcome::Answer(vec![OutputChunk { offset, bytes: bytes.slice(offset..), replay }])
        };
        if let Some(last) = last.as_ref().filter(|_| next_step.checked_sub(1) == Some(step)) {
            return Ok(answer(last, true));
        }
        if let Some(horizon) = self.resolved.spec.horizon.filter(|&horizon| step >= horizon) {
            return Err(Error::PastHorizon { requested: step, horizon });
        }
        if step != *next_step {
            return Err(Error::WrongStep { requested: step, expected: *next_step });
        }
        if offset != 0 && *in_part != Some(step) {
            return Err(Error::invalid("offset", format!("must be 0: step {step} is not released yet")));
        }
        // The answer to the step before has arrived: its memory is free for this one.
        *last = None;
        if self.drawn.front().is_some_and(|drawn| !drawn.finite) {
            return Err(Error::NoiseNotFinite { requested: step });
        }
        let Some(drawn) = self.drawn.pop_front() else {
            return Ok(Outcome::NeedsNoise);
        };
        *next_step += 1;
        *in_part = None;
        // What comes again after a rewind is the same bits.
        let replay = step < self.rewinds.released(0, false);
        Ok(answer(last.insert(drawn.bytes), replay))
    }

    /// Of a `privatize` source: takes a run of whole tiles of a step's gradient, in pieces of whole tiles,
    /// and answers with the sums.
    ///
    /// # Errors
    /// Nothing is changed by a call that fails, but for what was held of a step that turns out to be another.
    /// [`Error::Invalid`] where the source is another, or the run is not one of whole tiles or not the next
    /// in order, or a sum is not finite: the answers to the same lanes of the step before are given up then,
    /// as by a run that is taken; [`Error::WrongStep`], [`Error::PayloadMismatch`], [`Error::PastHorizon`];
    /// [`Error::Diverged`] where the step was released under another gradient before the session went back;
    /// [`Error::NoiseNotFinite`], at which the session ends.
    pub fn apply(&mut self, step: u64, offset: usize, pieces: Vec<Bytes>) -> Result<Outcome> {
        self.go_on_with(step);
        let Release::Privatize(privatize) = &mut self.release else {
            return Err(Error::invalid("payload", "must be empty: the source is `gaussian`"));
        };
        let chunks = match privatize.apply(step, offset, pieces, self.drawn.front())? {
            Taken::NeedsNoise => return Ok(Outcome::NeedsNoise),
            Taken::Part(chunks) => chunks,
            Taken::Last(chunks) => {
                self.open = None;
                self.drawn.pop_front();
                chunks
            }
        };
        Ok(Outcome::Answer(chunks))
    }

    /// Whether the noise of the next step is there.
    pub fn has_drawn(&self) -> bool {
        !self.drawn.is_empty()
    }

    /// How many steps should be drawn now, to have as many ready as the options say: none while there are
    /// enough, and else about half of them, so that one sweep through the state draws several.
    pub fn wanted_steps(&self) -> usize {
        if self.open.is_some() {
            // Nobody knows yet which steps these are.
            return 0;
        }
        let lookahead = self.options.lookahead as usize;
        let a_pass = (lookahead / 2).clamp(1, MAX_STEPS_A_PASS);
        let room = lookahead.saturating_sub(self.drawn.len());
        if room >= a_pass { a_pass } else { 0 }
    }

    /// How many steps there may be memory for beside those that there are, what
    /// [`wanted_steps`](Self::wanted_steps) says aside: none where answers that nobody reads hold on to too
    /// many.
    pub fn room(&self) -> usize {
        let ahead = self.options.lookahead as usize;
        let kept: usize = self.kept.values().map(|kept| kept.drawn.len()).sum();
        let most = ahead + kept + MAX_STEPS_UNDER_WAY;
        most.saturating_sub(self.buffers.used())
    }

    /// Memory for so many steps, to be drawn into by `drawer`, the other half of this session. It goes past
    /// the steps that are not wanted of it first.
    pub fn take_buffers(&mut self, count: usize, drawer: &mut NoiseDrawer) -> Vec<StepBuffer> {
        drawer.begin_at(self.next_step() + self.drawn.len() as u64);
        (0..count).map(|_| self.buffers.take()).collect()
    }

    /// Takes the noise of the next steps.
    ///
    /// # Errors
    /// [`Error::WrongStep`] where it is not that of the steps that are missing next; nothing is taken then.
    pub fn supply(&mut self, steps: Vec<DrawnStep>) -> Result<()> {
        let first = self.next_step() + self.drawn.len() as u64;
        for (expected, drawn) in (first..).zip(&steps) {
            if drawn.step != expected {
                return Err(Error::WrongStep { requested: drawn.step, expected });
            }
        }
        self.drawn.extend(steps);
        self.close();
        Ok(())
    }

    /// Keeps the state of the step that comes next, of which there may be `most`. A step that is kept already
    /// stays so. `drawer` is the other half of this session.
    ///
    /// Of a `gaussian` source the step before will do as well, as long as its answer is held: a client that
    /// fetches one step ahead of what it trains keeps the state of the step that it trains. The step that
    /// comes next is the same after it.
    ///
    /// # Errors
    /// Nothing is changed by a call that fails. [`Error::WrongStep`] where it is neither of these, or the
    /// step is released in part; [`Error::KeptStates`].
    pub fn keep_state(
        &mut self,
        step: u64,
        drawer: &NoiseDrawer,
        when_full: WhenFull,
        most: usize,
    ) -> Result<()> {
        if self.kept.contains_key(&step) {
            return Ok(());
        }
        self.go_on_with(step);
        let expected = self.next_step();
        let is_held = self.held().is_some_and(|held| held.step == step);
        if !is_held && (step != expected || self.next_offset() > 0) {
            return Err(Error::WrongStep { requested: step, expected });
        }
        make_room(&mut self.kept, when_full, most)?;
        let mut kept = Kept { mark: drawer.mark(), drawn: self.drawn_from(step) };
        if self.options.state == NoiseState::Replayed {
            // Nothing is kept: every step is as near as this one.
            kept.mark.step = step;
            kept.drawn.clear();
        }
        self.kept.insert(step, kept);
        Ok(())
    }

    /// The steps whose state is kept, in order.
    pub fn kept_steps(&self) -> Vec<u64> {
        self.kept.keys().copied().collect()
    }

    /// Bytes that one kept state takes at most.
    pub fn kept_state_bytes(&self, drawer: &NoiseDrawer) -> u64 {
        // Of a `gaussian` source, the last answer may be kept beside what is drawn ahead.
        let held = match self.release {
            Release::Gaussian { .. } => 1,
            Release::Privatize(_) => 0,
        };
        let drawn = match self.options.state {
            NoiseState::Kept => u64::from(self.options.lookahead.max(1)) + held,
            NoiseState::Replayed => 0,
        };
        drawer.mark_bytes() + drawn * self.resolved.step_noise_bytes()
    }

    /// Of a `gaussian` source: the step before the one that comes next, while its answer is held.
    fn held(&self) -> Option<DrawnStep> {
        let Release::Gaussian { next_step, last: Some(last), .. } = &self.release else { return None };
        // Nothing else is ever released.
        Some(DrawnStep { step: next_step.checked_sub(1)?, bytes: last.clone(), finite: true })
    }

    /// What there is of the noise from `step` on, as it was drawn.
    fn drawn_from(&self, step: u64) -> VecDeque<DrawnStep> {
        let there = self.held().into_iter().chain(self.drawn.iter().cloned());
        there.filter(|drawn| drawn.step >= step).collect()
    }

    /// Begins to go back to `step`: sets `drawer`, the other half of this session, to the nearest state there
    /// is. Nothing is drawn again of a step that is drawn and not released yet, nor of the step before while
    /// its answer is held.
    ///
    /// Then take the drawer past the [steps that are left](NoiseRewind::steps_left), as long as nobody calls
    /// it off, and [finish](NoiseSession::finish_rewind) in any case: the session stands where the drawer has
    /// come to.
    ///
    /// # Errors
    /// [`Error::PastReleased`]; nothing is changed then.
    pub fn begin_rewind(&mut self, step: u64, drawer: &mut NoiseDrawer) -> Result<NoiseRewind> {
        self.go_on_with(step);
        let released = self.released_steps();
        if step > released {
            return Err(Error::PastReleased { requested: step, released });
        }
        let first = self.held().map_or(self.next_step(), |held| held.step);
        if (first..=drawer.next_step()).contains(&step) {
            return Ok(NoiseRewind { to_step: step, drawn: self.drawn_from(step) });
        }
        // Where the drawer is to begin at a later step, it is told now where.
        drawer.begin_at(0);
        let kept = self.kept.range(..=step).next_back().map(|(_, kept)| kept);
        let nearest = kept.map_or(0, |kept| kept.mark.step);
        let mut drawn = VecDeque::new();
        // The drawer may itself be nearer, where the session went back too far before.
        if !(nearest..=step).contains(&drawer.next_step()) {
            drawer.go_back(kept.map(|kept| &kept.mark));
            drawn.extend(
                kept.into_iter().flat_map(|kept| &kept.drawn).filter(|drawn| drawn.step >= step).cloned(),
            );
        }
        Ok(NoiseRewind { to_step: step, drawn })
    }

    /// Ends going back.
    pub fn finish_rewind(
        &mut self,
        rewind: NoiseRewind,
        drawer: &NoiseDrawer,
        unix_seconds: u64,
        allow_divergence: bool,
    ) {
        let NoiseRewind { to_step: asked, drawn } = rewind;
        let (from_step, released) = (self.next_step(), self.released_steps());
        let to_step = drawn.front().map_or(drawer.next_step(), |drawn| drawn.step);
        self.drawn = drawn;
        self.open = None;
        match &mut self.release {
            Release::Gaussian { next_step, last, in_part } => {
                *next_step = to_step;
                *last = None;
                *in_part = None;
            }
            Release::Privatize(privatize) => {
                // Where it was called off on its way, nothing is allowed for the steps before the one that
                // was asked for.
                privatize.restart_at(to_step, allow_divergence.then_some(to_step.max(asked)));
            }
        }
        self.rewinds.note(Rewind { from_step, to_step, unix_seconds, allow_divergence }, released);
    }

    /// The last acts of going back, the oldest first, and how many there were.
    pub fn rewinds(&self) -> (Vec<Rewind>, u64) {
        (self.rewinds.last.iter().copied().collect(), self.rewinds.count)
    }
}

impl fmt::Debug for NoiseSession {
    /// Where it stands: noise is secret until it is released.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NoiseSession").field("next_step", &self.next_step()).finish_non_exhaustive()
    }
}
