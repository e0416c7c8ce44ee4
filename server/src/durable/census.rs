//! Reads and cleans a whole store, for `noised state`. Servers may use the store at the same time.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use noised::MatrixSpec;
use noised_store::{JournalId, Listed, SealedStore, StoreError, fence, inspect, retire};
use serde::Serialize;

use super::leases::{Leases, SERVERS, address_of, check_beat, server_object};
use super::looking::{Held, LOOK_PAUSE, damaged, last_session};
use super::noises::check_claims;
use super::objects::{Acts, CLAIMS, Made, Owner, SESSIONS, decode, folder_of, state_id, state_object};
use super::taking::{by_session, past_of};
use super::{ActsOf, Snapshot};
use crate::identity::SessionKey;

/// Readings of a session whose server writes meanwhile.
const TRIES: usize = 20;

/// Who has a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Holding {
    /// A server, which may be gone by now.
    Held,
    /// Nobody: its last server gave it up.
    Free,
    /// It was deleted. What is left says so until its name is used again.
    Ended,
}

/// A session as its store knows it.
#[derive(Clone, Debug, Serialize)]
pub struct StoredSession {
    /// Its name, `sessions/{id}`.
    pub name: String,
    /// Its tenant.
    pub tenant: String,
    /// Tells it from other sessions of its name.
    pub uid: String,
    /// Where its objects lie.
    pub folder: String,
    /// Who has it.
    pub holding: Holding,
    /// The address of the server that has it, where the server advertises one.
    pub owner: Option<String>,
    /// The journal of that server.
    pub journal: Option<String>,
    /// The kind of its matrix.
    pub matrix: &'static str,
    /// The kind of its source.
    pub source: &'static str,
    /// Its lanes.
    pub lanes: u64,
    /// What its matrix, tree and source come to.
    pub fingerprint: String,
    /// The step at which it goes on, as far as the store knows.
    pub next_step: u64,
    /// Whether it may be further: the steps of `gaussian` are not stored one by one.
    pub may_be_further: bool,
    /// Steps that were released.
    pub released_steps: u64,
    /// How often it went back.
    pub rewinds: u64,
    /// Its stored state, from which it goes on.
    pub state: Option<StoredState>,
    /// Its objects.
    pub objects: u64,
    /// Their bytes, sealed.
    pub bytes: u64,
}

/// The stored state of a session.
#[derive(Clone, Debug, Serialize)]
pub struct StoredState {
    /// What its objects are named by.
    pub id: String,
    /// The step that comes next on it.
    pub step: u64,
    /// Its objects.
    pub parts: u32,
    /// Their bytes, sealed.
    pub bytes: u64,
}

/// What there is in a store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Totals {
    /// Names of sessions, those of sessions that have ended among them.
    pub sessions: u64,
    /// Journals of servers.
    pub journals: u64,
    /// Objects.
    pub objects: u64,
    /// Their bytes, sealed.
    pub bytes: u64,
}

/// What is wrong with an object, a session or a journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Damage {
    /// The name of what is damaged.
    pub name: String,
    /// What is wrong with it.
    pub what: String,
}

/// What was deleted of a store, and what may be later.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Collected {
    /// Objects that were deleted.
    pub objects: u64,
    /// Journals of servers that are gone, of which nothing but the end is left.
    pub journals: u64,
    /// Journals of servers that are gone which sessions need.
    pub needed: u64,
    /// Journals of servers that live, or that may: those which advertise no address do not say.
    pub in_use: u64,
}

/// A look at a store.
#[derive(Debug)]
pub(crate) struct Census {
    store: SealedStore,
    /// The acts of journals that were read.
    journals: HashMap<JournalId, ActsOf>,
}

impl Census {
    pub(crate) fn new(store: SealedStore) -> Self {
        Self { store, journals: HashMap::new() }
    }

    /// All sessions of the store in the order of tenant and name, and what is damaged.
    ///
    /// # Errors
    /// Where the store does not answer.
    pub(crate) async fn sessions(&mut self) -> Result<(Vec<StoredSession>, Vec<Damage>), StoreError> {
        let (mut sessions, mut damages) = (Vec::new(), Vec::new());
        for (folder, objects) in by_folder(self.store.list(SESSIONS).await?) {
            match self.session_in(&folder, &objects).await {
                Ok(session) => sessions.extend(session.map(|(session, _)| session)),
                Err(error) => damages.push(damage_of(&folder, error)?),
            }
        }
        sessions.sort_by(|one, other| (&one.tenant, &one.name).cmp(&(&other.tenant, &other.name)));
        Ok((sessions, damages))
    }

    /// One session, with its matrix.
    ///
    /// # Errors
    /// Those of the store; `Damaged` where an object of the session is.
    pub(crate) async fn session(
        &mut self,
        key: &SessionKey,
    ) -> Result<Option<(StoredSession, MatrixSpec)>, StoreError> {
        let folder = folder_of(key);
        let objects = self.store.list(&folder).await?;
        self.session_in(&folder, &objects).await
    }

