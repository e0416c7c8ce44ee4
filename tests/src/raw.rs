//! gRPC calls of any bytes.

use bytes::{Buf, BufMut, Bytes};
use tokio::task::JoinHandle;
use tokio_stream::StreamExt;
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Channel;
use tonic::{Request, Status};

/// Every method of the two services, by its path.
pub const METHODS: [&str; 15] = [
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
    "/noised.v1.Analysis/CalibrateNoise",
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

/// Sends a message to a method and leaves the call open, until it is aborted. Where it is refused it is tried again.
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

/// Sends messages to a method and takes at most so many answers, up to an error. Every method is called as if it were a
/// stream both ways, which on the wire is the same.
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
