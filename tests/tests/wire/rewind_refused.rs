//! What keeping states and going back may not do: more states than are allowed, more memory than there is,
//! one noise under two gradients.

use bytes::Bytes;
use bytesize::ByteSize;
use noised::{DType, SessionSpec, Tree};
use noised_proto::v1;
use noised_server::config::Options;
use noised_tests::noises::{self, assert_refused, gaussian, given, privatize};
use noised_tests::server::{Server, Transport, on_both, within_patience};
use noised_tests::specs;
use noised_tests::trees;
use noised_tests::wire::{self, Job, StepStream, assert_expects, assert_invalid};
use tonic::Code;

const REFUSE: v1::WhenFull = v1::WhenFull::Refuse;
const RELEASE_OLDEST: v1::WhenFull = v1::WhenFull::ReleaseOldest;

/// Where the input is the client's, only what is kept comes again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_of_the_client_s_input_goes_back_to_kept_states() {
    on_both(Options::default(), async |server: &mut Server| {
        let mut client = server.sessions().await;
        let job = Job::new(specs::noising(), trees::six_tiles(), 9);
        let name = job.create(&mut client, "").await;
        for step in 0..9 {
            if [3, 6].contains(&step) {
                let kept = noises::keep(&mut client, &name, step, REFUSE).await.unwrap();
                assert_eq!(kept.kept_steps.last(), Some(&step));
            }
            job.unary(&mut client, &name, step, false).await;
        }
        for step in [1, 2, 4, 5, 7, 8, 9] {
            let status = noises::rewind(&mut client, &name, step, false).await.unwrap_err();
            assert_refused(&status, Code::FailedPrecondition, "NOT_KEPT");
        }
        let status = noises::rewind(&mut client, &name, 10, false).await.unwrap_err();
        assert_refused(&status, Code::OutOfRange, "PAST_RELEASED");
        // None of that moved it.
        job.unary(&mut client, &name, 8, true).await;
        for to in [6, 3, 3, 0] {
            let told = noises::rewind(&mut client, &name, to, false).await.unwrap();
            let session = told.last().unwrap().session.clone().unwrap();
            assert_eq!((session.next_step, session.released_steps), (to, 9));
            // What comes after it may come out differently now.
            assert!(session.kept_steps.iter().all(|&kept| kept <= to));
            for step in to..7 {
                job.unary(&mut client, &name, step, false).await;
            }
        }
        // Also from the middle of a step, and with other input.
        let name = job.create(&mut client, "").await;
        noises::keep(&mut client, &name, 0, REFUSE).await.unwrap();
        job.unary(&mut client, &name, 0, false).await;
        let frames = vec![wire::frame(&name, 1, 0, job.payloads[1].slice(..8192))];
        wire::exchange(&mut client, frames).await;
        assert_eq!(wire::get(&mut client, &name).await.unwrap().released_steps, 2);
        let status = noises::keep(&mut client, &name, 1, REFUSE).await.unwrap_err();
        assert_expects(&status, "WRONG_STEP", 1);
        noises::rewind(&mut client, &name, 0, false).await.unwrap();
        let answer = wire::unary(&mut client, &name, 0, job.payloads[5].clone()).await.unwrap();
        assert!(answer.payload != job.answers[0] && !answer.replay);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kept_states_are_bounded() {
    let options = Options { max_kept_states: Some(2), ..Options::default() };
    on_both(options, async |server: &mut Server| {
        let mut client = server.sessions().await;
        let drawn = gaussian(given(), specs::noising(), trees::mixed());
        let input = SessionSpec::new(specs::noising(), trees::mixed());
        let payload = Bytes::from(trees::payload(&trees::mixed(), 0));
        for (spec, payload) in [(drawn, Bytes::new()), (input, payload)] {
            let made = client.create_session(noises::request("", &spec)).await.unwrap().into_inner();
            let name = made.name;
            let mut memory = vec![made.memory_bytes];
            for step in 0..4 {
                let kept = noises::keep(&mut client, &name, step, REFUSE).await;
                if step < 2 {
                    let kept = kept.unwrap();
                    memory.push(kept.memory_bytes);
                    // Done again, it changes nothing.
                    assert_eq!(noises::keep(&mut client, &name, step, REFUSE).await.unwrap(), kept);
                } else {
                    let told = assert_refused(&kept.unwrap_err(), Code::ResourceExhausted, "KEPT_STATES");
                    assert_eq!(told.number("limit"), Some(2));
                    assert_eq!(wire::get(&mut client, &name).await.unwrap().kept_steps, [step - 2, step - 1]);
                    let kept = noises::keep(&mut client, &name, step, RELEASE_OLDEST).await.unwrap();
                    assert_eq!(kept.kept_steps, [step - 1, step]);
                    assert_eq!(kept.memory_bytes, memory[2]);
                }
                for other in [step + 1, u64::MAX] {
                    let status = noises::keep(&mut client, &name, other, RELEASE_OLDEST).await.unwrap_err();
                    assert_expects(&status, "WRONG_STEP", step);
                }
                wire::unary(&mut client, &name, step, payload.clone()).await.unwrap();
                assert_eq!(wire::get(&mut client, &name).await.unwrap().next_step, step + 1);
            }
            assert!(memory.is_sorted() && memory[0] < memory[2], "{memory:?}");
            let request = v1::KeepStateRequest { name: name.clone(), step: 4, when_full: 3 };
            assert_invalid(&client.keep_state(request).await.unwrap_err(), "when_full", "3");
        }
        let status = noises::keep(&mut client, "sessions/none", 0, REFUSE).await.unwrap_err();
        assert_refused(&status, Code::NotFound, "SESSION_NOT_FOUND");
    })
    .await;
    let none = Options { max_kept_states: Some(0), ..Options::default() };
    on_both(none, async |server: &mut Server| {
        let mut client = server.sessions().await;
        let spec = gaussian(given(), specs::noising(), trees::mixed());
        let name = noises::create(&mut client, noises::request("", &spec)).await;
        for when_full in [REFUSE, RELEASE_OLDEST] {
            let status = noises::keep(&mut client, &name, 0, when_full).await.unwrap_err();
            assert_refused(&status, Code::ResourceExhausted, "KEPT_STATES");
        }
    })
    .await;
}

/// Memory of a session that has kept a state, or that went back, on a server that has enough.
async fn memory_of(spec: &SessionSpec, keeps: bool) -> [u64; 2] {
    let server = Server::start(Transport::Tcp, Options::default()).await;
    let mut client = server.sessions().await;
    let made = client.create_session(noises::request("", spec)).await.unwrap().into_inner();
    let after = if keeps {
        noises::keep(&mut client, &made.name, 0, REFUSE).await.unwrap()
    } else {
        let told = noises::rewind(&mut client, &made.name, 0, false).await.unwrap();
        told.last().unwrap().session.clone().unwrap()
    };
    drop(client);
    server.stop().await;
    [made.memory_bytes, after.memory_bytes]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kept_states_are_in_the_bound_of_memory() {
    let spec = gaussian(given(), specs::noising(), Tree::flat(50_000, DType::F32).unwrap());
    let expected = noises::drawn_of_given(&spec, 4);
    let [without, with] = within_patience(memory_of(&spec, true)).await;
    assert!(with >= without + 50_000 * 4);
    let max_session_bytes = Some(ByteSize::b(with + 1000));
    on_both(Options { max_session_bytes, ..Options::default() }, async |server: &mut Server| {
        let mut client = server.sessions().await;
        for id in ["first", "second"] {
            // The memory of the one before is free again, once what was drawn ahead for it is there.
            let name = loop {
                match client.create_session(noises::request(id, &spec)).await {
                    Ok(made) => break made.into_inner().name,
                    Err(status) => assert_refused(&status, Code::ResourceExhausted, "MEMORY_QUOTA"),
                };
            };
            noises::keep(&mut client, &name, 0, REFUSE).await.unwrap();
            for step in 0..4 {
                let answer = noises::fetch(&mut client, &name, step).await.unwrap();
                assert!(answer.payload == expected[step as usize]);
                for when_full in [REFUSE, RELEASE_OLDEST] {
                    let status = noises::keep(&mut client, &name, step + 1, when_full).await.unwrap_err();
                    assert_refused(&status, Code::ResourceExhausted, "MEMORY_QUOTA");
                }
                let found = wire::get(&mut client, &name).await.unwrap();
                assert_eq!((found.memory_bytes, &found.kept_steps[..]), (with, &[0][..]));
            }
            noises::rewind(&mut client, &name, 0, false).await.unwrap();
            assert!(noises::fetch(&mut client, &name, 0).await.unwrap().payload == expected[0]);
            let status = client.create_session(noises::request("third", &spec)).await.unwrap_err();
            assert_refused(&status, Code::ResourceExhausted, "MEMORY_QUOTA");
            wire::delete(&mut client, &name).await.unwrap();
        }
    })
    .await;
}

/// Where a gradient that is held back could not be held, the session does not go back, and goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gradient_held_back_is_in_the_bound_of_memory() {
    let tree = Tree::flat(50_000, DType::F32).unwrap();
    let spec = privatize(given(), specs::noising(), tree.clone(), None);
    let gradients = noises::gradients(&tree, 3);
    let [without, with] = within_patience(memory_of(&spec, false)).await;
    assert_eq!(with, without + 50_000 * 4);
    let max_session_bytes = Some(ByteSize::b(with - 1));
    on_both(Options { max_session_bytes, ..Options::default() }, async |server: &mut Server| {
        let mut client = server.sessions().await;
        let name = noises::create(&mut client, noises::request("", &spec)).await;
        let mut answers = Vec::new();
        for (step, gradient) in (0..).zip(&gradients) {
            answers.push(wire::unary(&mut client, &name, step, gradient.clone()).await.unwrap().payload);
            // On its way to a step from which on nothing is held back it may be called off, and something is.
            for allow_divergence in [false, true] {
                let status = noises::rewind(&mut client, &name, 0, allow_divergence).await.unwrap_err();
                assert_refused(&status, Code::ResourceExhausted, "MEMORY_QUOTA");
            }
            let again = wire::unary(&mut client, &name, step, gradient.clone()).await.unwrap();
            assert!(again.replay && again.payload == answers[step as usize]);
        }
        assert_eq!(wire::get(&mut client, &name).await.unwrap().rewind_count, 0);
    })
    .await;
}

/// A run of gradients under noise, in frames of some tiles.
struct Private {
    spec: SessionSpec,
    gradients: Vec<Bytes>,
    answers: Vec<Bytes>,
}

impl Private {
    fn new(steps: u64) -> Self {
        let tree = trees::six_tiles();
        let noise = noises::drawn_of_given(&gaussian(given(), specs::noising(), tree.clone()), steps);
        let gradients = noises::gradients(&tree, steps);
        let answers = noises::sums(&gradients, &noise);
        Self { spec: privatize(given(), specs::noising(), tree, None), gradients, answers }
    }

    fn frames(name: &str, step: u64, gradient: &Bytes) -> Vec<v1::StreamMultiplyNextRequest> {
        let parts = (0..gradient.len()).step_by(5000);
        let frame =
            |at: usize| wire::frame(name, step, at, gradient.slice(at..gradient.len().min(at + 5000)));
        parts.map(frame).collect()
    }
}

fn flip(payload: &Bytes, byte: usize) -> Bytes {
    let mut payload = payload.to_vec();
    payload[byte] ^= 1;
    payload.into()
}

/// The same gradient is answered with the same bytes, another one is refused, unless divergence is allowed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_noise_is_not_put_under_two_gradients() {
    let job = Private::new(8);
    on_both(Options::default(), async |server: &mut Server| {
        let mut client = server.sessions().await;
        let name = noises::create(&mut client, noises::request("", &job.spec)).await;
        for (step, gradient) in (0..6).zip(&job.gradients) {
            wire::unary(&mut client, &name, step, gradient.clone()).await.unwrap();
        }
        for to in [2, 5, 0] {
            noises::rewind(&mut client, &name, to, false).await.unwrap();
            for step in to..6 {
                let (gradient, expected) = (&job.gradients[step as usize], &job.answers[step as usize]);
                for byte in [0, 9000, gradient.len() - 1] {
                    let other = flip(gradient, byte);
                    let status = wire::unary(&mut client, &name, step, other.clone()).await.unwrap_err();
                    assert_expects(&status, "DIVERGED", step);
                    let frames = Private::frames(&name, step, &other);
                    let (answers, status) = wire::exchange(&mut client, frames).await;
                    assert!(answers.is_empty());
                    assert_expects(&status.unwrap(), "DIVERGED", step);
                    assert_eq!(wire::position(&mut client, &name).await, (step, 0));
                }
                // It is usable with the right one, also after a part of one that came and was given up.
                let frames = vec![wire::frame(&name, step, 0, gradient.slice(..9000))];
                assert!(noises::stream(&mut client, frames).await.is_empty());
                if step % 2 == 0 {
                    let answers = noises::stream(&mut client, Private::frames(&name, step, gradient)).await;
                    noises::check(step, expected, false, &answers);
                } else {
                    let answer = wire::unary(&mut client, &name, step, gradient.clone()).await.unwrap();
                    assert!(answer.payload == expected);
                }
                // And it is a step like any other from then on.
                let again = wire::unary(&mut client, &name, step, gradient.clone()).await.unwrap();
                assert!(again.payload == expected && again.replay);
            }
        }
        noises::rewind(&mut client, &name, 4, true).await.unwrap();
        let other = flip(&job.gradients[4], 5);
        let diverged = noises::stream(&mut client, Private::frames(&name, 4, &other)).await;
        let diverged = noises::join(4, 0, &diverged);
        assert!(diverged != job.answers[4]);
        assert!(diverged[4096..] == job.answers[4][4096..]);
        // From then on the new gradient is the one that it was released under.
        noises::rewind(&mut client, &name, 4, false).await.unwrap();
        let status = wire::unary(&mut client, &name, 4, job.gradients[4].clone()).await.unwrap_err();
        assert_expects(&status, "DIVERGED", 4);
        assert!(wire::unary(&mut client, &name, 4, other).await.unwrap().payload == diverged);
        let session = wire::get(&mut client, &name).await.unwrap();
        let allowed: Vec<bool> = session.rewinds.iter().map(|act| act.allow_divergence).collect();
        assert_eq!(allowed, [false, false, false, true, false]);
    })
    .await;
}

/// Going forward past steps that may be released under any gradient does not make later steps such.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_released_after_a_divergence_is_bound_to_its_gradient() {
    let job = Private::new(8);
    on_both(Options::default(), async |server: &mut Server| {
        let mut client = server.sessions().await;
        let name = noises::create(&mut client, noises::request("", &job.spec)).await;
        for (step, gradient) in (0..6).zip(&job.gradients) {
            wire::unary(&mut client, &name, step, gradient.clone()).await.unwrap();
        }
        noises::rewind(&mut client, &name, 3, true).await.unwrap();
        noises::rewind(&mut client, &name, 6, false).await.unwrap();
        for step in 6..8 {
            let answer =
                wire::unary(&mut client, &name, step, job.gradients[step as usize].clone()).await.unwrap();
            assert!(answer.payload == job.answers[step as usize] && !answer.replay);
        }
        noises::rewind(&mut client, &name, 6, false).await.unwrap();
        let status = wire::unary(&mut client, &name, 6, flip(&job.gradients[6], 0)).await.unwrap_err();
        assert_expects(&status, "DIVERGED", 6);
        for step in 6..8 {
            let answer =
                wire::unary(&mut client, &name, step, job.gradients[step as usize].clone()).await.unwrap();
            assert!(answer.payload == job.answers[step as usize]);
        }
        // Those between may still be released under any, and once they are, under that one.
        noises::rewind(&mut client, &name, 4, false).await.unwrap();
        let other = flip(&job.gradients[4], 0);
        wire::unary(&mut client, &name, 4, other.clone()).await.unwrap();
        noises::rewind(&mut client, &name, 4, false).await.unwrap();
        let status = wire::unary(&mut client, &name, 4, job.gradients[4].clone()).await.unwrap_err();
        assert_expects(&status, "DIVERGED", 4);
        wire::unary(&mut client, &name, 4, other).await.unwrap();
    })
    .await;
}

