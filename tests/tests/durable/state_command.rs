//! `noised state`: what it tells of a store, while servers have it and after.

use std::path::Path;

use noised::session::Source;
use noised_tests::programs::program;
use serde_json::Value;

use super::house::{House, files};
use super::{Undisturbed, create, privatize, sources, spec, take};

/// What the program says: its standard output, its standard error, and whether it succeeded.
fn look(state: &Path, arguments: &[&str]) -> (String, String, bool) {
    let told = program("noised").args(["state", "--state"]).arg(state).args(arguments).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (text(told.stdout), text(told.stderr), told.status.success())
}

fn json(state: &Path, arguments: &[&str]) -> Value {
    let (out, err, is_fine) = look(state, arguments);
    assert!(is_fine, "{arguments:?}: {err}");
    serde_json::from_str(&out).unwrap()
}

fn sessions(state: &Path, arguments: &[&str]) -> Vec<Value> {
    let listed = json(state, &[&["ls", "--format", "json"], arguments].concat());
    assert_eq!(listed["damages"], serde_json::json!([]));
    listed["sessions"].as_array().unwrap().clone()
}

#[tokio::test]
async fn a_store_tells_of_its_sessions() {
    let house = House::new(&["--snapshot-every", "2"]);
    let (client, state) = (house.client(), house.state());
    for source in sources() {
        let mut session = create(&client, source.kind(), &spec(&source, 2_000)).await;
        for step in 0..5 {
            take(&mut session, step).await.unwrap();
        }
    }
    let of = |source: &str, arguments: &[&str]| {
        let found = sessions(&state, arguments);
        found.into_iter().find(|session| session["source"] == source).unwrap()
    };
    // What was released of `privatize` is in the store while its server serves, and the state of `input` is.
    let (held, input) = (of("privatize", &[]), of("input", &[]));
    assert_eq!(
        (&held["holding"], &held["next_step"], &held["released_steps"]),
        (&"held".into(), &5.into(), &5.into())
    );
    assert_eq!(
        (&input["next_step"], &input["state"]["step"], &input["rewinds"]),
        (&4.into(), &4.into(), &0.into())
    );
    assert_eq!(of("gaussian", &[])["may_be_further"], true);
    house.drain();
    // Who hands everything over leaves of its journal where it ends, and no more.
    assert_eq!(files(&state.join("journals")).len(), 3);
    for session in sessions(&state, &[]) {
        let (name, source) = (&session["name"], session["source"].as_str().unwrap());
        assert_eq!(name, &format!("sessions/{source}"));
        assert_eq!((&session["tenant"], &session["lanes"]), (&"default".into(), &2_000.into()));
        assert_eq!(
            (&session["holding"], &session["may_be_further"]),
            (&"free".into(), &false.into()),
            "{name}"
        );
        assert_eq!((&session["next_step"], &session["released_steps"]), (&5.into(), &5.into()), "{name}");
        assert!(session["bytes"].as_u64().unwrap() > 0 && session["fingerprint"].is_string());
        // By its name, by its id, and with its tenant.
        let shown = json(&state, &["show", source]);
        assert_eq!(shown["uid"], session["uid"]);
        assert!(shown["matrix"]["kind"].is_string());
        for name in [format!("sessions/{source}"), format!("tenants/default/sessions/{source}")] {
            assert_eq!(json(&state, &["show", &name]), shown);
        }
    }
    let (table, _, is_fine) = look(&state, &["ls"]);
    assert!(is_fine && table.lines().count() == 4 && table.contains("sessions/gaussian"), "{table}");
    house.start();
    house.client().delete_session("sessions/input").await.unwrap();
    assert_eq!(sessions(&state, &[]).len(), 2);
    assert_eq!(of("input", &["--all"])["holding"], "ended");
    let (_, refused, _) = look(&state, &["show", "other"]);
    assert!(refused.contains("no session other"), "{refused}");
}

