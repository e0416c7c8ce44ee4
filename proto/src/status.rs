//! The one table that turns errors into gRPC statuses, and the way back.
//!
//! Every status has a `google.rpc.ErrorInfo` of the domain `noised`, whose reason a program can tell errors
//! apart by, and the standard detail of its kind: `BadRequest` with the field, `PreconditionFailure`,
//! `ResourceInfo`, `QuotaFailure`, `RetryInfo` where waiting helps.

use std::collections::HashMap;
use std::time::Duration;

use noised::Error;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::access::{Role, Stranger};
use crate::error::ServiceError;

/// The domain of every `ErrorInfo`.
pub const DOMAIN: &str = "noised";

/// What of an error goes into its status, beside its text.
struct Row {
    code: Code,
    reason: &'static str,
    metadata: Vec<(&'static str, String)>,
    details: ErrorDetails,
}

impl Row {
    fn new(code: Code, reason: &'static str) -> Self {
        Self { code, reason, metadata: Vec::new(), details: ErrorDetails::new() }
    }

    fn with(mut self, key: &'static str, value: impl ToString) -> Self {
        self.metadata.push((key, value.to_string()));
        self
    }

    fn field(self, field: &str, rule: &str) -> Self {
        let mut row = self.with("field", field);
        row.details.add_bad_request_violation(field, rule);
        row
    }

    fn precondition(mut self, kind: &str, subject: &str, text: &str) -> Self {
        self.details.add_precondition_failure_violation(kind, subject, text);
        self
    }

    fn quota(mut self, subject: &str, text: &str) -> Self {
        self.details.add_quota_failure_violation(subject, text);
        self
    }

    fn session(mut self, name: &str, text: &str) -> Self {
        self.details.set_resource_info("noised.v1.Session", name, "", text);
        self
    }

