//! Who asked for what touches the privacy of a noise, for the log.

use std::fmt;

use http::Extensions;
use noised::Error;
use noised_proto::ServiceError;
use tonic::transport::server::{TcpConnectInfo, UdsConnectInfo};

/// Whoever is at the other end of a connection.
#[derive(Clone, Copy, Debug, Default)]
pub(super) enum Peer {
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
    pub(super) fn of(extensions: &Extensions) -> Self {
        let tcp = || extensions.get::<TcpConnectInfo>()?.remote_addr().map(Self::Tcp);
        let unix = || {
            let peer = extensions.get::<UdsConnectInfo>()?.peer_cred?;
            Some(Self::Unix { pid: peer.pid(), uid: peer.uid() })
        };
        tcp().or_else(unix).unwrap_or_default()
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

/// Logs a refusal that says that somebody asked for noise a second time.
pub(super) fn note_refusal(error: &ServiceError, session: &str, peer: Peer) {
    match error {
        ServiceError::NoiseUsed { noise_id, next_step } => {
            tracing::warn!(%peer, session, noise_id, next_step, "refused: the noise was drawn before (NOISE_USED)");
        }
        ServiceError::NoiseInUse { noise_id, session: holder } => {
            tracing::warn!(%peer, session, noise_id, holder, "refused: the noise is being drawn (NOISE_IN_USE)");
        }
        ServiceError::Core(Error::Diverged { requested, expected: _ }) => {
            let step = requested;
            tracing::warn!(%peer, session, step, "refused: another gradient for a released step (DIVERGED)");
        }
        _ => {}
    }
}
