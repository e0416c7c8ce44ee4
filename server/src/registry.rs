//! The sessions by tenant and name, and the memory promised to them.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use noised::noise::{KeyCheck, NoiseKey, StepProof};
use noised::session::{AnySession, Drawing, NoiseOptions, NoiseState, ResolvedSpec, Source};
use noised_proto::ServiceError;
use tokio_util::sync::CancellationToken;

use crate::durable::{Begun, Durable, Made, Past, Place, StateReader, Stored, StoredSource, elsewhere};
use crate::entry::{Entry, NoiseHalf, Progress, StoredHere};
use crate::identity::{Quota, SessionKey, Tenant};
use crate::keys::{Keyed, Keys};
use crate::last_use::LastUse;
use crate::ledger::{Claim, Ledger};

/// Memory of a session beside what the core counts: its name, its entry here, the allocator's rounding.
const OVERHEAD_BYTES: u64 = 4096;

/// A session to be made.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) resolved: ResolvedSpec,
    /// Whether one that was made for the same will do.
    pub(crate) resume: bool,
    /// Whether the client chose the name.
    pub(crate) named: bool,
    /// Whether nothing else will do.
    pub(crate) must_exist: bool,
    /// What a repetition of the request is known by; empty where it is not to be repeated.
    pub(crate) request_id: String,
    pub(crate) noise: AskedNoise,
    /// The bounds of the session's tenant.
    pub(crate) quota: Quota,
}

/// What is asked of a noise that the server is to draw.
#[derive(Debug, Default)]
pub(crate) struct AskedNoise {
    pub(crate) lookahead: Option<u32>,
    pub(crate) state: Option<NoiseState>,
    /// The key, where the client gave it.
    pub(crate) given_key: Option<NoiseKey>,
    pub(crate) start_over: bool,
    /// Where the noise of a session that is gone is gone on with.
    pub(crate) resumed: Option<Resumed>,
}

/// A step of a noise, and what proves that somebody's checkpoint is of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Resumed {
    pub(crate) step: u64,
    pub(crate) proof: StepProof,
}

/// The sessions of a server.
#[derive(Debug)]
pub(crate) struct Registry {
    sessions: Mutex<BTreeMap<SessionKey, Arc<Entry>>>,
    /// Held while a session is made.
    creating: Arc<tokio::sync::Mutex<()>>,
    max_sessions: usize,
    memory: Arc<Memory>,
    keys: Keys,
    durable: Option<Arc<Durable>>,
}

/// A session that was made or found.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) entry: Arc<Entry>,
    /// Whether it was found.
    pub(crate) resumed: bool,
    /// What is to be stored of one that was made, before anybody is told of it.
    pub(crate) to_store: Option<Box<Begun>>,
}

/// A session that a store has.
pub(crate) struct Restored {
    pub(crate) made: Made,
    pub(crate) past: Past,
    pub(crate) state: Option<StateReader>,
    pub(crate) stored: Arc<Stored>,
    pub(crate) memory: Reservation,
    pub(crate) keyed: Option<Keyed>,
    pub(crate) resolved: Arc<ResolvedSpec>,
}

/// A session on its way into the registry.
struct Entering {
    key: SessionKey,
    named: bool,
    request_id: String,
    session: AnySession,
    noise: Option<NoiseHalf>,
    reservation: Reservation,
    stored: Option<Arc<Stored>>,
}

/// What draws with a key, and what of it the entry keeps.
fn split(
    keyed: Option<Keyed>,
    options: NoiseOptions,
    resumed_at: Option<u64>,
) -> (Option<Drawing>, Option<(KeyCheck, Option<Claim>)>) {
    let Some(Keyed { key, claim, is_derived: _, started_over: _ }) = keyed else { return (None, None) };
    let key_check = key.check();
    (Some(Drawing { key, options, resumed_at }), Some((key_check, claim)))
}

/// Bytes promised to sessions.
#[derive(Debug)]
pub(crate) struct Memory {
    limit: u64,
    promised: Mutex<u64>,
    /// What noises that are remembered take is not free.
    ledger: Arc<Ledger>,
}

