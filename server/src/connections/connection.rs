//! One connection: its calls, its traffic, and its end.

use std::convert::Infallible;
use std::ops::Range;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::sync::Semaphore;
use tonic::Status;
use tonic::body::Body;
use tower::{Service, ServiceExt};

use super::Rules;
use super::buffers::Buffers;
use super::handshake::{Io, tls_peer};
use super::watched::Watched;
use crate::lifecycle::Lifecycle;
use crate::listen::Peer;

/// Bytes after which a peer has greeted: the preface of HTTP/2, and the head of the settings that follow it.
const GREETING_BYTES: u64 = 24 + 9;

/// Silence after which a connection without a call is closed, once it was asked to end. A peer that listens
/// has ended the connection by then; one that computes, is stopped or is gone is not waited for.
const SILENCE: Duration = Duration::from_millis(250);

/// The same where calls ended meanwhile: the peer may still be reading their answers.
const SILENCE_AFTER_CALLS: Duration = Duration::from_secs(2);

/// How often a connection that was asked to end is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What is known of a connection. Every request has it among its extensions.
#[derive(Debug)]
pub(crate) struct Connection {
    begun: Instant,
    read_bytes: AtomicU64,
    /// When bytes last moved, and when the last call ended, in microseconds since `begun`.
    moved_at: AtomicU64,
    call_ended_at: AtomicU64,
    /// Calls that are open, and those among them that are of noised. Others, such as the watch of a probe,
    /// need not end before the server does.
    calls: AtomicUsize,
    own_calls: AtomicUsize,
    /// Bytes of requests that the connection may still hold.
    pub(crate) intake: Arc<Semaphore>,
    buffers: Mutex<Buffers>,
}

impl Connection {
    pub(crate) fn new(intake_bytes: usize) -> Self {
        Self {
            begun: Instant::now(),
            read_bytes: AtomicU64::new(0),
            moved_at: AtomicU64::new(0),
            call_ended_at: AtomicU64::new(0),
            calls: AtomicUsize::new(0),
            own_calls: AtomicUsize::new(0),
            intake: Arc::new(Semaphore::new(intake_bytes.min(Semaphore::MAX_PERMITS))),
            buffers: Mutex::default(),
        }
    }

    /// Bytes were read into the beginning of the room that their buffer had left, which is told by addresses.
    pub(crate) fn note_read(&self, bytes: usize, room: Range<usize>) {
        self.read_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        self.buffers().note(room);
        self.note_moved();
    }

    /// The end of the buffer that the byte at an address was read into, where that is known.
    pub(crate) fn buffer_end(&self, address: usize) -> Option<usize> {
        self.buffers().end_of(address)
    }

    fn buffers(&self) -> MutexGuard<'_, Buffers> {
        // Wrong at most in what it does not know.
        self.buffers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn note_moved(&self) {
        self.moved_at.store(self.now(), Ordering::Relaxed);
    }

    fn now(&self) -> u64 {
        // Half a million years fit.
        self.begun.elapsed().as_micros() as u64
    }

    fn since(&self, moment: &AtomicU64) -> Duration {
        Duration::from_micros(self.now().saturating_sub(moment.load(Ordering::Relaxed)))
    }

    fn has_greeted(&self) -> bool {
        self.read_bytes.load(Ordering::Relaxed) >= GREETING_BYTES
    }

    /// How long no call has been open.
    fn idle_time(&self) -> Duration {
        match self.calls.load(Ordering::Acquire) {
            0 => self.since(&self.call_ended_at),
            _ => Duration::ZERO,
        }
    }

    /// Ends when the peer did not greet in time, or has had no call for long. Tells which.
    async fn patience(&self, rules: &Rules) -> &'static str {
        tokio::time::sleep(rules.handshake_timeout).await;
        if !self.has_greeted() {
            return "no HTTP/2 preface came in time";
        }
        loop {
            let left = rules.idle_timeout.saturating_sub(self.idle_time());
            if left.is_zero() {
                return "no call for as long as a connection may be idle";
            }
            tokio::time::sleep(left).await;
        }
    }

    /// Ends once no call of noised is open and the peer is silent.
    async fn quiet(&self) {
        let silence = match self.own_calls.load(Ordering::Acquire) {
            0 => SILENCE,
            _ => SILENCE_AFTER_CALLS,
        };
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            if self.own_calls.load(Ordering::Acquire) == 0 && self.since(&self.moved_at) >= silence {
                return;
            }
        }
    }
}

/// Speaks HTTP/2 with a peer until the peer ends the connection or nobody uses it any more.
pub(super) async fn drive<S>(io: Io, peer: Peer, services: S, rules: &Rules, lifecycle: &Lifecycle)
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    let connection = Arc::new(Connection::new(rules.intake_bytes));
    let tls = tls_peer(&io);
    let io = TokioIo::new(Watched { stream: io, connection: Arc::clone(&connection) });
    let service = {
        let connection = Arc::clone(&connection);
        hyper::service::service_fn(move |request: Request<Incoming>| {
            let call = Call::begin(Arc::clone(&connection), request.uri().path());
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(Arc::clone(&connection));
            peer.tell(request.extensions_mut());
            if let Some(tls) = tls.clone() {
                request.extensions_mut().insert(tls);
            }
            let answer = services.clone().oneshot(request);
            async move {
                let answer = answer.await?;
                Ok::<_, Infallible>(answer.map(|body| Body::new(CallBody { body, _call: call })))
            }
        })
    };
    let mut http = pin!(rules.http2.serve_connection(io, service));
    tokio::select! {
        ended = &mut http => {
            if let Err(error) = ended {
                tracing::debug!(%error, "a connection broke");
            }
            return;
        }
        why = connection.patience(rules) => {
            tracing::debug!(why, "a connection is ended");
            if !connection.has_greeted() {
                return;
            }
        }
        () = lifecycle.draining.cancelled() => {}
    }
    // The peer is told not to call any more. Calls that are open, and those that are on their way, are
    // served.
    http.as_mut().graceful_shutdown();
    tokio::select! {
        _ = &mut http => {}
        () = connection.quiet() => {}
    }
}

/// A call that is open on a connection, until it is dropped.
struct Call {
    connection: Arc<Connection>,
    own: bool,
}

impl Call {
    fn begin(connection: Arc<Connection>, path: &str) -> Self {
        let own = path.starts_with("/noised.");
        connection.calls.fetch_add(1, Ordering::AcqRel);
        connection.own_calls.fetch_add(usize::from(own), Ordering::AcqRel);
        Self { connection, own }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let Self { connection, own } = self;
        connection.call_ended_at.store(connection.now(), Ordering::Relaxed);
        connection.note_moved();
        connection.own_calls.fetch_sub(usize::from(*own), Ordering::AcqRel);
        connection.calls.fetch_sub(1, Ordering::AcqRel);
    }
}

/// The body of an answer, with which its call ends.
struct CallBody {
    body: Body,
    _call: Call,
}

impl http_body::Body for CallBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
