//! CreateSession.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use noised::Error;
use noised::noise::{NoiseKey, StepProof};
use noised::session::{KeyOrigin, Noise};
use noised_proto::access::Right;
use noised_proto::{AskedSession, ServiceError, asked_session, name, v1};
use prost::Message;
use serde_json::json;
use tokio::runtime::Handle;
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::audit::{Audit, What};
use crate::durable::Place;
use crate::entry::Entry;
use crate::given_key::GivenKey;
use crate::identity::{Caller, SessionKey};
use crate::registry::{Asked, AskedNoise, Opened, Registry, Resumed};

use super::{STATUS_BYTES, SessionsService, View};

/// What making a session comes to.
type Made = Result<Opened, ServiceError>;

/// Bytes of a request's id.
const MAX_REQUEST_ID_BYTES: usize = 128;

fn check(resume: bool, must_exist: bool, request_id: &str) -> Result<(), Error> {
    if must_exist && !resume {
        return Err(Error::invalid("must_exist", "must not be set without resume"));
    }
    let length = request_id.len();
    if length > MAX_REQUEST_ID_BYTES {
        let rule = format!("must have at most {MAX_REQUEST_ID_BYTES} bytes, found {length}");
        return Err(Error::invalid("request_id", rule));
    }
    Ok(())
}

fn resumed(asked: v1::ResumedNoise) -> Result<Resumed, Error> {
    let v1::ResumedNoise { step, token } = asked;
    let length = token.len();
    let rule = || Error::invalid("resumed_noise.token", format!("must have 32 bytes, found {length}"));
    Ok(Resumed { step, proof: StepProof::from_slice(&token).ok_or_else(rule)? })
}

impl SessionsService {
    pub(super) async fn create(
        &self,
        request: v1::CreateSessionRequest,
        given: Option<GivenKey>,
        caller: &Caller,
    ) -> Result<(v1::Session, Option<Untold>), ServiceError> {
        self.lifecycle.check_open()?;
        let v1::CreateSessionRequest {
            session_id,
            session,
            resume,
            noise_key,
            start_noise_over,
            view,
            must_exist,
            request_id,
            resumed_noise,
        } = request;
        let decoded = Zeroizing::new(noise_key);
        let noise_key = match given {
            Some(given) => given.or(decoded),
            None => decoded,
        };
        check(resume, must_exist, &request_id)?;
        if start_noise_over {
            caller.check(Right::StartNoiseOver, "start_noise_over")?;
        }
        if !noise_key.is_empty() {
            caller.check(Right::GivenKeys, "noise_key")?;
        }
        let goes_on = resumed_noise.map(resumed).transpose()?;
        let view = View::asked(view, View::Basic)?;
        let named = !session_id.is_empty();
        let id = if named { session_id } else { Uuid::new_v4().to_string() };
        name::check_session_id(&id)?;
        let session = session.ok_or_else(|| Error::invalid("session", "is missing"))?;
        // A session that could not be told about must not be made.
        let size = session.encoded_len() + STATUS_BYTES;
        if size > self.max_message_bytes {
            let (size, limit) = (size as u64, self.max_message_bytes as u64);
            return Err(ServiceError::MessageTooLarge { field: "session", size, limit });
        }
        let session_key = caller.key(name::session_name(&id));
        let (service, key, quota) = (self.clone(), session_key.clone(), caller.quota());
        let make = move |key: SessionKey, place: Option<Place>, registry: &Registry| {
            let AskedSession { spec, lookahead, noise_state } = asked_session(session)?;
            let given_key =
                (!noise_key.is_empty()).then(|| NoiseKey::from_slice("noise_key", &noise_key)).transpose()?;
            let start_over = start_noise_over;
            let noise = AskedNoise { lookahead, state: noise_state, given_key, start_over, resumed: goes_on };
            let resolved = spec.resolve()?;
            let asked = Asked { resolved, resume, named, must_exist, request_id, noise, quota };
            registry.create(key, place, asked)
        };
        // A task of its own: a session that is made is stored or let go of, whether or not its caller waits.
        // What came of it is noted there as well.
        let asking = caller.clone();
        let making = tokio::spawn(async move {
            let made = service.make(key, named, make).await;
            match &made {
                Ok((entry, resumed, _)) => service.note_opened(entry, *resumed, goes_on, &asking),
                Err(error) => service.note_refusal(What::SessionMade, error, &session_key, &asking),
            }
            made
        });
        let (entry, resumed, untold) = making.await.map_err(|_| ServiceError::Internal)??;
        // The way to a step of a noise that is gone on with may be long: a rewind to it tells how far it has
        // come, and may be called off. Drawing ahead would go it without a word.
        if goes_on.is_none() {
            entry.draw_ahead(&self.compute);
        }
        Ok((view.of(&entry, resumed, caller), untold))
    }

