//! Leases: by which servers of one store know which of them are alive.
//!
//! A server that clients reach at an address of its own rewrites `servers/{journal}` every third of its
//! lease. Another server that wants one of its sessions watches that object: a change says that the server is
//! alive, and its clients are sent there. An object that does not change for a lease, or is gone, says that
//! the session may be taken. No clock of one machine is compared with that of another.
//!
//! A lease decides when a server tries to take a session. Whether it succeeds, and whether the other server
//! can release anything after that, is decided by the fence of a journal and by the owners' objects alone.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use noised_proto::ServiceError;
use noised_store::{Journal, JournalId, SealedStore, StoreError};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::objects::{decode, encode};
use crate::config::MAX_LEASE;

/// Rewritings of the object in one lease: one that comes late, or is lost, is made up for by the next.
const BEATS: u32 = 3;

/// Looks at another server's object in one lease.
const LOOKS: u32 = 10;

/// Between two looks, at least.
const LEAST_PAUSE: Duration = Duration::from_millis(20);

/// How long a call waits to learn whether a session's owner is alive. Its client comes back after that.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long a server is watched after the last question about it, in leases.
const KEPT_LEASES: u32 = 12;

/// By what a server is known to the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Own {
    /// The address by which clients reach it.
    pub(crate) address: String,
    pub(crate) lease: Duration,
}

/// What a server says of itself. Fields that a later version adds are left out by this one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Beat {
    address: String,
    /// Changes with each rewriting.
    counter: u64,
    /// The lease of the server that writes this, by which the others judge it.
    lease_ms: u64,
}

/// What is known of another server.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Verdict {
    /// Its object has not been watched for a whole lease yet, of which so much is left.
    Unknown(Duration),
    /// It rewrote its object within its lease, and is reached at this address.
    Alive(String),
    /// Its object did not change for a lease, or is absent.
    Gone,
}

/// This server's lease, and what it knows of the others.
#[derive(Debug)]
pub(crate) struct Leases {
    store: SealedStore,
    own: Option<Own>,
    /// How long a server is watched that does not say how long its lease is.
    default_lease: Duration,
    /// Held while this server's object is written.
    written: tokio::sync::Mutex<Written>,
    /// When the last rewriting began that succeeded.
    renewed: Mutex<Instant>,
    watches: Mutex<HashMap<JournalId, Arc<Watch>>>,
}

#[derive(Debug, Default)]
struct Written {
    /// The journal whose object is written; none where there is no lease, or no more.
    journal: Option<Journal>,
    counter: u64,
    is_told: bool,
}

/// A task that watches another server.
#[derive(Debug)]
struct Watch {
    verdict: watch::Receiver<Verdict>,
    asked: Mutex<Instant>,
}

/// Where the objects of servers lie.
pub(super) const SERVERS: &str = "servers";

/// The object of the server of a journal.
pub(super) fn server_object(id: &JournalId) -> String {
    format!("{SERVERS}/{}", id.as_str())
}

/// The address of the server of a journal, where others share its store.
///
/// # Errors
/// Those of the store.
pub(super) async fn address_of(store: &SealedStore, id: &JournalId) -> Result<Option<String>, StoreError> {
    let name = server_object(id);
    let Some(bytes) = store.read(&name).await? else { return Ok(None) };
    Ok(Some(decode::<Beat>(&name, &bytes)?.address))
}

/// Checks the object of a lease.
pub(super) fn check_beat(name: &str, bytes: &[u8]) -> Result<(), StoreError> {
    decode::<Beat>(name, bytes).map(drop)
}

impl Leases {
    pub(crate) fn new(store: SealedStore, own: Option<Own>, default_lease: Duration) -> Self {
        let (written, watches) = (tokio::sync::Mutex::default(), Mutex::default());
        let renewed = Mutex::new(Instant::now());
        Self { store, own, default_lease, written, renewed, watches }
    }

