//! The client against a network that breaks, and a server that says no.
//!
//! The server here is the protocol over the core's sessions and nothing more; the program `noised` has its
//! own tests.
//!
//! | room | what is in it |
//! |---|---|
//! | `server`, `network` | the server, and what is between it and the client |
//! | `drawn` | sessions whose noise the server draws |
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is a failed test")]

mod drawn;
mod network;
mod server;

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use noised::session::ResolvedSpec;
use noised::{DType, Leaf, MatrixSpec, SessionSpec, Shard, Tree};
use noised_client::{Answer, Client, ClientBuilder, CreateOptions, Error, GivenKey, RetryPolicy};
use noised_proto::ServiceError;

use network::break_after;
use server::{Held, KEY, OneSession, serve};

fn client(address: SocketAddr) -> ClientBuilder {
    let retry = RetryPolicy {
        max_elapsed: Duration::from_secs(20),
        initial_backoff: Duration::from_millis(1),
        max_backoff: Duration::from_millis(20),
    };
    ClientBuilder::new(&address.to_string()).unwrap().retry(retry)
}

/// Formats of all sizes, tiles across leaves, and a tail.
fn spec(lanes: u64) -> SessionSpec {
    let leaves = vec![
        Leaf::new("a", DType::F32, [lanes / 2]),
        Leaf::new("b", DType::Bf16, [lanes / 3]),
        Leaf::new("c", DType::F64, [lanes / 6]),
    ];
    let blt = MatrixSpec::BufferedToeplitz { buf_decay: vec![0.9, 0.5], output_scale: vec![0.1, 0.2] };
    SessionSpec { shard: Shard::new(1, 3), ..SessionSpec::new(blt.inverse(), Tree::new(leaves).unwrap()) }
}

/// Zeros with a few set bits, so that no format reads a NaN.
fn input(resolved: &ResolvedSpec, step: u64) -> Bytes {
    let bytes = resolved.input_bytes();
    (0..bytes).map(|i| if i % 2 == 0 { (i as u64 * 7 + step * 13) as u8 } else { 0x3f }).collect()
}

fn expected(spec: &SessionSpec, steps: u64) -> Vec<Vec<u8>> {
    let resolved = spec.clone().resolve().unwrap();
    let mut session = Held::new(resolved.clone());
    let answer = |step| {
        let chunks = session.take(step, 0, &input(&resolved, step)).unwrap();
        chunks.iter().flat_map(|chunk| chunk.bytes.to_vec()).collect()
    };
    (0..steps).map(answer).collect()
}

fn named(id: &str, resume: bool) -> CreateOptions {
    CreateOptions { id: id.into(), resume, ..CreateOptions::default() }
}

async fn session(client: &Client, spec: &SessionSpec) -> noised_client::Session {
    let noise_key = spec.source.noise().map(|_| GivenKey::from_bytes(KEY));
    client.create_session(spec, CreateOptions { noise_key, ..named("test", true) }).await.unwrap()
}

/// Collects every byte of every answer, once.
#[derive(Default)]
struct Collected(Vec<Vec<u8>>);

impl Collected {
    fn take(&mut self, answer: &Answer) {
        if answer.offset == 0 {
            assert_eq!(answer.step, self.0.len() as u64);
            self.0.push(Vec::new());
        }
        let of_step = self.0.last_mut().unwrap();
        assert_eq!(answer.offset, of_step.len());
        of_step.extend_from_slice(&answer.payload);
    }
}

#[tokio::test]
async fn steps_one_by_one() {
    let address = serve(OneSession::default()).await;
    let spec = spec(300_000);
    let resolved = spec.clone().resolve().unwrap();
    let expected = expected(&spec, 6);
    for unary_bytes in [0, 1 << 20] {
        let client = client(address).unary_bytes(unary_bytes).chunk_bytes(50_000).connect().await.unwrap();
        let mut session = session(&client, &spec).await;
        let first = session.next_step();
        let mut kept = vec![0; session.step_bytes()];
        for step in first..first + 3 {
            let payload = input(&resolved, step);
            let answer = session.multiply_next(step, payload.clone()).await.unwrap();
            assert_eq!(answer, expected[step as usize]);
            // The same step again is the same bytes, and so is the next one after that.
            session.multiply_next_into(step, &payload, &mut kept).await.unwrap();
            assert_eq!(kept, expected[step as usize]);
        }
        assert_eq!(session.next_step(), first + 3);
    }
}

