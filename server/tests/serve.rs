//! The library's `run`: health, reflection, the drain, and that steps do not wait for analyses.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic here is a failed test")]

use std::time::Duration;

use noised::{DType, MatrixSpec, SessionSpec, Tree};
use noised_proto::v1::analysis_client::AnalysisClient;
use noised_proto::v1::sessions_client::SessionsClient;
use noised_proto::{ErrorReport, session_spec_to_wire, v1};
use noised_server::config::{Options, Span};
use noised_server::{Config, Listener};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Streaming};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tonic_reflection::pb::v1::{ServerReflectionRequest, ServiceResponse};

/// Two tiles, so that a step can be cut in the middle.
const LANES: usize = 2048;
const TILE_BYTES: usize = 4096;

/// A bound on what must not hang.
const PATIENCE: Duration = Duration::from_secs(60);

struct Server {
    channel: Channel,
    stop: oneshot::Sender<()>,
    running: JoinHandle<anyhow::Result<()>>,
}

impl Server {
    async fn start(options: Options) -> Self {
        let options = Options { listen: Some("127.0.0.1:0".parse().unwrap()), threads: Some(2), ..options };
        let config = Config::new(options).unwrap();
        let listener = Listener::bind(&config.listen).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        let running =
            tokio::spawn(noised_server::run(listener, config, async move { stopped.await.unwrap_or(()) }));
        let channel = Endpoint::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
        Self { channel, stop, running }
    }

    fn sessions(&self) -> SessionsClient<Channel> {
        SessionsClient::new(self.channel.clone())
    }

    async fn with_session(&self, id: &str) {
        let spec = SessionSpec::new(MatrixSpec::PrefixSum, Tree::flat(LANES as u64, DType::F32).unwrap());
        let session = Some(session_spec_to_wire(&spec));
        let request = v1::CreateSessionRequest { session_id: id.into(), session, ..Default::default() };
        self.sessions().create_session(request).await.unwrap();
    }
}

fn frame(step: u64, tile: usize) -> v1::StreamMultiplyNextRequest {
    v1::StreamMultiplyNextRequest {
        name: "sessions/a".into(),
        step,
        offset: (tile * TILE_BYTES) as u64,
        payload: vec![0; TILE_BYTES].into(),
        fingerprint: vec![],
    }
}

async fn stream(
    server: &Server,
) -> (mpsc::Sender<v1::StreamMultiplyNextRequest>, Streaming<v1::StreamMultiplyNextResponse>) {
    let (frames, queue) = mpsc::channel(4);
    let answers = server.sessions().stream_multiply_next(ReceiverStream::new(queue)).await.unwrap();
    (frames, answers.into_inner())
}

/// The end of a stream: the code and reason of its status.
async fn end_of(answers: &mut Streaming<v1::StreamMultiplyNextResponse>) -> (Code, String) {
    let ErrorReport { code, reason, .. } =
        ErrorReport::from_status(&answers.next().await.unwrap().unwrap_err());
    (code, reason)
}

async fn within_patience<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("this hangs")
}

#[tokio::test]
async fn health_and_reflection() {
    let server = Server::start(Options::default()).await;
    for service in ["", "noised.v1.Sessions", "noised.v1.Analysis"] {
        let request = HealthCheckRequest { service: service.into() };
        let answer = HealthClient::new(server.channel.clone()).check(request).await.unwrap();
        assert_eq!(answer.into_inner().status(), ServingStatus::Serving);
    }
    let list = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut reflection = ServerReflectionClient::new(server.channel.clone());
    let answers = reflection.server_reflection_info(tokio_stream::once(list)).await.unwrap();
    let answer = answers.into_inner().next().await.unwrap().unwrap();
    let Some(MessageResponse::ListServicesResponse(services)) = answer.message_response else {
        panic!("{answer:?}");
    };
    for service in ["noised.v1.Sessions", "noised.v1.Analysis", "grpc.health.v1.Health"] {
        assert!(services.service.contains(&ServiceResponse { name: service.into() }), "{services:?}");
    }
}