/// A step that was cut off is bound to what came of its gradient, whatever way leads back to it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_step_released_in_part_is_bound_to_that_part() {
    let job = Private::new(4);
    on_both(Options::default(), async |server: &mut Server| {
        let mut client = server.sessions().await;
        for skipped in [false, true] {
            let name = noises::create(&mut client, noises::request("", &job.spec)).await;
            wire::unary(&mut client, &name, 0, job.gradients[0].clone()).await.unwrap();
            let mut stream = StepStream::open(&client);
            stream.send(wire::frame(&name, 1, 0, job.gradients[1].slice(..8192)));
            stream.take(8192).await;
            drop(stream);
            if skipped {
                // Past it, since it was released in part, and back.
                noises::rewind(&mut client, &name, 2, false).await.unwrap();
                for _ in 0..2 {
                    let answer = wire::unary(&mut client, &name, 2, job.gradients[2].clone()).await.unwrap();
                    assert!(answer.payload == job.answers[2]);
                }
                noises::rewind(&mut client, &name, 2, false).await.unwrap();
                let status =
                    wire::unary(&mut client, &name, 2, flip(&job.gradients[2], 1)).await.unwrap_err();
                assert_expects(&status, "DIVERGED", 2);
            }
            noises::rewind(&mut client, &name, 1, false).await.unwrap();
            let status = wire::unary(&mut client, &name, 1, flip(&job.gradients[1], 8191)).await.unwrap_err();
            assert_expects(&status, "DIVERGED", 1);
            // The rest was released under nothing.
            let other = flip(&job.gradients[1], 8194);
            let answer = wire::unary(&mut client, &name, 1, other).await.unwrap();
            assert!(answer.payload[..8192] == job.answers[1][..8192] && answer.payload != job.answers[1]);
        }
    })
    .await;
}

