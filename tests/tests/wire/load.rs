//! Many sessions at once, and a server that is asked to stop while it is at work.

use std::error::Error;

use noised::{DType, MatrixSpec};
use noised_server::config::Options;
use noised_tests::proxy::Proxy;
use noised_tests::server::{Server, Transport, on_both, sessions_on, within_patience};
use noised_tests::wire::{self, Job, StepStream, create_request, report};
use noised_tests::{specs, trees};
use tonic::transport::Endpoint;
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

/// With a bound on the drain.
fn drain_within(seconds: &str) -> Options {
    Options { drain_timeout: Some(seconds.parse().unwrap()), ..Options::default() }
}

/// Longer than any test has patience for: what ends before does not end by this.
fn patient() -> Options {
    drain_within("1000000s")
}

fn job(steps: u64) -> Job {
    Job::new(specs::noising(), trees::six_tiles(), steps)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_sessions_at_once() {
    on_both(Options::default(), async |server: &mut Server| {
        let jobs: Vec<Job> = specs::kinds()
            .into_iter()
            .zip(DType::ALL.into_iter().flat_map(trees::odd))
            .map(|(matrix, tree)| Job::new(matrix, tree, 5))
            .collect();
        let mut channels = Vec::new();
        for _ in 0..4 {
            channels.push(server.channel().await);
        }
        let one = async |i: usize| {
            let job = &jobs[i % jobs.len()];
            let mut client = sessions_on(channels[i % channels.len()].clone());
            let name = job.create(&mut client, &format!("s-{i}")).await;
            for step in 0..5 {
                if (i as u64 + step).is_multiple_of(2) {
                    job.unary(&mut client, &name, step, false).await;
                } else {
                    let (answers, status) =
                        wire::exchange(&mut client, job.frames(&name, step, 0, &[700, 5000])).await;
                    assert!(status.is_none(), "{status:?}");
                    job.check(step, 0..job.total(), &answers);
                }
            }
            if i.is_multiple_of(3) {
                wire::delete(&mut client, &name).await.unwrap();
            }
        };
        let all: Vec<_> = (0..200).map(one).collect();
        join_all(all).await;
        let mut client = server.sessions().await;
        assert_eq!(wire::list(&mut client, 50).await.len(), 200 - 67);
    })
    .await;
}

/// Every future, at once, on this task.
async fn join_all<F: Future<Output = ()>>(futures: Vec<F>) {
    let mut futures: Vec<_> = futures.into_iter().map(Box::pin).collect();
    std::future::poll_fn(|context| {
        futures.retain_mut(|future| future.as_mut().poll(context).is_pending());
        if futures.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
}

async fn health(server: &Server, service: &str) -> Result<ServingStatus, Status> {
    let request = HealthCheckRequest { service: service.to_owned() };
    HealthClient::new(server.channel().await)
        .check(request)
        .await
        .map(|response| response.into_inner().status())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_is_told() {
    on_both(Options::default(), async |server: &mut Server| {
        for service in ["", "noised.v1.Sessions", "noised.v1.Analysis"] {
            assert_eq!(health(server, service).await.unwrap(), ServingStatus::Serving, "`{service}`");
        }
        assert_eq!(health(server, "noised.v1.Nothing").await.unwrap_err().code(), Code::NotFound);
    })
    .await;
}

/// A step under way is finished, and nothing new is begun.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_asked_to_stop_finishes_the_steps_under_way() {
    for transport in [Transport::Tcp, Transport::Unix] {
        let mut server = Server::start(transport, patient()).await;
        let watching = HealthClient::new(server.channel().await).watch(HealthCheckRequest::default()).await;
        let mut watching = watching.unwrap().into_inner();
        assert_eq!(watching.message().await.unwrap().unwrap().status(), ServingStatus::Serving);

        let job = job(3);
        let mut client = server.sessions().await;
        let name = job.create(&mut client, "").await;
        job.unary(&mut client, &name, 0, false).await;
        let mut under_way = StepStream::open(&client);
        under_way.send(wire::frame(&name, 1, 0, job.payloads[1].slice(..10_000)));
        under_way.take(8192).await;
        let mut idle = StepStream::open(&server.sessions().await);
        job.frames(&name, 0, 8192, &[1 << 20]).into_iter().for_each(|frame| idle.send(frame));
        idle.take(job.total() - 8192).await;

        server.ask_to_stop();
        assert_eq!(watching.message().await.unwrap().unwrap().status(), ServingStatus::NotServing);
        drop(watching);
        // A stream between steps is told to go elsewhere, and when.
        let status = within_patience(idle.next()).await.unwrap_err();
        let told = report(&status, Code::Unavailable);
        assert_eq!(told.reason, "DRAINING");
        assert!(told.retry_after.is_some());
        // The other one ends with its step.
        under_way.send(wire::frame("", 1, 10_000, job.payloads[1].slice(10_000..)));
        let answers = under_way.take(job.total() - 8192).await;
        job.check(1, 8192..job.total(), &answers);
        under_way.send(wire::frame("", 2, 0, job.payloads[2].clone()));
        let status = within_patience(under_way.next()).await.unwrap_err();
        assert_eq!(report(&status, Code::Unavailable).reason, "DRAINING");
        drop((under_way, idle, client));
        server.stop().await;
    }
}

/// However it is done, a client of a draining server is not kept waiting.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_that_are_idle_do_not_hold_a_drain_up() {
    for transport in [Transport::Tcp, Transport::Unix] {
        let mut server = Server::start(transport, patient()).await;
        let job = job(1);
        let mut client = server.sessions().await;
        let name = job.create(&mut client, "").await;
        // One that has sent nothing yet, one that has sent a step and not read its answer, a connection
        // without calls.
        let mut silent = StepStream::open(&client);
        let mut unread = StepStream::open(&client);
        job.frames(&name, 0, 0, &[4096]).into_iter().for_each(|frame| unread.send(frame));
        let connection = server.connect().await;
        let quiet = server.channel().await;
        while wire::position(&mut client, &name).await != (1, 0) {}
        server.ask_to_stop();
        let status = within_patience(silent.next()).await.unwrap_err();
        assert_eq!(status.code(), Code::Unavailable);
        job.check(0, 0..job.total(), &unread.take(job.total()).await);
        within_patience(unread.next()).await.unwrap_err();
        drop((silent, unread, client));
        server.stop().await;
        drop((connection, quiet));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_has_a_bound() {
    for transport in [Transport::Tcp, Transport::Unix] {
        let mut server = Server::start(transport, drain_within("50ms")).await;
        let job = job(1);
        let mut client = server.sessions().await;
        let name = job.create(&mut client, "").await;
        let mut under_way = StepStream::open(&client);
        under_way.send(wire::frame(&name, 0, 0, job.payloads[0].slice(..10_000)));
        under_way.take(8192).await;
        server.ask_to_stop();
        // Nobody finishes this step.
        let status = within_patience(under_way.next()).await.unwrap_err();
        assert!([Code::Unavailable, Code::Cancelled, Code::Unknown].contains(&status.code()), "{status:?}");
        server.stop().await;
    }
}

/// Streams that send step after step as fast as they can: whatever answer came was right, and the server
/// stops.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_under_load() {
    for transport in [Transport::Tcp, Transport::Unix] {
        let mut server = Server::start(transport, Options::default()).await;
        let job = std::sync::Arc::new(job(400));
        let (started, mut starts) = tokio::sync::mpsc::unbounded_channel();
        let mut workers = Vec::new();
        for i in 0..6 {
            let mut client = server.sessions().await;
            let name = job.create(&mut client, &format!("s-{i}")).await;
            let (job, started) = (std::sync::Arc::clone(&job), started.clone());
            workers.push(tokio::spawn(async move {
                if i % 2 == 0 {
                    for step in 0..400 {
                        match wire::unary(&mut client, &name, step, job.payloads[step as usize].clone()).await
                        {
                            Ok(answer) => assert!(answer.payload == job.answers[step as usize]),
                            Err(status) => return Some((step, status)),
                        }
                        let _ = started.send(());
                    }
                    return None;
                }
                let mut stream = StepStream::open(&client);
                for step in 0..400 {
                    job.frames(&name, step, 0, &[5000]).into_iter().for_each(|frame| stream.send(frame));
                    let mut at = 0;
                    while at < job.total() {
                        match stream.next().await {
                            Ok(Some(answer)) => {
                                let end = at + answer.payload.len();
                                assert_eq!((answer.step, answer.offset), (step, at as u64));
                                assert!(answer.payload == job.answers[step as usize][at..end]);
                                at = end;
                            }
                            Ok(None) => panic!("the stream ended without a reason"),
                            Err(status) => {
                                // A step that was begun is finished.
                                assert_eq!(at, 0, "step {step} was cut: {status:?}");
                                return Some((step, status));
                            }
                        }
                    }
                    let _ = started.send(());
                }
                None
            }));
        }
        for _ in 0..30 {
            starts.recv().await.unwrap();
        }
        server.ask_to_stop();
        for worker in workers {
            if let Some((_, status)) = within_patience(worker).await.unwrap() {
                // Refused by the server, or by the connection that it closed.
                let refused = status.code() == Code::Unavailable || status.source().is_some();
                assert!(refused, "{status:?}");
            }
        }
        server.stop().await;
    }
}

/// A client that does not read its answers keeps only its own stream back, and holds no memory of a deleted
/// session.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_does_not_read_harms_nobody_else() {
    let lanes = 4 << 20;
    let spec =
        noised::SessionSpec::new(MatrixSpec::PrefixSum, noised::Tree::flat(lanes, DType::F32).unwrap());
    let needed = spec.clone().resolve().unwrap().cost().total() + (1 << 20);
    let options =
        Options { max_session_bytes: Some(bytesize::ByteSize::b(needed + (1 << 20))), ..Options::default() };
    on_both(options, async |server: &mut Server| {
        let mut client = server.sessions().await;
        let made = client.create_session(create_request("large", &spec)).await.unwrap().into_inner();
        let proxy = Proxy::start(server).await;
        let channel = Endpoint::from_shared(proxy.target()).unwrap().connect().await.unwrap();
        let mut unread = StepStream::open(&sessions_on(channel));
        for offset in (0..lanes as usize * 4).step_by(1 << 20) {
            unread.send(wire::frame(&made.name, 0, offset, vec![1; 1 << 20].into()));
        }
        let _first = unread.next().await.unwrap();
        // Until it stands still: what the windows and queues hold is full. (Were that said too early, the
        // test would ask for less.)
        let (mut position, mut still) = ((0, 0), 0);
        while still < 300 {
            let now = wire::position(&mut client, &made.name).await;
            still = if now == position { still + 1 } else { 0 };
            position = now;
        }
        assert!(position < (1, 0), "nothing holds this client back");
        let small = job(3);
        let name = small.create(&mut client, "small").await;
        for step in 0..3 {
            small.unary(&mut client, &name, step, false).await;
        }
        wire::delete(&mut client, &made.name).await.unwrap();
        // What the stream still held is given up though nobody reads.
        within_patience(async {
            while client.create_session(create_request("large", &spec)).await.is_err() {
                tokio::task::yield_now().await;
            }
        })
        .await;
        // Its frames would hold the drain up.
        proxy.cut();
    })
    .await;
}
