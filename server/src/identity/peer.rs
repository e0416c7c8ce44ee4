//! Where a call comes from.

use std::fmt;

use http::Extensions;
use tonic::transport::server::{TcpConnectInfo, UdsConnectInfo};

/// Whoever is at the other end of a connection.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) enum Peer {
    Tcp(std::net::SocketAddr),
    /// The process and the user at the other end of a Unix socket.
    Unix {
        pid: Option<i32>,
        uid: u32,
    },
    #[default]
    Unknown,
}

impl Peer {
    /// The peer of a request.
    pub(crate) fn of(extensions: &Extensions) -> Self {
        let tcp = || extensions.get::<TcpConnectInfo>()?.remote_addr().map(Self::Tcp);
        let unix = || {
            let peer = extensions.get::<UdsConnectInfo>()?.peer_cred?;
            Some(Self::Unix { pid: peer.pid(), uid: peer.uid() })
        };
        tcp().or_else(unix).unwrap_or_default()
    }

    /// Whether nothing on the way to the peer crosses a network.
    pub(super) fn is_of_this_machine(&self) -> bool {
        match self {
            Self::Tcp(address) => address.ip().to_canonical().is_loopback(),
            Self::Unix { .. } => true,
            Self::Unknown => false,
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix { pid: Some(pid), uid } => write!(f, "pid {pid} of uid {uid}"),
            Self::Unix { pid: None, uid } => write!(f, "a process of uid {uid}"),
            Self::Unknown => f.write_str("unknown"),
        }
    }
}
