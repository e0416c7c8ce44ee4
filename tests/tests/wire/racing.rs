//! Many clients at once, and calls that are given up: each step is released once, and no noise is lost.

use noised::{DType, Tree};
use noised_server::config::Options;
use noised_tests::noises::{self, ask, gaussian, given, privatize};
use noised_tests::server::{Server, on_both};
use noised_tests::specs;
use noised_tests::trees;
use noised_tests::wire::{self, assert_expects, report};
use tokio::task::JoinSet;
use tonic::Code;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_sessions_at_once_have_each_their_bits() {
    on_both(Options::default(), async |server: &mut Server| {
        let mut clients = JoinSet::new();
        for i in 0..16_u64 {
            let mut client = server.sessions().await;
            let lanes = 1000 + 5003 * i;
            let spec = gaussian(given(), specs::noising(), Tree::flat(lanes, DType::F32).unwrap());
            clients.spawn(async move {
                let expected = noises::drawn_of_given(&spec, 20);
                let request = noises::request_with(
                    &format!("s-{i}"),
                    &spec,
                    i as u32 % 5 * 4,
                    noised_proto::v1::NoiseState::Kept,
                );
                let name = noises::create(&mut client, request).await;
                for step in 0..10 {
                    let answer = noises::fetch(&mut client, &name, step).await.unwrap();
                    assert!(answer.payload == expected[step as usize], "session {i} step {step}");
                }
                for step in 10..20 {
                    let answers = noises::stream(&mut client, vec![ask(&name, step, 0)]).await;
                    noises::check(step, &expected[step as usize], false, &answers);
                }
            });
        }
        clients.join_all().await;
    })
    .await;
}

/// Whoever asks for a step that is not next is told so, and moves nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_clients_of_one_session_release_each_step_once() {
    const STEPS: u64 = 60;
    for lanes in [700, 90_001] {
        let spec = gaussian(given(), specs::noising(), Tree::flat(lanes, DType::F32).unwrap());
        let expected = noises::drawn_of_given(&spec, STEPS);
        on_both(Options::default(), async |server: &mut Server| {
            let mut client = server.sessions().await;
            let name = noises::create(&mut client, noises::request("", &spec)).await;
            let mut clients = JoinSet::new();
            for i in 0..4 {
                let mut client = server.sessions().await;
                let (name, expected) = (name.clone(), expected.clone());
                clients.spawn(async move {
                    let (mut step, mut released) = (0, Vec::new());
                    while step < STEPS {
                        let answer = if i % 2 == 0 {
                            noises::fetch(&mut client, &name, step)
                                .await
                                .map(|it| (it.payload.to_vec(), it.replay))
                        } else {
                            let (answers, status) =
                                wire::exchange(&mut client, vec![ask(&name, step, 0)]).await;
                            match status {
                                Some(status) => Err(status),
                                None => {
                                    let replay = answers[0].replay;
                                    Ok((noises::join(step, 0, &answers), replay))
                                }
                            }
                        };
                        match answer {
                            Ok((bytes, replay)) => {
                                assert!(bytes == expected[step as usize], "step {step}");
                                if !replay {
                                    released.push(step);
                                }
                                step += 1;
                            }
                            Err(status) => {
                                let told = report(&status, Code::FailedPrecondition);
                                assert_eq!(told.reason, "WRONG_STEP");
                                // Others were faster; one that asks for what is not next yet there cannot be.
                                let next = told.expected_step().unwrap();
                                assert!(next > step, "{next} after {step}");
                                step = next;
                            }
                        }
                    }
                    released
                });
            }
            let mut released: Vec<u64> = clients.join_all().await.concat();
            released.sort_unstable();
            assert_eq!(released, (0..STEPS).collect::<Vec<_>>());
            assert_eq!(wire::position(&mut client, &name).await, (STEPS, 0));
        })
        .await;
    }
}

