//! What a session is after its server was killed or has ended, step by step.

use noised::session::{KeyOrigin, Noise, Source};
use noised_client::{CreateOptions, Error};
use noised_tests::noises::STDDEV;

use super::house::House;
use super::{Undisturbed, create, input, options, privatize, sources, spec, take};

const LANES: u64 = 3_000;

#[tokio::test]
async fn a_server_that_ends_hands_its_sessions_over() {
    let house = House::new(&[]);
    for (source, last_again) in
        sources().into_iter().flat_map(|source| [(source.clone(), false), (source, true)])
    {
        let spec = spec(&source, LANES);
        let id = format!("{}-{last_again}", source.kind());
        let mut session = create(&house.client(), &id, &spec).await;
        let mut undisturbed = Undisturbed::new(&spec);
        for step in 0..3 {
            assert!(take(&mut session, step).await.unwrap() == undisturbed.answer(step));
        }
        house.drain();
        house.start();
        let mut again = house.client().open_session(session.name()).await.unwrap();
        assert_eq!(again.info().next_step, 3);
        // The handle that asked for it may ask for its last step again.
        if last_again {
            assert!(take(&mut session, 2).await.unwrap() == undisturbed.answer(2), "{id}");
        }
        for step in 3..6 {
            assert!(take(&mut again, step).await.unwrap() == undisturbed.answer(step), "{id}");
        }
    }
}

#[tokio::test]
async fn a_gradient_that_was_released_is_the_only_one_after_a_kill() {
    let house = House::new(&[]);
    let spec = spec(&privatize(), LANES);
    let mut session = create(&house.client(), "one", &spec).await;
    let mut undisturbed = Undisturbed::new(&spec);
    for step in 0..3 {
        take(&mut session, step).await.unwrap();
    }
    house.kill();
    house.start();
    let other = input(&spec, 99);
    let refused = session.privatize(2, other.clone()).await.unwrap_err();
    assert!(matches!(refused, Error::Diverged { requested: 2, .. }), "{refused}");
    assert!(take(&mut session, 2).await.unwrap() == undisturbed.answer(2));
    assert!(take(&mut session, 3).await.unwrap() == undisturbed.answer(3));
    // Going back outlives a kill, and so does what it allows.
    session.rewind(1, false, |_, _| {}).await.unwrap();
    house.kill();
    house.start();
    let info = house.client().get_session(session.name()).await.unwrap();
    assert_eq!((info.next_step, info.released_steps, info.rewind_count), (1, 4, 1));
    let refused = session.privatize(1, other.clone()).await.unwrap_err();
    assert!(matches!(refused, Error::Diverged { requested: 1, .. }), "{refused}");
    session.rewind(1, true, |_, _| {}).await.unwrap();
    house.kill();
    house.start();
    session.privatize(1, other).await.unwrap();
}

#[tokio::test]
async fn input_goes_on_from_its_last_stored_state() {
    let house = House::new(&["--snapshot-every", "4"]);
    let spec = spec(&Source::Input, LANES);
    let mut session = create(&house.client(), "input", &spec).await;
    let mut undisturbed = Undisturbed::new(&spec);
    for step in 0..6 {
        take(&mut session, step).await.unwrap();
    }
    house.kill();
    house.start();
    let refused = take(&mut session, 6).await.unwrap_err();
    assert!(matches!(refused, Error::WrongStep { requested: 6, expected: 4 }), "{refused}");
    let mut again = house.client().open_session(session.name()).await.unwrap();
    assert_eq!((again.info().next_step, again.info().released_steps), (4, 4));
    for step in 4..10 {
        assert!(take(&mut again, step).await.unwrap() == undisturbed.answer(step));
    }
    // Its beginning is stored as nothing.
    again.rewind(0, false, |_, _| {}).await.unwrap();
    house.kill();
    house.start();
    for step in 0..5 {
        assert!(take(&mut again, step).await.unwrap() == undisturbed.answer(step));
    }
}

