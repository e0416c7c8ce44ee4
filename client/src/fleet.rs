//! The servers of a client, and which of them is asked for a session.
//!
//! Servers that share a store have each session at one of them. A session that is made goes to the server
//! that rendezvous hashing says: the one whose address has the highest hash together with the session's name.
//! All clients with the same addresses agree on that, and another server's coming or going moves no other
//! session. Where a session is not there, the server that was asked names the one that has it.
//!
//! A client sends nothing to an address that a server names, unless it was given that address itself: a list
//! of the user's, or of the user's name server, says who may see gradients, tokens and keys.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use noised_proto::v1::analysis_client::AnalysisClient;
use noised_proto::v1::sessions_client::SessionsClient;
use uuid::Uuid;

use crate::channel::{Access, Connecting, Settings};
use crate::error::{Error, Result};
use crate::link::Link;
use crate::targets::{Target, Targets};
use crate::tls::Tls;

/// How long a name server may take.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(5);

/// A server, and the connection to it.
#[derive(Clone, Debug)]
pub(crate) struct Server {
    pub(crate) target: Target,
    link: Link,
    sessions: SessionsClient<Link>,
    analysis: AnalysisClient<Link>,
}

impl Server {
    fn new(target: Target, link: Link, settings: &Settings) -> Arc<Self> {
        let limit = settings.message_bytes;
        let sessions = SessionsClient::new(link.clone());
        let analysis = AnalysisClient::new(link.clone());
        Arc::new(Self {
            target,
            link,
            sessions: sessions.max_decoding_message_size(limit).max_encoding_message_size(limit),
            analysis: analysis.max_decoding_message_size(limit).max_encoding_message_size(limit),
        })
    }

    pub(crate) fn link(&self) -> Link {
        self.link.clone()
    }

    pub(crate) fn sessions(&self) -> SessionsClient<Link> {
        self.sessions.clone()
    }

    pub(crate) fn analysis(&self) -> AnalysisClient<Link> {
        self.analysis.clone()
    }
}

/// The servers of a client.
#[derive(Debug)]
pub(crate) struct Fleet {
    targets: Targets,
    access: Access,
    settings: Settings,
    /// Those whose addresses are known now.
    servers: Mutex<Vec<Arc<Server>>>,
    /// Where sessions were found last that are not where rendezvous hashing says.
    homes: Mutex<HashMap<String, Target>>,
    /// What stands for a session's name where any server will do.
    any: String,
}

impl Fleet {
    /// The servers of a client, none of which is connected to yet. Call it within a tokio runtime.
    ///
    /// # Errors
    /// [`Error::Invalid`] where a setting is out of its range.
    pub(crate) fn new(targets: Targets, access: Access, settings: Settings) -> Result<Self> {
        let tls = match &targets {
            // The certificate of a server at one of the addresses has the name.
            Targets::Named { host, port: _, tls: true } if access.tls.server_name.is_none() => {
                Tls { server_name: Some(host.clone()), ..access.tls }
            }
            _ => access.tls,
        };
        let access = Access { tls, ..access };
        let known = match &targets {
            Targets::One(target) => vec![target.clone()],
            Targets::Several(targets) => targets.clone(),
            Targets::Named { .. } => Vec::new(),
        };
        if let Targets::Named { host, port, tls: with } = &targets {
            // A mistake in the settings is told before a name is looked up.
            let named = named_target(*with, format!("{host}:{port}"));
            Connecting { target: &named, access: &access, settings: &settings, is_one_of_several: true }
                .check()?;
        }
        let (servers, homes) = (Mutex::default(), Mutex::default());
        let fleet = Self { targets, access, settings, servers, homes, any: Uuid::new_v4().to_string() };
        fleet.know(known)?;
        Ok(fleet)
    }

    pub(crate) fn targets(&self) -> &Targets {
        &self.targets
    }