    /// The address by which clients reach this server.
    pub(crate) fn address(&self) -> Option<&str> {
        self.own.as_ref().map(|own| own.address.as_str())
    }

    /// Begins the lease of a journal, before any session names the journal: one without an object is fenced
    /// at once. The object of the journal before it is deleted.
    ///
    /// # Errors
    /// Those of the store.
    pub(crate) async fn begin(&self, journal: &Journal) -> Result<(), StoreError> {
        let Some(own) = &self.own else { return Ok(()) };
        let mut written = self.written.lock().await;
        self.write(own, &mut written, journal.id()).await?;
        if let Some(before) = written.journal.replace(journal.clone()) {
            self.delete(before.id()).await;
        }
        Ok(())
    }

    /// Rewrites the object until the lease ends.
    pub(crate) async fn keep(self: Arc<Self>) {
        let Some(own) = self.own.clone() else { return };
        loop {
            tokio::time::sleep(own.lease / BEATS).await;
            let mut written = self.written.lock().await;
            let Some(journal) = written.journal.clone() else { return };
            // A server that stood still, and whose sessions were taken meanwhile, learns it here.
            let looked = journal.look().await;
            let done = match looked {
                Ok(true) => continue,
                Ok(false) => self.write(&own, &mut written, journal.id()).await,
                Err(error) => Err(error),
            };
            let is_told = done.is_err();
            if let Err(error) = &done
                && !written.is_told
            {
                tracing::warn!(%error, "the lease is not renewed: other servers may take the sessions");
            }
            written.is_told = is_told;
        }
    }

    async fn write(&self, own: &Own, written: &mut Written, id: &JournalId) -> Result<(), StoreError> {
        written.counter += 1;
        let lease_ms = u64::try_from(own.lease.as_millis()).unwrap_or(u64::MAX);
        let beat = Beat { address: own.address.clone(), counter: written.counter, lease_ms };
        let (begun, object) = (Instant::now(), server_object(id));
        let putting = self.store.put_unsynced(&object, encode(&beat)?);
        let late = |_| StoreError::Unavailable("writing takes longer than the lease".into());
        tokio::time::timeout(own.lease, putting).await.map_err(late)??;
        *self.renewed.lock().unwrap_or_else(PoisonError::into_inner) = begun;
        Ok(())
    }

    /// Ends the lease, once all sessions are handed over: nobody waits for this server any more.
    pub(crate) async fn end(&self) {
        if let Some(journal) = self.written.lock().await.journal.take() {
            self.delete(journal.id()).await;
        }
    }

    /// Whether other servers may have taken this server's sessions by now.
    pub(crate) fn has_run_out(&self) -> bool {
        let renewed = || *self.renewed.lock().unwrap_or_else(PoisonError::into_inner);
        self.own.as_ref().is_some_and(|own| renewed().elapsed() >= own.lease)
    }

    /// Waits until it is known whether the server of a journal is alive. Where it is not, its journal may be
    /// fenced.
    ///
    /// # Errors
    /// `SessionElsewhere` where it is alive; `StoreUnavailable` where that is not known soon.
    pub(crate) async fn check_gone(&self, id: &JournalId, session: &str) -> Result<(), ServiceError> {
        let mut verdict = self.watch_of(id);
        let is_known = |verdict: &Verdict| !matches!(verdict, Verdict::Unknown(_));
        // A task that has ended has said its last word.
        drop(tokio::time::timeout(PATIENCE, verdict.wait_for(is_known)).await);
        let known = verdict.borrow().clone();
        match known {
            Verdict::Gone => Ok(()),
            Verdict::Alive(owner) => {
                Err(ServiceError::SessionElsewhere { session: session.to_owned(), owner })
            }
            Verdict::Unknown(retry_after) => Err(ServiceError::StoreUnavailable {
                fault: "whether the server is alive that has the session is not known yet".into(),
                retry_after,
            }),
        }
    }

