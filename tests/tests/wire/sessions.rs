//! Sessions over gRPC: made, found, listed, ended; what they are bound to; what a server may hold.

use bytesize::ByteSize;
use noised::{DType, MatrixSpec, Precision, SessionSpec, Shard, Tree};
use noised_proto::{session_spec, v1};
use noised_server::config::Options;
use noised_tests::server::on_both;
use noised_tests::wire::{self, Job, assert_invalid, create_request, report};
use noised_tests::{specs, trees};
use tonic::Code;

fn spec() -> SessionSpec {
    SessionSpec::new(specs::blt(&[0.9, 0.5], &[0.1, 0.2]).inverse(), trees::mixed())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_is_made_found_and_ended() {
    on_both(Options::default(), async |server| {
        let mut client = server.sessions().await;
        let asked = SessionSpec { horizon: Some(7), precision: Precision::F32, ..spec() };
        let resolved = asked.clone().resolve().unwrap();
        let made = client.create_session(create_request("run-1", &asked)).await.unwrap().into_inner();
        assert_eq!(made.name, "sessions/run-1");
        assert_eq!(made.fingerprint, resolved.fingerprint().as_bytes());
        assert_eq!((made.next_step, made.next_offset, made.resumed), (0, 0, false));
        assert_eq!(made.lanes, resolved.layout().lanes() as u64);
        assert_eq!(made.step_bytes, resolved.layout().byte_len() as u64);
        assert!(made.memory_bytes >= resolved.cost().total());
        assert_eq!(wire::view(&mut client, &made.name, v1::SessionView::Basic).await.unwrap(), made);

        // What it is bound to comes back as it was sent.
        let full = wire::get(&mut client, &made.name).await.unwrap();
        let bound = v1::Session {
            matrix: full.matrix,
            tree: full.tree,
            shard: made.shard,
            source: made.source.clone(),
            precision: made.precision,
            horizon: made.horizon,
            ..v1::Session::default()
        };
        assert_eq!(session_spec(bound).unwrap(), asked);

        wire::delete(&mut client, &made.name).await.unwrap();
        for status in [
            wire::get(&mut client, &made.name).await.unwrap_err(),
            wire::delete(&mut client, &made.name).await.unwrap_err(),
            wire::unary(&mut client, &made.name, 0, vec![0; made.step_bytes as usize].into())
                .await
                .unwrap_err(),
        ] {
            assert_eq!(report(&status, Code::NotFound).reason, "SESSION_NOT_FOUND");
        }
        // The name is free again, and the session begins at step 0.
        let again = client.create_session(create_request("run-1", &asked)).await.unwrap().into_inner();
        let last_used_unix_seconds = made.last_used_unix_seconds;
        assert_eq!(v1::Session { last_used_unix_seconds, ..again }, made);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_said_has_a_default() {
    on_both(Options::default(), async |server| {
        let mut client = server.sessions().await;
        let least = v1::Session {
            matrix: Some((&spec().matrix).into()),
            tree: Some((&spec().tree).into()),
            ..v1::Session::default()
        };
        let mut names = Vec::new();
        for _ in 0..3 {
            let request = v1::CreateSessionRequest {
                session_id: String::new(),
                session: Some(least.clone()),
                ..v1::CreateSessionRequest::default()
            };
            let made = client.create_session(request).await.unwrap().into_inner();
            assert_eq!(made.fingerprint, spec().resolve().unwrap().fingerprint().as_bytes());
            assert_eq!(made.precision(), v1::Precision::F64);
            assert!(noised_proto::name::session_id(&made.name).is_ok());
            names.push(made.name);
        }
        names.sort();
        names.dedup();
        assert_eq!(names.len(), 3);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_come_in_pages_ordered_by_name() {
    on_both(Options::default(), async |server| {
        let mut client = server.sessions().await;
        assert_eq!(wire::list(&mut client, 0).await, Vec::<String>::new());
        let spec = SessionSpec::new(MatrixSpec::PrefixSum, Tree::flat(3, DType::F32).unwrap());
        // Made in another order than that of the names, which is not that of numbers.
        let mut names = Vec::new();
        for i in (0..250).rev() {
            names.push(
                client
                    .create_session(create_request(&format!("s-{i}"), &spec))
                    .await
                    .unwrap()
                    .into_inner()
                    .name,
            );
        }
        names.sort();
        for page_size in [0, 1, 7, 100, 250, 1000, i32::MAX] {
            assert_eq!(wire::list(&mut client, page_size).await, names, "pages of {page_size}");
        }
        let first = v1::ListSessionsRequest { page_size: 0, page_token: String::new() };
        let first = client.list_sessions(first).await.unwrap().into_inner();
        assert_eq!(first.sessions.len(), 100);
        for session in &first.sessions {
            assert!(session.matrix.is_none() && session.tree.is_none());
            assert_eq!((session.lanes, session.step_bytes, session.next_step), (3, 12, 0));
            assert_eq!(session.fingerprint, spec.clone().resolve().unwrap().fingerprint().as_bytes());
        }
        // A page goes on after its token, though that session is gone.
        wire::delete(&mut client, &first.sessions[99].name).await.unwrap();
        let second = v1::ListSessionsRequest { page_size: 5, page_token: first.next_page_token };
        let second = client.list_sessions(second).await.unwrap().into_inner();
        assert!(second.sessions.iter().map(|session| &session.name).eq(&names[100..105]));

        let negative = v1::ListSessionsRequest { page_size: -1, page_token: String::new() };
        assert_invalid(&client.list_sessions(negative).await.unwrap_err(), "page_size", "negative");
        for page_token in ["nonsense", "sessions/", "sessions/a/b", "\u{0}"] {
            let request = v1::ListSessionsRequest { page_size: 5, page_token: page_token.to_owned() };
            assert_invalid(&client.list_sessions(request).await.unwrap_err(), "page_token", "");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_have_a_rule() {
    on_both(Options::default(), async |server| {
        let mut client = server.sessions().await;
        let long = "x".repeat(129);
        for id in [".", "-a", "_a", "a b", "a/b", "sessions/a", "ä", "a\n", "a\u{0}", &long] {
            let status = client.create_session(create_request(id, &spec())).await.unwrap_err();
            assert_invalid(&status, "session_id", "1 to 128");
        }
        for name in
            ["", "a", "sessions", "sessions/", "sessions/a/b", "Sessions/a", "/sessions/a", "sessions/.a"]
        {
            assert_invalid(&wire::get(&mut client, name).await.unwrap_err(), "name", "");
            assert_invalid(&wire::delete(&mut client, name).await.unwrap_err(), "name", "");
            assert_invalid(
                &wire::unary(&mut client, name, 0, vec![0; 4].into()).await.unwrap_err(),
                "name",
                "",
            );
            let (_, status) =
                wire::exchange(&mut client, vec![wire::frame(name, 0, 0, vec![0; 4].into())]).await;
            assert_invalid(&status.unwrap(), "name", "");
        }
        assert_eq!(wire::list(&mut client, 0).await, Vec::<String>::new());
        for id in ["a", "0", "A.b_c-d", &"x".repeat(128)] {
            client.create_session(create_request(id, &spec())).await.unwrap();
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_is_taken_once_and_resumed_for_the_same() {
    on_both(Options::default(), async |server| {
        let mut client = server.sessions().await;
        let job = Job::of(spec(), 3);
        let name = job.create(&mut client, "run").await;
        job.unary(&mut client, &name, 0, false).await;
        let tile = job.bounds[1];
        let (answers, status) =
            wire::exchange(&mut client, vec![wire::frame(&name, 1, 0, job.payloads[1].slice(..tile))]).await;
        assert!(status.is_none());
        job.check(1, 0..tile, &answers);

        let status = client.create_session(create_request("run", &spec())).await.unwrap_err();
        assert_eq!(report(&status, Code::AlreadyExists).reason, "SESSION_EXISTS");
        let resume =
            |spec: &SessionSpec| v1::CreateSessionRequest { resume: true, ..create_request("run", spec) };
        let resumed = client.create_session(resume(&spec())).await.unwrap().into_inner();
        assert!(resumed.resumed);
        assert_eq!((resumed.next_step, resumed.next_offset), (1, tile as u64));

        let others = [
            ("matrix", SessionSpec { matrix: MatrixSpec::PrefixSum, ..spec() }),
            ("tree", SessionSpec { tree: Tree::flat(2070, DType::F64).unwrap(), ..spec() }),
            ("shard", SessionSpec { shard: Shard::new(0, 2), ..spec() }),
            ("precision", SessionSpec { precision: Precision::F32, ..spec() }),
            ("horizon", SessionSpec { horizon: Some(9), ..spec() }),
        ];
        for (field, other) in others {
            let status = client.create_session(resume(&other)).await.unwrap_err();
            let report = report(&status, Code::FailedPrecondition);
            assert_eq!(report.reason, "FINGERPRINT_MISMATCH");
            assert_eq!(report.metadata.get("field").map(String::as_str), Some(field));
        }
        // None of that moved it.
        let (answers, status) = wire::exchange(&mut client, job.frames(&name, 1, tile, &[1000])).await;
        assert!(status.is_none());
        job.check(1, tile..job.total(), &answers);
        job.unary(&mut client, &name, 2, false).await;
        // There is nothing to resume under another name, so it is made.
        let fresh = v1::CreateSessionRequest { resume: true, ..create_request("other", &spec()) };
        let fresh = client.create_session(fresh).await.unwrap().into_inner();
        assert!(!fresh.resumed);
        assert_eq!(fresh.next_step, 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_may_say_which_session_it_means() {
    on_both(Options::default(), async |server| {
        let mut client = server.sessions().await;
        let job = Job::of(spec(), 2);
        let name = job.create(&mut client, "run").await;
        let right = spec().resolve().unwrap().fingerprint().as_bytes().to_vec();
        let mut wrong = right.clone();
        wrong[31] ^= 1;
        for wrong in [wrong, vec![0; 32], vec![0], right[..31].to_vec()] {
            let request = v1::MultiplyNextRequest {
                name: name.clone(),
                step: 0,
                payload: job.payloads[0].clone(),
                fingerprint: wrong.clone(),
            };
            let status = client.multiply_next(request).await.unwrap_err();
            assert_eq!(report(&status, Code::FailedPrecondition).reason, "FINGERPRINT_MISMATCH");
            let mut frames = job.frames(&name, 0, 0, &[4000]);
            frames[0].fingerprint = wrong;
            let (answers, status) = wire::exchange(&mut client, frames).await;
            assert!(answers.is_empty());
            assert_eq!(report(&status.unwrap(), Code::FailedPrecondition).reason, "FINGERPRINT_MISMATCH");
        }
        assert_eq!(wire::position(&mut client, &name).await, (0, 0));
        let request = v1::MultiplyNextRequest {
            name: name.clone(),
            step: 0,
            payload: job.payloads[0].clone(),
            fingerprint: right.clone(),
        };
        assert!(client.multiply_next(request).await.unwrap().into_inner().payload == job.answers[0]);
        let mut frames = job.frames(&name, 1, 0, &[4000]);
        frames[0].fingerprint = right;
        let (answers, status) = wire::exchange(&mut client, frames).await;
        assert!(status.is_none());
        job.check(1, 0..job.total(), &answers);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_holds_so_many_bytes() {
    let options = Options { max_session_bytes: Some(ByteSize::mib(8)), ..Options::default() };
    on_both(options, async |server| {
        let mut client = server.sessions().await;
        let of = |lanes: u64| SessionSpec::new(MatrixSpec::PrefixSum, Tree::flat(lanes, DType::F32).unwrap());
        // Far more than there could ever be, and a little more than there is.
        for lanes in [1 << 40, 1 << 30, 1 << 20] {
            let status = client.create_session(create_request("big", &of(lanes))).await.unwrap_err();
            let report = report(&status, Code::ResourceExhausted);
            assert_eq!(report.reason, "MEMORY_QUOTA");
            assert!(report.number("needed_bytes").unwrap() > report.number("free_bytes").unwrap());
        }
        let half = client.create_session(create_request("a", &of(500_000))).await.unwrap().into_inner();
        client.create_session(create_request("b", &of(500_000))).await.unwrap();
        let status = client.create_session(create_request("c", &of(500_000))).await.unwrap_err();
        assert_eq!(report(&status, Code::ResourceExhausted).reason, "MEMORY_QUOTA");
        assert_eq!(wire::list(&mut client, 0).await, ["sessions/a", "sessions/b"]);
        // What a session gives back may be taken by another.
        wire::delete(&mut client, &half.name).await.unwrap();
        let made = client.create_session(create_request("c", &of(500_000))).await.unwrap().into_inner();
        assert_eq!(made.memory_bytes, half.memory_bytes);
        let job = Job::of(of(500_000), 1);
        let (answers, status) = wire::exchange(&mut client, job.frames(&made.name, 0, 0, &[1 << 18])).await;
        assert!(status.is_none());
        job.check(0, 0..job.total(), &answers);
    })
    .await;
}

/// A description is memory as well.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_descriptions_count_as_memory() {
    let options = Options { max_session_bytes: Some(ByteSize::mib(8)), ..Options::default() };
    on_both(options, async |server| {
        let mut client = server.sessions().await;
        let tree = Tree::flat(1, DType::F32).unwrap();
        let spec = SessionSpec::new(MatrixSpec::Diagonal { diag: vec![1.0; 1 << 18] }, tree);
        let made = client.create_session(create_request("a", &spec)).await.unwrap().into_inner();
        assert!(made.memory_bytes >= 8 << 18, "{} bytes", made.memory_bytes);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_holds_so_many_sessions() {
    let options = Options { max_sessions: Some(3), ..Options::default() };
    on_both(options, async |server| {
        let mut client = server.sessions().await;
        let spec = spec();
        for id in ["a", "b", "c"] {
            client.create_session(create_request(id, &spec)).await.unwrap();
        }
        let status = client.create_session(create_request("d", &spec)).await.unwrap_err();
        assert_eq!(report(&status, Code::ResourceExhausted).reason, "SESSION_QUOTA");
        // One that is there is still resumed.
        let resume = v1::CreateSessionRequest { resume: true, ..create_request("b", &spec) };
        assert!(client.create_session(resume).await.unwrap().into_inner().resumed);
        wire::delete(&mut client, "sessions/a").await.unwrap();
        client.create_session(create_request("d", &spec)).await.unwrap();
        assert_eq!(wire::list(&mut client, 0).await, ["sessions/b", "sessions/c", "sessions/d"]);
    })
    .await;
}

/// Workers that all start at once, each to make the session or find it made. There is room for one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_is_made_once_however_many_ask_for_it() {
    // Large enough that making it takes a while.
    let spec = SessionSpec::new(MatrixSpec::PrefixSum, Tree::flat(4 << 20, DType::F32).unwrap());
    let bytes = spec.clone().resolve().unwrap().cost().total() * 3 / 2;
    let options = Options { max_session_bytes: Some(ByteSize::b(bytes)), ..Options::default() };
    on_both(options, async |server| {
        for round in 0..10 {
            let mut workers = tokio::task::JoinSet::new();
            for _ in 0..8 {
                let mut client = server.sessions().await;
                let request = create_request(&format!("run-{round}"), &spec);
                workers.spawn(async move {
                    let request = v1::CreateSessionRequest { resume: true, ..request };
                    client.create_session(request).await.unwrap().into_inner()
                });
            }
            let made = workers.join_all().await;
            assert_eq!(made.iter().filter(|session| !session.resumed).count(), 1);
            wire::delete(&mut server.sessions().await, &made[0].name).await.unwrap();
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_fits_a_message() {
    let options = Options { max_message_bytes: Some(ByteSize::kib(4)), ..Options::default() };
    on_both(options, async |server| {
        let mut client = server.sessions().await;
        let spec = SessionSpec {
            horizon: Some(u64::MAX >> 2),
            ..SessionSpec::new(MatrixSpec::PrefixSum, Tree::flat(3, DType::F32).unwrap())
        };
        for i in 0..50 {
            client.create_session(create_request(&format!("{i:0>128}"), &spec)).await.unwrap();
        }
        for page_size in [0, 5, 1000] {
            assert_eq!(wire::list(&mut client, page_size).await.len(), 50);
        }
    })
    .await;
}
