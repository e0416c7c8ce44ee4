//! The services put together, and the drain.

use std::future::Future;
use std::sync::Arc;

use anyhow::Context;
use noised_proto::v1::analysis_server::{self, AnalysisServer};
use noised_proto::v1::sessions_server;
use noised_proto::{FILE_DESCRIPTOR_SET, ServiceError};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::{TcpListenerStream, UnixListenerStream};
use tonic::transport::Server;
use tower::util::MapResponseLayer;

use crate::analysis::AnalysisService;
use crate::compute::Compute;
use crate::config::Config;
use crate::intake::Intake;
use crate::keys::Keys;
use crate::ledger::Ledger;
use crate::lifecycle::Lifecycle;
use crate::listen::{Listener, tune_tcp, tune_unix};
use crate::registry::Registry;
use crate::sessions::{Carrying, SessionsService};

/// What health tells of: the server as a whole, and each service.
const SERVICES: [&str; 3] = ["", sessions_server::SERVICE_NAME, analysis_server::SERVICE_NAME];

/// Serves until `shutdown` is done, and then drains: health says NOT_SERVING, no connection and no new work is taken,
/// and steps under way go on for at most [`Config::drain_timeout`].
///
/// `config.listen` is not looked at: the listener is bound already.
///
/// # Errors
/// Where the compute threads cannot be started or the listener fails. A drain that is cut short is none.
pub async fn run(
    listener: Listener,
    config: Config,
    shutdown: impl Future<Output = ()> + Send,
) -> anyhow::Result<()> {
    let lifecycle = Lifecycle::default();
    let compute = Arc::new(Compute::new("step", config.threads).context("cannot start the compute threads")?);
    // Threads of their own: an analysis may take minutes, and no step waits behind one.
    let analyses =
        Compute::new("analysis", config.threads.div_ceil(2)).context("cannot start the analysis threads")?;
    let (path, patience) = (config.noise_ledger.clone(), config.drain_timeout);
    let ledger = tokio::task::spawn_blocking(move || Ledger::open(path.as_deref(), patience)).await??;
    if config.master_key.is_some() && config.noise_ledger.is_none() {
        tracing::warn!("without noise_ledger, nobody remembers over a restart which noises were drawn");
    }
    let sessions = SessionsService {
        registry: Arc::new(Registry::new(
            config.max_sessions,
            config.max_session_bytes,
            Keys::new(config.master_key, ledger),
        )),
        compute,
        lifecycle: lifecycle.clone(),
        max_message_bytes: config.max_message_bytes,
        max_kept_states: config.max_kept_states,
    };
    if let Some(limit) = config.delete_unnamed_after {
        tokio::spawn(sessions.clone().delete_idle_sessions(limit));
    }
    let analysis = AnalysisService::new(Arc::new(analyses), lifecycle.clone(), config.max_analyses);

    let (mut health, health_service) = tonic_health::server::health_reporter();
    for service in SERVICES {
        health.set_service_status(service, tonic_health::ServingStatus::Serving).await;
    }
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
        .context("the descriptors of the protocol do not read")?;

    let limit = config.max_message_bytes;
    let router = Server::builder()
        .max_frame_size(config.http2_frame_bytes)
        .initial_stream_window_size(config.http2_stream_window_bytes)
        .initial_connection_window_size(config.http2_connection_window_bytes)
        .max_concurrent_streams(config.max_calls_per_connection)
        .layer(MapResponseLayer::new(ServiceError::restate::<tonic::body::Body>))
        .layer(Intake::new(limit))
        .add_service(health_service)
        .add_service(reflection)
        .add_service(Carrying::new(sessions))
        .add_service(
            AnalysisServer::new(analysis).max_decoding_message_size(limit).max_encoding_message_size(limit),
        );

    let address = listener.local_addr().context("the listener has no address")?;
    tracing::info!(
        %address,
        threads = config.threads,
        backend = %noised::kernel::Backend::best(),
        max_session_bytes = config.max_session_bytes,
        "serving"
    );
    let draining = lifecycle.draining.clone().cancelled_owned();
    let server = async {
        match listener {
            Listener::Tcp(listener) => {
                let incoming = TcpListenerStream::new(listener).map(|accepted| accepted.inspect(tune_tcp));
                router.serve_with_incoming_shutdown(incoming, draining).await
            }
            Listener::Unix(listener, file) => {
                let incoming = UnixListenerStream::new(listener).map(|accepted| accepted.inspect(tune_unix));
                let served = router.serve_with_incoming_shutdown(incoming, draining).await;
                drop(file);
                served
            }
        }
    };
    let drain = async {
        shutdown.await;
        tracing::info!(timeout = ?config.drain_timeout, "draining");
        for service in SERVICES {
            health.set_service_status(service, tonic_health::ServingStatus::NotServing).await;
        }
        lifecycle.draining.cancel();
        // A watch has no end of its own, and would keep the drain from ending: who watches is told the above and no more.
        for service in SERVICES {
            health.clear_service_status(service).await;
            health.set_service_status(service, tonic_health::ServingStatus::NotServing).await;
        }
        tokio::time::sleep(config.drain_timeout).await;
    };
    tokio::select! {
        served = server => {
            served.context("the server failed")?;
            tracing::info!("drained");
        }
        () = drain => tracing::warn!("the drain took too long; what was under way is cut"),
    }
    // Calls that a connection still holds end too, whoever embeds this server.
    lifecycle.cut.cancel();
    Ok(())
}