    /// Forgets a server whose journal is fenced: others need not wait for it.
    pub(crate) async fn forget(&self, id: &JournalId) {
        self.watches().remove(id);
        self.delete(id).await;
    }

    async fn delete(&self, id: &JournalId) {
        if let Err(error) = self.store.delete(&server_object(id)).await {
            tracing::warn!(%error, journal = id.as_str(), "the object of a lease was not deleted");
        }
    }

    /// The one watch of a journal.
    fn watch_of(&self, id: &JournalId) -> watch::Receiver<Verdict> {
        let mut watches = self.watches();
        watches.retain(|_, watch| watch.verdict.has_changed().is_ok());
        let found = watches.entry(id.clone()).or_insert_with(|| {
            let (sender, verdict) = watch::channel(Verdict::Unknown(self.default_lease));
            let watch = Arc::new(Watch { verdict, asked: Mutex::new(Instant::now()) });
            let watcher = Watcher {
                store: self.store.clone(),
                object: server_object(id),
                own: self.own.as_ref().map(|own| own.address.clone()),
                lease: self.default_lease,
                verdict: Verdict::Unknown(self.default_lease),
                unchanged: Duration::ZERO,
                seen: None,
            };
            tokio::spawn(watcher.run(Arc::clone(&watch), sender));
            watch
        });
        *found.asked.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        found.verdict.clone()
    }

    fn watches(&self) -> MutexGuard<'_, HashMap<JournalId, Arc<Watch>>> {
        self.watches.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Watches an object for change.
struct Watcher {
    store: SealedStore,
    object: String,
    /// The address of this server.
    own: Option<String>,
    lease: Duration,
    verdict: Verdict,
    /// For how long this server has looked and seen no change.
    unchanged: Duration,
    /// What was seen last, sealed: every writing seals anew.
    seen: Option<Bytes>,
}

impl Watcher {
    async fn run(mut self, watch: Arc<Watch>, verdict: watch::Sender<Verdict>) {
        let mut looked = Instant::now();
        loop {
            match self.store.store().read(&self.object).await {
                Ok(None) => self.verdict = Verdict::Gone,
                Ok(Some(sealed)) => self.take(sealed, looked.elapsed()),
                Err(error) => {
                    // The other server may not reach the store either: it gets a whole lease after that.
                    tracing::warn!(%error, object = self.object, "a lease cannot be read");
                    self.unchanged = Duration::ZERO;
                }
            }
            looked = Instant::now();
            verdict.send_replace(self.verdict.clone());
            let asked = *watch.asked.lock().unwrap_or_else(PoisonError::into_inner);
            let is_absent = self.seen.is_none() && self.verdict == Verdict::Gone;
            if is_absent || asked.elapsed() > self.lease * KEPT_LEASES {
                return;
            }
            tokio::time::sleep(self.pause()).await;
        }
    }

    fn pause(&self) -> Duration {
        (self.lease / LOOKS).max(LEAST_PAUSE)
    }

    /// Takes what was read, so long after the look before.
    fn take(&mut self, sealed: Bytes, since: Duration) {
        if self.seen.as_ref() == Some(&sealed) {
            // The time in which this server itself stood still does not count.
            self.unchanged += since.min(2 * self.pause());
            let left = self.lease.saturating_sub(self.unchanged);
            if left.is_zero() {
                self.verdict = Verdict::Gone;
            } else if let Verdict::Unknown(remaining) = &mut self.verdict {
                *remaining = left;
            }
            return;
        }
        // An object that does not open says nothing of its server, which rewrites it where it is alive.
        let plain = self.store.key().open(&self.object, &sealed).ok();
        let beat = plain.and_then(|plain| decode::<Beat>(&self.object, &plain).ok());
        let is_first = self.seen.replace(sealed).is_none();
        self.unchanged = Duration::ZERO;
        let Some(Beat { address, counter: _, lease_ms }) = beat else { return };
        self.lease = Duration::from_millis(lease_ms).min(MAX_LEASE);
        self.verdict = if self.own.as_ref() == Some(&address) {
            // This server has the address now: the one that wrote the object had it before.
            self.seen = None;
            Verdict::Gone
        } else if is_first {
            Verdict::Unknown(self.lease)
        } else {
            Verdict::Alive(address)
        };
    }
}

#[cfg(test)]
mod tests {
    use noised_store::{SealKey, Store};

