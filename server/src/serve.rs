//! The services put together, and the drain.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use noised_proto::v1::analysis_server::{self, AnalysisServer};
use noised_proto::v1::sessions_server;
use noised_proto::{FILE_DESCRIPTOR_SET, ServiceError};
use tonic::body::Body;
use tonic::service::Routes;
use tower::Layer;
use tower::util::MapResponseLayer;

use crate::analysis::AnalysisService;
use crate::audit::Audit;
use crate::compute::Compute;
use crate::config::{Config, open_files, open_files_limit};
use crate::connections::{self, Rules, Tls};
use crate::durable::{Durable, State};
use crate::gate::Gate;
use crate::identity::{Door, Tokens};
use crate::intake::Intake;
use crate::keys::Keys;
use crate::ledger::Ledger;
use crate::lifecycle::Lifecycle;
use crate::listen::Listener;
use crate::registry::Registry;
use crate::reread::Reread;
use crate::sessions::{Carrying, SessionsService};
use crate::tls::TlsFiles;

/// How long calls that are cut have to end.
const CUT_TIME: Duration = Duration::from_millis(500);

/// How long sessions may take to be handed over: Kubernetes kills after 30 s, of which the drain takes 20.
const HAND_OVER_TIME: Duration = Duration::from_secs(8);

/// What health tells of: the server as a whole, and each service.
const SERVICES: [&str; 3] = ["", sessions_server::SERVICE_NAME, analysis_server::SERVICE_NAME];

/// Serves until `shutdown` is done, and then drains: health says NOT_SERVING, no connection and no new work
/// is taken, and steps under way go on for at most [`Config::drain_timeout`].
///
/// `config.listen` is not looked at: the listener is bound already.
///
/// # Errors
/// Where the compute threads cannot be started or the ledger cannot be opened. A drain that is cut short is
/// no error.
pub async fn run(
    listener: Listener,
    config: Config,
    shutdown: impl Future<Output = ()> + Send,
) -> anyhow::Result<()> {
    let mut shutdown = std::pin::pin!(shutdown);
    match Memories::open(&config, shutdown.as_mut()).await? {
        Some(memories) => run_with(listener, config, memories, shutdown).await,
        None => Ok(()),
    }
}

/// What outlives a server, opened before the server listens: who connects to a server that waits for another
/// one's files would wait as well.
#[derive(Debug)]
pub struct Memories {
    /// Which noises were drawn.
    ledger: Arc<Ledger>,
    /// Where sessions are kept.
    state: Option<State>,
}

impl Memories {
    /// Opens the store of a configuration, and its ledger, which lies in the store's directory where no other
    /// place is set; without a file, one that remembers for as long as the server runs. Waits for another
    /// server that has the file, at most for [`Config::drain_timeout`], which is how long one that was asked
    /// to stop may take. `None` where `shutdown` is done before that.
    ///
    /// # Errors
    /// Where the store cannot be opened, or the ledger's file is not a regular one, is damaged, cannot be
    /// read or written, or stays with another server.
    pub async fn open(
        config: &Config,
        shutdown: impl Future<Output = ()> + Send,
    ) -> anyhow::Result<Option<Self>> {
        let (most, patience) = (config.max_noises, config.drain_timeout);
        let state = match config.state.clone() {
            None => None,
            Some(settings) => {
                let key = config.master_key.clone();
                Some(tokio::task::spawn_blocking(move || State::open(&settings, key)).await??)
            }
        };
        let of_directory = state.as_ref().and_then(|state| state.ledger.clone());
        let Some(path) = config.noise_ledger.clone().or(of_directory) else {
            if config.master_key.is_some() && state.is_none() {
                tracing::warn!(
                    "without noise_ledger, nobody remembers over a restart which noises were drawn"
                );
            }
            return Ok(Some(Self { ledger: Ledger::in_memory(most), state }));
        };
        let ledger = Ledger::open_waiting(&path, most, patience, shutdown).await?;
        Ok(ledger.map(|ledger| Self { ledger, state }))
    }
}

