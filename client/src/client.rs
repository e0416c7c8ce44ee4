//! The client: its servers, and the calls that are not of one session.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use noised::session::{KeyOrigin, NoiseState, ResolvedSpec};
use noised_proto::name::session_name;
use noised_proto::v1;

use crate::analysis::Analysis;
use crate::channel::{ClientBuilder, Settings};
use crate::error::{Error, Result};
use crate::fleet::{Fleet, Server};
use crate::info::SessionInfo;
use crate::key::GivenKey;
use crate::resume::ResumedNoise;
use crate::retry::{Attempts, RetryPolicy};
use crate::targets::Targets;
use crate::way::{Way, asking};

/// Connections to a server, or to several that share a store. Cheap to clone; clones share the connections.
#[derive(Clone, Debug)]
pub struct Client {
    fleet: Arc<Fleet>,
    /// The ids of requests that nobody knows the outcome of, by the session that they were to make.
    unanswered: Arc<Mutex<HashMap<String, String>>>,
}

/// How a session is made. What it is made for is its [`SessionSpec`](noised::SessionSpec).
#[derive(Clone, Debug, Default)]
pub struct CreateOptions {
    /// The last part of its name; where it is empty, one is made up that nobody else has.
    pub id: String,
    /// Go on with a session of that name that was made for the same, where there is one. Where there is none,
    /// one is made that begins at step 0, and [`SessionInfo::resumed`] is false: unless
    /// [`must_exist`](Self::must_exist) forbids it.
    pub resume: bool,
    /// With [`resume`](Self::resume): where there is no session of that name, fail with [`Error::NotFound`].
    /// What a trainer wants that goes on: a session that was deleted, or that did not outlive its server, is
    /// not replaced by new noise.
    pub must_exist: bool,
    /// The key of the noise, where the source's key is [`KeyOrigin::Given`], and only there.
    pub noise_key: Option<GivenKey>,
    /// Where noise of the source's `noise_id` was drawn before, begin it again at step 0 all the same.
    /// Whoever says this answers for no noise being put under two gradients.
    pub start_noise_over: bool,
    /// Of a `gaussian` source with a `noise_id`: go on with the noise of a session that is gone, from this
    /// step on. The server goes the way to that step when its noise is first asked for;
    /// [`Session::rewind`](crate::Session::rewind) to it tells how far that has come.
    pub resumed_noise: Option<ResumedNoise>,
    /// Where the server draws the noise: steps whose noise is ready before it is asked for. Unless set, the
    /// server chooses.
    pub lookahead: Option<u32>,
    /// Where the server draws the noise: what it keeps between steps. Unless set, the planes of the matrix,
    /// or nothing where the server has no room for them and it can be done without.
    pub noise_state: Option<NoiseState>,
}

impl CreateOptions {
    /// The key has to be there where it is what the noise comes from, and nowhere else.
    pub(crate) fn check(&self, resolved: &ResolvedSpec) -> Result<()> {
        let given = resolved.spec().source.noise().is_some_and(|noise| noise.key == KeyOrigin::Given);
        match (&self.noise_key, given) {
            (Some(_), true) | (None, false) => Ok(()),
            (None, true) => Err(Error::invalid("noise_key", "is missing: the source's key is a given one")),
            (Some(_), false) => {
                Err(Error::invalid("noise_key", "must not be set: the source's key is none given"))
            }
        }
    }
}

impl Client {
    /// A client with the default settings for a server at `http://host:port`, `host:port` or `unix:///path`,
    /// or for several that share a store, as [`Targets`] are written. One at `https://host:port` takes a
    /// [`ClientBuilder`] with its authority.
    ///
    /// # Errors
    /// [`Error::Invalid`] where the target is not one; [`Error::Unavailable`] where no server answers there
    /// for as long as the [`RetryPolicy`](crate::RetryPolicy) allows.
    pub async fn connect(target: &str) -> Result<Self> {
        ClientBuilder::new(target)?.connect().await
    }

    /// Where the server is, or the servers are.
    pub fn target(&self) -> &Targets {
        self.fleet.targets()
    }

    pub(crate) fn settings(&self) -> &Settings {
        self.fleet.settings()
    }

    /// The way of a call of the session of this full name.
    pub(crate) fn way(&self, name: &str) -> Way {
        self.way_with(name, self.settings().retry)
    }

    fn way_with(&self, name: &str, retry: RetryPolicy) -> Way {
        Way::new(&self.fleet, name, retry)
    }

    /// Ids of requests to make a session whose answers did not come, by the id of the session.
    pub(crate) fn unanswered(&self) -> MutexGuard<'_, HashMap<String, String>> {
        // Each call changes one entry.
        self.unanswered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Questions about matrices.
    pub fn analysis(&self) -> Analysis {
        Analysis::new(Arc::clone(&self.fleet))
    }

    /// Tells what a session is and where it stands. A name may be given with or without `sessions/`. An
    /// operator names the session of another tenant `tenants/{tenant}/sessions/{id}`, as a list does.
    ///
    /// # Errors
    /// [`Error::NotFound`], and the faults of a connection.
    pub async fn get_session(&self, name: &str) -> Result<SessionInfo> {
        self.look_at(name, false, self.settings().retry).await
    }

