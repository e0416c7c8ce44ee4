//! Connections: how many there may be, how long they may keep the server waiting, and that they end with it.

use std::time::Duration;

use bytes::Bytes;
use bytesize::ByteSize;
use noised::{DType, MatrixSpec, SessionSpec};
use noised_proto::v1;
use noised_server::config::{Options, Span};
use noised_tests::server::{Connection, Server, Transport, on_both, sessions_on, within_patience};
use noised_tests::wire::{self, Job, StepStream, create_request, report};
use noised_tests::{raw, trees};
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tonic::metadata::MetadataValue;
use tonic::{Code, Request};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];

/// Longer than a test is waited for: whatever waits for this has hung.
fn never() -> Option<Span> {
    Some(Span(Duration::from_secs(3600)))
}

fn soon() -> Option<Span> {
    Some(Span(Duration::from_millis(100)))
}

fn job() -> Job {
    Job::new(MatrixSpec::PrefixSum, trees::of_shapes(DType::F32, &[&[3]]), 3)
}

/// Ends when the server has closed a connection.
async fn closed(connection: &mut Box<dyn Connection>) {
    within_patience(async {
        let mut bytes = [0; 4096];
        while !matches!(connection.read(&mut bytes).await, Ok(0) | Err(_)) {}
    })
    .await;
}

/// A server that is asked to stop, and whose connections say nothing: it must not wait for its drain timeout,
/// which is longer than the test's patience.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_without_a_call_do_not_hold_a_drain_up() {
    for transport in [Transport::Tcp, Transport::Unix] {
        let mut server =
            Server::start(transport, Options { drain_timeout: never(), ..Options::default() }).await;
        let mut open = Vec::new();
        for greeting in [
            // Nothing; half a preface; a peer that greets, answers no ping and never reads.
            &[][..],
            &PREFACE[..10],
            &[PREFACE, SETTINGS].concat(),
        ] {
            let mut connection = server.connect().await;
            connection.write_all(greeting).await.unwrap();
            open.push(connection);
        }
        // A client that has made calls, and one that watches a probe.
        let job = job();
        let mut client = server.sessions().await;
        let name = job.create(&mut client, "a").await;
        job.unary(&mut client, &name, 0, false).await;
        let channel = server.channel().await;
        let watch = HealthClient::new(channel.clone()).watch(HealthCheckRequest::default()).await.unwrap();
        server.ask_to_stop();
        server.stop().await;
        drop((open, client, channel, watch));
    }
}

