//! Which noises were drawn: the noise of a `noise_id` is not begun again from step 0 without somebody saying
//! so.
//!
//! The server remembers for as long as it runs; with a file, for longer. A record of the file says that a
//! session began to draw a noise, and is on the disk before the first step is; another says how far the
//! session came. A noise whose end is not in the file was being drawn when the server ended without a drain,
//! and counts as used up to a step that nobody knows.
//!
//! | room | what is in it |
//! |---|---|
//! | `record` | a record as a line of text that checks itself |
//! | `scan` | reading a file: what is a record, what is an interrupted write, and what is damage |
//! | `file` | the file: locked, synced, written anew when most of it is out of date |
//! | `uses` | what is remembered, in memory |

mod file;
mod record;
mod scan;
mod uses;

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use noised::session::Fingerprint;
use noised_proto::ServiceError;

use crate::identity::SessionKey;

use self::file::{Fault, LedgerFile};
use self::record::{Event, NoiseName, Record};
use self::uses::{NOISE_BYTES, Prior, Uses};

pub(crate) use self::uses::RememberedUse;

/// Between two tries to have the file.
const LOCK_PAUSE: Duration = Duration::from_millis(50);

/// About as long as an operator takes to make room on a disk.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// The noises that were drawn, and those that are.
#[derive(Debug)]
pub(crate) struct Ledger {
    inner: Mutex<Inner>,
    /// How many noises may be remembered. One more is refused, rather than one forgotten.
    max_noises: usize,
    /// How many are, for those who do not have the lock.
    remembered: AtomicU64,
}

#[derive(Debug, Default)]
struct Inner {
    uses: Uses,
    file: Option<LedgerFile>,
}

/// What a session wants to draw.
#[derive(Clone, Debug)]
pub(crate) struct Wanted<'a> {
    pub(crate) noise_id: &'a str,
    /// That of the whole tree's session.
    pub(crate) fingerprint: Fingerprint,
    pub(crate) lanes: Range<u64>,
    /// The session.
    pub(crate) holder: &'a SessionKey,
    /// Whether a noise that was drawn before is to begin again at step 0.
    pub(crate) start_over: bool,
    /// Whether the session goes on with a noise that was drawn before, and draws none of it for other
    /// gradients.
    pub(crate) goes_on: bool,
}

/// What a ledger remembers of one noise.
#[derive(Clone, Debug)]
pub(crate) struct Remembered {
    pub(crate) tenant: String,
    pub(crate) noise_id: String,
    pub(crate) fingerprint: String,
    /// In the order in which they were begun.
    pub(crate) uses: Vec<RememberedUse>,
}

/// The right to draw some lanes of a noise.
#[derive(Debug)]
pub(crate) struct Claim {
    ledger: Arc<Ledger>,
    noise: NoiseName,
    lanes: Range<u64>,
    /// Whether it was drawn before and begins again.
    pub(crate) started_over: bool,
    released_steps: u64,
}

impl Ledger {
    /// A ledger that remembers for as long as this server runs.
    pub(crate) fn in_memory(max_noises: usize) -> Arc<Self> {
        Self::new(Inner::default(), max_noises)
    }

    /// A ledger that goes on with what is in a file; `None` where another server has the file. Two servers
    /// with one file would not know of one another's noises.
    ///
    /// This reads a file: call it on a thread that may block.
    pub(crate) fn open(path: &Path, max_noises: usize) -> anyhow::Result<Option<Arc<Self>>> {
        let what = || format!("noise_ledger: {}", path.display());
        let mut uses = Uses::default();
        let Some(file) = LedgerFile::open(path, &mut uses).with_context(what)? else { return Ok(None) };
        let inner = Inner { uses, file: Some(file) };
        Ok(Some(Self::new(inner, max_noises)))
    }

    /// The same, and waits for another server that has the file to end. `None` where `shutdown` is done
    /// before that.
    pub(crate) async fn open_waiting(
        path: &Path,
        max_noises: usize,
        patience: Duration,
        shutdown: impl Future<Output = ()>,
    ) -> anyhow::Result<Option<Arc<Self>>> {
        let mut shutdown = std::pin::pin!(shutdown);
        let start = tokio::time::Instant::now();
        let mut told = false;
        loop {
            let owned = path.to_owned();
            let opened = tokio::task::spawn_blocking(move || Self::open(&owned, max_noises)).await??;
            if let Some(ledger) = opened {
                let noises = ledger.remembered.load(Ordering::Relaxed);
                tracing::info!(path = %path.display(), noises, "noise ledger opened");
                return Ok(Some(ledger));
            }
            if !told {
                let path = path.display();
                tracing::warn!(%path, ?patience, "another server has the noise ledger: waiting for its end");
                told = true;
            }
            if start.elapsed() >= patience {
                bail!(
                    "noise_ledger: {}: another server has it, and did not end in {patience:?}",
                    path.display()
                );
            }
            tokio::select! {
                () = &mut shutdown => {
                    tracing::info!("stopped while waiting for the noise ledger");
                    return Ok(None);
                }
                () = tokio::time::sleep(LOCK_PAUSE) => {}
            }
        }
    }

