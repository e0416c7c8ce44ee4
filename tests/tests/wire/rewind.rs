//! Going back: to kept states and to others, the same bits come again; each act is counted; what breaks off
//! leaves a session that goes on.

use bytes::Bytes;
use noised::{DType, SessionSpec, ShardCut, Tree};
use noised_client::{CreateOptions, Error, GivenKey, ShardedSession};
use noised_proto::v1;
use noised_proto::v1::sessions_client::SessionsClient;
use noised_server::config::Options;
use noised_tests::noises::{self, ask, assert_refused, gaussian, given};
use noised_tests::server::{Server, on_both};
use noised_tests::specs;
use noised_tests::trees;
use noised_tests::wire::{self, StepStream, report};
use tonic::Code;
use tonic::transport::Channel;

const KEPT: v1::NoiseState = v1::NoiseState::Kept;
const REPLAYED: v1::NoiseState = v1::NoiseState::Replayed;

/// Goes back, and checks what is told on the way.
async fn go_back(
    client: &mut SessionsClient<Channel>,
    name: &str,
    step: u64,
    allow_divergence: bool,
) -> v1::Session {
    let told = noises::rewind(client, name, step, allow_divergence).await.unwrap();
    let (last, before) = told.split_last().unwrap();
    assert!(before.iter().all(|answer| answer.session.is_none()));
    assert!(told.iter().map(|answer| answer.steps_done).is_sorted());
    assert!(told.iter().all(|answer| answer.steps_total == last.steps_total));
    assert_eq!(last.steps_done, last.steps_total);
    let session = last.session.clone().unwrap();
    assert_eq!((session.next_step, session.next_offset), (step, 0));
    let stands = wire::view(client, name, v1::SessionView::Basic).await.unwrap();
    // A second may end between the two.
    let last_used_unix_seconds = session.last_used_unix_seconds;
    assert_eq!(v1::Session { last_used_unix_seconds, ..stands }, session);
    session
}

