//! What can go wrong, as one type.

use std::fmt::Display;
use std::time::Duration;

use noised_proto::ErrorReport;
use tonic::{Code, Status};

use crate::greeting::{FAULT, SILENCE};

/// The result of a call.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a call failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A description, an argument or a payload breaks a rule.
    #[error("{field}: {rule}")]
    Invalid {
        /// The path of the field at fault, such as `matrix.factors[1].coef`.
        field: String,
        /// The rule it breaks.
        rule: String,
    },
    /// The session is at another step.
    #[error("step {requested} cannot be served: the session expects step {expected}")]
    WrongStep {
        /// The step that was asked for.
        requested: u64,
        /// The step that the session expects.
        expected: u64,
    },
    /// A step that was applied, in whole or in part, was asked again with other bytes.
    #[error(
        "step {requested} was applied with other bytes (they differ at or after byte {offset}); \
         the session expects step {expected}"
    )]
    PayloadMismatch {
        /// The step that was asked for.
        requested: u64,
        /// The step that the session expects.
        expected: u64,
        /// The first byte of the tile that differs.
        offset: u64,
    },
    /// The noise of a step was given to another handle of the session, and this handle never asked for it:
    /// two trainers use one session, and one noise under two gradients gives their difference away.
    #[error(
        "step {requested} was released to another handle of the session: one noise under two gradients gives their \
         difference away"
    )]
    TakenByAnother {
        /// The step that was asked for.
        requested: u64,
    },
    /// The step is at or past the horizon.
    #[error("step {requested} is at or past the horizon of {horizon} steps")]
    PastHorizon {
        /// The step that was asked for.
        requested: u64,
        /// The number of steps that the session may ever produce.
        horizon: u64,
    },
    /// A session is bound to something else than what it is asked to go on with.
    #[error("the session was made for another {field}: fingerprints differ")]
    FingerprintMismatch {
        /// The first part of the description that differs.
        field: String,
    },
    /// A step that was released before a rewind is asked again with another gradient.
    #[error(
        "step {requested} was released with another gradient before the session was rewound; one noise under two \
         gradients gives their difference away (a rewind with allow_divergence permits it)"
    )]
    Diverged {
        /// The step that was asked for.
        requested: u64,
        /// The step that the session expects.
        expected: u64,
    },
    /// The noise of a step overflowed, and is not released: the matrix's recurrences grow without end.
    #[error("{message}")]
    NoiseNotFinite {
        /// What the server said.
        message: String,
    },
    /// A rewind to a step that was never released.
    #[error("step {requested} was never released: a session goes back to at most step {released}")]
    PastReleased {
        /// The step that was asked for.
        requested: u64,
        /// The number of steps that were ever released.
        released: u64,
    },
    /// A rewind to a step whose state cannot be computed again and was not kept.
    #[error("the state of step {requested} is not kept, and the client's input cannot be drawn again")]
    NotKept {
        /// The step that was asked for.
        requested: u64,
    },
    /// Another session draws the noise of that `noise_id`.
    #[error("{message}")]
    NoiseInUse {
        /// What the server said.
        message: String,
    },
    /// The noise of that `noise_id` was drawn before: see
    /// [`start_noise_over`](crate::CreateOptions::start_noise_over).
    #[error("{message}")]
    NoiseUsed {
        /// What the server said.
        message: String,
        /// The first step of it that was not released, where the server knows.
        next_step: Option<u64>,
    },
    /// A noise is to be derived from a master key, and the server has none.
    #[error("{message}")]
    NoMasterKey {
        /// What the server said.
        message: String,
    },
    /// One of the servers of a [`ShardedSession`](crate::ShardedSession) failed.
    #[error("shard {index} on {server}: {error}")]
    Shard {
        /// Which shard, from 0.
        index: u32,
        /// Where its server is.
        server: String,
        /// What went wrong there.
        error: Box<Error>,
    },
    /// There is no session of that name.
    #[error("{message}")]
    NotFound {
        /// What the server said.
        message: String,
    },
    /// A session of that name exists already.
    #[error("{message}")]
    AlreadyExists {
        /// What the server said.
        message: String,
    },
    /// A limit of the server is reached.
    #[error("{message}")]
    ResourceExhausted {
        /// What the server said.
        message: String,
        /// When to come back, where waiting helps.
        retry_after: Option<Duration>,
    },
    /// The server cannot be reached, or is not ready.
    #[error("the server is unavailable: {message}")]
    Unavailable {
        /// Why.
        message: String,
        /// When to come back.
        retry_after: Option<Duration>,
    },
    /// Another server of the same store has the session, and this client does not know its address.
    #[error("{message}; this client was not given the address {owner}")]
    Elsewhere {
        /// What the server said.
        message: String,
        /// The address of the server that has it.
        owner: String,
    },
    /// TLS with the server failed, or is not what the server speaks: a certificate, its name or its
    /// authority.
    #[error("TLS: {message}")]
    Tls {
        /// What failed.
        message: String,
    },
    /// The server does not know who calls: a token is missing, unknown or expired.
    #[error("{message}")]
    Unauthenticated {
        /// What the server said.
        message: String,
    },
    /// The server knows the caller, and the caller may not do this: another role may, or a right is
    /// missing.
    #[error("{message}")]
    PermissionDenied {
        /// What the server said.
        message: String,
    },
    /// The connection broke.
    #[error("the connection broke: {message}")]
    Transport {
        /// How.
        message: String,
    },
    /// The server answered what no server of this protocol answers.
    #[error("unexpected answer: {message}")]
    Protocol {
        /// What is wrong with it.
        message: String,
    },
    /// The session's stored state is damaged.
    #[error("{message}")]
    DataLoss {
        /// What the server said.
        message: String,
    },
    /// Anything else that the server refused or failed at.
    #[error("{code:?}: {message}")]
    Other {
        /// The gRPC code.
        code: Code,
        /// What the server said.
        message: String,
    },
}

