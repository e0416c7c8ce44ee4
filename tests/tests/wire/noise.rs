//! Sessions whose noise the server draws, over gRPC: the bits that a session in this process draws, each step
//! released once, and nothing lost with a connection.

use bytes::Bytes;
use noised::{DType, Leaf, MatrixSpec, Precision, SessionSpec, Shard, Tree};
use noised_client::{ClientBuilder, CreateOptions, GivenKey};
use noised_proto::v1;
use noised_server::config::Options;
use noised_tests::noises::{self, ask, assert_refused, gaussian, given};
use noised_tests::proxy::Proxy;
use noised_tests::server::{Server, on_both};
use noised_tests::wire::{self, StepStream, assert_expects, assert_invalid};
use noised_tests::{specs, trees};
use tonic::Code;

use crate::client::stubborn;

const STATES: [v1::NoiseState; 2] = [v1::NoiseState::Kept, v1::NoiseState::Replayed];

/// Several megabytes, many tiles, leaves of odd sizes and of all formats.
fn large() -> Tree {
    Tree::new(vec![
        Leaf::new("a", DType::F32, [400_003]),
        Leaf::new("b", DType::Bf16, [77, 1031]),
        Leaf::new("c", DType::F64, [150_001]),
        Leaf::new("empty", DType::F64, [0]),
        Leaf::new("d", DType::F16, [3, 5, 7, 11]),
        Leaf::new("e", DType::F32, [200_000]),
    ])
    .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_matrix_and_tree_has_the_bits_of_a_local_session() {
    on_both(Options::default(), async |server: &mut Server| {
        let mut client = server.sessions().await;
        let mixed = specs::nested().into_iter().map(|matrix| (matrix, trees::mixed()));
        let odd = DType::ALL.into_iter().flat_map(trees::odd).map(|tree| (specs::noising(), tree));
        for (i, (matrix, tree)) in mixed.chain(odd).enumerate() {
            let precision = if i % 2 == 0 { Precision::F32 } else { Precision::F64 };
            let spec = SessionSpec { precision, ..gaussian(given(), matrix, tree) };
            let expected = noises::drawn_of_given(&spec, 4);
            let name = noises::create(&mut client, noises::request("", &spec)).await;
            for step in [0, 3] {
                let answer = noises::fetch(&mut client, &name, step).await.unwrap();
                assert!(answer.payload == expected[step as usize] && !answer.replay, "step {step}");
                if step == 0 {
                    let frames = vec![ask(&name, 1, 0), ask("", 2, 0)];
                    let answers = noises::stream(&mut client, frames).await;
                    let second = answers.iter().position(|answer| answer.step == 2).unwrap();
                    noises::check(1, &expected[1], false, &answers[..second]);
                    noises::check(2, &expected[2], false, &answers[second..]);
                }
            }
            wire::delete(&mut client, &name).await.unwrap();
        }
    })
    .await;
}

/// By message where they fit one, and by stream in any case.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bits_do_not_depend_on_lookahead_nor_on_what_is_kept() {
    let matrix = specs::toeplitz(&[1.0, -0.5, 0.25]);
    for (tree, unary) in [(trees::mixed(), true), (large(), false)] {
        let spec = gaussian(given(), matrix.clone(), tree);
        let expected = noises::drawn_of_given(&spec, 7);
        on_both(Options::default(), async |server: &mut Server| {
            let mut client = server.sessions().await;
            for lookahead in [0, 1, 4, 16] {
                for state in STATES {
                    let request = noises::request_with("", &spec, lookahead, state);
                    let made = client.create_session(request).await.unwrap().into_inner();
                    assert_eq!((made.lookahead, made.noise_state()), (Some(lookahead), state));
                    for step in 0..7_u64 {
                        if unary && step % 2 == 0 {
                            let answer = noises::fetch(&mut client, &made.name, step).await.unwrap();
                            assert!(answer.payload == expected[step as usize], "step {step}");
                        } else {
                            let frames = vec![ask(&made.name, step, 0)];
                            let answers = noises::stream(&mut client, frames).await;
                            noises::check(step, &expected[step as usize], false, &answers);
                        }
                    }
                    wire::delete(&mut client, &made.name).await.unwrap();
                }
            }
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn threads_and_shards_do_not_change_bits() {
    let whole = gaussian(given(), specs::noising(), large());
    let expected = noises::drawn_of_given(&whole, 3);
    for threads in [1, 3] {
        on_both(Options { threads: Some(threads), ..Options::default() }, async |server: &mut Server| {
            let mut client = server.sessions().await;
            for count in [1, 2, 3, 7] {
                let mut together = vec![Vec::new(); 3];
                for index in 0..count {
                    let spec = SessionSpec { shard: Shard::new(index, count), ..whole.clone() };
                    let name = noises::create(&mut client, noises::request("", &spec)).await;
                    for (step, whole) in together.iter_mut().enumerate() {
                        let step = step as u64;
                        let answers = noises::stream(&mut client, vec![ask(&name, step, 0)]).await;
                        whole.extend_from_slice(&noises::join(step, 0, &answers));
                    }
                    wire::delete(&mut client, &name).await.unwrap();
                }
                assert!(together.iter().eq(&expected), "{count} shards");
            }
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_step_asked_again_is_answered_with_the_same_bytes() {
    let spec = gaussian(given(), specs::noising(), trees::six_tiles());
    let expected = noises::drawn_of_given(&spec, 3);
    on_both(Options::default(), async |server: &mut Server| {
        let mut client = server.sessions().await;
        let name = noises::create(&mut client, noises::request("", &spec)).await;
        for (step, expected) in (0..).zip(&expected) {
            for replay in [false, true, true] {
                let answer = noises::fetch(&mut client, &name, step).await.unwrap();
                assert_eq!((answer.step, answer.replay), (step, replay));
                assert!(answer.payload == expected);
            }
            let mut other = server.sessions().await;
            // From any byte on.
            for from in [0, 1, 4096, 5001, expected.len() - 1] {
                let answers = noises::stream(&mut other, vec![ask(&name, step, from)]).await;
                assert!(noises::join(step, from, &answers) == expected[from..]);
                assert!(answers.iter().all(|answer| answer.replay));
            }
            assert_eq!(wire::position(&mut client, &name).await, (step + 1, 0));
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_steps_are_refused_and_the_expected_one_is_told() {
    let spec = SessionSpec { horizon: Some(9), ..gaussian(given(), specs::noising(), trees::mixed()) };
    let expected = noises::drawn_of_given(&spec, 9);
    on_both(Options::default(), async |server: &mut Server| {
        let mut client = server.sessions().await;
        let name = noises::create(&mut client, noises::request("", &spec)).await;
        for step in 0..4 {
            noises::fetch(&mut client, &name, step).await.unwrap();
        }
        for step in [0, 1, 2, 5, 6, 8] {
            let status = noises::fetch(&mut client, &name, step).await.unwrap_err();
            assert_expects(&status, "WRONG_STEP", 4);
            let (answers, status) = wire::exchange(&mut client, vec![ask(&name, step, 0)]).await;
            assert!(answers.is_empty());
            assert_expects(&status.unwrap(), "WRONG_STEP", 4);
        }
        for step in [9, 10, u64::MAX] {
            let status = noises::fetch(&mut client, &name, step).await.unwrap_err();
            let told = assert_refused(&status, Code::OutOfRange, "PAST_HORIZON");
            assert_eq!(told.number("horizon"), Some(9));
            let (answers, status) = wire::exchange(&mut client, vec![ask(&name, step, 0)]).await;
            assert!(answers.is_empty());
            assert_refused(&status.unwrap(), Code::OutOfRange, "PAST_HORIZON");
        }
        // Where it goes on, and the end of what is there to be asked again.
        let total = expected[0].len();
        for (step, offset, rule) in
            [(4, 8, "must be 0"), (3, total, "must be less than"), (4, usize::MAX, "")]
        {
            let (_, status) = wire::exchange(&mut client, vec![ask(&name, step, offset)]).await;
            assert_invalid(&status.unwrap(), "offset", rule);
        }
        // None of that moved it; and the last step is there still, until the next is asked for.
        for (step, replay) in (3..9).zip([true, false, false, false, false, false]) {
            let answer = noises::fetch(&mut client, &name, step).await.unwrap();
            assert!(answer.payload == expected[step as usize]);
            assert_eq!(answer.replay, replay);
        }
        let answers = noises::stream(&mut client, vec![ask(&name, 8, 0)]).await;
        noises::check(8, &expected[8], true, &answers);
        let status = noises::fetch(&mut client, &name, 9).await.unwrap_err();
        assert_refused(&status, Code::OutOfRange, "PAST_HORIZON");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_payload_is_refused_where_none_is_taken_and_missed_where_one_is() {
    on_both(Options::default(), async |server: &mut Server| {
        let mut client = server.sessions().await;
        let spec = gaussian(given(), specs::noising(), trees::six_tiles());
        let expected = noises::drawn_of_given(&spec, 1);
        let name = noises::create(&mut client, noises::request("drawn", &spec)).await;
        for length in [1, expected[0].len()] {
            let payload = Bytes::from(vec![0; length]);
            let status = wire::unary(&mut client, &name, 0, payload.clone()).await.unwrap_err();
            assert_invalid(&status, "payload", "must have 0 bytes");
            let frames = vec![wire::frame(&name, 0, 0, payload)];
            let (answers, status) = wire::exchange(&mut client, frames).await;
            assert!(answers.is_empty());
            assert_invalid(&status.unwrap(), "payload", "must be empty: the source is `gaussian`");
        }
        let status = client
            .multiply_next(v1::MultiplyNextRequest {
                name: name.clone(),
                fingerprint: vec![1; 32],
                ..v1::MultiplyNextRequest::default()
            })
            .await
            .unwrap_err();
        assert_refused(&status, Code::FailedPrecondition, "FINGERPRINT_MISMATCH");
        let answer = noises::fetch(&mut client, &name, 0).await.unwrap();
        assert!(answer.payload == expected[0] && !answer.replay);
        // The other way round.
        let input = SessionSpec::new(specs::noising(), trees::six_tiles());
        let name = noises::create(&mut client, noises::request("input", &input)).await;
        let status = noises::fetch(&mut client, &name, 0).await.unwrap_err();
        assert_invalid(&status, "payload", "bytes, found 0");
        let (_, status) = wire::exchange(&mut client, vec![ask(&name, 0, 0)]).await;
        assert_invalid(&status.unwrap(), "payload", "must not be empty");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_drawn_ahead_shows_nowhere() {
    let spec = gaussian(given(), specs::noising(), trees::six_tiles());
    on_both(Options::default(), async |server: &mut Server| {
        let mut client = server.sessions().await;
        let request = noises::request_with("", &spec, 64, v1::NoiseState::Kept);
        let made = client.create_session(request).await.unwrap().into_inner();
        assert_eq!(wire::view(&mut client, &made.name, v1::SessionView::Basic).await.unwrap(), made);
        assert_eq!((made.next_step, made.next_offset, made.released_steps), (0, 0, 0));
        for step in 0..100 {
            noises::fetch(&mut client, &made.name, step).await.unwrap();
            let found = wire::get(&mut client, &made.name).await.unwrap();
            let (next_step, released_steps) = (step + 1, step + 1);
            let last_used_unix_seconds = found.last_used_unix_seconds;
            let (matrix, tree) = (found.matrix.clone(), found.tree.clone());
            let expected = v1::Session { matrix, tree, last_used_unix_seconds, ..made.clone() };
            assert_eq!(found, v1::Session { next_step, released_steps, ..expected });
        }
    })
    .await;
}

/// All that is drawn for a stream that is cut is there for the next one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_cut_in_the_middle_of_a_step_is_finished_by_asking_again() {
    let spec = gaussian(given(), specs::noising(), large());
    let expected = noises::drawn_of_given(&spec, 6);
    on_both(Options::default(), async |server: &mut Server| {
        let proxy = Proxy::start(server).await;
        let mut direct = server.sessions().await;
        let name = noises::create(&mut direct, noises::request("", &spec)).await;
        for (step, expected) in (0..).zip(&expected) {
            let through = ClientBuilder::new(&proxy.target()).unwrap().connect().await.unwrap();
            assert_eq!(through.get_session(&name).await.unwrap().next_step, step);
            let channel = tonic::transport::Endpoint::from_shared(proxy.target()).unwrap();
            let cut = noised_tests::server::sessions_on(channel.connect().await.unwrap());
            let mut stream = StepStream::open(&cut);
            stream.send(ask(&name, step, 0));
            let first = stream.next().await.unwrap().unwrap();
            assert!(!first.step_end && expected.starts_with(&first.payload));
            proxy.cut();
            while let Ok(Some(_)) = stream.next().await {}
            // From the start, or from the first byte that is missing.
            let from = if step % 2 == 0 { 0 } else { first.payload.len() };
            let answers = noises::stream(&mut direct, vec![ask(&name, step, from)]).await;
            assert!(noises::join(step, from, &answers) == expected[from..], "step {step}");
        }
    })
    .await;
}

/// The client library does the same by itself, however a step is fetched.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_network_that_is_cut_loses_nothing() {
    let spec = gaussian(given(), specs::noising(), large());
    let expected = noises::drawn_of_given(&spec, 10);
    on_both(Options::default(), async |server: &mut Server| {
        let proxy = Proxy::start(server).await;
        let builder = ClientBuilder::new(&proxy.target()).unwrap().retry(stubborn());
        for (id, unary_bytes) in [("chunked", 0), ("unary", 16 << 20)] {
            let builder = builder.clone().unary_bytes(unary_bytes).message_bytes(32 << 20);
            let client = builder.connect().await.unwrap();
            let noise_key = Some(GivenKey::from_bytes(noises::KEY));
            let options =
                CreateOptions { id: id.into(), resume: true, noise_key, ..CreateOptions::default() };
            let mut session = client.create_session(&spec, options).await.unwrap();
            for step in 0..4 {
                proxy.cut();
                let answer = session.fetch(step).await.unwrap();
                assert!(answer == expected[step as usize], "step {step}");
            }
            let (mut step, mut bytes) = (4, Vec::new());
            session
                .fetch_steps(10, |answer| {
                    assert_eq!((answer.step, answer.offset), (step, bytes.len()));
                    bytes.extend_from_slice(&answer.payload);
                    if answer.step_end {
                        assert!(bytes == expected[step as usize], "step {step}");
                        (step, bytes) = (step + 1, Vec::new());
                    }
                    proxy.cut();
                    Ok::<_, noised_client::Error>(())
                })
                .await
                .unwrap();
            assert_eq!((step, session.next_step()), (10, 10));
        }
    })
    .await;
}

/// A matrix that ends brings a horizon of its own, and no noise is drawn past it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_matrix_that_ends_is_drawn_to_its_end() {
    on_both(Options::default(), async |server: &mut Server| {
        let mut client = server.sessions().await;
        let banded = noised::matrix::strategy::column_normalized_banded(5, 2).unwrap();
        for matrix in [banded, MatrixSpec::Dense { rows: vec![vec![2.0]] }] {
            let spec = gaussian(given(), matrix, trees::mixed());
            let horizon = spec.clone().resolve().unwrap().spec().horizon.unwrap();
            let expected = noises::drawn_of_given(&spec, horizon);
            for lookahead in [0, 3, 64] {
                let request = noises::request_with("", &spec, lookahead, v1::NoiseState::Unspecified);
                let name = noises::create(&mut client, request).await;
                for step in 0..horizon {
                    let answer = noises::fetch(&mut client, &name, step).await.unwrap();
                    assert!(answer.payload == expected[step as usize]);
                }
                let status = noises::fetch(&mut client, &name, horizon).await.unwrap_err();
                assert_refused(&status, Code::OutOfRange, "PAST_HORIZON");
                let answer = noises::fetch(&mut client, &name, horizon - 1).await.unwrap();
                assert!(answer.payload == expected[horizon as usize - 1] && answer.replay);
            }
        }
    })
    .await;
}