    /// Logs a session that was made or found.
    fn note_opened(&self, entry: &Entry, resumed: bool, goes_on: Option<Resumed>, caller: &Caller) {
        let (spec, peer) = (entry.resolved.spec(), caller.peer);
        if !resumed {
            let started_over = entry.noise.as_ref().is_some_and(|noise| noise.started_over);
            let gone_on_with = goes_on.map(|Resumed { step, proof: _ }| step);
            let source = spec.source.kind();
            let more = json!({
                "source": source,
                "start_noise_over": started_over,
                "resumed_noise_step": gone_on_with,
            });
            self.audit.done(What::SessionMade, Some(caller), &entry.key, more);
        }
        tracing::info!(
            session = %entry.key,
            %peer,
            resumed,
            matrix = spec.matrix.kind(),
            lanes = entry.resolved.layout().lanes(),
            planes = entry.resolved.plan().planes(),
            precision = %spec.precision,
            source = spec.source.kind(),
            memory_bytes = entry.memory_bytes(),
            "session opened"
        );
        if let Some(Noise { key: KeyOrigin::Derived { noise_id }, .. }) = spec
            .source
            .noise()
            .filter(|_| !resumed && entry.noise.as_ref().is_some_and(|noise| noise.started_over))
        {
            tracing::warn!(
                session = %entry.key,
                %peer,
                noise_id,
                "a noise that was drawn before begins again"
            );
        }
        if let Some(Resumed { step, proof: _ }) = goes_on.filter(|_| !resumed) {
            let released_steps = entry.progress().standing.released_steps;
            tracing::warn!(
                session = %entry.key,
                %peer,
                step,
                released_steps,
                "a noise that was drawn before is gone on with"
            );
        }
    }

    async fn make(
        &self,
        key: SessionKey,
        named: bool,
        make: impl FnOnce(SessionKey, Option<Place>, &Registry) -> Made + Send + 'static,
    ) -> Result<(Arc<Entry>, bool, Option<Untold>), ServiceError> {
        let _key_turn = self.turn(&key).await;
        // A session of that name may be in the store alone.
        let is_there = named && self.find_in_turn(&key).await?.is_some();
        let place = match self.registry.durable().filter(|_| !is_there) {
            Some(durable) => Some(durable.place(&key).await?),
            None => None,
        };
        let (registry, audit) = (Arc::clone(&self.registry), self.audit.clone());
        let turn = registry.turn_to_create().await;
        // A description may hold millions of numbers, each of which is checked, and a session gigabytes, each
        // of which is cleared. No step waits behind that: there is a thread for it, and no more than one,
        // since creations take turns.
        let made = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            let opened = make(key, place, &registry)?;
            let untold = (!named).then(|| Untold::new(registry, audit, Arc::clone(&opened.entry)));
            Ok::<_, ServiceError>((opened, untold))
        });
        let (Opened { entry, resumed, to_store }, untold) =
            made.await.map_err(|_| ServiceError::Internal)??;
        if let Some(begun) = to_store {
            self.store(&entry, &begun).await?;
        }
        Ok((entry, resumed, untold))
    }
}

/// A session under a name that the server made up, until its caller is told the name.
///
/// A caller that goes away before that leaves a session which nobody could use or delete. So the session is
/// taken back when the last of these is dropped, unless it was told.
#[derive(Clone, Debug)]
pub(super) struct Untold(Arc<Naming>);

#[derive(Debug)]
struct Naming {
    registry: Arc<Registry>,
    audit: Audit,
    /// There until this is dropped.
    entry: Option<Arc<Entry>>,
    told: AtomicBool,
}

