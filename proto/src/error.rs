//! What keeps the service from answering a call, with the text that people read.

use std::time::Duration;

use noised::Error;

use crate::access::{Right, Role, Stranger};

/// Whatever keeps the service from answering a call.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ServiceError {
    /// An error of the core.
    #[error(transparent)]
    Core(#[from] Error),
    /// There is no such session.
    #[error("there is no session `{name}`")]
    SessionNotFound {
        /// `sessions/{session_id}`.
        name: String,
    },
    /// The name is taken.
    #[error("a session `{name}` exists already")]
    SessionExists {
        /// `sessions/{session_id}`.
        name: String,
    },
    /// The memory for sessions does not suffice.
    #[error("{needed} bytes of memory are needed, and {free} of {limit} bytes are free")]
    MemoryQuota {
        /// Bytes that the call needs.
        needed: u64,
        /// Bytes that nobody holds.
        free: u64,
        /// Bytes that there may be in all.
        limit: u64,
    },
    /// There are as many sessions as there may be.
    #[error("there are {limit} sessions, as many as there may be")]
    SessionQuota {
        /// How many there may be.
        limit: usize,
    },
    /// Another session draws the noise already.
    #[error("source.key.noise_id: the noise `{noise_id}` is being drawn by {session}")]
    NoiseInUse {
        /// The name of the noise.
        noise_id: String,
        /// `sessions/{session_id}`.
        session: String,
    },
    /// The noise was drawn before.
    #[error(
        "source.key.noise_id: the noise `{noise_id}` was drawn before, up to {}; start_noise_over begins it again at step 0",
        next_step.map_or("a step that is not known".to_owned(), |step| format!("step {step}"))
    )]
    NoiseUsed {
        /// The name of the noise.
        noise_id: String,
        /// The first step that was not released, where that is known.
        next_step: Option<u64>,
    },
    /// As many noises are remembered as may be.
    #[error(
        "{limit} noises are remembered, as many as may be, and a noise that was drawn is not forgotten: the operator of \
         the server can raise max_noises"
    )]
    NoiseQuota {
        /// How many there may be.
        limit: usize,
    },
    /// What the server remembers of noises cannot be written down.
    #[error(
        "the noise ledger {fault}; the noise was not begun: call again when the operator of the server has mended that"
    )]
    LedgerUnavailable {
        /// What is wrong with it, for operators and clients.
        fault: String,
        /// When to come back.
        retry_after: Duration,
    },
    /// The store of the sessions does not take or give what the call needs.
    #[error("{fault}; nothing is lost: call again")]
    StoreUnavailable {
        /// What is wrong, for operators and clients.
        fault: String,
        /// When to come back.
        retry_after: Duration,
    },
    /// Another server of the same store has the session, and is alive.
    #[error("{session} is at another server: ask {owner}")]
    SessionElsewhere {
        /// `sessions/{session_id}`.
        session: String,
        /// The address by which clients reach that server.
        owner: String,
    },
    /// A noise has to be derived from a master key.
    #[error("source.key.noise_id: this server has no master key to derive a noise from")]
    NoMasterKey,
    /// Too much is going on at once.
    #[error("{limit} {what} are under way, as many as there may be")]
    Busy {
        /// What there is too much of.
        what: &'static str,
        /// How many there may be.
        limit: usize,
        /// When to come back.
        retry_after: Duration,
    },
    /// A message is longer than the server takes or makes.
    #[error("{field}: a message holds at most {limit} bytes, and this one would hold {size}; use a stream")]
    MessageTooLarge {
        /// The field that makes it so long.
        field: &'static str,
        /// The bytes of the message.
        size: u64,
        /// The most there may be.
        limit: u64,
    },
    /// A message is longer than the server takes.
    #[error("{text}; use a stream, or shorter frames")]
    MessageOverLimit {
        /// What the transport said of it.
        text: String,
    },
    /// The metadata of a call is longer than the server takes.
    #[error(
        "metadata: must take at most {limit} bytes, each entry's name and value and 32 more, found {size}; send less, \
         or raise max_metadata_bytes of the server"
    )]
    MetadataTooLarge {
        /// The bytes of the metadata.
        size: usize,
        /// The most there may be.
        limit: usize,
    },
    /// A request stopped coming, or came too slowly.
    #[error(
        "the request came too slowly: {bytes} bytes of it, or its end, must come every {} s; send it faster, or raise \
         body_timeout of the server", timeout.as_secs_f64()
    )]
    Stalled {
        /// Bytes that must come in the time.
        bytes: usize,
        /// The time.
        timeout: Duration,
    },
    /// The connection broke, or the client took the call back.
    #[error("the connection broke: {text}")]
    ConnectionBroken {
        /// What the transport said of it.
        text: String,
    },
    /// What came is not a message of the protocol.
    #[error("the request does not decode: {0}")]
    Malformed(String),
    /// The server is about to stop.
    #[error("the server is draining; another one, or this one later, will take the call")]
    Draining {
        /// When to come back.
        retry_after: Duration,
    },
    /// The client speaks without TLS to a server that wants TLS.
    #[error("the server speaks TLS: write https://host:port")]
    TlsRequired,
    /// The server does not know who calls.
    #[error("{why}")]
    Unauthenticated {
        /// Why not.
        why: Stranger,
    },
    /// A caller's role does not allow the call.
    #[error("the role {role} may not call {method}: {}", roles_for(.allowed))]
    MayNotCall {
        /// The caller's role.
        role: Role,
        /// The method, without its service.
        method: String,
        /// The roles that may call it.
        allowed: &'static [Role],
    },
    /// A caller asks for something that takes a right.
    #[error(
        "{field}: takes the right {right}, which the caller with the role {role} lacks: the operator of the \
         server gives rights"
    )]
    RightMissing {
        /// The field of the request that asks for it.
        field: &'static str,
        /// The caller's role.
        role: Role,
        /// The right.
        right: Right,
    },
    /// A tenant has as much as it may have.
    #[error(
        "{quota}: the tenant may have {limit}, found {found}: {}",
        retry_after.map_or("the operator of the server sets it", |_| "call again later")
    )]
    TenantQuota {
        /// The quota, as the tokens file of the server has it.
        quota: &'static str,
        /// The most that there may be.
        limit: u64,
        /// What there would be.
        found: u64,
        /// When to come back, where waiting helps.
        retry_after: Option<Duration>,
    },
    /// The time that a client gave a call is over, and the answer not there.
    #[error("the deadline of the call has passed")]
    DeadlinePassed,
    /// An invariant is broken. What happened goes to the log and not to the client.
    #[error("an internal error; the server's log has the details")]
    Internal,
}

/// Who may do what another may not.
fn roles_for(allowed: &[Role]) -> String {
    let names: Vec<&str> = allowed.iter().map(|role| role.name()).collect();
    if names.is_empty() { "no role may".to_owned() } else { format!("it is for {}", names.join(" and ")) }
}
