//! How far a search is: a line on stderr where that is a terminal; and how it ends where it is interrupted.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use indicatif::ProgressBar;
use noised::design::{Progress, Verdict};

use crate::failure::{Failure, say};
use crate::interrupt::Interrupt;
use crate::output::short;
use crate::printable::printable;

/// A search under way, here or on a server. The first Ctrl-C ends it with the best that it has found, the
/// second without.
pub(super) struct Search<'a> {
    bar: ProgressBar,
    interrupt: &'a Interrupt,
    last: Mutex<Option<Progress>>,
}

impl<'a> Search<'a> {
    pub(super) fn start(interrupt: &'a Interrupt) -> Self {
        let bar = ProgressBar::new_spinner();
        bar.enable_steady_tick(Duration::from_millis(100));
        Self { bar, interrupt, last: Mutex::new(None) }
    }

    /// Shows how far it is, and says whether it is to go on.
    pub(super) fn goes_on(&self, progress: Progress) -> Verdict {
        self.bar.set_message(printable(&shown(&progress)).into_owned());
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(progress);
        if self.interrupt.is_raised() { Verdict::Finish } else { Verdict::Continue }
    }

    /// Takes the line away and gives the result; where there is no result since it was interrupted, how far
    /// it had come.
    pub(super) fn end<T>(self, found: Result<T, Failure>) -> Result<T, Failure> {
        self.bar.finish_and_clear();
        found.map_err(|failure| {
            let last = self.last.into_inner().unwrap_or_else(PoisonError::into_inner);
            let last = last.map_or_else(|| "nothing was tried yet".to_owned(), |last| shown(&last));
            self.interrupt
                .explain(failure, format_args!("{last}; no strategy is given, and no file is written"))
        })
    }
}

/// Says, once it is printed, that a result is not the end of a search.
pub(super) fn end_early(interrupt: &Interrupt, complete: bool) -> Result<(), Failure> {
    let state = "the search was not over; what is printed and saved is the best that it had found";
    match (complete, interrupt.is_raised()) {
        (true, _) => Ok(()),
        (false, true) => Err(interrupt.failure(state)),
        // A server's time was over.
        (false, false) => {
            say(state);
            Ok(())
        }
    }
}

fn shown(progress: &Progress) -> String {
    let Progress { what, iteration, loss } = progress;
    format!("{what}: iteration {iteration}, root of the loss {}", short(loss.sqrt()))
}
