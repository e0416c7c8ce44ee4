//! Where a server is, and the connection to it.

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tonic::transport::Endpoint;

use crate::error::{Error, Result};
use crate::greeting::{Greeted, SILENCE};
use crate::link::{Carries, Credential, Link};
use crate::retry::RetryPolicy;
use crate::targets::{Target, Targets};
use crate::tls::Tls;

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// Send buffer of a Unix socket: with the default of 208 KiB it carries less than half of what TCP does.
const UNIX_SEND_BUFFER: usize = 4 * MIB;
/// Space in a message beside its payload: names, numbers, a fingerprint.
const MESSAGE_OVERHEAD: usize = KIB;
/// The least time that a server is given to say something.
const LEAST_HANDSHAKE: Duration = Duration::from_secs(1);
/// The window of a connection. Those of its streams bound what is under way: a stream whose answers nobody
/// reads fills its own window, and leaves the connection to the others.
const CONNECTION_WINDOW: u32 = 1 << 30;
/// How long a server is waited for, and how long one where another may be asked instead.
const CONNECT: Duration = Duration::from_secs(10);
const CONNECT_NEXT: Duration = Duration::from_secs(3);
/// How long a connection with a call may be silent before the server is asked for a sign, and how long it
/// then has.
const SILENT: Duration = Duration::from_secs(20);
const SILENT_NEXT: Duration = Duration::from_secs(5);

/// Settings of a [`Client`](crate::Client), with defaults measured on loopback.
#[derive(Clone, Debug)]
#[must_use]
pub struct ClientBuilder {
    pub(crate) targets: Targets,
    pub(crate) settings: Settings,
    pub(crate) tls: Tls,
    credential: Option<Credential>,
    insecure: bool,
}

/// What a client was built with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    pub(crate) chunk_bytes: usize,
    pub(crate) unary_bytes: usize,
    pub(crate) message_bytes: usize,
    pub(crate) retry: RetryPolicy,
    connect_timeout: Option<Duration>,
    frame_bytes: u32,
    stream_window_bytes: u32,
    connection_window_bytes: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            chunk_bytes: MIB,
            unary_bytes: MIB,
            message_bytes: 64 * MIB,
            retry: RetryPolicy::default(),
            connect_timeout: None,
            frame_bytes: MIB as u32,
            stream_window_bytes: 2 * MIB as u32,
            connection_window_bytes: CONNECTION_WINDOW,
        }
    }
}

impl Settings {
    /// How long a server may take to take a connection, and then to say something. Who does not want to wait
    /// for a server does not want to wait for one that is silent; but a busy machine takes a moment.
    fn handshake_timeout(&self, default: Duration) -> Duration {
        let timeout = self.connect_timeout.unwrap_or(default);
        match self.retry.max_elapsed {
            Duration::ZERO => timeout,
            patience => timeout.min(patience.max(LEAST_HANDSHAKE)),
        }
    }
}

impl ClientBuilder {
    /// With the defaults: for a server, or for several that share a store, as [`Targets`] are written.
    ///
    /// # Errors
    /// [`Error::Invalid`] where the target is not one.
    pub fn new(target: &str) -> Result<Self> {
        let (settings, tls) = (Settings::default(), Tls::default());
        Ok(Self { targets: target.parse()?, settings, tls, credential: None, insecure: false })
    }

    /// How TLS is spoken, with a target `https://host:port`.
    pub fn tls(mut self, tls: Tls) -> Self {
        self.tls = tls;
        self
    }

    /// The token by which the server knows this client. It goes to `https://host:port`, to a Unix socket
    /// and to the loopback; elsewhere others could read it, and [`insecure`](Self::insecure) has to allow
    /// that.
    pub fn token(mut self, credential: Credential) -> Self {
        self.credential = Some(credential);
        self
    }

    /// Whether the token may cross a network without TLS.
    pub fn insecure(mut self, insecure: bool) -> Self {
        self.insecure = insecure;
        self
    }

    /// Whether the target is `https://host:port`, or several of them.
    pub fn speaks_tls(&self) -> bool {
        self.targets.speak_tls()
    }

    /// Bytes of a chunk on a stream, rounded down to whole tiles. 1 MiB unless set; 256 KiB to 1 MiB are all
    /// good.
    pub fn chunk_bytes(mut self, bytes: usize) -> Self {
        self.settings.chunk_bytes = bytes;
        self
    }

    /// Steps of at most so many bytes go as one message, larger ones over a stream. 1 MiB unless set.
    pub fn unary_bytes(mut self, bytes: usize) -> Self {
        self.settings.unary_bytes = bytes;
        self
    }

