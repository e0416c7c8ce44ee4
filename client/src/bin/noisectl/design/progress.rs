//! How far an optimisation is: a line on stderr where that is a terminal.

use std::time::Duration;

use indicatif::ProgressBar;
use noised::design::Progress;

use crate::output::short;

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
