//! Echoes: what it costs to carry bytes with tonic, and with TCP alone. Set up as noised is: the same frames,
//! windows, congestion control, allocator and runtime.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use bytes::Bytes;
use socket2::SockRef;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_stream::{Stream, StreamExt};
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response, Status, Streaming};

mod proto {
    #![allow(missing_docs, unreachable_pub, clippy::all, reason = "generated")]
    tonic::include_proto!("echo");
}

use proto::echo_client::EchoClient;
use proto::echo_server::{Echo, EchoServer};
use proto::{Payload, Size};

const MIB: u32 = 1 << 20;
/// Messages of a stream: within the plateau that tonic is fastest on.
const CHUNK: usize = 1 << 20;

struct EchoService;

#[tonic::async_trait]
impl Echo for EchoService {
    async fn unary(&self, request: Request<Payload>) -> Result<Response<Payload>, Status> {
        Ok(Response::new(request.into_inner()))
    }

    type StreamStream = std::pin::Pin<Box<dyn Stream<Item = Result<Payload, Status>> + Send>>;

    async fn stream(
        &self,
        request: Request<Streaming<Payload>>,
    ) -> Result<Response<Self::StreamStream>, Status> {
        Ok(Response::new(Box::pin(request.into_inner())))
    }

    type DownloadStream = std::pin::Pin<Box<dyn Stream<Item = Result<Payload, Status>> + Send>>;

    async fn download(&self, request: Request<Size>) -> Result<Response<Self::DownloadStream>, Status> {
        let bytes = request.into_inner().bytes as usize;
        let chunks = (0..bytes).step_by(CHUNK).map(move |offset| {
            let payload = chunk().slice(..CHUNK.min(bytes - offset));
            Ok(Payload { payload })
        });
        Ok(Response::new(Box::pin(tokio_stream::iter(chunks))))
    }
}

fn chunk() -> Bytes {
    static CHUNK_BYTES: std::sync::OnceLock<Bytes> = std::sync::OnceLock::new();
    CHUNK_BYTES.get_or_init(|| vec![0x3c; CHUNK].into()).clone()
}

fn without_pacing(socket: &impl std::os::fd::AsFd) {
    let socket = SockRef::from(socket);
    let _slower = socket.set_tcp_nodelay(true);
    #[cfg(target_os = "linux")]
    let _slower = socket.set_tcp_congestion(b"cubic");
}

/// Serves tonic's echo until the process is killed; prints the port.
#[allow(clippy::print_stdout, reason = "the port, for the program that started this one")]
pub(crate) async fn serve_tonic() -> anyhow::Result<()> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?);
    let incoming = TcpListenerStream::new(listener).map(|accepted| accepted.inspect(without_pacing));
    Server::builder()
        .max_frame_size(MIB)
        .initial_stream_window_size(2 * MIB)
        .initial_connection_window_size(4 * MIB)
        .add_service(EchoServer::new(EchoService))
        .serve_with_incoming(incoming)
        .await?;
    Ok(())
}

/// Serves the echo of bytes; prints the port.
#[allow(clippy::print_stdout, reason = "the port, for the program that started this one")]
pub(crate) fn serve_tcp() -> anyhow::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    println!("{}", listener.local_addr()?);
    for stream in listener.incoming() {
        let mut stream = stream?;
        without_pacing(&stream);
        let mut buffer = vec![0; CHUNK];
        loop {
            match stream.read(&mut buffer)? {
                0 => break,
                read => stream.write_all(&buffer[..read])?,
            }
        }
    }
    Ok(())
}

/// A connection to tonic's echo.
#[derive(Clone)]
pub(crate) struct TonicEcho(EchoClient<Channel>);

impl TonicEcho {
    pub(crate) async fn connect(address: SocketAddr) -> anyhow::Result<Self> {
        let connector = tower::service_fn(move |_| async move {
            let stream = tokio::net::TcpStream::connect(address).await?;
            without_pacing(&stream);
            Ok::<_, std::io::Error>(hyper_util::rt::TokioIo::new(stream))
        });
        let channel = Endpoint::from_static("http://echo")
            .max_frame_size(MIB)
            .initial_stream_window_size(2 * MIB)
            .initial_connection_window_size(4 * MIB)
            .connect_with_connector(connector)
            .await?;
        Ok(Self(EchoClient::new(channel)))
    }

    /// Carries a payload there and back `times` times on one stream.
    pub(crate) async fn stream(&mut self, payload: &Bytes, times: usize) -> anyhow::Result<Duration> {
        let start = Instant::now();
        let (send, queue) = mpsc::channel(2);
        let chunks = payload.clone();
        let sending = tokio::spawn(async move {
            for _ in 0..times {
                for offset in (0..chunks.len()).step_by(CHUNK) {
                    let payload = chunks.slice(offset..chunks.len().min(offset + CHUNK));
                    if send.send(Payload { payload }).await.is_err() {
                        return;
                    }
                }
            }
        });
        let mut answers = self.0.stream(ReceiverStream::new(queue)).await?.into_inner();
        let mut received = 0;
        while let Some(Payload { payload }) = answers.message().await? {
            received += payload.len();
        }
        sending.await?;
        anyhow::ensure!(received == times * payload.len(), "the echo lost bytes");
        Ok(start.elapsed())
    }

    /// Brings as many bytes as `output` holds.
    pub(crate) async fn download(&mut self, output: &mut [u8]) -> anyhow::Result<Duration> {
        let start = Instant::now();
        let size = Size { bytes: output.len() as u64 };
        let mut answers = self.0.download(size).await?.into_inner();
        let mut at = 0;
        while let Some(Payload { payload }) = answers.message().await? {
            output[at..at + payload.len()].copy_from_slice(&payload);
            at += payload.len();
        }
        anyhow::ensure!(at == output.len(), "the download lost bytes");
        Ok(start.elapsed())
    }

    /// One call.
    pub(crate) async fn unary(&mut self, payload: &Bytes) -> anyhow::Result<Duration> {
        let start = Instant::now();
        let answer = self.0.unary(Payload { payload: payload.clone() }).await?.into_inner();
        anyhow::ensure!(answer.payload.len() == payload.len(), "the echo lost bytes");
        Ok(start.elapsed())
    }
}

/// A payload there and back `times` times over TCP alone.
pub(crate) fn tcp_echo(stream: &TcpStream, payload: &[u8], times: usize) -> anyhow::Result<Duration> {
    without_pacing(stream);
    let start = Instant::now();
    let (mut writer, mut reader) = (stream.try_clone()?, stream.try_clone()?);
    std::thread::scope(|scope| {
        let sending = scope.spawn(move || {
            for chunk in std::iter::repeat_n(payload, times).flat_map(|payload| payload.chunks(CHUNK)) {
                writer.write_all(chunk)?;
            }
            Ok::<_, std::io::Error>(())
        });
        let mut buffer = vec![0; CHUNK];
        let mut left = times * payload.len();
        while left > 0 {
            match reader.read(&mut buffer)? {
                0 => anyhow::bail!("the echo ended early"),
                read => left -= read,
            }
        }
        sending.join().map_err(|_| anyhow::anyhow!("the sender broke off"))??;
        Ok(start.elapsed())
    })
}