#[tokio::test]
async fn what_is_deleted_stays_so_and_its_name_is_free() {
    let house = House::new(&[]);
    let (client, spec) = (house.client(), spec(&privatize(), LANES));
    let session = create(&client, "gone", &spec).await;
    let kept = create(&client, "kept", &spec).await;
    house.kill();
    house.start();
    // It is in the store alone.
    client.delete_session(session.name()).await.unwrap();
    house.kill();
    house.start();
    let missing = client.get_session(session.name()).await.unwrap_err();
    assert!(matches!(missing, Error::NotFound { .. }), "{missing}");
    let mut anew = create(&client, "gone", &spec).await;
    assert!(take(&mut anew, 0).await.unwrap() == Undisturbed::new(&spec).answer(0));
    // A name that the store has is taken, and its session is gone on with for the same alone.
    let taken = client.create_session(&spec, options("kept", &spec)).await.unwrap_err();
    assert!(matches!(taken, Error::AlreadyExists { .. }), "{taken}");
    let other = super::spec(&privatize(), LANES + 1);
    let resume = |spec| CreateOptions { resume: true, ..options("kept", spec) };
    let differs = client.create_session(&other, resume(&other)).await.unwrap_err();
    assert!(matches!(differs, Error::FingerprintMismatch { .. }), "{differs}");
    let found = client.create_session(&spec, resume(&spec)).await.unwrap();
    assert!(found.info().resumed && found.name() == kept.name());
}

#[tokio::test]
async fn noises_of_the_server_go_on_as_well() {
    let house = House::new(&[]);
    let client = house.client();
    for (kind, key) in
        [("fresh", KeyOrigin::Fresh), ("derived", KeyOrigin::Derived { noise_id: "run".into() })]
    {
        let noise = Noise { stddev: STDDEV, key };
        let spec = spec(&Source::Privatize { noise, answer_dtype: None }, LANES);
        let made = CreateOptions { id: kind.to_owned(), ..CreateOptions::default() };
        let mut session = client.create_session(&spec, made).await.unwrap();
        let before = [take(&mut session, 0).await.unwrap(), take(&mut session, 1).await.unwrap()];
        house.kill();
        house.start();
        session.rewind(0, false, |_, _| {}).await.unwrap();
        for (step, before) in before.iter().enumerate() {
            assert!(take(&mut session, step as u64).await.unwrap() == before, "{kind}");
        }
        if kind == "derived" {
            let other = CreateOptions { id: "other".to_owned(), ..CreateOptions::default() };
            client.create_session(&spec, other).await.unwrap_err();
        }
    }
}

#[tokio::test]
async fn many_sessions_are_there_when_they_are_asked_for() {
    const SESSIONS: usize = 60;
    let house = House::new(&[]);
    let (client, spec) = (house.client(), spec(&privatize(), 100));
    let mut sessions = Vec::new();
    for number in 0..SESSIONS {
        let mut session = create(&client, &format!("s{number}"), &spec).await;
        take(&mut session, 0).await.unwrap();
        sessions.push(session);
    }
    house.kill();
    house.start();
    let expected = Undisturbed::new(&spec).answer(1);
    for session in &mut sessions {
        assert!(take(session, 1).await.unwrap() == expected);
    }
}

/// What draws goes on from a stored state, part by part, and not from step 0; from step 0 where that is
/// damaged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn noise_goes_on_from_a_stored_state() {
    // One part; and several, which stand at different steps.
    for (lanes, source) in [(LANES, &sources()[1]), (900_000, &sources()[1]), (LANES, &privatize())] {
        let house = House::new(&["--snapshot-every", "4"]);
        let spec = spec(source, lanes);
        let mut session = create(&house.client(), "noise", &spec).await;
        let mut undisturbed = Undisturbed::new(&spec);
        let mut step = 0;
        let mut states = Vec::new();
        while states.is_empty() || step < 30 {
            assert!(take(&mut session, step).await.unwrap() == undisturbed.answer(step));
            step += 1;
            states = house.objects("state-");
        }
        // What is noted beside a step is stored a little later.
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        house.kill();
        house.start();
        for _ in 0..3 {
            assert!(take(&mut session, step).await.unwrap() == undisturbed.answer(step));
            step += 1;
        }
        let taken = house.told("session taken from the store");
        let state_of: u64 =
            taken.split("state_of=").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
        assert!(state_of > 0 && state_of < step, "{taken}");
        // Going back before it draws from step 0.
        session.rewind(1, false, |_, _| {}).await.unwrap();
        let mut again = Undisturbed::new(&spec);
        for step in 0..5 {
            let expected = again.answer(step);
            assert!(step == 0 || take(&mut session, step).await.unwrap() == expected);
        }
        house.kill();
        for state in house.objects("state-") {
            let mut bytes = std::fs::read(&state).unwrap();
            *bytes.last_mut().unwrap() ^= 1;
            std::fs::write(&state, bytes).unwrap();
        }
        house.start();
        assert!(take(&mut session, 5).await.unwrap() == again.answer(5));
    }
}

