//! What a server tells of a session.

use noised::SessionSpec;
use noised::session::{NoiseOptions, Rewind};
use noised_proto::{noise_state, session_spec, v1};

use crate::error::{Error, Result};

/// What a session is and where it stood when the server was asked.
#[derive(Clone, Debug, PartialEq)]
pub struct SessionInfo {
    /// `sessions/{id}`.
    pub name: String,
    /// What it was made for; absent from a list, and from what
    /// [`Client::keep_state`](crate::Client::keep_state) and
    /// [`Client::rewind_session`](crate::Client::rewind_session) answer.
    pub spec: Option<SessionSpec>,
    /// A digest of that.
    pub fingerprint: [u8; 32],
    /// The step that it expects.
    pub next_step: u64,
    /// Bytes of that step that are applied already: of its input, or of its answer where it has none.
    pub next_offset: u64,
    /// Lanes that it holds.
    pub lanes: u64,
    /// Bytes of one step's answer.
    pub step_bytes: u64,
    /// Memory that it takes on the server.
    pub memory_bytes: u64,
    /// Whether it existed before it was asked for.
    pub resumed: bool,
    /// How the server goes about drawing, where it does.
    pub options: Option<NoiseOptions>,
    /// Steps whose state is kept.
    pub kept_steps: Vec<u64>,
    /// The last acts of going back, the oldest first; absent from a list.
    pub rewinds: Vec<Rewind>,
    /// How many there were.
    pub rewind_count: u64,
    /// The number of steps that were ever released, in whole or in part.
    pub released_steps: u64,
    /// Whether the noise of a `noise_id` was begun again at step 0.
    pub noise_started_over: bool,
    /// When the session was last used, in seconds since 1970-01-01 UTC; 0 where an older server does not
    /// tell.
    pub last_used_unix_seconds: u64,
    /// The address by which clients reach the server that has it, where servers share a store; else empty.
    pub owner: String,
    /// Of a session in a store: rises whenever a server takes it.
    pub epoch: u64,
}

impl TryFrom<v1::Session> for SessionInfo {
    type Error = Error;

    fn try_from(session: v1::Session) -> Result<Self> {
        let v1::Session {
            name,
            matrix,
            tree,
            shard,
            source,
            precision,
            horizon,
            fingerprint,
            next_step,
            next_offset,
            lanes,
            step_bytes,
            memory_bytes,
            resumed,
            lookahead,
            noise_state: kept,
            kept_steps,
            rewinds,
            rewind_count,
            released_steps,
            noise_started_over,
            last_used_unix_seconds,
            resume_token: _,
            owner,
            epoch,
        } = session;
        // Most answers leave out what the sessions are made for.
        let spec = match (matrix, tree) {
            (Some(matrix), Some(tree)) => {
                let (matrix, tree) = (Some(matrix), Some(tree));
                let bound =
                    v1::Session { matrix, tree, shard, source, precision, horizon, ..v1::Session::default() };
                Some(session_spec(bound).map_err(|e| Error::Protocol { message: e.to_string() })?)
            }
            _ => None,
        };
        let fingerprint = fingerprint.try_into().map_err(|found: Vec<u8>| Error::Protocol {
            message: format!("a fingerprint has 32 bytes, found {}", found.len()),
        })?;
        let protocol = |e: noised::Error| Error::Protocol { message: e.to_string() };
        let kept = noise_state(kept).map_err(protocol)?.unwrap_or_default();
        Ok(Self {
            name,
            spec,
            fingerprint,
            next_step,
            next_offset,
            lanes,
            step_bytes,
            memory_bytes,
            resumed,
            options: lookahead.map(|lookahead| NoiseOptions { lookahead, state: kept }),
            kept_steps,
            rewinds: rewinds.into_iter().map(Rewind::from).collect(),
            rewind_count,
            released_steps,
            noise_started_over,
            last_used_unix_seconds,
            owner,
            epoch,
        })
    }
}
