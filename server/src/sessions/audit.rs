//! Who asked for what touches the privacy of a noise, for the log.

use noised::Error;
use noised_proto::ServiceError;

use crate::identity::{Caller, SessionKey};

/// Logs a refusal that says that somebody asked for noise a second time.
pub(super) fn note_refusal(error: &ServiceError, session: &SessionKey, caller: &Caller) {
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
            tracing::warn!(%peer, %session, step, "refused: another gradient for a released step (DIVERGED)");
        }
        _ => {}
    }
}
