//! Several servers with one store: clients find a session wherever it is, and go on when its server is gone.

use noised_client::{CreateOptions, Error};

use super::house::client;
use super::members::Fleet;
use super::{Undisturbed, create, input, options, privatize, sources, spec, take};

const LANES: u64 = 3_000;

#[tokio::test]
async fn a_session_is_found_wherever_it_is_asked_for() {
    let fleet = Fleet::new(3, &[]);
    for source in sources() {
        let (spec, id) = (spec(&source, LANES), source.kind());
        let mut undisturbed = Undisturbed::new(&spec);
        let mut session = create(&fleet.client(), id, &spec).await;
        assert!(take(&mut session, 0).await.unwrap() == undisturbed.answer(0));
        let owner = fleet.at(&session.info().owner);
        let others = [(owner + 1) % 3, (owner + 2) % 3];
        // Every other server says who has it, and takes nothing.
        for other in others {
            let told = fleet.client_of(other).get_session(session.name()).await.unwrap_err();
            assert!(
                matches!(&told, Error::Elsewhere { owner: found, .. } if fleet.at(found) == owner),
                "{told}"
            );
            let told = fleet.client_of(other).delete_session(session.name()).await.unwrap_err();
            assert!(matches!(told, Error::Elsewhere { .. }), "{told}");
        }
        // Whatever the order of its addresses, a client goes there.
        let again = client(&fleet.targets(&[others[0], others[1], owner]));
        let mut opened = again.open_session(session.name()).await.unwrap();
        assert_eq!((fleet.at(&opened.info().owner), opened.info().epoch), (owner, 0));
        assert!(take(&mut opened, 1).await.unwrap() == undisturbed.answer(1));
        let taken = again.create_session(&spec, options(id, &spec)).await.unwrap_err();
        assert!(matches!(taken, Error::AlreadyExists { .. }), "{taken}");
        let resume = CreateOptions { resume: true, must_exist: true, ..options(id, &spec) };
        let mut resumed = again.create_session(&spec, resume).await.unwrap();
        assert!(resumed.info().resumed);
        resumed.keep_state(2, Default::default()).await.unwrap();
        assert!(take(&mut resumed, 2).await.unwrap() == undisturbed.answer(2));
        resumed.rewind(2, false, |_, _| {}).await.unwrap();
        assert!(take(&mut resumed, 2).await.unwrap() == undisturbed.answer(2));
        assert!(again.list_sessions().await.unwrap().iter().any(|listed| listed.name == session.name()));
        again.delete_session(session.name()).await.unwrap();
        let gone = fleet.client().get_session(session.name()).await.unwrap_err();
        assert!(matches!(gone, Error::NotFound { .. }), "{gone}");
    }
}

#[tokio::test]
async fn sessions_of_a_server_that_was_killed_go_on_at_another() {
    let fleet = Fleet::new(2, &["--snapshot-every", "1"]);
    for (source, lanes) in
        sources().into_iter().flat_map(|source| [(source.clone(), LANES), (source, 700_000)])
    {
        let spec = spec(&source, lanes);
        let mut undisturbed = Undisturbed::new(&spec);
        let mut session = create(&fleet.client(), &format!("{}-{lanes}", source.kind()), &spec).await;
        for step in 0..3 {
            assert!(take(&mut session, step).await.unwrap() == undisturbed.answer(step));
        }
        let owner = fleet.owner_of(session.name()).await;
        fleet.kill(owner);
        for step in 3..6 {
            assert!(take(&mut session, step).await.unwrap() == undisturbed.answer(step), "{}", source.kind());
        }
        let info = fleet.client_of(1 - owner).get_session(session.name()).await.unwrap();
        assert_eq!((fleet.at(&info.owner), info.next_step), (1 - owner, 6));
        assert!(info.epoch > 0);
        fleet.start(owner);
        // The server that is back sends clients to the one that has it now.
        let told = fleet.client_of(owner).get_session(session.name()).await.unwrap_err();
        assert!(matches!(told, Error::Elsewhere { .. }), "{told}");
        assert!(take(&mut session, 6).await.unwrap() == undisturbed.answer(6));
    }
}

#[tokio::test]
async fn a_server_that_is_started_again_at_its_address_has_its_sessions() {
    let fleet = Fleet::new(2, &[]);
    let spec = spec(&privatize(), LANES);
    let mut undisturbed = Undisturbed::new(&spec);
    let mut session = create(&fleet.client(), "one", &spec).await;
    let owner = fleet.at(&session.info().owner);
    for step in 0..4 {
        assert!(take(&mut session, step).await.unwrap() == undisturbed.answer(step));
        fleet.kill(owner);
        fleet.start(owner);
        let info = fleet.client_of(owner).get_session(session.name()).await.unwrap();
        assert_eq!(fleet.at(&info.owner), owner);
    }
}

