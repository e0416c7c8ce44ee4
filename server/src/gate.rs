//! What every call goes through first: the bound on its metadata, who makes it, and its deadline.

use std::convert::Infallible;
use std::future::ready;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{HeaderMap, Request, Response};
use noised_proto::ServiceError;
use tonic::Status;
use tonic::body::Body;
use tower::{Layer, Service};

use crate::identity::Door;

/// What a header counts beside its name and value: RFC 9113, section 6.5.2.
const HEADER_BYTES: usize = 32;

/// Metadata up to this length is read, so that its call alone is refused. HTTP/2 has it that longer metadata
/// is answered without a gRPC status, and metadata of four times this length ends the connection.
pub(crate) const METADATA_CEILING: u32 = 256 << 10;

/// The gate, as a layer around the services.
#[derive(Clone, Debug)]
pub(crate) struct Gate {
    pub(crate) max_metadata_bytes: usize,
    /// Who may come in.
    pub(crate) door: Door,
}

impl Gate {
    /// Lets a call in, of which nothing but the headers was read.
    fn check(&self, request: &mut Request<Body>) -> Result<(), ServiceError> {
        let (size, limit) = (metadata_bytes(request.headers()), self.max_metadata_bytes);
        if size > limit {
            return Err(ServiceError::MetadataTooLarge { size, limit });
        }
        self.door.check(request)
    }
}

impl<S> Layer<S> for Gate {
    type Service = Gated<S>;

    fn layer(&self, inner: S) -> Gated<S> {
        Gated { inner, gate: self.clone() }
    }
}

/// Services behind the gate.
#[derive(Clone, Debug)]
pub(crate) struct Gated<S> {
    inner: S,
    gate: Gate,
}

impl<S> Service<Request<Body>> for Gated<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        if let Err(error) = self.gate.check(&mut request) {
            return Box::pin(ready(Ok(refused(error))));
        }
        let deadline = deadline(request.headers());
        let answer = self.inner.call(request);
        let Some(deadline) = deadline else {
            return Box::pin(answer);
        };
        Box::pin(async move {
            match tokio::time::timeout(deadline, answer).await {
                Ok(answer) => answer,
                Err(_) => Ok(refused(ServiceError::DeadlinePassed)),
            }
        })
    }
}

fn refused(error: ServiceError) -> Response<Body> {
    Status::from(error).into_http()
}

/// The length of metadata as HTTP/2 counts it.
fn metadata_bytes(headers: &HeaderMap) -> usize {
    headers.iter().map(|(name, value)| name.as_str().len() + value.len() + HEADER_BYTES).sum()
}

/// The time that a client gives a call, as the header `grpc-timeout` has it.
pub(crate) fn deadline(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let plain = digits.len() <= 8 && digits.bytes().all(|digit| digit.is_ascii_digit());
    let count: u64 = digits.parse().ok().filter(|_| plain)?;
    Some(match unit {
        "H" => Duration::from_secs(count * 3600),
        "M" => Duration::from_secs(count * 60),
        "S" => Duration::from_secs(count),
        "m" => Duration::from_millis(count),
        "u" => Duration::from_micros(count),
        "n" => Duration::from_nanos(count),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadlines_are_read_as_the_protocol_has_them() {
        let of = |text: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-timeout", text.parse().unwrap());
            deadline(&headers)
        };
        assert_eq!(of("2H"), Some(Duration::from_secs(7200)));
        assert_eq!(of("3M"), Some(Duration::from_secs(180)));
        assert_eq!(of("99999999S"), Some(Duration::from_secs(99_999_999)));
        assert_eq!(of("250m"), Some(Duration::from_millis(250)));
        assert_eq!((of("7u"), of("7n")), (Some(Duration::from_micros(7)), Some(Duration::from_nanos(7))));
        for text in ["", "S", "1", "1x", "-1S", "+1S", "123456789S", "1 S"] {
            assert_eq!(of(text), None, "{text}");
        }
        assert_eq!(deadline(&HeaderMap::new()), None);
    }

    #[test]
    fn metadata_is_counted_as_http_has_it() {
        let mut headers = HeaderMap::new();
        assert_eq!(metadata_bytes(&headers), 0);
        headers.append("a", "bc".parse().unwrap());
        headers.append("a", "".parse().unwrap());
        assert_eq!(metadata_bytes(&headers), 1 + 2 + 32 + 1 + 32);
    }
}