impl Memory {
    fn promised(&self) -> MutexGuard<'_, u64> {
        self.promised.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn reserve(self: &Arc<Self>, needed: u64) -> Result<Reservation, ServiceError> {
        let mut promised = self.promised();
        let free = self.limit.saturating_sub(*promised).saturating_sub(self.ledger.memory_bytes());
        if needed > free {
            return Err(ServiceError::MemoryQuota { needed, free, limit: self.limit });
        }
        *promised += needed;
        Ok(Reservation { memory: Arc::clone(self), bytes: needed })
    }
}

/// A promise of memory, until it is dropped.
#[derive(Debug)]
pub(crate) struct Reservation {
    memory: Arc<Memory>,
    bytes: u64,
}

impl Reservation {
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        *self.memory.promised() -= self.bytes;
    }
}

impl Registry {
    pub(crate) fn new(
        max_sessions: usize,
        max_session_bytes: u64,
        keys: Keys,
        durable: Option<Arc<Durable>>,
    ) -> Self {
        let ledger = keys.ledger();
        let memory = Arc::new(Memory { limit: max_session_bytes, promised: Mutex::new(0), ledger });
        Self { sessions: Mutex::default(), creating: Arc::default(), max_sessions, memory, keys, durable }
    }

    /// Makes a session, or finds the one of that name where `resume` is set and it was made for the same.
    /// Where sessions are stored, one that is made has a place in the store. Nothing is allocated for a
    /// session before its memory is promised.
    ///
    /// Clearing the memory of a large session takes a while: call this on a thread that may block, and wait
    /// for a [turn](Self::turn_to_create) first.
    pub(crate) fn create(
        &self,
        key: SessionKey,
        place: Option<Place>,
        asked: Asked,
    ) -> Result<Opened, ServiceError> {
        if let Some(entry) = self.find(&self.sessions(), &key, &asked)? {
            Keys::check_same(&entry, asked.noise.given_key.as_ref())?;
            entry.last_use.note();
            let is_repeated = !asked.resume && entry.is_made_by(&asked.request_id);
            return Ok(Opened { entry, resumed: !is_repeated, to_store: None });
        }
        let Asked { resolved, resume: _, named, must_exist: _, request_id, noise, quota } = asked;
        let resumed = noise.resumed;
        let (options, reservation) = self.reserve(&resolved, noise.lookahead, noise.state)?;
        self.check_quota(&key.tenant, quota, reservation.bytes())?;
        let place = match (&self.durable, place) {
            (None, _) => None,
            (Some(store), Some(place)) => Some((&**store, place)),
            // It was found when its maker looked for it, and is gone.
            (Some(_), None) => return Err(elsewhere()),
        };
        let of = place.as_ref().map(|(store, place)| (*store, place));
        let keyed = self.keys.key_of(&key, of, &resolved, noise)?;
        let started_over = keyed.as_ref().is_some_and(|keyed| keyed.started_over);
        let resumed_at = resumed.map(|Resumed { step, proof: _ }| step);
        let (stored, to_store) = place.map_or((None, None), |(store, place)| {
            let to_keep = keyed.as_ref().filter(|keyed| !keyed.is_derived).map(|keyed| &keyed.key);
            let (stored, begun) = store.begin(place, &key, &resolved, options, to_keep, resumed_at);
            (Some(stored), Some(begun))
        });
        let resolved = Arc::new(resolved);
        let (drawing, keyed) = split(keyed, options, resumed_at);
        let (mut session, drawer) = AnySession::open(Arc::clone(&resolved), drawing)?;
        // In rayon's own pool: no step waits behind it.
        session.touch_state();
        let noise = keyed.zip(drawer).map(|((key_check, claim), drawer)| {
            NoiseHalf::new(drawer, options, key_check, claim, started_over)
        });
        let to_store = to_store.map(|begun| begun.asked_by(named, &request_id, started_over));
        let entry = self.enter(Entering { key, named, request_id, session, noise, reservation, stored });
        Ok(Opened { entry, resumed: false, to_store: to_store.map(Box::new) })
    }

