//! States that a session is asked to keep, and going back to them.

use std::collections::{BTreeMap, VecDeque};

use super::{Rewind, Session};
use crate::error::{Error, Result};
use crate::kernel::LaneState;
use crate::limits::MAX_REWINDS_KEPT;

/// What to do where as many states are kept as may be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhenFull {
    /// Refuse to keep one more.
    #[default]
    Refuse,
    /// Let go of the state of the earliest step.
    ReleaseOldest,
}

/// Makes room for one more kept state, of which there may be `most`.
pub(super) fn make_room<T>(kept: &mut BTreeMap<u64, T>, when_full: WhenFull, most: usize) -> Result<()> {
    if kept.len() >= most {
        if when_full == WhenFull::Refuse || most == 0 {
            return Err(Error::KeptStates { limit: most });
        }
        kept.pop_first();
    }
    Ok(())
}

/// The acts of going back, and how far the session had ever come.
#[derive(Debug, Default)]
pub(super) struct Rewinds {
    /// The last of them, the oldest first.
    pub(super) last: VecDeque<Rewind>,
    pub(super) count: u64,
    /// Steps that were released before the last of them, in whole or in part.
    released: u64,
}

impl Rewinds {
    /// Steps that were ever released, of a session that stands where it is told.
    pub(super) fn released(&self, step: u64, in_part: bool) -> u64 {
        self.released.max(step + u64::from(in_part))
    }

    /// No act, of a session whose steps before `step` were released by another that is gone.
    pub(super) fn after(step: u64) -> Self {
        Self { released: step, ..Self::default() }
    }

    /// Acts that are known of a session that ever released so many steps.
    pub(super) fn known(last: Vec<Rewind>, count: u64, released: u64) -> Self {
        Self { last: last.into(), count, released }
    }

    /// Notes one, of a session that had ever released so many steps.
    pub(super) fn note(&mut self, rewind: Rewind, released: u64) {
        if self.last.len() == MAX_REWINDS_KEPT {
            self.last.pop_front();
        }
        self.last.push_back(rewind);
        self.count += 1;
        self.released = released;
    }
}

impl Session {
    /// Keeps the state of the step that comes next, so that [`Session::rewind`] can come back to it. At most
    /// `most` are kept. A step that is kept already stays so.
    ///
    /// # Errors
    /// Nothing is changed by a call that fails. [`Error::WrongStep`] where another step comes next, or this
    /// one is applied in part; [`Error::KeptStates`].
    pub fn keep_state(&mut self, step: u64, when_full: WhenFull, most: usize) -> Result<()> {
        if self.kept.contains_key(&step) {
            return Ok(());
        }
        if step != self.track.step || self.track.tiles_done > 0 {
            return Err(Error::WrongStep { requested: step, expected: self.track.step });
        }
        make_room(&mut self.kept, when_full, most)?;
        self.kept.insert(step, self.state.clone());
        Ok(())
    }

    /// The steps whose state is kept, in order.
    pub fn kept_steps(&self) -> Vec<u64> {
        self.kept.keys().copied().collect()
    }

    /// Goes back to a step whose state is kept, or to step 0. What is kept of later steps is gone: the input
    /// that led there may not come again.
    ///
    /// # Errors
    /// Nothing is changed by a call that fails. [`Error::PastReleased`], [`Error::NotKept`].
    pub fn rewind(&mut self, step: u64, unix_seconds: u64) -> Result<()> {
        let released = self.released_steps();
        if step > released {
            return Err(Error::PastReleased { requested: step, released });
        }
        match self.kept.get(&step) {
            Some(kept) => self.state.copy_from(kept),
            None if step == 0 => self.state.clear(),
            None => return Err(Error::NotKept { requested: step }),
        }
        self.kept.retain(|&kept, _| kept <= step);
        let (from_step, to_step) = (self.track.step, step);
        let rewind = Rewind { from_step, to_step, unix_seconds, allow_divergence: false };
        self.rewinds.note(rewind, released);
        self.track.restart_at(step);
        self.resolve_program();
        Ok(())
    }

    /// The last acts of going back, the oldest first, and how many there were.
    pub fn rewinds(&self) -> (Vec<Rewind>, u64) {
        (self.rewinds.last.iter().copied().collect(), self.rewinds.count)
    }

    /// The number of steps that were ever released, in whole or in part.
    pub fn released_steps(&self) -> u64 {
        self.rewinds.released(self.track.step, self.track.tiles_done > 0)
    }

    /// Bytes that one kept state takes.
    pub fn kept_state_bytes(&self) -> u64 {
        self.state.byte_len()
    }
}

impl LaneState {
    pub(super) fn byte_len(&self) -> u64 {
        match self {
            Self::F32(values) => size_of_val(&**values) as u64,
            Self::F64(values) => size_of_val(&**values) as u64,
        }
    }
}