    async fn session_in(
        &mut self,
        folder: &str,
        objects: &[Listed],
    ) -> Result<Option<(StoredSession, MatrixSpec)>, StoreError> {
        let mut before = None;
        for _ in 0..TRIES {
            let Some(held) = last_session(&self.store, folder).await?.0 else { return Ok(None) };
            let of = SessionKey::named(&held.0.tenant, &held.0.name);
            let journal = held.2.journal.as_deref().map(JournalId::parse).transpose()?;
            match self.session_of(folder, held, journal.as_ref(), objects).await {
                // Its server may have folded the journal between two readings, or stored another state.
                Err(StoreError::Damaged { name, what }) => {
                    if before.as_ref() == Some(&name) {
                        return Err(damaged(&name, &format!("{what} (of {of})")));
                    }
                    self.journals.retain(|id, _| Some(id) != journal.as_ref());
                    before = Some(name);
                    tokio::time::sleep(LOOK_PAUSE).await;
                }
                done => return done.map(Some),
            }
        }
        Err(StoreError::Unavailable(format!("{folder} changes faster than it can be read")))
    }

    async fn session_of(
        &mut self,
        folder: &str,
        (made, number, owner): Held,
        journal: Option<&JournalId>,
        objects: &[Listed],
    ) -> Result<(StoredSession, MatrixSpec), StoreError> {
        let resolved = made.resolved().map_err(|error| damaged(folder, &error.to_string()))?;
        let (acts, address) = match journal {
            Some(id) => (self.acts_of(id, &made.uid).await?, self.address_of(id).await?),
            None => (Vec::new(), None),
        };
        let holding = match journal {
            _ if owner.ended => Holding::Ended,
            Some(_) => Holding::Held,
            None => Holding::Free,
        };
        let past = past_of(folder, (number, owner), acts)?;
        let recovered = past.recovered(made.source());
        let state = match past.state(made.source()).filter(|_| holding != Holding::Ended) {
            Some(state) => Some(self.state_of(folder, &made, state).await?),
            None => None,
        };
        let spec = resolved.spec();
        let matrix = spec.matrix.clone();
        let session = StoredSession {
            tenant: SessionKey::named(&made.tenant, "").tenant.to_string(),
            name: made.name,
            uid: made.uid,
            folder: folder.to_owned(),
            holding,
            owner: address,
            journal: journal.map(|id| id.as_str().to_owned()),
            matrix: spec.matrix.kind(),
            source: spec.source.kind(),
            lanes: resolved.layout().lanes() as u64,
            fingerprint: resolved.fingerprint().to_string(),
            next_step: recovered.next_step,
            may_be_further: recovered.may_be_further && holding != Holding::Ended,
            released_steps: recovered.released_steps,
            rewinds: recovered.rewind_count,
            state,
            objects: objects.len() as u64,
            bytes: objects.iter().map(|object| object.size).sum(),
        };
        Ok((session, matrix))
    }

    async fn state_of(&self, folder: &str, made: &Made, state: &Snapshot) -> Result<StoredState, StoreError> {
        let listed = self.store.list(&format!("{folder}/{}", made.uid)).await?;
        let sizes: HashMap<_, _> = listed.iter().map(|object| (object.name.as_str(), object.size)).collect();
        let mut bytes = 0;
        for part in 0..state.parts {
            let name = state_object(folder, &made.uid, &state.id, part);
            bytes +=
                sizes.get(name.as_str()).ok_or_else(|| damaged(&name, "a part of the state is missing"))?;
        }
        Ok(StoredState { id: state.id.clone(), step: state.step, parts: state.parts, bytes })
    }

    async fn acts_of(&mut self, id: &JournalId, uid: &str) -> Result<Vec<Acts>, StoreError> {
        if !self.journals.contains_key(id) {
            let past = inspect(&self.store, id).await?;
            if past.end == 0 {
                return Err(damaged(&id.folder(), "the journal of an owner is missing"));
            }
            self.journals.insert(id.clone(), by_session(id, past.payloads)?);
        }
        Ok(self.journals.get(id).and_then(|acts| acts.get(uid)).cloned().unwrap_or_default())
    }

    /// The address in a server's lease. A lease that does not read is that of a server which is gone.
    async fn address_of(&self, id: &JournalId) -> Result<Option<String>, StoreError> {
        match address_of(&self.store, id).await {
            Err(StoreError::Damaged { .. } | StoreError::OtherKey { .. }) => Ok(None),
            read => read,
        }
    }