    /// The same, or where it stands once nothing is under way on it.
    pub(crate) async fn look_at(&self, name: &str, settled: bool, retry: RetryPolicy) -> Result<SessionInfo> {
        // What the session is made for is known to whoever has a handle.
        let view = if settled { v1::SessionView::Basic } else { v1::SessionView::Full };
        let view = view.into();
        let request = v1::GetSessionRequest { name: full_name(name), view, settled };
        let way = self.way_with(&request.name, retry);
        let session = asking(way, &request, |server: Arc<Server>, request| async move {
            server.sessions().get_session(request).await
        });
        session.await?.try_into()
    }

    /// Every session that is in the memory of a server, by name, without matrices and trees. Of several
    /// servers, those that do not answer are left out.
    ///
    /// # Errors
    /// The faults of a connection, where no server answers.
    pub async fn list_sessions(&self) -> Result<Vec<SessionInfo>> {
        let mut attempts = Attempts::new(self.settings().retry);
        loop {
            match self.list_once().await {
                Ok(sessions) => {
                    attempts.succeeded();
                    return Ok(sessions);
                }
                Err(error) => attempts.pause(error).await?,
            }
        }
    }

    async fn list_once(&self) -> Result<Vec<SessionInfo>> {
        let (mut sessions, mut answered, mut failure) = (Vec::new(), false, None);
        for server in self.fleet.all().await? {
            match list_of(&server).await {
                Ok(of_server) => {
                    sessions.extend(of_server);
                    answered = true;
                }
                Err(error) if error.is_retryable() && self.target().are_several() => {
                    tracing::warn!("the sessions of {} are not listed: {error}", server.target);
                    failure = Some(error);
                }
                Err(error) => return Err(error),
            }
        }
        if let Some(error) = failure.filter(|_| !answered) {
            return Err(error);
        }
        sessions.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(sessions)
    }

    /// Ends a session and frees its memory.
    ///
    /// # Errors
    /// [`Error::NotFound`], also where a first try succeeded and its answer was lost; the faults of a
    /// connection.
    pub async fn delete_session(&self, name: &str) -> Result<()> {
        let request = v1::DeleteSessionRequest { name: full_name(name) };
        let way = self.way(&request.name);
        let deleted = asking(way, &request, |server: Arc<Server>, request| async move {
            server.sessions().delete_session(request).await
        });
        deleted.await.inspect(|()| self.fleet.forget(&request.name))
    }
}

impl ClientBuilder {
    /// Connects, and waits for a server as long as the retry policy allows.
    ///
    /// # Errors
    /// [`Error::Invalid`] where a setting is out of its range; [`Error::Unavailable`] where no server
    /// answers.
    pub async fn connect(self) -> Result<Client> {
        let mut attempts = Attempts::new(self.settings.retry);
        let client = self.connect_lazy()?;
        loop {
            match client.fleet.connect().await {
                Ok(()) => {
                    attempts.succeeded();
                    return Ok(client);
                }
                Err(error) => attempts.pause(error).await?,
            }
        }
    }

    /// A client that connects at its first call. It must be made within a tokio runtime.
    ///
    /// # Errors
    /// [`Error::Invalid`] where a setting is out of its range.
    pub fn connect_lazy(self) -> Result<Client> {
        let access = self.access();
        let fleet = Fleet::new(self.targets, access, self.settings)?;
        Ok(Client { fleet: Arc::new(fleet), unanswered: Arc::default() })
    }
}

/// Every session that is in the memory of a server.
async fn list_of(server: &Server) -> Result<Vec<SessionInfo>> {
    let (mut sessions, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = v1::ListSessionsRequest { page_size: 1000, page_token };
        let page = server.sessions().list_sessions(request).await?.into_inner();
        let v1::ListSessionsResponse { sessions: of_page, next_page_token } = page;
        for session in of_page {
            sessions.push(session.try_into()?);
        }
        if next_page_token.is_empty() {
            return Ok(sessions);
        }
        page_token = next_page_token;
    }
}

pub(crate) fn full_name(name: &str) -> String {
    if name.starts_with("sessions/") || name.starts_with("tenants/") {
        name.to_owned()
    } else {
        session_name(name)
    }
}

#[cfg(test)]
mod tests {
    use noised::session::{Noise, Source};
    use noised::{DType, MatrixSpec, SessionSpec, Tree};

    use super::*;

    fn gaussian(key: KeyOrigin) -> ResolvedSpec {
        let source = Source::Gaussian(Noise { stddev: 1.0, key });
        let spec = SessionSpec::new(MatrixSpec::Identity, Tree::flat(4, DType::F32).unwrap());
        SessionSpec { source, ..spec }.resolve().unwrap()
    }

    #[test]
    fn a_key_goes_with_a_source_that_wants_one() {
        let without = CreateOptions::default();
        let with =
            CreateOptions { noise_key: Some(GivenKey::from_bytes([1; 32])), ..CreateOptions::default() };
        let named = KeyOrigin::Derived { noise_id: "a".into() };
        assert_eq!(with.check(&gaussian(KeyOrigin::Given)), Ok(()));
        assert_eq!(without.check(&gaussian(KeyOrigin::Fresh)), Ok(()));
        let refused = [
            without.check(&gaussian(KeyOrigin::Given)),
            with.check(&gaussian(KeyOrigin::Fresh)),
            with.check(&gaussian(named)),
        ];
        for refused in refused {
            assert!(matches!(refused, Err(Error::Invalid { field, .. }) if field == "noise_key"));
        }
        assert!(!format!("{with:?}").contains('1'));
    }
}
