//! Gradients that the server adds noise to: by message and by stream, cut and gone on with, each step under
//! one gradient.

use bytes::Bytes;
use noised::session::NoiseState;
use noised::{DType, SessionSpec, Tree};
use noised_client::{ClientBuilder, CreateOptions, GivenKey};
use noised_server::config::Options;
use noised_tests::noises::{self, gaussian, given, privatize};
use noised_tests::proxy::Proxy;
use noised_tests::server::{Server, on_both};
use noised_tests::specs;
use noised_tests::trees;
use noised_tests::wire::{self, StepStream, assert_expects, assert_invalid};

use crate::client::stubborn;

/// What a session has to give.
struct Private {
    spec: SessionSpec,
    gradients: Vec<Bytes>,
    answers: Vec<Bytes>,
}

impl Private {
    /// Of trees of f32: the noise of the same key, and sums of f32.
    fn new(tree: Tree, steps: u64) -> Self {
        let noise = gaussian(given(), specs::noising(), tree.clone());
        let gradients = noises::gradients(&tree, steps);
        let answers = noises::sums(&gradients, &noises::drawn_of_given(&noise, steps));
        Self { spec: privatize(given(), specs::noising(), tree, None), gradients, answers }
    }
}

fn large() -> Tree {
    trees::of_shapes(DType::F32, &[&[300_001], &[77, 1031], &[], &[5, 10_007]])
}

fn flip(payload: &Bytes, byte: usize) -> Bytes {
    let mut payload = payload.to_vec();
    payload[byte] ^= 1;
    payload.into()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_are_gradients_and_noise() {
    let cases = [Private::new(trees::six_tiles(), 8), Private::new(large(), 4)];
    on_both(Options::default(), async |server: &mut Server| {
        let mut client = server.sessions().await;
        for Private { spec, gradients, answers } in &cases {
            let name = noises::create(&mut client, noises::request("", spec)).await;
            for (step, (gradient, expected)) in (0..).zip(gradients.iter().zip(answers)) {
                if step % 2 == 0 {
                    for replay in [false, true] {
                        let answer = wire::unary(&mut client, &name, step, gradient.clone()).await.unwrap();
                        assert!(answer.payload == expected, "step {step}");
                        assert_eq!(answer.replay, replay);
                    }
                    continue;
                }
                let frames = |size: usize| -> Vec<_> {
                    (0..gradient.len())
                        .step_by(size)
                        .map(|at| {
                            let end = gradient.len().min(at + size);
                            wire::frame(&name, step, at, gradient.slice(at..end))
                        })
                        .collect()
                };
                for (size, replay) in [(100_001, false), (1 << 20, true), (4096, true)] {
                    let answers = noises::stream(&mut client, frames(size)).await;
                    noises::check(step, expected, replay, &answers);
                }
            }
        }
    })
    .await;
}

/// Sums of f32 in another format are those sums, rounded once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_have_the_format_that_is_asked_for() {
    let job = Private::new(trees::six_tiles(), 3);
    on_both(Options::default(), async |server: &mut Server| {
        let mut client = server.sessions().await;
        for dtype in [DType::Bf16, DType::F64, DType::F16, DType::F32] {
            let precision = noised::Precision::F32;
            let spec = privatize(given(), specs::noising(), trees::six_tiles(), Some(dtype));
            let spec = SessionSpec { precision, ..spec };
            let made = client.create_session(noises::request("", &spec)).await.unwrap().into_inner();
            assert_eq!(made.step_bytes as usize, job.answers[0].len() / 4 * dtype.size());
            for step in 0..3 {
                let gradient = job.gradients[step as usize].clone();
                let answer = if step == 1 {
                    let frames = vec![wire::frame(&made.name, step, 0, gradient)];
                    noises::join(step, 0, &noises::stream(&mut client, frames).await)
                } else {
                    wire::unary(&mut client, &made.name, step, gradient).await.unwrap().payload.to_vec()
                };
                let flat = Tree::flat(made.lanes, dtype).unwrap();
                let exact = noises::f32s(&job.answers[step as usize]);
                let found = trees::lanes(&flat, &answer);
                assert_eq!(found.len(), exact.len());
                for (found, exact) in found.into_iter().zip(exact) {
                    let exact = f64::from(exact);
                    // Half of what lies between two numbers of the format, below its normal ones as well.
                    let bound = exact.abs() * trees::roundoff(dtype) + 2f64.powi(-25);
                    let bound = if dtype.size() >= 4 { 0.0 } else { bound };
                    assert!((found - exact).abs() <= bound, "{found}, not {exact} in {dtype}");
                }
            }
        }
    })
    .await;
}