    fn retry(mut self, after: Duration) -> Self {
        self.details.set_retry_info(Some(after));
        self
    }
}

/// The table.
fn row(error: &ServiceError) -> Row {
    let text = error.to_string();
    match error {
        ServiceError::Core(error) => core_row(error, &text),
        ServiceError::SessionNotFound { name } => {
            Row::new(Code::NotFound, "SESSION_NOT_FOUND").session(name, &text)
        }
        ServiceError::SessionExists { name } => {
            Row::new(Code::AlreadyExists, "SESSION_EXISTS").session(name, &text)
        }
        ServiceError::MemoryQuota { needed, free, limit } => {
            Row::new(Code::ResourceExhausted, "MEMORY_QUOTA")
                .with("needed_bytes", needed)
                .with("free_bytes", free)
                .with("limit_bytes", limit)
                .quota("session_bytes", &text)
        }
        ServiceError::SessionQuota { limit } => {
            Row::new(Code::ResourceExhausted, "SESSION_QUOTA").with("limit", limit).quota("sessions", &text)
        }
        ServiceError::NoiseInUse { noise_id, session } => Row::new(Code::FailedPrecondition, "NOISE_IN_USE")
            .with("noise_id", noise_id)
            .with("session", session)
            .precondition("NOISE_IN_USE", noise_id, &text),
        ServiceError::NoiseUsed { noise_id, next_step } => {
            let row = Row::new(Code::FailedPrecondition, "NOISE_USED").with("noise_id", noise_id);
            let row = next_step.iter().fold(row, |row, step| row.with("next_step", step));
            row.precondition("NOISE_USED", noise_id, &text)
        }
        ServiceError::NoiseQuota { limit } => {
            Row::new(Code::ResourceExhausted, "NOISE_QUOTA").with("limit", limit).quota("noises", &text)
        }
        ServiceError::LedgerUnavailable { fault: _, retry_after } => {
            Row::new(Code::Unavailable, "LEDGER_UNAVAILABLE").retry(*retry_after)
        }
        ServiceError::StoreUnavailable { fault: _, retry_after } => {
            Row::new(Code::Unavailable, "STORE_UNAVAILABLE").retry(*retry_after)
        }
        // UNAVAILABLE, since another try may find the session: at another server, or at this one once the
        // owner is gone. A client that knows no fleet tries again by this code alone.
        ServiceError::SessionElsewhere { session, owner } => {
            Row::new(Code::Unavailable, "SESSION_ELSEWHERE").with("owner", owner).session(session, &text)
        }
        ServiceError::NoMasterKey => Row::new(Code::FailedPrecondition, "NO_MASTER_KEY")
            .with("field", "source.key.noise_id")
            .precondition("NO_MASTER_KEY", "source.key.noise_id", &text),
        ServiceError::Busy { what, limit, retry_after } => Row::new(Code::ResourceExhausted, "BUSY")
            .with("limit", limit)
            .quota(what, &text)
            .retry(*retry_after),
        ServiceError::MessageTooLarge { field, size, limit } => {
            Row::new(Code::ResourceExhausted, "MESSAGE_TOO_LARGE")
                .with("field", field)
                .with("size", size)
                .with("limit", limit)
                .quota("message_bytes", &text)
        }
        ServiceError::MessageOverLimit { .. } => {
            Row::new(Code::ResourceExhausted, "MESSAGE_TOO_LARGE").quota("message_bytes", &text)
        }
        ServiceError::MetadataTooLarge { size, limit } => {
            Row::new(Code::ResourceExhausted, "METADATA_TOO_LARGE")
                .with("size", size)
                .with("limit", limit)
                .quota("metadata_bytes", &text)
        }
        ServiceError::Stalled { .. } => Row::new(Code::DeadlineExceeded, "REQUEST_STALLED"),
        ServiceError::ConnectionBroken { .. } => Row::new(Code::Unavailable, "CONNECTION_BROKEN"),
        ServiceError::Malformed(rule) => Row::new(Code::InvalidArgument, "MALFORMED").field("request", rule),
        ServiceError::Draining { retry_after } => Row::new(Code::Unavailable, "DRAINING").retry(*retry_after),
        ServiceError::TlsRequired => Row::new(Code::FailedPrecondition, "TLS_REQUIRED"),
        ServiceError::Unauthenticated { why } => unauthenticated(*why),
        ServiceError::MayNotCall { role, method, allowed: _ } => denied(*role, method),
        ServiceError::RightMissing { field, role, right } => denied(*role, right.name()).with("field", field),
        ServiceError::TenantQuota { quota, limit, found: _, retry_after } => {
            let row = Row::new(Code::ResourceExhausted, "TENANT_QUOTA").quota(quota, &text);
            retry_after
                .iter()
                .fold(row, |row, after| row.retry(*after))
                .with("quota", quota)
                .with("limit", limit)
        }
        ServiceError::DeadlinePassed => Row::new(Code::DeadlineExceeded, "DEADLINE_PASSED"),
        ServiceError::Internal => Row::new(Code::Internal, "INTERNAL"),
    }
}

fn unauthenticated(why: Stranger) -> Row {
    Row::new(Code::Unauthenticated, "UNAUTHENTICATED").with("why", why.name())
}

fn denied(role: Role, lacks: &str) -> Row {
    Row::new(Code::PermissionDenied, "PERMISSION_DENIED").with("role", role).with("lacks", lacks)
}

fn core_row(error: &Error, text: &str) -> Row {
    match error {
        Error::Invalid { field, rule } => Row::new(Code::InvalidArgument, "INVALID_FIELD").field(field, rule),
        Error::WrongStep { requested, expected } => Row::new(Code::FailedPrecondition, "WRONG_STEP")
            .with("requested_step", requested)
            .with("expected_step", expected)
            .precondition("WRONG_STEP", "step", text),
        Error::PayloadMismatch { requested, expected, offset } => {
            Row::new(Code::FailedPrecondition, "PAYLOAD_MISMATCH")
                .with("requested_step", requested)
                .with("expected_step", expected)
                .with("offset", offset)
                .precondition("PAYLOAD_MISMATCH", "payload", text)
        }
        Error::PastHorizon { requested, horizon } => Row::new(Code::OutOfRange, "PAST_HORIZON")
            .with("requested_step", requested)
            .with("horizon", horizon),
        Error::FingerprintMismatch { field } => Row::new(Code::FailedPrecondition, "FINGERPRINT_MISMATCH")
            .with("field", field)
            .precondition("FINGERPRINT_MISMATCH", field, text),
        Error::Diverged { requested, expected } => Row::new(Code::FailedPrecondition, "DIVERGED")
            .with("requested_step", requested)
            .with("expected_step", expected)
            .precondition("DIVERGED", "payload", text),
        Error::NoiseNotFinite { requested } => Row::new(Code::FailedPrecondition, "NOISE_NOT_FINITE")
            .with("requested_step", requested)
            .precondition("NOISE_NOT_FINITE", "step", text),
        Error::PastReleased { requested, released } => Row::new(Code::OutOfRange, "PAST_RELEASED")
            .with("requested_step", requested)
            .with("released_steps", released),
        Error::NotKept { requested } => Row::new(Code::FailedPrecondition, "NOT_KEPT")
            .with("requested_step", requested)
            .precondition("NOT_KEPT", "step", text),
        Error::KeptStates { limit } => {
            Row::new(Code::ResourceExhausted, "KEPT_STATES").with("limit", limit).quota("kept_states", text)
        }
        Error::Damaged { .. } => Row::new(Code::DataLoss, "DAMAGED"),
        Error::Cancelled => Row::new(Code::Cancelled, "CANCELLED"),
    }
}

impl ServiceError {
    /// The reason of the error's `ErrorInfo`, such as `WRONG_STEP`.
    pub fn reason(&self) -> &'static str {
        row(self).reason
    }