    /// Enters a session that a store has, and that this server has taken. `memory` was promised for it.
    ///
    /// This reads a state: call it on a thread that may block, and wait for a [turn](Self::turn_to_create).
    pub(crate) fn restore(&self, key: SessionKey, restored: Restored) -> Result<Arc<Entry>, ServiceError> {
        let Restored { made, past, state, stored, memory, keyed, resolved } = restored;
        let options = made.options();
        let recovered = past.recovered(stored.source);
        let (drawing, keyed) = split(keyed, options, None);
        let is_input = stored.source == StoredSource::Input;
        let (of_input, of_drawer) = if is_input { (state, None) } else { (None, state) };
        let (session, mut drawer) = AnySession::recover(resolved, drawing, recovered, of_input)?;
        if let (Some(drawer), Some(mut state)) = (&mut drawer, of_drawer)
            && let Err(error) = drawer.restore_state(&mut state)
        {
            if state.is_away() {
                return Err(error.into());
            }
            // It is the noise of step 0 on that this takes, and no more.
            tracing::error!(session = %key, %error, "the stored state is damaged: drawing from step 0 again");
        }
        let noise = keyed.zip(drawer).map(|((key_check, claim), drawer)| {
            NoiseHalf::new(drawer, options, key_check, claim, made.started_over)
        });
        let (named, request_id) = (made.named, made.request_id);
        let stored = Some(stored);
        Ok(self.enter(Entering { key, named, request_id, session, noise, reservation: memory, stored }))
    }

    /// Promises the memory of a session that a store has, and claims its noise: what may be refused, before
    /// the session is taken. Call it on a thread that may block.
    pub(crate) fn prepare(
        &self,
        store: &Durable,
        key: &SessionKey,
        made: &Made,
        resolved: &ResolvedSpec,
    ) -> Result<(Reservation, Option<Keyed>), ServiceError> {
        if self.sessions().len() >= self.max_sessions {
            return Err(ServiceError::SessionQuota { limit: self.max_sessions });
        }
        let memory = self.memory.reserve(self.bytes_of(resolved, made.options()))?;
        Ok((memory, self.keys.key_of_stored(store, key, &made.uid, resolved, made.key()?)?))
    }

    /// What a session takes. Where its steps are stored, it holds a whole gradient.
    fn bytes_of(&self, resolved: &ResolvedSpec, options: NoiseOptions) -> u64 {
        let holds = self.durable.is_some() && matches!(resolved.spec().source, Source::Privatize { .. });
        let held = if holds { resolved.input_bytes() as u64 } else { 0 };
        resolved.cost_with(options).total().saturating_add(held).saturating_add(OVERHEAD_BYTES)
    }

    fn enter(&self, entering: Entering) -> Arc<Entry> {
        let Entering { key, named, request_id, mut session, noise, reservation, stored } = entering;
        if stored.is_some() {
            session.take_whole_steps();
        }
        let progress = Progress { standing: session.standing(), damaged: false };
        let entry = Arc::new(Entry {
            key: key.clone(),
            named,
            last_use: LastUse::now(),
            request_id,
            resolved: Arc::clone(session.resolved()),
            deleted: CancellationToken::new(),
            noise,
            session: Arc::new(tokio::sync::Mutex::new(session)),
            memory: Arc::clone(&self.memory),
            progress: Mutex::new(progress),
            reservation,
            kept_memory: Mutex::default(),
            held_memory: Mutex::default(),
            stored: stored.zip(self.durable.clone()).map(|(stored, durable)| StoredHere { stored, durable }),
        });
        self.sessions().insert(key, Arc::clone(&entry));
        entry
    }

    /// What keeps the sessions, where they are kept.
    pub(crate) fn durable(&self) -> Option<&Arc<Durable>> {
        self.durable.as_ref()
    }

