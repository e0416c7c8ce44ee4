//! The client library against a server: steps by message and by stream, restarts, a network that is cut,
//! typed errors.

use std::time::Duration;

use bytes::Bytes;
use bytesize::ByteSize;
use noised::{DType, MatrixSpec, SessionSpec, Tree};
use noised_client::{Answer, Client, ClientBuilder, CreateOptions, Error, RetryPolicy, StepStream};
use noised_server::config::Options;
use noised_tests::proxy::Proxy;
use noised_tests::server::{Server, on_both};
use noised_tests::wire::Job;
use noised_tests::{specs, trees};

fn job(steps: u64) -> Job {
    Job::new(specs::noising(), trees::six_tiles(), steps)
}

fn named(id: &str, resume: bool) -> CreateOptions {
    CreateOptions { id: id.to_owned(), resume, ..CreateOptions::default() }
}

/// Everything over streams, in chunks of two tiles.
fn chunked(builder: ClientBuilder) -> ClientBuilder {
    builder.unary_bytes(0).chunk_bytes(8192)
}

/// Tries again at once, for as long as a test may take.
pub(crate) fn stubborn() -> RetryPolicy {
    RetryPolicy {
        max_elapsed: Duration::from_secs(100),
        initial_backoff: Duration::from_millis(1),
        max_backoff: Duration::from_millis(5),
    }
}

/// Answers in order, each byte once.
struct Collected {
    step: u64,
    bytes: Vec<u8>,
}

impl Collected {
    fn from(step: u64) -> Self {
        Self { step, bytes: Vec::new() }
    }

    fn take(&mut self, job: &Job, answer: &Answer) {
        assert_eq!((answer.step, answer.offset), (self.step, self.bytes.len()));
        self.bytes.extend_from_slice(&answer.payload);
        assert_eq!(answer.step_end, self.bytes.len() == job.total());
        if answer.step_end {
            assert!(self.bytes == job.answers[self.step as usize], "step {}", self.step);
            *self = Self::from(self.step + 1);
        }
    }
}

