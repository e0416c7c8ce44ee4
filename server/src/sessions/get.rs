//! GetSession.

use noised_proto::{ServiceError, v1};

use super::{SessionsService, View};

impl SessionsService {
    pub(super) fn get(&self, request: v1::GetSessionRequest) -> Result<v1::Session, ServiceError> {
        let v1::GetSessionRequest { name, view } = request;
        let view = View::asked(view, View::Full)?;
        Ok(view.of(&*self.entry(&name)?, false))
    }
}
