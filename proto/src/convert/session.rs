//! What a session is made for.

use noised::session::{NoiseOptions, NoiseState, ResolvedSpec, Rewind};
use noised::{Error, Result, SessionSpec, Shard, Tree};

use super::matrix::required_matrix;
use super::source::{noise_state, source};
use super::tree::precision;
use crate::v1;

/// What a session is to be made for, and how it is to be run.
#[derive(Clone, Debug, PartialEq)]
pub struct AskedSession {
    /// What it is bound to.
    pub spec: SessionSpec,
    /// Steps whose noise is to be ready; `None` for as the server likes.
    pub lookahead: Option<u32>,
    /// What is to be kept between steps; `None` for as the server likes.
    pub noise_state: Option<NoiseState>,
}

/// Reads what a session is to be made for. The parts of a [`v1::Session`] that only the server sets must not
/// be set.
///
/// # Errors
/// [`Error::Invalid`] names the field and the rule it breaks.
pub fn asked_session(session: v1::Session) -> Result<AskedSession> {
    let v1::Session {
        name,
        matrix,
        tree,
        shard,
        source: from,
        precision: format,
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
        resume_token,
        owner,
        epoch,
    } = session;
    let set = [
        ("name", !name.is_empty()),
        ("fingerprint", !fingerprint.is_empty()),
        ("next_step", next_step != 0),
        ("next_offset", next_offset != 0),
        ("lanes", lanes != 0),
        ("step_bytes", step_bytes != 0),
        ("memory_bytes", memory_bytes != 0),
        ("resumed", resumed),
        ("kept_steps", !kept_steps.is_empty()),
        ("rewinds", !rewinds.is_empty()),
        ("rewind_count", rewind_count != 0),
        ("released_steps", released_steps != 0),
        ("noise_started_over", noise_started_over),
        ("last_used_unix_seconds", last_used_unix_seconds != 0),
        ("resume_token", !resume_token.is_empty()),
        ("owner", !owner.is_empty()),
        ("epoch", epoch != 0),
    ];
    if let Some((field, _)) = set.into_iter().find(|(_, set)| *set) {
        return Err(Error::invalid(field, "is set by the server"));
    }
    let tree: Tree = tree.ok_or_else(|| Error::invalid("tree", "is missing"))?.try_into()?;
    let spec = SessionSpec {
        matrix: required_matrix(matrix)?,
        shard: shard.map_or(Ok(Shard::WHOLE), Shard::try_from)?,
        source: source(from)?,
        precision: precision(format)?.unwrap_or_else(|| tree.default_precision()),
        tree,
        horizon,
    };
    Ok(AskedSession { spec, lookahead, noise_state: noise_state(kept)? })
}

/// The same, of what the session is bound to alone.
///
/// # Errors
/// Those of [`asked_session`].
pub fn session_spec(session: v1::Session) -> Result<SessionSpec> {
    asked_session(session).map(|asked| asked.spec)
}

/// Writes what a session is made for; the parts that only the server sets are left out.
pub fn session_spec_to_wire(spec: &SessionSpec) -> v1::Session {
    let SessionSpec { matrix, tree, shard, source, precision, horizon } = spec;
    v1::Session {
        matrix: Some(matrix.into()),
        tree: Some(tree.into()),
        shard: Some((*shard).into()),
        source: Some(source.into()),
        precision: v1::Precision::from(*precision).into(),
        horizon: *horizon,
        ..v1::Session::default()
    }
}

/// Where a session stands, beside what it is made for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionStatus {
    /// `sessions/{session_id}`.
    pub name: String,
    /// The step that is expected next.
    pub next_step: u64,
    /// Bytes of that step that are applied already.
    pub next_offset: u64,
    /// Memory that the session takes.
    pub memory_bytes: u64,
    /// Whether it was found rather than made.
    pub resumed: bool,
    /// How the server goes about drawing, where it does.
    pub options: Option<NoiseOptions>,
    /// Steps whose state is kept.
    pub kept_steps: Vec<u64>,
    /// The last acts of going back.
    pub rewinds: Vec<Rewind>,
    /// How many there were.
    pub rewind_count: u64,
    /// The number of steps that were ever released.
    pub released_steps: u64,
    /// Whether a noise was begun again at step 0.
    pub noise_started_over: bool,
    /// When the session was last used, in seconds since 1970-01-01 UTC.
    pub last_used_unix_seconds: u64,
    /// The address by which clients reach the server that has it; empty where that has none of its own.
    pub owner: String,
    /// Rises with each server that takes it from a store.
    pub epoch: u64,
}

/// Writes a session with everything that is known of it.
pub fn session_to_wire(resolved: &ResolvedSpec, status: SessionStatus) -> v1::Session {
    let SessionSpec { matrix, tree, .. } = resolved.spec();
    v1::Session {
        matrix: Some(matrix.into()),
        tree: Some(tree.into()),
        ..session_summary_to_wire(resolved, status)
    }
}

/// Writes a session without its matrix and tree, which may be large.
pub fn session_summary_to_wire(resolved: &ResolvedSpec, status: SessionStatus) -> v1::Session {
    let SessionSpec { matrix: _, tree: _, shard, source, precision, horizon } = resolved.spec();
    let SessionStatus {
        name,
        next_step,
        next_offset,
        memory_bytes,
        resumed,
        options,
        kept_steps,
        rewinds,
        rewind_count,
        released_steps,
        noise_started_over,
        last_used_unix_seconds,
        owner,
        epoch,
    } = status;
    let kept = options.map_or(v1::NoiseState::Unspecified, |options| options.state.into());
    v1::Session {
        name,
        matrix: None,
        tree: None,
        shard: Some((*shard).into()),
        source: Some(source.into()),
        precision: v1::Precision::from(*precision).into(),
        horizon: *horizon,
        fingerprint: resolved.fingerprint().as_bytes().to_vec(),
        next_step,
        next_offset,
        lanes: resolved.layout().lanes() as u64,
        step_bytes: resolved.layout().byte_len() as u64,
        memory_bytes,
        resumed,
        lookahead: options.map(|options| options.lookahead),
        noise_state: kept.into(),
        kept_steps,
        rewinds: rewinds.iter().map(v1::Rewind::from).collect(),
        rewind_count,
        released_steps,
        noise_started_over,
        last_used_unix_seconds,
        // A secret of the holder's: KeepState alone gives it.
        resume_token: Vec::new(),
        owner,
        epoch,
    }
}
