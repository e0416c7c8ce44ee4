//! The objects of a session in a store, and what is in them.
//!
//! ```text
//! sessions/{folder}/made-{number}               which session has this name: what it is bound to, its key;
//!                                               or that no session is made here any more
//! sessions/{folder}/{uid}/owner-{number}        who has it, and what had become of it by then
//! sessions/{folder}/{uid}/state-{id}-{part}     its state, where it is the only copy
//! ```
//!
//! A folder is a digest of tenant and name, which object names could not hold. The `uid` tells a session from
//! an earlier one of the same name. Of a session that was deleted, the last owner's object stays until the
//! name is used again: it says that the session has ended, and no server can make an object in its place.

use bytes::Bytes;
use noised::noise::NoiseKey;
use noised::session::{KeyOrigin, NoiseOptions, NoiseState, ResolvedSpec, SessionSpec, Source};
use noised::{Leaf, MatrixSpec, Precision, Shard, Tree};
use noised_store::StoreError;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::past::{Act, Past, StoredSource};
use crate::identity::SessionKey;

/// Where all sessions lie.
pub(super) const SESSIONS: &str = "sessions";

/// Where all claims on noises lie.
pub(super) const CLAIMS: &str = "claims";

/// A session that was made.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Made {
    pub(crate) uid: String,
    pub(crate) tenant: String,
    pub(crate) name: String,
    pub(crate) named: bool,
    pub(crate) request_id: String,
    pub(crate) started_over: bool,
    matrix: MatrixSpec,
    leaves: Vec<Leaf>,
    shard: Shard,
    source: Source,
    precision: Precision,
    horizon: Option<u64>,
    fingerprint: String,
    lookahead: u32,
    replayed: bool,
    /// The folder of the claims of its noise, where a `noise_id` names it.
    #[serde(default)]
    noise: Option<String>,
    /// The key of its noise, where no other secret gives it: 64 hexadecimal digits.
    key: Option<Zeroizing<String>>,
}

impl std::fmt::Debug for Made {
    /// Which session: it may hold a key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Made").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Who has a session.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Owner {
    /// The journal of the server that has it, in which all is that became of it since; absent where nobody
    /// has it.
    pub(crate) journal: Option<String>,
    pub(crate) past: Past,
    /// Whether the session was deleted.
    pub(crate) ended: bool,
}

/// Acts of one session, as a journal holds them.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Acts {
    pub(crate) session: String,
    /// The number of the owner whose acts these are.
    pub(crate) owner: u64,
    /// The number of the first, from 0.
    pub(crate) first: u64,
    pub(crate) acts: Vec<Act>,
}

/// The folder of a session.
pub(crate) fn folder_of(key: &SessionKey) -> String {
    let mut hash = blake3::Hasher::new_derive_key("noised 2026 folder of a session");
    hash.update(&(key.tenant.name().len() as u64).to_le_bytes());
    hash.update(key.tenant.name().as_bytes());
    hash.update(key.name.as_bytes());
    format!("{SESSIONS}/{}", &hash.finalize().to_hex().as_str()[..32])
}

/// The folder of a noise's claims.
pub(crate) fn noise_folder(tenant: &str, noise_id: &str, fingerprint: &str) -> String {
    let mut hash = blake3::Hasher::new_derive_key("noised 2026 folder of a noise");
    for part in [tenant, fingerprint, noise_id] {
        hash.update(&(part.len() as u64).to_le_bytes()).update(part.as_bytes());
    }
    format!("{CLAIMS}/{}", &hash.finalize().to_hex().as_str()[..32])
}

/// The folder of the claims of a session's noise; `None` where no `noise_id` names the noise.
fn noise_of(session: &SessionKey, resolved: &ResolvedSpec) -> Option<String> {
    let KeyOrigin::Derived { noise_id } = &resolved.spec().source.noise()?.key else { return None };
    Some(noise_folder(session.tenant.name(), noise_id, &resolved.noise_fingerprint().to_string()))
}

/// The object that says which is the `number`th session of a name.
pub(crate) fn made_object(folder: &str, number: u64) -> String {
    format!("{folder}/made-{number:010}")
}

/// The number of an object that says which session has a name.
pub(crate) fn made_number(folder: &str, object: &str) -> Option<u64> {
    object.strip_prefix(folder)?.strip_prefix("/made-")?.parse().ok()
}

