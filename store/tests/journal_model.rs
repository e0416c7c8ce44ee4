//! A journal whose owner and fencers have faults, against what must hold whatever happens.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a panic is a failed test")]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use noised_store::faults::{Faults, Rates, Stop};
use noised_store::{Journal, JournalError, JournalId, Past, SealKey, SealedStore, Store, fence, inspect};
use proptest::prelude::*;
use tokio::task::{JoinSet, yield_now};

/// What has happened so far, in the order of the runtime's single thread.
#[derive(Default)]
struct Seen {
    /// Payloads that were handed to a commit.
    handed: Vec<u64>,
    /// Payloads that were acknowledged, with their numbers.
    acknowledged: BTreeMap<u64, u64>,
    /// The highest fold that was asked for.
    folded: u64,
    pasts: Vec<Past>,
}

type Shared = Arc<Mutex<Seen>>;

fn key() -> SealKey {
    SealKey::derive(&[3; 32])
}

fn payload(number: u64) -> Bytes {
    Bytes::copy_from_slice(&number.to_le_bytes())
}

async fn commit(journal: Journal, seen: Shared, number: u64) {
    let fenced_before = {
        let mut seen = seen.lock().unwrap();
        seen.handed.push(number);
        !seen.pasts.is_empty()
    };
    if let Ok(at) = journal.commit(payload(number)).await {
        assert!(!fenced_before, "a commit after a fence was acknowledged");
        assert_eq!(seen.lock().unwrap().acknowledged.insert(number, at), None);
    }
}

/// Commits, some at once and some of which are dropped, and folds, until the journal is fenced or all is
/// done.
async fn own(store: SealedStore, id: JournalId, seen: Shared, rounds: u64, seed: u64) {
    let Ok(journal) = Journal::begin(store, id).await else { return };
    let mut next = 0;
    for round in 0..rounds {
        let choice = seed.rotate_left(u32::try_from(round % 64).unwrap()) ^ round;
        let mut commits = JoinSet::new();
        for _ in 0..=choice % 4 {
            commits.spawn(commit(journal.clone(), Arc::clone(&seen), next));
            next += 1;
        }
        match choice % 5 {
            // Dropped while they are under way.
            0 => yield_now().await,
            1 => {
                let below = {
                    let mut seen = seen.lock().unwrap();
                    let last = seen.acknowledged.values().max().copied().unwrap_or(0);
                    let below = last.saturating_sub(choice % 3);
                    seen.folded = seen.folded.max(below);
                    below
                };
                let _ = journal.fold(below).await;
                while commits.join_next().await.is_some() {}
            }
            _ => {
                while let Some(done) = commits.join_next().await {
                    done.unwrap();
                }
            }
        }
        if journal.is_fenced() {
            assert_eq!(journal.commit(payload(u64::MAX)).await, Err(JournalError::Fenced));
            return;
        }
    }
}

async fn fence_until_done(store: SealedStore, id: JournalId, seen: Shared, after: u64) {
    for _ in 0..after {
        yield_now().await;
    }
    loop {
        match fence(&store, &id).await {
            Ok(past) => return check(&mut seen.lock().unwrap(), past),
            Err(error) => assert!(error.is_unavailable(), "{error}"),
        }
        yield_now().await;
    }
}

/// What must hold of what a fencer sees, at any time after its fence.
fn holds(seen: &Seen, past: &Past) {
    assert!(past.fenced && past.folded_below <= seen.folded, "{past:?}");
    let found: BTreeMap<u64, u64> = past
        .payloads
        .iter()
        .map(|(at, bytes)| (u64::from_le_bytes(bytes.as_ref().try_into().unwrap()), *at))
        .collect();
    assert_eq!(found.len(), past.payloads.len(), "a payload is there twice: {past:?}");
    assert!(past.payloads.is_sorted_by_key(|(at, _)| *at));
    for (payload, at) in &seen.acknowledged {
        if *at >= past.folded_below {
            assert_eq!(found.get(payload), Some(at), "an acknowledged payload is missing: {past:?}");
        }
    }
    assert!(found.keys().all(|payload| seen.handed.contains(payload)), "{past:?}");
}

