//! Who asked for what touches the privacy of a noise, for the log and the audit log.

use noised::Error;
use noised_proto::ServiceError;

use super::SessionsService;
use crate::audit::{What, cut};
use crate::identity::{Caller, SessionKey};

impl SessionsService {
    /// Notes a refusal that says that somebody asked for noise a second time.
    pub(super) fn note_refusal(
        &self,
        what: What,
        error: &ServiceError,
        session: &SessionKey,
        caller: &Caller,
    ) {
        let peer = caller.peer;
        match error {
            ServiceError::NoiseUsed { noise_id, next_step } => {
                tracing::warn!(
                    %peer,
                    %session,
                    noise_id,
                    next_step,
                    "refused: the noise was drawn before (NOISE_USED)"
                );
            }
            ServiceError::NoiseInUse { noise_id, session: holder } => {
                tracing::warn!(
                    %peer,
                    %session,
                    noise_id,
                    holder,
                    "refused: the noise is being drawn (NOISE_IN_USE)"
                );
            }
            ServiceError::Core(Error::Diverged { requested, expected: _ }) => {
                let step = requested;
                tracing::warn!(
                    %peer,
                    %session,
                    step,
                    "refused: another gradient for a released step (DIVERGED)"
                );
            }
            _ => return,
        }
        self.audit.refused(what, caller, &session.to_string(), error);
    }

    /// Notes that a caller lacks a right for what it asked of a session.
    pub(super) fn note_missing_right(
        &self,
        what: What,
        error: &ServiceError,
        session: &str,
        caller: &Caller,
    ) {
        if matches!(error, ServiceError::RightMissing { .. }) {
            tracing::warn!(peer = %caller.peer, session = cut(session), %error, "refused");
            self.audit.refused(what, caller, session, error);
        }
    }
}