/// Many tools speak the older version of reflection alone.
#[tokio::test]
async fn reflection_of_the_older_version() {
    use tonic_reflection::pb::v1alpha;
    use v1alpha::server_reflection_request::MessageRequest;
    use v1alpha::server_reflection_response::MessageResponse;

    let server = Server::start(Options::default()).await;
    let mut reflection =
        v1alpha::server_reflection_client::ServerReflectionClient::new(server.channel.clone());
    let mut ask = async |question| {
        let request =
            v1alpha::ServerReflectionRequest { host: String::new(), message_request: Some(question) };
        let answers = reflection.server_reflection_info(tokio_stream::once(request)).await.unwrap();
        answers.into_inner().next().await.unwrap().unwrap().message_response.unwrap()
    };
    let MessageResponse::ListServicesResponse(services) =
        ask(MessageRequest::ListServices(String::new())).await
    else {
        panic!("another question was answered");
    };
    let names: Vec<_> = services.service.iter().map(|service| service.name.as_str()).collect();
    for service in ["noised.v1.Sessions", "noised.v1.Analysis", "grpc.health.v1.Health"] {
        assert!(names.contains(&service), "{names:?}");
    }
    let symbol = MessageRequest::FileContainingSymbol("noised.v1.Sessions".into());
    assert!(matches!(ask(symbol).await, MessageResponse::FileDescriptorResponse(_)));
}

#[tokio::test]
async fn a_step_under_way_is_finished_before_the_server_ends() {
    let server = Server::start(Options::default()).await;
    server.with_session("a").await;
    let (frames, mut answers) = stream(&server).await;
    let (idle_frames, mut idle) = stream(&server).await;
    frames.send(frame(0, 0)).await.unwrap();
    answers.next().await.unwrap().unwrap();
    let mut health = HealthClient::new(server.channel.clone());
    let mut watch = health.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    assert_eq!(watch.next().await.unwrap().unwrap().status(), ServingStatus::Serving);

    server.stop.send(()).unwrap();
    within_patience(async {
        assert_eq!(watch.next().await.unwrap().unwrap().status(), ServingStatus::NotServing);
        // Whoever watches does not keep the server up.
        assert!(watch.next().await.is_none());
        let answer =
            health.check(HealthCheckRequest::default()).await.map(|answer| answer.into_inner().status());
        assert!(!matches!(answer, Ok(ServingStatus::Serving)), "{answer:?}");
        frames.send(frame(0, 1)).await.unwrap();
        assert!(answers.next().await.unwrap().unwrap().step_end);
        assert_eq!(end_of(&mut answers).await, (Code::Unavailable, "DRAINING".into()));
        // A stream that has not begun a step has nothing to finish.
        assert_eq!(end_of(&mut idle).await, (Code::Unavailable, "DRAINING".into()));
        drop(idle_frames);
        server.running.await.unwrap().unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_drain_has_an_end() {
    let drain_timeout = Some(Span(Duration::from_millis(100)));
    let server = Server::start(Options { drain_timeout, ..Options::default() }).await;
    server.with_session("a").await;
    let (frames, mut answers) = stream(&server).await;
    frames.send(frame(0, 0)).await.unwrap();
    answers.next().await.unwrap().unwrap();
    server.stop.send(()).unwrap();
    within_patience(async {
        // The second half never comes.
        assert_eq!(end_of(&mut answers).await, (Code::Unavailable, "DRAINING".into()));
        server.running.await.unwrap().unwrap();
    })
    .await;
}

#[tokio::test]
async fn steps_do_not_wait_for_analyses() {
    let server = Server::start(Options::default()).await;
    server.with_session("a").await;
    // Neither Toeplitz nor of few planes.
    let toeplitz = MatrixSpec::Toeplitz { coef: vec![0.5; 1024], column_normalize_for_n: None };
    let momentum = MatrixSpec::MomentumSgd { momentum: 0.5, learning_rates: Some(vec![1.0, 0.5]) };
    let matrix = MatrixSpec::Product { factors: vec![momentum, toeplitz.clone(), toeplitz] };
    let analyses: Vec<_> = (0..4)
        .map(|_| {
            let mut analysis = AnalysisClient::new(server.channel.clone());
            let request = v1::RowNormsSquaredRequest { matrix: Some((&matrix).into()), n: 32_768 };
            tokio::spawn(async move { analysis.row_norms_squared(request).await })
        })
        .collect();
    within_patience(async {
        for step in 0..20 {
            let payload = vec![0; 2 * TILE_BYTES].into();
            let name = "sessions/a".to_owned();
            let request = v1::MultiplyNextRequest { name, step, payload, fingerprint: vec![] };
            server.sessions().multiply_next(request).await.unwrap();
        }
    })
    .await;
    // They take minutes, and stop computing when their clients go.
    assert!(analyses.iter().all(|analysis| !analysis.is_finished()));
    analyses.iter().for_each(JoinHandle::abort);
}