/// Gradients of all formats, and what a session in this process makes of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bits_do_not_depend_on_lookahead_nor_on_what_is_kept() {
    let gradients = noises::gradients(&trees::mixed(), 6);
    let matrix = specs::toeplitz(&[1.0, -0.5, 0.25]);
    on_both(Options::default(), async |server: &mut Server| {
        for answer_dtype in [None, Some(DType::F32)] {
            let spec = privatize(given(), matrix.clone(), trees::mixed(), answer_dtype);
            let mut expected: Option<Vec<Bytes>> = None;
            for (lookahead, state) in [
                (0, NoiseState::Kept),
                (3, NoiseState::Kept),
                (0, NoiseState::Replayed),
                (16, NoiseState::Replayed),
            ] {
                let client = server.builder().unary_bytes(if lookahead == 3 { 0 } else { 1 << 20 });
                let options = CreateOptions {
                    noise_key: Some(GivenKey::from_bytes(noises::KEY)),
                    lookahead: Some(lookahead),
                    noise_state: Some(state),
                    ..CreateOptions::default()
                };
                let client = client.connect().await.unwrap();
                let mut session = client.create_session(&spec, options).await.unwrap();
                let mut found = Vec::new();
                for (step, gradient) in (0..).zip(&gradients) {
                    found.push(session.privatize(step, gradient.clone()).await.unwrap());
                }
                assert!(*expected.get_or_insert_with(|| found.clone()) == found);
            }
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_step_cut_off_is_finished_with_the_same_gradient_alone() {
    let job = Private::new(trees::six_tiles(), 6);
    let total = job.answers[0].len();
    on_both(Options::default(), async |server: &mut Server| {
        let mut client = server.sessions().await;
        let name = noises::create(&mut client, noises::request("", &job.spec)).await;
        for (step, cut) in [(0, 4096), (1, 8192), (2, 12_288), (3, 16_384), (4, 20_480)] {
            let (gradient, expected) = (&job.gradients[step as usize], &job.answers[step as usize]);
            let mut stream = StepStream::open(&client);
            // Some bytes of the tile after the cut come too, and are forgotten.
            stream.send(wire::frame(&name, step, 0, gradient.slice(..total.min(cut + 9))));
            let part: Vec<u8> =
                stream.take(cut).await.iter().flat_map(|answer| answer.payload.to_vec()).collect();
            assert!(part == expected[..cut]);
            drop(stream);
            assert_eq!(wire::position(&mut client, &name).await, (step, cut));
            assert_eq!(wire::get(&mut client, &name).await.unwrap().released_steps, step + 1);
            for byte in [0, cut - 1] {
                let other = flip(gradient, byte);
                let status = wire::unary(&mut client, &name, step, other.clone()).await.unwrap_err();
                assert_expects(&status, "PAYLOAD_MISMATCH", step);
                let frames = vec![wire::frame(&name, step, 0, other)];
                assert_expects(
                    &wire::exchange(&mut client, frames).await.1.unwrap(),
                    "PAYLOAD_MISMATCH",
                    step,
                );
            }
            let mut other = server.sessions().await;
            if step % 2 == 0 {
                let answer = wire::unary(&mut other, &name, step, gradient.clone()).await.unwrap();
                assert!(answer.payload == expected && !answer.replay);
            } else {
                let from = cut - 4096;
                let frames = vec![wire::frame(&name, step, from, gradient.slice(from..))];
                let answers = noises::stream(&mut other, frames).await;
                assert!(noises::join(step, from, &answers) == expected[from..]);
                answers.iter().for_each(|answer| assert_eq!(answer.replay, (answer.offset as usize) < cut));
            }
            // Released: with another byte it is refused, anywhere.
            for byte in [0, cut, total - 1] {
                let status = wire::unary(&mut client, &name, step, flip(gradient, byte)).await.unwrap_err();
                assert_expects(&status, "PAYLOAD_MISMATCH", step + 1);
            }
        }
        for step in [0, 3, 6] {
            let status = wire::unary(&mut client, &name, step, job.gradients[0].clone()).await.unwrap_err();
            assert_expects(&status, "WRONG_STEP", 5);
        }
        for length in [0, total - 1, total + 1] {
            let status = wire::unary(&mut client, &name, 5, vec![0; length].into()).await.unwrap_err();
            assert_invalid(&status, "payload", &format!("must have {total} bytes"));
        }
        let answer = wire::unary(&mut client, &name, 5, job.gradients[5].clone()).await.unwrap();
        assert!(answer.payload == job.answers[5]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_network_that_is_cut_loses_nothing() {
    let job = Private::new(large(), 10);
    on_both(Options::default(), async |server: &mut Server| {
        let proxy = Proxy::start(server).await;
        let builder = ClientBuilder::new(&proxy.target()).unwrap().retry(stubborn());
        for (id, unary_bytes) in [("chunked", 0), ("unary", 8 << 20)] {
            let builder = builder.clone().unary_bytes(unary_bytes).chunk_bytes(64 << 10);
            let client = builder.message_bytes(16 << 20).connect().await.unwrap();
            let noise_key = Some(GivenKey::from_bytes(noises::KEY));
            let options =
                CreateOptions { id: id.into(), resume: true, noise_key, ..CreateOptions::default() };
            let mut session = client.create_session(&job.spec, options).await.unwrap();
            for step in 0..4 {
                proxy.cut();
                let gradient = job.gradients[step as usize].clone();
                let answer = session.privatize(step, gradient).await.unwrap();
                assert!(answer == job.answers[step as usize], "step {step}");
            }
            let (mut step, mut bytes) = (4, Vec::new());
            let inputs = job.gradients[4..].iter().map(|gradient| Ok(gradient.clone()));
            session
                .multiply_steps(tokio_stream::iter(inputs), |answer| {
                    assert_eq!((answer.step, answer.offset), (step, bytes.len()));
                    bytes.extend_from_slice(&answer.payload);
                    if answer.step_end {
                        assert!(bytes == job.answers[step as usize], "step {step}");
                        (step, bytes) = (step + 1, Vec::new());
                    }
                    if answer.offset % 3 == 0 {
                        proxy.cut();
                    }
                    Ok::<_, noised_client::Error>(())
                })
                .await
                .unwrap();
            assert_eq!((step, session.next_step()), (10, 10));
        }
    })
    .await;
}