/// Neither is the server kept by a request that it would not begin any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_a_request_does_not_hold_a_drain_up() {
    for transport in [Transport::Tcp, Transport::Unix] {
        let drain_timeout = never();
        let options = Options { drain_timeout, body_timeout: never(), ..Options::default() };
        let mut server = Server::start(transport, options).await;
        let channel = server.channel().await;
        let stalled: Vec<_> = [raw::METHODS[0], raw::METHODS[4], raw::METHODS[9]]
            .map(|path| {
                let channel = channel.clone();
                tokio::spawn(async move { raw::unfinished(&channel, path, Bytes::from(vec![0; 100])).await })
            })
            .into();
        // They are under way once the server has begun them, which only their refusal shows.
        tokio::time::sleep(Duration::from_millis(200)).await;
        server.ask_to_stop();
        for call in stalled {
            let status = within_patience(call).await.unwrap();
            assert_eq!(report(&status, Code::Unavailable).reason, "DRAINING");
        }
        server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn so_many_connections_are_served_and_others_are_told() {
    let options = Options { max_connections: Some(3), ..Options::default() };
    on_both(options, async |server: &mut Server| {
        let job = job();
        let mut client = server.sessions().await;
        let name = job.create(&mut client, "a").await;
        let mut others = Vec::new();
        for _ in 0..2 {
            let mut other = server.sessions().await;
            wire::get(&mut other, &name).await.unwrap();
            others.push(other);
        }
        for _ in 0..5 {
            let channel = server.channel().await;
            let status = wire::get(&mut sessions_on(channel.clone()), &name).await.unwrap_err();
            let told = report(&status, Code::ResourceExhausted);
            assert_eq!((told.reason.as_str(), told.number("limit")), ("BUSY", Some(3)));
            assert!(told.retry_after.is_some() && told.message.contains("connections"), "{told:?}");
            // A probe does not take a full server for a sick one.
            HealthClient::new(channel).check(HealthCheckRequest::default()).await.unwrap();
        }
        // Peers that say nothing do not keep others from being told.
        let mut silent = Vec::new();
        for _ in 0..40 {
            silent.push(server.connect().await);
        }
        let status = wire::get(&mut server.sessions().await, &name).await.unwrap_err();
        assert_eq!(report(&status, Code::ResourceExhausted).reason, "BUSY");
        job.unary(&mut client, &name, 0, false).await;
        // A place that is free again is given away.
        others.pop();
        within_patience(async {
            while wire::get(&mut server.sessions().await, &name).await.is_err() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_does_not_greet_is_not_waited_for() {
    let options = Options { handshake_timeout: soon(), ..Options::default() };
    on_both(options, async |server: &mut Server| {
        let quiet = server.channel().await;
        for greeting in [&[][..], &PREFACE[..1], &PREFACE[..23], PREFACE, &[PREFACE, &SETTINGS[..8]].concat()]
        {
            let mut connection = server.connect().await;
            connection.write_all(greeting).await.unwrap();
            closed(&mut connection).await;
        }
        // A client that has greeted may take its time.
        let job = job();
        job.create(&mut sessions_on(quiet), "a").await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_without_a_call_is_ended_in_time() {
    let options = Options { idle_timeout: soon(), handshake_timeout: soon(), ..Options::default() };
    on_both(options, async |server: &mut Server| {
        let mut idle = server.connect().await;
        idle.write_all(&[PREFACE, SETTINGS].concat()).await.unwrap();
        let job = job();
        let mut client = server.sessions().await;
        let name = job.create(&mut client, "a").await;
        let mut stream = StepStream::open(&client);
        stream.send(wire::frame(&name, 0, 0, job.payloads[0].clone()));
        stream.take(job.total()).await;
        closed(&mut idle).await;
        // A connection with a call stays, however long its client computes.
        tokio::time::sleep(Duration::from_millis(500)).await;
        stream.send(wire::frame("", 1, 0, job.payloads[1].clone()));
        job.check(1, 0..job.total(), &stream.take(job.total()).await);
    })
    .await;
}

/// Uploads that stop half way let go of what they hold, and the next ones get it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_that_stops_is_given_up() {
    let max_message_bytes = Some(ByteSize::mib(1));
    let options = Options { body_timeout: soon(), max_message_bytes, ..Options::default() };
    on_both(options, async |server: &mut Server| {
        let matrix = MatrixSpec::Diagonal { diag: vec![1.0; 110_000] };
        let long = SessionSpec::new(matrix, trees::of_shapes(DType::F32, &[&[3]]));
        let message = Bytes::from(create_request("stalled", &long).encode_to_vec());
        for path in [raw::METHODS[0], raw::METHODS[4], raw::METHODS[9]] {
            let channel = server.channel().await;
            let status = within_patience(raw::unfinished(&channel, path, message.clone())).await;
            let told = report(&status, Code::DeadlineExceeded);
            assert_eq!(told.reason, "REQUEST_STALLED", "{path}");
            assert!(told.message.contains("body_timeout"), "{told:?}");
        }
        let mut client = server.sessions().await;
        for _ in 0..3 {
            let name = client.create_session(create_request("a", &long)).await.unwrap().into_inner().name;
            wire::delete(&mut client, &name).await.unwrap();
        }
    })
    .await;
}

/// The same within a message of a stream; between messages a trainer computes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frame_that_stops_is_given_up_and_a_stream_that_waits_is_not() {
    on_both(Options { body_timeout: soon(), ..Options::default() }, async |server: &mut Server| {
        let job = job();
        let mut client = server.sessions().await;
        let name = job.create(&mut client, "a").await;
        let mut stream = StepStream::open(&client);
        for step in 0..2 {
            stream.send(wire::frame(&name, step, 0, job.payloads[step as usize].clone()));
            job.check(step, 0..job.total(), &stream.take(job.total()).await);
            tokio::time::sleep(Duration::from_millis(400)).await;
        }
        let message = Bytes::from(wire::frame(&name, 2, 0, job.payloads[2].clone()).encode_to_vec());
        let channel = server.channel().await;
        let status = within_patience(raw::unfinished(&channel, raw::METHODS[5], message)).await;
        assert_eq!(report(&status, Code::DeadlineExceeded).reason, "REQUEST_STALLED");
        // Nothing of it was taken.
        assert_eq!(wire::position(&mut client, &name).await, (2, 0));
        stream.send(wire::frame("", 2, 0, job.payloads[2].clone()));
        job.check(2, 0..job.total(), &stream.take(job.total()).await);
    })
    .await;
}

/// Two uploads of the longest length hold all that the server takes in. They hold it over two connections,
/// not over one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_connection_does_not_hold_all_of_the_intake() {
    let max_message_bytes = Some(ByteSize::mib(1));
    let options = Options { body_timeout: never(), max_message_bytes, ..Options::default() };
    on_both(options, async |server: &mut Server| {
        let matrix = MatrixSpec::Diagonal { diag: vec![1.0; 110_000] };
        let long = SessionSpec::new(matrix, trees::of_shapes(DType::F32, &[&[3]]));
        let message = Bytes::from(create_request("stalled", &long).encode_to_vec());
        let greedy = server.channel().await;
        let stalled: Vec<_> = (0..8).map(|_| raw::stall(&greedy, raw::METHODS[0], message.clone())).collect();
        let mut beside = sessions_on(greedy);
        // Once the connection's share is held, a further long request on it is refused.
        let status = within_patience(async {
            loop {
                match beside.create_session(create_request("beside", &long)).await {
                    Ok(made) => wire::delete(&mut beside, &made.into_inner().name).await.unwrap(),
                    Err(status) => break status,
                }
            }
        })
        .await;
        let told = report(&status, Code::ResourceExhausted);
        assert!(told.message.contains("on this connection"), "{told:?}");
        let mut client = server.sessions().await;
        for _ in 0..5 {
            let name = client.create_session(create_request("a", &long)).await.unwrap().into_inner().name;
            wire::delete(&mut client, &name).await.unwrap();
        }
        stalled.iter().for_each(tokio::task::JoinHandle::abort);
    })
    .await;
}

/// Metadata that is too long fails its own call, and leaves the connection's other calls alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metadata_that_is_too_long_is_refused_for_its_call_alone() {
    on_both(Options::default(), async |server: &mut Server| {
        let job = job();
        let mut client = server.sessions().await;
        let name = job.create(&mut client, "a").await;
        let mut stream = StepStream::open(&client);
        stream.send(wire::frame(&name, 0, 0, job.payloads[0].clone()));
        stream.take(job.total()).await;
        // Entries, and their length. Each counts 32 bytes and its name as well.
        for (entries, length, fits) in [
            (1, 15_000, true),
            (100, 50, true),
            (1, 17_000, false),
            (300, 50, false),
            (1, 70_000, false),
            (70, 1000, false),
            (1, 200_000, false),
        ] {
            let mut request =
                Request::new(v1::GetSessionRequest { name: name.clone(), ..Default::default() });
            let value: MetadataValue<_> = "x".repeat(length).parse().unwrap();
            for _ in 0..entries {
                request.metadata_mut().append("x-note", value.clone());
            }
            let answered = client.get_session(request).await;
            assert_eq!(answered.is_ok(), fits, "{entries} of {length}: {answered:?}");
            if let Err(status) = answered {
                let told = report(&status, Code::ResourceExhausted);
                assert_eq!(told.reason, "METADATA_TOO_LARGE");
                assert_eq!(told.number("limit"), Some(16 << 10));
                assert!(told.number("size").unwrap() >= entries * (length as u64 + 38));
            }
        }
        stream.send(wire::frame("", 1, 0, job.payloads[1].clone()));
        job.check(1, 0..job.total(), &stream.take(job.total()).await);
    })
    .await;
}

/// A deadline that passes is told as what it is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deadline_that_passes_says_so() {
    on_both(Options { body_timeout: never(), ..Options::default() }, async |server: &mut Server| {
        for path in [raw::METHODS[0], raw::METHODS[4], raw::METHODS[9]] {
            let connection = server.connect().await;
            let status = within_patience(raw::unfinished_until(connection, path, "50m")).await;
            assert_eq!(report(&status, Code::DeadlineExceeded).reason, "DEADLINE_PASSED", "{path}");
        }
    })
    .await;
}
