//! A noise that is named by its `noise_id` is not begun again, whichever servers of one store are asked, and
//! whenever they are killed.

use noised::SessionSpec;
use noised::session::{KeyOrigin, Noise, Source};
use noised_client::{Client, CreateOptions, Error, Session};
use noised_tests::noises::STDDEV;

use super::house::{House, files};
use super::{spec, take};

const LANES: u64 = 500;

fn derived(noise_id: &str) -> SessionSpec {
    let noise = Noise { stddev: STDDEV, key: KeyOrigin::Derived { noise_id: noise_id.into() } };
    spec(&Source::Privatize { noise, answer_dtype: None }, LANES)
}

async fn create(client: &Client, id: &str, noise_id: &str, start_over: bool) -> Result<Session, Error> {
    let options = CreateOptions { id: id.into(), start_noise_over: start_over, ..CreateOptions::default() };
    client.create_session(&derived(noise_id), options).await
}

#[tokio::test]
async fn a_noise_is_remembered_over_kills() {
    let house = House::new(&[]);
    let client = house.client();
    let mut session = create(&client, "one", "run", false).await.unwrap();
    let first = take(&mut session, 0).await.unwrap();
    for over in [false, true] {
        house.kill();
        house.start();
        let refused = create(&client, "other", "run", over).await.unwrap_err();
        assert!(
            matches!(&refused, Error::NoiseInUse { message } if message.contains("sessions/one")),
            "{refused}"
        );
    }
    // Another noise is free, and so are the same lanes of it.
    create(&client, "other", "another", false).await.unwrap();
    client.delete_session("sessions/one").await.unwrap();
    house.kill();
    house.start();
    let refused = create(&client, "third", "run", false).await.unwrap_err();
    assert!(matches!(refused, Error::NoiseUsed { next_step: Some(1), .. }), "{refused}");
    // The name is used again, with another noise: what the store had of the first session is gone then.
    create(&client, "one", "third", false).await.unwrap();
    house.kill();
    house.start();
    let refused = create(&client, "third", "run", false).await.unwrap_err();
    assert!(matches!(refused, Error::NoiseUsed { next_step: Some(1), .. }), "{refused}");
    let mut over = create(&client, "third", "run", true).await.unwrap();
    assert!(take(&mut over, 0).await.unwrap() == first);
    // It is the session's own again after a kill.
    house.kill();
    house.start();
    over.rewind(0, false, |_, _| {}).await.unwrap();
    assert!(take(&mut over, 0).await.unwrap() == first);
}

/// Many sessions of two servers want one noise at once: one has it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_many_gets_a_noise() {
    let house = House::new(&[]);
    let second = house.second();
    for round in 0..4 {
        let mut asking = tokio::task::JoinSet::new();
        for number in 0..8 {
            let client = if number % 2 == 0 { house.client() } else { second.client() };
            asking.spawn(async move {
                create(&client, &format!("s{round}-{number}"), &format!("run{round}"), false).await
            });
        }
        let (mut made, mut refused) = (0, 0);
        while let Some(asked) = asking.join_next().await {
            match asked.unwrap() {
                Ok(_) => made += 1,
                Err(Error::NoiseInUse { .. }) => refused += 1,
                Err(error) => panic!("{error}"),
            }
        }
        assert_eq!((made, refused), (1, 7), "round {round}");
    }
}

/// A server is killed while a session is made: whoever asks for the noise next is served, or told who has it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_was_not_made_holds_no_noise() {
    let house = House::new(&[]);
    for round in 0..8_u64 {
        let noise_id = format!("run{round}");
        let asking = {
            let (client, noise_id) = (house.client(), noise_id.clone());
            tokio::spawn(async move { create(&client, &format!("a{round}"), &noise_id, false).await })
        };
        tokio::time::sleep(std::time::Duration::from_millis(3 * round)).await;
        house.kill();
        house.start();
        let other = create(&house.client(), &format!("b{round}"), &noise_id, false).await;
        // The first client asks again until it is answered.
        let first = asking.await.unwrap();
        let have = [first, other];
        let made = have.iter().filter(|made| made.is_ok()).count();
        assert_eq!(made, 1, "round {round}: {have:?}");
        for refused in have.into_iter().filter_map(Result::err) {
            assert!(matches!(refused, Error::NoiseInUse { .. }), "{refused}");
        }
    }
}

/// A server was killed before it wrote the object that decides whether a session is made.
#[tokio::test]
async fn a_session_whose_making_broke_off_is_never_made() {
    let house = House::new(&[]);
    create(&house.client(), "first", "run", false).await.unwrap();
    house.kill();
    let sessions = std::fs::read_dir(house.state().join("sessions")).unwrap();
    let folder = sessions.map(|entry| entry.unwrap().path()).next().unwrap();
    std::fs::remove_file(folder.join("made-0000000000")).unwrap();
    house.start();
    let client = house.client();
    let gone = client.open_session("sessions/first").await.unwrap_err();
    assert!(matches!(gone, Error::NotFound { .. }), "{gone}");
    let mut session = create(&client, "second", "run", false).await.unwrap();
    take(&mut session, 0).await.unwrap();
    // Nothing is left of the first but that nobody can make it.
    assert_eq!(files(&folder), [folder.join("made-0000000000")]);
    let refused = create(&client, "first", "run", false).await.unwrap_err();
    assert!(matches!(refused, Error::NoiseInUse { .. }), "{refused}");
    create(&client, "first", "another", false).await.unwrap();
}

/// What a ledger's file remembers is in the store from then on.
#[tokio::test]
async fn a_ledger_is_taken_over() {
    let directory = tempfile::tempdir().unwrap();
    let ledger = directory.path().join("ledger");
    let record = |session: &str| {
        let fingerprint = derived("old").resolve().unwrap().noise_fingerprint();
        format!(
            "{{\"noise_id\":\"old\",\"fingerprint\":\"{fingerprint}\",\"lanes\":[0,{LANES}],{session}}}\n"
        )
    };
    let records = [record("\"session\":\"sessions/gone\""), record("\"next_step\":7")].concat();
    std::fs::write(&ledger, records).unwrap();
    let house = House::new(&["--noise-ledger", ledger.to_str().unwrap()]);
    for _ in 0..2 {
        let refused = create(&house.client(), "new", "old", false).await.unwrap_err();
        assert!(matches!(refused, Error::NoiseUsed { next_step: Some(7), .. }), "{refused}");
        house.kill();
        // It is asked no more.
        std::fs::write(&ledger, "").unwrap();
        house.start();
    }
    create(&house.client(), "new", "old", true).await.unwrap();
}
