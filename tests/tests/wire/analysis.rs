//! Analysis calls, health's neighbours: answers over gRPC are those of this process.

use bytesize::ByteSize;
use noised::{DType, MatrixSpec, Plan, Precision, Shard, analysis};
use noised_proto::v1;
use noised_server::config::Options;
use noised_tests::server::{Server, on_both, within_patience};
use noised_tests::wire::report;
use noised_tests::{specs, trees};
use tonic::Code;

fn rows_of(spec: &MatrixSpec, n: u64) -> u64 {
    Plan::new(spec).unwrap().horizon().map_or(n, |rows| n.min(rows))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_are_those_of_this_process() {
    on_both(Options::default(), async |server: &mut Server| {
        let client = server.client().await.analysis();
        for matrix in specs::nested() {
            for n in [1, 2, 7, 33].map(|n| rows_of(&matrix, n)) {
                let mut rows = client.materialize(&matrix, n).await.unwrap();
                for expected in analysis::Rows::new(&matrix, n).unwrap() {
                    assert_eq!(rows.next_row().await.unwrap(), Some(expected));
                }
                assert_eq!(rows.next_row().await.unwrap(), None);
                let norms = analysis::row_norms_squared(&matrix, n, || false).unwrap();
                assert_eq!(client.row_norms_squared(&matrix, n).await.unwrap(), norms);
                let x: Vec<Vec<f64>> =
                    (0..n).map(|t| (0..3).map(|lane| trees::value(t, lane)).collect()).collect();
                let array =
                    ndarray::Array2::from_shape_fn((n as usize, 3), |(t, lane)| x[t][lane]).into_dyn();
                let expected = analysis::multiply(&matrix, array.view(), || false).unwrap();
                let found = client.multiply(&matrix, &x).await.unwrap();
                assert!(found.iter().flatten().eq(expected.iter()), "{}", matrix.to_json());
            }
            let tree = trees::mixed();
            for tree in [None, Some((&tree, Shard::WHOLE)), Some((&tree, Shard::new(1, 3)))] {
                for precision in [None, Some(Precision::F32), Some(Precision::F64)] {
                    let expected = analysis::describe(&matrix, tree, precision).unwrap();
                    assert_eq!(client.describe(&matrix, tree, precision).await.unwrap(), expected);
                }
            }
        }
    })
    .await;
}

/// More rows than a message holds, of a server whose messages are short.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_matrix_may_be_larger_than_a_message() {
    let options = Options { max_message_bytes: Some(ByteSize::kib(512)), ..Options::default() };
    on_both(options, async |server: &mut Server| {
        let matrix = specs::product([MatrixSpec::PrefixSum, specs::blt(&[0.9], &[0.1]).inverse()]);
        let n = 1500;
        let request = v1::MaterializeRequest { matrix: Some((&matrix).into()), n };
        let mut answers = server.analysis().await.materialize(request).await.unwrap().into_inner();
        let (mut expected, mut next, mut messages) = (analysis::Rows::new(&matrix, n).unwrap(), 0, 0);
        while let Some(answer) = answers.message().await.unwrap() {
            assert_eq!(answer.first_row, next);
            assert!(!answer.rows.is_empty());
            assert!(prost::Message::encoded_len(&answer) <= 512 << 10);
            for row in &answer.rows {
                assert_eq!(Some(&row.values), expected.next().as_ref());
            }
            next += answer.rows.len() as u64;
            messages += 1;
        }
        assert_eq!(next, n);
        assert!(messages > 10);
    })
    .await;
}

/// A product of many lanes with many planes of state is computed without all of that state at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_product_holds_little_state() {
    on_both(Options::default(), async |server: &mut Server| {
        let matrix = MatrixSpec::Product { factors: vec![specs::toeplitz(&vec![0.5; 1024]); 4] };
        let x = vec![vec![1.0; 1 << 20]; 2];
        let found = server.client().await.analysis().multiply(&matrix, &x).await.unwrap();
        assert!(found[0].iter().all(|&y| y == 0.0625));
        assert!(found[1].iter().all(|&y| y == 0.0625 * 5.0));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn so_many_analyses_run_at_once() {
    let options = Options { max_analyses: Some(1), ..Options::default() };
    on_both(options, async |server: &mut Server| {
        let mut client = server.analysis().await;
        let matrix = Some(v1::Matrix::from(&MatrixSpec::PrefixSum));
        let request = v1::MaterializeRequest { matrix: matrix.clone(), n: 65_536 };
        // Far more than fits the windows of a client that reads one message.
        let mut unread = client.materialize(request).await.unwrap().into_inner();
        unread.message().await.unwrap().unwrap();
        let norms = v1::RowNormsSquaredRequest { matrix, n: 3 };
        let status = client.row_norms_squared(norms.clone()).await.unwrap_err();
        let told = report(&status, Code::ResourceExhausted);
        assert_eq!(told.reason, "BUSY");
        assert!(told.retry_after.is_some());
        // A call that its client gives up stops computing.
        drop(unread);
        within_patience(async {
            while client.row_norms_squared(norms.clone()).await.is_err() {
                tokio::task::yield_now().await;
            }
        })
        .await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reflection_lists_the_services() {
    use tonic_reflection::pb::v1::ServerReflectionRequest;
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
    on_both(Options::default(), async |server: &mut Server| {
        let mut client = ServerReflectionClient::new(server.channel().await);
        let ask = |message| ServerReflectionRequest { host: String::new(), message_request: Some(message) };
        let asked = [
            ask(MessageRequest::ListServices(String::new())),
            ask(MessageRequest::FileContainingSymbol("noised.v1.Sessions".to_owned())),
            ask(MessageRequest::FileContainingSymbol("noised.v1.Nothing".to_owned())),
        ];
        let answers = client.server_reflection_info(tokio_stream::iter(asked)).await.unwrap().into_inner();
        let mut answers = within_patience(collect(answers)).await.into_iter();
        let Some(MessageResponse::ListServicesResponse(list)) = answers.next().unwrap().message_response
        else {
            panic!("no list");
        };
        let names: Vec<&str> = list.service.iter().map(|service| service.name.as_str()).collect();
        for name in ["noised.v1.Sessions", "noised.v1.Analysis", "grpc.health.v1.Health"] {
            assert!(names.contains(&name), "{name} is not among {names:?}");
        }
        let Some(MessageResponse::FileDescriptorResponse(files)) = answers.next().unwrap().message_response
        else {
            panic!("no descriptor");
        };
        assert!(!files.file_descriptor_proto.is_empty());
    })
    .await;
}

async fn collect<T>(mut stream: tonic::Streaming<T>) -> Vec<T> {
    let mut all = Vec::new();
    while let Ok(Some(message)) = stream.message().await {
        all.push(message);
    }
    all
}

/// Descriptions of real models, with nothing allocated for them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_description_takes_no_memory() {
    on_both(Options::default(), async |server: &mut Server| {
        let huge = trees::of_shapes(DType::F32, &[&[1 << 20, 1 << 20]]);
        let matrix = specs::toeplitz(&vec![1.0; 1024]);
        let found =
            server.client().await.analysis().describe(&matrix, Some((&huge, Shard::WHOLE)), None).await;
        assert_eq!(found.unwrap().tree.unwrap().state_bytes, 1023 << 42);
    })
    .await;
}