    /// All sessions that are kept.
    pub(crate) fn stored(&self) -> Vec<Arc<Entry>> {
        self.sessions().values().filter(|entry| entry.stored.is_some()).cloned().collect()
    }

    /// Promises the memory of a session, and tells how it is to be run.
    ///
    /// Where nobody says what is to be kept between steps, it is the state: drawing earlier inputs again is
    /// slower, as measured. But where there is no room for the state and it can be done without, it is.
    fn reserve(
        &self,
        resolved: &ResolvedSpec,
        lookahead: Option<u32>,
        state: Option<NoiseState>,
    ) -> Result<(NoiseOptions, Reservation), ServiceError> {
        let reserve = |state| {
            let options = resolved.noise_options(lookahead, state);
            resolved.check_noise_options(options)?;
            Ok((options, self.memory.reserve(self.bytes_of(resolved, options))?))
        };
        let drawn = resolved.spec().source.noise().is_some();
        match reserve(state) {
            Err(ServiceError::MemoryQuota { .. }) if state.is_none() && drawn && resolved.is_replayable() => {
                reserve(Some(NoiseState::Replayed))
            }
            reserved => reserved,
        }
    }

    /// Refuses a session of so many bytes to a tenant that has as many as it may, or as much memory.
    fn check_quota(&self, tenant: &Tenant, quota: Quota, needed: u64) -> Result<(), ServiceError> {
        if quota == Quota::default() {
            return Ok(());
        }
        let first = SessionKey { tenant: tenant.clone(), name: String::new() };
        let sessions = self.sessions();
        let own = sessions.range(first..).take_while(|(key, _)| key.tenant == *tenant);
        let (mut count, mut bytes) = (0, 0_u64);
        for (_, entry) in own {
            count += 1;
            bytes = bytes.saturating_add(entry.memory_bytes());
        }
        quota.check_session(count, bytes, needed)
    }

    /// Sessions are made one after the other, so that many calls for one name promise memory for one session.
    /// Whatever else is asked of the registry goes on meanwhile.
    pub(crate) async fn turn_to_create(&self) -> tokio::sync::OwnedMutexGuard<()> {
        Arc::clone(&self.creating).lock_owned().await
    }

    /// The session of that name, where it may be resumed; `None` where one may be made.
    fn find(
        &self,
        sessions: &BTreeMap<SessionKey, Arc<Entry>>,
        key: &SessionKey,
        asked: &Asked,
    ) -> Result<Option<Arc<Entry>>, ServiceError> {
        match sessions.get(key) {
            Some(entry) if asked.resume || entry.is_made_by(&asked.request_id) => {
                entry.resolved.check_same(&asked.resolved)?;
                Ok(Some(Arc::clone(entry)))
            }
            Some(_) => Err(ServiceError::SessionExists { name: key.name.clone() }),
            None if asked.must_exist => Err(ServiceError::SessionNotFound { name: key.name.clone() }),
            None if sessions.len() >= self.max_sessions => {
                Err(ServiceError::SessionQuota { limit: self.max_sessions })
            }
            None => Ok(None),
        }
    }

    pub(crate) fn get(&self, key: &SessionKey) -> Result<Arc<Entry>, ServiceError> {
        let found = self.sessions().get(key).cloned();
        found.ok_or_else(|| ServiceError::SessionNotFound { name: key.name.clone() })
    }

    /// Ends a session. Its memory is free once the steps under way on it have noticed.
    pub(crate) fn delete(&self, key: &SessionKey) -> Result<Arc<Entry>, ServiceError> {
        let removed = self.sessions().remove(key);
        let entry = removed.ok_or_else(|| ServiceError::SessionNotFound { name: key.name.clone() })?;
        entry.deleted.cancel();
        entry.lose();
        Ok(entry)
    }