    /// Reads a failure of the transport to deliver a message, which has a status but not one of this table.
    pub fn from_transport(status: Status) -> Self {
        match status.code() {
            Code::OutOfRange | Code::ResourceExhausted => {
                Self::MessageOverLimit { text: status.message().to_owned() }
            }
            Code::Internal if status.message().starts_with(DECODE_FAILURE) => {
                Self::Malformed(status.message().to_owned())
            }
            Code::Cancelled => Self::Core(Error::Cancelled),
            _ => Self::ConnectionBroken { text: status.message().to_owned() },
        }
    }

    /// Brings a response that the transport made by itself, before any handler was asked, into this table: a
    /// request that does not decode is the client's fault, and one that is too long is a limit.
    pub fn restate<B: Default>(response: http::Response<B>) -> http::Response<B> {
        let Some(status) = Status::from_header_map(response.headers()) else {
            return response;
        };
        let of_transport = match status.code() {
            Code::OutOfRange => status.message().contains(LENGTH_FAILURE),
            Code::Internal => status.message().starts_with(DECODE_FAILURE),
            _ => false,
        };
        if of_transport && status.details().is_empty() {
            return Status::from(Self::from_transport(status)).into_http();
        }
        response
    }
}

/// How prost begins the text of every failure to decode.
const DECODE_FAILURE: &str = "failed to decode Protobuf message";

/// How tonic tells that a message is over the limit.
const LENGTH_FAILURE: &str = "message length too large";

impl From<ServiceError> for Status {
    fn from(error: ServiceError) -> Self {
        let Row { code, reason, metadata, mut details } = row(&error);
        let metadata: HashMap<String, String> =
            metadata.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        details.set_error_info(reason, DOMAIN, metadata);
        Self::with_error_details(code, error.to_string(), details)
    }
}

/// What a status says, taken apart, for a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErrorReport {
    /// The gRPC code.
    pub code: Code,
    /// The text for people.
    pub message: String,
    /// The reason of the `ErrorInfo`, such as `WRONG_STEP`; empty where the status is not of this service.
    pub reason: String,
    /// The metadata of the `ErrorInfo`.
    pub metadata: HashMap<String, String>,
    /// Fields at fault, each with the rule it breaks.
    pub field_violations: Vec<(String, String)>,
    /// When to come back, where waiting helps.
    pub retry_after: Option<Duration>,
}

impl ErrorReport {
    /// Takes a status apart.
    pub fn from_status(status: &Status) -> Self {
        let details = status.get_error_details();
        let info = details.error_info().filter(|info| info.domain == DOMAIN);
        Self {
            code: status.code(),
            message: status.message().to_owned(),
            reason: info.map(|info| info.reason.clone()).unwrap_or_default(),
            metadata: info.map(|info| info.metadata.clone()).unwrap_or_default(),
            field_violations: details.bad_request().map_or_else(Vec::new, |bad| {
                bad.field_violations.iter().map(|v| (v.field.clone(), v.description.clone())).collect()
            }),
            retry_after: details.retry_info().and_then(|info| info.retry_delay),
        }
    }

    /// A number of the metadata.
    pub fn number(&self, key: &str) -> Option<u64> {
        self.metadata.get(key)?.parse().ok()
    }

    /// The step that the session expects, where the status tells it.
    pub fn expected_step(&self) -> Option<u64> {
        self.number("expected_step")
    }
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;
    use crate::access::Right;
    use crate::v1;

    const SECOND: Duration = Duration::from_secs(1);

    fn report(error: impl Into<ServiceError>) -> ErrorReport {
        ErrorReport::from_status(&Status::from(error.into()))
    }

