//! Sessions in a store: they outlive the server that has them.
//!
//! | room | what is in it |
//! |---|---|
//! | `objects` | the objects of a session, and what is in them |
//! | `digits` | digests of gradients as text |
//! | `looking` | which session has a name, and who has the session |
//! | `making` | making and ending sessions |
//! | `taking` | finding sessions, taking them, and giving them up |
//! | `folding` | keeping the journal short |
//! | `noises` | which noises were drawn, and which session draws which |
//! | `past` | what a store knows of a session, from the acts that it was told of |
//! | `stored` | a session's place in a store: acts on their way, and answers that wait for them |
//! | `snapshots` | states of sessions of the client's input |
//! | `rolling` | states of sessions whose noise is drawn, in parts beside their steps |
//! | `settings` | which store, sealed with which key |
//! | `census` | reads and cleans a whole store, for `noised state` |
//! | `leases` | which servers of the store are alive, and where clients reach them |
//!
//! A server has one journal for the acts of all its sessions. A session has a list of owners' objects, and
//! each of them names the journal of a server. A server that takes a session from another one fences the
//! other's journal, reads what had become of the session, and makes the next owner's object. The store makes
//! an object only under a name that is free, so one of two servers that try succeeds. A server whose journal
//! is fenced can store nothing more, and so gives no answer that has to be stored before.

mod census;
mod digits;
mod folding;
mod leases;
mod looking;
mod making;
mod noises;
mod objects;
mod past;
mod rolling;
mod settings;
mod snapshots;
mod stored;
mod taking;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use noised::Error;
use noised::session::NoiseDrawer;
use noised_proto::ServiceError;
use noised_store::{Created, Journal, JournalId, SealedStore, StoreError};
use tokio::runtime::Handle;

use self::leases::{Leases, Own};
use crate::config::SnapshotEvery;
use crate::identity::SessionKey;
pub(crate) use census::Census;
pub use census::{Collected, Damage, Holding, StoredSession, StoredState, Totals};
use looking::Held;
pub(crate) use making::{Begun, Place};
pub(crate) use objects::Made;
use objects::{Acts, Owner, encode};
pub(crate) use past::{Past, Snapshot, StoredSource};
use rolling::PARTS_AT_ONCE;
pub(crate) use settings::{State, open_to_look};
pub(crate) use snapshots::{Due, StateReader, delete_state, write_state};
pub(crate) use stored::{Binding, Stored, elsewhere};

/// When a client is asked to come back to a store that does not answer.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Between two tries to begin a journal.
const JOURNAL_PAUSE: Duration = Duration::from_secs(1);

/// The acts that a journal has, by session.
type ActsOf = HashMap<String, Vec<Acts>>;

/// The sessions of a store, as one server has them.
#[derive(Debug)]
pub(crate) struct Durable {
    store: SealedStore,
    snapshot_every: SnapshotEvery,
    /// Objects of a journal after which it is folded.
    fold_after: u64,
    journal: Mutex<Journal>,
    /// Sessions whose acts are in the journal, by uid: also those that are in no registry any more, and were
    /// neither given up nor ended.
    users: Mutex<HashMap<String, Arc<Stored>>>,
    /// Of journals that are fenced, which do not change any more.
    fenced: tokio::sync::Mutex<HashMap<JournalId, ActsOf>>,
    /// For threads that are none of tokio's.
    runtime: Handle,
    /// Room for parts of drawers' states.
    rolling: Arc<tokio::sync::Semaphore>,
    /// One lock for each session that is being looked for or made.
    turns: Mutex<HashMap<SessionKey, Weak<tokio::sync::Mutex<()>>>>,
    leases: Arc<Leases>,
    /// The uids of sessions that this server is making.
    making: Arc<Mutex<HashSet<String>>>,
}

impl Durable {
    /// The sessions of a store, of a server that listens at this port.
    ///
    /// # Errors
    /// Those of the store.
    pub(crate) async fn open(state: State, port: Option<u16>) -> Result<Arc<Self>, StoreError> {
        let State { store, snapshot_every, fold_after, advertise, lease, .. } = state;
        let own = advertise.map(|address| Own { address: address.at_port(port), lease });
        if let Some(Own { address, lease }) = &own {
            tracing::info!(address, ?lease, "clients are told of this server by its address");
        }
        let leases = Arc::new(Leases::new(store.clone(), own, lease));
        let journal = Journal::begin(store.clone(), JournalId::random()?).await?;
        leases.begin(&journal).await?;
        let journal = Mutex::new(journal);
        let (fenced, turns) = (tokio::sync::Mutex::default(), Mutex::default());
        let rolling = Arc::new(tokio::sync::Semaphore::new(PARTS_AT_ONCE));
        Ok(Arc::new(Self {
            store,
            snapshot_every,
            fold_after,
            journal,
            users: Mutex::default(),
            fenced,
            runtime: Handle::current(),
            rolling,
            turns,
            leases,
            making: Arc::default(),
        }))
    }

    /// Begins a new journal whenever another server has fenced the one that there is.
    pub(crate) async fn renew_journal(self: Arc<Self>) {
        loop {
            let journal = self.journal();
            journal.fenced().await;
            tracing::warn!(
                journal = journal.id().as_str(),
                "another server has fenced this server's journal"
            );
            loop {
                let begun = async {
                    let next = Journal::begin(self.store.clone(), JournalId::random()?).await?;
                    self.leases.begin(&next).await?;
                    Ok::<_, StoreError>(next)
                };
                match begun.await {
                    Ok(next) => {
                        *self.journal.lock().unwrap_or_else(PoisonError::into_inner) = next.clone();
                        self.lose_all_but(next.id());
                        break;
                    }
                    Err(error) => tracing::error!(%error, "no journal can be begun"),
                }
                tokio::time::sleep(JOURNAL_PAUSE).await;
            }
        }
    }