    /// Takes out the sessions that no client named, no call is using, and no call has used for `limit`.
    pub(crate) fn remove_idle(&self, limit: Duration) -> Vec<Arc<Entry>> {
        // A call gets hold of a session under this lock alone, so a session that only the map holds is in no
        // call.
        let mut sessions = self.sessions();
        let idle = |entry: &Arc<Entry>| {
            !entry.named && Arc::strong_count(entry) == 1 && entry.last_use.idle_time() >= limit
        };
        let keys: Vec<SessionKey> =
            sessions.iter().filter(|(_, entry)| idle(entry)).map(|(key, _)| key.clone()).collect();
        let removed: Vec<_> = keys.iter().filter_map(|key| sessions.remove(key)).collect();
        for entry in &removed {
            entry.deleted.cancel();
            entry.lose();
        }
        removed
    }

    /// Lets go of a session of which this server stores nothing more. Who still holds it finds that it is
    /// elsewhere.
    pub(crate) fn let_go(&self, entry: &Arc<Entry>) {
        entry.lose();
        let mut sessions = self.sessions();
        if sessions.get(&entry.key).is_some_and(|found| Arc::ptr_eq(found, entry)) {
            sessions.remove(&entry.key);
        }
    }

    /// Takes back a session whose name nobody was told.
    pub(crate) fn take_back(&self, entry: &Arc<Entry>) {
        let mut sessions = self.sessions();
        if sessions.get(&entry.key).is_some_and(|found| Arc::ptr_eq(found, entry)) {
            sessions.remove(&entry.key);
            entry.deleted.cancel();
            entry.lose();
        }
    }

    /// At most `count` sessions after a key, in the order of tenants and names; and whether there are more.
    /// Those of one tenant, where one is given, and otherwise those of all.
    pub(crate) fn page(
        &self,
        of: Option<&Tenant>,
        after: Option<&SessionKey>,
        count: usize,
    ) -> (Vec<Arc<Entry>>, bool) {
        let first = SessionKey { tenant: of.cloned().unwrap_or_default(), name: String::new() };
        let sessions = self.sessions();
        let range = sessions.range((Bound::Excluded(after.unwrap_or(&first)), Bound::Unbounded));
        let in_reach = |key: &SessionKey| of.is_none_or(|tenant| key.tenant == *tenant);
        let mut rest = range.take_while(|(key, _)| in_reach(key)).map(|(_, entry)| entry);
        let page = rest.by_ref().take(count).cloned().collect();
        (page, rest.next().is_some())
    }

    fn sessions(&self) -> MutexGuard<'_, BTreeMap<SessionKey, Arc<Entry>>> {
        // The map is changed by one call at a time, each of which leaves it whole.
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use noised::session::{KeyOrigin, Noise, Source};
    use noised::{DType, Error, MatrixSpec, SessionSpec, Tree};

    use super::*;

    fn resolved(lanes: u64) -> ResolvedSpec {
        SessionSpec::new(MatrixSpec::PrefixSum, Tree::flat(lanes, DType::F32).unwrap()).resolve().unwrap()
    }

    fn registry(max_sessions: usize, max_session_bytes: u64) -> Registry {
        Registry::new(max_sessions, max_session_bytes, Keys::new(None, Ledger::in_memory(10)), None)
    }

    fn key(name: &str) -> SessionKey {
        SessionKey { tenant: Tenant::default(), name: name.into() }
    }

    fn asked(lanes: u64, resume: bool) -> Asked {
        let (must_exist, request_id) = (false, String::new());
        let noise = AskedNoise::default();
        let quota = Quota::default();
        Asked { resolved: resolved(lanes), resume, named: true, must_exist, request_id, noise, quota }
    }

    fn bytes(lanes: u64) -> u64 {
        resolved(lanes).cost().total() + OVERHEAD_BYTES
    }

