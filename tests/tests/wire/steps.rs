//! Steps over gRPC: every answer has the bits of a session in this process, each step is released once, and a
//! broken connection loses nothing.

use noised::{DType, Precision, SessionSpec, Shard};
use noised_server::config::Options;
use noised_tests::server::{Server, on_both};
use noised_tests::wire::{self, Job, StepStream, assert_expects};
use noised_tests::{specs, trees};

fn job(steps: u64) -> Job {
    Job::new(specs::noising(), trees::six_tiles(), steps)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_matrix_and_tree_has_the_bits_of_a_local_session() {
    on_both(Options::default(), async |server: &mut Server| {
        let mut client = server.sessions().await;
        let mixed = specs::nested().into_iter().map(|matrix| (matrix, trees::mixed()));
        let odd = DType::ALL.into_iter().flat_map(trees::odd).map(|tree| (specs::noising(), tree));
        for (i, (matrix, tree)) in mixed.chain(odd).enumerate() {
            let precision = if i % 2 == 0 { Precision::F32 } else { Precision::F64 };
            let job = Job::of(SessionSpec { precision, ..SessionSpec::new(matrix, tree) }, 4);
            let name = job.create(&mut client, "").await;
            job.unary(&mut client, &name, 0, false).await;
            let frames =
                [job.frames(&name, 1, 0, &[1000, 1, 5000]), job.frames(&name, 2, 0, &[1 << 20])].concat();
            let (answers, status) = wire::exchange(&mut client, frames).await;
            assert!(status.is_none(), "{status:?}");
            let second = answers.iter().position(|answer| answer.step == 2).unwrap();
            job.check(1, 0..job.total(), &answers[..second]);
            job.check(2, 0..job.total(), &answers[second..]);
            job.unary(&mut client, &name, 3, false).await;
            wire::delete(&mut client, &name).await.unwrap();
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn however_a_step_is_cut_its_answer_is_the_same() {
    on_both(Options::default(), async |server: &mut Server| {
        let mut client = server.sessions().await;
        let job = job(10);
        let cuts: [&[usize]; 10] = [
            &[1 << 20],
            &[4096],
            &[4095],
            &[4097],
            &[1, 4096],
            &[3, 5, 7, 11],
            &[12_288, 1],
            &[100, 20_000],
            &[8192, 4096, 1],
            &[21_000],
        ];
        let name = job.create(&mut client, "").await;
        for (step, sizes) in cuts.into_iter().enumerate() {
            let (answers, status) =
                wire::exchange(&mut client, job.frames(&name, step as u64, 0, sizes)).await;
            assert!(status.is_none(), "{sizes:?}: {status:?}");
            job.check(step as u64, 0..job.total(), &answers);
            assert!(answers.iter().all(|answer| !answer.replay));
        }
        assert_eq!(wire::position(&mut client, &name).await, (10, 0));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_come_while_a_step_is_sent() {
    on_both(Options::default(), async |server: &mut Server| {
        let mut client = server.sessions().await;
        let job = job(3);
        let name = job.create(&mut client, "").await;
        let mut stream = StepStream::open(&client);
        for step in 0..3 {
            for tile in 0..job.bounds.len() - 1 {
                let bytes = job.bounds[tile]..job.bounds[tile + 1];
                // Only the first message has to name the session.
                let named = if step == 0 && tile == 0 { &name } else { "" };
                stream.send(wire::frame(
                    named,
                    step,
                    bytes.start,
                    job.payloads[step as usize].slice(bytes.clone()),
                ));
                let answers = stream.take(bytes.len()).await;
                job.check(step, bytes, &answers);
            }
        }
        stream.requests = None;
        assert!(stream.next().await.unwrap().is_none());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_step_asked_again_is_answered_with_the_same_bytes() {
    on_both(Options::default(), async |server: &mut Server| {
        let mut client = server.sessions().await;
        let job = job(3);
        let name = job.create(&mut client, "").await;
        for step in 0..3 {
            job.unary(&mut client, &name, step, false).await;
            job.unary(&mut client, &name, step, true).await;
            let mut other = server.sessions().await;
            for sizes in [&[1 << 20][..], &[999, 5000]] {
                let (answers, status) = wire::exchange(&mut other, job.frames(&name, step, 0, sizes)).await;
                assert!(status.is_none());
                job.check(step, 0..job.total(), &answers);
                assert!(answers.iter().all(|answer| answer.replay));
            }
            // From any tile on.
            let from = job.bounds[3];
            let (answers, status) = wire::exchange(&mut other, job.frames(&name, step, from, &[5000])).await;
            assert!(status.is_none());
            job.check(step, from..job.total(), &answers);
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_cut_in_the_middle_of_a_step_is_resumed() {
    on_both(Options::default(), async |server: &mut Server| {
        let mut client = server.sessions().await;
        let job = job(8);
        let name = job.create(&mut client, "").await;
        // Cut after so many bytes: within the first tile, at the end of a tile, within a later one, before
        // the last byte.
        for (step, cut) in [(0, 1), (1, 4096), (2, 4097), (3, 12_288), (4, 20_000), (5, job.total() - 1)] {
            let whole = *job.bounds.iter().rfind(|&&bound| bound <= cut).unwrap();
            let mut stream = StepStream::open(&client);
            stream.send(wire::frame(&name, step, 0, job.payloads[step as usize].slice(..cut)));
            let answers = stream.take(whole).await;
            job.check(step, 0..whole, &answers);
            drop(stream);
            assert_eq!(wire::position(&mut client, &name).await, (step, whole));
            // Sent again from the start, or from a tile that was applied, on a connection of its own.
            let from = if step % 2 == 0 {
                0
            } else {
                job.bounds[job.bounds.iter().rposition(|&b| b <= cut).unwrap() / 2]
            };
            let mut other = server.sessions().await;
            let (answers, status) = wire::exchange(&mut other, job.frames(&name, step, from, &[3000])).await;
            assert!(status.is_none(), "{status:?}");
            job.check(step, from..job.total(), &answers);
            for answer in answers {
                assert_eq!(answer.replay, (answer.offset as usize) < whole);
            }
        }
        // A stream that ends in the middle without being cut is no different.
        let (answers, status) =
            wire::exchange(&mut client, vec![wire::frame(&name, 6, 0, job.payloads[6].slice(..5000))]).await;
        assert!(status.is_none());
        job.check(6, 0..4096, &answers);
        job.unary(&mut client, &name, 6, false).await;
        job.unary(&mut client, &name, 7, false).await;
    })
    .await;
}

/// Two clients send the same steps at the same time, one of them cut into frames.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_clients_racing_on_a_step_get_the_same_answer() {
    on_both(Options::default(), async |server: &mut Server| {
        let job = job(20);
        let mut client = server.sessions().await;
        let name = job.create(&mut client, "").await;
        let (mut one, mut two) = (server.sessions().await, server.sessions().await);
        for step in 0..20 {
            let payload = job.payloads[step as usize].clone();
            let (whole, (answers, status)) = tokio::join!(
                wire::unary(&mut one, &name, step, payload),
                wire::exchange(&mut two, job.frames(&name, step, 0, &[4096, 100])),
            );
            let whole = whole.unwrap();
            assert!(whole.payload == job.answers[step as usize]);
            assert!(status.is_none(), "{status:?}");
            job.check(step, 0..job.total(), &answers);
            // What the one computed, the other had as a replay.
            assert!(!(whole.replay && answers.iter().all(|answer| answer.replay)));
        }
        // With other bytes, one of them is refused.
        let (a, b) = (vec![1; job.total()], vec![2; job.total()]);
        let (a, b) = tokio::join!(
            wire::unary(&mut one, &name, 20, a.into()),
            wire::unary(&mut two, &name, 20, b.into())
        );
        let refused = [&a, &b].into_iter().filter_map(|answer| answer.as_ref().err()).collect::<Vec<_>>();
        assert_eq!(refused.len(), 1);
        assert_expects(refused[0], "PAYLOAD_MISMATCH", 21);
        assert_eq!(wire::position(&mut client, &name).await, (21, 0));
    })
    .await;
}

/// Steps large enough to be split between threads, whole and in chunks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn threads_do_not_change_bits() {
    let tree = trees::of_shapes(DType::F32, &[&[60_000], &[7, 123], &[240_001]]);
    let job = Job::new(specs::noising(), tree, 4);
    for threads in [1, 2, 5] {
        on_both(Options { threads: Some(threads), ..Options::default() }, async |server: &mut Server| {
            let mut client = server.sessions().await;
            let name = job.create(&mut client, "").await;
            job.unary(&mut client, &name, 0, false).await;
            for (step, size) in [(1, 300_000), (2, 123_457), (3, 1 << 20)] {
                let (answers, status) =
                    wire::exchange(&mut client, job.frames(&name, step, 0, &[size])).await;
                assert!(status.is_none(), "{status:?}");
                job.check(step, 0..job.total(), &answers);
            }
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shards_are_the_whole() {
    on_both(Options::default(), async |server: &mut Server| {
        let job = Job::new(specs::noising(), trees::mixed(), 3);
        let mut client = server.sessions().await;
        for count in [2, 3, 7] {
            let mut together = vec![Vec::new(); 3];
            for index in 0..count {
                let spec = SessionSpec { shard: Shard::new(index, count), ..job.spec.clone() };
                let made = client.create_session(wire::create_request("", &spec)).await.unwrap().into_inner();
                for (step, whole) in together.iter_mut().enumerate() {
                    let bytes = whole.len()..whole.len() + made.step_bytes as usize;
                    let payload = job.payloads[step].slice(bytes);
                    let answer = wire::unary(&mut client, &made.name, step as u64, payload).await.unwrap();
                    whole.extend_from_slice(&answer.payload);
                }
            }
            assert!(together.iter().eq(&job.answers), "{count} shards");
        }
    })
    .await;
}
