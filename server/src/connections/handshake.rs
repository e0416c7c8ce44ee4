//! What comes before HTTP/2 on a connection: TLS, where the server has a certificate.

use std::io;
use std::sync::Arc;

use rustls::ServerConfig;
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::either::Either;

use crate::identity::TlsPeer;
use crate::reread::Reread;

/// The server's certificate, as it is now.
pub(crate) type Tls = Arc<Reread<Arc<ServerConfig>>>;

/// A connection that HTTP/2 can be spoken on.
pub(super) type Io = Either<Either<TcpStream, UnixStream>, Box<TlsStream<TcpStream>>>;

/// The client of a connection with TLS, as its certificate names it; `None` without TLS.
pub(super) fn tls_peer(io: &Io) -> Option<TlsPeer> {
    match io {
        Either::Left(_) => None,
        Either::Right(stream) => Some(TlsPeer::of(stream.get_ref().1.peer_certificates())),
    }
}

/// How a connection begins.
pub(super) enum Opened {
    /// As it has to be.
    Ready(Io),
    /// A client speaks HTTP/2 without TLS, where the server wants TLS.
    Plain(Io),
}

/// The first byte of HTTP/2. TLS begins with another one.
const FIRST_OF_HTTP2: u8 = b'P';

/// Does the handshake, where one is to be done. A Unix socket has none: the system keeps others from it.
pub(super) async fn begin(stream: Either<TcpStream, UnixStream>, tls: Option<&Tls>) -> io::Result<Opened> {
    let (stream, tls) = match (stream, tls) {
        (Either::Left(stream), Some(tls)) => (stream, tls),
        (stream, _) => return Ok(Opened::Ready(Either::Left(stream))),
    };
    let mut first = [0];
    if stream.peek(&mut first).await? == 1 && first == [FIRST_OF_HTTP2] {
        return Ok(Opened::Plain(Either::Left(Either::Left(stream))));
    }
    let stream = TlsAcceptor::from(tls.current()).accept(stream).await?;
    Ok(Opened::Ready(Either::Right(Box::new(stream))))
}
