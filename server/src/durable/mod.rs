//! Sessions in a store: they outlive the server that has them.
//!
//! | room | what is in it |
//! |---|---|
//! | `objects` | the objects of a session, and what is in them |
//! | `digits` | digests of gradients as text |
//! | `noises` | which noises were drawn, and which session draws which |
//! | `past` | what a store knows of a session, from the acts that it was told of |
//! | `stored` | a session's place in a store: acts on their way, and answers that wait for them |
//! | `snapshots` | states of sessions of the client's input |
//! | `rolling` | states of sessions whose noise is drawn, in parts beside their steps |
//! | `settings` | which store, sealed with which key |
//! | `leases` | which servers of the store are alive, and where clients reach them |
//!
//! A server has one journal for the acts of all its sessions. A session has a list of owners' objects, and
//! each of them names the journal of a server. A server that takes a session from another one fences the
//! other's journal, reads what had become of the session, and makes the next owner's object. The store makes
//! an object only under a name that is free, so one of two servers that try succeeds. A server whose journal
//! is fenced can store nothing more, and so gives no answer that has to be stored before.

mod digits;
mod leases;
mod noises;
mod objects;
mod past;
mod rolling;
mod settings;
mod snapshots;
mod stored;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use noised::Error;
use noised::noise::NoiseKey;
use noised::session::{NoiseDrawer, NoiseOptions, ResolvedSpec, Standing};
use noised_proto::ServiceError;
use noised_store::{Created, Journal, JournalId, SealedStore, StoreError, fence, inspect};
use tokio::runtime::Handle;
use uuid::Uuid;

use self::leases::{Leases, Own};
use crate::config::SnapshotEvery;
use crate::identity::SessionKey;
pub(crate) use objects::Made;
use objects::{
    Acts, Owner, decode, encode, folder_of, made_number, made_object, owner_number, owner_object, state_id,
};
pub(crate) use past::{Past, Snapshot, StoredSource};
use rolling::STATES_AT_ONCE;
pub(crate) use settings::State;
pub(crate) use snapshots::{Due, StateReader, delete_state, write_state};
pub(crate) use stored::{Binding, Stored, elsewhere};

/// When a client is asked to come back to a store that does not answer.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Between two tries to begin a journal.
const JOURNAL_PAUSE: Duration = Duration::from_secs(1);

/// Looks at who has a session, where its objects change meanwhile.
const LOOKS: usize = 10;

/// Between two of them.
const LOOK_PAUSE: Duration = Duration::from_millis(20);

/// How often it is looked whether the journal is long.
const FOLD_PAUSE: Duration = Duration::from_millis(500);

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
    /// States of drawers that may be written now.
    rolling: Arc<tokio::sync::Semaphore>,
    /// One lock for each session that is being looked for or made.
    turns: Mutex<HashMap<SessionKey, Weak<tokio::sync::Mutex<()>>>>,
    leases: Arc<Leases>,
}

/// A session that a store has.
pub(crate) struct Found {
    pub(crate) made: Made,
    pub(crate) past: Past,
    folder: String,
    /// The number of its last owner.
    owner: u64,
    /// The journal of the server that had it.
    journal: Option<JournalId>,
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
        let rolling = Arc::new(tokio::sync::Semaphore::new(STATES_AT_ONCE));
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

    /// What tells a session that is about to be made from all others.
    pub(crate) fn new_uid() -> String {
        Uuid::new_v4().simple().to_string()
    }

    /// A session that is about to be made, and what is to be stored of it. Its acts wait until it is.
    pub(crate) fn begin(
        &self,
        uid: String,
        key: &SessionKey,
        resolved: &ResolvedSpec,
        options: NoiseOptions,
        noise_key: Option<&NoiseKey>,
        first_step: Option<u64>,
    ) -> (Arc<Stored>, Made) {
        let made = Made::new(uid.clone(), key, resolved, options, noise_key);
        let source = StoredSource::of(&resolved.spec().source);
        let past = first_step.map_or_else(Past::default, Past::at);
        let place = (folder_of(key), uid, 0);
        let stored = Stored::new(place, source, past, false, self.journal(), self.snapshot_every);
        (Arc::new(stored), made)
    }