    pub(crate) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// What stands for a session's name where any server will do.
    pub(crate) fn any(&self) -> &str {
        &self.any
    }

    fn connecting<'a>(&'a self, target: &'a Target) -> Connecting<'a> {
        let is_one_of_several = self.targets.are_several();
        Connecting { target, access: &self.access, settings: &self.settings, is_one_of_several }
    }

    /// Has these be the addresses of the servers. Those that were known keep their connections.
    fn know(&self, targets: Vec<Target>) -> Result<()> {
        let before = self.servers().clone();
        let server = |target: Target| match before.iter().find(|server| server.target == target) {
            Some(server) => Ok(Arc::clone(server)),
            None => {
                let link = self.connecting(&target).lazy_link()?;
                Ok(Server::new(target, link, &self.settings))
            }
        };
        let servers = targets.into_iter().map(server).collect::<Result<_>>()?;
        *self.servers() = servers;
        Ok(())
    }

    fn servers(&self) -> MutexGuard<'_, Vec<Arc<Server>>> {
        // It is changed as a whole.
        self.servers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn homes(&self) -> MutexGuard<'_, HashMap<String, Target>> {
        self.homes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks the addresses up again, where they are those of a name. What is known stays where that fails.
    ///
    /// # Errors
    /// [`Error::Unavailable`] where the name has no address.
    pub(crate) async fn resolve(&self) -> Result<()> {
        let Targets::Named { host, port, tls } = &self.targets else { return Ok(()) };
        let unavailable = |what: String| {
            Err(Error::Unavailable { message: format!("{}: {what}", self.targets), retry_after: None })
        };
        let looking_up = tokio::net::lookup_host((host.as_str(), *port));
        let found = match tokio::time::timeout(RESOLVE_TIMEOUT, looking_up).await {
            Ok(Ok(found)) => found,
            Ok(Err(error)) => return unavailable(error.to_string()),
            Err(_) => return unavailable("the name server does not answer".into()),
        };
        let mut targets: Vec<_> = found.map(|address| named_target(*tls, address.to_string())).collect();
        targets.sort_by_key(ToString::to_string);
        targets.dedup();
        if targets.is_empty() {
            return unavailable("the name has no address".into());
        }
        self.know(targets)
    }

    /// The servers, looked up where they are not known yet.
    ///
    /// # Errors
    /// Those of [`resolve`](Self::resolve).
    pub(crate) async fn all(&self) -> Result<Vec<Arc<Server>>> {
        if self.servers().is_empty() {
            self.resolve().await?;
        }
        Ok(self.servers().clone())
    }

    /// The servers in the order in which they are asked for a session: where it was found last, and then as
    /// rendezvous hashing says.
    ///
    /// # Errors
    /// Those of [`resolve`](Self::resolve).
    pub(crate) async fn order(&self, key: &str) -> Result<Vec<Arc<Server>>> {
        let mut servers = self.all().await?;
        if servers.len() > 1 {
            let home = self.homes().get(key).cloned();
            servers.sort_by_cached_key(|server| {
                (home.as_ref() != Some(&server.target), std::cmp::Reverse(score(key, &server.target)))
            });
        }
        Ok(servers)
    }

    /// The server at an address, where the client was given the address.
    pub(crate) fn at(&self, address: &str) -> Option<Arc<Server>> {
        let target: Target = address.parse().ok()?;
        self.servers().iter().find(|server| server.target.is(&target)).cloned()
    }

    /// Notes where a session was found, or is said to be.
    pub(crate) fn note_home(&self, key: &str, home: &Target) {
        if self.targets.are_several() {
            let preferred = self.servers().iter().max_by_key(|server| score(key, &server.target)).cloned();
            let mut homes = self.homes();
            if preferred.is_some_and(|preferred| preferred.target == *home) {
                homes.remove(key);
            } else {
                homes.insert(key.to_owned(), home.clone());
            }
        }
    }