    use super::*;

    const LEASE: Duration = Duration::from_millis(300);

    fn store() -> SealedStore {
        SealedStore::new(Store::memory(), SealKey::derive(&[1; 32]))
    }

    fn leases(store: &SealedStore, address: &str) -> Arc<Leases> {
        let own = Own { address: address.to_owned(), lease: LEASE };
        Arc::new(Leases::new(store.clone(), Some(own), LEASE))
    }

    async fn journal(store: &SealedStore) -> Journal {
        Journal::begin(store.clone(), JournalId::random().unwrap()).await.unwrap()
    }

    #[tokio::test]
    async fn a_server_is_alive_as_long_as_it_renews_its_lease() {
        let store = store();
        let (one, other, third) =
            (leases(&store, "http://a:1"), leases(&store, "http://b:1"), leases(&store, "http://a:1"));
        let journal = journal(&store).await;
        // One that never had a lease is gone.
        assert_eq!(other.check_gone(journal.id(), "sessions/x").await, Ok(()));
        one.begin(&journal).await.unwrap();
        let keeping = tokio::spawn(Arc::clone(&one).keep());
        let elsewhere =
            || ServiceError::SessionElsewhere { session: "sessions/x".into(), owner: "http://a:1".into() };
        for _ in 0..3 {
            assert_eq!(other.check_gone(journal.id(), "sessions/x").await, Err(elsewhere()));
        }
        // A server that is started again at the address is the same one.
        assert_eq!(third.check_gone(journal.id(), "sessions/x").await, Ok(()));
        // All who wait share one watch.
        keeping.abort();
        let waiting = (0..50).map(|_| {
            let (other, id) = (Arc::clone(&other), journal.id().clone());
            tokio::spawn(async move {
                while other.check_gone(&id, "sessions/x").await.is_err() {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            })
        });
        for waiting in waiting.collect::<Vec<_>>() {
            waiting.await.unwrap();
        }
        assert_eq!(other.watches().len(), 1);
        other.forget(journal.id()).await;
        assert_eq!(store.list("servers").await.unwrap(), []);
    }

    #[tokio::test]
    async fn the_next_journal_takes_the_lease_over_and_the_end_gives_it_up() {
        let store = store();
        let one = leases(&store, "http://a:1");
        let (first, second) = (journal(&store).await, journal(&store).await);
        one.begin(&first).await.unwrap();
        one.begin(&second).await.unwrap();
        let names = |listed: Vec<noised_store::Listed>| {
            listed.into_iter().map(|object| object.name).collect::<Vec<_>>()
        };
        assert_eq!(names(store.list("servers").await.unwrap()), [server_object(second.id())]);
        one.end().await;
        assert_eq!(store.list("servers").await.unwrap(), []);
        // Nothing is renewed after that.
        Arc::clone(&one).keep().await;
        assert_eq!(store.list("servers").await.unwrap(), []);
    }

    #[tokio::test]
    async fn an_object_that_does_not_open_is_of_a_server_that_is_gone_unless_it_changes() {
        let store = store();
        let (one, other) = (leases(&store, "http://a:1"), leases(&store, "http://b:1"));
        let journal = journal(&store).await;
        let object = server_object(journal.id());
        store.store().put(&object, Bytes::from_static(b"not sealed")).await.unwrap();
        assert_eq!(other.check_gone(journal.id(), "sessions/x").await, Ok(()));
        one.begin(&journal).await.unwrap();
        let keeping = tokio::spawn(Arc::clone(&one).keep());
        while other.check_gone(journal.id(), "sessions/x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        keeping.abort();
    }
}
