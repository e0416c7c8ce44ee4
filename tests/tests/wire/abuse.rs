//! What no client of this protocol would send: random bytes, messages too long, connections that speak no
//! HTTP. Each is answered with an error, and the server goes on serving.

use bytes::Bytes;
use bytesize::ByteSize;
use noised::{DType, MatrixSpec};
use noised_proto::v1;
use noised_server::config::Options;
use noised_tests::server::{Server, on_both, within_patience};
use noised_tests::wire::{self, Job, create_request, report};
use noised_tests::{raw, specs, trees};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tonic::Code;

fn job(steps: u64) -> Job {
    Job::new(specs::blt(&[0.5], &[0.25]).inverse(), trees::mixed(), steps)
}

/// A session in the middle of its second step.
async fn bystander(server: &Server) -> (Job, String) {
    let job = job(3);
    let mut client = server.sessions().await;
    let name = job.create(&mut client, "bystander").await;
    job.unary(&mut client, &name, 0, false).await;
    wire::exchange(&mut client, vec![wire::frame(&name, 1, 0, job.payloads[1].slice(..job.bounds[1]))]).await;
    (job, name)
}

async fn is_as_it_was(server: &Server, (job, name): (Job, String)) {
    let mut client = server.sessions().await;
    assert_eq!(wire::position(&mut client, &name).await, (1, job.bounds[1]));
    job.unary(&mut client, &name, 1, false).await;
    job.unary(&mut client, &name, 2, false).await;
}

/// A sound request to every method, in the order of [`raw::METHODS`].
fn sound(job: &Job, name: &str) -> [Vec<u8>; 10] {
    let matrix = Some(v1::Matrix::from(&specs::nested()[20]));
    let name = name.to_owned();
    let payload = job.payloads[0].clone();
    [
        create_request("", &job.spec).encode_to_vec(),
        v1::GetSessionRequest { name: name.clone(), view: 1, ..Default::default() }.encode_to_vec(),
        v1::ListSessionsRequest { page_size: 3, page_token: name.clone() }.encode_to_vec(),
        v1::DeleteSessionRequest { name: "sessions/none".to_owned() }.encode_to_vec(),
        v1::MultiplyNextRequest {
            name: name.clone(),
            step: 0,
            payload: payload.clone(),
            fingerprint: Bytes::new().into(),
        }
        .encode_to_vec(),
        wire::frame(&name, 0, 0, payload).encode_to_vec(),
        v1::MaterializeRequest { matrix: matrix.clone(), n: 5 }.encode_to_vec(),
        v1::RowNormsSquaredRequest { matrix: matrix.clone(), n: 5 }.encode_to_vec(),
        v1::MultiplyRequest { matrix: matrix.clone(), x: vec![v1::Row { values: vec![1.0, 2.0] }; 3] }
            .encode_to_vec(),
        v1::DescribeRequest { matrix, ..v1::DescribeRequest::default() }.encode_to_vec(),
    ]
}

