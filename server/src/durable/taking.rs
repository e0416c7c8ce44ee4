//! Finding sessions of a store, taking them from the servers that had them, and giving them up.

use std::collections::HashMap;
use std::sync::Arc;

use noised::session::Standing;
use noised_proto::ServiceError;
use noised_store::{Created, JournalId, SealedStore, StoreError, fence, inspect};

use super::looking::damaged;
use super::objects::{Acts, Made, Owner, decode, folder_of, owner_number, owner_object, state_id};
use super::past::Past;
use super::snapshots::StateReader;
use super::stored::{Stored, elsewhere};
use super::{Durable, told};
use crate::identity::SessionKey;

/// A session that a store has.
pub(crate) struct Found {
    pub(crate) made: Made,
    pub(crate) past: Past,
    pub(super) folder: String,
    /// The number of its last owner.
    pub(super) owner: u64,
    /// The journal of the server that had it.
    journal: Option<JournalId>,
}

impl Durable {
    /// The session of a name, and what has become of it. A server that had it, and is gone, loses it.
    ///
    /// # Errors
    /// `SessionElsewhere` where the server is alive that has the session; those of the store.
    pub(crate) async fn find(&self, key: &SessionKey) -> Result<Option<Found>, ServiceError> {
        let folder = folder_of(key);
        let mut gone = None;
        loop {
            let Some((made, number, owner)) = self.last_session(&folder).await?.0 else { return Ok(None) };
            if owner.ended {
                return Ok(None);
            }
            let journal = owner.journal.as_deref().map(JournalId::parse).transpose().map_err(told)?;
            let is_free = journal.is_none() || journal == gone || self.may_fence(journal.as_ref()).await;
            if is_free {
                let uid = made.uid.clone();
                let found = self.found((folder.clone(), number), made, owner, journal).await;
                if found.is_err()
                    && let Some((made, last, _)) = self.last_session(&folder).await?.0
                    && (made.uid != uid || last != number)
                {
                    // Its owner has folded the journal between the two readings, or lost it.
                    continue;
                }
                return found.map(Some);
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
        let acts = match &journal {
            Some(id) => self.acts_of(id, &made.uid).await?,
            None => Vec::new(),
        };
        let past = past_of(&folder, (owner, last), acts).map_err(told)?;
        Ok(Found { made, past, folder, owner, journal })
    }

    /// The acts of a session in a journal. Another server's journal is fenced.
    pub(super) async fn acts_of(&self, id: &JournalId, uid: &str) -> Result<Vec<Acts>, ServiceError> {
        if self.journal().id() == id {
            let own = inspect(&self.store, id).await.map_err(told)?;
            return Ok(by_session(id, own.payloads).map_err(told)?.remove(uid).unwrap_or_default());
        }
        let mut fenced = self.fenced.lock().await;
        if !fenced.contains_key(id) {
            let past = fence(&self.store, id).await.map_err(told)?;
            if past.end == 0 {
                return Err(told(damaged(&id.folder(), "the journal of a session's owner is missing")));
            }
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
        if self.owner_if_any(folder, &made.uid).await?.is_none_or(|(last, _)| last != number) {
            return Err(elsewhere());
        }
        // All objects of a session that was deleted are gone once another has its name.
        if self.last_made(folder).await?.0.is_none_or(|last| last.uid != made.uid) {
            self.store.delete(&owner_object(folder, &made.uid, number)).await.map_err(told)?;
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
        self.keep(&stored)?;
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

    /// Where the state of a session lies that was found.
    pub(crate) fn state_of(&self, found: &Found) -> Option<StateReader> {
        let snapshot = found.past.state(found.made.source())?;
        Some(StateReader::new(self.store.clone(), &found.folder, &found.made.uid, snapshot))
    }

    /// Checks that no other server has taken a session, which a server that stores nothing of it does not
    /// notice.
    pub(crate) async fn check_ours(&self, stored: &Stored) -> Result<(), ServiceError> {
        let owner = stored.owner().await?;
        let listed = self.store.list(&format!("{}/{}", stored.folder, stored.uid)).await.map_err(told)?;
        // None are left of a session that was deleted and whose name is used again.
        let last = listed.iter().filter_map(|object| owner_number(&object.name)).max();
        if last != Some(*owner) {
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
}

async fn delete_all(store: &SealedStore, names: Vec<String>) {
    for name in names {
        if let Err(error) = store.delete(&name).await {
            tracing::warn!(%error, name, "a state that nothing refers to was not deleted");
        }
    }
}

/// What has become of a session: what its last owner's object says, and the acts in the owner's journal.
pub(super) fn past_of(
    folder: &str,
    (number, owner): (u64, Owner),
    acts: Vec<Acts>,
) -> Result<Past, StoreError> {
    let mut past = owner.past;
    // An act that an earlier owner noted and did not come to write is none of this one's.
    for Acts { first, acts, .. } in acts.into_iter().filter(|acts| acts.owner == number) {
        if !past.take(first, acts) {
            return Err(damaged(folder, "an act of the session is missing, or does not read"));
        }
    }
    Ok(past)
}

/// The acts in the payloads of a journal.
pub(super) fn by_session(
    id: &JournalId,
    payloads: Vec<(u64, bytes::Bytes)>,
) -> Result<HashMap<String, Vec<Acts>>, StoreError> {
    let mut sessions: HashMap<String, Vec<Acts>> = HashMap::new();
    for (number, payload) in payloads {
        let acts: Acts = decode(&format!("{}/{number}", id.folder()), &payload)?;
        sessions.entry(acts.session.clone()).or_default().push(acts);
    }
    Ok(sessions)
}
