//! Descriptions that break a rule, over the wire: INVALID_ARGUMENT with the field and the rule, and nothing
//! is made.

use noised::limits::MAX_HORIZON;
use noised::{DType, Leaf, MatrixSpec, SessionSpec};
use noised_proto::v1;
use noised_server::config::Options;
use noised_tests::bad::{self, Bad};
use noised_tests::server::{Server, on_both};
use noised_tests::wire::{self, Job, assert_invalid};
use noised_tests::{specs, trees};
use prost::Message;

fn good_tree() -> v1::Tree {
    (&trees::of_shapes(DType::F64, &[&[3]])).into()
}

fn good() -> v1::Session {
    v1::Session {
        matrix: Some((&MatrixSpec::PrefixSum).into()),
        tree: Some(good_tree()),
        ..v1::Session::default()
    }
}

fn create(session: v1::Session) -> v1::CreateSessionRequest {
    v1::CreateSessionRequest { session_id: "bad".to_owned(), session: Some(session), ..Default::default() }
}

/// Leaves as they are, whether or not they make a tree.
fn tree_of(leaves: &[Leaf]) -> v1::Tree {
    let leaf = |leaf: &Leaf| {
        let Leaf { path, dtype, shape } = leaf.clone();
        v1::Leaf { path, dtype: v1::DType::from(dtype).into(), shape }
    };
    v1::Tree { leaves: leaves.iter().map(leaf).collect() }
}

/// A session that must be as it was whatever is asked for beside it.
async fn bystander(server: &Server) -> (Job, String) {
    let job = Job::new(specs::blt(&[0.5], &[0.25]).inverse(), trees::mixed(), 3);
    let mut client = server.sessions().await;
    let name = job.create(&mut client, "bystander").await;
    job.unary(&mut client, &name, 0, false).await;
    let tile = job.bounds[1];
    wire::exchange(&mut client, vec![wire::frame(&name, 1, 0, job.payloads[1].slice(..tile))]).await;
    (job, name)
}