    /// Stores a session that was begun.
    pub(crate) async fn make(&self, stored: &Arc<Stored>, made: &Made) -> Result<(), ServiceError> {
        let Stored { folder, uid, .. } = &**stored;
        let owner = stored.first_owner;
        let number = match self.last_made(folder).await? {
            None => 0,
            // The caller found that this session has ended, unless another server has made one since.
            Some((number, last)) if self.has_ended(folder, &last.uid).await? => number + 1,
            Some(_) => return Err(elsewhere()),
        };
        let past = stored.beginning();
        let first = Owner { journal: Some(stored.journal_id().to_owned()), past, ended: false };
        let owned = owner_object(folder, uid, owner);
        if self.create(&owned, &first).await? == Created::Taken {
            // Another session wanted the noise, and took this one for left behind.
            return Err(elsewhere());
        }
        let of_name = made_object(folder, number);
        if self.create(&of_name, made).await? == Created::Taken {
            self.store.delete(&owned).await.map_err(told)?;
            return Err(elsewhere());
        }
        // Objects of earlier sessions are deleted: this may have been made in the place of one of them.
        let last = self.last_made(folder).await?.map(|(last, _)| last);
        if last != Some(number) || self.last_owner(folder, uid).await?.0 != owner {
            self.store.delete(&of_name).await.map_err(told)?;
            return Err(elsewhere());
        }
        self.users().insert(uid.clone(), Arc::clone(stored));
        stored.made();
        if let Some(before) = number.checked_sub(1) {
            self.delete_made(folder, before).await;
        }
        Ok(())
    }

    /// Deletes what says that an earlier session of a name has ended.
    async fn delete_made(&self, folder: &str, number: u64) {
        let deleted = async {
            let name = made_object(folder, number);
            let Some(bytes) = self.store.read(&name).await? else { return Ok(()) };
            let before: Made = decode(&name, &bytes)?;
            if let Some(noise) = &before.noise {
                self.close_claim(noise, &before.uid)
                    .await
                    .map_err(|error| StoreError::Refused(error.to_string()))?;
            }
            self.store.delete(&name).await?;
            for object in self.store.list(&format!("{folder}/{}", before.uid)).await? {
                self.store.delete(&object.name).await?;
            }
            Ok::<_, StoreError>(())
        };
        if let Err(error) = deleted.await {
            tracing::warn!(%error, folder, "what is left of a deleted session stays in the store");
        }
    }

    async fn create(&self, name: &str, value: &impl serde::Serialize) -> Result<Created, ServiceError> {
        let bytes = encode(value).map_err(told)?;
        self.store.create(name, bytes).await.map_err(told)
    }

    /// The last session that was made of a name.
    async fn last_made(&self, folder: &str) -> Result<Option<(u64, Made)>, ServiceError> {
        let listed = self.store.list(folder).await.map_err(told)?;
        let last = listed.iter().filter_map(|object| made_number(folder, &object.name)).max();
        let Some(number) = last else { return Ok(None) };
        let name = made_object(folder, number);
        let Some(bytes) = self.store.read(&name).await.map_err(told)? else { return Ok(None) };
        Ok(Some((number, decode(&name, &bytes).map_err(told)?)))
    }

    /// The last owner of a session, with its number.
    async fn last_owner(&self, folder: &str, uid: &str) -> Result<(u64, Owner), ServiceError> {
        for _ in 0..LOOKS {
            let listed = self.store.list(&format!("{folder}/{uid}")).await.map_err(told)?;
            let last = listed.iter().filter_map(|object| owner_number(&object.name)).max();
            if let Some(number) = last {
                let object = owner_object(folder, uid, number);
                if let Some(bytes) = self.store.read(&object).await.map_err(told)? {
                    return Ok((number, decode(&object, &bytes).map_err(told)?));
                }
            }
            // Whoever has the session deletes an object once the next one is there.
            tokio::time::sleep(LOOK_PAUSE).await;
        }
        Err(damaged(&format!("{folder}/{uid}"), "nobody is known to have had the session"))
    }