/// Two clients with two gradients: one of them has its noise, and the other is refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_gradients_racing_on_a_step_are_not_both_answered() {
    let tree = || Tree::flat(30_011, DType::F32).unwrap();
    let spec = privatize(given(), specs::noising(), tree(), None);
    let noise = noises::drawn_of_given(&gaussian(given(), specs::noising(), tree()), 20);
    let gradients = noises::gradients(&tree(), 21);
    on_both(Options::default(), async |server: &mut Server| {
        let (mut one, mut two) = (server.sessions().await, server.sessions().await);
        let name = noises::create(&mut one, noises::request("", &spec)).await;
        for step in 0..20_u64 {
            let (a, b) = (gradients[step as usize].clone(), gradients[step as usize + 1].clone());
            let (first, second) = tokio::join!(
                wire::unary(&mut one, &name, step, a.clone()),
                wire::unary(&mut two, &name, step, b.clone()),
            );
            let (gradient, answer, refused) = match (first, second) {
                (Ok(answer), Err(refused)) => (a, answer, refused),
                (Err(refused), Ok(answer)) => (b, answer, refused),
                other => panic!("{other:?}"),
            };
            assert_expects(&refused, "PAYLOAD_MISMATCH", step + 1);
            let expected = noises::sums(&[gradient], &noise[step as usize..][..1]);
            assert!(answer.payload == expected[0], "step {step}");
        }
    })
    .await;
}

/// A call is given up at any moment, also in the middle of drawing: the session goes on with the right bits.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_is_given_up_takes_no_noise_with_it() {
    // Large enough that drawing a step takes a while, small enough for a message.
    let spec = gaussian(given(), specs::noising(), Tree::flat(300_007, DType::F32).unwrap());
    let expected = noises::drawn_of_given(&spec, 30);
    on_both(Options::default(), async |server: &mut Server| {
        let mut client = server.sessions().await;
        for lookahead in [0, 2] {
            let request =
                noises::request_with("", &spec, lookahead, noised_proto::v1::NoiseState::Unspecified);
            let name = noises::create(&mut client, request).await;
            for step in 0..30_u64 {
                let mut other = if step % 3 == 0 { server.sessions().await } else { client.clone() };
                let task = {
                    let name = name.clone();
                    tokio::spawn(async move { noises::fetch(&mut other, &name, step).await })
                };
                for _ in 0..step * 7 {
                    tokio::task::yield_now().await;
                }
                task.abort();
                let _given_up_or_done = task.await;
                if step % 2 == 0 {
                    let (next, _) = wire::position(&mut client, &name).await;
                    assert!(next == step || next == step + 1);
                }
                let answer = noises::fetch(&mut client, &name, step).await.unwrap();
                assert!(answer.payload == expected[step as usize], "step {step}");
            }
            wire::delete(&mut client, &name).await.unwrap();
        }
    })
    .await;
}

/// The same where the server adds the noise to a gradient.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gradient_that_is_given_up_is_the_step_s_gradient_or_was_never_there() {
    let tree = trees::of_shapes(DType::F32, &[&[200_003], &[7, 1001]]);
    let spec = privatize(given(), specs::noising(), tree.clone(), None);
    let noise = noises::drawn_of_given(&gaussian(given(), specs::noising(), tree.clone()), 20);
    let gradients = noises::gradients(&tree, 20);
    let expected = noises::sums(&gradients, &noise);
    on_both(Options::default(), async |server: &mut Server| {
        let mut client = server.sessions().await;
        let name = noises::create(&mut client, noises::request("", &spec)).await;
        for step in 0..20_u64 {
            let gradient = gradients[step as usize].clone();
            let task = {
                let (mut client, name, gradient) = (client.clone(), name.clone(), gradient.clone());
                tokio::spawn(async move { wire::unary(&mut client, &name, step, gradient).await })
            };
            for _ in 0..step * 11 {
                tokio::task::yield_now().await;
            }
            task.abort();
            let _given_up_or_done = task.await;
            let answer = wire::unary(&mut client, &name, step, gradient).await.unwrap();
            assert!(answer.payload == expected[step as usize], "step {step}");
        }
    })
    .await;
}