/// Whatever it was, it was not the server's fault.
fn check(path: &str, message: &[u8], status: Option<tonic::Status>) {
    let Some(status) = status else { return };
    let fault = [Code::Internal, Code::Unknown, Code::Unavailable, Code::DataLoss, Code::Cancelled];
    assert!(!fault.contains(&status.code()), "{path} with {message:?}: {status:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_bytes_are_answered_with_an_error() {
    let options = Options { max_session_bytes: Some(ByteSize::mib(64)), ..Options::default() };
    on_both(options, async |server: &mut Server| {
        let bystander = bystander(server).await;
        let channel = server.channel().await;
        let mut runner = TestRunner::deterministic();
        let random = prop::collection::vec(any::<u8>(), 0..200);
        for path in raw::METHODS {
            for _ in 0..40 {
                let message = random.new_tree(&mut runner).unwrap().current();
                let (_, status) = raw::call(&channel, path, vec![message.clone().into()], 3).await;
                check(path, &message, status);
            }
        }
        is_as_it_was(server, bystander).await;
    })
    .await;
}

/// Requests that are nearly right: bits flipped, bytes cut off, put in and left out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damaged_requests_are_answered_with_an_error() {
    let options = Options { max_session_bytes: Some(ByteSize::mib(64)), ..Options::default() };
    on_both(options, async |server: &mut Server| {
        let bystander = bystander(server).await;
        let job = Job::new(MatrixSpec::PrefixSum, trees::of_shapes(DType::F32, &[&[3]]), 1);
        let name = job.create(&mut server.sessions().await, "target").await;
        let channel = server.channel().await;
        let mut runner = TestRunner::deterministic();
        for (path, sound) in raw::METHODS.into_iter().zip(sound(&job, &name)) {
            let damage = (0..sound.len(), 0_u8..8, 0_u8..4);
            for _ in 0..60 {
                let (at, bit, kind) = damage.new_tree(&mut runner).unwrap().current();
                let mut message = sound.clone();
                match kind {
                    0 => message[at] ^= 1 << bit,
                    1 => message.truncate(at),
                    2 => message.insert(at, bit.wrapping_mul(37)),
                    _ => drop(message.remove(at)),
                }
                let (_, status) = raw::call(&channel, path, vec![message.clone().into()], 3).await;
                check(path, &message, status);
            }
        }
        is_as_it_was(server, bystander).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_of_another_shape_are_answered() {
    on_both(Options::default(), async |server: &mut Server| {
        let bystander = bystander(server).await;
        let job = Job::new(MatrixSpec::PrefixSum, trees::of_shapes(DType::F32, &[&[3]]), 1);
        let name = job.create(&mut server.sessions().await, "target").await;
        let channel = server.channel().await;
        for (path, sound) in raw::METHODS.into_iter().zip(sound(&job, &name)) {
            // No message where there should be one, and more than one.
            let streamed = path.ends_with("StreamMultiplyNext");
            let (answers, status) = raw::call(&channel, path, vec![], 3).await;
            assert!(answers.is_empty());
            assert_eq!(status.is_some(), !streamed, "{path}: {status:?}");
            raw::call(&channel, path, vec![sound.clone().into(), sound.into()], 3).await;
        }
        for path in ["/noised.v1.Sessions/RewindTime", "/noised.v1.Nothing/GetSession", "/", "/a/b/c"] {
            let (_, status) = raw::call(&channel, path, vec![Bytes::new()], 3).await;
            assert_eq!(status.unwrap().code(), Code::Unimplemented, "{path}");
        }
        is_as_it_was(server, bystander).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_over_the_limit_are_refused() {
    let options = Options { max_message_bytes: Some(ByteSize::kib(64)), ..Options::default() };
    on_both(options, async |server: &mut Server| {
        let bystander = bystander(server).await;
        let mut client = server.sessions().await;
        let large = Job::new(MatrixSpec::PrefixSum, trees::of_shapes(DType::F32, &[&[100_000]]), 2);
        let name = large.create(&mut client, "large").await;
        // Too long for a message by far, and by its envelope alone.
        let status = wire::unary(&mut client, &name, 0, large.payloads[0].clone()).await.unwrap_err();
        report(&status, Code::ResourceExhausted);
        for length in [(64 << 10) + 1, 64 << 10, 400_000] {
            let frame = wire::frame(&name, 0, 0, large.payloads[0].slice(..length));
            let (answers, status) = wire::exchange(&mut client, vec![frame]).await;
            assert!(answers.is_empty());
            report(&status.unwrap(), Code::ResourceExhausted);
        }
        let diag = vec![1.0; 10_000];
        let spec = noised::SessionSpec { matrix: MatrixSpec::Diagonal { diag }, ..large.spec.clone() };
        let status = client.create_session(create_request("long", &spec)).await.unwrap_err();
        report(&status, Code::ResourceExhausted);
        // In the middle of a step as well; what was applied stays.
        let frames = vec![
            wire::frame(&name, 0, 0, large.payloads[0].slice(..8192)),
            wire::frame(&name, 0, 8192, large.payloads[0].slice(8192..100_000)),
        ];
        let (answers, status) = wire::exchange(&mut client, frames).await;
        large.check(0, 0..8192, &answers);
        report(&status.unwrap(), Code::ResourceExhausted);
        assert_eq!(wire::position(&mut client, &name).await, (0, 8192));
        // Frames within the limit carry a step of any length.
        for step in 0..2 {
            let (answers, status) =
                wire::exchange(&mut client, large.frames(&name, step, 0, &[60_000])).await;
            assert!(status.is_none(), "{status:?}");
            large.check(step, 0..large.total(), &answers);
        }
        is_as_it_was(server, bystander).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_speak_no_http_are_closed() {
    on_both(Options::default(), async |server: &mut Server| {
        let bystander = bystander(server).await;
        let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
        let mut cases: Vec<Vec<u8>> = vec![
            vec![],
            b"GET / HTTP/1.1\r\nhost: a\r\n\r\n".to_vec(),
            vec![0xff; 100_000],
            preface.to_vec(),
            [preface.as_slice(), &[0xff; 1000]].concat(),
            // Settings, then headers cut off in the middle.
            [preface.as_slice(), &[0, 0, 0, 4, 0, 0, 0, 0, 0], &[0, 0, 100, 1, 4, 0, 0, 0, 1, 0x82]].concat(),
        ];
        cases.push(preface[..10].to_vec());
        for bytes in cases {
            let mut connection = server.connect().await;
            // The server may close it before all is written.
            let _closed = connection.write_all(&bytes).await;
            let _closed = connection.shutdown().await;
            let mut answer = Vec::new();
            let _closed = connection.read_to_end(&mut answer).await;
        }
        is_as_it_was(server, bystander).await;
    })
    .await;
}

/// What fits a message on its way up fits one on its way down, or is not made.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_description_as_long_as_a_message() {
    let limit = 64 << 10;
    let options = Options { max_message_bytes: Some(ByteSize::b(limit)), ..Options::default() };
    on_both(options, async |server: &mut Server| {
        let mut client = server.sessions().await;
        let tree = trees::of_shapes(DType::F32, &[&[3]]);
        let request = |numbers: usize, id: usize| {
            let matrix = MatrixSpec::Diagonal { diag: vec![1.5; numbers] };
            create_request(&"x".repeat(id), &noised::SessionSpec::new(matrix, tree.clone()))
        };
        let most = (1..).find(|&numbers| request(numbers, 1).encoded_len() as u64 > limit).unwrap() - 1;
        for numbers in most - 20..=most {
            for id in [1, 60] {
                let request = request(numbers, id);
                if request.encoded_len() as u64 > limit {
                    continue;
                }
                let name = format!("sessions/{}", request.session_id);
                match client.create_session(request).await {
                    Ok(made) => {
                        let made = made.into_inner();
                        let full = wire::get(&mut client, &name).await.unwrap();
                        assert!(full.matrix.is_some() && full.tree.is_some());
                        // A second may end between the two.
                        let last_used_unix_seconds = made.last_used_unix_seconds;
                        let basic = v1::Session { matrix: None, tree: None, last_used_unix_seconds, ..full };
                        assert_eq!(basic, made);
                        wire::delete(&mut client, &name).await.unwrap();
                    }
                    Err(status) => {
                        report(&status, Code::ResourceExhausted);
                        assert_eq!(wire::list(&mut client, 0).await, Vec::<String>::new());
                    }
                }
            }
        }
    })
    .await;
}

/// A field of a message, with its length before it.
fn field(number: u8, content: Vec<u8>) -> Vec<u8> {
    let mut bytes = vec![number << 3 | 2];
    prost::encode_length_delimiter(content.len(), &mut bytes).unwrap();
    [bytes, content].concat()
}

/// Parts that take two bytes on the wire, and many times that in memory.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_of_empty_parts_are_refused() {
    on_both(Options::default(), async |server: &mut Server| {
        let bystander = bystander(server).await;
        let channel = server.channel().await;
        let many = |number: u8| field(number, vec![]).repeat(1 << 20);
        let [create, describe, multiply] =
            [raw::METHODS[0], raw::METHODS[9], raw::METHODS[8]].map(|path| (path, "is not read"));
        for ((path, rule), message, at_fault) in [
            (create, field(2, field(3, many(1))), "tree.leaves"),
            (create, field(2, field(2, field(9, many(1)))), "matrix"),
            (create, field(2, field(2, field(8, many(1)))), "rows"),
            (describe, field(2, many(1)), "tree.leaves"),
            (describe, field(1, field(7, many(1))), "rows"),
            (multiply, many(2), "rows"),
        ] {
            let (answers, status) = raw::call(&channel, path, vec![message.into()], 1).await;
            assert!(answers.is_empty());
            wire::assert_invalid(&status.unwrap(), at_fault, rule);
        }
        is_as_it_was(server, bystander).await;
    })
    .await;
}

/// Calls that keep the server waiting for their end, with long descriptions sent: there may be so many of
/// them, and whatever is short is answered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn so_many_bytes_of_descriptions_are_held_at_once() {
    let options = Options { max_message_bytes: Some(ByteSize::mib(1)), ..Options::default() };
    on_both(options, async |server: &mut Server| {
        let bystander = bystander(server).await;
        let mut client = server.sessions().await;
        let matrix = MatrixSpec::Diagonal { diag: vec![1.0; 110_000] };
        let long = noised::SessionSpec::new(matrix, trees::of_shapes(DType::F32, &[&[3]]));
        let request = create_request("long", &long);
        let name = client.create_session(request.clone()).await.unwrap().into_inner().name;
        wire::delete(&mut client, &name).await.unwrap();

        // Over two connections, since each holds half of it at the most.
        let message = Bytes::from(create_request("stalled", &long).encode_to_vec());
        let mut stalled = Vec::new();
        for _ in 0..2 {
            let channel = server.channel().await;
            stalled.push(raw::stall(&channel, raw::METHODS[0], message.clone()));
        }
        let status = within_patience(async {
            loop {
                match client.create_session(request.clone()).await {
                    // They have not come in yet.
                    Ok(_) => wire::delete(&mut client, &name).await.unwrap(),
                    Err(status) => break status,
                }
            }
        })
        .await;
        let told = report(&status, Code::ResourceExhausted);
        assert_eq!(told.reason, "BUSY");
        assert!(told.retry_after.is_some());
        let short = Job::new(MatrixSpec::PrefixSum, trees::of_shapes(DType::F32, &[&[3]]), 1);
        let name = short.create(&mut client, "short").await;
        short.unary(&mut client, &name, 0, false).await;
        wire::delete(&mut client, &name).await.unwrap();

        stalled.iter().for_each(tokio::task::JoinHandle::abort);
        let name = within_patience(async {
            loop {
                if let Ok(made) = client.create_session(request.clone()).await {
                    break made.into_inner().name;
                }
            }
        })
        .await;
        wire::delete(&mut client, &name).await.unwrap();
        is_as_it_was(server, bystander).await;
    })
    .await;
}

/// Twice the numbers that a lower triangle has: rows may be written in full.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_largest_dense_matrix_fits_a_message() {
    on_both(Options::default(), async |server: &mut Server| {
        let n = noised::limits::MAX_DENSE_N;
        let row = |i: usize| (0..n).map(|j| if j <= i { 0.5 } else { 0.0 }).collect();
        let matrix = MatrixSpec::Dense { rows: (0..n).map(row).collect() };
        let spec = noised::SessionSpec::new(matrix, trees::of_shapes(DType::F32, &[&[3]]));
        let mut client = server.sessions().await;
        let made = client.create_session(create_request("dense", &spec)).await.unwrap().into_inner();
        assert_eq!(made.horizon, Some(n as u64));
        let request = v1::RowNormsSquaredRequest { matrix: Some((&spec.matrix).into()), n: 1 };
        let mut norms = server.analysis().await.row_norms_squared(request).await.unwrap().into_inner();
        assert_eq!(norms.message().await.unwrap().unwrap().row_norms_squared, [0.25]);
    })
    .await;
}

/// The answer to a frame of the longest length has a flag more than the frame.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_to_the_longest_frame_is_sent() {
    let options = Options { max_message_bytes: Some(ByteSize::kib(64)), ..Options::default() };
    on_both(options, async |server: &mut Server| {
        let mut client = server.sessions().await;
        let first = 8192_usize;
        let rest = (64 << 10) - 8;
        let job =
            Job::new(MatrixSpec::PrefixSum, trees::of_shapes(DType::F32, &[&[(first + rest) as u64 / 4]]), 1);
        let name = job.create(&mut client, "a").await;
        for _replay in 0..2 {
            let frames = vec![
                wire::frame(&name, 0, 0, job.payloads[0].slice(..first)),
                wire::frame("", 0, first, job.payloads[0].slice(first..)),
            ];
            assert!(frames[1].encoded_len() + 2 > 64 << 10);
            let (answers, status) = wire::exchange(&mut client, frames).await;
            assert!(status.is_none(), "{status:?}");
            job.check(0, 0..job.total(), &answers);
        }
    })
    .await;
}