    #[test]
    fn memory_is_promised_and_given_back() {
        let registry = registry(10, bytes(1000) + bytes(500));
        let Opened { entry: held, .. } = registry.create(key("a"), None, asked(1000, false)).unwrap();
        let refused = registry.create(key("b"), None, asked(501, false)).unwrap_err();
        let expected = ServiceError::MemoryQuota {
            needed: bytes(501),
            free: bytes(500),
            limit: bytes(1000) + bytes(500),
        };
        assert_eq!(refused, expected);
        registry.create(key("b"), None, asked(500, false)).unwrap();
        // What a step under way holds is not free yet.
        registry.delete(&key("a")).unwrap();
        assert!(registry.create(key("c"), None, asked(1000, false)).is_err());
        drop(held);
        registry.create(key("c"), None, asked(1000, false)).unwrap();
    }

    #[test]
    fn what_can_be_drawn_again_is_not_kept_where_there_is_no_room() {
        let source = Source::Gaussian(Noise { stddev: 1.0, key: KeyOrigin::Fresh });
        let coef = vec![1.0, -0.5, 0.25];
        let matrix = MatrixSpec::Toeplitz { coef, column_normalize_for_n: None };
        let tree = Tree::flat(5000, DType::F32).unwrap();
        let resolved =
            || SessionSpec { source: source.clone(), ..SessionSpec::new(matrix.clone(), tree.clone()) };
        let resolved = || resolved().resolve().unwrap();
        let kept = resolved().cost().total() + OVERHEAD_BYTES;
        let state_of = |room, state| {
            let noise = AskedNoise { state, ..AskedNoise::default() };
            let asked = Asked { resolved: resolved(), noise, ..asked(1, false) };
            registry(10, room)
                .create(key("a"), None, asked)
                .map(|opened| opened.entry.noise.as_ref().unwrap().options.state)
        };
        assert_eq!(state_of(kept, None).unwrap(), NoiseState::Kept);
        assert_eq!(state_of(kept - 1, None).unwrap(), NoiseState::Replayed);
        assert!(matches!(state_of(kept - 1, Some(NoiseState::Kept)), Err(ServiceError::MemoryQuota { .. })));
        assert!(matches!(state_of(kept / 2, None), Err(ServiceError::MemoryQuota { .. })));
    }

    #[test]
    fn a_session_that_no_memory_could_hold_is_refused_before_it_is_taken() {
        let registry = registry(10, 1 << 20);
        let error = registry.create(key("a"), None, asked(1 << 40, false)).unwrap_err();
        assert!(matches!(error, ServiceError::MemoryQuota { .. }));
    }

    #[test]
    fn names_are_taken_once_and_resumed_for_the_same() {
        let registry = registry(2, 1 << 20);
        assert!(!registry.create(key("a"), None, asked(5, false)).unwrap().resumed);
        assert!(matches!(
            registry.create(key("a"), None, asked(5, false)),
            Err(ServiceError::SessionExists { .. })
        ));
        assert!(registry.create(key("a"), None, asked(5, true)).unwrap().resumed);
        assert_eq!(
            registry.create(key("a"), None, asked(6, true)).unwrap_err(),
            Error::FingerprintMismatch { field: "tree" }.into()
        );
        let gone = Asked { must_exist: true, ..asked(5, true) };
        let missing = ServiceError::SessionNotFound { name: "b".into() };
        assert_eq!(registry.create(key("b"), None, gone).unwrap_err(), missing);
        // A request that is repeated is answered as it was the first time.
        let by = |id: &str, lanes| Asked { request_id: id.into(), ..asked(lanes, false) };
        assert!(!registry.create(key("b"), None, by("one", 5)).unwrap().resumed);
        assert!(!registry.create(key("b"), None, by("one", 5)).unwrap().resumed);
        let other = registry.create(key("b"), None, by("one", 6)).unwrap_err();
        assert_eq!(other, Error::FingerprintMismatch { field: "tree" }.into());
        for id in ["two", ""] {
            let taken = registry.create(key("b"), None, by(id, 5)).unwrap_err();
            assert_eq!(taken, ServiceError::SessionExists { name: "b".into() });
        }
        assert_eq!(
            registry.create(key("c"), None, asked(5, false)).unwrap_err(),
            ServiceError::SessionQuota { limit: 2 }
        );
    }
}
