//! What tells handlers that the server is about to stop.

use std::time::Duration;

use noised_proto::ServiceError;
use tokio_util::sync::CancellationToken;

/// How long a client of a draining server is asked to wait: about as long as another one takes to be up.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The two signals of an end: first no new work, then no work at all.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lifecycle {
    /// No new sessions or steps; steps under way go on.
    pub(crate) draining: CancellationToken,
    /// The bound on the drain is reached: everything ends now.
    pub(crate) cut: CancellationToken,
}

impl Lifecycle {
    /// Refuses new work once the server drains.
    pub(crate) fn check_open(&self) -> Result<(), ServiceError> {
        if self.draining.is_cancelled() { Err(Self::refusal()) } else { Ok(()) }
    }

    /// What a client of a draining server is told.
    pub(crate) fn refusal() -> ServiceError {
        ServiceError::Draining { retry_after: RETRY_AFTER }
    }
}