    async fn has_ended(&self, folder: &str, uid: &str) -> Result<bool, ServiceError> {
        Ok(self.last_owner(folder, uid).await?.1.ended)
    }

    /// The session of a name, and what has become of it. A server that had it, and is gone, loses it.
    ///
    /// # Errors
    /// `SessionElsewhere` where the server is alive that has the session; those of the store.
    pub(crate) async fn find(&self, key: &SessionKey) -> Result<Option<Found>, ServiceError> {
        let folder = folder_of(key);
        let mut gone = None;
        loop {
            let Some((_, made)) = self.last_made(&folder).await? else { return Ok(None) };
            let (number, owner) = self.last_owner(&folder, &made.uid).await?;
            if owner.ended {
                return Ok(None);
            }
            let journal = owner.journal.as_deref().map(JournalId::parse).transpose().map_err(told)?;
            let is_free = journal.is_none() || journal == gone || self.may_fence(journal.as_ref()).await;
            if is_free {
                return self.found((folder, number), made, owner, journal).await.map(Some);
            }
            // Another server may take the session while it is waited for.
            if let Some(id) = &journal {
                self.leases.check_gone(id, &key.name).await?;
            }
            gone = journal;
        }
    }

    /// Whether a journal is this server's, or is fenced already.
    async fn may_fence(&self, id: Option<&JournalId>) -> bool {
        let Some(id) = id else { return true };
        self.journal().id() == id || self.fenced.lock().await.contains_key(id)
    }

    /// A session as the journal of its last owner has it, which is fenced where it is another server's.
    async fn found(
        &self,
        (folder, owner): (String, u64),
        made: Made,
        last: Owner,
        journal: Option<JournalId>,
    ) -> Result<Found, ServiceError> {
        let Owner { journal: _, mut past, ended: _ } = last;
        if let Some(id) = &journal {
            // An act that an earlier owner noted and did not come to write is none of this one's.
            let acts = self.acts_of(id, &made.uid).await?;
            for Acts { first, acts, .. } in acts.into_iter().filter(|acts| acts.owner == owner) {
                if !past.take(first, acts) {
                    return Err(damaged(&made.name, "an act of the session is missing, or does not read"));
                }
            }
        }
        Ok(Found { made, past, folder, owner, journal })
    }

    /// The acts of a session in a journal. Another server's journal is fenced.
    async fn acts_of(&self, id: &JournalId, uid: &str) -> Result<Vec<Acts>, ServiceError> {
        if self.journal().id() == id {
            let own = inspect(&self.store, id).await.map_err(told)?;
            return Ok(by_session(id, own.payloads).map_err(told)?.remove(uid).unwrap_or_default());
        }
        let mut fenced = self.fenced.lock().await;
        if !fenced.contains_key(id) {
            let past = fence(&self.store, id).await.map_err(told)?;
            tracing::info!(journal = id.as_str(), entries = past.payloads.len(), "fenced a journal");
            fenced.insert(id.clone(), by_session(id, past.payloads).map_err(told)?);
            self.leases.forget(id).await;
        }
        let acts = fenced.get(id).and_then(|acts| acts.get(uid));
        Ok(acts.cloned().unwrap_or_default())
    }

    /// Takes a session that was found.
    pub(crate) async fn take(&self, found: &Found) -> Result<Arc<Stored>, ServiceError> {
        let Found { made, past, folder, owner, journal: before } = found;
        let (journal, number, past) = (self.journal(), owner + 1, past.clone().taken());
        let unused = self.unused_states(folder, &made.uid, &past).await?;
        let next = Owner { journal: Some(journal.id().as_str().to_owned()), past, ended: false };
        if self.create(&owner_object(folder, &made.uid, number), &next).await? == Created::Taken {
            return Err(elsewhere());
        }
        // Objects of earlier owners are deleted once there are later ones: this may have been made in the
        // place of one of them.
        if self.last_owner(folder, &made.uid).await?.0 != number {
            return Err(elsewhere());
        }
        if let Some(before) = before
            && let Some(acts) = self.fenced.lock().await.get_mut(before)
        {
            // They are in the owner's object from now on.
            acts.remove(&made.uid);
        }
        let place = (folder.clone(), made.uid.clone(), number);
        let source = made.source();
        let stored = Stored::new(place, source, next.past, true, journal, self.snapshot_every);
        let stored = Arc::new(stored);
        self.users().insert(made.uid.clone(), Arc::clone(&stored));
        let store = self.store.clone();
        tokio::spawn(async move { delete_all(&store, unused).await });
        Ok(stored)
    }