    #[test]
    fn every_error_has_its_code_and_reason() {
        let name = || "sessions/a".to_owned();
        let table = [
            (Error::invalid("a", "b").into(), Code::InvalidArgument, "INVALID_FIELD"),
            (Error::WrongStep { requested: 1, expected: 2 }.into(), Code::FailedPrecondition, "WRONG_STEP"),
            (
                Error::PayloadMismatch { requested: 1, expected: 2, offset: 3 }.into(),
                Code::FailedPrecondition,
                "PAYLOAD_MISMATCH",
            ),
            (Error::PastHorizon { requested: 5, horizon: 5 }.into(), Code::OutOfRange, "PAST_HORIZON"),
            (Error::Diverged { requested: 1, expected: 2 }.into(), Code::FailedPrecondition, "DIVERGED"),
            (Error::NoiseNotFinite { requested: 3 }.into(), Code::FailedPrecondition, "NOISE_NOT_FINITE"),
            (Error::PastReleased { requested: 3, released: 2 }.into(), Code::OutOfRange, "PAST_RELEASED"),
            (Error::NotKept { requested: 3 }.into(), Code::FailedPrecondition, "NOT_KEPT"),
            (Error::KeptStates { limit: 2 }.into(), Code::ResourceExhausted, "KEPT_STATES"),
            (
                ServiceError::NoiseInUse { noise_id: "a".into(), session: name() },
                Code::FailedPrecondition,
                "NOISE_IN_USE",
            ),
            (
                ServiceError::NoiseUsed { noise_id: "a".into(), next_step: Some(4) },
                Code::FailedPrecondition,
                "NOISE_USED",
            ),
            (ServiceError::NoiseQuota { limit: 4 }, Code::ResourceExhausted, "NOISE_QUOTA"),
            (
                ServiceError::LedgerUnavailable { fault: "is full".into(), retry_after: SECOND },
                Code::Unavailable,
                "LEDGER_UNAVAILABLE",
            ),
            (
                ServiceError::StoreUnavailable { fault: "the disk is full".into(), retry_after: SECOND },
                Code::Unavailable,
                "STORE_UNAVAILABLE",
            ),
            (
                ServiceError::SessionElsewhere { session: name(), owner: "http://b:1".into() },
                Code::Unavailable,
                "SESSION_ELSEWHERE",
            ),
            (ServiceError::NoMasterKey, Code::FailedPrecondition, "NO_MASTER_KEY"),
            (
                Error::FingerprintMismatch { field: "tree" }.into(),
                Code::FailedPrecondition,
                "FINGERPRINT_MISMATCH",
            ),
            (Error::damaged("x").into(), Code::DataLoss, "DAMAGED"),
            (Error::Cancelled.into(), Code::Cancelled, "CANCELLED"),
            (ServiceError::SessionNotFound { name: name() }, Code::NotFound, "SESSION_NOT_FOUND"),
            (ServiceError::SessionExists { name: name() }, Code::AlreadyExists, "SESSION_EXISTS"),
            (
                ServiceError::MemoryQuota { needed: 3, free: 1, limit: 2 },
                Code::ResourceExhausted,
                "MEMORY_QUOTA",
            ),
            (ServiceError::SessionQuota { limit: 1 }, Code::ResourceExhausted, "SESSION_QUOTA"),
            (
                ServiceError::Busy { what: "calls", limit: 1, retry_after: SECOND },
                Code::ResourceExhausted,
                "BUSY",
            ),
            (
                ServiceError::MessageTooLarge { field: "payload", size: 2, limit: 1 },
                Code::ResourceExhausted,
                "MESSAGE_TOO_LARGE",
            ),
            (
                ServiceError::MessageOverLimit { text: "x".into() },
                Code::ResourceExhausted,
                "MESSAGE_TOO_LARGE",
            ),
            (
                ServiceError::MetadataTooLarge { size: 2, limit: 1 },
                Code::ResourceExhausted,
                "METADATA_TOO_LARGE",
            ),
            (ServiceError::Stalled { bytes: 1, timeout: SECOND }, Code::DeadlineExceeded, "REQUEST_STALLED"),
            (ServiceError::ConnectionBroken { text: "x".into() }, Code::Unavailable, "CONNECTION_BROKEN"),
            (ServiceError::Malformed("x".into()), Code::InvalidArgument, "MALFORMED"),
            (ServiceError::Draining { retry_after: SECOND }, Code::Unavailable, "DRAINING"),
            (ServiceError::TlsRequired, Code::FailedPrecondition, "TLS_REQUIRED"),
            (ServiceError::DeadlinePassed, Code::DeadlineExceeded, "DEADLINE_PASSED"),
            (ServiceError::Internal, Code::Internal, "INTERNAL"),
        ];
        for (error, code, reason) in table {
            let text = error.to_string();
            let report = report(error);
            assert_eq!((report.code, report.reason.as_str()), (code, reason));
            assert_eq!(report.message, text);
        }
    }

