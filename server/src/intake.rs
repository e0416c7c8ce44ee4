//! Requests on their way in: a bound on the bytes that are being received, read and worked on, over all
//! connections and on each, and a bound on how slowly they may come.
//!
//! Whoever sends a description makes the server hold it, first as bytes and then as numbers, before there is
//! a session that its memory could be charged to. Steps are not counted: they need a session, and their bytes
//! are passed on.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use noised_proto::ServiceError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::Status;
use tonic::body::Body;
use tower::{Layer, Service};

use crate::connections::Connection;
use crate::lifecycle::Lifecycle;
use crate::sessions::{STEP_PATH, STREAM_PATH};

/// Messages of the longest length that may be held at once.
const MESSAGES: usize = 2;

/// Bytes of a request that are not counted, so that questions of a few bytes are answered however many
/// descriptions are under way. The calls on a connection are bounded, and these bytes with them.
const FREE_BYTES: usize = 64 << 10;

/// How long a client is asked to wait: about as long as a long description takes to be sent and read.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Bytes of a request that must come within the time that a request has: a request that comes byte after byte
/// would hold its place for ever.
pub(crate) const PACE_BYTES: usize = 64 << 10;

/// The bounds, as a layer around the services.
#[derive(Clone, Debug)]
pub(crate) struct Intake {
    free: Arc<Semaphore>,
    limit: usize,
    body_timeout: Duration,
    lifecycle: Lifecycle,
}

impl Intake {
    pub(crate) fn new(max_message_bytes: usize, body_timeout: Duration, lifecycle: Lifecycle) -> Self {
        let limit = MESSAGES.saturating_mul(max_message_bytes).min(Semaphore::MAX_PERMITS);
        Self { free: Arc::new(Semaphore::new(limit)), limit, body_timeout, lifecycle }
    }

    /// For a request that comes over a connection which may hold `of_connection`.
    fn hold(&self, of_connection: Option<Arc<Semaphore>>) -> Arc<Hold> {
        Arc::new(Hold { intake: self.clone(), of_connection, taken: Mutex::new(Taken::default()) })
    }
}

/// What one request holds, until its answer begins.
#[derive(Debug)]
struct Hold {
    intake: Intake,
    of_connection: Option<Arc<Semaphore>>,
    taken: Mutex<Taken>,
}

/// The bytes that came, and leave for those that are counted: of the server, and of the connection.
#[derive(Debug, Default)]
struct Taken {
    bytes: usize,
    leave: [Option<OwnedSemaphorePermit>; 2],
}

impl Hold {
    /// Counts bytes that came.
    fn take(&self, bytes: usize) -> Result<(), ServiceError> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let Taken { bytes: before, leave: [of_server, of_connection] } = &mut *taken;
        let counted = (*before + bytes).saturating_sub(FREE_BYTES) - before.saturating_sub(FREE_BYTES);
        *before += bytes;
        if counted == 0 {
            return Ok(());
        }
        let limit = self.intake.limit;
        if let Some(free) = &self.of_connection {
            acquire(free, counted, of_connection, "bytes of requests on this connection", limit / MESSAGES)?;
        }
        acquire(&self.intake.free, counted, of_server, "bytes of requests", limit)
    }
}

/// Takes leave for so many bytes more, or tells that there are none free.
fn acquire(
    free: &Arc<Semaphore>,
    bytes: usize,
    leave: &mut Option<OwnedSemaphorePermit>,
    what: &'static str,
    limit: usize,
) -> Result<(), ServiceError> {
    let busy = || ServiceError::Busy { what, limit, retry_after: RETRY_AFTER };
    let more = u32::try_from(bytes).map_err(|_| busy())?;
    let more = Arc::clone(free).try_acquire_many_owned(more).map_err(|_| busy())?;
    match leave {
        Some(leave) => leave.merge(more),
        None => *leave = Some(more),
    }
    Ok(())
}

impl<S> Layer<S> for Intake {
    type Service = Counted<S>;

    fn layer(&self, inner: S) -> Counted<S> {
        Counted { inner, intake: self.clone() }
    }
}

/// A service whose requests are counted.
#[derive(Clone, Debug)]
pub(crate) struct Counted<S> {
    inner: S,
    intake: Intake,
}

impl<S> Service<http::Request<Body>> for Counted<S>
where
    S: Service<http::Request<Body>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let path = request.uri().path();
        // A stream of steps minds its own messages: between them a trainer computes.
        if path == STREAM_PATH {
            return Box::pin(self.inner.call(request));
        }
        // Reflection and the watch of a probe are open for as long as their clients like.
        let pace = path.starts_with("/noised.").then(|| Pace::new(&self.intake));
        let connection = request.extensions().get::<Arc<Connection>>();
        let of_connection = connection.map(|connection| Arc::clone(&connection.intake));
        // The bytes of a step are passed on, not held.
        let hold = (path != STEP_PATH).then(|| self.intake.hold(of_connection));
        let within = hold.clone();
        let answer =
            self.inner.call(request.map(|body| Body::new(ReceivedBody { body, hold: within, pace })));
        Box::pin(async move {
            let answer = answer.await;
            drop(hold);
            answer
        })
    }
}