    /// The largest message sent or taken. 64 MiB unless set.
    pub fn message_bytes(mut self, bytes: usize) -> Self {
        self.settings.message_bytes = bytes;
        self
    }

    /// How calls are tried again.
    pub fn retry(mut self, policy: RetryPolicy) -> Self {
        self.settings.retry = policy;
        self
    }

    /// How long one attempt to connect may take: until the server takes the connection, and from then on
    /// until it says its first word. 10 s unless set, 3 s where there are several servers, and less where
    /// calls are tried again for less: the time for retries, but 1 s at least.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.settings.connect_timeout = Some(timeout);
        self
    }

    /// The largest HTTP/2 frame taken, 16 KiB to 16 MiB. 1 MiB unless set: small frames cost two thirds of
    /// the speed.
    pub fn frame_bytes(mut self, bytes: u32) -> Self {
        self.settings.frame_bytes = bytes;
        self
    }

    /// HTTP/2 windows of one stream and of the connection. 2 MiB and 1 GiB unless set; a long fat network
    /// wants bandwidth times round trip for the stream. With a connection's window that is not larger than
    /// those of its streams together, streams that nobody reads keep all others from going on.
    pub fn window_bytes(mut self, stream: u32, connection: u32) -> Self {
        self.settings.stream_window_bytes = stream;
        self.settings.connection_window_bytes = connection;
        self
    }

    /// What the client shows to servers, and which servers it takes.
    pub(crate) fn access(&self) -> Access {
        let carries = Carries::new(self.credential.clone());
        Access { tls: self.tls.clone(), carries, insecure: self.insecure }
    }
}

/// What a client shows to servers, and which servers it takes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Access {
    pub(crate) tls: Tls,
    pub(crate) carries: Carries,
    /// Whether the token may cross a network without TLS.
    pub(crate) insecure: bool,
}

/// A server, and how it is connected to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Connecting<'a> {
    pub(crate) target: &'a Target,
    pub(crate) access: &'a Access,
    pub(crate) settings: &'a Settings,
    /// Whether another server may be asked where this one does not answer.
    pub(crate) is_one_of_several: bool,
}

impl Connecting<'_> {
    /// A link that is connected, and connects again whenever the connection is lost.
    pub(crate) async fn link(&self) -> Result<Link> {
        let (to, patience) = (self.destination()?, self.handshake_timeout());
        let carries = to.carries.clone();
        let connector = tower::service_fn(move |_| open(to.clone(), patience));
        let failed = |e| Error::unreachable(self.target, &e);
        let channel = self.endpoint()?.connect_with_connector(connector).await.map_err(failed)?;
        Ok(Link::new(channel, carries))
    }

    /// A link that connects when it is first used.
    pub(crate) fn lazy_link(&self) -> Result<Link> {
        let (to, patience) = (self.destination()?, self.handshake_timeout());
        let carries = to.carries.clone();
        let connector = tower::service_fn(move |_| open(to.clone(), patience));
        Ok(Link::new(self.endpoint()?.connect_with_connector_lazy(connector), carries))
    }

    /// Checks the settings, and connects to nobody.
    pub(crate) fn check(&self) -> Result<()> {
        self.destination()?;
        self.endpoint().map(drop)
    }

    fn handshake_timeout(&self) -> Duration {
        let default = if self.is_one_of_several { CONNECT_NEXT } else { CONNECT };
        self.settings.handshake_timeout(default)
    }

    /// What a connection is opened with. A mistake in its files is told before anything is tried.
    fn destination(&self) -> Result<Destination> {
        let access = self.access;
        if matches!(self.target, Target::Tls(_)) {
            access.tls.config()?;
        } else if access.tls != Tls::default() {
            return Err(Error::invalid("tls", "must not be set where the target is not https://host:port"));
        }
        let carries = access.carries.clone();
        let anywhere = match self.target {
            Target::Tcp(address) if carries.is_some() && !access.insecure => {
                check_loopback(address)?;
                false
            }
            _ => true,
        };
        carries.refresh()?;
        Ok(Destination { target: self.target.clone(), tls: access.tls.clone(), carries, anywhere })
    }

    fn endpoint(&self) -> Result<Endpoint> {
        let settings = *self.settings;
        if !(16 * KIB as u32..1 << 24).contains(&settings.frame_bytes) {
            return Err(Error::invalid("frame_bytes", "must be at least 16 KiB and less than 16 MiB"));
        }
        let payload = settings.chunk_bytes.max(settings.unary_bytes);
        if payload > settings.message_bytes.saturating_sub(MESSAGE_OVERHEAD) {
            return Err(Error::invalid("message_bytes", "must hold a chunk or a unary step and 1 KiB more"));
        }
        let authority = match self.target {
            Target::Tcp(address) => format!("http://{address}"),
            Target::Tls(address) => format!("https://{address}"),
            // The path is the connector's business; HTTP/2 wants an authority all the same.
            Target::Unix(_) => "http://localhost".to_owned(),
        };
        let silence = if self.is_one_of_several { SILENT_NEXT } else { SILENT };
        Ok(Endpoint::from_shared(authority)
            .map_err(|e| Error::invalid("server", e))?
            .connect_timeout(self.handshake_timeout())
            .max_frame_size(settings.frame_bytes)
            .initial_stream_window_size(settings.stream_window_bytes)
            .initial_connection_window_size(settings.connection_window_bytes)
            // A peer that is gone without a word is noticed while a call is under way.
            .http2_keep_alive_interval(silence)
            .keep_alive_timeout(silence))
    }
}