/// The same as [`run`], with what outlives the server open already.
///
/// # Errors
/// Where the store does not answer, a certificate cannot be read, the compute threads cannot be started or
/// the listener fails. A drain that is cut short is none.
pub async fn run_with(
    listener: Listener,
    config: Config,
    memories: Memories,
    shutdown: impl Future<Output = ()> + Send,
) -> anyhow::Result<()> {
    let Memories { mut ledger, state } = memories;
    let is_shared = state.as_ref().is_some_and(State::is_shared);
    let master_key = config.master_key.clone().or_else(|| Some(state.as_ref()?.master_key.clone()));
    let durable = open_durable(state, &ledger, &listener).await?;
    if is_shared {
        // Its noises are in the store: other servers that know of this one may have the directory as well.
        ledger = Ledger::in_memory(config.max_noises);
    }
    let lifecycle = Lifecycle::default();
    let audit = Audit::open(config.audit_log.as_deref())?;
    let rules = Rules::of(&config, certificate(&config, &lifecycle, &audit)?);
    let door = door(&config, &lifecycle, audit.clone())?;
    warn(&listener, &config);
    let compute = Arc::new(Compute::new("step", config.threads).context("cannot start the compute threads")?);
    // Threads of their own: an analysis may take minutes, and no step waits behind one.
    let analyses =
        Compute::new("analysis", config.threads.div_ceil(2)).context("cannot start the analysis threads")?;
    let sessions = SessionsService {
        registry: Arc::new(Registry::new(
            config.max_sessions,
            config.max_session_bytes,
            Keys::new(master_key, ledger),
            durable,
        )),
        compute,
        lifecycle: lifecycle.clone(),
        audit,
        max_message_bytes: config.max_message_bytes,
        max_kept_states: config.max_kept_states,
        body_timeout: config.body_timeout,
    };
    let keeping = keep_journals(sessions.registry.durable());
    if let Some(limit) = config.delete_unnamed_after {
        tokio::spawn(sessions.clone().delete_idle_sessions(limit));
    }
    let analysis = AnalysisService::new(Arc::new(analyses), lifecycle.clone(), config.max_analyses);

    let (mut health, health_service) = tonic_health::server::health_reporter();
    for service in SERVICES {
        health.set_service_status(service, tonic_health::ServingStatus::Serving).await;
    }
    let limit = config.max_message_bytes;
    let analysis =
        AnalysisServer::new(analysis).max_decoding_message_size(limit).max_encoding_message_size(limit);
    let routes = with_reflection(Routes::new(health_service))?
        .add_service(Carrying::new(sessions.clone()))
        .add_service(analysis)
        .prepare();
    let intake = Intake::new(limit, config.body_timeout, lifecycle.clone());
    let gate = Gate { max_metadata_bytes: config.max_metadata_bytes, door };
    let services = gate.layer(intake.layer(routes));
    let services = MapResponseLayer::new(ServiceError::restate::<Body>).layer(services);

    let address = listener.local_addr().context("the listener has no address")?;
    tracing::info!(
        %address,
        threads = config.threads,
        backend = %noised::kernel::Backend::best(),
        max_session_bytes = config.max_session_bytes,
        "serving"
    );
    let server = connections::serve(listener, services, rules, &lifecycle);
    let drain = async {
        shutdown.await;
        tracing::info!(timeout = ?config.drain_timeout, "draining");
        for service in SERVICES {
            health.set_service_status(service, tonic_health::ServingStatus::NotServing).await;
        }
        lifecycle.draining.cancel();
        // A watch has no end of its own, and would keep the drain from ending: who watches is told the above
        // and no more.
        for service in SERVICES {
            health.clear_service_status(service).await;
            health.set_service_status(service, tonic_health::ServingStatus::NotServing).await;
        }
        tokio::time::sleep(config.drain_timeout).await;
    };
    let mut server = pin!(server);
    tokio::select! {
        () = &mut server => tracing::info!("drained"),
        () = drain => {
            tracing::warn!("the drain took too long; what was under way is cut");
            lifecycle.cut.cancel();
            // Calls are told, as far as their clients read.
            let _ended = tokio::time::timeout(CUT_TIME, &mut server).await;
        }
    }
    // Calls that a connection still holds end too, whoever embeds this server.
    lifecycle.cut.cancel();
    hand_over(&sessions, &keeping).await;
    Ok(())
}

/// Gives all sessions up, and then the server's lease. What keeps the journals ends in between.
async fn hand_over(sessions: &SessionsService, keeping: &[tokio::task::JoinHandle<()>]) {
    if tokio::time::timeout(HAND_OVER_TIME, sessions.hand_over()).await.is_err() {
        tracing::warn!("handing sessions over took too long; whoever takes the rest fences this server");
    }
    keeping.iter().for_each(tokio::task::JoinHandle::abort);
    if let Some(durable) = sessions.registry.durable() {
        // What was not handed over is taken at once as well.
        let _late = tokio::time::timeout(CUT_TIME, durable.end_lease()).await;
        let _late = tokio::time::timeout(CUT_TIME, durable.fold_all()).await;
        let _late = tokio::time::timeout(CUT_TIME, durable.end_journal()).await;
    }
}

