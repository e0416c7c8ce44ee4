//! The service Sessions, one operation a file: decode, act, encode.

mod audit;
mod carrying;
mod create;
mod delete;
mod get;
mod idle;
mod keep_state;
mod list;
mod multiply_next;
mod open;
mod rewind;
mod stream_multiply_next;

use std::sync::Arc;
use std::time::Duration;

use noised::Error;
use noised::limits::MAX_REWINDS_KEPT;
use noised::session::Standing;
use noised_proto::v1::sessions_server::Sessions;
use noised_proto::{ServiceError, SessionStatus, session_summary_to_wire, session_to_wire, v1};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::audit::{Audit, What};
use crate::compute::Compute;
use crate::config::{MAX_ADVERTISE_BYTES, MAX_KEPT_STATES};
use crate::entry::{Entry, Progress};
use crate::given_key::GivenKey;
use crate::identity::Caller;
use crate::lifecycle::Lifecycle;
use crate::registry::Registry;
pub(crate) use carrying::{Carrying, STEP_PATH, STREAM_PATH};

/// More than a session's answer holds beside its matrix and tree: its name, its fingerprint, its owner, a
/// dozen numbers, the last acts of going back, and as many kept steps as there may be.
const STATUS_BYTES: usize = 2560;

const _: () = assert!(
    640 + MAX_ADVERTISE_BYTES + 37 * MAX_REWINDS_KEPT + 10 * MAX_KEPT_STATES <= STATUS_BYTES,
    "a status fits its bound"
);

/// The service, and what its operations share.
#[derive(Clone, Debug)]
pub(crate) struct SessionsService {
    pub(crate) registry: Arc<Registry>,
    pub(crate) compute: Arc<Compute>,
    pub(crate) lifecycle: Lifecycle,
    pub(crate) audit: Audit,
    pub(crate) max_message_bytes: usize,
    pub(crate) max_kept_states: usize,
    pub(crate) body_timeout: Duration,
}

impl SessionsService {
    async fn entry(&self, caller: &Caller, session_name: &str) -> Result<Arc<Entry>, ServiceError> {
        let key = caller.find(session_name)?;
        self.open(&key).await.inspect_err(|error| self.note_refusal(What::Step, error, &key, caller))
    }

    /// The same for a call that uses the session, and does not only look at it.
    async fn used_entry(&self, caller: &Caller, session_name: &str) -> Result<Arc<Entry>, ServiceError> {
        let entry = self.entry(caller, session_name).await?;
        entry.last_use.note();
        Ok(entry)
    }
}

/// Refuses a client that means another session than the one of that name.
fn check_fingerprint(entry: &Entry, fingerprint: &[u8]) -> Result<(), ServiceError> {
    if fingerprint.is_empty() || fingerprint == entry.resolved.fingerprint().as_bytes() {
        return Ok(());
    }
    Err(Error::FingerprintMismatch { field: "fingerprint" }.into())
}

/// How much of a session an answer tells.
///
/// A description takes as many bytes as its client sent, and many libraries take shorter messages than they
/// make. So an answer repeats a description only where the client asks for that.
#[derive(Clone, Copy, Debug)]
enum View {
    /// All but the matrix and the tree.
    Basic,
    /// All of it.
    Full,
}

impl View {
    /// Reads the field `view`; `default` is what a field that is not set means.
    fn asked(view: i32, default: Self) -> Result<Self, Error> {
        match v1::SessionView::try_from(view) {
            Ok(v1::SessionView::Unspecified) => Ok(default),
            Ok(v1::SessionView::Basic) => Ok(Self::Basic),
            Ok(v1::SessionView::Full) => Ok(Self::Full),
            Err(_) => {
                let rule = format!(
                    "must be SESSION_VIEW_BASIC (1), SESSION_VIEW_FULL (2) or not set (0), found {view}"
                );
                Err(Error::invalid("view", rule))
            }
        }
    }

    fn of(self, entry: &Entry, resumed: bool, caller: &Caller) -> v1::Session {
        let status = status(entry, resumed, caller);
        match self {
            Self::Basic => session_summary_to_wire(&entry.resolved, status),
            Self::Full => session_to_wire(&entry.resolved, status),
        }
    }
}