fn check(seen: &mut Seen, past: Past) {
    holds(seen, &past);
    if let Some(first) = seen.pasts.first() {
        assert_eq!(*first, past, "two fencers see different pasts");
    }
    seen.pasts.push(past);
}

#[derive(Clone, Debug)]
struct Case {
    seed: u64,
    rounds: u64,
    owner: (u16, u16, u16, u16),
    fencers: (u16, u16, u16, u16),
    after: [u64; 2],
    crash: Option<u64>,
}

fn rates((fails, loses_answer, is_late, turns): (u16, u16, u16, u16)) -> Rates {
    Rates { fails, loses_answer, is_late, turns }
}

async fn run(case: Case) -> u64 {
    let store = Store::memory();
    let id = JournalId::random().unwrap();
    let seen = Shared::default();
    let owner = Faults::new(case.seed);
    owner.set(rates(case.owner));
    let of_owner = SealedStore::new(owner.wrap(&store), key());
    let mut processes = vec![owner.clone()];
    let mut tasks = JoinSet::new();
    let owning = own(of_owner, id.clone(), Arc::clone(&seen), case.rounds, case.seed);
    if let Some(stop) = case.crash {
        // The process is stopped, and goes on long after others took over.
        owner.stop_at(if case.seed.is_multiple_of(2) { Stop::Before(stop) } else { Stop::After(stop) });
    }
    let owning = tokio::spawn(owning);
    for (at, after) in case.after.into_iter().enumerate() {
        let faults = Faults::new(case.seed ^ (at as u64 + 1) << 32);
        faults.set(rates(case.fencers));
        let sealed = SealedStore::new(faults.wrap(&store), key());
        processes.push(faults);
        tasks.spawn(fence_until_done(sealed, id.clone(), Arc::clone(&seen), after));
    }
    let mut deliveries = 0;
    while !tasks.is_empty() {
        while let Some(done) = tasks.try_join_next() {
            done.unwrap();
        }
        for process in &processes {
            deliveries += 1;
            if (case.seed.wrapping_mul(deliveries) >> 20).is_multiple_of(7) {
                process.deliver().await;
            }
        }
        let looked = inspect(&SealedStore::new(store.clone(), key()), &id).await.unwrap();
        assert!(looked.payloads.is_sorted_by_key(|(at, _)| *at));
        yield_now().await;
    }
    owner.resume();
    owning.await.unwrap();
    for process in &processes {
        while process.deliver().await {}
    }
    // Nothing that came late changes what a fencer sees.
    let past = fence(&SealedStore::new(store, key()), &id).await.unwrap();
    let mut seen = seen.lock().unwrap();
    check(&mut seen, past);
    processes.iter().map(Faults::injected).sum()
}

fn on_one_thread<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(work)
}

fn of_process() -> impl Strategy<Value = (u16, u16, u16, u16)> {
    (0..150_u16, 0..150_u16, 0..150_u16, 0..6_u16)
}

fn cases() -> impl Strategy<Value = Case> {
    let crash = proptest::option::of(0..80_u64);
    (any::<u64>(), 1..40_u64, of_process(), of_process(), [0..600_u64, 0..600], crash).prop_map(
        |(seed, rounds, owner, fencers, after, crash)| Case { seed, rounds, owner, fencers, after, crash },
    )
}

fn in_memory(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(in_memory(1000))]

    #[test]
    fn what_was_acknowledged_is_what_a_fencer_sees(case in cases()) {
        on_one_thread(run(case));
    }
}

/// The owner is killed, or stopped and woken up, before and after each of its operations.
#[test]
fn a_stop_at_every_operation() {
    for wakes in [false, true] {
        for number in 0.. {
            let mut reached = false;
            for stop in [Stop::Before(number), Stop::After(number)] {
                reached |= on_one_thread(stopped_at(stop, wakes));
            }
            if !reached {
                assert!(number > 30, "the owner has only {number} operations");
                break;
            }
        }
    }
}

