//! A server in this process, on a free port or a Unix socket, and connections to it.

use noised_client::{Client, ClientBuilder, RetryPolicy};
use noised_proto::v1::analysis_client::AnalysisClient;
use noised_proto::v1::sessions_client::SessionsClient;
use noised_server::config::Options;
use noised_server::{Config, ListenAddr, Listener};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tonic::transport::{Channel, Endpoint};

/// A bound on what must not hang. No test depends on how long anything takes.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(120);

/// Largest message of the clients here: more than any server takes.
const MESSAGE_BYTES: usize = 1 << 30;

/// A connection of either kind.
pub trait Connection: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Connection for T {}

/// How a server is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// A free port.
    Tcp,
    /// A socket file.
    Unix,
}

/// Makes connections to a server.
#[derive(Clone, Debug)]
pub struct Connector(ListenAddr);

impl Connector {
    /// A connection that speaks nothing yet.
    pub async fn connect(&self) -> Box<dyn Connection> {
        match &self.0 {
            ListenAddr::Tcp(address) => Box::new(TcpStream::connect(address).await.unwrap()),
            ListenAddr::Unix(path) => Box::new(UnixStream::connect(path).await.unwrap()),
        }
    }
}

/// A running server.
#[derive(Debug)]
pub struct Server {
    address: ListenAddr,
    shutdown: Option<oneshot::Sender<()>>,
    serving: JoinHandle<()>,
    _directory: TempDir,
}

/// The same test over TCP and over a Unix socket, each with a server of its own.
pub async fn on_both(options: Options, test: impl AsyncFn(&mut Server)) {
    for transport in [Transport::Tcp, Transport::Unix] {
        let mut server = Server::start(transport, options.clone()).await;
        within_patience(test(&mut server)).await;
        server.stop().await;
    }
}

/// Fails where a future hangs.
pub async fn within_patience<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("this hangs")
}

impl Server {
    /// Starts one, and returns once it is bound.
    pub async fn start(transport: Transport, options: Options) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let listen = match transport {
            Transport::Tcp => ListenAddr::Tcp(([127, 0, 0, 1], 0).into()),
            Transport::Unix => ListenAddr::Unix(directory.path().join("noised.sock")),
        };
        let options = Options { listen: Some(listen), threads: options.threads.or(Some(2)), ..options };
        let config = Config::new(options).unwrap();
        let listener = Listener::bind(&config.listen).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (shutdown, asked) = oneshot::channel();
        let serving = tokio::spawn(async move {
            let asked = async move { asked.await.unwrap_or(()) };
            noised_server::run(listener, config, asked).await.unwrap();
        });
        Self { address, shutdown: Some(shutdown), serving, _directory: directory }
    }

    /// Where it is, as clients take it.
    pub fn target(&self) -> String {
        match &self.address {
            ListenAddr::Tcp(address) => format!("http://{address}"),
            ListenAddr::Unix(path) => format!("unix://{}", path.display()),
        }
    }

    /// Where a server with a certificate is.
    pub fn tls_target(&self) -> String {
        self.target().replace("http://", "https://")
    }

    /// A connection of its own.
    pub async fn channel(&self) -> Channel {
        let endpoint = Endpoint::from_static("http://localhost");
        match self.address.clone() {
            ListenAddr::Tcp(address) => {
                Endpoint::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap()
            }
            ListenAddr::Unix(path) => {
                let open = tower::service_fn(move |_| {
                    let path = path.clone();
                    async move { UnixStream::connect(path).await.map(hyper_util::rt::TokioIo::new) }
                });
                endpoint.connect_with_connector(open).await.unwrap()
            }
        }
    }

    /// A connection that speaks nothing yet.
    pub async fn connect(&self) -> Box<dyn Connection> {
        self.connector().connect().await
    }

    /// Makes such connections.
    pub fn connector(&self) -> Connector {
        Connector(self.address.clone())
    }

    /// The calls on sessions, over a connection of their own.
    pub async fn sessions(&self) -> SessionsClient<Channel> {
        sessions_on(self.channel().await)
    }

    /// The analysis calls, over a connection of their own.
    pub async fn analysis(&self) -> AnalysisClient<Channel> {
        let client = AnalysisClient::new(self.channel().await);
        client.max_decoding_message_size(MESSAGE_BYTES).max_encoding_message_size(MESSAGE_BYTES)
    }

    /// The client library, which never tries again.
    pub async fn client(&self) -> Client {
        self.builder().retry(RetryPolicy::NEVER).connect().await.unwrap()
    }

    /// The client library, to be set up.
    pub fn builder(&self) -> ClientBuilder {
        ClientBuilder::new(&self.target()).unwrap()
    }

    /// Asks it to stop.
    pub fn ask_to_stop(&mut self) {
        self.shutdown.take().expect("it was asked before").send(()).unwrap();
    }

    /// Asks it to stop, unless it was asked, and waits until it has.
    pub async fn stop(mut self) {
        if self.shutdown.is_some() {
            self.ask_to_stop();
        }
        within_patience(&mut self.serving).await.unwrap();
    }
}

/// The calls on sessions over a connection.
pub fn sessions_on(channel: Channel) -> SessionsClient<Channel> {
    let client = SessionsClient::new(channel);
    client.max_decoding_message_size(MESSAGE_BYTES).max_encoding_message_size(MESSAGE_BYTES)
}
