//! Calls whose payloads are not copied on their way out or in.

use bytes::{Bytes, BytesMut};
use noised_proto::carry::{Carried, Carrier, Incoming, OutgoingBody};
use tonic::Status;
use tonic::body::Body;
use tonic::metadata::GRPC_CONTENT_TYPE;
use tower::{Service, ServiceExt};

use crate::link::Link;

/// Opens the call, and reads what it answers before the first message.
pub(crate) async fn call<M: Carrier>(
    mut link: Link,
    path: &'static str,
    body: Body,
    limit: usize,
) -> std::result::Result<Incoming<M>, Status> {
    let broken = |error: tonic::transport::Error| Status::from_error(error.into());
    let mut request = http::Request::post(path).version(http::Version::HTTP_2);
    if let Some(headers) = request.headers_mut() {
        headers.insert(http::header::CONTENT_TYPE, GRPC_CONTENT_TYPE);
        headers.insert(http::header::TE, http::HeaderValue::from_static("trailers"));
    }
    let request = request.body(body).map_err(|error| Status::internal(error.to_string()))?;
    let response = link.ready().await.map_err(broken)?.call(request).await.map_err(broken)?;
    // A refusal may come without a body.
    match Status::from_header_map(response.headers()) {
        Some(status) if status.code() != tonic::Code::Ok => Err(status),
        _ if response.status() != http::StatusCode::OK => {
            Err(Status::unavailable(format!("the server answers {}", response.status())))
        }
        _ => Ok(Incoming::new(response.into_body(), limit)),
    }
}

/// Sends one message, and gives the one that answers it.
pub(crate) async fn unary<Request: Carrier + 'static, Response: Carrier>(
    link: Link,
    path: &'static str,
    request: Request,
    limit: usize,
) -> std::result::Result<tonic::Response<Carried<Response>>, Status> {
    let body = Body::new(OutgoingBody::of_client(tokio_stream::once(Ok(request))));
    let answer = call::<Response>(link, path, body, limit).await?.only_message().await?;
    let ended = || Status::unavailable("the server ended the call without an answer");
    Ok(tonic::Response::new(answer.ok_or_else(ended)?))
}

/// Pieces of memory that follow one another, as one.
pub(crate) fn join(mut pieces: Vec<Bytes>) -> Bytes {
    if pieces.len() <= 1 {
        return pieces.pop().unwrap_or_default();
    }
    let mut whole = BytesMut::with_capacity(pieces.iter().map(Bytes::len).sum());
    pieces.iter().for_each(|piece| whole.extend_from_slice(piece));
    whole.freeze()
}