    /// Objects of states that servers which had the session did not come to note. The list is made before the
    /// session is taken, so that there is none among them of a server that takes it later.
    async fn unused_states(&self, folder: &str, uid: &str, past: &Past) -> Result<Vec<String>, ServiceError> {
        let listed = self.store.list(&format!("{folder}/{uid}")).await.map_err(told)?;
        let used = [past.snapshot(), past.drawn()];
        let is_unused = |name: &String| {
            state_id(name).is_some_and(|id| used.iter().flatten().all(|state| state.id != id))
        };
        Ok(listed.into_iter().map(|object| object.name).filter(is_unused).collect())
    }

    /// Ends a session that was found, and deletes what is stored of it.
    pub(crate) async fn end_found(&self, found: &Found) -> Result<(), ServiceError> {
        let Found { made, past, folder, owner, .. } = found;
        self.end_at(folder, &made.uid, owner + 1, past.end(made.source())).await
    }

    /// Where the state of a session lies that was found.
    pub(crate) fn state_of(&self, found: &Found) -> Option<StateReader> {
        let snapshot = found.past.state(found.made.source())?;
        Some(StateReader::new(self.store.clone(), &found.folder, &found.made.uid, snapshot))
    }

    /// Checks that no other server has taken a session, which a server that stores nothing of it does not
    /// notice.
    pub(crate) async fn check_ours(&self, stored: &Stored) -> Result<(), ServiceError> {
        let owner = stored.owner().await?;
        let next = owner_object(&stored.folder, &stored.uid, *owner + 1);
        if self.store.read(&next).await.map_err(told)?.is_some() {
            stored.lost.cancel();
            return Err(elsewhere());
        }
        Ok(())
    }

    /// Gives a session up, which stands where `standing` says: whoever is asked for it next may take it
    /// without fencing anybody. Call it under the session's lock.
    pub(crate) async fn hand_over(
        &self,
        stored: &Arc<Stored>,
        standing: &Standing,
    ) -> Result<(), ServiceError> {
        stored.wait(stored.all()).await?;
        let past = stored.handed_over(standing).ok_or_else(elsewhere)?;
        let owner = stored.owner().await?;
        let next = owner_object(&stored.folder, &stored.uid, *owner + 1);
        // Whoever still has the session finds that it is elsewhere, also where nobody knows what became of
        // the object.
        stored.lost.cancel();
        let created = self.create(&next, &Owner { journal: None, past, ended: false }).await?;
        self.gone(stored);
        if created == Created::Taken { Err(elsewhere()) } else { Ok(()) }
    }

    /// Ends a session, of which so many steps were released, and deletes what is stored of it.
    pub(crate) async fn end(&self, stored: &Arc<Stored>, released_steps: u64) -> Result<(), ServiceError> {
        stored.lost.cancel();
        let owner = stored.owner().await?;
        let past = Past::ended(released_steps, true);
        self.end_at(&stored.folder, &stored.uid, *owner + 1, past).await?;
        self.gone(stored);
        Ok(())
    }

    /// Another server has a session, or nobody: nothing of this server's journal is needed for it.
    fn gone(&self, stored: &Arc<Stored>) {
        stored.lost.cancel();
        let mut users = self.users();
        if users.get(&stored.uid).is_some_and(|user| Arc::ptr_eq(user, stored)) {
            users.remove(&stored.uid);
        }
    }