    #[test]
    fn refusals_of_callers_have_their_codes_and_reasons() {
        let table = [
            (
                ServiceError::TenantQuota { quota: "max_sessions", limit: 1, found: 2, retry_after: None },
                Code::ResourceExhausted,
                "TENANT_QUOTA",
            ),
            (
                ServiceError::Unauthenticated { why: Stranger::Unknown },
                Code::Unauthenticated,
                "UNAUTHENTICATED",
            ),
            (
                ServiceError::MayNotCall {
                    role: Role::Analyst,
                    method: "A".into(),
                    allowed: &[Role::Trainer],
                },
                Code::PermissionDenied,
                "PERMISSION_DENIED",
            ),
            (
                ServiceError::RightMissing {
                    field: "noise_key",
                    role: Role::Trainer,
                    right: Right::GivenKeys,
                },
                Code::PermissionDenied,
                "PERMISSION_DENIED",
            ),
        ];
        for (error, code, reason) in table {
            let text = error.to_string();
            assert_eq!(error.reason(), reason);
            let report = report(error);
            assert_eq!((report.code, report.reason, report.message), (code, reason.to_owned(), text));
        }
    }

    #[test]
    fn details_come_back() {
        let invalid = report(Error::invalid("matrix.coef", "must not be empty"));
        assert_eq!(invalid.field_violations, [("matrix.coef".to_owned(), "must not be empty".to_owned())]);
        assert_eq!(invalid.metadata["field"], "matrix.coef");

        let wrong = report(Error::WrongStep { requested: 9, expected: 4 });
        assert_eq!((wrong.expected_step(), wrong.number("requested_step")), (Some(4), Some(9)));
        assert_eq!(report(Error::PastHorizon { requested: 5, horizon: 5 }).number("horizon"), Some(5));
        assert_eq!(report(Error::FingerprintMismatch { field: "tree" }).metadata["field"], "tree");
        assert_eq!(report(ServiceError::Draining { retry_after: SECOND }).retry_after, Some(SECOND));
        let owner = "http://b:1".to_owned();
        let elsewhere = report(ServiceError::SessionElsewhere { session: "sessions/a".into(), owner });
        assert_eq!((elsewhere.metadata["owner"].as_str(), elsewhere.retry_after), ("http://b:1", None));
        assert_eq!(report(ServiceError::Internal).retry_after, None);
    }

    #[test]
    fn statuses_carry_the_standard_details() {
        let details = |error: ServiceError| Status::from(error).get_error_details();
        let wrong = details(Error::WrongStep { requested: 9, expected: 4 }.into());
        assert!(wrong.precondition_failure().is_some());
        let missing = details(ServiceError::SessionNotFound { name: "sessions/a".into() });
        assert_eq!(missing.resource_info().map(|info| info.resource_name.as_str()), Some("sessions/a"));
        assert!(details(ServiceError::SessionQuota { limit: 1 }).quota_failure().is_some());
        assert!(details(ServiceError::Internal).error_info().is_some());
    }

    /// What a client sees of a response that the transport made by itself.
    fn restated(status: Status) -> ErrorReport {
        let response = ServiceError::restate(status.into_http::<()>());
        ErrorReport::from_status(&Status::from_header_map(response.headers()).unwrap())
    }

    #[test]
    fn faults_of_the_transport_get_a_row() {
        let decode = v1::Row::decode(&[0xff_u8; 4][..]).unwrap_err();
        let malformed = restated(Status::internal(decode.to_string()));
        assert_eq!((malformed.code, malformed.reason.as_str()), (Code::InvalidArgument, "MALFORMED"));
        let long = "Error, decoded message length too large: found 9 bytes, the limit is: 7 bytes";
        let long = restated(Status::out_of_range(long));
        assert_eq!((long.code, long.reason.as_str()), (Code::ResourceExhausted, "MESSAGE_TOO_LARGE"));
    }

    #[test]
    fn other_statuses_are_left_alone() {
        let horizon = ServiceError::from(Error::PastHorizon { requested: 1, horizon: 1 });
        for error in [horizon, ServiceError::Internal] {
            assert_eq!(restated(error.clone().into()), report(error));
        }
        assert_eq!(restated(Status::cancelled("gone")).code, Code::Cancelled);
        let plain = ServiceError::restate(http::Response::new(()));
        assert!(plain.headers().is_empty());
    }

    #[test]
    fn statuses_of_others_are_read_as_far_as_they_go() {
        let report = ErrorReport::from_status(&Status::unavailable("connection refused"));
        assert_eq!((report.code, report.reason.as_str()), (Code::Unavailable, ""));
        assert_eq!((report.expected_step(), report.retry_after), (None, None));
    }
}