#[tokio::test]
async fn a_stream_survives_any_number_of_cuts() {
    let spec = spec(300_000);
    let resolved = spec.clone().resolve().unwrap();
    let expected = expected(&spec, 20);
    for (chunk_bytes, budget) in [(10_000, 30_000), (100_000, 333_333), (1_000_000, 500_001)] {
        let server = serve(OneSession::default()).await;
        let (address, connections) = break_after(server, (0..15).map(|i| budget + i * 7919).collect()).await;
        let client = client(address).chunk_bytes(chunk_bytes).connect().await.unwrap();
        let mut session = session(&client, &spec).await;
        let inputs = tokio_stream::iter((0..20).map(|step| Ok::<_, Error>(input(&resolved, step))));
        let mut collected = Collected::default();
        let take = |answer: Answer| {
            collected.take(&answer);
            Ok(())
        };
        session.multiply_steps(inputs, take).await.unwrap();
        assert_eq!(session.next_step(), 20);
        assert_eq!(connections.load(Ordering::Relaxed), 16);
        assert!(collected.0 == expected, "chunks of {chunk_bytes}");
    }
}

#[tokio::test]
async fn single_steps_survive_cuts() {
    let spec = spec(300_000);
    let resolved = spec.clone().resolve().unwrap();
    let server = serve(OneSession::default()).await;
    let (address, connections) = break_after(server, (0..10).map(|i| 150_000 + i * 7919).collect()).await;
    let client = client(address).unary_bytes(0).chunk_bytes(40_000).connect().await.unwrap();
    let mut session = session(&client, &spec).await;
    for (step, expected) in expected(&spec, 8).iter().enumerate() {
        let answer = session.multiply_next(step as u64, input(&resolved, step as u64)).await.unwrap();
        assert!(answer == *expected, "step {step}");
    }
    assert!(connections.load(Ordering::Relaxed) > 5);
}

/// A program that was killed while the answer to a step, and that to the beginning of the next, were on their
/// way.
#[tokio::test]
async fn the_last_step_can_be_repeated_from_where_the_next_was_cut_off() {
    let spec = spec(300_000);
    let resolved = spec.clone().resolve().unwrap();
    let expected = expected(&spec, 4);
    let client = client(serve(OneSession::default()).await).chunk_bytes(20_000).connect().await.unwrap();
    let killed = session(&client, &spec).await;
    let mut stream = killed.stream();
    stream.push(0, input(&resolved, 0)).unwrap();
    stream.push(1, input(&resolved, 1)).unwrap();
    assert!(!stream.wants_input());
    let mut partial = Collected::default();
    while partial.0.get(1).is_none_or(|of_step| of_step.len() < resolved.layout().byte_len() / 2) {
        partial.take(&stream.next().await.unwrap().unwrap());
    }
    drop(stream);

    let info = client.get_session("test").await.unwrap();
    assert!(info.next_step == 1 && info.next_offset > 0);
    let resumed = session(&client, &spec).await;
    let mut stream = resumed.stream_with_replay();
    assert_eq!(stream.next_input_step(), 0);
    let inputs = tokio_stream::iter((0..4).map(|step| Ok::<_, Error>(input(&resolved, step))));
    let mut answers = partial.0;
    answers.truncate(1);
    answers[0].truncate(info.next_offset as usize);
    let take = |answer: Answer| {
        answers.resize(answers.len().max(answer.step as usize + 1), Vec::new());
        assert_eq!(answers[answer.step as usize].len(), answer.offset);
        answers[answer.step as usize].extend_from_slice(&answer.payload);
        Ok::<(), Error>(())
    };
    stream.run(inputs, take).await.unwrap();
    assert!(answers == expected);
}