/// To every kind of step, with noise drawn ahead and without, by message and by stream.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_bits_come_again() {
    const STEPS: u64 = 20;
    on_both(Options::default(), async |server: &mut Server| {
        let mut client = server.sessions().await;
        for (state, matrix) in [(KEPT, specs::noising()), (REPLAYED, specs::toeplitz(&[1.0, -0.5, 0.2]))] {
            let spec = gaussian(given(), matrix, trees::mixed());
            let expected = noises::drawn_of_given(&spec, STEPS);
            for lookahead in [0, 3, 16] {
                let name =
                    noises::create(&mut client, noises::request_with("", &spec, lookahead, state)).await;
                for step in 0..STEPS {
                    if [4, 11].contains(&step) {
                        noises::keep(&mut client, &name, step, v1::WhenFull::Refuse).await.unwrap();
                    }
                    noises::fetch(&mut client, &name, step).await.unwrap();
                }
                assert_eq!(wire::get(&mut client, &name).await.unwrap().kept_steps, [4, 11]);
                for to in [20, 19, 13, 11, 7, 4, 3, 0, 12, 20, 5] {
                    let session = go_back(&mut client, &name, to, false).await;
                    assert_eq!((session.released_steps, &session.kept_steps[..]), (STEPS, &[4, 11][..]));
                    // Nothing of the step before is kept.
                    if let Some(before) = to.checked_sub(1) {
                        let status = noises::fetch(&mut client, &name, before).await.unwrap_err();
                        wire::assert_expects(&status, "WRONG_STEP", to);
                    }
                    for step in to..STEPS.min(to + 4) {
                        let expected = &expected[step as usize];
                        if step % 2 == 0 {
                            let answer = noises::fetch(&mut client, &name, step).await.unwrap();
                            assert!(answer.payload == expected && answer.replay, "step {step} after {to}");
                        } else {
                            let answers = noises::stream(&mut client, vec![ask(&name, step, 0)]).await;
                            noises::check(step, expected, true, &answers);
                        }
                    }
                }
                wire::delete(&mut client, &name).await.unwrap();
            }
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acts_of_going_back_are_remembered() {
    on_both(Options::default(), async |server: &mut Server| {
        let mut client = server.sessions().await;
        let begun = wire::now();
        let spec = gaussian(given(), specs::noising(), trees::mixed());
        let name = noises::create(&mut client, noises::request("run", &spec)).await;
        for step in 0..6 {
            noises::fetch(&mut client, &name, step).await.unwrap();
        }
        let acts = [(6, 2, false), (2, 5, true), (5, 5, false), (5, 0, true)];
        for (_, to, allow_divergence) in acts {
            go_back(&mut client, &name, to, allow_divergence).await;
        }
        // Those that are refused are none.
        for step in [7, u64::MAX] {
            let status = noises::rewind(&mut client, &name, step, true).await.unwrap_err();
            let told = assert_refused(&status, Code::OutOfRange, "PAST_RELEASED");
            assert_eq!(told.number("released_steps"), Some(6));
        }
        let session = wire::get(&mut client, &name).await.unwrap();
        assert_eq!((session.rewind_count, session.released_steps, session.next_step), (4, 6, 0));
        let found: Vec<_> =
            session.rewinds.iter().map(|act| (act.from_step, act.to_step, act.allow_divergence)).collect();
        assert_eq!(found, acts);
        assert!(session.rewinds.iter().all(|act| (begun..=wire::now()).contains(&act.unix_seconds)));
        assert!(session.rewinds.iter().map(|act| act.unix_seconds).is_sorted());
        // A list tells how many there were.
        let page = client.list_sessions(v1::ListSessionsRequest::default()).await.unwrap().into_inner();
        assert_eq!((page.sessions[0].rewind_count, page.sessions[0].rewinds.len()), (4, 0));
        let status = noises::rewind(&mut client, "sessions/none", 0, false).await.unwrap_err();
        assert_refused(&status, Code::NotFound, "SESSION_NOT_FOUND");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_was_given_nothing_goes_back_to_step_0() {
    on_both(Options::default(), async |server: &mut Server| {
        let mut client = server.sessions().await;
        let spec = SessionSpec { horizon: Some(2), ..gaussian(given(), specs::noising(), trees::mixed()) };
        let expected = noises::drawn_of_given(&spec, 2);
        let name = noises::create(&mut client, noises::request("", &spec)).await;
        go_back(&mut client, &name, 0, false).await;
        let status = noises::rewind(&mut client, &name, 1, false).await.unwrap_err();
        assert_refused(&status, Code::OutOfRange, "PAST_RELEASED");
        for round in 0..3 {
            for step in 0..2 {
                let answer = noises::fetch(&mut client, &name, step).await.unwrap();
                assert!(answer.payload == expected[step as usize] && answer.replay == (round > 0));
            }
            go_back(&mut client, &name, 2, false).await;
            let status = noises::fetch(&mut client, &name, 2).await.unwrap_err();
            assert_refused(&status, Code::OutOfRange, "PAST_HORIZON");
            go_back(&mut client, &name, 0, false).await;
        }
    })
    .await;
}

/// A stream that is open meanwhile goes on with the step that is expected then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_goes_on_after_it() {
    on_both(Options::default(), async |server: &mut Server| {
        let mut client = server.sessions().await;
        let spec = gaussian(given(), specs::noising(), trees::six_tiles());
        let expected = noises::drawn_of_given(&spec, 6);
        let total = expected[0].len();
        let name = noises::create(&mut client, noises::request("", &spec)).await;
        let mut stream = StepStream::open(&client);
        for step in [0, 1, 2, 3] {
            stream.send(ask(&name, step, 0));
            noises::check(step, &expected[step as usize], false, &stream.take(total).await);
        }
        go_back(&mut client, &name, 1, false).await;
        for step in [1, 2, 3, 4, 5] {
            stream.send(ask(&name, step, 0));
            noises::check(step, &expected[step as usize], step < 4, &stream.take(total).await);
        }
        // A step of before is not one of now.
        go_back(&mut client, &name, 3, false).await;
        stream.send(ask(&name, 5, 0));
        wire::assert_expects(&stream.next().await.unwrap_err(), "WRONG_STEP", 3);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_client_library_goes_back() {
    on_both(Options::default(), async |server: &mut Server| {
        let spec = gaussian(given(), specs::noising(), trees::six_tiles());
        let expected = noises::drawn_of_given(&spec, 40);
        for unary_bytes in [0, 1 << 20] {
            let client = server.builder().unary_bytes(unary_bytes).connect().await.unwrap();
            let noise_key = Some(GivenKey::from_bytes(noises::KEY));
            let options = CreateOptions { noise_key, ..CreateOptions::default() };
            let mut session = client.create_session(&spec, options).await.unwrap();
            for step in 0..40 {
                session.fetch(step).await.unwrap();
            }
            session.keep_state(40, noised_client::WhenFull::Refuse).await.unwrap();
            for to in [35, 3, 30] {
                let mut told = Vec::new();
                session.rewind(to, false, |done, total| told.push((done, total))).await.unwrap();
                assert!(told.is_sorted() && told.last().is_some_and(|last| last.0 == last.1), "{told:?}");
                assert_eq!(session.next_step(), to);
                for step in to..40.min(to + 3) {
                    assert!(session.fetch(step).await.unwrap() == expected[step as usize]);
                }
            }
            let info = session.info();
            assert_eq!((info.rewind_count, info.released_steps, &info.kept_steps[..]), (3, 40, &[40][..]));
        }
    })
    .await;
}

/// A client that fetches one step ahead keeps the step that it is at, and comes back to it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_step_before_is_kept_of_a_client_that_is_one_ahead() {
    const REFUSE: noised_client::WhenFull = noised_client::WhenFull::Refuse;
    on_both(Options::default(), async |server: &mut Server| {
        let spec = gaussian(given(), specs::noising(), trees::six_tiles());
        let expected = noises::drawn_of_given(&spec, 12);
        let (one, two) = (server.client().await, server.client().await);
        let noise_key = Some(GivenKey::from_bytes(noises::KEY));
        let options = CreateOptions { id: "run".into(), noise_key, ..CreateOptions::default() };
        let mut session = one.create_session(&spec, options.clone()).await.unwrap();
        let without_kept = session.info().memory_bytes;
        for step in 0..6 {
            assert!(session.fetch(step).await.unwrap() == expected[step as usize]);
        }
        // It trains step 5, and expects step 6.
        session.keep_state(5, REFUSE).await.unwrap();
        let info = session.info().clone();
        assert_eq!((info.next_step, &info.kept_steps[..], session.next_step()), (6, &[5][..], 6));
        assert!(info.memory_bytes > without_kept);
        for step in 6..12 {
            assert!(session.fetch(step).await.unwrap() == expected[step as usize]);
        }
        for older in [10, 6, 4] {
            let error = session.keep_state(older, REFUSE).await.unwrap_err();
            assert_eq!(error, Error::WrongStep { requested: older, expected: 12 });
        }
        // To the step that was fetched last, and to the one that is kept, nothing is computed again.
        for to in [11, 5] {
            let mut told = Vec::new();
            session.rewind(to, false, |done, total| told.push((done, total))).await.unwrap();
            assert_eq!(told, [(0, 0)]);
            let error = session.keep_state(to - 1, REFUSE).await.unwrap_err();
            assert_eq!(error, Error::WrongStep { requested: to - 1, expected: to });
            for step in to..12 {
                assert!(session.fetch(step).await.unwrap() == expected[step as usize]);
            }
        }
        // And from all shards of a session, of which one is a step behind.
        let clients = [one, two];
        let options = CreateOptions { id: "parts".into(), ..options };
        let cut = ShardCut::Lanes;
        let mut whole = ShardedSession::create(&clients, &spec, options, cut).await.unwrap();
        for step in 0..4 {
            assert!(whole.fetch(step).await.unwrap() == expected[step as usize]);
        }
        clients[0].open_session("parts-0").await.unwrap().fetch(4).await.unwrap();
        whole.keep_state(4, REFUSE).await.unwrap();
        whole.refresh().await.unwrap();
        for step in 4..8 {
            assert!(whole.fetch(step).await.unwrap() == expected[step as usize]);
        }
        whole.rewind(4, false, |_, total| assert_eq!(total, 0)).await.unwrap();
        assert!(whole.fetch(4).await.unwrap() == expected[4]);
        whole.delete().await.unwrap();
    })
    .await;
}

/// So large, and so many steps back, that it takes a while.
struct Long {
    spec: SessionSpec,
    digests: Vec<blake3::Hash>,
}

const LONG_STEPS: u64 = 300;

impl Long {
    fn new() -> Self {
        let tree = Tree::flat(200_003, DType::F32).unwrap();
        let spec = gaussian(given(), specs::noising(), tree);
        let spec = SessionSpec { horizon: Some(LONG_STEPS), ..spec };
        Self { spec, digests: Vec::new() }
    }

    /// A session that has released all of its steps.
    async fn run(&mut self, client: &mut SessionsClient<Channel>, id: &str) -> String {
        let name = noises::create(client, noises::request(id, &self.spec)).await;
        for step in 0..LONG_STEPS {
            let answer = noises::fetch(client, &name, step).await.unwrap();
            if self.digests.len() as u64 == step {
                self.digests.push(blake3::hash(&answer.payload));
            }
            self.check(step, &answer.payload);
        }
        name
    }

    fn check(&self, step: u64, answer: &Bytes) {
        assert_eq!(blake3::hash(answer), self.digests[step as usize], "step {step}");
    }
}

/// A client that goes away leaves a session that stands somewhere, gives the right bits there, and goes back
/// from there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_is_given_up_leaves_a_session_that_goes_on() {
    on_both(Options::default(), async |server: &mut Server| {
        let mut client = server.sessions().await;
        let mut long = Long::new();
        let name = long.run(&mut client, "run").await;
        for (read, wanted) in [(0, 290), (1, 299), (1, 150), (2, 280), (5, 300), (3, 7)] {
            let request = v1::RewindSessionRequest { name: name.clone(), step: wanted, ..Default::default() };
            let mut told = client.rewind_session(request).await.unwrap().into_inner();
            for _ in 0..read {
                let _there_may_be_less = told.message().await.unwrap();
            }
            drop(told);
            // Whatever step it stands at.
            let mut step = wire::position(&mut client, &name).await.0;
            loop {
                match noises::fetch(&mut client, &name, step).await {
                    Ok(answer) => break long.check(step, &answer.payload),
                    // It was asked before it went back, or has gone back to its end.
                    Err(status) if step == LONG_STEPS => {
                        break drop(assert_refused(&status, Code::OutOfRange, "PAST_HORIZON"));
                    }
                    Err(status) => {
                        let told = report(&status, Code::FailedPrecondition);
                        step = told.expected_step().unwrap();
                    }
                }
            }
            go_back(&mut client, &name, wanted, false).await;
            if wanted < LONG_STEPS {
                let answer = noises::fetch(&mut client, &name, wanted).await.unwrap();
                long.check(wanted, &answer.payload);
            }
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_deleted_meanwhile_is_gone() {
    on_both(Options::default(), async |server: &mut Server| {
        let mut client = server.sessions().await;
        let mut long = Long::new();
        for read in [false, true] {
            let name = long.run(&mut client, "run").await;
            let request = v1::RewindSessionRequest { name: name.clone(), step: 298, ..Default::default() };
            let mut told = client.rewind_session(request).await.unwrap().into_inner();
            if read {
                told.message().await.unwrap();
            }
            wire::delete(&mut client, &name).await.unwrap();
            // It may have been done before.
            loop {
                match told.message().await {
                    Ok(Some(_)) => {}
                    Ok(None) => break,
                    Err(status) => break drop(assert_refused(&status, Code::NotFound, "SESSION_NOT_FOUND")),
                }
            }
            let status = wire::get(&mut client, &name).await.unwrap_err();
            assert_refused(&status, Code::NotFound, "SESSION_NOT_FOUND");
        }
        // Another session of that name is another session.
        let name = noises::create(&mut client, noises::request("run", &long.spec)).await;
        let answer = noises::fetch(&mut client, &name, 0).await.unwrap();
        assert!(!answer.replay);
        long.check(0, &answer.payload);
    })
    .await;
}