/// Adds what tells clients of the protocol, in the version that most tools still speak as well.
fn with_reflection(routes: Routes) -> anyhow::Result<Routes> {
    let builder = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let unread = "the descriptors of the protocol do not read";
    let routes = routes.add_service(builder().build_v1().context(unread)?);
    Ok(routes.add_service(builder().build_v1alpha().context(unread)?))
}

/// Has a new journal begun where one was fenced, long ones be folded, and the lease be renewed.
fn keep_journals(durable: Option<&Arc<Durable>>) -> Vec<tokio::task::JoinHandle<()>> {
    let Some(durable) = durable else { return Vec::new() };
    let folding = tokio::spawn(Arc::clone(durable).fold_journals());
    let leasing = tokio::spawn(Arc::clone(durable).keep_lease());
    vec![tokio::spawn(Arc::clone(durable).renew_journal()), folding, leasing]
}

/// The sessions of a store; none where none is set, which the operator is told.
async fn open_durable(
    state: Option<State>,
    ledger: &Arc<Ledger>,
    listener: &Listener,
) -> anyhow::Result<Option<Arc<Durable>>> {
    let Some(state) = state else {
        tracing::warn!(
            "without state, all sessions end with this process, and what they had come to is lost"
        );
        return Ok(None);
    };
    let port = listener.local_addr().ok().and_then(|address| address.port());
    let durable = Durable::open(state, port).await.context("state")?;
    let ledger = Arc::clone(ledger);
    let remembered = tokio::task::spawn_blocking(move || ledger.remembered()).await??;
    if !remembered.is_empty() {
        let noises = remembered.len();
        durable.take_over_ledger(remembered).await.context("the noise ledger was not taken over")?;
        tracing::info!(noises, "the noises of the noise ledger are in the store");
    }
    Ok(Some(durable))
}

/// The server's certificate, where it has one, which is read again when it changes.
fn certificate(config: &Config, lifecycle: &Lifecycle, audit: &Audit) -> anyhow::Result<Option<Tls>> {
    let Some(files) = config.tls.clone() else { return Ok(None) };
    let certificate = Reread::open("certificate", files.paths(), move || files.load())?;
    tokio::spawn(Arc::clone(&certificate).watch(lifecycle.clone(), audit.clone()));
    Ok(Some(certificate))
}

/// Who may call the server, where a file says so, which is read again when it changes.
fn door(config: &Config, lifecycle: &Lifecycle, audit: Audit) -> anyhow::Result<Door> {
    let insecure = config.insecure;
    let Some(path) = config.tokens_file.clone() else { return Ok(Door::new(None, audit, insecure)) };
    let tokens = Reread::open("tokens_file", vec![path.clone()], move || Tokens::load(&path))?;
    tracing::info!(callers = tokens.current().len(), "calls need a token or a known certificate");
    tokio::spawn(Arc::clone(&tokens).watch(lifecycle.clone(), audit.clone()));
    Ok(Door::new(Some(tokens), audit, insecure))
}

/// Tells the operator what the settings leave open.
fn warn(listener: &Listener, config: &Config) {
    warn_of_few_files(config);
    let Some(address) = listener.local_addr().ok().filter(|address| !address.is_of_this_machine()) else {
        return;
    };
    match (&config.tls, &config.tokens_file) {
        (None, None) => {
            tracing::warn!(%address, "insecure: whoever reaches the address has all sessions, without TLS");
        }
        (None, Some(_)) => {
            tracing::warn!(%address, "insecure: tokens and payloads cross the network without TLS");
        }
        (Some(TlsFiles { client_ca: None, .. }), None) => {
            tracing::warn!(
                %address,
                "without tls_client_ca or tokens_file, whoever reaches the address has all sessions"
            );
        }
        (Some(_), _) => {}
    }
}

/// Tells the operator where the system has fewer files than the settings need.
fn warn_of_few_files(config: &Config) {
    let needed = open_files(config);
    if let Some(limit) = open_files_limit().filter(|&limit| limit < needed) {
        let max_connections = config.max_connections;
        tracing::warn!(
            limit,
            needed,
            max_connections,
            "the limit on open files is lower than max_connections needs"
        );
    }
}
