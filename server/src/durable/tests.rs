//! Several servers with one store, as they act between one another's calls.

use std::sync::Arc;
use std::time::Duration;

use noised::noise::{MasterKey, NoiseKey};
use noised::session::{KeyOrigin, Noise, NoiseOptions, ResolvedSpec, Source};
use noised::{DType, MatrixSpec, SessionSpec, Tree};
use noised_proto::ServiceError;
use noised_store::{SealKey, SealedStore, Store};

use super::{Begun, Durable, Place, State, Stored};
use crate::config::SnapshotEvery;
use crate::identity::SessionKey;
use crate::ledger::Wanted;

async fn server(store: &SealedStore) -> Arc<Durable> {
    let state = State {
        store: store.clone(),
        snapshot_every: SnapshotEvery::default(),
        fold_after: 100,
        advertise: None,
        lease: Duration::from_secs(1),
        master_key: MasterKey::parse("key", &[1; 32]).unwrap(),
        ledger: None,
    };
    Durable::open(state, None).await.unwrap()
}

fn sealed() -> SealedStore {
    SealedStore::new(Store::memory(), SealKey::derive(&[1; 32]))
}

fn key(id: &str) -> SessionKey {
    SessionKey::named("", &format!("sessions/{id}"))
}

fn resolved() -> ResolvedSpec {
    let noise = Noise { stddev: 1.0, key: KeyOrigin::Derived { noise_id: "run".into() } };
    let spec = SessionSpec::new(MatrixSpec::PrefixSum, Tree::flat(10, DType::F32).unwrap());
    SessionSpec { source: Source::Gaussian(noise), ..spec }.resolve().unwrap()
}

fn begin(server: &Durable, place: Place, id: &str) -> (Arc<Stored>, Begun) {
    let resolved = resolved();
    let options: NoiseOptions = resolved.noise_options(None, None);
    let no_key: Option<&NoiseKey> = None;
    server.begin(place, &key(id), &resolved, options, no_key, None)
}

async fn make(server: &Durable, id: &str) -> Result<Arc<Stored>, ServiceError> {
    let (stored, begun) = begin(server, server.place(&key(id)).await?, id);
    server.make(&stored, &begun).await.map(|()| stored)
}

async fn claim(server: &Arc<Durable>, place: &Place, id: &str) -> Result<bool, ServiceError> {
    let (server, place, holder) = (Arc::clone(server), place.clone(), key(id));
    let claiming = tokio::task::spawn_blocking(move || {
        let resolved = resolved();
        let (fingerprint, lanes) = (resolved.noise_fingerprint(), resolved.lanes());
        let (start_over, goes_on) = (false, false);
        let holder = &holder;
        server
            .claim_noise(&Wanted { noise_id: "run", fingerprint, lanes, holder, start_over, goes_on }, &place)
    });
    claiming.await.unwrap()
}

fn is_elsewhere<T>(done: &Result<T, ServiceError>) -> bool {
    matches!(done, Err(ServiceError::StoreUnavailable { .. }))
}

/// A server finds a session, and stands still while others delete it and use its name again.
#[tokio::test]
async fn a_session_that_was_replaced_is_not_taken() {
    let store = sealed();
    let (one, two, three) = (server(&store).await, server(&store).await, server(&store).await);
    let first = make(&one, "a").await.unwrap();
    let found = two.find(&key("a")).await.unwrap().unwrap();
    let same = three.find(&key("a")).await.unwrap().unwrap();
    three.end_found(&same).await.unwrap();
    let next = make(&three, "a").await.unwrap();
    assert!(first.uid != next.uid && first.folder == next.folder);
    assert!(is_elsewhere(&two.take(&found).await));
    assert!(store.list(&format!("{}/{}", first.folder, first.uid)).await.unwrap().is_empty());
    // The other one goes on.
    assert_eq!(two.find(&key("a")).await.unwrap().unwrap().made.uid, next.uid);
}

#[tokio::test]
async fn of_two_sessions_that_want_a_noise_one_is_made() {
    let store = sealed();
    let (one, two) = (server(&store).await, server(&store).await);
    let place = one.place(&key("a")).await.unwrap();
    assert_eq!(claim(&one, &place, "a").await, Ok(false));
    // The server itself knows that it is making the session.
    let other = one.place(&key("b")).await.unwrap();
    assert!(matches!(claim(&one, &other, "b").await, Err(ServiceError::NoiseInUse { .. })));
    // Another one cannot know whether a server without an address lives, and comes first.
    let at_two = two.place(&key("b")).await.unwrap();
    assert_eq!(claim(&two, &at_two, "b").await, Ok(false));
    let (late, begun) = begin(&one, place.clone(), "a");
    assert!(is_elsewhere(&one.make(&late, &begun).await));
    assert!(is_elsewhere(&claim(&one, &place, "a").await), "it would end the making of the other");
    drop((late, begun, place));
    let (made, begun) = begin(&two, at_two, "b");
    two.make(&made, &begun).await.unwrap();
    let again = one.place(&key("a")).await.unwrap();
    assert!(matches!(claim(&one, &again, "a").await, Err(ServiceError::NoiseInUse { .. })));
    // Nothing of the one that was not made is left but that it cannot be.
    let left = store.list(&super::objects::folder_of(&key("a"))).await.unwrap();
    assert!(left.len() == 1 && left[0].name.ends_with("/made-0000000000"), "{left:?}");
}

/// A server was killed after it claimed a noise, and makes the same session when it is there again.
#[tokio::test]
async fn a_session_is_made_after_a_try_that_broke_off() {
    let store = sealed();
    let before = server(&store).await;
    let place = before.place(&key("a")).await.unwrap();
    claim(&before, &place, "a").await.unwrap();
    drop((place, before));
    let after = server(&store).await;
    let tries = async {
        loop {
            let place = after.place(&key("a")).await.unwrap();
            match claim(&after, &place, "a").await {
                Ok(started_over) => return (started_over, place),
                Err(error) => assert!(is_elsewhere(&Err::<(), _>(error))),
            }
        }
    };
    let (started_over, place) = tokio::time::timeout(Duration::from_secs(60), tries).await.unwrap();
    assert!(!started_over);
    let (stored, begun) = begin(&after, place, "a");
    after.make(&stored, &begun).await.unwrap();
}
