//! A bound on the bytes of requests that are being received, read and worked on, over all connections.
//!
//! Whoever sends a description makes the server hold it, first as bytes and then as numbers, before there is a session
//! that its memory could be charged to. Steps are not counted: they need a session, and their bytes are passed on.

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

/// Messages of the longest length that may be held at once.
const MESSAGES: usize = 2;

/// Bytes of a request that are not counted, so that questions of a few bytes are answered however many descriptions are
/// under way. The calls on a connection are bounded, and these bytes with them.
const FREE_BYTES: usize = 64 << 10;

/// How long a client is asked to wait: about as long as a long description takes to be sent and read.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Calls that are not counted.
const STEPS: [&str; 2] = ["/noised.v1.Sessions/MultiplyNext", "/noised.v1.Sessions/StreamMultiplyNext"];

/// The bound, as a layer around the services.
#[derive(Clone, Debug)]
pub(crate) struct Intake {
    free: Arc<Semaphore>,
    limit: usize,
}

impl Intake {
    pub(crate) fn new(max_message_bytes: usize) -> Self {
        let limit = MESSAGES.saturating_mul(max_message_bytes).min(Semaphore::MAX_PERMITS);
        Self { free: Arc::new(Semaphore::new(limit)), limit }
    }

    fn hold(&self) -> Arc<Hold> {
        Arc::new(Hold { intake: self.clone(), taken: Mutex::new((0, None)) })
    }
}

/// What one request holds, until its answer begins.
#[derive(Debug)]
struct Hold {
    intake: Intake,
    /// The bytes that came, and leave for those that are counted.
    taken: Mutex<(usize, Option<OwnedSemaphorePermit>)>,
}

impl Hold {
    /// Counts bytes that came.
    fn take(&self, bytes: usize) -> Result<(), ServiceError> {
        let Intake { free, limit } = &self.intake;
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let (before, permit) = &mut *taken;
        let counted = (*before + bytes).saturating_sub(FREE_BYTES) - before.saturating_sub(FREE_BYTES);
        *before += bytes;
        if counted == 0 {
            return Ok(());
        }
        let busy =
            || ServiceError::Busy { what: "bytes of requests", limit: *limit, retry_after: RETRY_AFTER };
        let more = u32::try_from(counted).map_err(|_| busy())?;
        let more = Arc::clone(free).try_acquire_many_owned(more).map_err(|_| busy())?;
        match permit {
            Some(permit) => permit.merge(more),
            None => *permit = Some(more),
        }
        Ok(())
    }
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
        if STEPS.contains(&request.uri().path()) {
            return Box::pin(self.inner.call(request));
        }
        let hold = self.intake.hold();
        let within = Arc::clone(&hold);
        let answer = self.inner.call(request.map(|body| Body::new(CountedBody { body, hold: within })));
        Box::pin(async move {
            let answer = answer.await;
            drop(hold);
            answer
        })
    }
}

/// The body of a request, which ends with an error where the bound is reached.
struct CountedBody {
    body: Body,
    hold: Arc<Hold>,
}

impl http_body::Body for CountedBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let Poll::Ready(next) = Pin::new(&mut self.body).poll_frame(context) else {
            return Poll::Pending;
        };
        let counted = next.map(|frame| {
            let frame = frame?;
            self.hold.take(frame.data_ref().map_or(0, Bytes::len))?;
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

    #[test]
    fn bytes_are_counted_past_the_free_ones_and_given_back() {
        let intake = Intake::new(MESSAGE);
        let (one, two) = (intake.hold(), intake.hold());
        one.take(FREE_BYTES - 1).unwrap();
        assert_eq!(intake.free.available_permits(), 2 * MESSAGE);
        one.take(11).unwrap();
        one.take(MESSAGE).unwrap();
        assert_eq!(intake.free.available_permits(), MESSAGE - 10);
        two.take(MESSAGE - 10 + FREE_BYTES).unwrap();
        let refused = one.take(1).unwrap_err();
        assert!(matches!(refused, ServiceError::Busy { limit, .. } if limit == 2 * MESSAGE));
        // Short requests still come in.
        intake.hold().take(FREE_BYTES).unwrap();
        drop(two);
        one.take(1).unwrap();
        drop(one);
        assert_eq!(intake.free.available_permits(), 2 * MESSAGE);
    }
}
