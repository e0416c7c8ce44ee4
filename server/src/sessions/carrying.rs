//! The way into the service for the calls with payloads.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use noised_proto::v1::sessions_server::SessionsServer;
use tonic::Status;
use tonic::body::Body;
use tonic::server::NamedService;

use super::SessionsService;
use super::create::Untold;
use crate::given_key::{self, GivenKey, Wiper};

/// An answer to a request of the longest length is longer by its flags.
const ANSWER_SLACK_BYTES: usize = 64;

/// One step in a message.
pub(crate) const STEP_PATH: &str = "/noised.v1.Sessions/MultiplyNext";

/// Any number of steps, in chunks.
pub(crate) const STREAM_PATH: &str = "/noised.v1.Sessions/StreamMultiplyNext";

/// The service, with the calls that carry payloads taken as they come from the connection.
#[derive(Clone, Debug)]
pub(crate) struct Carrying {
    sessions: SessionsService,
    generated: SessionsServer<SessionsService>,
    wiper: Wiper,
}

impl Carrying {
    /// `max_message_bytes` bounds messages either way.
    pub(crate) fn new(sessions: SessionsService) -> Self {
        let limit = sessions.max_message_bytes;
        let generated = SessionsServer::new(sessions.clone())
            .max_decoding_message_size(limit)
            .max_encoding_message_size(limit + ANSWER_SLACK_BYTES);
        Self { sessions, generated, wiper: Wiper::default() }
    }
}

impl NamedService for Carrying {
    const NAME: &'static str = <SessionsServer<SessionsService> as NamedService>::NAME;
}

impl tower::Service<http::Request<Body>> for Carrying {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let request = match request.uri().path() {
            STREAM_PATH => return Box::pin(std::future::ready(Ok(self.sessions.stream_carried(request)))),
            STEP_PATH => {
                let sessions = self.sessions.clone();
                return Box::pin(async move { Ok(sessions.step_carried(request).await) });
            }
            given_key::PATH => GivenKey::take_from(request, &self.wiper),
            _ => request,
        };
        let answer = self.generated.call(request);
        Box::pin(async move {
            let mut answer = answer.await?;
            Ok(match answer.extensions_mut().remove::<Untold>() {
                Some(untold) => answer.map(|body| Body::new(TellingBody { body, untold })),
                None => answer,
            })
        })
    }
}

/// The body of an answer that tells the name of a session.
struct TellingBody {
    body: Body,
    untold: Untold,
}

impl http_body::Body for TellingBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let next = ready!(Pin::new(&mut self.body).poll_frame(context));
        // The status comes last.
        if next.as_ref().is_none_or(|frame| frame.as_ref().is_ok_and(Frame::is_trailers)) {
            self.untold.told();
        }
        Poll::Ready(next)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
