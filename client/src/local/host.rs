//! The sessions of this process, by name.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use noised::SessionSpec;
use noised::noise::{MasterKey, NoiseKey, StepProof};
use noised::session::{Drawing, KeyOrigin, ResolvedSpec};
use noised_proto::ServiceError;
use noised_proto::name::{check_session_id, session_id, session_name};
use tonic::Code;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::noises::Noises;
use super::session::LocalSession;
use super::shared::{KEPT_STATES, Shared, of_service};
use crate::client::{CreateOptions, full_name};
use crate::error::{Error, Result};
use crate::info::SessionInfo;
use crate::key::GivenKey;
use crate::resume::ResumedNoise;

/// Sessions in this process, by name. Cheap to clone; clones have the same sessions.
///
/// A session lives until it is [deleted](Self::delete_session), or until the last clone of its host and the
/// last of its handles are gone. What it promises is what a session on a server does; it ends with the
/// process.
///
/// ```
/// # fn main() -> noised_client::Result<()> {
/// use noised::session::{KeyOrigin, Noise, Source};
/// use noised::{DType, MatrixSpec, SessionSpec, Tree};
/// use noised_client::{CreateOptions, LocalHost};
///
/// let matrix = MatrixSpec::PrefixSum.inverse();
/// let source = Source::Gaussian(Noise { stddev: 1.5, key: KeyOrigin::Fresh });
/// let spec = SessionSpec { source, ..SessionSpec::new(matrix, Tree::flat(1000, DType::F32)?) };
/// let mut session = LocalHost::new().create_session(&spec, CreateOptions::default())?;
/// let mut noise = vec![0; session.step_bytes()];
/// session.fetch_into(0, &mut noise)?;
/// # Ok(()) }
/// ```
#[derive(Clone, Default)]
pub struct LocalHost {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    master_key: Option<MasterKey>,
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    sessions: BTreeMap<String, Arc<Shared>>,
    noises: Noises,
}

impl LocalHost {
    /// How many states a session keeps, as a server does by itself.
    pub const MAX_KEPT_STATES: usize = KEPT_STATES;

    /// A host without sessions, and without a master key.
    pub fn new() -> Self {
        Self::default()
    }

    /// A host that derives the noise of a `noise_id` from this key, as every server that has it does.
    ///
    /// Who begins a noise of that key elsewhere is not known here, and nothing is remembered once the host is
    /// gone.
    pub fn with_master_key(master_key: MasterKey) -> Self {
        let inner = Inner { master_key: Some(master_key), held: Mutex::default() };
        Self { inner: Arc::new(inner) }
    }

    /// Makes a session, or goes on with one. The options mean what they mean to
    /// [`Client::create_session`](crate::Client::create_session); with a lookahead, so many steps are drawn
    /// in one sweep through the state, at most [`MAX_STEPS_A_PASS`](noised::limits::MAX_STEPS_A_PASS), when
    /// the first of them is asked for.
    ///
    /// # Errors
    /// [`Error::Invalid`], [`Error::AlreadyExists`], [`Error::FingerprintMismatch`];
    /// [`Error::ResourceExhausted`] where the system does not give the memory; [`Error::NoiseInUse`],
    /// [`Error::NoiseUsed`] and [`Error::NoMasterKey`] where the noise has a `noise_id`.
    pub fn create_session(&self, spec: &SessionSpec, options: CreateOptions) -> Result<LocalSession> {
        let resolved = spec.clone().resolve()?;
        options.check(&resolved)?;
        let CreateOptions {
            id,
            resume,
            must_exist,
            noise_key,
            start_noise_over,
            resumed_noise,
            lookahead,
            noise_state,
        } = options;
        if must_exist && !resume {
            return Err(Error::invalid("must_exist", "must not be set without resume"));
        }
        let id = if id.is_empty() { Uuid::new_v4().to_string() } else { id };
        check_session_id(&id)?;
        let name = session_name(&id);
        let given = noise_key.as_ref().map(GivenKey::to_noise_key).transpose()?;
        let find = |held: &Held, resolved: &ResolvedSpec| match held.sessions.get(&name) {
            None if must_exist => Err(of_service(ServiceError::SessionNotFound { name: name.clone() })),
            None => Ok(None),
            Some(_) if !resume => Err(of_service(ServiceError::SessionExists { name: name.clone() })),
            Some(found) => found.check_same(resolved, given.as_ref()).map(|()| Some(Arc::clone(found))),
        };
        if let Some(found) = find(&self.held(), &resolved)? {
            return Ok(LocalSession::new(found, true));
        }
        let noise_options = resolved.noise_options(lookahead, noise_state);
        resolved.check_noise_options(noise_options)?;
        let key = self.key_of(&resolved, given.as_ref())?;
        check_resumed(&resolved, key.as_ref(), resumed_noise.as_ref())?;
        let first = resumed_noise.as_ref().map(|resumed| resumed.step);
        // Clearing the memory of a large session takes a while: nobody waits for that.
        let drawing = key.map(|key| Drawing { key, options: noise_options, resumed_at: first });
        let made = Shared::new(name.clone(), resolved, drawing)?;
        let mut held = self.held();
        if let Some(found) = find(&held, &made.resolved)? {
            return Ok(LocalSession::new(found, true));
        }
        if let Some(claim) = &made.claim {
            let begun = held.noises.begin(claim, &name, start_noise_over || first.is_some());
            made.noted().noise_started_over = begun.map_err(of_service)? && start_noise_over;
        }
        let made = Arc::new(made);
        held.sessions.insert(name, Arc::clone(&made));
        Ok(LocalSession::new(made, false))
    }