    fn users(&self) -> MutexGuard<'_, HashMap<String, Arc<Stored>>> {
        self.users.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the acts of a session be in an owner's object, so that the journal need not keep them.
    async fn fold(&self, stored: &Arc<Stored>) -> Result<(), ServiceError> {
        let make = async |number: u64, past: Past| {
            let journal = Some(stored.journal_id().to_owned());
            let object = owner_object(&stored.folder, &stored.uid, number);
            let owner = encode(&Owner { journal, past, ended: false }).map_err(told)?;
            let sealed = self.store.seal(&object, owner).await.map_err(told)?;
            // Whether it was made has to be known before any act is written that comes after it: the same
            // bytes are offered until it is.
            let created = loop {
                match self.store.store().create_exactly(&object, sealed.clone()).await {
                    Ok(created) => break created,
                    Err(error) => tracing::warn!(%error, object, "the store does not answer: trying again"),
                }
                if stored.is_fenced() {
                    stored.lost.cancel();
                    return Err(elsewhere());
                }
                tokio::time::sleep(FOLD_PAUSE).await;
            };
            if created == Created::Taken {
                // Another server has it, which has read all of its acts.
                self.gone(stored);
                return Ok(false);
            }
            // What this server took the session with stays: in its place, a server that had the session
            // before could make an object.
            if number - 1 > stored.first_owner {
                let before = owner_object(&stored.folder, &stored.uid, number - 1);
                if let Err(error) = self.store.delete(&before).await {
                    tracing::warn!(%error, before, "an object that nobody needs was not deleted");
                }
            }
            Ok(true)
        };
        stored.fold(make).await
    }

    /// Keeps the journal short: where it has many objects, what they say is put into the sessions' own, and
    /// they are deleted.
    pub(crate) async fn fold_journals(self: Arc<Self>) {
        let mut folded = (self.journal().id().clone(), 0);
        loop {
            tokio::time::sleep(FOLD_PAUSE).await;
            let journal = self.journal();
            if folded.0 != *journal.id() {
                folded = (journal.id().clone(), 0);
            }
            // The first object of a journal, which has no number among these, says that it begins.
            let end = journal.stats().objects + 1;
            if end < folded.1 + self.fold_after {
                continue;
            }
            let done = async {
                // Whatever a session has below this number is in its own object after this.
                let stored: Vec<_> = self.users().values().cloned().collect();
                for stored in &stored {
                    self.fold(stored).await.map_err(|error| error.to_string())?;
                }
                journal.fold(end).await.map_err(|error| error.to_string())
            };
            match done.await {
                Ok(()) => {
                    tracing::debug!(objects = end - folded.1, "folded the journal");
                    folded.1 = end;
                }
                Err(error) => tracing::warn!(error, "the journal was not folded"),
            }
        }
    }

    /// The object of the end stays: in its place, nobody can have the session again.
    async fn end_at(&self, folder: &str, uid: &str, number: u64, past: Past) -> Result<(), ServiceError> {
        let end = owner_object(folder, uid, number);
        let ended = Owner { journal: None, past, ended: true };
        if self.create(&end, &ended).await? == Created::Taken && !self.has_ended(folder, uid).await? {
            return Err(elsewhere());
        }
        // A server that has it may have made later ones, and deleted the one in whose place this is.
        if self.last_owner(folder, uid).await?.0 != number {
            return Err(elsewhere());
        }
        for object in self.store.list(&format!("{folder}/{uid}")).await.map_err(told)? {
            if object.name != end {
                self.store.delete(&object.name).await.map_err(told)?;
            }
        }
        Ok(())
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
            stored.rolling.write(begun, &this.store, stored.place()).await;
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

async fn delete_all(store: &SealedStore, names: Vec<String>) {
    for name in names {
        if let Err(error) = store.delete(&name).await {
            tracing::warn!(%error, name, "a state that nothing refers to was not deleted");
        }
    }
}

/// The acts in the payloads of a journal.
fn by_session(
    id: &JournalId,
    payloads: Vec<(u64, bytes::Bytes)>,
) -> Result<HashMap<String, Vec<Acts>>, StoreError> {
    let mut sessions: HashMap<String, Vec<Acts>> = HashMap::new();
    for (number, payload) in payloads {
        let acts: Acts = decode(&format!("journals/{}/{number}", id.as_str()), &payload)?;
        sessions.entry(acts.session.clone()).or_default().push(acts);
    }
    Ok(sessions)
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
