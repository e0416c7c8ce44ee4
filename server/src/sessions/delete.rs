//! DeleteSession.

use std::sync::Arc;
use std::time::Duration;

use noised_proto::{ServiceError, v1};

use serde_json::Value;

use super::SessionsService;
use crate::audit::What;
use crate::entry::{Entry, StoredHere};
use crate::identity::{Caller, SessionKey};

/// How long a deletion waits for the drawing that is under way to be done with the key.
const KEY_PATIENCE: Duration = Duration::from_secs(1);

impl SessionsService {
    pub(super) async fn delete(
        &self,
        request: v1::DeleteSessionRequest,
        caller: &Caller,
    ) -> Result<(), ServiceError> {
        let v1::DeleteSessionRequest { name: session_name } = request;
        let (service, key, caller) = (self.clone(), caller.find(&session_name)?, caller.clone());
        // A task of its own, with the turn: a session that is ended half way is ended.
        let deleting = tokio::spawn(async move {
            let _turn = service.turn(&key).await;
            service.delete_in_turn(&key).await?;
            service.audit.done(What::SessionDeleted, Some(&caller), &key, Value::Null);
            Ok(())
        });
        deleting.await.map_err(|_| ServiceError::Internal)?
    }

    async fn delete_in_turn(&self, key: &SessionKey) -> Result<(), ServiceError> {
        let deleted = self.registry.delete(key);
        let Some(durable) = self.registry.durable() else { return self.end(deleted?).await };
        if let Ok(entry) = deleted {
            let next_step = entry.progress().standing.next_step;
            tracing::info!(session = %entry.key, next_step, "session deleted");
            self.end(entry).await?;
        } else {
            // It is in the store alone, where it may be damaged or want more memory than there is.
            let not_found = || ServiceError::SessionNotFound { name: key.name.clone() };
            durable.end_found(&durable.find(key).await?.ok_or_else(not_found)?).await?;
            tracing::info!(session = %key, "session deleted from the store");
        }
        Ok(())
    }

    /// Ends a session that is in the registry no more, and frees its memory.
    pub(super) async fn end(&self, entry: Arc<Entry>) -> Result<(), ServiceError> {
        // Whoever has the lock after this finds that the session is gone, so nothing more is released of it.
        // Noise may still be drawn ahead for it, and does not keep others from beginning the same.
        drop(entry.session.lock().await);
        // A sweep through gigabytes of state takes longer than a caller should wait; its end wipes the key as
        // well.
        let _under_way = tokio::time::timeout(KEY_PATIENCE, entry.wipe_key()).await;
        self.compute.scrub_stacks();
        if let Some(StoredHere { stored, durable }) = &entry.stored {
            let standing = entry.progress().standing.clone();
            durable.end(stored, &standing).await?;
        }
        // Giving gigabytes back to the system takes a while, and no step waits behind that. Where nothing is
        // under way on the session, its memory is free once this is answered.
        tokio::task::spawn_blocking(move || {
            entry.end_claim();
            drop(entry);
        })
        .await
        .map_err(|_| ServiceError::Internal)
    }
}
