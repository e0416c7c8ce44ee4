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
    let interrupts = Interrupts::default();
    let mut tell = interrupts.tell();
    let working = tokio::task::spawn_blocking(move || work(&mut tell));
    interrupts.count_during(working).await?.map_err(|e| Failure::failed("the search", e))?.map_err(Into::into)
}

/// The same for a search on a server.
///
/// # Errors
/// Those of the search.
pub(super) async fn search_there<T, S: Future<Output = noised_client::Result<T>>>(
    begin: impl FnOnce(Box<dyn FnMut(Progress) -> Verdict + Send>) -> S,
) -> Result<T, Failure> {
    let interrupts = Interrupts::default();
    let searching = begin(Box::new(interrupts.tell()));
    Ok(interrupts.count_during(searching).await??)
}

/// How often Ctrl-C was pressed.
#[derive(Clone, Debug, Default)]
struct Interrupts(Arc<AtomicU32>);

impl Interrupts {
    /// Shows progress, and answers as the user wants it.
    fn tell(&self) -> impl FnMut(Progress) -> Verdict + Send + use<> {
        let (spinner, pressed) = (Spinner::start(), Arc::clone(&self.0));
        move |progress| {
            spinner.tell(progress);
            match pressed.load(Ordering::Relaxed) {
                0 => Verdict::Continue,
                1 => Verdict::Finish,
                _ => Verdict::Abandon,
            }
        }
    }

    async fn count_during<T>(&self, work: impl Future<Output = T>) -> Result<T, Failure> {
        let mut work = std::pin::pin!(work);
        loop {
            tokio::select! {
                worked = &mut work => return Ok(worked),
                pressed = tokio::signal::ctrl_c() => {
                    pressed.map_err(|e| Failure::failed("cannot wait for signals", e))?;
                    self.0.fetch_add(1, Ordering::Relaxed);
                }
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
