//! Steps that are refused: the wrong step, other bytes, bytes out of order, past the horizon, of a deleted
//! session.

use bytes::Bytes;
use noised::{DType, MatrixSpec, SessionSpec};
use noised_server::config::Options;
use noised_tests::server::{Server, on_both};
use noised_tests::wire::{self, Job, StepStream, assert_expects, assert_invalid, report};
use noised_tests::{specs, trees};
use tonic::Code;

fn job(steps: u64) -> Job {
    Job::new(specs::noising(), trees::six_tiles(), steps)
}

fn flip(payload: &Bytes, byte: usize) -> Bytes {
    let mut payload = payload.to_vec();
    payload[byte] ^= 1;
    payload.into()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_step_cut_off_is_not_finished_with_other_bytes() {
    on_both(Options::default(), async |server: &mut Server| {
        let mut client = server.sessions().await;
        let job = job(2);
        let name = job.create(&mut client, "").await;
        wire::exchange(&mut client, vec![wire::frame(&name, 0, 0, job.payloads[0].slice(..8192))]).await;
        for byte in [0, 5000] {
            let status = wire::unary(&mut client, &name, 0, flip(&job.payloads[0], byte)).await.unwrap_err();
            assert_expects(&status, "PAYLOAD_MISMATCH", 0);
            let changed = flip(&job.payloads[0], byte);
            let (_, status) = wire::exchange(&mut client, vec![wire::frame(&name, 0, 0, changed)]).await;
            assert_expects(&status.unwrap(), "PAYLOAD_MISMATCH", 0);
        }
        let (_, status) = wire::exchange(&mut client, job.frames(&name, 0, 12_288, &[4096])).await;
        assert_invalid(&status.unwrap(), "offset", "applied up to byte 8192");
        assert_eq!(wire::position(&mut client, &name).await, (0, 8192));
        job.unary(&mut client, &name, 0, false).await;
        job.unary(&mut client, &name, 1, false).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_steps_are_refused_and_the_expected_one_is_told() {
    on_both(Options::default(), async |server: &mut Server| {
        let mut client = server.sessions().await;
        let job = job(6);
        let name = job.create(&mut client, "").await;
        for step in 0..4 {
            job.unary(&mut client, &name, step, false).await;
        }
        let payload = &job.payloads[0];
        for step in [0, 1, 2, 5, 6, 1 << 62, u64::MAX] {
            let status = wire::unary(&mut client, &name, step, payload.clone()).await.unwrap_err();
            assert_expects(&status, "WRONG_STEP", 4);
            let (answers, status) =
                wire::exchange(&mut client, vec![wire::frame(&name, step, 0, payload.clone())]).await;
            assert!(answers.is_empty());
            assert_expects(&status.unwrap(), "WRONG_STEP", 4);
        }
        for byte in [0, 10_000, job.total() - 1] {
            let changed = flip(&job.payloads[3], byte);
            let status = wire::unary(&mut client, &name, 3, changed.clone()).await.unwrap_err();
            assert_expects(&status, "PAYLOAD_MISMATCH", 4);
            let (_, status) = wire::exchange(&mut client, vec![wire::frame(&name, 3, 0, changed)]).await;
            assert_expects(&status.unwrap(), "PAYLOAD_MISMATCH", 4);
        }
        // Once a byte of the next step is sent, that of the last is not asked again.
        wire::exchange(&mut client, vec![wire::frame(&name, 4, 0, job.payloads[4].slice(..8192))]).await;
        let status = wire::unary(&mut client, &name, 3, job.payloads[3].clone()).await.unwrap_err();
        assert_expects(&status, "WRONG_STEP", 4);
        let (answers, status) = wire::exchange(&mut client, job.frames(&name, 3, 8192, &[5000])).await;
        assert!(status.is_none());
        job.check(3, 8192..job.total(), &answers);
        job.unary(&mut client, &name, 4, false).await;
        job.unary(&mut client, &name, 5, false).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_out_of_order_are_refused() {
    on_both(Options::default(), async |server: &mut Server| {
        let mut client = server.sessions().await;
        let job = job(2);
        let name = job.create(&mut client, "").await;
        let total = job.total();
        let part = |at: usize, end: usize| wire::frame(&name, 0, at, vec![0; end - at].into());
        let first = wire::frame(&name, 0, 0, job.payloads[0].slice(..5000));
        let cases = [
            (vec![part(0, 0)], "payload", "must not be empty"),
            (vec![part(4, 100)], "offset", "first byte of a tile"),
            (vec![part(0, total + 1)], "payload", "must end within"),
            (vec![part(total, total + 1)], "payload", "must end within"),
            (vec![wire::frame(&name, 0, usize::MAX, vec![0; 9].into())], "payload", "must end within"),
            (vec![first.clone(), part(4999, 6000)], "offset", "must be 5000"),
            (vec![first.clone(), part(5001, 6000)], "offset", "must be 5000"),
            (vec![first.clone(), part(0, 5000)], "offset", "must be 5000"),
            (vec![first.clone(), part(5000, 5000)], "payload", "must not be empty"),
            (vec![first.clone(), part(5000, total + 1)], "payload", "must end within"),
            (vec![first.clone(), wire::frame(&name, 1, 5000, vec![0; 9].into())], "step", "not finished"),
            (
                vec![first.clone(), wire::frame("sessions/other", 0, 5000, vec![0; 9].into())],
                "name",
                "first message",
            ),
        ];
        for (frames, field, rule) in cases {
            let good = frames.len() - 1;
            let (answers, status) = wire::exchange(&mut client, frames).await;
            assert_invalid(&status.unwrap(), field, rule);
            job.check(0, 0..if good > 0 { 4096 } else { 0 }, &answers);
        }
        assert_eq!(wire::position(&mut client, &name).await, (0, 4096));
        for length in [0, 1, total - 1, total + 1] {
            let status = wire::unary(&mut client, &name, 0, vec![0; length].into()).await.unwrap_err();
            assert_invalid(&status, "payload", &format!("must have {total} bytes, found {length}"));
        }
        // An empty stream asks for nothing.
        let (answers, status) = wire::exchange(&mut client, vec![]).await;
        assert!(answers.is_empty() && status.is_none());
        job.unary(&mut client, &name, 0, false).await;
        job.unary(&mut client, &name, 1, false).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_horizon_is_a_wall() {
    on_both(Options::default(), async |server: &mut Server| {
        let mut client = server.sessions().await;
        let tree = || trees::of_shapes(DType::F32, &[&[1500]]);
        let banded = noised::matrix::strategy::column_normalized_banded(3, 2).unwrap();
        let cases = [
            SessionSpec { horizon: Some(3), ..SessionSpec::new(specs::noising(), tree()) },
            SessionSpec::new(banded.clone().inverse(), tree()),
            SessionSpec { horizon: Some(2), ..SessionSpec::new(banded, tree()) },
            SessionSpec::new(MatrixSpec::Dense { rows: vec![vec![2.0]] }, tree()),
        ];
        for spec in cases {
            let horizon = spec.clone().resolve().unwrap().spec().horizon.unwrap();
            let job = Job::of(spec, horizon);
            let name = job.create(&mut client, "").await;
            assert_eq!(wire::get(&mut client, &name).await.unwrap().horizon, Some(horizon));
            for step in 0..horizon {
                job.unary(&mut client, &name, step, false).await;
            }
            for step in [horizon, horizon + 1, u64::MAX] {
                let status =
                    wire::unary(&mut client, &name, step, job.payloads[0].clone()).await.unwrap_err();
                let told = report(&status, Code::OutOfRange);
                assert_eq!((told.reason.as_str(), told.number("horizon")), ("PAST_HORIZON", Some(horizon)));
                let (answers, status) =
                    wire::exchange(&mut client, vec![wire::frame(&name, step, 0, job.payloads[0].clone())])
                        .await;
                assert!(answers.is_empty());
                assert_eq!(report(&status.unwrap(), Code::OutOfRange).reason, "PAST_HORIZON");
            }
            job.unary(&mut client, &name, horizon - 1, true).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_deleted_under_a_stream_ends_it() {
    on_both(Options::default(), async |server: &mut Server| {
        let mut client = server.sessions().await;
        let job = job(2);
        let name = job.create(&mut client, "run").await;
        // One stream in the middle of a step, one between steps.
        let mut middle = StepStream::open(&client);
        middle.send(wire::frame(&name, 0, 0, job.payloads[0].slice(..8192)));
        middle.take(8192).await;
        let mut between = StepStream::open(&client);
        job.frames(&name, 0, 0, &[8192]).into_iter().for_each(|frame| between.send(frame));
        between.take(job.total()).await;
        wire::delete(&mut client, &name).await.unwrap();
        for mut stream in [middle, between] {
            let status = stream.next().await.unwrap_err();
            assert_eq!(report(&status, Code::NotFound).reason, "SESSION_NOT_FOUND");
        }
        // Another session of that name is another session.
        let name = job.create(&mut client, "run").await;
        job.unary(&mut client, &name, 0, false).await;
    })
    .await;
}