impl Error {
    pub(crate) fn invalid(field: impl Into<String>, rule: impl std::fmt::Display) -> Self {
        Self::Invalid { field: field.into(), rule: rule.to_string() }
    }

    pub(crate) fn tls(message: impl Into<String>) -> Self {
        Self::Tls { message: message.into() }
    }

    /// A server that does not take a connection.
    pub(crate) fn unreachable(target: &impl Display, error: &tonic::transport::Error) -> Self {
        match of_connection(error) {
            Some(Self::Tls { message }) => Self::Tls { message: format!("{target}: {message}") },
            Some(error) => error,
            None => {
                Self::Unavailable { message: format!("{target}: {}", innermost(error)), retry_after: None }
            }
        }
    }

    /// The step that the session expects, where the error tells it.
    pub fn expected_step(&self) -> Option<u64> {
        match self {
            Self::WrongStep { expected, .. }
            | Self::PayloadMismatch { expected, .. }
            | Self::Diverged { expected, .. } => Some(*expected),
            Self::Shard { error, .. } => error.expected_step(),
            _ => None,
        }
    }

    /// When the server wants to be asked again.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::ResourceExhausted { retry_after, .. } | Self::Unavailable { retry_after, .. } => {
                *retry_after
            }
            Self::Shard { error, .. } => error.retry_after(),
            _ => None,
        }
    }

    /// Whether the server, or the session, took nothing of the request. Of all other errors nobody knows.
    pub(crate) fn is_refusal(&self) -> bool {
        match self {
            Self::Invalid { .. }
            | Self::WrongStep { .. }
            | Self::PayloadMismatch { .. }
            | Self::TakenByAnother { .. }
            | Self::PastHorizon { .. }
            | Self::FingerprintMismatch { .. }
            | Self::Diverged { .. }
            | Self::Elsewhere { .. }
            | Self::Unauthenticated { .. }
            | Self::PermissionDenied { .. }
            | Self::NotFound { .. } => true,
            Self::Shard { error, .. } => error.is_refusal(),
            _ => false,
        }
    }

    /// Whether the same call may succeed later without anybody doing anything.
    pub fn is_retryable(&self) -> bool {
        match self {
            // The owner of a session may go, and the server that was asked then takes it.
            Self::Unavailable { .. } | Self::Transport { .. } | Self::Elsewhere { .. } => true,
            // Of a limit that others reached for a while, the server tells when to come back.
            Self::ResourceExhausted { retry_after, .. } => retry_after.is_some(),
            Self::Shard { error, .. } => error.is_retryable(),
            _ => false,
        }
    }
}

/// What the connector said, among an error's causes.
fn of_connection(error: &(dyn std::error::Error + 'static)) -> Option<Error> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(found) = error.downcast_ref::<Error>() {
            return Some(found.clone());
        }
        cause = error.source();
    }
    None
}

/// The last of an error's causes: those above it only say that the connection failed.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

impl From<Status> for Error {
    fn from(status: Status) -> Self {
        // What the server says has no source; what tonic makes of a fault of the connection has.
        let source = std::error::Error::source(&status);
        if let Some(error) = source.and_then(of_connection) {
            return error;
        }
        if let Some(fault) = source.map(innermost).as_deref().and_then(|text| text.split_once(FAULT)) {
            return Self::tls(fault.1);
        }
        if let Some(silence) = source.map(innermost).filter(|text| text.contains(SILENCE)) {
            return Self::Unavailable { message: silence, retry_after: None };
        }
        if let Some(source) = source.filter(|_| status.code() != Code::Unavailable) {
            return Self::Transport { message: innermost(source) };
        }
        let cause = source.map(innermost);
        Self::from_report(ErrorReport::from_status(&status), cause)
    }
}

