//! Where sessions are: one server or several.

use std::path::PathBuf;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::try_join_all;
use noised::noise::{KeyCheck, MasterKey, NoiseKey};
use noised_client::{
    Client, ClientBuilder, Credential, Error, LocalHost, RetryPolicy, SessionInfo, ShardedSession, Tls,
};
use pyo3::prelude::*;
use pyo3::types::PyList;
use zeroize::Zeroizing;

use crate::error::{Failure, invalid};
use crate::runtime::{Driver, check_process};
use crate::session::{Held, Session, to_dict};
use crate::spec::{Description, key_bytes};

/// One server or several, and the connections to them.
#[pyclass(frozen, module = "noised._noised")]
pub(crate) struct Connection {
    pub(crate) driver: Arc<Driver>,
    pub(crate) place: Place,
}

/// The attributes of `noised.Tls`.
#[derive(FromPyObject)]
struct TlsFiles {
    ca: PathBuf,
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
    server_name: Option<String>,
}

/// The attributes of a `noised._token.Token`.
#[derive(Default, FromPyObject)]
struct TokenOf {
    text: Option<String>,
    file: Option<PathBuf>,
    insecure: bool,
}

impl From<TlsFiles> for Tls {
    fn from(TlsFiles { ca, cert, key, server_name }: TlsFiles) -> Self {
        Self { ca: Some(ca), cert, key, server_name }
    }
}

/// The process that was the first to compute here. A child of it has its memory, with all keys and steps in
/// it, and none of its threads.
static FIRST_LOCAL: LazyLock<u32> = LazyLock::new(std::process::id);
const LOCAL_AND_FORKED: &str = "the process was forked after it used `local:`";

/// Where sessions are.
pub(crate) enum Place {
    /// On servers, of which each holds a shard where there are several.
    Servers(Vec<Client>),
    /// In this process.
    Local(LocalHost),
}

impl Place {
    /// The server that is asked where any would do; `None` for this process.
    pub(crate) fn any(&self) -> Option<&Client> {
        match self {
            Self::Servers(clients) => clients.first(),
            Self::Local(_) => None,
        }
    }

    /// How many hold a part of each session.
    fn len(&self) -> usize {
        match self {
            Self::Servers(clients) => clients.len(),
            Self::Local(_) => 1,
        }
    }
}

#[pymethods]
impl Connection {
    /// This process: the same sessions for everybody in it who has the same master key, or none.
    #[staticmethod]
    #[pyo3(signature = (master_key=None))]
    fn local(master_key: Option<Vec<u8>>) -> PyResult<Self> {
        static HOSTS: Mutex<Vec<(Option<KeyCheck>, LocalHost)>> = Mutex::new(Vec::new());
        check_process(*FIRST_LOCAL, LOCAL_AND_FORKED)?;
        let key = master_key.map(|bytes| key_bytes("master_key", &bytes)).transpose()?;
        let check = key.map(|key| NoiseKey::from_bytes(key).check());
        let mut hosts = HOSTS.lock().unwrap_or_else(PoisonError::into_inner);
        let host = match hosts.iter().find(|(of, _)| *of == check) {
            Some((_, host)) => host.clone(),
            None => {
                let master_key = key.map(MasterKey::from_bytes);
                let host = master_key.map_or_else(LocalHost::new, LocalHost::with_master_key);
                hosts.push((check, host.clone()));
                host
            }
        };
        Ok(Self { driver: Arc::new(Driver::new()?), place: Place::Local(host) })
    }

    /// Connects to every target, and waits for them for at most `patience` seconds.
    #[new]
    #[pyo3(signature = (targets, patience, tls=None, token=None))]
    fn new(
        py: Python<'_>,
        targets: Vec<String>,
        patience: f64,
        tls: Option<TlsFiles>,
        token: Option<TokenOf>,
    ) -> PyResult<Self> {
        if targets.is_empty() {
            return Err(invalid("target", "must name a server"));
        }
        let patience = Duration::try_from_secs_f64(patience).map_err(|e| invalid("patience", e))?;
        let retry = RetryPolicy { max_elapsed: patience, ..RetryPolicy::default() };
        let driver = Arc::new(Driver::new()?);
        let tls = tls.map_or_else(Tls::default, Tls::from);
        let TokenOf { text, file, insecure } = token.unwrap_or_default();
        let text = text.map(Zeroizing::new).map(|text| Credential::from_text(&text)).transpose();
        let credential = text.map_err(Failure::from)?.or(file.map(Credential::File));
        let builders = targets.iter().map(|target| {
            let builder = ClientBuilder::new(target)?.retry(retry).tls(tls.clone()).insecure(insecure);
            Ok(match &credential {
                Some(credential) => builder.token(credential.clone()),
                None => builder,
            })
        });
        let builders: Vec<_> = builders.collect::<Result<_, Failure>>()?;
        let clients = driver.wait(py, None, async {
            Ok(try_join_all(builders.into_iter().map(ClientBuilder::connect)).await.map_err(named)?)
        })?;
        Ok(Self { driver, place: Place::Servers(clients) })
    }

