//! A journal over stores without faults.
#![allow(clippy::unwrap_used, reason = "a panic here is a failed test")]

use bytes::Bytes;
use noised_store::{
    Journal, JournalError, JournalId, SealKey, SealedStore, Store, StoreError, fence, inspect, retire,
};

fn sealed() -> SealedStore {
    SealedStore::new(Store::memory(), SealKey::derive(&[1; 32]))
}

async fn begun(store: &SealedStore) -> Journal {
    Journal::begin(store.clone(), JournalId::random().unwrap()).await.unwrap()
}

fn payload(text: impl ToString) -> Bytes {
    text.to_string().into()
}

#[tokio::test]
async fn a_fencer_gets_what_was_committed_and_ends_it() {
    let store = sealed();
    let journal = begun(&store).await;
    for step in 0..5_u64 {
        assert_eq!(journal.commit(payload(step)).await, Ok(step + 1));
    }
    let seen = inspect(&store, journal.id()).await.unwrap();
    assert!(!seen.fenced && !journal.is_fenced());
    let past = fence(&store, journal.id()).await.unwrap();
    assert_eq!(past.payloads, (0..5_u64).map(|step| (step + 1, payload(step))).collect::<Vec<_>>());
    assert_eq!((past.payloads.clone(), past.end, past.folded_below), (seen.payloads, seen.end, 0));
    assert_eq!(journal.commit(payload("late")).await, Err(JournalError::Fenced));
    journal.fenced().await;
    assert_eq!(fence(&store, journal.id()).await, Ok(past));
}

#[tokio::test]
async fn what_nobody_needs_is_deleted_and_the_fence_stays() {
    let store = sealed();
    let journal = begun(&store).await;
    for step in 0..5_u64 {
        journal.commit(payload(step)).await.unwrap();
    }
    journal.fold(3).await.unwrap();
    for deleted in [4, 0] {
        assert_eq!(retire(&store, journal.id()).await, Ok(deleted));
        let left = inspect(&store, journal.id()).await.unwrap();
        assert!(left.fenced && left.payloads.is_empty() && left.folded_below == left.end);
        assert_eq!(fence(&store, journal.id()).await, Ok(left));
    }
    assert_eq!(journal.commit(payload("late")).await, Err(JournalError::Fenced));
    assert_eq!(JournalId::all(&store).await.unwrap(), [journal.id().clone()]);
}

#[tokio::test]
async fn an_owner_that_writes_nothing_finds_the_fence_by_looking() {
    let store = sealed();
    let journal = begun(&store).await;
    for step in 0..3_u64 {
        journal.commit(payload(step)).await.unwrap();
        assert_eq!(journal.look().await, Ok(false));
    }
    fence(&store, journal.id()).await.unwrap();
    assert!(!journal.is_fenced());
    assert_eq!(journal.look().await, Ok(true));
    journal.fenced().await;
    assert_eq!(journal.commit(payload("late")).await, Err(JournalError::Fenced));
}

#[tokio::test]
async fn commits_that_wait_share_an_object() {
    let store = sealed();
    let journal = begun(&store).await;
    let commits = (0..500_u64).map(|at| {
        let journal = journal.clone();
        tokio::spawn(async move { journal.commit(payload(at)).await.unwrap() })
    });
    let commits: Vec<_> = commits.collect();
    for commit in commits {
        commit.await.unwrap();
    }
    let stats = journal.stats();
    assert_eq!(stats.payloads, 500);
    assert!(stats.objects < 50, "{stats:?}");
    assert_eq!(fence(&store, journal.id()).await.unwrap().payloads.len(), 500);
}

#[tokio::test]
async fn folded_objects_are_deleted_and_explained() {
    let store = sealed();
    let journal = begun(&store).await;
    for step in 0..10_u64 {
        journal.commit(payload(step)).await.unwrap();
    }
    journal.fold(8).await.unwrap();
    // A fold that is older changes nothing.
    journal.fold(3).await.unwrap();
    assert!(matches!(
        journal.fold(100).await,
        Err(JournalError::Store(StoreError::Invalid { field: "fold", .. }))
    ));
    let past = fence(&store, journal.id()).await.unwrap();
    assert_eq!(past.folded_below, 8);
    assert_eq!(past.payloads, (8..11_u64).map(|number| (number, payload(number - 1))).collect::<Vec<_>>());
    assert_eq!(journal.stats().deleted, 8);
    assert_eq!(journal.fold(11).await, Err(JournalError::Fenced));
    assert_eq!(fence(&store, journal.id()).await, Ok(past));
}

#[tokio::test]
async fn a_missing_object_is_damage() {
    let store = sealed();
    let journal = begun(&store).await;
    for step in 0..4_u64 {
        journal.commit(payload(step)).await.unwrap();
    }
    let name = format!("journals/{}/{:020}", journal.id(), 2);
    store.delete(&name).await.unwrap();
    for past in [inspect(&store, journal.id()).await, fence(&store, journal.id()).await] {
        assert!(matches!(past, Err(StoreError::Damaged { name: found, .. }) if found == name));
    }
}

#[tokio::test]
async fn an_id_begins_once() {
    let store = sealed();
    let id = JournalId::random().unwrap();
    // Fenced before it began.
    assert_eq!(fence(&store, &id).await.unwrap().payloads, []);
    assert!(matches!(Journal::begin(store.clone(), id).await, Err(StoreError::Invalid { .. })));
    let journal = begun(&store).await;
    assert!(Journal::begin(store.clone(), journal.id().clone()).await.is_err());
    assert_eq!(journal.commit(payload("a")).await, Ok(1));
}
