//! What is read from files, and read again when one of them changes.

use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};

use crate::audit::Audit;
use crate::lifecycle::Lifecycle;

/// How often the files are looked at. A program that renews a certificate has hours.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// What tells that a file has changed; `None` where it is not there.
type Stamp = Option<(u64, u64, u64, [i64; 4])>;

/// A value that is read from files. A read that fails leaves the last good value.
pub(crate) struct Reread<T> {
    /// What the files are, for the log.
    what: &'static str,
    paths: Vec<PathBuf>,
    read: Box<dyn Fn() -> anyhow::Result<T> + Send + Sync>,
    current: RwLock<T>,
    /// Reads that failed since the server started.
    failures: AtomicU64,
    /// What the files were before they were read for the first time.
    opened: Vec<Stamp>,
}

impl<T> fmt::Debug for Reread<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // What is read may be a secret.
        f.debug_struct("Reread").field("paths", &self.paths).finish_non_exhaustive()
    }
}

impl<T: Clone + Send + Sync + 'static> Reread<T> {
    /// Reads the value for the first time.
    ///
    /// # Errors
    /// Those of `read`.
    pub(crate) fn open(
        what: &'static str,
        paths: Vec<PathBuf>,
        read: impl Fn() -> anyhow::Result<T> + Send + Sync + 'static,
    ) -> anyhow::Result<Arc<Self>> {
        // Before the reading: a file that changes meanwhile is read again.
        let opened = stamps(&paths);
        let current = RwLock::new(read()?);
        Ok(Arc::new(Self { what, paths, read: Box::new(read), current, failures: AtomicU64::new(0), opened }))
    }

    /// The last value that could be read.
    pub(crate) fn current(&self) -> T {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reads the files again whenever one of them changes, and at every SIGHUP, until the server drains.
    pub(crate) async fn watch(self: Arc<Self>, lifecycle: Lifecycle, audit: Audit) {
        let mut seen = self.opened.clone();
        let mut hangup = signal(SignalKind::hangup()).ok();
        loop {
            let told = async {
                match &mut hangup {
                    Some(hangup) => drop(hangup.recv().await),
                    None => std::future::pending().await,
                }
            };
            let is_told = tokio::select! {
                () = lifecycle.draining.cancelled() => return,
                () = told => true,
                () = tokio::time::sleep(LOOK_EVERY) => false,
            };
            let now = stamps(&self.paths);
            if !is_told && now == seen {
                continue;
            }
            seen = now;
            let (this, audit) = (Arc::clone(&self), audit.clone());
            // Files may lie on a network.
            let _read = tokio::task::spawn_blocking(move || this.read_again(&audit)).await;
        }
    }

    fn read_again(&self, audit: &Audit) {
        let what = self.what;
        let read = (self.read)();
        audit.reloaded(what, read.is_err());
        match read {
            Ok(read) => {
                *self.current.write().unwrap_or_else(PoisonError::into_inner) = read;
                tracing::info!(what, "files were read again");
            }
            Err(error) => {
                let failures = self.failures.fetch_add(1, Ordering::Relaxed) + 1;
                tracing::error!(
                    what,
                    failures,
                    error = format!("{error:#}"),
                    "files cannot be read again: what was read last goes on to hold"
                );
            }
        }
    }
}

fn stamps(paths: &[PathBuf]) -> Vec<Stamp> {
    paths.iter().map(|path| stamp(path)).collect()
}

fn stamp(path: &Path) -> Stamp {
    let found = std::fs::metadata(path).ok()?;
    // The last change of its mode counts too: a file that others could read is read once they cannot.
    let times = [found.mtime(), found.mtime_nsec(), found.ctime(), found.ctime_nsec()];
    Some((found.dev(), found.ino(), found.len(), times))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_file_that_changes_is_read_again_and_a_bad_one_changes_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("number");
        std::fs::write(&path, "1").unwrap();
        let of = path.clone();
        let read = move || Ok(std::fs::read_to_string(&of)?.parse::<u32>()?);
        let value = Reread::open("a number", vec![path.clone()], read).unwrap();
        let lifecycle = Lifecycle::default();
        let watching = tokio::spawn(Arc::clone(&value).watch(lifecycle.clone(), Audit::default()));
        for (text, expected) in [("22", 22), ("x", 22), ("333", 333)] {
            std::fs::write(&path, text).unwrap();
            let changed = async {
                while value.current() != expected {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            };
            tokio::time::timeout(Duration::from_secs(60), changed).await.expect("it is not read");
        }
        lifecycle.draining.cancel();
        watching.await.unwrap();
    }
}
