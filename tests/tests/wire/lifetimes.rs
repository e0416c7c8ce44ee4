//! How much of a session answers tell, when it was last used, and when the server ends it by itself.

use std::time::Duration;

use noised::{DType, MatrixSpec, SessionSpec};
use noised_proto::v1::sessions_client::SessionsClient;
use noised_proto::v1::{self, SessionView};
use noised_server::config::{Options, Span};
use noised_tests::server::{Server, Transport, on_both, within_patience};
use noised_tests::wire::{self, Job, StepStream, assert_invalid, create_request};
use noised_tests::{noises, trees};
use tonic::transport::Channel;

fn small() -> Job {
    Job::new(MatrixSpec::PrefixSum, trees::of_shapes(DType::F32, &[&[3]]), 2)
}

fn unnamed(spec: &SessionSpec) -> v1::CreateSessionRequest {
    create_request("", spec)
}

/// What most gRPC libraries take in one message.
const OTHERS_MESSAGE_BYTES: usize = 4 << 20;

/// A client that sends longer messages than it takes: every act on its session is answered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_description_longer_than_its_maker_s_messages() {
    on_both(Options::default(), async |server: &mut Server| {
        let channel = server.channel().await;
        let mut client = SessionsClient::new(channel).max_decoding_message_size(OTHERS_MESSAGE_BYTES);
        let matrix = MatrixSpec::Diagonal { diag: vec![1.5; 700_000] };
        let spec = SessionSpec::new(matrix, trees::of_shapes(DType::F32, &[&[3]]));
        let request = create_request("long", &spec);
        let made = client.create_session(request.clone()).await.unwrap().into_inner();
        assert_eq!((made.matrix.as_ref(), made.tree.as_ref()), (None, None));
        let resume = v1::CreateSessionRequest { resume: true, ..request.clone() };
        assert!(client.create_session(resume).await.unwrap().into_inner().resumed);
        let stands = wire::view(&mut client, &made.name, SessionView::Basic).await.unwrap();
        assert_eq!((stands.fingerprint, stands.next_step), (made.fingerprint.clone(), 0));
        assert_eq!(wire::list(&mut client, 0).await, std::slice::from_ref(&made.name));
        let kept = noises::keep(&mut client, &made.name, 0, v1::WhenFull::Refuse).await.unwrap();
        assert_eq!(kept.kept_steps, [0]);
        let rewound = noises::rewind(&mut client, &made.name, 0, false).await.unwrap();
        assert_eq!(rewound.last().unwrap().session.as_ref().unwrap().matrix, None);
        // Who asks for the description is sent it.
        client = client.max_decoding_message_size(1 << 30);
        let full = wire::view(&mut client, &made.name, SessionView::Full).await.unwrap();
        assert_eq!((full.matrix.as_ref(), full.tree.as_ref()), {
            let session = request.session.as_ref().unwrap();
            (session.matrix.as_ref(), session.tree.as_ref())
        });
        let view = SessionView::Full.into();
        let resumed = v1::CreateSessionRequest { resume: true, view, ..request };
        let resumed = client.create_session(resumed).await.unwrap().into_inner();
        assert_eq!(resumed.matrix, full.matrix);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_view_that_is_not_known_is_refused_before_anything_is_made() {
    on_both(Options::default(), async |server: &mut Server| {
        let mut client = server.sessions().await;
        for view in [3, -1, i32::MAX] {
            let request = v1::CreateSessionRequest { view, ..unnamed(&small().spec) };
            let status = client.create_session(request).await.unwrap_err();
            assert_invalid(&status, "view", &format!("found {view}"));
            let request = v1::GetSessionRequest { name: "sessions/a".into(), view, ..Default::default() };
            assert_invalid(&client.get_session(request).await.unwrap_err(), "view", "SESSION_VIEW_BASIC");
        }
        assert_eq!(wire::list(&mut client, 0).await, Vec::<String>::new());
    })
    .await;
}

async fn last_used(client: &mut SessionsClient<Channel>, name: &str) -> u64 {
    let told = wire::get(client, name).await.unwrap().last_used_unix_seconds;
    let page = client.list_sessions(v1::ListSessionsRequest::default()).await.unwrap().into_inner();
    let listed = page.sessions.iter().find(|session| session.name == name).unwrap();
    assert_eq!(listed.last_used_unix_seconds, told);
    told
}

/// A second passes between acts, since that is how exactly the time is told.
async fn next_second(since: u64) {
    while wire::now() <= since {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_use_of_a_session_is_noted_and_a_look_at_it_is_not() {
    let server = Server::start(Transport::Tcp, Options::default()).await;
    let mut client = server.sessions().await;
    let job = small();
    let begun = wire::now();
    let name = job.create(&mut client, "used").await;
    let mut before = last_used(&mut client, &name).await;
    assert!((begun..=wire::now()).contains(&before));
    let mut stream = StepStream::open(&client);
    for act in 0..5 {
        next_second(before).await;
        assert_eq!(last_used(&mut client, &name).await, before, "a look counts as a use");
        match act {
            0 => job.unary(&mut client, &name, 0, false).await,
            1 => drop(noises::keep(&mut client, &name, 1, v1::WhenFull::Refuse).await.unwrap()),
            2 => drop(noises::rewind(&mut client, &name, 0, false).await.unwrap()),
            3 => {
                stream.send(wire::frame(&name, 0, 0, job.payloads[0].clone()));
                stream.take(job.total()).await;
            }
            _ => {
                let resume = v1::CreateSessionRequest { resume: true, ..create_request("used", &job.spec) };
                client.create_session(resume).await.unwrap();
            }
        }
        let after = last_used(&mut client, &name).await;
        assert!(after > before, "act {act} is not noted");
        before = after;
    }
    drop((stream, client));
    server.stop().await;
}

async fn until_only(client: &mut SessionsClient<Channel>, left: &[String]) {
    within_patience(async {
        while wire::list(client, 0).await != left {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_nobody_named_is_deleted_when_it_is_idle() {
    let delete_unnamed_after = Some(Span(Duration::from_millis(100)));
    on_both(Options { delete_unnamed_after, ..Options::default() }, async |server: &mut Server| {
        let mut client = server.sessions().await;
        let job = small();
        let named = job.create(&mut client, "named").await;
        let held = client.create_session(unnamed(&job.spec)).await.unwrap().into_inner().name;
        // A stream holds its session, however long the trainer computes.
        let mut stream = StepStream::open(&client);
        stream.send(wire::frame(&held, 0, 0, job.payloads[0].clone()));
        stream.take(job.total()).await;
        for _ in 0..3 {
            client.create_session(unnamed(&job.spec)).await.unwrap();
        }
        let mut left = vec![held.clone(), named.clone()];
        left.sort();
        until_only(&mut client, &left).await;
        stream.send(wire::frame("", 1, 0, job.payloads[1].clone()));
        stream.take(job.total()).await;
        drop(stream);
        until_only(&mut client, std::slice::from_ref(&named)).await;
        wire::get(&mut client, &held).await.unwrap_err();
        job.unary(&mut client, &named, 0, false).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_setting_no_session_is_deleted() {
    let server = Server::start(Transport::Unix, Options::default()).await;
    let mut client = server.sessions().await;
    let made = client.create_session(unnamed(&small().spec)).await.unwrap().into_inner();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(wire::list(&mut client, 0).await, [made.name]);
    drop(client);
    server.stop().await;
}
