//! Sessions in this process beside the same on a server: the same bits, the same refusals, the same standing
//! after everything.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a panic is a failed test")]

use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use noised::noise::MasterKey;
use noised::session::{KeyOrigin, Noise, NoiseState};
use noised::{DType, MatrixSpec, SessionSpec, Shard, Tree};
use noised_client::{
    Client, CreateOptions, Error, GivenKey, LocalHost, LocalSession, Session, SessionInfo, WhenFull,
};
use noised_server::config::Options;
use noised_tests::noises::{self, derived, gaussian, given, privatize};
use noised_tests::server::{Server, Transport, within_patience};
use noised_tests::{specs, trees};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

const HORIZON: u64 = 30;

type Outcome<T> = Result<T, Error>;

fn options(id: &str) -> CreateOptions {
    CreateOptions { id: id.into(), ..CreateOptions::default() }
}

fn with_key(id: &str) -> CreateOptions {
    CreateOptions { noise_key: Some(GivenKey::from_bytes(noises::KEY)), ..options(id) }
}

/// Of every source, matrix and way to draw.
fn cases() -> Vec<(SessionSpec, CreateOptions)> {
    let tree = trees::mixed;
    let banded = || specs::toeplitz(&[1.0, -0.5, 0.2]);
    let drawn = |lookahead, noise_state| CreateOptions { lookahead, noise_state, ..with_key("") };
    let cases = [
        (SessionSpec::new(specs::noising(), tree()), options("")),
        (gaussian(given(), specs::noising(), tree()), with_key("")),
        (gaussian(given(), specs::noising(), tree()), drawn(Some(0), None)),
        (gaussian(given(), banded(), tree()), drawn(Some(3), Some(NoiseState::Replayed))),
        (privatize(given(), specs::noising(), tree(), None), drawn(Some(2), Some(NoiseState::Kept))),
        (privatize(given(), banded(), tree(), Some(DType::F32)), with_key("")),
    ];
    let bounded = |(spec, options)| (SessionSpec { horizon: Some(HORIZON), ..spec }, options);
    cases.map(bounded).into()
}

/// What is done with a session, relative to where it stands.
#[derive(Clone, Copy, Debug)]
enum Act {
    /// A step, with one of several payloads.
    Take(i64, u64),
    /// A payload of a wrong length, memory of a wrong length, a call for another source.
    Misuse(u8),
    Keep(i64, WhenFull),
    Rewind(u64, bool),
    Refresh,
}

fn act() -> impl Strategy<Value = Act> {
    let when_full = || prop_oneof![Just(WhenFull::Refuse), Just(WhenFull::ReleaseOldest)];
    prop_oneof![
        12 => Just(Act::Take(0, 0)),
        3 => (-2..3_i64, 0..2_u64).prop_map(|(ahead, payload)| Act::Take(ahead, payload)),
        1 => (0..4_u8).prop_map(Act::Misuse),
        3 => (-2..2_i64, when_full()).prop_map(|(ahead, when_full)| Act::Keep(ahead, when_full)),
        2 => (0..HORIZON + 2, any::<bool>()).prop_map(|(step, allow)| Act::Rewind(step, allow)),
        1 => Just(Act::Refresh),
    ]
}

/// A session, wherever it is.
enum Either {
    There(Box<Session>),
    Here(LocalSession),
}

impl Either {
    fn next_step(&self) -> u64 {
        match self {
            Self::There(session) => session.next_step(),
            Self::Here(session) => session.next_step(),
        }
    }

    /// What may be asked of a session that takes `input_bytes`, and gives `step_bytes`, and how that ends.
    async fn act(&mut self, act: Act, spec: &SessionSpec) -> Outcome<Vec<u8>> {
        let at = |ahead: i64| self.next_step().saturating_add_signed(ahead);
        match act {
            Act::Take(ahead, other) => {
                let step = at(ahead);
                let payload = trees::payload(&spec.tree, step + 100 * other).into();
                self.take(step, payload, 0).await
            }
            Act::Misuse(kind) => self.misuse(at(0), kind).await,
            Act::Keep(ahead, when_full) => {
                let step = at(ahead);
                let kept = match self {
                    Self::There(session) => session.keep_state(step, when_full).await,
                    Self::Here(session) => session.keep_state(step, when_full),
                };
                kept.map(|()| Vec::new())
            }
            Act::Rewind(step, allow) => {
                let mut told = Vec::new();
                match self {
                    Self::There(session) => {
                        session.rewind(step, allow, |done, total| told.push((done, total))).await?;
                    }
                    Self::Here(session) => session.rewind(step, allow, |done, total| {
                        told.push((done, total));
                        ControlFlow::Continue(())
                    })?,
                }
                // How many there are to compute again depends on what is drawn ahead.
                assert!(told.is_sorted() && told.last().is_some_and(|last| last.0 == last.1), "{told:?}");
                Ok(Vec::new())
            }
            Act::Refresh => {
                let refreshed = match self {
                    Self::There(session) => session.refresh().await,
                    Self::Here(session) => session.refresh(),
                };
                refreshed.map(|()| Vec::new())
            }
        }
    }

