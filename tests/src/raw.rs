//! gRPC calls of any bytes.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http_body_util::BodyExt;
use tokio::task::JoinHandle;
use tokio_stream::StreamExt;
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Channel;
use tonic::{Request, Status};
use tower::Service;

use crate::server::Connection;

/// Every method of the two services, by its path.
pub const METHODS: [&str; 17] = [
    "/noised.v1.Sessions/CreateSession",
    "/noised.v1.Sessions/GetSession",
    "/noised.v1.Sessions/ListSessions",
    "/noised.v1.Sessions/DeleteSession",
    "/noised.v1.Sessions/MultiplyNext",
    "/noised.v1.Sessions/StreamMultiplyNext",
    "/noised.v1.Analysis/Materialize",
    "/noised.v1.Analysis/RowNormsSquared",
    "/noised.v1.Analysis/Multiply",
    "/noised.v1.Analysis/Describe",
    "/noised.v1.Analysis/ComputeErrors",
    "/noised.v1.Analysis/ComputeSensitivity",
    "/noised.v1.Analysis/OptimizeStrategy",
    "/noised.v1.Analysis/RecommendStrategy",
    "/noised.v1.Analysis/FinishSearch",
    "/noised.v1.Analysis/CalibrateNoise",
    "/noised.v1.Analysis/ComputePrivacy",
];

/// Messages are their bytes.
#[derive(Clone, Copy, Debug, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, message: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(message);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}

/// Sends a message to a method and leaves the call open, until it is aborted. Where it is refused it is tried
/// again.
pub fn stall(channel: &Channel, path: &'static str, message: Bytes) -> JoinHandle<()> {
    let mut grpc = Grpc::new(channel.clone());
    tokio::spawn(async move {
        loop {
            grpc.ready().await.unwrap();
            let request = Request::new(tokio_stream::once(message.clone()).chain(tokio_stream::pending()));
            let _refused = grpc.streaming(request, PathAndQuery::from_static(path), Raw).await;
        }
    })
}

/// Sends a message to a method without its last byte, leaves the call open, and gives how it ends.
pub async fn unfinished(channel: &Channel, path: &'static str, message: Bytes) -> Status {
    let mut prefixed = BytesMut::with_capacity(5 + message.len());
    prefixed.put_u8(0);
    prefixed.put_u32(message.len() as u32);
    prefixed.put_slice(&message[..message.len() - 1]);
    let mut channel = channel.clone();
    std::future::poll_fn(|context| channel.poll_ready(context)).await.unwrap();
    let response = channel.call(opened(path, prefixed.freeze())).await.unwrap();
    if let Some(status) = Status::from_header_map(response.headers()) {
        return status;
    }
    match response.into_body().collect().await {
        Ok(body) => Status::from_header_map(body.trailers().unwrap()).unwrap(),
        Err(status) => status,
    }
}

/// Opens a call over a connection of its own, with a deadline as the protocol writes it, sends nothing, and
/// gives how the server ends the call. (A client of tonic ends it by itself.)
pub async fn unfinished_until(
    connection: Box<dyn Connection>,
    path: &'static str,
    timeout: &'static str,
) -> Status {
    let executor = hyper_util::rt::TokioExecutor::new();
    let io = hyper_util::rt::TokioIo::new(connection);
    let (mut calls, driver) = hyper::client::conn::http2::handshake(executor, io).await.unwrap();
    let driver = tokio::spawn(driver);
    let mut request = opened(path, Bytes::new());
    request.headers_mut().insert("grpc-timeout", timeout.parse().unwrap());
    let response = calls.send_request(request).await.unwrap();
    driver.abort();
    Status::from_header_map(response.headers()).unwrap()
}

/// A call whose body begins with these bytes and does not end.
fn opened(path: &'static str, beginning: Bytes) -> http::Request<tonic::body::Body> {
    let first = tokio_stream::once(Ok::<_, Status>(http_body::Frame::data(beginning)));
    let body = http_body_util::StreamBody::new(first.chain(tokio_stream::pending()));
    http::Request::post(format!("http://localhost{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(tonic::body::Body::new(body))
        .unwrap()
}

/// Sends messages to a method and takes at most so many answers, up to an error. Every method is called as if
/// it were a stream both ways, which on the wire is the same.
pub async fn call(
    channel: &Channel,
    path: &str,
    messages: Vec<Bytes>,
    most: usize,
) -> (Vec<Bytes>, Option<Status>) {
    let mut grpc = Grpc::new(channel.clone()).max_decoding_message_size(1 << 30);
    grpc.ready().await.unwrap();
    let path: PathAndQuery = path.parse().unwrap();
    let request = Request::new(tokio_stream::iter(messages));
    let mut answers = Vec::new();
    let mut stream = match grpc.streaming(request, path, Raw).await {
        Ok(response) => response.into_inner(),
        Err(status) => return (answers, Some(status)),
    };
    while answers.len() < most {
        match stream.message().await {
            Ok(Some(answer)) => answers.push(answer),
            Ok(None) => break,
            Err(status) => return (answers, Some(status)),
        }
    }
    (answers, None)
}
