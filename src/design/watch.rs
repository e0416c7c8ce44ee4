//! [`Watch`]: whoever waits for a design, as its parts see them.

use std::cell::{Cell, RefCell};

use super::{Progress, Verdict};
use crate::error::{Error, Result};

/// Tells whoever waits how far the search is, and hears whether to go on.
pub(super) struct Watch<'a> {
    hear: RefCell<&'a mut dyn FnMut(Progress) -> Verdict>,
    last: RefCell<Progress>,
    /// The last answer; one that ends the search stays.
    verdict: Cell<Verdict>,
}

impl<'a> Watch<'a> {
    pub(super) fn new(hear: &'a mut dyn FnMut(Progress) -> Verdict) -> Self {
        let last = Progress { what: "independent noise".to_owned(), iteration: 0, loss: f64::INFINITY };
        Self { hear: RefCell::new(hear), last: RefCell::new(last), verdict: Cell::new(Verdict::Continue) }
    }

    /// Tells of progress. `false` where the search ends.
    pub(super) fn report(&self, progress: Progress) -> bool {
        self.last.replace(progress);
        !self.interrupted()
    }

    /// Whether a part of the search is to stop where it is: what was last told is told again.
    pub(super) fn interrupted(&self) -> bool {
        if !self.stopped() {
            self.ask();
        }
        self.stopped()
    }

    /// Whether a measurement of what was found is to be given up.
    pub(super) fn abandoned(&self) -> bool {
        if self.verdict.get() != Verdict::Abandon {
            self.ask();
        }
        self.verdict.get() == Verdict::Abandon
    }

    /// Whether the search was told to end, without asking again.
    pub(super) fn stopped(&self) -> bool {
        self.verdict.get() != Verdict::Continue
    }

    /// # Errors
    /// [`Error::Cancelled`] where nobody waits for what was found either.
    pub(super) fn check(&self) -> Result<()> {
        if self.verdict.get() == Verdict::Abandon { Err(Error::Cancelled) } else { Ok(()) }
    }

    fn ask(&self) {
        let last = self.last.borrow().clone();
        let verdict = (self.hear.borrow_mut())(last);
        // Once told to finish, the search does not begin again.
        self.verdict.set(self.verdict.get().max(verdict));
    }
}
