//! How far an optimisation is: a line on stderr where that is a terminal.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use indicatif::ProgressBar;
use noised::design::{Progress, Verdict};

use crate::failure::{Failure, say};
use crate::output::short;

/// Runs a search on a thread of its own. The first Ctrl-C ends it with the best that it has found, the second without.
///
/// # Errors
/// Those of the search.
pub(super) async fn search<T: Send + 'static>(
    work: impl FnOnce(&mut dyn FnMut(Progress) -> Verdict) -> noised::Result<T> + Send + 'static,
) -> Result<T, Failure> {
    let interrupts = Arc::new(AtomicU32::new(0));
    let heard = Arc::clone(&interrupts);
    let mut working = tokio::task::spawn_blocking(move || {
        let spinner = Spinner::start();
        work(&mut |progress| {
            spinner.tell(progress);
            match heard.load(Ordering::Relaxed) {
                0 => Verdict::Continue,
                1 => Verdict::Finish,
                _ => Verdict::Abandon,
            }
        })
    });
    loop {
        tokio::select! {
            worked = &mut working => {
                return Ok(worked.map_err(|e| Failure::failed("the search", e))??);
            }
            pressed = tokio::signal::ctrl_c() => {
                pressed.map_err(|e| Failure::failed("cannot wait for signals", e))?;
                interrupts.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

/// Says that what is printed is not the end of a search.
pub(super) fn tell_if_early(complete: bool) {
    if !complete {
        say("ended before the search was over: this is the best that it had found");
    }
}

pub(super) struct Spinner(ProgressBar);

impl Spinner {
    pub(super) fn start() -> Self {
        let bar = ProgressBar::new_spinner();
        bar.enable_steady_tick(Duration::from_millis(100));
        Self(bar)
    }

    pub(super) fn tell(&self, progress: Progress) {
        let Progress { what, iteration, loss } = progress;
        self.0.set_message(format!("{what}: iteration {iteration}, root of the loss {}", short(loss.sqrt())));
    }
}

impl Drop for Spinner {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
