//! Making and ending sessions of a store.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use noised::noise::NoiseKey;
use noised::session::{NoiseOptions, ResolvedSpec, Standing};
use noised_proto::ServiceError;
use noised_store::{Created, StoreError};
use uuid::Uuid;

use super::objects::{Made, Owner, decode, folder_of, made_object, owner_object};
use super::past::{Past, StoredSource};
use super::stored::{Stored, elsewhere};
use super::taking::Found;
use super::{Durable, told};
use crate::identity::SessionKey;

/// Where a session is about to be made. One object decides whether it is: `made-{number}` of its name, which
/// is this session's, or another's, or nobody's.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(super) folder: String,
    pub(super) uid: String,
    pub(super) number: u64,
    /// The journal of the server that makes it.
    pub(super) journal: String,
    making: Arc<Making>,
}

impl Place {
    /// A place, which is among `all` that a server is making as long as it is there, or what was begun at it.
    pub(super) fn new(
        (folder, uid, number): (String, String, u64),
        journal: &str,
        all: &Arc<Mutex<HashSet<String>>>,
    ) -> Self {
        all.lock().unwrap_or_else(PoisonError::into_inner).insert(uid.clone());
        let making = Arc::new(Making { uid: uid.clone(), all: Arc::clone(all) });
        Self { folder, uid, number, journal: journal.to_owned(), making }
    }
}

/// Says that this server is making a session, for as long as this is there.
#[derive(Debug)]
struct Making {
    uid: String,
    all: Arc<Mutex<HashSet<String>>>,
}

impl Drop for Making {
    fn drop(&mut self) {
        self.all.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.uid);
    }
}

/// A session that was begun, and is to be stored.
#[derive(Debug)]
pub(crate) struct Begun {
    made: Made,
    number: u64,
    _making: Arc<Making>,
}

impl Begun {
    /// The same with what its creation asked for.
    pub(crate) fn asked_by(self, named: bool, request_id: &str, started_over: bool) -> Self {
        Self { made: self.made.asked_by(named, request_id, started_over), ..self }
    }
}

impl Durable {
    /// A place for a session that is about to be made.
    pub(crate) async fn place(&self, key: &SessionKey) -> Result<Place, ServiceError> {
        let folder = folder_of(key);
        let (last, number) = self.last_session(&folder).await?;
        // The caller looked for it and found none. Another server may have made it since.
        if last.is_some_and(|(_, _, owner)| !owner.ended) {
            return Err(elsewhere());
        }
        Ok(self.place_at(folder, Uuid::new_v4().simple().to_string(), number))
    }

    pub(super) fn place_at(&self, folder: String, uid: String, number: u64) -> Place {
        Place::new((folder, uid, number), self.journal().id().as_str(), &self.making)
    }

    /// Whether this server is making a session, and has not come to an end with that.
    pub(super) fn is_making(&self, uid: &str) -> bool {
        self.making.lock().unwrap_or_else(PoisonError::into_inner).contains(uid)
    }

    /// A session that is about to be made, and what is to be stored of it. Its acts wait until it is.
    pub(crate) fn begin(
        &self,
        place: Place,
        key: &SessionKey,
        resolved: &ResolvedSpec,
        options: NoiseOptions,
        noise_key: Option<&NoiseKey>,
        first_step: Option<u64>,
    ) -> (Arc<Stored>, Begun) {
        let Place { folder, uid, number, journal: _, making } = place;
        let made = Made::new(uid.clone(), key, resolved, options, noise_key);
        let source = StoredSource::of(&resolved.spec().source);
        let past = first_step.map_or_else(Past::default, Past::at);
        let stored = Stored::new((folder, uid, 0), source, past, false, self.journal(), self.snapshot_every);
        (Arc::new(stored), Begun { made, number, _making: making })
    }

