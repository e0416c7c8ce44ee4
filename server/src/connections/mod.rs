//! Connections: taken up to a bound, refused beyond it, and ended when nobody uses them.
//!
//! [`serve`] takes connections until the server drains. Each connection is a task of its own, which speaks
//! HTTP/2 with the peer and hands every call to the services (`connection.rs`). The tasks belong to the
//! future of [`serve`]: when that future is dropped, every connection is closed.

mod buffers;
mod connection;
mod handshake;
mod watched;

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{Request, Response};
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use noised_proto::ServiceError;
use tokio::sync::Semaphore;
use tokio::task::{AbortHandle, JoinSet};
use tonic::Status;
use tonic::body::Body;
use tower::{Service, ServiceExt};

use crate::config::Config;
use crate::gate::METADATA_CEILING;
use crate::lifecycle::Lifecycle;
use crate::listen::{Listener, Stream};
pub(crate) use connection::Connection;
pub(crate) use handshake::Tls;
use handshake::{Opened, begin};

/// Connections beyond the bound that are told so at the same time. The next one takes the place of the
/// oldest: whoever connects and says nothing must not keep others from being told, nor a probe from being
/// answered.
const REFUSED_AT_ONCE: usize = 16;

/// How long a connection beyond the bound may stay to make a call and be refused.
const REFUSAL_TIME: Duration = Duration::from_secs(2);

/// How long a refused client is asked to wait.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Files that the process opens beside its connections: the listener, the runtime's, the ledger, refused
/// connections.
pub(crate) const OTHER_FILES: usize = 24 + REFUSED_AT_ONCE;

/// How long the server waits before it tries again to take a connection, at first and at the most.
const BACKOFF: [Duration; 2] = [Duration::from_millis(10), Duration::from_secs(1)];

/// A condition that lasts is logged so often.
const SAY_EVERY: Duration = Duration::from_secs(60);

/// What connections are held to.
#[derive(Clone, Debug)]
pub(crate) struct Rules {
    /// The server's certificate, where it has one.
    pub(crate) tls: Option<Tls>,
    pub(crate) http2: http2::Builder<TokioExecutor>,
    pub(crate) max_connections: usize,
    /// How long a peer may take for TLS, and then until it has greeted as HTTP/2 has it.
    pub(crate) handshake_timeout: Duration,
    /// How long a connection stays on which no call is open.
    pub(crate) idle_timeout: Duration,
    /// Bytes of requests that one connection may hold: see [`Intake`](crate::intake::Intake).
    pub(crate) intake_bytes: usize,
}

impl Rules {
    pub(crate) fn of(config: &Config, tls: Option<Tls>) -> Self {
        let mut http2 = http2::Builder::new(TokioExecutor::new());
        http2
            .timer(TokioTimer::new())
            .max_frame_size(config.http2_frame_bytes)
            .initial_stream_window_size(config.http2_stream_window_bytes)
            .initial_connection_window_size(config.http2_connection_window_bytes)
            .max_concurrent_streams(config.max_calls_per_connection)
            .max_header_list_size(METADATA_CEILING);
        Self {
            tls,
            http2,
            max_connections: config.max_connections,
            handshake_timeout: config.handshake_timeout,
            idle_timeout: config.idle_timeout,
            intake_bytes: config.max_message_bytes,
        }
    }
}

/// Serves until the server drains, and then until no connection has a call.
pub(crate) async fn serve<S>(listener: Listener, services: S, rules: Rules, lifecycle: &Lifecycle)
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    let mut connections = JoinSet::new();
    let places = Arc::new(Semaphore::new(rules.max_connections));
    let mut refused: VecDeque<AbortHandle> = VecDeque::new();
    let mut full = Notice::default();
    let mut accepting = Accepting::default();
    while let Some(stream) = accepting.next(&listener, lifecycle).await {
        // What has ended is forgotten.
        while connections.try_join_next().is_some() {}
        let (rules, lifecycle) = (rules.clone(), lifecycle.clone());
        if let Ok(place) = Arc::clone(&places).try_acquire_owned() {
            let services = services.clone();
            connections.spawn(async move {
                take(stream, services, &rules, &lifecycle).await;
                drop(place);
            });
            continue;
        }
        if full.is_due() {
            let limit = rules.max_connections;
            tracing::warn!(limit, "as many connections are open as may be: further ones are refused");
        }
        refused.retain(|connection| !connection.is_finished());
        if refused.len() >= REFUSED_AT_ONCE
            && let Some(oldest) = refused.pop_front()
        {
            oldest.abort();
            // Its file is free once the task has ended.
            while !oldest.is_finished() && connections.join_next().await.is_some() {}
        }
        let limit = rules.max_connections;
        let busy = ServiceError::Busy { what: "connections", limit, retry_after: RETRY_AFTER };
        let services = refusing(services.clone(), busy);
        refused.push_back(connections.spawn(async move {
            let served = take(stream, services, &rules, &lifecycle);
            let _ended = tokio::time::timeout(REFUSAL_TIME, served).await;
        }));
    }
    // Whoever tries to connect from here on is refused by the system.
    drop(listener);
    while connections.join_next().await.is_some() {}
}

