//! The way into the service for the call whose payloads are large.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use noised_proto::v1::sessions_server::SessionsServer;
use tonic::body::Body;
use tonic::server::NamedService;

use super::SessionsService;

/// An answer to a request of the longest length is longer by its flags.
const ANSWER_SLACK_BYTES: usize = 64;

const STREAM_PATH: &str = "/noised.v1.Sessions/StreamMultiplyNext";

/// The service, with the one call whose payloads are large taken as it comes from the connection.
#[derive(Clone, Debug)]
pub(crate) struct Carrying {
    sessions: SessionsService,
    generated: SessionsServer<SessionsService>,
}

impl Carrying {
    /// `max_message_bytes` bounds messages either way.
    pub(crate) fn new(sessions: SessionsService) -> Self {
        let limit = sessions.max_message_bytes;
        let generated = SessionsServer::new(sessions.clone())
            .max_decoding_message_size(limit)
            .max_encoding_message_size(limit + ANSWER_SLACK_BYTES);
        Self { sessions, generated }
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
        if request.uri().path() == STREAM_PATH {
            return Box::pin(std::future::ready(Ok(self.sessions.stream_carried(request))));
        }
        self.generated.call(request)
    }
}
