//! [`Watch`]: whoever waits for a design, as its parts see them.

use std::cell::RefCell;

use super::Progress;

/// Tells whoever waits how far it is, and hears whether they still do.
pub(super) struct Watch<'a> {
    hear: RefCell<&'a mut dyn FnMut(Progress) -> bool>,
    last: RefCell<Progress>,
}

impl<'a> Watch<'a> {
    pub(super) fn new(hear: &'a mut dyn FnMut(Progress) -> bool) -> Self {
        let last = Progress { what: "independent noise".to_owned(), iteration: 0, loss: f64::INFINITY };
        Self { hear: RefCell::new(hear), last: RefCell::new(last) }
    }

    /// Tells of progress. `false` where nobody waits any more.
    pub(super) fn report(&self, progress: Progress) -> bool {
        self.last.replace(progress.clone());
        (self.hear.borrow_mut())(progress)
    }

    /// Whether nobody waits any more: what was last told is told again.
    pub(super) fn cancelled(&self) -> bool {
        let last = self.last.borrow().clone();
        !(self.hear.borrow_mut())(last)
    }
}