/// The answer to a gradient that was held back comes in messages that the server may make.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_held_back_comes_in_messages_of_the_size_allowed() {
    const MESSAGE: usize = 64 << 10;
    let tree = Tree::flat(300_001, DType::F32).unwrap();
    let cases = [
        privatize(given(), specs::noising(), tree.clone(), None),
        // Answers that are twice as long as what they answer.
        privatize(given(), specs::noising(), tree.clone(), Some(DType::F64)),
    ];
    let gradient = noises::gradients(&tree, 1).swap_remove(0);
    let options = Options { max_message_bytes: Some(ByteSize::b(MESSAGE as u64)), ..Options::default() };
    on_both(options, async |server: &mut Server| {
        let mut client = server.sessions().await;
        for spec in &cases {
            let name = noises::create(&mut client, noises::request("", spec)).await;
            let frames = || -> Vec<_> {
                let parts = (0..gradient.len()).step_by(60_000);
                let frame = |at: usize| {
                    wire::frame(&name, 0, at, gradient.slice(at..gradient.len().min(at + 60_000)))
                };
                parts.map(frame).collect()
            };
            let first = noises::stream(&mut client, frames()).await;
            noises::rewind(&mut client, &name, 0, false).await.unwrap();
            let again = noises::stream(&mut client, frames()).await;
            assert!(noises::join(0, 0, &first) == noises::join(0, 0, &again));
            for answer in first.iter().chain(&again) {
                assert!(answer.payload.len() < MESSAGE, "{} bytes", answer.payload.len());
            }
        }
    })
    .await;
}