/// How fast a request has to come.
struct Pace {
    timeout: Duration,
    lifecycle: Lifecycle,
    /// Bytes that came since the time began.
    bytes: usize,
    /// The end of the time, from when the body was first waited for.
    end: Option<Pin<Box<dyn Future<Output = ServiceError> + Send>>>,
}

impl Pace {
    fn new(intake: &Intake) -> Self {
        let (timeout, lifecycle) = (intake.body_timeout, intake.lifecycle.clone());
        Self { timeout, lifecycle, bytes: 0, end: None }
    }

    fn note(&mut self, bytes: usize) {
        self.bytes += bytes;
        if self.bytes >= PACE_BYTES {
            self.bytes = 0;
            self.end = None;
        }
    }

    /// Ready with why the request is not waited for any more.
    fn poll_end(&mut self, context: &mut Context<'_>) -> Poll<ServiceError> {
        let Self { timeout, lifecycle, bytes: _, end } = self;
        let end = end.get_or_insert_with(|| {
            let (timeout, draining) = (*timeout, lifecycle.draining.clone());
            Box::pin(async move {
                tokio::select! {
                    // A call that is not there yet would not be begun.
                    () = draining.cancelled() => Lifecycle::refusal(),
                    () = tokio::time::sleep(timeout) => ServiceError::Stalled { bytes: PACE_BYTES, timeout },
                }
            })
        });
        end.as_mut().poll(context)
    }
}

/// The body of a request, which ends with an error where a bound is reached.
struct ReceivedBody {
    body: Body,
    hold: Option<Arc<Hold>>,
    pace: Option<Pace>,
}

impl http_body::Body for ReceivedBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let Self { body, hold, pace } = &mut *self;
        let Poll::Ready(next) = Pin::new(body).poll_frame(context) else {
            let Some(Poll::Ready(why)) = pace.as_mut().map(|pace| pace.poll_end(context)) else {
                return Poll::Pending;
            };
            // Nobody waits for the body after its error.
            *pace = None;
            return Poll::Ready(Some(Err(why.into())));
        };
        let counted = next.map(|frame| {
            let frame = frame?;
            let bytes = frame.data_ref().map_or(0, Bytes::len);
            pace.iter_mut().for_each(|pace| pace.note(bytes));
            hold.iter().try_for_each(|hold| hold.take(bytes))?;
            Ok(frame)
        });
        Poll::Ready(counted)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MESSAGE: usize = 1 << 20;

    fn intake() -> Intake {
        Intake::new(MESSAGE, Duration::from_secs(1), Lifecycle::default())
    }

    #[test]
    fn a_connection_holds_its_share_alone() {
        let intake = intake();
        let connection = Arc::new(Semaphore::new(MESSAGE));
        let hold = || intake.hold(Some(Arc::clone(&connection)));
        let (one, two) = (hold(), hold());
        one.take(MESSAGE).unwrap();
        let refused = two.take(2 * FREE_BYTES + 1).unwrap_err();
        assert!(matches!(refused, ServiceError::Busy { limit: MESSAGE, .. }), "{refused}");
        let another = intake.hold(Some(Arc::new(Semaphore::new(MESSAGE))));
        another.take(MESSAGE).unwrap();
        drop(one);
        hold().take(MESSAGE).unwrap();
    }

    #[test]
    fn bytes_are_counted_past_the_free_ones_and_given_back() {
        let intake = intake();
        let (one, two) = (intake.hold(None), intake.hold(None));
        one.take(FREE_BYTES - 1).unwrap();
        assert_eq!(intake.free.available_permits(), 2 * MESSAGE);
        one.take(11).unwrap();
        one.take(MESSAGE).unwrap();
        assert_eq!(intake.free.available_permits(), MESSAGE - 10);
        two.take(MESSAGE - 10 + FREE_BYTES).unwrap();
        let refused = one.take(1).unwrap_err();
        assert!(matches!(refused, ServiceError::Busy { limit, .. } if limit == 2 * MESSAGE));
        // Short requests still come in.
        intake.hold(None).take(FREE_BYTES).unwrap();
        drop(two);
        one.take(1).unwrap();
        drop(one);
        assert_eq!(intake.free.available_permits(), 2 * MESSAGE);
    }
}