/// The object of the `number`th owner.
pub(crate) fn owner_object(folder: &str, uid: &str, number: u64) -> String {
    format!("{folder}/{uid}/owner-{number:010}")
}

/// The number of an owner's object.
pub(crate) fn owner_number(object: &str) -> Option<u64> {
    object.rsplit('/').next()?.strip_prefix("owner-")?.parse().ok()
}

/// A part of a stored state.
pub(crate) fn state_object(folder: &str, uid: &str, id: &str, part: u32) -> String {
    format!("{folder}/{uid}/state-{id}-{part:06}")
}

/// What the objects of a state are named by, where this is one of them.
pub(crate) fn state_id(object: &str) -> Option<&str> {
    Some(object.rsplit('/').next()?.strip_prefix("state-")?.rsplit_once('-')?.0)
}

/// Writes an object.
pub(crate) fn encode(value: &impl Serialize) -> Result<Bytes, StoreError> {
    let text = serde_json::to_vec(value);
    text.map(Bytes::from)
        .map_err(|error| StoreError::Refused(format!("an object cannot be written: {error}")))
}

/// Reads an object.
pub(crate) fn decode<'a, T: Deserialize<'a>>(name: &str, bytes: &'a [u8]) -> Result<T, StoreError> {
    let damaged =
        |error| StoreError::Damaged { name: name.to_owned(), what: format!("it does not read: {error}") };
    serde_json::from_slice(bytes).map_err(damaged)
}

impl Made {
    /// What of its source matters to the store.
    pub(crate) fn source(&self) -> StoredSource {
        StoredSource::of(&self.source)
    }

    /// A session that is made now. `key` is given where the noise's key cannot be derived again.
    pub(crate) fn new(
        uid: String,
        session: &SessionKey,
        resolved: &ResolvedSpec,
        options: NoiseOptions,
        key: Option<&NoiseKey>,
    ) -> Self {
        let SessionSpec { matrix, tree, shard, source, precision, horizon } = resolved.spec().clone();
        Self {
            uid,
            tenant: session.tenant.name().to_owned(),
            name: session.name.clone(),
            named: false,
            request_id: String::new(),
            started_over: false,
            matrix,
            leaves: tree.leaves().to_vec(),
            shard,
            source,
            precision,
            horizon,
            fingerprint: resolved.fingerprint().to_string(),
            lookahead: options.lookahead,
            replayed: options.state == NoiseState::Replayed,
            noise: noise_of(session, resolved),
            key: key.map(NoiseKey::to_hex),
        }
    }

    /// The same with what its creation asked for.
    pub(crate) fn asked_by(self, named: bool, request_id: &str, started_over: bool) -> Self {
        Self { named, request_id: request_id.to_owned(), started_over, ..self }
    }

    /// What the session is bound to.
    pub(crate) fn resolved(&self) -> noised::Result<ResolvedSpec> {
        let spec = SessionSpec {
            matrix: self.matrix.clone(),
            tree: Tree::new(self.leaves.clone())?,
            shard: self.shard,
            source: self.source.clone(),
            precision: self.precision,
            horizon: self.horizon,
        };
        let resolved = spec.resolve()?;
        if resolved.fingerprint().to_string() != self.fingerprint {
            return Err(noised::Error::damaged("the fingerprint is not that of the specification"));
        }
        Ok(resolved)
    }

    /// The folder of the claims of its noise, where a `noise_id` names it.
    pub(super) fn noise(&self) -> noised::Result<Option<String>> {
        match &self.noise {
            // One that was made before there were claims does not say.
            None if self.key.is_none() && self.source.noise().is_some() => {
                let session = SessionKey::named(&self.tenant, &self.name);
                Ok(noise_of(&session, &self.resolved()?))
            }
            noise => Ok(noise.clone()),
        }
    }

    /// How its noise is drawn.
    pub(crate) fn options(&self) -> NoiseOptions {
        let state = if self.replayed { NoiseState::Replayed } else { NoiseState::Kept };
        NoiseOptions { lookahead: self.lookahead, state }
    }

    /// The key of its noise, where it was stored.
    pub(crate) fn key(&self) -> noised::Result<Option<NoiseKey>> {
        self.key.as_ref().map(|digits| NoiseKey::from_hex("key", digits)).transpose()
    }
}
