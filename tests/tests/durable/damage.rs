//! Stores that are damaged, and stores that two servers have.

use std::path::PathBuf;

use noised::session::Source;
use noised_client::Error;

use super::house::{House, files};
use super::{Undisturbed, create, privatize, sources, spec, take};

fn folders(house: &House) -> Vec<PathBuf> {
    std::fs::read_dir(house.state().join("sessions")).unwrap().map(|entry| entry.unwrap().path()).collect()
}

#[tokio::test]
async fn damage_is_told_and_other_sessions_go_on() {
    let house = House::new(&["--snapshot-every", "1"]);
    let client = house.client();
    for source in sources() {
        let spec = spec(&source, 2_000);
        let damaged_id = format!("damaged-{}", source.kind());
        let mut sound = create(&client, &format!("sound-{}", source.kind()), &spec).await;
        let known = folders(&house);
        let mut damaged = create(&client, &damaged_id, &spec).await;
        for session in [&mut sound, &mut damaged] {
            take(session, 0).await.unwrap();
        }
        house.drain();
        let folder = folders(&house).into_iter().find(|folder| !known.contains(folder)).unwrap();
        let is_state = |file: &PathBuf| file.to_string_lossy().contains("state-");
        let mut files = files(&folder);
        // A session of noise is taken although its state is damaged, and has another owner's object then.
        files.sort_by_key(is_state);
        for file in files {
            let is_state = is_state(&file);
            // A state that did not come to count is deleted when the session is taken.
            let Ok(before) = std::fs::read(&file) else {
                assert!(is_state);
                continue;
            };
            let mut bytes = before.clone();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            std::fs::write(&file, &bytes).unwrap();
            house.start();
            let is_last = file.to_string_lossy().contains("owner-0000000000");
            let told = client.get_session(damaged.name()).await;
            // What an earlier owner knew is not read any more, and what draws can begin at step 0 again.
            if !is_last && (!is_state || source == Source::Input) {
                assert!(matches!(told, Err(Error::DataLoss { .. })), "{}: {told:?}", file.display());
            }
            let mut undisturbed = Undisturbed::new(&spec);
            assert!(take(&mut sound, 0).await.is_ok_and(|found| found == undisturbed.answer(0)));
            house.drain();
            std::fs::write(&file, &before).unwrap();
        }
        house.start();
        assert!(take(&mut damaged, 1).await.unwrap() == Undisturbed::new(&spec).answer(1));
        assert!(take(&mut sound, 1).await.unwrap() == Undisturbed::new(&spec).answer(1));
        client.delete_session(sound.name()).await.unwrap();
        client.delete_session(damaged.name()).await.unwrap();
    }
}

#[tokio::test]
async fn another_master_key_reads_nothing() {
    let house = House::new(&[]);
    let (client, spec) = (house.client(), spec(&privatize(), 100));
    let session = create(&client, "a", &spec).await;
    house.drain();
    let key = house.state().join("master.key");
    noised_tests::noises::write_master_key(&key, [9; 32]);
    house.start();
    let told = client.get_session(session.name()).await.unwrap_err();
    assert!(matches!(told, Error::DataLoss { .. }) && told.to_string().contains("key"), "{told}");
}

/// Nothing is released twice with different bits, and each server tells the truth.
#[tokio::test]
async fn two_servers_with_one_store_by_mistake() {
    let house = House::new(&[]);
    let spec = spec(&privatize(), 2_000);
    let mut undisturbed = Undisturbed::new(&spec);
    let mut at_first = create(&house.client(), "a", &spec).await;
    assert!(take(&mut at_first, 0).await.unwrap() == undisturbed.answer(0));
    let second = house.second();
    let mut at_second = second.client().open_session(at_first.name()).await.unwrap();
    assert!(take(&mut at_second, 1).await.unwrap() == undisturbed.answer(1));
    // The first one has lost it, and takes it back when it is asked for it.
    let other = super::input(&spec, 50);
    let refused = at_first.privatize(1, other).await.unwrap_err();
    assert!(matches!(refused, Error::Diverged { requested: 1, .. }), "{refused}");
    for step in 2..6 {
        let session = if step % 2 == 0 { &mut at_first } else { &mut at_second };
        assert!(take(session, step).await.unwrap() == undisturbed.answer(step), "{step}");
    }
}

#[tokio::test]
async fn what_is_set_wrongly_is_refused() {
    for (arguments, told) in [
        (vec!["--state="], "state: must not be empty"),
        (vec!["--state", "ftp://x/y"], "state"),
        (vec!["--state", "s3://bucket/prefix"], "s3"),
        (vec!["--state", "/dev/null/x"], "state"),
        (vec!["--state", "/nowhere", "--snapshot-every", "0"], "neither a number of steps"),
        (vec!["--snapshot-every", "1"], "snapshot_every: must not be set without state"),
        (vec!["--state", "/nowhere", "--state-option", "secret"], "state_option: must be KEY=VALUE"),
    ] {
        let text = House::refusal(&arguments);
        assert!(text.contains(told) && !text.contains("secret"), "{arguments:?}: {text}");
    }
}