    /// A step into memory that is `longer` than it has to be.
    async fn take(&mut self, step: u64, payload: Bytes, longer: usize) -> Outcome<Vec<u8>> {
        match self {
            Self::There(session) => {
                let mut output = vec![0; session.step_bytes() + longer];
                match session.input_bytes() {
                    0 => session.fetch_into(step, &mut output).await?,
                    _ => session.multiply_next_into(step, &payload, &mut output).await?,
                }
                Ok(output)
            }
            Self::Here(session) => {
                let mut output = vec![0; session.step_bytes() + longer];
                match session.input_bytes() {
                    0 => session.fetch_into(step, &mut output)?,
                    _ => session.multiply_next_into(step, payload, &mut output)?,
                }
                Ok(output)
            }
        }
    }

    async fn misuse(&mut self, step: u64, kind: u8) -> Outcome<Vec<u8>> {
        let payload = Bytes::from(vec![0; 3]);
        let misused = match (kind, &mut *self) {
            (0, Self::There(session)) => session.fetch(step).await,
            (0, Self::Here(session)) => session.fetch(step),
            (1, Self::There(session)) => session.multiply_next(step, payload).await,
            (1, Self::Here(session)) => session.multiply_next(step, payload),
            (2, Self::There(session)) => session.privatize(step, payload).await,
            (2, Self::Here(session)) => session.privatize(step, payload),
            _ => return self.take(step, Bytes::from(vec![0; self.input_bytes()]), 1).await,
        };
        misused.map(|answer| answer.to_vec())
    }

    fn input_bytes(&self) -> usize {
        match self {
            Self::There(session) => session.input_bytes(),
            Self::Here(session) => session.input_bytes(),
        }
    }
}

