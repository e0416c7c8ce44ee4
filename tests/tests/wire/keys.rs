//! Where the keys of noises come from: one for each session, from a master key and a public name, or from the
//! client; and what a server remembers of the noises that it drew.

use std::path::Path;

use noised::noise::{MasterKey, NoiseKey};
use noised::session::{KeyOrigin, Noise};
use noised::{DType, Leaf, MatrixSpec, SessionSpec, Shard, ShardCut, Tree};
use noised_client::{ClientBuilder, CreateOptions, Error, ShardedSession};
use noised_proto::v1;
use noised_server::config::Options;
use noised_tests::noises::{self, assert_refused, derived, gaussian, given, privatize};
use noised_tests::proxy::Proxy;
use noised_tests::server::{Server, Transport, on_both, within_patience};
use noised_tests::specs;
use noised_tests::trees;
use noised_tests::wire::{self, assert_invalid};
use tempfile::TempDir;
use tonic::Code;

use crate::client::stubborn;

/// Options of servers that have one master key, in a file that is there for as long as this is.
struct Master {
    directory: TempDir,
    options: Options,
}

impl Master {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("master.key");
        noises::write_master_key(&file, format!("{}\n", noises::hex(&noises::MASTER_KEY)));
        let options = Options { master_key_file: Some(file), ..Options::default() };
        Self { directory, options }
    }

    /// The same with a ledger.
    fn with_ledger() -> Self {
        let Self { directory, options } = Self::new();
        let noise_ledger = Some(directory.path().join("ledger"));
        Self { directory, options: Options { noise_ledger, ..options } }
    }

    fn ledger(&self) -> &Path {
        self.options.noise_ledger.as_deref().unwrap()
    }
}

/// What the master key has a session draw.
fn drawn(spec: &SessionSpec, steps: u64) -> Vec<bytes::Bytes> {
    let Some(Noise { key: KeyOrigin::Derived { noise_id }, .. }) = spec.source.noise() else {
        panic!("its key comes from the master key");
    };
    let fingerprint = spec.clone().resolve().unwrap().noise_fingerprint();
    let key = MasterKey::from_bytes(noises::MASTER_KEY).derive(noise_id, &fingerprint);
    noises::drawn(spec, key, steps)
}

fn run(noise_id: &str) -> SessionSpec {
    gaussian(derived(noise_id), specs::noising(), trees::six_tiles())
}