#[tokio::test]
async fn a_server_that_ends_hands_over_to_the_others() {
    let fleet = Fleet::new(3, &[]);
    for source in sources() {
        let spec = spec(&source, LANES);
        let mut undisturbed = Undisturbed::new(&spec);
        let mut session = create(&fleet.client(), source.kind(), &spec).await;
        for round in 0..3 {
            let step = 2 * round;
            assert!(take(&mut session, step).await.unwrap() == undisturbed.answer(step));
            let owner = fleet.owner_of(session.name()).await;
            fleet.drain(owner);
            assert!(take(&mut session, step + 1).await.unwrap() == undisturbed.answer(step + 1));
            assert_ne!(fleet.owner_of(session.name()).await, owner);
            fleet.start(owner);
        }
    }
}

#[tokio::test]
async fn a_server_is_added() {
    let fleet = Fleet::new(2, &[]);
    let spec = spec(&privatize(), 100);
    let before = fleet.client();
    let mut sessions = Vec::new();
    for number in 0..8 {
        let mut session = create(&before, &format!("before-{number}"), &spec).await;
        take(&mut session, 0).await.unwrap();
        sessions.push(session);
    }
    let third = fleet.add();
    let after = fleet.client();
    let mut at_third = Vec::new();
    for number in 0..16 {
        let mut session = create(&after, &format!("after-{number}"), &spec).await;
        take(&mut session, 0).await.unwrap();
        if fleet.at(&session.info().owner) == third {
            at_third.push(session.name().to_owned());
        }
    }
    assert!(!at_third.is_empty());
    // Sessions stay where they are, and clients with more addresses find them.
    let expected = Undisturbed::new(&spec).answer(1);
    for session in sessions {
        let mut again = after.open_session(session.name()).await.unwrap();
        assert_ne!(fleet.at(&again.info().owner), third);
        assert!(take(&mut again, 1).await.unwrap() == expected);
    }
    // A client sends nothing to an address that it was not given.
    let told = fleet.client_of(0).get_session(&at_third[0]).await.unwrap_err();
    assert!(told.to_string().contains(&fleet.target(third)), "{told}");
}

/// Sessions of a server that is gone are waited for once, however many there are.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_sessions_of_a_server_that_is_gone_are_taken_together() {
    const SESSIONS: usize = 40;
    let fleet = Fleet::new(2, &[]);
    let spec = spec(&privatize(), 100);
    let at_first = client(&fleet.target(0));
    let mut taking = tokio::task::JoinSet::new();
    let mut sessions = Vec::new();
    for number in 0..SESSIONS {
        let mut session = create(&at_first, &format!("s{number}"), &spec).await;
        take(&mut session, 0).await.unwrap();
        sessions.push(session.name().to_owned());
    }
    fleet.kill(0);
    let expected = Undisturbed::new(&spec).answer(1);
    let started = std::time::Instant::now();
    for name in sessions {
        let at_second = client(&fleet.target(1));
        taking.spawn(async move {
            let mut session = at_second.open_session(&name).await.unwrap();
            take(&mut session, 1).await.unwrap()
        });
    }
    while let Some(taken) = taking.join_next().await {
        assert!(taken.unwrap() == expected);
    }
    eprintln!("{SESSIONS} sessions were taken after {:?}", started.elapsed());
}

#[tokio::test]
async fn servers_are_found_by_a_name() {
    let fleet = Fleet::new(1, &[]);
    let spec = spec(&privatize(), LANES);
    let mut undisturbed = Undisturbed::new(&spec);
    let port = fleet.target(0).rsplit(':').next().unwrap().to_owned();
    let named = client(&format!("dns:///localhost:{port}"));
    let mut session = create(&named, "named", &spec).await;
    for step in 0..3 {
        assert!(take(&mut session, step).await.unwrap() == undisturbed.answer(step));
        fleet.kill(0);
        fleet.start(0);
    }
}

/// What is released at one server is known at the next.
#[tokio::test]
async fn a_gradient_that_was_released_is_the_only_one_at_the_next_server() {
    let fleet = Fleet::new(2, &[]);
    let spec = spec(&privatize(), LANES);
    let mut undisturbed = Undisturbed::new(&spec);
    let mut session = create(&fleet.client(), "one", &spec).await;
    for step in 0..3 {
        take(&mut session, step).await.unwrap();
    }
    fleet.kill(fleet.at(&session.info().owner));
    let refused = session.privatize(2, input(&spec, 99)).await.unwrap_err();
    assert!(matches!(refused, Error::Diverged { requested: 2, .. }), "{refused}");
    assert!(take(&mut session, 2).await.unwrap() == undisturbed.answer(2));
}
