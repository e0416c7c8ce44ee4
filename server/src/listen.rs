//! Where to listen: TCP or a Unix socket.

use std::fmt;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use serde::Deserialize;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

/// With the system's default of 208 KiB, a Unix socket carries less than half of what TCP does.
const UNIX_SEND_BUFFER: usize = 4 << 20;

/// Silence after which the kernel asks whether a peer is still there, and how often it then asks.
const KEEPALIVE_TIME: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);

/// An address to listen at: `host:port`, or `unix:///path/to/socket`. Port 0 takes a free one.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum ListenAddr {
    /// A TCP address.
    Tcp(SocketAddr),
    /// The path of a Unix socket.
    Unix(PathBuf),
}

impl FromStr for ListenAddr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix://") {
            return match path {
                "" => Err("`unix://` needs the path of a socket, as in unix:///run/noised.sock".to_owned()),
                path => Ok(Self::Unix(path.into())),
            };
        }
        let mut addresses = text
            .to_socket_addrs()
            .map_err(|e| format!("`{text}` is neither host:port nor unix:///path: {e}"))?;
        addresses.next().map(Self::Tcp).ok_or_else(|| format!("`{text}` has no address"))
    }
}

impl TryFrom<String> for ListenAddr {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl fmt::Display for ListenAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
        }
    }
}

/// A bound socket.
#[derive(Debug)]
pub enum Listener {
    /// TCP.
    Tcp(TcpListener),
    /// A Unix socket, whose file is removed when the listener is dropped.
    Unix(UnixListener, SocketFile),
}

/// The file of a Unix socket.
#[derive(Debug)]
pub struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // It may be gone already, and there is nobody left to tell.
        let _ = std::fs::remove_file(&self.0);
    }
}

impl Listener {
    /// Binds an address. A socket file that nobody listens at any more is replaced.
    ///
    /// # Errors
    /// Those of the system, among them an address in use.
    pub async fn bind(address: &ListenAddr) -> io::Result<Self> {
        match address {
            ListenAddr::Tcp(address) => TcpListener::bind(address).await.map(Self::Tcp),
            ListenAddr::Unix(path) => {
                remove_stale(path).await?;
                Ok(Self::Unix(UnixListener::bind(path)?, SocketFile(path.clone())))
            }
        }
    }

    /// The address that it is bound to, with the port that port 0 took.
    ///
    /// # Errors
    /// Those of the system.
    pub fn local_addr(&self) -> io::Result<ListenAddr> {
        match self {
            Self::Tcp(listener) => listener.local_addr().map(ListenAddr::Tcp),
            Self::Unix(_, SocketFile(path)) => Ok(ListenAddr::Unix(path.clone())),
        }
    }
}

/// Settings of an accepted connection. A system that refuses one costs speed, and nothing else.
pub(crate) fn tune_tcp(stream: &TcpStream) {
    let _slower = stream.set_nodelay(true);
    let socket = SockRef::from(stream);
    // A client's machine that vanished is noticed, and what its streams hold is let go. The kernel answers for a client
    // that is busy computing, as it would not if HTTP/2 asked.
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE_TIME).with_interval(KEEPALIVE_INTERVAL);
    let _unnoticed = socket.set_tcp_keepalive(&keepalive);
    #[cfg(target_os = "linux")]
    if stream.peer_addr().is_ok_and(|peer| peer.ip().is_loopback()) {
        // BBR, where it is the system's default, paces loopback to a fraction of its speed.
        let _slower = socket.set_tcp_congestion(b"cubic");
    }
}

/// Settings of an accepted connection. A system that refuses one costs speed, and nothing else.
pub(crate) fn tune_unix(stream: &UnixStream) {
    let _slower = SockRef::from(stream).set_send_buffer_size(UNIX_SEND_BUFFER);
}

/// Removes a socket file that a server left behind when it was killed.
async fn remove_stale(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::FileTypeExt;
    match std::fs::symlink_metadata(path) {
        Ok(metadata) if metadata.file_type().is_socket() => match UnixStream::connect(path).await {
            Ok(_) => Err(io::Error::new(io::ErrorKind::AddrInUse, "another server listens at this socket")),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path),
            // Anything else, such as a queue that is full or a socket of another kind, does not say that nobody listens.
            Err(error) => Err(error),
        },
        Ok(_) => Err(io::Error::new(io::ErrorKind::AlreadyExists, "there is a file that is not a socket")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;

    use super::*;

    #[tokio::test]
    async fn only_a_socket_that_refuses_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("noised.sock");
        let address = ListenAddr::Unix(path.clone());
        // In use, and not by a stream: it cannot be connected to, and does not refuse.
        let another = UnixDatagram::bind(&path).unwrap();
        Listener::bind(&address).await.unwrap_err();
        assert!(path.exists());
        drop(another);
        std::fs::remove_file(&path).unwrap();

        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        Listener::bind(&address).await.unwrap();
    }
}