/// Each object in turn is changed, cut or gone: that one is named.
#[tokio::test]
async fn a_store_that_is_damaged_is_told_object_by_object() {
    let house = House::new(&["--snapshot-every", "1"]);
    let (client, state) = (house.client(), house.state());
    let mut with_state = create(&client, "input", &spec(&Source::Input, 2_000)).await;
    let mut with_digests = create(&client, "privatize", &spec(&privatize(), 2_000)).await;
    for step in 0..2 {
        take(&mut with_state, step).await.unwrap();
        take(&mut with_digests, step).await.unwrap();
    }
    house.kill();
    let sound = json(&state, &["verify", "--format", "json"]);
    assert_eq!((&sound["totals"]["sessions"], &sound["damages"]), (&2.into(), &serde_json::json!([])));
    let counted = json(&state, &["show", "input"])["state"]["id"].as_str().unwrap().to_owned();
    let told = || {
        let (out, err, is_fine) = look(&state, &["verify"]);
        assert!(!is_fine && err.contains("damaged in"), "{out}{err}");
        out
    };
    let objects: Vec<_> =
        ["sessions", "journals"].into_iter().flat_map(|kind| files(&state.join(kind))).collect();
    assert!(objects.len() > 5);
    for object in objects {
        let before = std::fs::read(&object).unwrap();
        let name = object.strip_prefix(&state).unwrap().to_str().unwrap();
        let mut changed = before.clone();
        let middle = changed.len() / 2;
        changed[middle] ^= 1;
        for damaged in [&changed[..], &before[..before.len() - 1], &[]] {
            std::fs::write(&object, damaged).unwrap();
            assert!(told().contains(name), "{name}");
        }
        // An earlier state may not be deleted yet: nobody needs it.
        if name.contains(&counted) {
            std::fs::remove_file(&object).unwrap();
            assert!(told().contains(name), "{name}");
        }
        std::fs::write(&object, &before).unwrap();
    }
    assert!(look(&state, &["verify"]).2);
    let key = state.join("master.key");
    let right = std::fs::read(&key).unwrap();
    noised_tests::noises::write_master_key(&key, [9; 32]);
    assert!(told().contains("key"));
    std::fs::write(&key, right).unwrap();
}

/// Nothing that a session needs is deleted, and nothing of a server that may live.
#[tokio::test]
async fn what_killed_servers_left_is_deleted() {
    let house = House::new(&[]);
    let (client, state, spec) = (house.client(), house.state(), spec(&privatize(), 500));
    let mut undisturbed = Undisturbed::new(&spec);
    let mut session = create(&client, "a", &spec).await;
    let journals = || files(&state.join("journals")).len();
    let collect = |told: &str| {
        let (out, err, is_fine) = look(&state, &["gc"]);
        assert!(is_fine && out.contains(told), "{out}{err}");
    };
    for step in 0..20 {
        assert!(take(&mut session, step).await.unwrap() == undisturbed.answer(step));
    }
    collect("kept 0 journals of servers that are gone, which sessions need, and 1 of");
    house.kill();
    collect("kept 0 journals of servers that are gone, which sessions need, and 1 of");
    house.start();
    collect("kept 0 journals of servers that are gone, which sessions need, and 2 of");
    assert!(take(&mut session, 20).await.unwrap() == undisturbed.answer(20));
    let before = journals();
    collect("kept 0 journals of servers that are gone, which sessions need, and 1 of");
    assert!(before > 20 && journals() < 10, "{before} and {}", journals());
    collect("deleted 0 objects; 1 journals have ended");
    assert!(look(&state, &["verify"]).2);
    for step in 21..24 {
        house.kill();
        house.start();
        collect("deleted");
        assert!(take(&mut session, step).await.unwrap() == undisturbed.answer(step));
    }
}

#[test]
fn looking_makes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let none = directory.path().join("none");
    let (_, told, is_fine) = look(&none, &["ls"]);
    assert!(!is_fine && told.contains("no directory") && !none.exists(), "{told}");
    let (_, told, is_fine) = look(directory.path(), &["verify"]);
    assert!(!is_fine && told.contains("master.key"), "{told}");
    assert!(files(directory.path()).is_empty());
    let told = program("noised").args(["state", "ls"]).output().unwrap();
    assert!(String::from_utf8(told.stderr).unwrap().contains("state: is missing"));
}