/// What is the same of a session here and there: not what else a server counts as its memory, nor when it was
/// rewound or used.
fn comparable(info: SessionInfo) -> SessionInfo {
    let SessionInfo { mut rewinds, .. } = info.clone();
    rewinds.iter_mut().for_each(|rewind| rewind.unix_seconds = 0);
    SessionInfo { memory_bytes: 0, rewinds, last_used_unix_seconds: 0, ..info }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_is_done_ends_as_on_a_server() {
    within_patience(async {
        let server = Server::start(Transport::Unix, Options::default()).await;
        let (client, host) = (server.client().await, LocalHost::new());
        let mut runner = TestRunner::deterministic();
        for (i, (spec, options)) in cases().into_iter().enumerate() {
            for round in 0..4 {
                let id = format!("case-{i}-{round}");
                let options = CreateOptions { id: id.clone(), ..options.clone() };
                let there = client.create_session(&spec, options.clone()).await.unwrap();
                let here = host.create_session(&spec, options).unwrap();
                assert_eq!((here.name(), here.spec()), (there.name(), there.spec()));
                assert_eq!((here.layout(), here.input_layout()), (there.layout(), there.input_layout()));
                assert_eq!(here.fingerprint(), there.fingerprint());
                assert_eq!(here.step_bytes(), there.step_bytes());
                let (mut there, mut here) = (Either::There(Box::new(there)), Either::Here(here));
                let acts = prop::collection::vec(act(), 90).new_tree(&mut runner).unwrap().current();
                for act in acts {
                    let (expected, found) = (there.act(act, &spec).await, here.act(act, &spec).await);
                    assert!(found == expected, "{id}: {act:?}: {:?}, not {:?}", found.err(), expected.err());
                    assert_eq!(here.next_step(), there.next_step(), "{id}: {act:?}");
                    let (expected, found) =
                        (client.get_session(&id).await.unwrap(), host.get_session(&id).unwrap());
                    assert_eq!(comparable(found), comparable(expected), "{id}: {act:?}");
                }
            }
        }
        let (expected, found) = (client.list_sessions().await.unwrap(), host.list_sessions());
        assert_eq!(found.len(), cases().len() * 4);
        for (found, expected) in found.into_iter().zip(expected) {
            assert_eq!(comparable(found), comparable(expected));
        }
        drop(client);
        server.stop().await;
    })
    .await;
}

/// Makes, opens, looks at or ends a session, both here and there, and gives how that ended.
struct Both {
    client: Client,
    host: LocalHost,
}

impl Both {
    fn same<T: PartialEq + std::fmt::Debug>(there: Outcome<T>, here: Outcome<T>) -> Outcome<T> {
        assert_eq!(here, there);
        here
    }

    async fn create(&self, spec: &SessionSpec, options: CreateOptions) -> Outcome<SessionInfo> {
        let there = self.client.create_session(spec, options.clone()).await;
        let here = self.host.create_session(spec, options).map(|session| session.info().unwrap());
        Self::same(there.map(|session| comparable(session.info().clone())), here.map(comparable))
    }

    async fn get(&self, name: &str) -> Outcome<SessionInfo> {
        let there = self.client.get_session(name).await.map(comparable);
        let opened = self.host.open_session(name).map(|session| session.name().to_owned());
        let here = self.host.get_session(name).map(comparable);
        assert_eq!(opened, here.clone().map(|info| info.name));
        Self::same(there, here)
    }

    async fn delete(&self, name: &str) -> Outcome<()> {
        Self::same(self.client.delete_session(name).await, self.host.delete_session(name))
    }

    async fn fetch(&self, name: &str, steps: std::ops::Range<u64>) {
        let mut there = self.client.open_session(name).await.unwrap();
        let mut here = self.host.open_session(name).unwrap();
        for step in steps {
            assert!(here.fetch(step).unwrap() == there.fetch(step).await.unwrap());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_are_made_found_and_ended_as_on_a_server() {
    within_patience(async {
        let server = Server::start(Transport::Unix, Options::default()).await;
        let both = Both { client: server.client().await, host: LocalHost::new() };
        let spec = gaussian(given(), specs::noising(), trees::mixed());
        let made = both.create(&spec, with_key("run")).await.unwrap();
        assert_eq!((made.name.as_str(), made.resumed), ("sessions/run", false));
        both.fetch("run", 0..3).await;
        let exists = both.create(&spec, with_key("run")).await.unwrap_err();
        assert!(matches!(exists, Error::AlreadyExists { .. }));
        let again = |options| CreateOptions { resume: true, ..options };
        let found = both.create(&spec, again(with_key("run"))).await.unwrap();
        assert_eq!((found.resumed, found.next_step), (true, 3));
        // Of something else.
        let others = [
            ("matrix", SessionSpec { matrix: MatrixSpec::PrefixSum, ..spec.clone() }),
            ("tree", SessionSpec { tree: trees::six_tiles(), ..spec.clone() }),
            ("shard", SessionSpec { shard: Shard::new(0, 2), ..spec.clone() }),
            ("source", privatize(given(), specs::noising(), trees::mixed(), None)),
            ("horizon", SessionSpec { horizon: Some(9), ..spec.clone() }),
        ];
        for (field, other) in others {
            let refused = both.create(&other, again(with_key("run"))).await.unwrap_err();
            assert_eq!(refused, Error::FingerprintMismatch { field: field.into() });
        }
        let other_key = CreateOptions { noise_key: Some(GivenKey::from_bytes([7; 32])), ..options("run") };
        let refused = both.create(&spec, again(other_key)).await.unwrap_err();
        assert_eq!(refused, Error::FingerprintMismatch { field: "noise_key".into() });
        // What no session may be.
        let zero = CreateOptions { noise_key: Some(GivenKey::from_bytes([0; 32])), ..options("b") };
        let replayed = CreateOptions { noise_state: Some(NoiseState::Replayed), ..with_key("b") };
        let refusals = [
            ("session_id", spec.clone(), with_key("a b")),
            ("noise_key", spec.clone(), options("b")),
            ("noise_key", spec.clone(), zero),
            ("noise_key", SessionSpec::new(MatrixSpec::PrefixSum, trees::mixed()), with_key("b")),
            ("lookahead", spec.clone(), CreateOptions { lookahead: Some(65), ..with_key("b") }),
            ("noise_state", spec.clone(), replayed),
            ("horizon", SessionSpec { horizon: Some(0), ..spec.clone() }, with_key("b")),
        ];
        for (field, spec, options) in refusals {
            let refused = both.create(&spec, options).await.unwrap_err();
            assert!(matches!(&refused, Error::Invalid { field: found, .. } if found == field), "{refused:?}");
        }
        // Found with and without the first part of its name, and not found.
        assert_eq!(both.get("run").await, both.get("sessions/run").await);
        assert!(matches!(both.get("b").await, Err(Error::NotFound { .. })));
        assert!(matches!(both.get("a b").await, Err(Error::Invalid { .. })));
        let mut handle = both.host.open_session("run").unwrap();
        both.delete("run").await.unwrap();
        for name in ["run", "sessions/b"] {
            assert!(matches!(both.delete(name).await, Err(Error::NotFound { .. })));
        }
        // Its handles find it no more, whoever has its name now.
        both.create(&spec, with_key("run")).await.unwrap();
        let gone = Error::NotFound { message: "there is no session `sessions/run`".into() };
        assert_eq!(handle.fetch(3), Err(gone.clone()));
        assert_eq!(handle.info(), Err(gone.clone()));
        assert_eq!(handle.refresh(), Err(gone.clone()));
        assert_eq!(handle.rewind(0, false, |_, _| ControlFlow::Continue(())), Err(gone));
        // Names that nobody gave.
        let unnamed: Vec<_> =
            (0..3).map(|_| both.host.create_session(&spec, with_key("")).unwrap()).collect();
        assert_eq!(both.host.list_sessions().len(), 4);
        assert!(unnamed.iter().all(|session| !session.info().unwrap().resumed));
        drop(both);
        server.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn noises_that_have_a_name_are_drawn_once_as_on_a_server() {
    within_patience(async {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("master.key");
        noises::write_master_key(&file, noises::hex(&noises::MASTER_KEY));
        let with_key = Options { master_key_file: Some(file), ..Options::default() };
        let server = Server::start(Transport::Unix, with_key).await;
        let host = LocalHost::with_master_key(MasterKey::from_bytes(noises::MASTER_KEY));
        let both = Both { client: server.client().await, host };
        let spec = gaussian(derived("run"), specs::noising(), trees::six_tiles());
        let shard = |index| SessionSpec { shard: Shard::new(index, 3), ..spec.clone() };
        let over = |id: &str| CreateOptions { start_noise_over: true, ..options(id) };

        assert!(!both.create(&spec, options("a")).await.unwrap().noise_started_over);
        both.fetch("a", 0..5).await;
        for options in [options("b"), over("b")] {
            for spec in [&spec, &shard(1)] {
                let refused = both.create(spec, options.clone()).await.unwrap_err();
                assert!(matches!(refused, Error::NoiseInUse { .. }));
            }
        }
        // Another name, and the same for something else.
        both.create(&gaussian(derived("other"), specs::noising(), trees::six_tiles()), options("b"))
            .await
            .unwrap();
        both.create(&SessionSpec { horizon: Some(7), ..spec.clone() }, options("c")).await.unwrap();
        both.delete("a").await.unwrap();
        for spec in [&spec, &shard(1)] {
            let refused = both.create(spec, options("a")).await.unwrap_err();
            assert!(matches!(refused, Error::NoiseUsed { next_step: Some(5), .. }));
        }
        // Begun again, it is the same; the furthest that it ever came is what counts.
        for index in [0, 2] {
            let name = format!("shard-{index}");
            assert!(both.create(&shard(index), over(&name)).await.unwrap().noise_started_over);
            both.fetch(&name, 0..2).await;
            assert!(both.get(&name).await.unwrap().noise_started_over);
            both.delete(&name).await.unwrap();
        }
        both.create(&spec, over("a")).await.unwrap();
        both.fetch("a", 0..1).await;
        both.delete("a").await.unwrap();
        for spec in [&spec, &shard(0), &shard(1)] {
            let refused = both.create(spec, options("a")).await.unwrap_err();
            assert!(matches!(refused, Error::NoiseUsed { next_step: Some(5), .. }));
        }
        // Of which nothing was released may be begun by anybody.
        both.delete("b").await.unwrap();
        both.create(&gaussian(derived("other"), specs::noising(), trees::six_tiles()), options("b"))
            .await
            .unwrap();
        // What is refused begins nothing.
        let fresh = gaussian(derived("third"), specs::noising(), trees::six_tiles());
        let refused = CreateOptions { lookahead: Some(65), ..options("d") };
        both.create(&fresh, refused).await.unwrap_err();
        both.create(&fresh, options("c")).await.unwrap_err();
        assert!(!both.create(&fresh, options("d")).await.unwrap().noise_started_over);
        let without = LocalHost::new().create_session(&spec, options("a")).unwrap_err();
        assert!(matches!(without, Error::NoMasterKey { .. }));
        assert!(!format!("{:?}", both.host).contains("MasterKey"));
        drop(both);
        server.stop().await;
    })
    .await;
}

fn long() -> (LocalHost, LocalSession, Vec<Bytes>) {
    let spec = gaussian(given(), specs::noising(), trees::six_tiles());
    let expected = noises::drawn_of_given(&spec, 60);
    let host = LocalHost::new();
    let options = CreateOptions { lookahead: Some(2), ..with_key("run") };
    let mut session = host.create_session(&spec, options).unwrap();
    for step in 0..60 {
        assert!(session.fetch(step).unwrap() == expected[step as usize]);
    }
    (host, session, expected)
}

#[test]
fn a_rewind_that_is_called_off_stands_where_it_came_to() {
    let (host, mut session, expected) = long();
    let begun = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let other = host.open_session("run").unwrap();
    let mut seen = Vec::new();
    let error = session
        .rewind(50, false, |done, total| {
            // Whoever looks meanwhile does not wait.
            assert_eq!(other.info().unwrap().next_step, 60);
            seen.push((done, total));
            if done < 16 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })
        .unwrap_err();
    assert!(error.to_string().contains("called off at step 16"), "{error}");
    assert_eq!(seen, [(0, 50), (8, 50), (16, 50)]);
    assert_eq!(session.next_step(), 16);
    let info = session.info().unwrap();
    assert_eq!((info.next_step, info.released_steps, info.rewind_count), (16, 60, 1));
    assert!(info.rewinds[0].unix_seconds >= begun && info.rewinds[0].to_step == 16);
    assert!(session.fetch(16).unwrap() == expected[16]);
    // At once, and forward.
    session.rewind(3, false, |_, _| ControlFlow::Break(())).unwrap_err();
    assert_eq!(session.next_step(), 0);
    session.rewind(58, false, |_, _| ControlFlow::Continue(())).unwrap();
    assert!(session.fetch(58).unwrap() == expected[58]);
    // Where there is nothing left to do, there is nothing to be called off.
    session.rewind(58, false, |_, _| ControlFlow::Break(())).unwrap();
    assert!(session.fetch(58).unwrap() == expected[58]);
}

#[test]
fn a_rewind_ends_where_the_session_is_deleted() {
    let (host, mut session, _) = long();
    let other = host.open_session("run").unwrap();
    std::thread::scope(|threads| {
        let mut deleting = None;
        let error = session
            .rewind(50, false, |done, _| {
                if done == 8 {
                    deleting = Some(threads.spawn(|| host.delete_session("run")));
                }
                // That waits for this to end; that the session is gone shows at once.
                while done == 8 && other.info().is_ok() {
                    std::thread::yield_now();
                }
                ControlFlow::Continue(())
            })
            .unwrap_err();
        deleting.unwrap().join().unwrap().unwrap();
        assert!(matches!(error, Error::NotFound { .. }), "{error:?}");
    });
    assert!(matches!(session.fetch(0), Err(Error::NotFound { .. })));
}

/// What breaks off in the middle damages one session, and nothing else.
#[test]
fn a_session_that_broke_off_is_damaged_and_can_be_deleted() {
    let (host, mut session, expected) = long();
    let broken = catch_unwind(AssertUnwindSafe(|| {
        let _never = session.rewind(50, false, |_, _| panic!("of a caller"));
    }));
    assert!(broken.is_err());
    let damaged = |error: Error| assert!(matches!(error, Error::DataLoss { .. }), "{error:?}");
    damaged(session.fetch(60).unwrap_err());
    damaged(session.keep_state(60, WhenFull::Refuse).unwrap_err());
    damaged(session.rewind(0, false, |_, _| ControlFlow::Continue(())).unwrap_err());
    assert_eq!(session.info().unwrap().released_steps, 60);
    assert_eq!(host.list_sessions().len(), 1);
    host.delete_session("run").unwrap();
    let spec = session.spec().clone();
    let mut again = host.create_session(&spec, with_key("run")).unwrap();
    assert!(again.fetch(0).unwrap() == expected[0]);
}

/// Each step is released once, to one of the handles that ask for it.
#[test]
fn handles_on_many_threads_release_each_step_once() {
    let spec = gaussian(given(), specs::noising(), trees::six_tiles());
    let expected = noises::drawn_of_given(&spec, 40);
    let host = LocalHost::new();
    host.create_session(&spec, with_key("run")).unwrap();
    let counts = Mutex::new(vec![0; 40]);
    std::thread::scope(|threads| {
        for _ in 0..4 {
            threads.spawn(|| {
                let mut session = host.open_session("run").unwrap();
                let mut output = vec![0; session.step_bytes()];
                while session.next_step() < 40 {
                    let step = session.next_step();
                    match session.fetch_into(step, &mut output) {
                        Ok(()) => {
                            assert!(output[..] == expected[step as usize][..], "step {step}");
                            counts.lock().unwrap()[step as usize] += 1;
                        }
                        Err(Error::WrongStep { requested, expected }) => {
                            assert!(requested < expected);
                            session.refresh().unwrap();
                        }
                        Err(Error::TakenByAnother { requested }) => {
                            assert_eq!(requested, step);
                            session.refresh().unwrap();
                        }
                        Err(error) => panic!("{error}"),
                    }
                }
            });
        }
    });
    assert_eq!(*counts.lock().unwrap(), [1; 40]);
    assert_eq!(host.get_session("run").unwrap().released_steps, 40);
}

/// A gradient is bound to its step, whichever handle it comes from.
#[test]
fn two_handles_do_not_put_one_noise_under_two_gradients() {
    let spec = privatize(given(), specs::noising(), trees::six_tiles(), None);
    let host = LocalHost::new();
    let mut one = host.create_session(&spec, with_key("run")).unwrap();
    let mut two = host.open_session("run").unwrap();
    let gradient = |step| Bytes::from(trees::payload(&spec.tree, step));
    let answer = one.privatize(0, gradient(0)).unwrap();
    assert!(two.privatize(0, gradient(0)).unwrap() == answer);
    let error = two.privatize(0, gradient(1)).unwrap_err();
    assert!(matches!(error, Error::PayloadMismatch { requested: 0, expected: 1, .. }));
    two.rewind(0, false, |_, _| ControlFlow::Continue(())).unwrap();
    let error = one.privatize(0, gradient(1)).unwrap_err();
    assert_eq!(error, Error::Diverged { requested: 0, expected: 0 });
    let mut output = vec![0; one.step_bytes()];
    one.privatize_into(0, gradient(0), &mut output).unwrap();
    assert!(output == answer);
}

/// A session outlives its handles, and its host where there is a handle.
#[test]
fn sessions_live_as_long_as_somebody_has_them() {
    let spec = gaussian(given(), specs::noising(), trees::mixed());
    let expected = noises::drawn_of_given(&spec, 3);
    let host = LocalHost::new();
    let mut session = host.create_session(&spec, with_key("run")).unwrap();
    let first = session.fetch(0).unwrap();
    drop(session);
    let clone = host.clone();
    drop(host);
    let mut session = clone.open_session("run").unwrap();
    assert_eq!(session.next_step(), 1);
    assert!(session.fetch(1).unwrap() == expected[1]);
    drop(clone);
    assert!(session.fetch(2).unwrap() == expected[2]);
    drop(session);
    // An answer is nobody's but the caller's.
    assert!(first == expected[0]);
}

/// Steps that are copied in parts.
#[test]
fn large_steps_come_whole() {
    let tree = Tree::flat(1_234_567, DType::F32).unwrap();
    let spec = gaussian(given(), specs::noising(), tree);
    let expected = noises::drawn_of_given(&spec, 3);
    let mut session = LocalHost::new().create_session(&spec, with_key("")).unwrap();
    let mut output = vec![0xaa; session.step_bytes()];
    for step in [0, 0, 1, 1, 2] {
        output.fill(0xaa);
        session.fetch_into(step, &mut output).unwrap();
        assert!(output == expected[step as usize], "step {step}");
        assert!(session.fetch(step).unwrap() == expected[step as usize]);
    }
}

#[test]
fn a_session_that_no_memory_holds_is_refused() {
    // More than there are addresses.
    let (matrix, tree) = (specs::toeplitz(&[0.5; 64]), Tree::flat(1 << 40, DType::F64).unwrap());
    for spec in [
        SessionSpec::new(matrix.clone(), tree.clone()),
        gaussian(Noise { stddev: 1.0, key: KeyOrigin::Fresh }, matrix, tree),
    ] {
        let host = LocalHost::new();
        let error = host.create_session(&spec, options("run")).unwrap_err();
        assert!(matches!(error, Error::ResourceExhausted { .. }), "{error:?}");
        assert!(host.list_sessions().is_empty());
    }
}