#[tokio::test]
async fn a_dropped_call_does_no_harm() {
    let spec = spec(300_000);
    let resolved = spec.clone().resolve().unwrap();
    let expected = expected(&spec, 1);
    let client = client(serve(OneSession::default()).await)
        .unary_bytes(0)
        .chunk_bytes(10_000)
        .connect()
        .await
        .unwrap();
    let mut session = session(&client, &spec).await;
    for micros in [0, 100, 1000, 3000] {
        let call = session.multiply_next(0, input(&resolved, 0));
        let _dropped = tokio::time::timeout(Duration::from_micros(micros), call).await;
    }
    assert_eq!(session.multiply_next(0, input(&resolved, 0)).await.unwrap(), expected[0]);
}

#[tokio::test]
async fn refusals_come_typed_and_at_once() {
    let spec = SessionSpec { horizon: Some(2), ..spec(6000) };
    let resolved = spec.clone().resolve().unwrap();
    let client = client(serve(OneSession::default()).await).connect().await.unwrap();
    let mut unary = session(&client, &spec).await;
    let wrong = Error::WrongStep { requested: 1, expected: 0 };
    assert_eq!(unary.multiply_next(1, input(&resolved, 1)).await, Err(wrong.clone()));
    assert_eq!(wrong.expected_step(), Some(0));
    unary.multiply_next(0, input(&resolved, 0)).await.unwrap();
    let other = unary.multiply_next(0, input(&resolved, 5)).await;
    assert_eq!(other, Err(Error::PayloadMismatch { requested: 0, expected: 1, offset: 0 }));
    let short = unary.multiply_next(1, Bytes::from_static(&[0; 3])).await;
    assert!(matches!(short, Err(Error::Invalid { field, .. }) if field == "payload"));
    unary.multiply_next(1, input(&resolved, 1)).await.unwrap();
    let mut stream = unary.stream();
    stream.push(2, input(&resolved, 2)).unwrap();
    assert_eq!(stream.next().await, Err(Error::PastHorizon { requested: 2, horizon: 2 }));

    let another = SessionSpec { horizon: None, ..spec };
    let options = named("test", true);
    let refused = client.create_session(&another, options).await.map(|_| ());
    assert_eq!(refused, Err(Error::FingerprintMismatch { field: "horizon".into() }));
    client.delete_session("test").await.unwrap();
    assert!(matches!(client.open_session("test").await, Err(Error::NotFound { .. })));
}

#[tokio::test]
async fn a_server_that_is_not_ready_is_waited_for() {
    let service = OneSession::default();
    let address = serve(service.clone()).await;
    let client = client(address).unary_bytes(0).connect().await.unwrap();
    let draining = ServiceError::Draining { retry_after: Duration::from_millis(30) };
    service.refusals.lock().unwrap().extend([draining.clone(), draining.clone()]);
    let start = std::time::Instant::now();
    let spec = spec(6000);
    let mut session = session(&client, &spec).await;
    assert!(start.elapsed() >= Duration::from_millis(60));
    service.refusals.lock().unwrap().push_back(draining);
    let payload = input(&spec.clone().resolve().unwrap(), 0);
    assert_eq!(session.multiply_next(0, payload).await.unwrap(), expected(&spec, 1)[0]);
}

#[tokio::test]
async fn a_server_that_is_not_there_is_given_up() {
    let policy = RetryPolicy { max_elapsed: Duration::from_millis(100), ..RetryPolicy::default() };
    for target in ["127.0.0.1:1", "unix:///no/such/socket"] {
        let refused = ClientBuilder::new(target).unwrap().retry(policy).connect().await.map(|_| ());
        assert!(matches!(refused, Err(Error::Unavailable { .. })), "{refused:?}");
        let lazy = ClientBuilder::new(target).unwrap().retry(policy).connect_lazy().unwrap();
        let refused = lazy.get_session("a").await.map(|_| ());
        assert!(matches!(refused, Err(Error::Unavailable { .. })), "{refused:?}");
    }
}