async fn is_as_it_was(server: &Server, (job, name): (Job, String)) {
    let mut client = server.sessions().await;
    assert_eq!(wire::list(&mut client, 0).await, std::slice::from_ref(&name));
    assert_eq!(wire::position(&mut client, &name).await, (1, job.bounds[1]));
    job.unary(&mut client, &name, 1, false).await;
    job.unary(&mut client, &name, 2, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_matrix_that_breaks_a_rule_is_refused_by_every_call() {
    on_both(Options::default(), async |server: &mut Server| {
        let bystander = bystander(server).await;
        let (mut sessions, mut analysis) = (server.sessions().await, server.analysis().await);
        for Bad { what, field, rule } in bad::matrices() {
            let matrix = Some(v1::Matrix::from(&what));
            let request = create(v1::Session { matrix: matrix.clone(), ..good() });
            assert_invalid(&sessions.create_session(request).await.unwrap_err(), &field, rule);
            let request = v1::MaterializeRequest { matrix: matrix.clone(), n: 1 };
            assert_invalid(&analysis.materialize(request).await.unwrap_err(), &field, rule);
            let request = v1::RowNormsSquaredRequest { matrix: matrix.clone(), n: 1 };
            assert_invalid(&analysis.row_norms_squared(request).await.unwrap_err(), &field, rule);
            let x = vec![v1::Row { values: vec![1.0] }];
            let request = v1::MultiplyRequest { matrix: matrix.clone(), x };
            assert_invalid(&analysis.multiply(request).await.unwrap_err(), &field, rule);
            let request =
                v1::DescribeRequest { matrix, tree: Some(good_tree()), ..v1::DescribeRequest::default() };
            assert_invalid(&analysis.describe(request).await.unwrap_err(), &field, rule);
        }
        is_as_it_was(server, bystander).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_matrix_that_lacks_a_part_is_refused() {
    on_both(Options::default(), async |server: &mut Server| {
        let bystander = bystander(server).await;
        let mut client = server.sessions().await;
        use v1::matrix::Kind;
        let matrix = |kind| v1::Matrix { kind: Some(kind) };
        let inverse = |matrix: Option<v1::Matrix>| {
            Kind::Inverse(Box::new(v1::Inverse { matrix: matrix.map(Box::new) }))
        };
        let none = v1::Matrix { kind: None };
        let cases = [
            (none.clone(), "matrix", "must have a kind"),
            (matrix(inverse(None)), "matrix.matrix", "is missing"),
            (matrix(inverse(Some(none.clone()))), "matrix.matrix", "must have a kind"),
            (matrix(inverse(Some(matrix(inverse(None))))), "matrix.matrix.matrix", "is missing"),
            (matrix(Kind::Scaled(Box::default())), "matrix.matrix", "is missing"),
            (
                matrix(Kind::Product(v1::Product { factors: vec![(&MatrixSpec::Identity).into(), none] })),
                "matrix.factors[1]",
                "must have a kind",
            ),
        ];
        for (matrix, field, rule) in cases {
            let status = client
                .create_session(create(v1::Session { matrix: Some(matrix), ..good() }))
                .await
                .unwrap_err();
            assert_invalid(&status, field, rule);
        }
        is_as_it_was(server, bystander).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leaves_that_break_a_rule_are_refused() {
    on_both(Options::default(), async |server: &mut Server| {
        let bystander = bystander(server).await;
        let (mut sessions, mut analysis) = (server.sessions().await, server.analysis().await);
        for Bad { what, field, rule } in bad::trees() {
            let tree = Some(tree_of(&what));
            let request = create(v1::Session { tree: tree.clone(), ..good() });
            assert_invalid(&sessions.create_session(request).await.unwrap_err(), &field, rule);
            let matrix = good().matrix;
            let request = v1::DescribeRequest { matrix, tree, ..v1::DescribeRequest::default() };
            assert_invalid(&analysis.describe(request).await.unwrap_err(), &field, rule);
        }
        // Formats that no one knows.
        for number in [0, 5, -1, i32::MAX] {
            let mut tree = tree_of(&[Leaf::new("a", DType::F32, [1]), Leaf::new("b", DType::F32, [1])]);
            tree.leaves[1].dtype = number;
            let request = create(v1::Session { tree: Some(tree), ..good() });
            let status = sessions.create_session(request).await.unwrap_err();
            assert_invalid(&status, "tree.leaves[1].dtype", &number.to_string());
        }
        is_as_it_was(server, bystander).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_breaks_a_rule_is_refused() {
    on_both(Options::default(), async |server: &mut Server| {
        let bystander = bystander(server).await;
        let mut client = server.sessions().await;
        let shard = |index, count| v1::Session { shard: Some(v1::Shard { index, count, cut: 0 }), ..good() };
        let precision = |number| v1::Session { precision: number, ..good() };
        let horizon = |horizon| v1::Session { horizon: Some(horizon), ..good() };
        let dense: v1::Matrix = (&MatrixSpec::Dense { rows: vec![vec![1.0], vec![1.0, 1.0]] }).into();
        let huge: v1::Matrix = (&specs::toeplitz(&[1.0, 1e39])).into();
        let f32 = v1::Precision::F32.into();
        let cases = [
            (v1::Session { matrix: None, ..good() }, "matrix", "is missing"),
            (v1::Session { tree: None, ..good() }, "tree", "is missing"),
            (v1::Session { source: Some(v1::Source { kind: None }), ..good() }, "source", "must have a kind"),
            (shard(0, 0), "shard.count", "at least 1"),
            (shard(1, 1), "shard.index", "less than"),
            (shard(u32::MAX, u32::MAX), "shard.index", "less than"),
            (shard(0, 4), "shard.count", "more shards"),
            (precision(3), "precision", "3"),
            (precision(-1), "precision", "-1"),
            (horizon(0), "horizon", "at least 1"),
            (horizon(MAX_HORIZON + 1), "horizon", "at most"),
            (horizon(u64::MAX), "horizon", "at most"),
            (v1::Session { matrix: Some(dense), ..horizon(3) }, "horizon", "at most 2"),
            (v1::Session { matrix: Some(huge), ..precision(f32) }, "matrix", "not finite in f32"),
            (v1::Session { name: "sessions/bad".to_owned(), ..good() }, "name", "set by the server"),
            (v1::Session { fingerprint: vec![1], ..good() }, "fingerprint", "set by the server"),
            (v1::Session { next_step: 1, ..good() }, "next_step", "set by the server"),
            (v1::Session { next_offset: 1, ..good() }, "next_offset", "set by the server"),
            (v1::Session { lanes: 3, ..good() }, "lanes", "set by the server"),
            (v1::Session { step_bytes: 24, ..good() }, "step_bytes", "set by the server"),
            (v1::Session { memory_bytes: 1, ..good() }, "memory_bytes", "set by the server"),
            (v1::Session { resumed: true, ..good() }, "resumed", "set by the server"),
        ];
        for (session, field, rule) in cases {
            let status = client.create_session(create(session)).await.unwrap_err();
            assert_invalid(&status, field, rule);
        }
        let nothing = v1::CreateSessionRequest { session: None, ..create(good()) };
        assert_invalid(&client.create_session(nothing).await.unwrap_err(), "session", "is missing");
        is_as_it_was(server, bystander).await;
        // And what breaks no rule is taken.
        client.create_session(create(good())).await.unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn analysis_has_rules_of_its_own() {
    on_both(Options::default(), async |server: &mut Server| {
        let mut client = server.analysis().await;
        let matrix = good().matrix;
        let dense = Some((&MatrixSpec::Dense { rows: vec![vec![1.0], vec![1.0, 1.0]] }).into());
        let rule = "at least 1 and at most";
        for (matrix, n) in [(&matrix, 0), (&matrix, 65_537), (&matrix, u64::MAX), (&dense, 3), (&dense, 0)] {
            let request = v1::MaterializeRequest { matrix: matrix.clone(), n };
            assert_invalid(&client.materialize(request).await.unwrap_err(), "n", rule);
            // Structure takes more.
            let n = if n == 65_537 { (1 << 24) + 1 } else { n };
            let request = v1::RowNormsSquaredRequest { matrix: matrix.clone(), n };
            assert_invalid(&client.row_norms_squared(request).await.unwrap_err(), "n", rule);
        }
        let row = |values: &[f64]| v1::Row { values: values.to_vec() };
        let cases = [
            (&matrix, vec![], "x", ""),
            (&matrix, vec![row(&[])], "x", ""),
            (&matrix, vec![row(&[1.0, 2.0]), row(&[1.0])], "x[1]", ""),
            (&matrix, vec![row(&[1.0]), row(&[])], "x[1]", ""),
            (&dense, vec![row(&[1.0]), row(&[1.0]), row(&[1.0])], "x", "ends at row 2"),
        ];
        for (matrix, x, field, rule) in cases {
            let request = v1::MultiplyRequest { matrix: matrix.clone(), x };
            assert_invalid(&client.multiply(request).await.unwrap_err(), field, rule);
        }
        let describe = |request| {
            let mut client = client.clone();
            async move { client.describe(request).await.unwrap_err() }
        };
        let request = v1::DescribeRequest { matrix, ..v1::DescribeRequest::default() };
        let tree = Some(good_tree());
        let shard = Some(v1::Shard { index: 2, count: 2, cut: 0 });
        let cases = [
            (v1::DescribeRequest { matrix: None, ..request.clone() }, "matrix", "is missing"),
            (v1::DescribeRequest { precision: 7, ..request.clone() }, "precision", "7"),
            (
                v1::DescribeRequest { tree: tree.clone(), shard, ..request.clone() },
                "shard.index",
                "less than",
            ),
        ];
        for (request, field, rule) in cases {
            assert_invalid(&describe(request).await, field, rule);
        }
        for status in [
            client.materialize(v1::MaterializeRequest { matrix: None, n: 1 }).await.map(|_| ()).unwrap_err(),
            client
                .row_norms_squared(v1::RowNormsSquaredRequest { matrix: None, n: 1 })
                .await
                .map(|_| ())
                .unwrap_err(),
            client
                .multiply(v1::MultiplyRequest { matrix: None, x: vec![row(&[1.0])] })
                .await
                .map(|_| ())
                .unwrap_err(),
        ] {
            assert_invalid(&status, "matrix", "is missing");
        }
    })
    .await;
}

/// Matrices and specifications come out of their messages as they went in.
#[test]
fn the_wire_loses_nothing() {
    let mut all = specs::nested();
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    for _ in 0..200 {
        use proptest::strategy::{Strategy, ValueTree};
        all.push(specs::arbitrary().new_tree(&mut runner).unwrap().current());
    }
    all.push(MatrixSpec::Diagonal { diag: vec![-0.0, 0.0, f64::MIN_POSITIVE, 5e-324, f64::MAX, 0.1] });
    for matrix in all {
        let spec = SessionSpec { horizon: Some(5), ..SessionSpec::new(matrix, trees::mixed()) };
        let bytes = noised_proto::session_spec_to_wire(&spec).encode_to_vec();
        let back = noised_proto::session_spec(v1::Session::decode(bytes.as_slice()).unwrap()).unwrap();
        assert_eq!(back, spec);
        let fingerprint = |spec: SessionSpec| spec.resolve().unwrap().fingerprint();
        assert_eq!(fingerprint(back), fingerprint(spec));
    }
}
