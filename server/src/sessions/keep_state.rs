//! KeepState.

use noised::Error;
use noised::session::WhenFull;
use noised_proto::{ServiceError, v1};

use super::{SessionsService, View};
use crate::identity::Caller;

impl SessionsService {
    pub(super) async fn keep(
        &self,
        request: v1::KeepStateRequest,
        caller: &Caller,
    ) -> Result<v1::Session, ServiceError> {
        self.lifecycle.check_open()?;
        let v1::KeepStateRequest { name, step, when_full } = request;
        let when_full = match v1::WhenFull::try_from(when_full) {
            Ok(v1::WhenFull::Unspecified | v1::WhenFull::Refuse) => WhenFull::Refuse,
            Ok(v1::WhenFull::ReleaseOldest) => WhenFull::ReleaseOldest,
            Err(_) => {
                let rule = format!("{when_full} is nothing that can be done");
                return Err(Error::invalid("when_full", rule).into());
            }
        };
        let entry = self.used_entry(caller, &name).await?;
        let proof = entry.keep_state(&self.compute, step, when_full, self.max_kept_states).await?;
        tracing::info!(session = %entry.key, step, "state kept");
        let resume_token = proof.map(|proof| proof.as_bytes().to_vec()).unwrap_or_default();
        Ok(v1::Session { resume_token, ..View::Basic.of(&entry, false, caller) })
    }
}
