//! A connection whose server has to say something soon.
//!
//! A port may accept connections and say nothing: its program hangs, or speaks another protocol. TCP and
//! HTTP/2 wait for as long as the peer is there. A server of HTTP/2 says what it speaks as soon as it is
//! connected to, whatever it is asked, so its first byte is the end of the handshake.

use std::future::Future;
use std::io::{Error, ErrorKind, IoSlice, Result};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

/// What the error of a connection without a greeting says. It is known by this, since HTTP/2 passes on texts
/// and not types.
pub(crate) const SILENCE: &str = "the connection was accepted, and nothing was said on it";

/// How an error of TLS begins. It is known by this where HTTP/2 passes on texts and not types.
pub(crate) const FAULT: &str = "TLS: ";

/// The first byte that a server says which speaks TLS to a client that does not: that of an alert.
const ALERT: u8 = 0x15;

/// What the error of a connection without TLS says where the server answers in TLS.
const OF_TLS: &str = "TLS: the server speaks TLS at this port: write https://host:port";

/// A connection that fails where nothing has been read from it by a deadline.
#[derive(Debug)]
pub(crate) struct Greeted<I> {
    io: I,
    /// Until the first byte is there.
    deadline: Option<Pin<Box<Sleep>>>,
}

impl<I> Greeted<I> {
    pub(crate) fn new(io: I, patience: Duration) -> Self {
        Self { io, deadline: Some(Box::pin(tokio::time::sleep(patience))) }
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Greeted<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.io).poll_read(context, buffer);
        match &mut self.deadline {
            Some(deadline) if polled.is_pending() => {
                deadline.as_mut().poll(context).map(|()| Err(Error::new(ErrorKind::TimedOut, SILENCE)))
            }
            Some(_) if buffer.filled().get(before) == Some(&ALERT) => {
                Poll::Ready(Err(Error::new(ErrorKind::InvalidData, OF_TLS)))
            }
            _ => {
                self.deadline = None;
                polled
            }
        }
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Greeted<I> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize>> {
        Pin::new(&mut self.io).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn silence_ends_and_a_greeting_lasts() {
        let (here, mut there) = tokio::io::duplex(64);
        let mut silent = Greeted::new(here, Duration::from_millis(20));
        // What goes up is no answer.
        silent.write_all(b"preface").await.unwrap();
        let error = silent.read_u8().await.unwrap_err();
        assert_eq!((error.kind(), error.to_string()), (ErrorKind::TimedOut, SILENCE.to_owned()));
        drop(silent);
        assert_eq!(there.read_u8().await.unwrap(), b'p');

        let (here, mut there) = tokio::io::duplex(64);
        there.write_all(b"a").await.unwrap();
        let mut greeted = Greeted::new(here, Duration::from_millis(20));
        assert_eq!(greeted.read_u8().await.unwrap(), b'a');
        let later = tokio::time::timeout(Duration::from_millis(100), greeted.read_u8()).await;
        assert!(later.is_err(), "a connection that was greeted may be silent for as long as it likes");
    }
}