fn again(id: &str, spec: &SessionSpec) -> v1::CreateSessionRequest {
    v1::CreateSessionRequest { start_noise_over: true, ..noises::request(id, spec) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_master_key_no_noise_has_a_name() {
    on_both(Options::default(), async |server: &mut Server| {
        let mut client = server.sessions().await;
        for spec in [run("a"), privatize(derived("a"), specs::noising(), trees::mixed(), None)] {
            for request in [noises::request("s", &spec), again("s", &spec)] {
                let status = client.create_session(request).await.unwrap_err();
                assert_refused(&status, Code::FailedPrecondition, "NO_MASTER_KEY");
            }
            let options = CreateOptions { id: "s".into(), ..CreateOptions::default() };
            let error = server.client().await.create_session(&spec, options).await.unwrap_err();
            assert!(matches!(error, Error::NoMasterKey { .. }), "{error:?}");
        }
        // Nothing is left of them.
        assert!(wire::list(&mut client, 0).await.is_empty());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_with_one_master_key_draw_one_noise() {
    let (one, other) = (Master::new(), Master::new());
    on_both(one.options.clone(), async |server: &mut Server| {
        let (mut here, spec) = (server.sessions().await, run("project/run:1"));
        let there = Server::start(Transport::Tcp, other.options.clone()).await;
        let mut elsewhere = there.sessions().await;
        let expected = drawn(&spec, 4);
        for client in [&mut here, &mut elsewhere] {
            let name = noises::create(client, noises::request("", &spec)).await;
            for (step, expected) in (0..).zip(&expected) {
                assert!(noises::fetch(client, &name, step).await.unwrap().payload == expected);
            }
        }
        drop(elsewhere);
        there.stop().await;
    })
    .await;
}

/// Leaves of all formats and odd sizes, so many that they can be dealt out.
fn many_leaves() -> Tree {
    let formats = DType::ALL.into_iter().cycle();
    let leaves = formats
        .take(23)
        .enumerate()
        .map(|(i, dtype)| Leaf::new(format!("leaf.{i}"), dtype, [3, 217 + 31 * (i as u64 % 5)]));
    Tree::new(leaves.collect()).unwrap()
}

/// Whoever asks, through whatever number of shards, over a network that is cut: the same noise.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shards_on_several_servers_are_the_whole() {
    let (one, other) = (Master::new(), Master::new());
    let noise = gaussian(derived("run"), specs::noising(), many_leaves());
    let private = privatize(derived("run"), specs::noising(), many_leaves(), Some(DType::F32));
    let gradients = noises::gradients(&many_leaves(), 4);
    let expected = drawn(&noise, 4);
    on_both(one.options.clone(), async |server: &mut Server| {
        let there = Server::start(Transport::Tcp, other.options.clone()).await;
        let proxy = Proxy::start(&there).await;
        let direct = server.client().await;
        let whole = CreateOptions { id: "whole".into(), ..CreateOptions::default() };
        let mut whole = direct.create_session(&private, whole).await.unwrap();
        let mut sums = Vec::new();
        for (step, gradient) in (0..).zip(&gradients) {
            sums.push(whole.privatize(step, gradient.clone()).await.unwrap());
        }
        direct.delete_session("whole").await.unwrap();
        let proxied = ClientBuilder::new(&proxy.target()).unwrap().retry(stubborn());
        for (unary_bytes, count) in [(0, 1), (1 << 20, 2), (0, 3), (0, 7)] {
            let builders = [server.builder(), proxied.clone()]
                .map(|builder| builder.unary_bytes(unary_bytes).chunk_bytes(4096));
            let [here, elsewhere] = builders;
            let (here, elsewhere) = (here.connect().await.unwrap(), elsewhere.connect().await.unwrap());
            let clients: Vec<_> =
                (0..count).map(|i| if i % 2 == 0 { &here } else { &elsewhere }).cloned().collect();
            for cut in [ShardCut::Lanes, ShardCut::Leaves] {
                let options = |id: &str| CreateOptions {
                    id: format!("{id}-{count}-{cut:?}"),
                    resume: true,
                    start_noise_over: true,
                    ..CreateOptions::default()
                };
                let mut shards =
                    ShardedSession::create(&clients, &noise, options("noise"), cut).await.unwrap();
                let mut privates =
                    ShardedSession::create(&clients, &private, options("private"), cut).await.unwrap();
                for step in 0..4 {
                    proxy.cut();
                    assert!(
                        shards.fetch(step).await.unwrap() == expected[step as usize],
                        "{count} by {cut:?}"
                    );
                    proxy.cut();
                    let gradient = gradients[step as usize].clone();
                    assert!(privates.privatize(step, gradient).await.unwrap() == sums[step as usize]);
                }
                proxy.cut();
                shards.rewind(1, false, |_, _| ()).await.unwrap();
                assert!(shards.fetch(1).await.unwrap() == expected[1]);
                shards.delete().await.unwrap();
                privates.delete().await.unwrap();
            }
        }
        there.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_noise_is_drawn_by_one_session_at_a_time_and_begun_again_on_demand() {
    let master = Master::new();
    on_both(master.options.clone(), async |server: &mut Server| {
        let mut client = server.sessions().await;
        let spec = run("run");
        let expected = drawn(&spec, 4);
        let first = client.create_session(noises::request("first", &spec)).await.unwrap().into_inner();
        assert!(!first.noise_started_over);
        for request in [noises::request("second", &spec), again("second", &spec)] {
            let status = client.create_session(request).await.unwrap_err();
            let told = assert_refused(&status, Code::FailedPrecondition, "NOISE_IN_USE");
            assert!(told.message.contains("`run`") && told.message.contains("sessions/first"), "{told:?}");
        }
        // A shard of it as well, but not what has nothing to do with it.
        let shard = SessionSpec { shard: Shard::new(1, 3), ..spec.clone() };
        let status = client.create_session(noises::request("shard", &shard)).await.unwrap_err();
        assert_refused(&status, Code::FailedPrecondition, "NOISE_IN_USE");
        client.create_session(noises::request("named", &run("other"))).await.unwrap();
        let other = SessionSpec { horizon: Some(7), ..spec.clone() };
        client.create_session(noises::request("bound", &other)).await.unwrap();
        // It is found as it stands, by whoever may resume it.
        let resume = v1::CreateSessionRequest { resume: true, ..again("first", &spec) };
        let found = client.create_session(resume).await.unwrap().into_inner();
        let last_used_unix_seconds = found.last_used_unix_seconds;
        assert_eq!(found, v1::Session { resumed: true, last_used_unix_seconds, ..first.clone() });

        // Of which nothing was released may be begun by anybody.
        wire::delete(&mut client, &first.name).await.unwrap();
        let name = noises::create(&mut client, noises::request("third", &spec)).await;
        for step in 0..3 {
            let answer = noises::fetch(&mut client, &name, step).await.unwrap();
            assert!(answer.payload == expected[step as usize]);
        }
        wire::delete(&mut client, &name).await.unwrap();
        for spec in [&spec, &shard] {
            let status = client.create_session(noises::request("fourth", spec)).await.unwrap_err();
            let told = assert_refused(&status, Code::FailedPrecondition, "NOISE_USED");
            assert_eq!(told.number("next_step"), Some(3));
            let error =
                server.client().await.create_session(spec, CreateOptions::default()).await.unwrap_err();
            assert!(matches!(error, Error::NoiseUsed { next_step: Some(3), .. }), "{error:?}");
        }
        let started = client.create_session(again("fourth", &spec)).await.unwrap().into_inner();
        assert!(started.noise_started_over);
        assert!(wire::get(&mut client, &started.name).await.unwrap().noise_started_over);
        let answer = noises::fetch(&mut client, &started.name, 0).await.unwrap();
        assert!(answer.payload == expected[0] && !answer.replay);
        // The furthest that it ever came is what counts.
        wire::delete(&mut client, &started.name).await.unwrap();
        let status = client.create_session(noises::request("fifth", &spec)).await.unwrap_err();
        let told = assert_refused(&status, Code::FailedPrecondition, "NOISE_USED");
        assert_eq!(told.number("next_step"), Some(3));
        for name in wire::list(&mut client, 0).await {
            wire::delete(&mut client, &name).await.unwrap();
        }
    })
    .await;
}

/// What was drawn ahead when a session ends was not released, and does not keep the next one from its noise.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_noise_is_free_once_its_session_is_deleted() {
    let master = Master::new();
    on_both(master.options.clone(), async |server: &mut Server| {
        let mut client = server.sessions().await;
        let spec = gaussian(derived("run"), specs::noising(), Tree::flat(200_000, DType::F32).unwrap());
        for _ in 0..20 {
            let made = client.create_session(noises::request("run", &spec)).await.unwrap().into_inner();
            assert!(!made.noise_started_over);
            wire::delete(&mut client, &made.name).await.unwrap();
        }
    })
    .await;
}

/// A refused creation leaves nothing behind that would keep a later one from the noise.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_cannot_be_made_uses_no_noise() {
    let master = Master::new();
    let options = Options { max_sessions: Some(1), ..master.options.clone() };
    on_both(options, async |server: &mut Server| {
        let mut client = server.sessions().await;
        let spec = run("run");
        let input = SessionSpec::new(MatrixSpec::PrefixSum, trees::mixed());
        let name = noises::create(&mut client, noises::request("input", &input)).await;
        let status = client.create_session(noises::request("run", &spec)).await.unwrap_err();
        assert_refused(&status, Code::ResourceExhausted, "SESSION_QUOTA");
        wire::delete(&mut client, &name).await.unwrap();
        let bad = noises::request_with("run", &spec, 65, v1::NoiseState::Kept);
        assert_invalid(&client.create_session(bad).await.unwrap_err(), "lookahead", "at most 64");
        let bad = noises::request_with("run", &spec, 1, v1::NoiseState::Replayed);
        assert_invalid(&client.create_session(bad).await.unwrap_err(), "noise_state", "banded");
        let made = client.create_session(noises::request("run", &spec)).await.unwrap().into_inner();
        assert!(!made.noise_started_over);
        wire::delete(&mut client, &made.name).await.unwrap();
    })
    .await;
}

/// A server that is stopped and started again, with a file that it remembers its noises in.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ledger_survives_a_restart() {
    let master = Master::with_ledger();
    let (used, unused, resumed) = (run("used"), run("unused"), run("resumed"));
    let private = privatize(derived("private"), specs::noising(), trees::six_tiles(), None);
    let gradient = noises::gradients(&private.tree, 1).swap_remove(0);
    within_patience(async {
        let server = Server::start(Transport::Tcp, master.options.clone()).await;
        let mut client = server.sessions().await;
        let mut names = Vec::new();
        for (id, spec) in [("used", &used), ("unused", &unused), ("resumed", &resumed), ("private", &private)]
        {
            names.push(noises::create(&mut client, noises::request(id, spec)).await);
        }
        for step in 0..5 {
            noises::fetch(&mut client, &names[0], step).await.unwrap();
        }
        // In part is released.
        let frames = vec![wire::frame(&names[3], 0, 0, gradient.slice(..4096))];
        noises::stream(&mut client, frames).await;
        wire::delete(&mut client, &names[3]).await.unwrap();
        wire::delete(&mut client, &names[0]).await.unwrap();
        wire::delete(&mut client, &names[1]).await.unwrap();
        noises::fetch(&mut client, &names[2], 0).await.unwrap();
        drop(client);
        server.stop().await;

        let server = Server::start(Transport::Tcp, master.options.clone()).await;
        let mut client = server.sessions().await;
        for (spec, steps) in [(&used, 5), (&private, 1)] {
            let status = client.create_session(noises::request("s", spec)).await.unwrap_err();
            let told = assert_refused(&status, Code::FailedPrecondition, "NOISE_USED");
            assert_eq!(told.number("next_step"), Some(steps));
        }
        // How far one came that there was when the server stopped depends on whether it had the time to note
        // it.
        let status = client.create_session(noises::request("s", &resumed)).await.unwrap_err();
        assert_refused(&status, Code::FailedPrecondition, "NOISE_USED");
        let made = client.create_session(noises::request("unused", &unused)).await.unwrap().into_inner();
        assert!(!made.noise_started_over);
        let made = client.create_session(again("used", &used)).await.unwrap().into_inner();
        assert!(made.noise_started_over);
        assert!(noises::fetch(&mut client, &made.name, 0).await.unwrap().payload == drawn(&used, 1)[0]);
        drop(client);
        server.stop().await;
    })
    .await;
    let text = std::fs::read_to_string(master.ledger()).unwrap();
    assert!(text.lines().count() >= 8 && text.ends_with('\n'), "{text}");
}

/// Everything that a noise is bound to makes another one of it, under the same name.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_name_is_another_noise_for_something_else() {
    let master = Master::new();
    let tree = || Tree::flat(100_003, DType::F32).unwrap();
    let spec = |matrix| gaussian(derived("run"), matrix, tree());
    on_both(master.options.clone(), async |server: &mut Server| {
        let mut client = server.sessions().await;
        let specs = [
            spec(MatrixSpec::Identity),
            spec(MatrixSpec::Diagonal { diag: vec![1.0] }),
            spec(specs::toeplitz(&[1.0])),
            SessionSpec { horizon: Some(10), ..spec(MatrixSpec::Identity) },
            gaussian(derived("other"), MatrixSpec::Identity, tree()),
            gaussian(Noise { stddev: 1.0, key: KeyOrigin::Fresh }, MatrixSpec::Identity, tree()),
            gaussian(Noise { stddev: 1.0, key: KeyOrigin::Fresh }, MatrixSpec::Identity, tree()),
        ];
        let mut noise = Vec::new();
        for spec in &specs {
            let name = noises::create(&mut client, noises::request("", spec)).await;
            for step in 0..2 {
                let answer = noises::fetch(&mut client, &name, step).await.unwrap();
                noise.push(noises::f32s(&answer.payload));
            }
            wire::delete(&mut client, &name).await.unwrap();
        }
        let product = |a: &[f32], b: &[f32]| -> f64 {
            a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
        };
        for (i, a) in noise.iter().enumerate() {
            for b in &noise[..i] {
                let correlation = product(a, b) / (product(a, a) * product(b, b)).sqrt();
                // Of independent ones it is normal, of a deviation of 100003^-1/2: this is six of them.
                assert!(correlation.abs() < 0.019, "{correlation}");
            }
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_given_key_is_given_where_it_is_wanted() {
    on_both(Options::default(), async |server: &mut Server| {
        let mut client = server.sessions().await;
        let spec = gaussian(given(), specs::noising(), trees::mixed());
        let with = |id: &str, spec: &SessionSpec, key: &[u8], resume| v1::CreateSessionRequest {
            noise_key: key.to_vec(),
            resume,
            ..wire::create_request(id, spec)
        };
        for (key, rule) in [
            (&[][..], "is missing"),
            (&noises::KEY[1..], "32 bytes"),
            (&[noises::KEY, noises::KEY].concat(), "32 bytes"),
            (&[0; 32], "zero"),
            (noises::hex(&noises::KEY).as_bytes(), "32 bytes"),
        ] {
            let status = client.create_session(with("s", &spec, key, false)).await.unwrap_err();
            assert_invalid(&status, "noise_key", rule);
        }
        let fresh = Noise { stddev: 1.0, key: KeyOrigin::Fresh };
        let fresh = gaussian(fresh, specs::noising(), trees::mixed());
        let input = SessionSpec::new(specs::noising(), trees::mixed());
        for other in [&fresh, &input, &run("a")] {
            let status = client.create_session(with("s", other, &noises::KEY, false)).await.unwrap_err();
            assert_invalid(&status, "noise_key", "must be empty");
        }
        assert!(wire::list(&mut client, 0).await.is_empty());

        // Whoever goes on with a session has its key.
        let name = noises::create(&mut client, with("s", &spec, &noises::KEY, false)).await;
        noises::fetch(&mut client, &name, 0).await.unwrap();
        let mut other = noises::KEY;
        other[31] ^= 1;
        let status = client.create_session(with("s", &spec, &other, true)).await.unwrap_err();
        let told = assert_refused(&status, Code::FailedPrecondition, "FINGERPRINT_MISMATCH");
        assert_eq!(told.metadata.get("field").map(String::as_str), Some("noise_key"));
        let status = client.create_session(with("s", &spec, &[], true)).await.unwrap_err();
        assert_invalid(&status, "noise_key", "is missing");
        let found = client.create_session(with("s", &spec, &noises::KEY, true)).await.unwrap().into_inner();
        assert_eq!((found.resumed, found.next_step), (true, 1));
        // With another key, it is another noise.
        let second = noises::create(&mut client, with("second", &spec, &other, false)).await;
        let answer = noises::fetch(&mut client, &second, 0).await.unwrap();
        assert!(answer.payload == noises::drawn(&spec, NoiseKey::from_bytes(other), 1)[0]);
        assert!(answer.payload != noises::drawn_of_given(&spec, 1)[0]);
        // Where the source is fresh, nobody has to have any.
        let name = noises::create(&mut client, with("fresh", &fresh, &[], false)).await;
        noises::fetch(&mut client, &name, 0).await.unwrap();
        let found = client.create_session(with("fresh", &fresh, &[], true)).await.unwrap().into_inner();
        assert_eq!((found.resumed, found.next_step), (true, 1));
    })
    .await;
}

/// What a request may say of a session that is gone, and what it may not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_noise_outlives_its_session_for_whoever_can_prove_that_it_is_theirs() {
    let master = Master::new();
    on_both(master.options.clone(), async |server: &mut Server| {
        let mut client = server.sessions().await;
        let spec = run("going/on");
        let made = client.create_session(noises::request("first", &spec)).await.unwrap().into_inner();
        assert!(made.resume_token.is_empty());
        let name = made.name;
        let mut answers = Vec::new();
        for step in 0..12 {
            answers.push(wire::unary(&mut client, &name, step, bytes::Bytes::new()).await.unwrap().payload);
        }
        let keep = |step| v1::KeepStateRequest { name: name.clone(), step, when_full: 0 };
        let token = client.keep_state(keep(11)).await.unwrap().into_inner().resume_token;
        let other = client.keep_state(keep(12)).await.unwrap().into_inner().resume_token;
        assert!(token.len() == 32 && other.len() == 32 && token != other);
        assert!(wire::get(&mut client, &name).await.unwrap().resume_token.is_empty());
        let going_on = |id: &str, spec: &SessionSpec, step, token: &[u8]| v1::CreateSessionRequest {
            resumed_noise: Some(v1::ResumedNoise { step, token: token.to_vec() }),
            ..noises::request(id, spec)
        };
        // While it is drawn, nobody else draws it.
        let status = client.create_session(going_on("second", &spec, 11, &token)).await.unwrap_err();
        assert_refused(&status, Code::FailedPrecondition, "NOISE_IN_USE");
        wire::delete(&mut client, &name).await.unwrap();
        for (step, token, rule) in [
            (10, &token[..], "for this step"),
            (12, &token[..], "for this step"),
            (11, &other[..], "for this step"),
            (11, &token[1..], "32 bytes, found 31"),
            (11, &[], "32 bytes, found 0"),
        ] {
            let status = client.create_session(going_on("second", &spec, step, token)).await.unwrap_err();
            assert_invalid(&status, "resumed_noise.token", rule);
        }
        for spec in [gaussian(given(), specs::noising(), trees::mixed()), run("going/elsewhere")] {
            let status = client.create_session(going_on("second", &spec, 11, &token)).await.unwrap_err();
            assert_eq!(status.code(), Code::InvalidArgument);
        }
        let private = privatize(derived("going/on"), specs::noising(), trees::mixed(), None);
        let status = client.create_session(going_on("second", &private, 11, &token)).await.unwrap_err();
        assert_invalid(&status, "resumed_noise", "not gaussian");
        // The refusals used nothing up, and the steps before are not given again.
        let made = client.create_session(going_on("second", &spec, 11, &token)).await.unwrap().into_inner();
        assert_eq!((made.next_step, made.released_steps, made.noise_started_over), (11, 11, false));
        let status = wire::unary(&mut client, &made.name, 10, bytes::Bytes::new()).await.unwrap_err();
        assert_refused(&status, Code::FailedPrecondition, "WRONG_STEP");
        let again = wire::unary(&mut client, &made.name, 11, bytes::Bytes::new()).await.unwrap();
        assert!(again.payload == answers[11]);
        wire::delete(&mut client, &made.name).await.unwrap();
    })
    .await;
}

/// A session that is gone is not made anew for somebody who goes on with it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_must_exist_is_not_made() {
    on_both(Options::default(), async |server: &mut Server| {
        let mut client = server.sessions().await;
        let spec = gaussian(noises::given(), specs::noising(), trees::mixed());
        let going_on =
            || v1::CreateSessionRequest { resume: true, must_exist: true, ..noises::request("run", &spec) };
        let status = client.create_session(going_on()).await.unwrap_err();
        assert_refused(&status, Code::NotFound, "SESSION_NOT_FOUND");
        assert!(wire::list(&mut client, 0).await.is_empty());
        client.create_session(noises::request("run", &spec)).await.unwrap();
        assert!(client.create_session(going_on()).await.unwrap().into_inner().resumed);
        let alone = v1::CreateSessionRequest { resume: false, ..going_on() };
        assert_invalid(&client.create_session(alone).await.unwrap_err(), "must_exist", "without resume");
        let long = v1::CreateSessionRequest { request_id: "x".repeat(129), ..noises::request("b", &spec) };
        assert_invalid(&client.create_session(long).await.unwrap_err(), "request_id", "found 129");
        // By the Rust client as well.
        let client = server.client().await;
        let options = |id: &str| CreateOptions {
            id: id.into(),
            resume: true,
            must_exist: true,
            noise_key: Some(noised_client::GivenKey::from_bytes(noises::KEY)),
            ..CreateOptions::default()
        };
        assert!(client.create_session(&spec, options("run")).await.unwrap().info().resumed);
        let gone = client.create_session(&spec, options("gone")).await.unwrap_err();
        assert!(matches!(gone, Error::NotFound { .. }), "{gone:?}");
    })
    .await;
}
