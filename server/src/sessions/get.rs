//! GetSession.

use std::sync::Arc;

use noised_proto::{ServiceError, v1};

use super::{SessionsService, View};
use crate::entry::StoredHere;
use crate::identity::Caller;

impl SessionsService {
    pub(super) async fn get(
        &self,
        request: v1::GetSessionRequest,
        caller: &Caller,
    ) -> Result<v1::Session, ServiceError> {
        let v1::GetSessionRequest { name, view, settled } = request;
        let view = View::asked(view, View::Full)?;
        let entry = self.entry(caller, &name).await?;
        if let Some(StoredHere { stored, durable }) = &entry.stored
            && durable.check_ours(stored).await.is_err()
        {
            // Taken by another server, or the store does not answer: then what is known is told.
            let entry = self.entry(caller, &name).await?;
            return Ok(view.of(&entry, false, caller));
        }
        if settled {
            // A rewind has it to its end. Of a session that is damaged or deleted, what is known is told all
            // the same.
            drop(Arc::clone(&entry.session).lock_owned().await);
        }
        Ok(view.of(&entry, false, caller))
    }
}
