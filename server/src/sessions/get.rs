//! GetSession.

use noised_proto::{ServiceError, session_to_wire, v1};

use super::{SessionsService, status};

impl SessionsService {
    pub(super) fn get(&self, request: v1::GetSessionRequest) -> Result<v1::Session, ServiceError> {
        let v1::GetSessionRequest { name } = request;
        let entry = self.entry(&name)?;
        Ok(session_to_wire(&entry.resolved, status(&entry, false)))
    }
}