    /// Reads every object: whether its seal holds, it is under the name it was written for, and it says what
    /// an object of its kind says; and whether anything is missing that others refer to.
    ///
    /// # Errors
    /// Where the store does not answer.
    pub(crate) async fn verify(&mut self) -> Result<(Totals, Vec<Damage>), StoreError> {
        let (mut totals, mut damages) = (Totals::default(), Vec::new());
        for folder in [SESSIONS, CLAIMS, SERVERS] {
            for Listed { name, size } in self.store.list(folder).await? {
                (totals.objects, totals.bytes) = (totals.objects + 1, totals.bytes + size);
                if let Err(error) = self.check_object(&name).await {
                    damages.push(damage_of(&name, error)?);
                }
            }
        }
        for id in JournalId::all(&self.store).await? {
            let listed = self.store.list(&id.folder()).await?;
            totals.journals += 1;
            totals.objects += listed.len() as u64;
            totals.bytes += listed.iter().map(|object| object.size).sum::<u64>();
            let checked = async { by_session(&id, inspect(&self.store, &id).await?.payloads) };
            if let Err(error) = checked.await {
                damages.push(damage_of(&id.folder(), error)?);
            }
        }
        // What is damaged by itself was told.
        for (folder, objects) in by_folder(self.store.list(SESSIONS).await?) {
            totals.sessions += 1;
            if let Err(error) = self.session_in(&folder, &objects).await {
                let damage = damage_of(&folder, error)?;
                if damages.iter().all(|known| known.name != damage.name) {
                    damages.push(damage);
                }
            }
        }
        Ok((totals, damages))
    }

    /// Deletes what servers that are gone have left in their journals, where no session needs it any more.
    ///
    /// # Errors
    /// `Damaged` where a session is: what it needs is not known. Those of the store.
    pub(crate) async fn collect(&mut self, lease: Duration) -> Result<Collected, StoreError> {
        let leases = Arc::new(Leases::new(self.store.clone(), None, lease));
        let (mut collected, mut gone) = (Collected::default(), Vec::new());
        for id in JournalId::all(&self.store).await? {
            let is_gone = match inspect(&self.store, &id).await?.fenced {
                true => true,
                false => self.has_lease(&id).await? && leases.check_gone(&id, "").await.is_ok(),
            };
            if is_gone { gone.push(id) } else { collected.in_use += 1 }
        }
        for id in &gone {
            fence(&self.store, id).await?;
            leases.forget(id).await;
        }
        // Nothing is added to these journals from here on. A session that does not need one now never will:
        // what a journal says of a session counts under an owner's object that was made before.
        let mut needed = HashSet::new();
        for (folder, objects) in by_folder(self.store.list(SESSIONS).await?) {
            let session = self.session_in(&folder, &objects).await?;
            needed.extend(session.and_then(|(session, _)| session.journal));
        }
        for id in gone {
            if needed.contains(id.as_str()) {
                collected.needed += 1;
            } else {
                collected.objects += retire(&self.store, &id).await?;
                collected.journals += 1;
            }
        }
        Ok(collected)
    }

    async fn has_lease(&self, id: &JournalId) -> Result<bool, StoreError> {
        Ok(self.store.store().read(&server_object(id)).await?.is_some())
    }

    /// Checks one object; one that was deleted meanwhile is fine.
    async fn check_object(&self, name: &str) -> Result<(), StoreError> {
        let Some(bytes) = self.store.read(name).await? else { return Ok(()) };
        if name.starts_with(CLAIMS) {
            return check_claims(name, &bytes);
        }
        if name.starts_with(SERVERS) {
            return check_beat(name, &bytes);
        }
        let last = name.rsplit('/').next().unwrap_or_default();
        if last.starts_with("made-") {
            let made: Option<Made> = decode(name, &bytes)?;
            let resolved = made.map_or(Ok(()), |made| made.resolved().map(drop));
            return resolved.map_err(|error| damaged(name, &error.to_string()));
        }
        if last.starts_with("owner-") {
            return decode::<Owner>(name, &bytes).map(drop);
        }
        if state_id(name).is_some() { Ok(()) } else { Err(damaged(name, "no object has such a name")) }
    }
}

/// The objects of each name of sessions.
fn by_folder(listed: Vec<Listed>) -> BTreeMap<String, Vec<Listed>> {
    let mut folders: BTreeMap<String, Vec<Listed>> = BTreeMap::new();
    for object in listed {
        let mut segments = object.name.split('/');
        if let (Some(first), Some(second), Some(_)) = (segments.next(), segments.next(), segments.next()) {
            folders.entry(format!("{first}/{second}")).or_default().push(object);
        }
    }
    folders
}

/// What is damaged; an error where that is not what is wrong.
fn damage_of(of: &str, error: StoreError) -> Result<Damage, StoreError> {
    match error {
        StoreError::Damaged { name, what } => Ok(Damage { name, what }),
        error @ StoreError::OtherKey { .. } => Ok(Damage { name: of.to_owned(), what: error.to_string() }),
        error @ (StoreError::Unavailable(_) | StoreError::Refused(_) | StoreError::Invalid { .. }) => {
            Err(error)
        }
    }
}