    /// Loses the sessions of journals before this one: the server that fenced them has read them. Sessions
    /// that noted nothing since, such as those of noise, are lost as well: their clients are told who has
    /// them now.
    fn lose_all_but(&self, id: &JournalId) {
        self.users().retain(|_, user| {
            let stays = user.journal_id() == id.as_str();
            if !stays {
                user.lost.cancel();
            }
            stays
        });
    }

    /// Renews this server's lease until it ends.
    pub(crate) async fn keep_lease(self: Arc<Self>) {
        Arc::clone(&self.leases).keep().await;
    }

    /// Ends this server's lease, once all sessions are handed over.
    pub(crate) async fn end_lease(&self) {
        self.leases.end().await;
    }

    /// Whether other servers may have taken this server's sessions, as far as it knows by itself.
    pub(crate) fn lease_has_run_out(&self) -> bool {
        self.leases.has_run_out()
    }

    /// The address by which clients reach this server, where others share its store.
    pub(crate) fn address(&self) -> Option<&str> {
        self.leases.address()
    }

    fn journal(&self) -> Journal {
        self.journal.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until nobody else looks for a session of this name or makes one.
    pub(crate) async fn turn(&self, key: &SessionKey) -> tokio::sync::OwnedMutexGuard<()> {
        let lock = {
            let mut turns = self.turns();
            turns.retain(|_, lock| lock.strong_count() > 0);
            let found = turns.get(key).and_then(Weak::upgrade);
            found.unwrap_or_else(|| {
                let lock = Arc::default();
                turns.insert(key.clone(), Arc::downgrade(&lock));
                lock
            })
        };
        lock.lock_owned().await
    }

    fn turns(&self) -> MutexGuard<'_, HashMap<SessionKey, Weak<tokio::sync::Mutex<()>>>> {
        self.turns.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn create(&self, name: &str, value: &impl serde::Serialize) -> Result<Created, ServiceError> {
        let bytes = encode(value).map_err(told)?;
        self.store.create(name, bytes).await.map_err(told)
    }

    /// As [`looking::last_made`].
    async fn last_made(&self, folder: &str) -> Result<(Option<Made>, u64), ServiceError> {
        looking::last_made(&self.store, folder).await.map_err(told)
    }

    /// As [`looking::last_session`].
    async fn last_session(&self, folder: &str) -> Result<(Option<Held>, u64), ServiceError> {
        looking::last_session(&self.store, folder).await.map_err(told)
    }

    /// As [`looking::owner_if_any`].
    async fn owner_if_any(&self, folder: &str, uid: &str) -> Result<Option<(u64, Owner)>, ServiceError> {
        looking::owner_if_any(&self.store, folder, uid).await.map_err(told)
    }

    /// Another server has a session, or nobody: nothing of this server's journal is needed for it.
    fn gone(&self, stored: &Arc<Stored>) {
        stored.lost.cancel();
        let mut users = self.users();
        if users.get(&stored.uid).is_some_and(|user| Arc::ptr_eq(user, stored)) {
            users.remove(&stored.uid);
        }
    }

    /// Keeps a session that is this server's now, unless the journal of its acts was fenced meanwhile.
    fn keep(&self, stored: &Arc<Stored>) -> Result<(), ServiceError> {
        self.users().insert(stored.uid.clone(), Arc::clone(stored));
        if stored.journal_id() == self.journal().id().as_str() {
            return Ok(());
        }
        self.gone(stored);
        Err(elsewhere())
    }

    fn users(&self) -> MutexGuard<'_, HashMap<String, Arc<Stored>>> {
        self.users.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A pass of a session's drawer has ended, which took `drew`: puts a part of its state away where one is
    /// due. Call it under the drawer's lock.
    pub(crate) fn roll(self: &Arc<Self>, stored: &Arc<Stored>, drawer: &NoiseDrawer, drew: Duration) {
        if stored.lost.is_cancelled() {
            return;
        }
        let Some(begun) = stored.rolling.after_pass(drawer, drew, &self.rolling) else { return };
        let (this, stored) = (Arc::clone(self), Arc::clone(stored));
        stored.clone().runtime().spawn(async move {
            stored.rolling.write(begun, &this.store, stored.place(), &stored.lost).await;
            if stored.lost.is_cancelled() {
                this.abandon(&stored).await;
            }
        });
    }

    /// Deletes a state that was written and will not count, since nothing more is noted of the session.
    async fn abandon(&self, stored: &Stored) {
        if let Some(state) = stored.rolling.abandon() {
            delete_state(&self.store, stored.place(), &state).await;
        }
    }

    /// The store, for states.
    pub(crate) fn store(&self) -> &SealedStore {
        &self.store
    }
}

fn damaged(object: &str, what: &str) -> ServiceError {
    Error::damaged(format!("{object}: {what}")).into()
}

/// What a client is told of a fault of the store.
pub(crate) fn told(error: StoreError) -> ServiceError {
    match error {
        StoreError::Damaged { .. } | StoreError::OtherKey { .. } => {
            tracing::error!(%error, "a stored object is damaged");
            Error::damaged(error.to_string()).into()
        }
        StoreError::Unavailable(_) | StoreError::Refused(_) | StoreError::Invalid { .. } => {
            tracing::error!(%error, "the store does not do what it is asked");
            let fault = "the store of the sessions does not answer as it should".to_owned();
            ServiceError::StoreUnavailable { fault, retry_after: RETRY_AFTER }
        }
    }
}