impl Error {
    /// Reads a status, by its reason where it has one.
    fn from_report(report: ErrorReport, cause: Option<String>) -> Self {
        let (requested, expected) = (report.number("requested_step"), report.expected_step());
        let (horizon, offset) = (report.number("horizon"), report.number("offset"));
        let (released, next_step) = (report.number("released_steps"), report.number("next_step"));
        let ErrorReport { code, message, reason, metadata, field_violations, retry_after } = report;
        if let (Some(requested), Some(expected)) = (requested, expected) {
            match reason.as_str() {
                "WRONG_STEP" => return Self::WrongStep { requested, expected },
                "PAYLOAD_MISMATCH" => {
                    let offset = offset.unwrap_or_default();
                    return Self::PayloadMismatch { requested, expected, offset };
                }
                "DIVERGED" => return Self::Diverged { requested, expected },
                _ => {}
            }
        }
        match (code, reason.as_str()) {
            (Code::FailedPrecondition, "FINGERPRINT_MISMATCH") => {
                Self::FingerprintMismatch { field: metadata.get("field").cloned().unwrap_or_default() }
            }
            (Code::OutOfRange, "PAST_HORIZON") => Self::PastHorizon {
                requested: requested.unwrap_or_default(),
                horizon: horizon.unwrap_or_default(),
            },
            (Code::OutOfRange, "PAST_RELEASED") => Self::PastReleased {
                requested: requested.unwrap_or_default(),
                released: released.unwrap_or_default(),
            },
            (Code::FailedPrecondition, "NOT_KEPT") => {
                Self::NotKept { requested: requested.unwrap_or_default() }
            }
            (Code::FailedPrecondition, "NOISE_NOT_FINITE") => Self::NoiseNotFinite { message },
            (Code::FailedPrecondition, "NOISE_IN_USE") => Self::NoiseInUse { message },
            (Code::FailedPrecondition, "NOISE_USED") => Self::NoiseUsed { message, next_step },
            (Code::FailedPrecondition, "TLS_REQUIRED") => Self::Tls { message },
            (Code::FailedPrecondition, "NO_MASTER_KEY") => Self::NoMasterKey { message },
            (Code::InvalidArgument, _) => match field_violations.into_iter().next() {
                Some((field, rule)) if !field.is_empty() => Self::Invalid { field, rule },
                _ => Self::Invalid { field: "request".into(), rule: message },
            },
            (Code::Unavailable, "SESSION_ELSEWHERE") => {
                Self::Elsewhere { message, owner: metadata.get("owner").cloned().unwrap_or_default() }
            }
            (Code::NotFound, _) => Self::NotFound { message },
            (Code::AlreadyExists, _) => Self::AlreadyExists { message },
            (Code::ResourceExhausted, _) => Self::ResourceExhausted { message, retry_after },
            (Code::Unavailable, _) => Self::Unavailable { message: cause.unwrap_or(message), retry_after },
            (Code::Unauthenticated, _) => Self::Unauthenticated { message },
            (Code::PermissionDenied, _) => Self::PermissionDenied { message },
            (Code::DataLoss, _) => Self::DataLoss { message },
            _ => Self::Other { code, message },
        }
    }
}

impl From<noised::Error> for Error {
    fn from(error: noised::Error) -> Self {
        match error {
            noised::Error::Invalid { field, rule } => Self::Invalid { field, rule },
            noised::Error::WrongStep { requested, expected } => Self::WrongStep { requested, expected },
            noised::Error::PayloadMismatch { requested, expected, offset } => {
                Self::PayloadMismatch { requested, expected, offset }
            }
            noised::Error::PastHorizon { requested, horizon } => Self::PastHorizon { requested, horizon },
            noised::Error::FingerprintMismatch { field } => {
                Self::FingerprintMismatch { field: field.to_owned() }
            }
            noised::Error::Diverged { requested, expected } => Self::Diverged { requested, expected },
            noised::Error::NoiseNotFinite { .. } => Self::NoiseNotFinite { message: error.to_string() },
            noised::Error::PastReleased { requested, released } => Self::PastReleased { requested, released },
            noised::Error::NotKept { requested } => Self::NotKept { requested },
            noised::Error::KeptStates { .. } => {
                Self::ResourceExhausted { message: error.to_string(), retry_after: None }
            }
            noised::Error::Damaged { .. } => Self::DataLoss { message: error.to_string() },
            noised::Error::Cancelled => Self::Other { code: Code::Cancelled, message: error.to_string() },
        }
    }
}