/// One connection, from its handshake to its end.
///
/// A client that speaks without TLS where the server wants TLS is told so in words, instead of finding the
/// connection broken; and a probe of health that knows no TLS, such as that of Kubernetes, is answered.
async fn take<S>(stream: Stream, services: S, rules: &Rules, lifecycle: &Lifecycle)
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    let peer = stream.peer();
    let opening = begin(stream.into_io(), rules.tls.as_ref());
    let opened = tokio::select! {
        () = lifecycle.draining.cancelled() => return,
        opened = tokio::time::timeout(rules.handshake_timeout, opening) => opened,
    };
    match opened {
        Ok(Ok(Opened::Ready(io))) => connection::drive(io, peer, services, rules, lifecycle).await,
        Ok(Ok(Opened::Plain(io))) => {
            let services = refusing(services, ServiceError::TlsRequired);
            let served = connection::drive(io, peer, services, rules, lifecycle);
            let _ended = tokio::time::timeout(REFUSAL_TIME, served).await;
        }
        Ok(Err(error)) => tracing::info!(%peer, %error, "a TLS handshake failed"),
        Err(_) => tracing::debug!(%peer, "no TLS handshake came in time"),
    }
}

/// Answers every call with a refusal, but for questions how the server is: a full server is a healthy one.
fn refusing<S>(
    services: S,
    refusal: ServiceError,
) -> impl Service<
    Request<Body>,
    Response = Response<Body>,
    Error = Infallible,
    Future = impl Future<Output = Result<Response<Body>, Infallible>> + Send + 'static,
> + Clone
+ Send
+ 'static
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    tower::service_fn(move |request: Request<Body>| {
        let (services, refusal) = (services.clone(), refusal.clone());
        async move {
            if request.uri().path().starts_with("/grpc.health.") {
                return services.oneshot(request).await;
            }
            Ok(Status::from(refusal).into_http())
        }
    })
}

/// Takes connections, and bears with a system that gives none.
#[derive(Debug, Default)]
struct Accepting {
    failed: Notice,
    pause: Duration,
}

impl Accepting {
    /// The next connection; `None` once the server drains.
    async fn next(&mut self, listener: &Listener, lifecycle: &Lifecycle) -> Option<Stream> {
        loop {
            let accepted = tokio::select! {
                biased;
                () = lifecycle.draining.cancelled() => return None,
                accepted = listener.accept() => accepted,
            };
            let error = match accepted {
                Ok(stream) => {
                    self.pause = Duration::ZERO;
                    return Some(stream);
                }
                Err(error) if is_of_peer(&error) => continue,
                Err(error) => error,
            };
            if self.failed.is_due() {
                tracing::warn!(%error, "the system gives no further connection: trying again until it does");
            }
            let [first, most] = BACKOFF;
            self.pause = (self.pause * 2).clamp(first, most);
            tokio::select! {
                () = lifecycle.draining.cancelled() => return None,
                () = tokio::time::sleep(self.pause) => {}
            }
        }
    }
}

/// Whether the peer is gone again, so that the next connection may be taken at once.
fn is_of_peer(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted, TimedOut, WouldBlock};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted | TimedOut | WouldBlock)
}

/// A condition that may last, and is logged at most once in [`SAY_EVERY`].
#[derive(Debug, Default)]
struct Notice(Option<Instant>);

impl Notice {
    fn is_due(&mut self) -> bool {
        let due = self.0.is_none_or(|said| said.elapsed() >= SAY_EVERY);
        if due {
            self.0 = Some(Instant::now());
        }
        due
    }
}