/// By an error of the caller, and by a future that is dropped; both in the middle of a step, with the next
/// one begun.
#[tokio::test]
async fn steps_that_were_broken_off_are_gone_on_with() {
    let spec = spec(300_000);
    let resolved = spec.clone().resolve().unwrap();
    let expected = expected(&spec, 12);
    let client = client(serve(OneSession::default()).await).chunk_bytes(20_000).connect().await.unwrap();
    let mut session = session(&client, &spec).await;
    let mut collected = Collected::default();
    let mut breaks = 0_usize;
    while session.next_step() < 12 {
        let first = session.next_step();
        let inputs = tokio_stream::iter((first..12).map(|step| Ok(input(&resolved, step))));
        let dropped = tokio::sync::Notify::new();
        let by_error = breaks.is_multiple_of(2);
        let mut left = 5 + breaks % 7;
        let take = |answer: Answer| {
            if left == 0 && by_error {
                return Err(Error::Protocol { message: "enough".into() });
            }
            collected.take(&answer);
            left = left.saturating_sub(1);
            if left == 0 {
                dropped.notify_one();
            }
            Ok(())
        };
        tokio::select! {
            biased;
            () = dropped.notified(), if !by_error => {}
            _broken_off = session.multiply_steps(inputs, take) => {}
        }
        breaks += 1;
    }
    assert!(breaks > 10);
    assert!(collected.0 == expected);
}

#[tokio::test]
async fn a_session_whose_answer_was_lost_is_made_once() {
    for resume in [false, true] {
        let service = OneSession::default();
        let server = serve(service.clone()).await;
        // The beginning of an answer gets through, and its end does not.
        let (address, connections) = break_after(server, [200, 200].into()).await;
        let client = client(address).connect().await.unwrap();
        let options = named("", resume);
        let session = client.create_session(&spec(6000), options).await.unwrap();
        assert!(!session.info().resumed);
        assert_eq!(connections.load(Ordering::Relaxed), 3);
        let creations = service.creations.lock().unwrap().clone();
        assert!(creations.len() > 1);
        assert!(!creations[0].session_id.is_empty());
        assert!(creations.iter().all(|creation| *creation == creations[0]));
    }
}

#[tokio::test]
async fn a_busy_server_is_waited_for() {
    let service = OneSession::default();
    let client = client(serve(service.clone()).await).connect().await.unwrap();
    let busy = ServiceError::Busy { what: "calls", limit: 1, retry_after: Duration::from_millis(30) };
    service.refusals.lock().unwrap().extend([busy.clone(), busy]);
    let start = std::time::Instant::now();
    client.create_session(&spec(6000), named("test", false)).await.unwrap();
    assert!(start.elapsed() >= Duration::from_millis(60));
}

/// A port that accepts and says nothing, for a call and for a stream.
#[tokio::test]
async fn a_server_that_says_nothing_is_given_up() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = listener.local_addr().unwrap().to_string();
    let retry = RetryPolicy { max_elapsed: Duration::from_millis(10), ..RetryPolicy::default() };
    let client = ClientBuilder::new(&target).unwrap().retry(retry).connect().await.unwrap();
    let silent = client.list_sessions().await.unwrap_err();
    assert!(
        matches!(&silent, Error::Unavailable { message, .. } if message.contains("nothing was said")),
        "{silent:?}"
    );
    let silent = client.analysis().describe(&MatrixSpec::PrefixSum, None, None).await.map(|_| ());
    assert!(matches!(silent, Err(Error::Unavailable { .. })), "{silent:?}");
}

/// Streams whose answers nobody reads, as many as fill any window that streams share.
#[tokio::test]
async fn streams_that_are_left_alone_are_in_nobodys_way() {
    let spec = spec(3_000_000);
    let resolved = spec.clone().resolve().unwrap();
    let client = client(serve(OneSession::default()).await).connect().await.unwrap();
    let session = session(&client, &spec).await;
    let mut left_alone = Vec::new();
    for _ in 0..6 {
        let mut stream = session.stream();
        stream.push(0, input(&resolved, 0)).unwrap();
        // One answer is read, and those behind it stay where they are.
        stream.next().await.unwrap();
        left_alone.push(stream);
    }
    let looked = tokio::time::timeout(Duration::from_secs(60), client.get_session("test")).await;
    assert_eq!(looked.unwrap().unwrap().next_step, 1);
    let mut again = client.open_session("test").await.unwrap();
    let taken =
        tokio::time::timeout(Duration::from_secs(60), again.multiply_next(0, input(&resolved, 0))).await;
    assert!(taken.unwrap().unwrap() == expected(&spec, 1)[0]);
}
