//! Where to listen: TCP or a Unix socket.

use std::fmt;
use std::io;
use std::net::{Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use serde::Deserialize;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio_util::either::Either;
use tonic::transport::server::{Connected, TcpConnectInfo, UdsConnectInfo};

use crate::config::DEFAULT_PORT;

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
        let (host, port) = split_host(text)?;
        let addresses = (host, port).to_socket_addrs();
        let mut addresses =
            addresses.map_err(|e| format!("`{host}` in `{text}` is no address, and no name of one: {e}"))?;
        addresses.next().map(Self::Tcp).ok_or_else(|| format!("`{text}` has no address"))
    }
}

/// The parts of `host:port`.
///
/// A missing host is not taken for every interface: whoever reaches the server has all of its sessions, so
/// that has to be written out.
fn split_host(text: &str) -> Result<(&str, u16), String> {
    let everywhere = |port: &str| {
        format!(
            "write 127.0.0.1:{port} for this machine alone, or 0.0.0.0:{port} for every network that the machine is on"
        )
    };
    if text.is_empty() {
        return Err("must be host:port or unix:///path, found nothing".to_owned());
    }
    if text.starts_with("unix:") {
        return Err(format!("`{text}` is no socket: write unix:///path, such as unix:///run/noised.sock"));
    }
    if text.parse::<Ipv6Addr>().is_ok() {
        return Err(format!("`{text}` has no port: write [{text}]:{DEFAULT_PORT}"));
    }
    let number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let (host, port) = match text.rsplit_once(':') {
        Some(("", port)) => return Err(format!("`{text}` has no host: {}", everywhere(port))),
        Some(parts) => parts,
        None if number(text) => return Err(format!("`{text}` has no host: {}", everywhere(text))),
        None => return Err(format!("`{text}` has no port: write {text}:{DEFAULT_PORT}")),
    };
    let port =
        Some(port).filter(|port| number(port)).and_then(|port| port.parse().ok()).ok_or_else(|| {
            format!("`{text}` is neither host:port, with a port from 0 to 65535, nor unix:///path")
        })?;
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    Ok((bare, port))
}

impl ListenAddr {
    /// The port of a TCP address.
    pub(crate) fn port(&self) -> Option<u16> {
        match self {
            Self::Tcp(address) => Some(address.port()),
            Self::Unix(_) => None,
        }
    }

    /// Whether programs of this machine alone can reach the address.
    pub fn is_of_this_machine(&self) -> bool {
        match self {
            Self::Tcp(address) => address.ip().to_canonical().is_loopback(),
            Self::Unix(_) => true,
        }
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

    /// Waits for a connection, and takes it.
    pub(crate) async fn accept(&self) -> io::Result<Stream> {
        Ok(match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                tune_tcp(&stream);
                Stream::Tcp(stream)
            }
            Self::Unix(listener, _) => {
                let (stream, _) = listener.accept().await?;
                tune_unix(&stream);
                Stream::Unix(stream)
            }
        })
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

/// An accepted connection.
#[derive(Debug)]
pub(crate) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    pub(crate) fn peer(&self) -> Peer {
        match self {
            Self::Tcp(stream) => Peer::Tcp(stream.connect_info()),
            Self::Unix(stream) => Peer::Unix(stream.connect_info()),
        }
    }

    pub(crate) fn into_io(self) -> Either<TcpStream, UnixStream> {
        match self {
            Self::Tcp(stream) => Either::Left(stream),
            Self::Unix(stream) => Either::Right(stream),
        }
    }
}

/// Who is at the other end of a connection.
#[derive(Clone, Debug)]
pub(crate) enum Peer {
    Tcp(TcpConnectInfo),
    Unix(UdsConnectInfo),
}

impl Peer {
    /// Puts the peer among a request's extensions, where tonic looks for it.
    pub(crate) fn tell(&self, extensions: &mut http::Extensions) {
        match self {
            Self::Tcp(peer) => drop(extensions.insert(peer.clone())),
            Self::Unix(peer) => drop(extensions.insert(peer.clone())),
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(peer) => match peer.remote_addr() {
                Some(address) => write!(f, "{address}"),
                None => f.write_str("unknown"),
            },
            Self::Unix(_) => f.write_str("a process of this machine"),
        }
    }
}

/// Settings of an accepted connection. A system that refuses one costs speed, and nothing else.
fn tune_tcp(stream: &TcpStream) {
    let _slower = stream.set_nodelay(true);
    let socket = SockRef::from(stream);
    // A client's machine that vanished is noticed, and what its streams hold is let go. The kernel answers
    // for a client that is busy computing, as it would not if HTTP/2 asked.
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE_TIME).with_interval(KEEPALIVE_INTERVAL);
    let _unnoticed = socket.set_tcp_keepalive(&keepalive);
    #[cfg(target_os = "linux")]
    if stream.peer_addr().is_ok_and(|peer| peer.ip().is_loopback()) {
        // BBR, where it is the system's default, paces loopback to a fraction of its speed.
        let _slower = socket.set_tcp_congestion(b"cubic");
    }
}

/// Settings of an accepted connection. A system that refuses one costs speed, and nothing else.
fn tune_unix(stream: &UnixStream) {
    let _slower = SockRef::from(stream).set_send_buffer_size(UNIX_SEND_BUFFER);
}

/// Removes a socket file that a server left behind when it was killed.
async fn remove_stale(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::FileTypeExt;
    match std::fs::symlink_metadata(path) {
        Ok(metadata) if metadata.file_type().is_socket() => match UnixStream::connect(path).await {
            Ok(_) => Err(io::Error::new(io::ErrorKind::AddrInUse, "another server listens at this socket")),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path),
            // Anything else, such as a queue that is full or a socket of another kind, does not say that
            // nobody listens.
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

    #[test]
    fn addresses() {
        for text in ["127.0.0.1:80", "0.0.0.0:0", "[::1]:80", "[::]:65535", "localhost:7467"] {
            assert!(matches!(text.parse(), Ok(ListenAddr::Tcp(_))), "{text}");
        }
        assert_eq!("unix:///a".parse(), Ok(ListenAddr::Unix("/a".into())));
        for (text, advice) in [
            ("", "host:port"),
            (":7467", "write 127.0.0.1:7467"),
            (":7467", "0.0.0.0:7467"),
            ("7467", "write 127.0.0.1:7467"),
            (":", "has no host"),
            ("0.0.0.0", "write 0.0.0.0:7467"),
            ("localhost", "write localhost:7467"),
            ("::1", "write [::1]:7467"),
            ("[::1]", "neither host:port"),
            ("127.0.0.1:", "from 0 to 65535"),
            ("127.0.0.1:65536", "from 0 to 65535"),
            ("127.0.0.1:+80", "from 0 to 65535"),
            ("http://127.0.0.1:80", "`http://127.0.0.1`"),
            ("unix:/run/a.sock", "unix:///path"),
            ("unix://", "needs the path"),
        ] {
            let error = text.parse::<ListenAddr>().unwrap_err();
            assert!(error.contains(advice), "{text}: {error}");
        }
    }

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