/// Where a session stands, for the wire.
fn status(entry: &Entry, resumed: bool, caller: &Caller) -> SessionStatus {
    let Progress { standing, damaged: _ } = entry.progress().clone();
    let Standing {
        next_step,
        next_offset,
        released_steps,
        may_be_further: _,
        kept_steps,
        rewinds,
        rewind_count,
    } = standing;
    let address = entry.stored.as_ref().and_then(|here| here.durable.address());
    SessionStatus {
        name: caller.name_of(&entry.key),
        next_step,
        next_offset: next_offset as u64,
        memory_bytes: entry.memory_bytes(),
        resumed,
        options: entry.noise.as_ref().map(|noise| noise.options),
        kept_steps,
        rewinds,
        rewind_count,
        released_steps,
        last_used_unix_seconds: entry.last_use.unix_seconds(),
        noise_started_over: entry.noise.as_ref().is_some_and(|noise| noise.started_over),
        owner: address.unwrap_or_default().to_owned(),
        epoch: entry.stored.as_ref().map_or(0, |here| here.stored.epoch()),
    }
}

#[tonic::async_trait]
impl Sessions for SessionsService {
    async fn create_session(
        &self,
        request: Request<v1::CreateSessionRequest>,
    ) -> Result<Response<v1::Session>, Status> {
        let caller = Caller::of(request.extensions());
        let given = request.extensions().get::<GivenKey>().cloned();
        let id = request.get_ref().session_id.clone();
        let made = self.create(request.into_inner(), given, &caller).await;
        let (session, untold) =
            made.inspect_err(|error| self.note_missing_right(What::SessionMade, error, &id, &caller))?;
        let mut response = Response::new(session);
        if let Some(untold) = untold {
            // Until the answer is written: see `Carrying`.
            response.extensions_mut().insert(untold);
        }
        Ok(response)
    }

    async fn get_session(
        &self,
        request: Request<v1::GetSessionRequest>,
    ) -> Result<Response<v1::Session>, Status> {
        let caller = Caller::of(request.extensions());
        Ok(Response::new(self.get(request.into_inner(), &caller).await?))
    }

    async fn list_sessions(
        &self,
        request: Request<v1::ListSessionsRequest>,
    ) -> Result<Response<v1::ListSessionsResponse>, Status> {
        let caller = Caller::of(request.extensions());
        Ok(Response::new(self.list(request.into_inner(), &caller)?))
    }

    async fn delete_session(
        &self,
        request: Request<v1::DeleteSessionRequest>,
    ) -> Result<Response<()>, Status> {
        let caller = Caller::of(request.extensions());
        Ok(Response::new(self.delete(request.into_inner(), &caller).await?))
    }

    /// Never called: [`Carrying`] takes this call before its message is decoded.
    async fn multiply_next(
        &self,
        _request: Request<v1::MultiplyNextRequest>,
    ) -> Result<Response<v1::MultiplyNextResponse>, Status> {
        Err(ServiceError::Internal.into())
    }

    async fn keep_state(
        &self,
        request: Request<v1::KeepStateRequest>,
    ) -> Result<Response<v1::Session>, Status> {
        let caller = Caller::of(request.extensions());
        Ok(Response::new(self.keep(request.into_inner(), &caller).await?))
    }

    type RewindSessionStream = ReceiverStream<Result<v1::RewindSessionResponse, Status>>;

    async fn rewind_session(
        &self,
        request: Request<v1::RewindSessionRequest>,
    ) -> Result<Response<Self::RewindSessionStream>, Status> {
        let caller = Caller::of(request.extensions());
        let name = request.get_ref().name.clone();
        let begun = self.rewind(request.into_inner(), &caller).await;
        begun
            .map(Response::new)
            .inspect_err(|error| self.note_missing_right(What::SessionRewound, error, &name, &caller))
            .map_err(Status::from)
    }

    type StreamMultiplyNextStream = tokio_stream::Empty<Result<v1::StreamMultiplyNextResponse, Status>>;

    /// Never called: [`Carrying`] takes this call before its messages are decoded.
    async fn stream_multiply_next(
        &self,
        _request: Request<Streaming<v1::StreamMultiplyNextRequest>>,
    ) -> Result<Response<Self::StreamMultiplyNextStream>, Status> {
        Err(ServiceError::Internal.into())
    }
}

#[cfg(test)]
mod tests {
    use crate::keys::Keys;
    use crate::ledger::Ledger;

    use super::*;

    /// A service of its own, for the tests of its operations.
    pub(super) fn service() -> SessionsService {
        let keys = Keys::new(None, Ledger::in_memory(10));
        SessionsService {
            registry: Arc::new(Registry::new(10, 1 << 30, keys, None)),
            compute: Arc::new(Compute::new("step", 1).unwrap()),
            lifecycle: Lifecycle::default(),
            audit: Audit::default(),
            max_message_bytes: 1 << 20,
            max_kept_states: 1,
            body_timeout: Duration::from_secs(1),
        }
    }
}