async fn stopped_at(stop: Stop, wakes: bool) -> bool {
    let store = Store::memory();
    let id = JournalId::random().unwrap();
    let seen = Shared::default();
    let owner = Faults::new(1);
    owner.stop_at(stop);
    let sealed = SealedStore::new(owner.wrap(&store), key());
    let owning = tokio::spawn(own(sealed, id.clone(), Arc::clone(&seen), 12, 0x1234_5678_9abc_def1));
    while !owner.is_stopped() && !owning.is_finished() {
        yield_now().await;
    }
    let reached = owner.is_stopped();
    let sealed = SealedStore::new(store, key());
    let past = fence(&sealed, &id).await.unwrap();
    check(&mut seen.lock().unwrap(), past);
    if wakes {
        owner.resume();
        owning.await.unwrap();
    } else {
        owning.abort();
    }
    let past = fence(&sealed, &id).await.unwrap();
    check(&mut seen.lock().unwrap(), past);
    reached
}

/// While the store is away a commit says so, and all that was kept is there once the store is back.
#[test]
fn a_store_that_comes_back() {
    on_one_thread(async {
        let store = Store::memory();
        let faults = Faults::new(5);
        let sealed = SealedStore::new(faults.wrap(&store), key());
        let journal = Journal::begin(sealed, JournalId::random().unwrap()).await.unwrap();
        faults.set(Rates { fails: 1000, ..Rates::default() });
        let first = journal.commit(payload(1)).await.unwrap_err();
        assert!(matches!(first, JournalError::Pending(_)), "{first:?}");
        let second = journal.commit(payload(2)).await.unwrap_err();
        assert!(matches!(second, JournalError::Store(_)) && second.is_unavailable(), "{second:?}");
        faults.set(Rates::default());
        assert_eq!(journal.commit(payload(3)).await, Ok(2));
        let past = fence(&SealedStore::new(store, key()), journal.id()).await.unwrap();
        assert_eq!(past.payloads, [(1, payload(1)), (2, payload(3))]);
    });
}

/// A fencer stops at each of its operations, while the owner goes on and deletes the numbers that the fencer
/// knew.
#[test]
fn a_fencer_that_was_asleep() {
    for number in 0.. {
        for stop in [Stop::Before(number), Stop::After(number)] {
            if !on_one_thread(asleep_at(stop)) {
                assert!(number > 4, "the fencer has only {number} operations");
                return;
            }
        }
    }
}

async fn asleep_at(stop: Stop) -> bool {
    let store = Store::memory();
    let sealed = SealedStore::new(store.clone(), key());
    let journal = Journal::begin(sealed.clone(), JournalId::random().unwrap()).await.unwrap();
    let mut acknowledged = Vec::new();
    for number in 0..3 {
        acknowledged.push(journal.commit(payload(number)).await.unwrap());
    }
    let fencer = Faults::new(1);
    fencer.stop_at(stop);
    let asleep = SealedStore::new(fencer.wrap(&store), key());
    let id = journal.id().clone();
    let fencing = tokio::spawn(async move { fence(&asleep, &id).await.unwrap() });
    while !fencer.is_stopped() && !fencing.is_finished() {
        yield_now().await;
    }
    let reached = fencer.is_stopped();
    for number in 3..9 {
        acknowledged.extend(journal.commit(payload(number)).await.ok());
    }
    let below = acknowledged.last().unwrap().saturating_sub(1);
    let _ = journal.fold(below).await;
    acknowledged.extend(journal.commit(payload(9)).await.ok());
    fencer.resume();
    let past = fencing.await.unwrap();
    assert_eq!(journal.commit(payload(10)).await, Err(JournalError::Fenced), "{stop:?}");
    let found: Vec<u64> = past.payloads.iter().map(|(number, _)| *number).collect();
    acknowledged.retain(|number| *number >= past.folded_below);
    assert_eq!(found, acknowledged, "{stop:?}");
    assert_eq!(fence(&sealed, journal.id()).await, Ok(past));
    reached
}
