//! GetSession.

use std::sync::Arc;

use noised_proto::{ServiceError, v1};

use super::{SessionsService, View};

impl SessionsService {
    pub(super) async fn get(&self, request: v1::GetSessionRequest) -> Result<v1::Session, ServiceError> {
        let v1::GetSessionRequest { name, view, settled } = request;
        let view = View::asked(view, View::Full)?;
        let entry = self.entry(&name)?;
        if settled {
            // A rewind has it to its end. Of a session that is damaged or deleted, what is known is told all
            // the same.
            drop(Arc::clone(&entry.session).lock_owned().await);
        }
        Ok(view.of(&entry, false))
    }
}