    /// Another handle of a session that exists. A name may be given with or without `sessions/`.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Invalid`] on `name` where no session could have it.
    pub fn open_session(&self, name: &str) -> Result<LocalSession> {
        Ok(LocalSession::new(self.find(name)?, false))
    }

    /// Tells what a session is and where it stands, without waiting for what it computes.
    ///
    /// # Errors
    /// As [`open_session`](Self::open_session).
    pub fn get_session(&self, name: &str) -> Result<SessionInfo> {
        self.find(name)?.info(false)
    }

    /// Every session, by name, without matrices and trees.
    pub fn list_sessions(&self) -> Vec<SessionInfo> {
        let held = self.held();
        let listed = held.sessions.values().map(|shared| shared.noted().clone());
        listed.map(|info| SessionInfo { rewinds: Vec::new(), ..info }).collect()
    }

    /// Ends a session once the call under way on it is done, and frees its memory. Its handles find it no
    /// more.
    ///
    /// # Errors
    /// As [`open_session`](Self::open_session).
    pub fn delete_session(&self, name: &str) -> Result<()> {
        let found = self.find(name)?;
        let removed = self.held().sessions.remove(&found.name);
        // Whoever is not the one to remove it comes too late.
        let removed = removed.ok_or_else(|| found.not_found())?;
        removed.delete();
        if let Some(claim) = &removed.claim {
            let released = removed.noted().released_steps;
            self.held().noises.end(claim, released);
        }
        Ok(())
    }

    fn find(&self, name: &str) -> Result<Arc<Shared>> {
        let name = full_name(name);
        session_id(&name)?;
        let found = self.held().sessions.get(&name).cloned();
        found.ok_or_else(|| of_service(ServiceError::SessionNotFound { name }))
    }

    /// The key of a session's noise; `None` where nothing is drawn for it.
    fn key_of(&self, resolved: &ResolvedSpec, given: Option<&NoiseKey>) -> Result<Option<NoiseKey>> {
        let Some(noise) = resolved.spec().source.noise() else { return Ok(None) };
        let key = match (&noise.key, given) {
            (KeyOrigin::Given, Some(key)) => key.clone(),
            (KeyOrigin::Fresh | KeyOrigin::Given, _) => fresh_key()?,
            (KeyOrigin::Derived { noise_id }, _) => {
                let message = "source.key.noise_id: there is no master key here to derive a noise from";
                let missing = || Error::NoMasterKey { message: message.into() };
                let master_key = self.inner.master_key.as_ref().ok_or_else(missing)?;
                master_key.derive(noise_id, &resolved.noise_fingerprint())
            }
        };
        Ok(Some(key))
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        // It is changed by one call at a time, each of which leaves it whole.
        self.inner.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for LocalHost {
    /// The names of its sessions: a master key is secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.held().sessions.keys().cloned().collect();
        f.debug_struct("LocalHost").field("sessions", &names).finish_non_exhaustive()
    }
}

/// Whether a noise may be gone on with.
fn check_resumed(
    resolved: &ResolvedSpec,
    key: Option<&NoiseKey>,
    resumed: Option<&ResumedNoise>,
) -> Result<()> {
    let Some(resumed) = resumed else { return Ok(()) };
    let Some(key) = key.filter(|_| resolved.spec().source.is_resumable()) else {
        let rule = "must not be set: the source is not gaussian with a noise_id";
        return Err(Error::invalid("resumed_noise", rule));
    };
    let proof = StepProof::from_slice(resumed.token());
    if proof != Some(key.proof_of_step(resumed.step, &resolved.lanes())) {
        let rule = "must be what was given for this step of this noise, by a holder of this master key";
        return Err(Error::invalid("resumed_noise.token", rule));
    }
    Ok(())
}

/// A key that the operating system makes.
fn fresh_key() -> Result<NoiseKey> {
    let mut bytes = Zeroizing::new([0; 32]);
    let no_bytes = |error| {
        let message = format!("the operating system gives no random bytes: {error}");
        Error::Other { code: Code::Internal, message }
    };
    getrandom::fill(&mut *bytes).map_err(no_bytes)?;
    Ok(NoiseKey::from_bytes(*bytes))
}