impl Untold {
    fn new(registry: Arc<Registry>, audit: Audit, entry: Arc<Entry>) -> Self {
        Self(Arc::new(Naming { registry, audit, entry: Some(entry), told: AtomicBool::new(false) }))
    }

    /// The answer is written: from here on its caller is told, unless the connection breaks.
    pub(super) fn told(&self) {
        self.0.told.store(true, Ordering::Release);
    }
}

impl Drop for Naming {
    fn drop(&mut self) {
        let Some(entry) = self.entry.take() else { return };
        if !*self.told.get_mut() {
            tracing::info!(session = %entry.key, "session taken back: its caller is gone");
            self.registry.take_back(&entry);
            self.audit.done(What::SessionDeleted, None, &entry.key, json!({ "caller_is_gone": true }));
            if let (Some(here), Ok(runtime)) = (entry.stored.clone(), Handle::try_current()) {
                let standing = entry.progress().standing.clone();
                runtime.spawn(async move {
                    if let Err(error) = here.durable.end(&here.stored, &standing).await {
                        tracing::warn!(%error, "a session that was taken back stays in the store");
                    }
                });
            }
        }
        // Nobody else may have the session by now. What it came to is written to the disk then, and gigabytes
        // are given back: no call waits behind that.
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn_blocking(move || drop(entry));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use noised::{DType, MatrixSpec, SessionSpec, Tree};
    use noised_proto::session_spec_to_wire;

    use super::super::tests::service;
    use super::*;

    fn request(session_id: &str) -> v1::CreateSessionRequest {
        let spec = SessionSpec::new(MatrixSpec::PrefixSum, Tree::flat(1 << 20, DType::F32).unwrap());
        let session = Some(session_spec_to_wire(&spec));
        v1::CreateSessionRequest { session_id: session_id.into(), session, ..Default::default() }
    }

    /// The names of the sessions once no session is being made.
    async fn names(service: &SessionsService) -> Vec<String> {
        drop(service.registry.turn_to_create().await);
        let (page, _) = service.registry.page(None, None, 100);
        page.into_iter().map(|entry| entry.key.name.clone()).collect()
    }

    async fn until_empty(service: &SessionsService) {
        let empty = async {
            while !names(service).await.is_empty() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), empty).await.expect("a session is left");
    }

    #[tokio::test]
    async fn a_session_whose_caller_is_gone_is_taken_back() {
        let service = service();
        // Gone while the session is made. A call that is done by then is not heard either.
        for _ in 0..5 {
            drop(
                tokio::time::timeout(Duration::ZERO, service.create(request(""), None, &Caller::default()))
                    .await,
            );
        }
        until_empty(&service).await;
        // Gone before the answer was written.
        let (told, untold) = service.create(request(""), None, &Caller::default()).await.unwrap();
        assert_eq!(names(&service).await, [told.name]);
        drop(untold);
        until_empty(&service).await;
        // Told, or named by the caller, who can ask again.
        let (told, untold) = service.create(request(""), None, &Caller::default()).await.unwrap();
        untold.unwrap().told();
        let (_, none) = service.create(request("zzz"), None, &Caller::default()).await.unwrap();
        assert!(none.is_none());
        drop(
            tokio::time::timeout(Duration::ZERO, service.create(request("zzzz"), None, &Caller::default()))
                .await,
        );
        assert_eq!(names(&service).await, [&told.name, "sessions/zzz", "sessions/zzzz"]);
    }

    #[test]
    fn the_last_of_a_session_is_dropped_where_a_thread_may_block() {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.max_blocking_threads(1).enable_all().build().unwrap();
        runtime.block_on(async {
            let service = service();
            let (told, untold) = service.create(request(""), None, &Caller::default()).await.unwrap();
            let entry = Arc::downgrade(&service.registry.get(&Caller::default().key(&told.name)).unwrap());
            // The one thread for what blocks has something else to do.
            let (done, until_done) = std::sync::mpsc::channel::<()>();
            let busy = tokio::task::spawn_blocking(move || until_done.recv());
            drop(untold);
            assert!(names(&service).await.is_empty());
            assert_eq!(entry.strong_count(), 1);
            drop(done);
            busy.await.unwrap().unwrap_err();
            tokio::task::spawn_blocking(|| ()).await.unwrap();
            assert_eq!(entry.strong_count(), 0);
        });
    }
}