    fn new(inner: Inner, max_noises: usize) -> Arc<Self> {
        let remembered = AtomicU64::new(inner.uses.len() as u64);
        Arc::new(Self { inner: Mutex::new(inner), max_noises, remembered })
    }

    /// All that the ledger's file says; nothing where there is no file. This reads the file.
    ///
    /// # Errors
    /// Those of the file.
    pub(crate) fn remembered(&self) -> anyhow::Result<Vec<Remembered>> {
        let inner = self.inner();
        let Some(file) = &inner.file else { return Ok(Vec::new()) };
        let mut noises: HashMap<NoiseName, Vec<(u64, RememberedUse)>> = HashMap::new();
        file.read(|Record { noise, lanes, .. }| {
            let Some(used) = inner.uses.remembered(&noise, &lanes) else { return Ok(()) };
            let uses = noises.entry(noise).or_default();
            if uses.iter().all(|(_, known)| known.lanes != lanes) {
                uses.push(used);
            }
            Ok(())
        })?;
        let of_noise = |(noise, mut uses): (NoiseName, Vec<(u64, RememberedUse)>)| {
            let NoiseName { tenant, noise_id, fingerprint } = noise;
            uses.sort_by_key(|(begun, _)| *begun);
            let uses = uses.into_iter().map(|(_, used)| used).collect();
            Remembered { tenant, noise_id, fingerprint, uses }
        };
        Ok(noises.into_iter().map(of_noise).collect())
    }

    /// About the memory that the noises take.
    pub(crate) fn memory_bytes(&self) -> u64 {
        self.remembered.load(Ordering::Relaxed) * NOISE_BYTES
    }

    /// Begins to draw lanes of a noise from step 0.
    pub(crate) fn claim(self: &Arc<Self>, wanted: Wanted<'_>) -> Result<Claim, ServiceError> {
        let Wanted { noise_id, fingerprint, lanes, holder, start_over, goes_on } = wanted;
        let tenant = holder.tenant.name().to_owned();
        let noise = NoiseName { tenant, noise_id: noise_id.to_owned(), fingerprint: fingerprint.to_string() };
        let mut inner = self.inner();
        let Inner { uses, file } = &mut *inner;
        let started_over = match uses.prior(&noise, &lanes) {
            Prior::Unused => false,
            Prior::InUse { session } => {
                return Err(ServiceError::NoiseInUse { noise_id: noise_id.to_owned(), session });
            }
            Prior::Used { next_step } if !start_over && !goes_on => {
                return Err(ServiceError::NoiseUsed { noise_id: noise_id.to_owned(), next_step });
            }
            Prior::Used { next_step: _ } => start_over,
        };
        if uses.len() >= self.max_noises && !uses.contains(&uses::Key::new(&noise, &lanes)) {
            return Err(ServiceError::NoiseQuota { limit: self.max_noises });
        }
        if let Some(file) = file {
            let unix_seconds =
                SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
            let event = Event::Begun { session: holder.name.clone(), unix_seconds };
            let record = Record { noise: noise.clone(), lanes: lanes.clone(), event, started_over };
            file.append(&record).map_err(|fault| unavailable(&fault))?;
        }
        uses.begin(&noise, &lanes, &holder.name, started_over);
        self.noted(&mut inner);
        drop(inner);
        Ok(Claim { ledger: Arc::clone(self), noise, lanes, started_over, released_steps: 0 })
    }

    /// After what is remembered has changed.
    fn noted(&self, inner: &mut Inner) {
        let Inner { uses, file } = inner;
        self.remembered.store(uses.len() as u64, Ordering::Relaxed);
        if let Some(file) = file {
            file.rewrite_where_due(uses);
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // Each call leaves it whole.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a client is told that the ledger refused.
fn unavailable(fault: &Fault) -> ServiceError {
    tracing::error!(%fault, "a noise was not begun: the noise ledger does not take its record");
    ServiceError::LedgerUnavailable { fault: fault.to_string(), retry_after: RETRY_AFTER }
}

impl Claim {
    /// Ends the drawing, of which so many steps were released.
    pub(crate) fn end(mut self, released_steps: u64) {
        self.released_steps = released_steps;
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let Self { ledger, noise, lanes, started_over, released_steps } = self;
        let mut inner = ledger.inner();
        let Inner { uses, file } = &mut *inner;
        uses.end(noise, lanes, *released_steps, *started_over);
        let event = Event::Drawn { next_step: *released_steps };
        let (noise, lanes, started_over) = (noise.clone(), lanes.clone(), *started_over);
        let record = Record { noise, lanes, event, started_over };
        if let Some(Err(fault)) = file.as_mut().map(|file| file.append(&record)) {
            // The noise counts as used all the same: only how far is lost.
            let Record { noise, lanes, .. } = &record;
            let noise_id = &noise.noise_id;
            tracing::error!(%fault, noise_id, ?lanes, "the end of a noise was not noted in the noise ledger");
        }
        ledger.noted(&mut inner);
    }
}

#[cfg(test)]
mod tests;