/// Pushes steps up to `end` as there is room, and takes every answer; calls back after each.
async fn pump(job: &Job, stream: &mut StepStream, end: u64, mut after: impl FnMut(&Answer)) {
    let mut collected = Collected::from(stream.next_answer_step());
    loop {
        while stream.wants_input() && stream.next_input_step() < end {
            let step = stream.next_input_step();
            stream.push(step, job.payloads[step as usize].clone()).unwrap();
        }
        match stream.next().await.unwrap() {
            Some(answer) => {
                collected.take(job, &answer);
                after(&answer);
            }
            None => break,
        }
    }
    assert_eq!((collected.step, collected.bytes.len()), (end, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn steps_have_the_bits_of_a_local_session() {
    on_both(Options::default(), async |server: &mut Server| {
        let builders = [
            server.builder(),
            chunked(server.builder()),
            server.builder().unary_bytes(0),
            server.builder().unary_bytes(0).chunk_bytes(1),
        ];
        for (i, builder) in builders.into_iter().enumerate() {
            for (k, tree) in [trees::mixed(), job(0).spec.tree].into_iter().enumerate() {
                let job = Job::new(specs::noising(), tree, 8);
                let client = builder.clone().connect().await.unwrap();
                let mut session =
                    client.create_session(&job.spec, named(&format!("s-{i}-{k}"), false)).await.unwrap();
                assert_eq!(session.step_bytes(), job.total());
                for step in 0..4 {
                    // Twice: the second is a replay.
                    for _ in 0..2 {
                        let answer =
                            session.multiply_next(step, job.payloads[step as usize].clone()).await.unwrap();
                        assert!(answer == job.answers[step as usize], "step {step}");
                        let mut output = vec![0; job.total()];
                        session
                            .multiply_next_into(step, &job.payloads[step as usize], &mut output)
                            .await
                            .unwrap();
                        assert!(output == job.answers[step as usize], "step {step}");
                    }
                    assert_eq!(session.next_step(), step + 1);
                }
                let mut stream = session.stream();
                pump(&job, &mut stream, 6, |_| {}).await;
                let mut session = client.open_session(session.name()).await.unwrap();
                assert_eq!((session.next_step(), session.spec()), (6, &job.spec));
                let mut collected = Collected::from(6);
                let inputs = tokio_stream::iter((6..8).map(|t| Ok::<_, Error>(job.payloads[t].clone())));
                session
                    .multiply_steps(inputs, |answer| {
                        collected.take(&job, &answer);
                        Ok(())
                    })
                    .await
                    .unwrap();
                assert_eq!((collected.step, session.next_step()), (8, 8));
            }
        }
    })
    .await;
}

/// A worker is killed at any moment, and the one that takes its place goes on from there without a gap.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_starts_again_goes_on() {
    on_both(Options::default(), async |server: &mut Server| {
        let job = job(40);
        let mut step = 0;
        let mut at = 0;
        for life in 0..20 {
            let client = chunked(server.builder()).connect().await.unwrap();
            let session = client.create_session(&job.spec, named("run", true)).await.unwrap();
            assert_eq!(session.info().resumed, life > 0);
            // What it has is kept elsewhere, such as in a file: bytes up to `at` of `step`.
            let mut stream = session.stream_with_replay();
            let mut left = life % 7;
            'life: loop {
                while stream.wants_input() {
                    let next = stream.next_input_step();
                    stream.push(next, job.payloads[next as usize].clone()).unwrap();
                }
                let answer = stream.next().await.unwrap().unwrap();
                let end = answer.offset + answer.payload.len();
                assert!(answer.payload == job.answers[answer.step as usize][answer.offset..end]);
                assert!((answer.step, answer.offset) <= (step, at), "a gap after byte {at} of step {step}");
                if (answer.step, end) > (step, at) {
                    (step, at) = if answer.step_end { (answer.step + 1, 0) } else { (answer.step, end) };
                    if left == 0 {
                        break 'life;
                    }
                    left -= 1;
                }
            }
        }
        assert!(step > 3);
        let client = server.client().await;
        let mut session = client.open_session("run").await.unwrap();
        for step in session.next_step()..40 {
            let answer = session.multiply_next(step, job.payloads[step as usize].clone()).await.unwrap();
            assert!(answer == job.answers[step as usize]);
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_network_that_is_cut_loses_nothing() {
    on_both(Options::default(), async |server: &mut Server| {
        let proxy = Proxy::start(server).await;
        let builder = || ClientBuilder::new(&proxy.target()).unwrap().retry(stubborn());
        let job = job(30);
        // Steps as messages, as streams of their own, and as one stream.
        for (id, builder) in [("unary", builder()), ("chunked", chunked(builder()))] {
            let client = builder.connect().await.unwrap();
            let mut session = client.create_session(&job.spec, named(id, true)).await.unwrap();
            for step in 0..10 {
                proxy.cut();
                let answer = session.multiply_next(step, job.payloads[step as usize].clone()).await.unwrap();
                assert!(answer == job.answers[step as usize], "step {step}");
            }
            let mut stream = session.stream();
            let mut answers = 0;
            pump(&job, &mut stream, 30, |_| {
                answers += 1;
                if answers % 5 == 0 {
                    proxy.cut();
                }
            })
            .await;
            proxy.cut();
            assert_eq!(client.get_session(id).await.unwrap().next_step, 30);
            proxy.cut();
            assert_eq!(client.create_session(&job.spec, named(id, true)).await.unwrap().next_step(), 30);
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn errors_are_typed() {
    let options =
        Options { max_sessions: Some(2), max_session_bytes: Some(ByteSize::mib(2)), ..Options::default() };
    on_both(options, async |server: &mut Server| {
        let client = server.client().await;
        let job = Job::of(SessionSpec { horizon: Some(5), ..job(0).spec }, 5);
        for (id, builder) in [("unary", server.builder()), ("chunked", chunked(server.builder()))] {
            let client = builder.retry(RetryPolicy::NEVER).connect().await.unwrap();
            let mut session = client.create_session(&job.spec, named(id, false)).await.unwrap();
            let mut send =
                async |step: u64, payload: &Bytes| session.multiply_next(step, payload.clone()).await;
            for step in 0..3 {
                send(step, &job.payloads[step as usize]).await.unwrap();
            }
            for requested in [0, 1, 4] {
                let error = send(requested, &job.payloads[0]).await.unwrap_err();
                assert_eq!(error.expected_step(), Some(3));
                let Error::WrongStep { requested: told, expected: 3 } = error else { panic!("{error:?}") };
                assert_eq!(told, requested);
            }
            let error = send(2, &job.payloads[0]).await.unwrap_err();
            assert!(matches!(error, Error::PayloadMismatch { requested: 2, expected: 3, .. }), "{error:?}");
            let error = send(5, &job.payloads[0]).await.unwrap_err();
            assert!(matches!(error, Error::PastHorizon { requested: 5, horizon: 5 }), "{error:?}");
            let error = send(3, &job.payloads[3].slice(1..)).await.unwrap_err();
            assert!(matches!(&error, Error::Invalid { field, .. } if field == "payload"), "{error:?}");
            // None of that moved it.
            for step in 3..5 {
                assert!(
                    send(step, &job.payloads[step as usize]).await.unwrap() == job.answers[step as usize]
                );
            }
            let mut stream = session.stream();
            assert!(matches!(
                stream.push(6, job.payloads[0].clone()),
                Err(Error::WrongStep { expected: 5, .. })
            ));
            stream.push(5, job.payloads[0].clone()).unwrap();
            assert!(matches!(stream.next().await, Err(Error::PastHorizon { requested: 5, horizon: 5 })));
        }
        let create = |spec: &SessionSpec, id: &str, resume| {
            let (client, spec, options): (Client, _, _) = (client.clone(), spec.clone(), named(id, resume));
            async move { client.create_session(&spec, options).await.unwrap_err() }
        };
        let other = SessionSpec { matrix: MatrixSpec::PrefixSum, ..job.spec.clone() };
        assert!(matches!(create(&job.spec, "unary", false).await, Error::AlreadyExists { .. }));
        let error = create(&other, "unary", true).await;
        assert!(matches!(&error, Error::FingerprintMismatch { field } if field == "matrix"), "{error:?}");
        assert!(matches!(create(&job.spec, "third", false).await, Error::ResourceExhausted { .. }));
        let bad = SessionSpec { matrix: specs::toeplitz(&[]), ..job.spec.clone() };
        let error = create(&bad, "third", false).await;
        assert!(matches!(&error, Error::Invalid { field, .. } if field == "matrix.coef"), "{error:?}");
        client.delete_session("unary").await.unwrap();
        let large = SessionSpec::new(MatrixSpec::PrefixSum, Tree::flat(1 << 30, DType::F32).unwrap());
        assert!(matches!(create(&large, "third", false).await, Error::ResourceExhausted { .. }));
        assert!(matches!(client.open_session("unary").await, Err(Error::NotFound { .. })));
        assert!(matches!(client.delete_session("unary").await, Err(Error::NotFound { .. })));
        let names: Vec<String> =
            client.list_sessions().await.unwrap().into_iter().map(|session| session.name).collect();
        assert_eq!(names, ["sessions/chunked"]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_clients_racing_on_a_step_get_the_same_answer() {
    on_both(Options::default(), async |server: &mut Server| {
        let job = job(15);
        let (one, two) = (server.client().await, chunked(server.builder()).connect().await.unwrap());
        let mut one = one.create_session(&job.spec, named("run", true)).await.unwrap();
        let mut two = two.create_session(&job.spec, named("run", true)).await.unwrap();
        for step in 0..15 {
            let payload = &job.payloads[step as usize];
            let (a, b) = tokio::join!(
                one.multiply_next(step, payload.clone()),
                two.multiply_next(step, payload.clone())
            );
            assert!(a.unwrap() == job.answers[step as usize]);
            assert!(b.unwrap() == job.answers[step as usize]);
        }
    })
    .await;
}