    #[getter]
    fn targets(&self) -> Vec<String> {
        match &self.place {
            Place::Servers(clients) => clients.iter().map(|client| client.target().to_string()).collect(),
            Place::Local(_) => vec!["local:".to_owned()],
        }
    }

    fn create_session(&self, py: Python<'_>, description: Description) -> PyResult<Session> {
        let (spec, options, cut) = description.read()?;
        let held = match &self.place {
            Place::Local(host) => Held::Local(local(py, || host.create_session(&spec, options))?),
            Place::Servers(clients) => self.driver.wait(py, None, async {
                Ok(match &clients[..] {
                    [client] => Held::Server(Box::new(client.create_session(&spec, options).await?)),
                    clients => {
                        Held::Sharded(Box::new(ShardedSession::create(clients, &spec, options, cut).await?))
                    }
                })
            })?,
        };
        Ok(Session::new(Arc::clone(&self.driver), held)?)
    }

    /// Takes up the session of these names, one a server.
    fn open_session(&self, py: Python<'_>, names: Vec<String>) -> PyResult<Session> {
        let held = match (&self.place, &names[..]) {
            (Place::Local(host), [name]) => Held::Local(local(py, || host.open_session(name))?),
            (Place::Local(_), names) => return Err(one_each(names.len(), 1)),
            (Place::Servers(clients), names) => self.driver.wait(py, None, async {
                Ok(match (&clients[..], names) {
                    ([client], [name]) => Held::Server(Box::new(client.open_session(name).await?)),
                    (clients, names) => Held::Sharded(Box::new(ShardedSession::open(clients, names).await?)),
                })
            })?,
        };
        Ok(Session::new(Arc::clone(&self.driver), held)?)
    }

    /// What is said of the sessions of these names, one a server.
    fn get_sessions<'py>(&self, py: Python<'py>, names: Vec<String>) -> PyResult<Bound<'py, PyList>> {
        let infos = match (&self.place, &names[..]) {
            (Place::Local(host), [name]) => vec![local(py, || host.get_session(name))?],
            (Place::Servers(clients), names) if clients.len() == names.len() => {
                self.driver.wait(py, None, async {
                    let calls = clients.iter().zip(names).map(|(client, name)| client.get_session(name));
                    Ok(try_join_all(calls).await?)
                })?
            }
            (place, names) => return Err(one_each(names.len(), place.len())),
        };
        to_list(py, &infos)
    }

    /// The sessions of every server, by name.
    fn list_sessions<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let infos = match &self.place {
            Place::Local(host) => host.list_sessions(),
            Place::Servers(clients) => self.driver.wait(py, None, async {
                Ok(try_join_all(clients.iter().map(Client::list_sessions)).await?.concat())
            })?,
        };
        to_list(py, &infos)
    }

    /// Deletes the sessions of these names, one a server.
    fn delete_sessions(&self, py: Python<'_>, names: Vec<String>) -> PyResult<()> {
        match (&self.place, &names[..]) {
            (Place::Local(host), [name]) => local(py, || host.delete_session(name)),
            (Place::Servers(clients), names) if clients.len() == names.len() => {
                self.driver.wait(py, None, async {
                    for (client, name) in clients.iter().zip(names) {
                        match client.delete_session(name).await {
                            // Of several, a first call may have deleted some.
                            Err(Error::NotFound { .. }) if clients.len() > 1 => {}
                            deleted => deleted?,
                        }
                    }
                    Ok(())
                })
            }
            (place, names) => Err(one_each(names.len(), place.len())),
        }
    }
}

/// Lets the interpreter go for what this process does itself.
pub(crate) fn local<T: Send>(
    py: Python<'_>,
    call: impl FnOnce() -> noised_client::Result<T> + Send,
) -> PyResult<T> {
    check_process(*FIRST_LOCAL, LOCAL_AND_FORKED)?;
    Ok(py.detach(call).map_err(Failure::from)?)
}

/// Names an option as Python does: `tls_ca` is `tls.ca`, and a file with a token is `token` as well.
fn named(error: Error) -> Error {
    let dotted = |text: String| text.strip_prefix("tls_").map(|rest| format!("tls.{rest}")).unwrap_or(text);
    let dotted = |text: String| if text == "token_file" { "token".to_owned() } else { dotted(text) };
    match error {
        Error::Invalid { field, rule } => Error::Invalid { field: dotted(field), rule },
        Error::Tls { message } => Error::Tls { message: dotted(message) },
        other => other,
    }
}

fn one_each(found: usize, expected: usize) -> PyErr {
    invalid("name", format!("must be one for each server: {expected}, found {found}"))
}

fn to_list<'py>(py: Python<'py>, infos: &[SessionInfo]) -> PyResult<Bound<'py, PyList>> {
    let infos: Vec<_> = infos.iter().map(|info| to_dict(py, info)).collect::<PyResult<_>>()?;
    PyList::new(py, infos)
}
