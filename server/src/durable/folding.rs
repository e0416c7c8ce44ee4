//! Keeping a server's journal short.

use std::sync::Arc;
use std::time::Duration;

use noised_proto::ServiceError;
use noised_store::{Created, fence};

use super::objects::{Owner, encode, owner_object};
use super::past::Past;
use super::stored::{Stored, elsewhere};
use super::{Durable, told};

/// How often it is looked whether the journal is long.
const FOLD_PAUSE: Duration = Duration::from_millis(500);

impl Durable {
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

    /// Folds the whole journal, once no session of this server needs it: all of them were handed over.
    pub(crate) async fn fold_all(&self) {
        if !self.users().is_empty() {
            return;
        }
        let journal = self.journal();
        if let Err(error) = journal.fold(journal.stats().objects + 1).await {
            tracing::warn!(%error, "objects of the journal that nobody needs stay in the store");
        }
    }

    /// Fences this server's own journal, at its end: it tells `noised state gc` that the server is gone.
    pub(crate) async fn end_journal(&self) {
        if let Err(error) = fence(&self.store, self.journal().id()).await {
            tracing::warn!(%error, "the end of the journal was not noted");
        }
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
}
