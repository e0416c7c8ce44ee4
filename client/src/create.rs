//! Sessions made and taken up.

use std::sync::Arc;

use noised::SessionSpec;
use noised_proto::{session_spec_to_wire, v1};
use uuid::Uuid;

use crate::client::{Client, CreateOptions, full_name};
use crate::error::{Error, Result};
use crate::fleet::Server;
use crate::info::SessionInfo;
use crate::key::GivenKey;
use crate::session::Session;
use crate::way::asking;

impl Client {
    /// Makes a session, or goes on with one.
    ///
    /// A call whose answer was lost is tried again: the server knows its own repetition from somebody else's
    /// call for the same name. Where the time for that is spent, or the future dropped, the same client may
    /// be called again for the same name and gets the session that the first call has made.
    ///
    /// # Errors
    /// [`Error::Invalid`], [`Error::AlreadyExists`], [`Error::FingerprintMismatch`],
    /// [`Error::ResourceExhausted`]; [`Error::NotFound`] with [`CreateOptions::must_exist`];
    /// [`Error::NoiseInUse`], [`Error::NoiseUsed`] and [`Error::NoMasterKey`] where the noise has a
    /// `noise_id`; and the faults of a connection.
    pub async fn create_session(&self, spec: &SessionSpec, options: CreateOptions) -> Result<Session> {
        if !options.id.is_empty() {
            return self.create_named(spec, options, false).await;
        }
        // A session of a name that was just made up is this call's own: the server cannot know that, and a
        // name that it made up would be lost with its answer.
        let id = Uuid::new_v4().to_string();
        self.create_named(spec, CreateOptions { id, ..options }, true).await
    }

    /// The same under a name that is not empty. One that was just made up is the caller's `own`.
    pub(crate) async fn create_named(
        &self,
        spec: &SessionSpec,
        options: CreateOptions,
        own: bool,
    ) -> Result<Session> {
        // What the server would refuse is refused here, under the same name.
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
        let kept = noise_state.map_or(v1::NoiseState::Unspecified, Into::into);
        let session = v1::Session { lookahead, noise_state: kept.into(), ..session_spec_to_wire(spec) };
        let request = v1::CreateSessionRequest {
            session_id: id.clone(),
            session: Some(session),
            // What a name that was just made up belongs to, an older server knows as well.
            resume: resume || own,
            noise_key: Vec::new(),
            start_noise_over,
            view: v1::SessionView::Basic.into(),
            must_exist,
            request_id: self.request_id_for(&id),
            resumed_noise: resumed_noise
                .map(|resumed| v1::ResumedNoise { step: resumed.step, token: resumed.token().to_vec() }),
        };
        let way = self.way(&full_name(&id));
        let made = asking(way, &request, |server: Arc<Server>, request| {
            // Put in last, since requests are not wiped.
            let noise_key = noise_key.as_ref().map(GivenKey::to_wire).unwrap_or_default();
            async move {
                server.sessions().create_session(v1::CreateSessionRequest { noise_key, ..request }).await
            }
        });
        let made = made.await.inspect_err(|error| {
            // Of other errors nobody knows what the server did.
            if !error.is_retryable() && !matches!(error, Error::Other { .. }) {
                self.unanswered().remove(&id);
            }
        })?;
        self.unanswered().remove(&id);
        let mut info = SessionInfo::try_from(made)?;
        info.resumed &= !own;
        if info.fingerprint != *resolved.fingerprint().as_bytes() {
            let message =
                "the server's fingerprint of the session is not this client's: their versions differ";
            return Err(Error::Protocol { message: message.into() });
        }
        info.spec = Some(resolved.spec().clone());
        if must_exist && !info.resumed {
            let message = "the server is older than this client: it has made a session that had to exist";
            // Nobody uses it, and that it was made is what is told.
            let _of_deletion = self.delete_session(&info.name).await;
            return Err(Error::Protocol { message: message.into() });
        }
        Ok(Session::new(self.clone(), info, resolved))
    }

    /// The id of the request that makes a session: that of the last one for the same, where nobody knows what
    /// came of it.
    fn request_id_for(&self, session_id: &str) -> String {
        let mut unanswered = self.unanswered();
        unanswered.entry(session_id.to_owned()).or_insert_with(|| Uuid::new_v4().to_string()).clone()
    }

    /// Takes up a session that exists.
    ///
    /// # Errors
    /// [`Error::NotFound`], and the faults of a connection.
    pub async fn open_session(&self, name: &str) -> Result<Session> {
        let info = self.get_session(name).await?;
        let missing = || Error::Protocol { message: "the server did not tell what the session is".into() };
        let resolved = info.spec.clone().ok_or_else(missing)?.resolve()?;
        Ok(Session::new(self.clone(), info, resolved))
    }
}