/// What a connection is opened with.
#[derive(Clone)]
struct Destination {
    target: Target,
    tls: Tls,
    carries: Carries,
    /// Whether a connection without TLS may leave this machine.
    anywhere: bool,
}

/// Refuses the host of a target where the token would cross a network without TLS.
fn check_loopback(address: &str) -> Result<()> {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let is_loopback =
        bare.parse::<IpAddr>().map_or(bare == "localhost", |ip| ip.to_canonical().is_loopback());
    if is_loopback { Ok(()) } else { Err(in_clear(host)) }
}

fn in_clear(host: &str) -> Error {
    let rule = format!(
        "must not cross a network without TLS, where others can read it: write https://, or set insecure; \
         found the host {host}"
    );
    Error::invalid("token", rule)
}

/// Why there is no connection: an error of the system, or of TLS.
type Fault = Box<dyn std::error::Error + Send + Sync>;

/// A connected socket of either family.
trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

async fn open(to: Destination, patience: Duration) -> std::result::Result<TokioIo<Box<dyn Io>>, Fault> {
    let Destination { target, tls, carries, anywhere } = to;
    carries.refresh()?;
    Ok(TokioIo::new(match target {
        Target::Tcp(address) => {
            let stream = open_tcp(&address).await?;
            // `localhost` may be the name of another machine.
            if !anywhere && !stream.peer_addr()?.ip().to_canonical().is_loopback() {
                return Err(in_clear(&address).into());
            }
            Box::new(Greeted::new(stream, patience))
        }
        Target::Tls(address) => {
            let stream = open_tcp(&address).await?;
            let connected = tokio::time::timeout(patience, tls.connect(&address, stream)).await;
            let silent = |_| std::io::Error::new(std::io::ErrorKind::TimedOut, SILENCE);
            Box::new(Greeted::new(connected.map_err(silent)??, patience))
        }
        Target::Unix(path) => Box::new(Greeted::new(open_unix(&path).await?, patience)),
    }))
}

async fn open_tcp(address: &str) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    #[cfg(target_os = "linux")]
    if stream.peer_addr()?.ip().is_loopback() {
        // BBR, where it is the system's default, paces loopback to a fraction of its speed. Not being allowed
        // to choose costs only that speed.
        let _denied = SockRef::from(&stream).set_tcp_congestion(b"cubic");
    }
    Ok(stream)
}

async fn open_unix(path: &Path) -> std::io::Result<UnixStream> {
    let stream = UnixStream::connect(path).await?;
    // The system may grant less than asked, which only costs speed.
    let _denied = SockRef::from(&stream).set_send_buffer_size(UNIX_SEND_BUFFER);
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use noised_proto::token::Token;

    use super::*;

    #[tokio::test]
    async fn settings_are_checked() {
        let builder = || ClientBuilder::new("localhost:1").unwrap();
        assert!(builder().connect_lazy().is_ok());
        assert!(builder().frame_bytes(1).connect_lazy().is_err());
        assert!(builder().chunk_bytes(2 * MIB).message_bytes(MIB).connect_lazy().is_err());
    }

    #[tokio::test]
    async fn a_token_stays_on_this_machine_unless_there_is_tls() {
        let token = || Credential::Token(Token::from_bytes([1; 32]));
        let link = |target: &str, insecure| {
            ClientBuilder::new(target).unwrap().token(token()).insecure(insecure).connect_lazy()
        };
        for target in ["localhost:1", "127.0.0.9:1", "[::1]:1", "unix:///a.sock"] {
            assert!(link(target, false).is_ok(), "{target}");
        }
        for target in ["10.0.0.1:1", "noised.example:1", "localhost.example:1", "[2001:db8::1]:1"] {
            let refused = link(target, false).unwrap_err();
            assert!(matches!(&refused, Error::Invalid { field, .. } if field == "token"), "{refused}");
            assert!(link(target, true).is_ok(), "{target}");
        }
    }
}