    /// Notes that a session is not at a server any more.
    pub(crate) fn forget_home(&self, key: &str, home: &Target) {
        let mut homes = self.homes();
        if homes.get(key) == Some(home) {
            homes.remove(key);
        }
    }

    /// Forgets where a session was found, which is deleted.
    pub(crate) fn forget(&self, key: &str) {
        self.homes().remove(key);
    }

    /// Connects to the first server that answers.
    ///
    /// # Errors
    /// That of the last one, where no server does.
    pub(crate) async fn connect(&self) -> Result<()> {
        let mut failed = None;
        for server in self.order(&self.any).await? {
            match self.connecting(&server.target).link().await {
                Ok(link) => {
                    let connected = Server::new(server.target.clone(), link, &self.settings);
                    self.note_home(&self.any, &server.target);
                    let mut servers = self.servers();
                    if let Some(place) = servers.iter_mut().find(|other| other.target == server.target) {
                        *place = connected;
                    }
                    return Ok(());
                }
                Err(error) if error.is_retryable() => failed = Some(error),
                Err(error) => return Err(error),
            }
        }
        let nobody = || Error::Unavailable { message: "there is no server".into(), retry_after: None };
        Err(failed.unwrap_or_else(nobody))
    }
}

fn named_target(tls: bool, address: String) -> Target {
    if tls { Target::Tls(address) } else { Target::Tcp(address) }
}

/// How much a session belongs to an address.
fn score(key: &str, target: &Target) -> [u8; 32] {
    let mut hash = blake3::Hasher::new_derive_key("noised 2026 place of a session");
    hash.update(&(key.len() as u64).to_le_bytes());
    hash.update(key.as_bytes());
    hash.update(target.to_string().as_bytes());
    *hash.finalize().as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fleet(targets: &str) -> Fleet {
        Fleet::new(targets.parse().unwrap(), Access::default(), Settings::default()).unwrap()
    }

    async fn first(fleet: &Fleet, key: &str) -> Target {
        fleet.order(key).await.unwrap()[0].target.clone()
    }

    #[tokio::test]
    async fn another_server_moves_its_own_sessions_alone() {
        let (three, four) =
            (fleet("http://a:1,http://b:1,http://c:1"), fleet("http://d:1,http://c:1,http://b:1,http://a:1"));
        let (mut moved, mut counts) = (0, HashMap::new());
        for number in 0..300 {
            let key = format!("sessions/s{number}");
            let (before, after) = (first(&three, &key).await, first(&four, &key).await);
            *counts.entry(after.to_string()).or_insert(0) += 1;
            if before != after {
                moved += 1;
                assert_eq!(after, Target::Tcp("d:1".into()));
            }
        }
        assert!((40..120).contains(&moved), "{moved}");
        assert!(counts.values().all(|count| (40..120).contains(count)), "{counts:?}");
    }

    #[tokio::test]
    async fn a_session_is_asked_for_where_it_was_found() {
        let fleet = fleet("http://a:1,http://b:1,http://c:1");
        let order = fleet.order("sessions/x").await.unwrap();
        let last = order[2].target.clone();
        fleet.note_home("sessions/x", &last);
        assert_eq!(first(&fleet, "sessions/x").await, last);
        fleet.forget_home("sessions/x", &order[0].target);
        assert_eq!(first(&fleet, "sessions/x").await, last);
        fleet.forget_home("sessions/x", &last);
        assert_eq!(first(&fleet, "sessions/x").await, order[0].target);
        fleet.note_home("sessions/x", &last);
        fleet.forget("sessions/x");
        assert_eq!(first(&fleet, "sessions/x").await, order[0].target);
        // An address that the client was not given leads nowhere.
        assert!(fleet.at("http://b:1").is_some());
        for unknown in ["http://d:1", "https://b:1", "b", ""] {
            assert!(fleet.at(unknown).is_none(), "{unknown}");
        }
    }
}