/// A server that took a session from one that ended cleanly, and is killed before it noted any step.
#[tokio::test]
async fn noise_that_was_handed_over_goes_on_after_a_kill() {
    let house = House::new(&[]);
    let spec = spec(&sources()[1], LANES);
    let mut session = create(&house.client(), "noise", &spec).await;
    let mut undisturbed = Undisturbed::new(&spec);
    for step in 0..8 {
        assert!(take(&mut session, step).await.unwrap() == undisturbed.answer(step));
        match step {
            3 => house.drain(),
            6 => house.kill(),
            _ => continue,
        }
        house.start();
    }
}

#[tokio::test]
async fn input_that_went_back_to_a_kept_state_stays_there() {
    let house = House::new(&["--snapshot-every", "4"]);
    let spec = spec(&Source::Input, LANES);
    let mut session = create(&house.client(), "input", &spec).await;
    let mut undisturbed = Undisturbed::new(&spec);
    for step in 0..3 {
        take(&mut session, step).await.unwrap();
    }
    session.keep_state(3, Default::default()).await.unwrap();
    for step in 3..9 {
        take(&mut session, step).await.unwrap();
    }
    session.rewind(3, false, |_, _| {}).await.unwrap();
    house.kill();
    house.start();
    let mut again = house.client().open_session(session.name()).await.unwrap();
    let info = again.info();
    assert_eq!((info.next_step, info.released_steps, info.rewind_count), (3, 9, 1));
    for step in 3..6 {
        assert!(take(&mut again, step).await.unwrap() == undisturbed.answer(step));
    }
}

/// Many ask for a session that is in the store alone, and some of them give up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_is_taken_once_however_many_ask() {
    let house = House::new(&[]);
    let spec = spec(&privatize(), 200_000);
    let mut session = create(&house.client(), "one", &spec).await;
    let mut undisturbed = Undisturbed::new(&spec);
    for step in 0..4 {
        house.kill();
        house.start();
        let mut asking = tokio::task::JoinSet::new();
        for number in 0..24_u64 {
            let (client, name) = (house.client(), session.name().to_owned());
            asking.spawn(async move {
                let patience = std::time::Duration::from_millis(3 * number);
                let _given_up = tokio::time::timeout(patience, client.get_session(&name)).await;
            });
        }
        assert!(take(&mut session, step).await.unwrap() == undisturbed.answer(step));
        let other = session.privatize(step, input(&spec, 77)).await.unwrap_err();
        let expected = step + 1;
        assert!(
            matches!(other, Error::PayloadMismatch { expected: found, .. } if found == expected),
            "{other}"
        );
        while asking.join_next().await.is_some() {}
        let owners = owners_of(&house);
        assert!(owners <= 2 + 2 * step as usize, "{owners} owners after {} kills", step + 1);
    }
}

fn owners_of(house: &House) -> usize {
    let folders = std::fs::read_dir(house.state().join("sessions")).unwrap();
    let of_name = folders.map(|folder| folder.unwrap().path()).next().unwrap();
    let objects = std::fs::read_dir(of_name).unwrap().map(|object| object.unwrap().path());
    let of_session = objects.into_iter().find(|path| path.is_dir()).unwrap();
    std::fs::read_dir(of_session).unwrap().count()
}

#[tokio::test]
async fn a_journal_stays_short() {
    let house = House::new(&["--journal-objects", "5"]);
    let spec = spec(&privatize(), 100);
    let client = house.client();
    let (mut busy, mut idle) = (create(&client, "busy", &spec).await, create(&client, "idle", &spec).await);
    let mut undisturbed = Undisturbed::new(&spec);
    for step in 0..4 {
        take(&mut idle, step).await.unwrap();
    }
    let journals = || {
        let journals = std::fs::read_dir(house.state().join("journals")).unwrap();
        journals.map(|journal| std::fs::read_dir(journal.unwrap().path()).unwrap().count()).max().unwrap()
    };
    let mut step = 0;
    let started = std::time::Instant::now();
    let mut longest = 0;
    while longest < 40 || journals() > longest / 2 {
        assert!(take(&mut busy, step).await.unwrap() == undisturbed.answer(step));
        step += 1;
        longest = longest.max(journals());
        assert!(started.elapsed() < super::house::PATIENCE, "{longest} objects, now {}", journals());
    }
    house.kill();
    house.start();
    // What was folded is known as what was not.
    let other = input(&spec, 99);
    for (session, next) in [(&mut busy, step), (&mut idle, 4)] {
        let refused = session.privatize(next - 1, other.clone()).await.unwrap_err();
        assert!(matches!(refused, Error::Diverged { .. }), "{refused}");
        session.rewind(0, false, |_, _| {}).await.unwrap();
        assert!(matches!(session.privatize(0, other.clone()).await, Err(Error::Diverged { .. })));
        for step in 0..next.min(6) {
            assert!(take(session, step).await.unwrap() == undisturbed.answer(step));
        }
    }
}
