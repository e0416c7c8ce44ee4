//! What the handles of one session share.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use noised::noise::{KeyCheck, NoiseKey};
use noised::session::{Drawing, Fingerprint, ResolvedSpec};
use noised_proto::ServiceError;
use tonic::Status;

use super::engine::{Engine, damaged};
use super::noises::Claim;
use crate::error::{Error, Result};
use crate::info::SessionInfo;

/// How many states a session keeps.
pub(super) const KEPT_STATES: usize = 4;

/// A session, and where it stands.
pub(super) struct Shared {
    pub(super) name: String,
    pub(super) resolved: Arc<ResolvedSpec>,
    pub(super) fingerprint: Fingerprint,
    key_check: Option<KeyCheck>,
    pub(super) claim: Option<Claim>,
    /// None once the session is deleted.
    engine: Mutex<Option<Engine>>,
    /// Readable while the session computes; without what it is made for.
    info: Mutex<SessionInfo>,
    deleted: AtomicBool,
}

impl Shared {
    /// A session that is still to be put under its name.
    pub(super) fn new(name: String, resolved: ResolvedSpec, drawing: Option<Drawing>) -> Result<Self> {
        let resolved = Arc::new(resolved);
        let options = drawing.as_ref().map(|drawing| drawing.options);
        let cost = options.map_or_else(|| resolved.cost(), |options| resolved.cost_with(options));
        check_room(cost.total())?;
        let key_check = drawing.as_ref().map(|drawing| drawing.key.check());
        let engine = Engine::new(Arc::clone(&resolved), drawing)?;
        let fingerprint = resolved.fingerprint();
        let mut info = SessionInfo {
            name: name.clone(),
            spec: None,
            fingerprint: *fingerprint.as_bytes(),
            next_step: 0,
            next_offset: 0,
            lanes: resolved.layout().lanes() as u64,
            step_bytes: resolved.layout().byte_len() as u64,
            memory_bytes: 0,
            resumed: false,
            options,
            kept_steps: Vec::new(),
            rewinds: Vec::new(),
            rewind_count: 0,
            released_steps: 0,
            noise_started_over: false,
            last_used_unix_seconds: unix_seconds(),
            owner: String::new(),
            epoch: 0,
        };
        engine.note_all(&mut info);
        let claim = Claim::of(&resolved);
        let (engine, info, deleted) = (Mutex::new(Some(engine)), Mutex::new(info), AtomicBool::new(false));
        Ok(Self { name, resolved, fingerprint, key_check, claim, engine, info, deleted })
    }

    /// Checks that this is the session that is asked for.
    pub(super) fn check_same(&self, asked: &ResolvedSpec, given: Option<&NoiseKey>) -> Result<()> {
        self.resolved.check_same(asked)?;
        if given.is_some_and(|key| self.key_check != Some(key.check())) {
            return Err(Error::FingerprintMismatch { field: "noise_key".into() });
        }
        Ok(())
    }

    /// Has the session do something, one call after the other.
    pub(super) fn with_engine<T>(&self, work: impl FnOnce(&mut Engine) -> Result<T>) -> Result<T> {
        let mut engine = self.engine.lock().map_err(|_| Error::from(damaged()))?;
        let engine = engine.as_mut().ok_or_else(|| self.not_found())?;
        let done = work(engine);
        let mut noted = self.noted();
        engine.note(&mut noted);
        noted.last_used_unix_seconds = unix_seconds();
        drop(noted);
        done
    }

    /// Where it stands. Nobody waits for that while it computes.
    pub(super) fn noted(&self) -> MutexGuard<'_, SessionInfo> {
        // Plain numbers are whole whatever happened to the thread that wrote them.
        self.info.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a server would tell of it.
    pub(super) fn info(&self, resumed: bool) -> Result<SessionInfo> {
        if self.is_deleted() {
            return Err(self.not_found());
        }
        let spec = Some(self.resolved.spec().clone());
        Ok(SessionInfo { spec, resumed, ..self.noted().clone() })
    }

    pub(super) fn is_deleted(&self) -> bool {
        self.deleted.load(Ordering::Acquire)
    }

    /// Ends it, once what is under way on it is done, and frees its memory. Going back is called off.
    pub(super) fn delete(&self) {
        self.deleted.store(true, Ordering::Release);
        // Nothing is asked of a damaged one any more.
        self.engine.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    pub(super) fn not_found(&self) -> Error {
        of_service(ServiceError::SessionNotFound { name: self.name.clone() })
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Now, in seconds since 1970-01-01 UTC.
fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// An error as it would come from a server.
pub(super) fn of_service(error: ServiceError) -> Error {
    Status::from(error).into()
}

/// Whether the system would give so much memory. A program cannot refuse it once it is asked for in earnest.
pub(super) fn check_room(bytes: u64) -> Result<()> {
    let fits = usize::try_from(bytes).is_ok_and(|bytes| Vec::<u8>::new().try_reserve_exact(bytes).is_ok());
    if fits {
        return Ok(());
    }
    let message = format!("{bytes} bytes of memory are needed, and the system does not give them");
    Err(Error::ResourceExhausted { message, retry_after: None })
}