#[cfg(test)]
mod tests {
    use noised_proto::ServiceError;
    use noised_proto::access::{Right, Role, Stranger};

    use super::*;

    fn round_trip(error: ServiceError) -> Error {
        Status::from(error).into()
    }

    /// What the server refuses comes out as the core's own error does.
    #[test]
    fn errors_of_the_core_survive_the_wire() {
        for error in [
            noised::Error::invalid("matrix.coef[1]", "must be finite"),
            noised::Error::WrongStep { requested: 4, expected: 7 },
            noised::Error::PayloadMismatch { requested: 6, expected: 7, offset: 4096 },
            noised::Error::PastHorizon { requested: 10, horizon: 10 },
            noised::Error::FingerprintMismatch { field: "tree" },
            noised::Error::Diverged { requested: 3, expected: 4 },
            noised::Error::NoiseNotFinite { requested: 9 },
            noised::Error::PastReleased { requested: 9, released: 4 },
            noised::Error::NotKept { requested: 2 },
            noised::Error::KeptStates { limit: 8 },
            noised::Error::damaged("a digest"),
            noised::Error::Cancelled,
        ] {
            let text = error.to_string();
            let received = round_trip(error.clone().into());
            assert_eq!(received, Error::from(error));
            if !matches!(received, Error::Other { .. }) {
                assert_eq!(received.to_string(), text);
            }
        }
    }

    #[test]
    fn errors_of_the_service() {
        let name = "sessions/a".to_owned();
        assert!(matches!(
            round_trip(ServiceError::SessionNotFound { name: name.clone() }),
            Error::NotFound { .. }
        ));
        assert!(matches!(round_trip(ServiceError::SessionExists { name }), Error::AlreadyExists { .. }));
        let error = round_trip(ServiceError::SessionQuota { limit: 3 });
        assert!(matches!(error, Error::ResourceExhausted { .. }) && !error.is_retryable());
        let retry_after = Duration::from_secs(2);
        let error = round_trip(ServiceError::Busy { what: "analyses", limit: 1, retry_after });
        assert!(matches!(error, Error::ResourceExhausted { .. }) && error.is_retryable());
        assert_eq!(error.retry_after(), Some(retry_after));
        let error = round_trip(ServiceError::Draining { retry_after });
        assert_eq!((error.is_retryable(), error.retry_after()), (true, Some(retry_after)));
        let error = round_trip(ServiceError::NoiseUsed { noise_id: "a".into(), next_step: Some(5) });
        assert!(
            matches!(&error, Error::NoiseUsed { message, next_step: Some(5) } if message.contains("`a`"))
        );
        let session = "sessions/b".to_owned();
        let error = round_trip(ServiceError::NoiseInUse { noise_id: "a".into(), session });
        assert!(matches!(&error, Error::NoiseInUse { message } if message.contains("sessions/b")));
        let error = round_trip(ServiceError::Unauthenticated { why: Stranger::Expired });
        assert!(matches!(error, Error::Unauthenticated { .. }) && !error.is_retryable());
        let missing =
            ServiceError::RightMissing { field: "noise_key", role: Role::Trainer, right: Right::GivenKeys };
        let error = round_trip(missing);
        assert!(matches!(&error, Error::PermissionDenied { message } if message.contains("given_keys")));
        let error = round_trip(ServiceError::NoMasterKey);
        assert!(matches!(error, Error::NoMasterKey { .. }) && !error.is_retryable());
        assert!(matches!(round_trip(ServiceError::Internal), Error::Other { code: Code::Internal, .. }));
    }

    #[test]
    fn an_error_of_a_shard_is_like_that_error() {
        let of_shard = |error| Error::Shard { index: 2, server: "http://a:1".into(), error: Box::new(error) };
        let wrong = of_shard(Error::WrongStep { requested: 1, expected: 3 });
        assert_eq!((wrong.expected_step(), wrong.is_retryable()), (Some(3), false));
        assert!(wrong.to_string().starts_with("shard 2 on http://a:1: step 1 "));
        let retry_after = Some(Duration::from_secs(1));
        let busy = of_shard(Error::ResourceExhausted { message: "busy".into(), retry_after });
        assert_eq!((busy.retry_after(), busy.is_retryable()), (retry_after, true));
    }

    #[test]
    fn faults_of_the_connection_are_retryable() {
        let io = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
        let error = Error::from(Status::from_error(Box::new(io)));
        assert!(matches!(error, Error::Transport { .. }) && error.is_retryable(), "{error:?}");
        assert!(!Error::from(Status::internal("a broken invariant")).is_retryable());
    }
}
