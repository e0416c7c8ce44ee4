//! What a session is made for.

use noised::session::{ResolvedSpec, Source};
use noised::{Error, Result, SessionSpec, Shard, Tree};

use super::matrix::required_matrix;
use super::tree::precision;
use crate::v1;

/// Reads what a session is to be made for. The parts of a [`v1::Session`] that only the server sets must not be set.
///
/// # Errors
/// [`Error::Invalid`] names the field and the rule it breaks.
pub fn session_spec(session: v1::Session) -> Result<SessionSpec> {
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
    ];
    if let Some((field, _)) = set.into_iter().find(|(_, set)| *set) {
        return Err(Error::invalid(field, "is set by the server"));
    }
    let tree: Tree = tree.ok_or_else(|| Error::invalid("tree", "is missing"))?.try_into()?;
    Ok(SessionSpec {
        matrix: required_matrix(matrix)?,
        shard: shard.map_or(Shard::WHOLE, Shard::from),
        source: source(from)?,
        precision: precision(format)?.unwrap_or_else(|| tree.default_precision()),
        tree,
        horizon,
    })
}

/// Writes what a session is made for; the parts that only the server sets are left out.
pub fn session_spec_to_wire(spec: &SessionSpec) -> v1::Session {
    let SessionSpec { matrix, tree, shard, source, precision, horizon } = spec;
    v1::Session {
        matrix: Some(matrix.into()),
        tree: Some(tree.into()),
        shard: Some((*shard).into()),
        source: Some((*source).into()),
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
    let SessionStatus { name, next_step, next_offset, memory_bytes, resumed } = status;
    v1::Session {
        name,
        matrix: None,
        tree: None,
        shard: Some((*shard).into()),
        source: Some((*source).into()),
        precision: v1::Precision::from(*precision).into(),
        horizon: *horizon,
        fingerprint: resolved.fingerprint().as_bytes().to_vec(),
        next_step,
        next_offset,
        lanes: resolved.layout().lanes() as u64,
        step_bytes: resolved.layout().byte_len() as u64,
        memory_bytes,
        resumed,
    }
}

impl From<Source> for v1::Source {
    fn from(source: Source) -> Self {
        let kind = match source {
            Source::Input => v1::source::Kind::Input(v1::InputSource {}),
        };
        Self { kind: Some(kind) }
    }
}

fn source(source: Option<v1::Source>) -> Result<Source> {
    let Some(v1::Source { kind }) = source else {
        return Ok(Source::Input);
    };
    match kind {
        Some(v1::source::Kind::Input(v1::InputSource {})) => Ok(Source::Input),
        None => Err(Error::invalid("source", "must have a kind")),
    }
}