    /// Stores a session that was begun.
    pub(crate) async fn make(&self, stored: &Arc<Stored>, begun: &Begun) -> Result<(), ServiceError> {
        let (Stored { folder, uid, .. }, &Begun { ref made, number, _making: _ }) = (&**stored, begun);
        let past = stored.beginning();
        let first = Owner { journal: Some(stored.journal_id().to_owned()), past, ended: false };
        let (owned, named) = (owner_object(folder, uid, stored.first_owner), made_object(folder, number));
        if self.create(&owned, &first).await? == Created::Taken {
            return Err(elsewhere());
        }
        if self.create(&named, made).await? == Created::Taken {
            // Another session has the name, or wanted the noise and took this one for left behind.
            self.store.delete(&owned).await.map_err(told)?;
            return Err(elsewhere());
        }
        // Objects of earlier sessions are deleted: this may have been made in the place of one of them.
        if self.last_made(folder).await?.1 != number + 1 {
            self.store.delete(&named).await.map_err(told)?;
            self.store.delete(&owned).await.map_err(told)?;
            return Err(elsewhere());
        }
        self.keep(stored)?;
        stored.made();
        if let Some(before) = number.checked_sub(1) {
            self.delete_made(folder, before).await;
        }
        Ok(())
    }

    /// Makes sure that a session is not made any more whose making broke off. Tells whether that is so.
    pub(super) async fn break_off(&self, folder: &str, uid: &str, number: u64) -> Result<bool, ServiceError> {
        let nobody: Option<Made> = None;
        if self.create(&made_object(folder, number), &nobody).await? == Created::Taken {
            return Ok(false);
        }
        for object in self.store.list(&format!("{folder}/{uid}")).await.map_err(told)? {
            self.store.delete(&object.name).await.map_err(told)?;
        }
        Ok(true)
    }

    /// Deletes what says that an earlier session of a name has ended.
    async fn delete_made(&self, folder: &str, number: u64) {
        let deleted = async {
            let name = made_object(folder, number);
            let Some(bytes) = self.store.read(&name).await? else { return Ok(()) };
            let Some(before) = decode::<Option<Made>>(&name, &bytes)? else {
                return self.store.delete(&name).await;
            };
            let refused = |error: &dyn std::fmt::Display| StoreError::Refused(error.to_string());
            if let Some(noise) = before.noise().map_err(|error| refused(&error))? {
                self.close_claim(&noise, &before.uid).await.map_err(|error| refused(&error))?;
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

    /// Ends a session that was found, and deletes what is stored of it.
    pub(crate) async fn end_found(&self, found: &Found) -> Result<(), ServiceError> {
        let Found { made, past, folder, owner, .. } = found;
        self.end_at(folder, &made.uid, owner + 1, past.end(made.source())).await
    }

    /// Ends a session, which stands where `standing` says, and deletes what is stored of it.
    pub(crate) async fn end(&self, stored: &Arc<Stored>, standing: &Standing) -> Result<(), ServiceError> {
        stored.lost.cancel();
        let owner = stored.owner().await?;
        let past = Past::ended(standing.released_steps, !standing.may_be_further);
        self.end_at(&stored.folder, &stored.uid, *owner + 1, past).await?;
        self.gone(stored);
        Ok(())
    }

    /// The object of the end stays: in its place, nobody can have the session again.
    async fn end_at(&self, folder: &str, uid: &str, number: u64, past: Past) -> Result<(), ServiceError> {
        let end = owner_object(folder, uid, number);
        let ended = Owner { journal: None, past, ended: true };
        let created = self.create(&end, &ended).await?;
        // Nothing is left of a session that has ended and whose name is used again.
        let Some((last, owner)) = self.owner_if_any(folder, uid).await? else { return Ok(()) };
        // A server that has it may have made later ones, and deleted the one in whose place this is.
        if last != number || created == Created::Taken && !owner.ended {
            return Err(elsewhere());
        }
        for object in self.store.list(&format!("{folder}/{uid}")).await.map_err(told)? {
            if object.name != end {
                self.store.delete(&object.name).await.map_err(told)?;
            }
        }
        Ok(())
    }
}
