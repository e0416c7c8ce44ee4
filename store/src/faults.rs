//! A store that fails as stores do, by a seeded plan: for tests.
//!
//! [`Faults`] stands for the connection of one process to the store: what one wraps fails and stops by
//! itself, and several may wrap the same store. Delays are turns of the runtime, not time, so that one seed
//! is one run on a runtime with a single thread.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::watch;

use crate::backend::{Answer, Backend, Created, Listed};
use crate::error::StoreError;
use crate::store::Store;

/// How often each fault happens, out of 1000 operations, and how long operations take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rates {
    /// The operation fails, and had no effect.
    pub fails: u16,
    /// A write takes place, and the caller gets an error.
    pub loses_answer: u16,
    /// The caller gets an error, and the write takes place when [`Faults::deliver`] says so.
    pub is_late: u16,
    /// Turns of the runtime before and after an operation, at most.
    pub turns: u16,
}

/// The faults of one process.
#[derive(Clone)]
pub struct Faults {
    inner: Arc<Inner>,
}

struct Inner {
    plan: Mutex<Plan>,
    stopped: watch::Sender<bool>,
}

#[derive(Default)]
struct Plan {
    random: u64,
    rates: Rates,
    operations: u64,
    injected: u64,
    stop: Option<Stop>,
    late: Vec<(Store, Write)>,
}

/// Where a process stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Before the operation of that number, from 0, takes effect.
    Before(u64),
    /// After it took effect, and before its caller hears.
    After(u64),
}

#[derive(Clone)]
enum Write {
    Create(String, Bytes),
    Put(String, Bytes),
    Delete(String),
}

enum Fate {
    Works,
    Fails,
    LosesAnswer,
    IsLate,
}

impl Faults {
    /// No faults yet.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let plan = Plan { random: seed, ..Plan::default() };
        Self { inner: Arc::new(Inner { plan: Mutex::new(plan), stopped: watch::Sender::new(false) }) }
    }

    /// The store as this process sees it.
    #[must_use]
    pub fn wrap(&self, store: &Store) -> Store {
        Store::of(Faulty { store: store.clone(), inner: Arc::clone(&self.inner) })
    }

    /// Changes how often faults happen, from now on.
    pub fn set(&self, rates: Rates) {
        self.inner.plan().rates = rates;
    }

    /// Stops the process at an operation, as SIGSTOP would. Every operation waits until
    /// [`resume`](Self::resume).
    pub fn stop_at(&self, stop: Stop) {
        self.inner.plan().stop = Some(stop);
    }

    /// Stops the process now.
    pub fn stop(&self) {
        self.inner.stopped.send_replace(true);
    }

    /// Lets a stopped process go on.
    pub fn resume(&self) {
        self.inner.plan().stop = None;
        self.inner.stopped.send_replace(false);
    }

    /// Whether the process is stopped.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        *self.inner.stopped.borrow()
    }

    /// Operations that began.
    #[must_use]
    pub fn operations(&self) -> u64 {
        self.inner.plan().operations
    }

    /// Faults that happened.
    #[must_use]
    pub fn injected(&self) -> u64 {
        self.inner.plan().injected
    }

    /// Lets a late write take place, any of them; `false` where none is left.
    pub async fn deliver(&self) -> bool {
        let (store, write) = {
            let mut plan = self.inner.plan();
            if plan.late.is_empty() {
                return false;
            }
            let late = plan.late.len() as u64;
            let at = plan.below(late);
            plan.late.swap_remove(usize::try_from(at).unwrap_or(0))
        };
        // What it comes to concerns nobody any more.
        match write {
            Write::Create(name, bytes) => drop(store.create(&name, bytes).await),
            Write::Put(name, bytes) => drop(store.put(&name, bytes).await),
            Write::Delete(name) => drop(store.delete(&name).await),
        }
        true
    }
}

impl Inner {
    fn plan(&self) -> MutexGuard<'_, Plan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn wait_while_stopped(&self) {
        // The sender lives in `self`.
        let _ = self.stopped.subscribe().wait_for(|stopped| !*stopped).await;
    }

    async fn turns(&self) {
        let turns = {
            let mut plan = self.plan();
            let most = u64::from(plan.rates.turns);
            plan.below(most + 1)
        };
        for _ in 0..turns {
            tokio::task::yield_now().await;
        }
    }
}

impl Plan {
    /// A number below a bound: SplitMix64.
    fn below(&mut self, bound: u64) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound.max(1)
    }

    fn fate(&mut self, is_write: bool) -> Fate {
        let Rates { fails, loses_answer, is_late, turns: _ } = self.rates;
        let drawn = self.below(1000);
        let mut bound = 0;
        let mut hits = |rate: u16| {
            bound += u64::from(rate);
            drawn < bound
        };
        let fate = if hits(fails) {
            Fate::Fails
        } else if is_write && hits(loses_answer) {
            Fate::LosesAnswer
        } else if is_write && hits(is_late) {
            Fate::IsLate
        } else {
            return Fate::Works;
        };
        self.injected += 1;
        fate
    }
}

struct Faulty {
    store: Store,
    inner: Arc<Inner>,
}

impl Faulty {
    async fn run<T>(
        &self,
        write: Option<Write>,
        operation: impl Future<Output = Result<T, StoreError>> + Send,
    ) -> Result<T, StoreError> {
        let inner = &self.inner;
        let number = {
            let mut plan = inner.plan();
            plan.operations += 1;
            plan.operations - 1
        };
        let stops = |at: Stop| {
            if inner.plan().stop == Some(at) {
                inner.stopped.send_replace(true);
            }
        };
        stops(Stop::Before(number));
        inner.turns().await;
        inner.wait_while_stopped().await;
        let fate = inner.plan().fate(write.is_some());
        let error = |what: &str| Err(StoreError::Unavailable(format!("injected: {what}")));
        let answer = match (fate, write) {
            (Fate::Fails, _) => error("failed"),
            (Fate::IsLate, Some(write)) => {
                inner.plan().late.push((self.store.clone(), write));
                error("late")
            }
            (Fate::LosesAnswer, _) => operation.await.and_then(|_| error("answer lost")),
            (Fate::Works | Fate::IsLate, _) => operation.await,
        };
        stops(Stop::After(number));
        inner.turns().await;
        inner.wait_while_stopped().await;
        answer
    }
}

impl Backend for Faulty {
    fn describe(&self) -> String {
        format!("{} with faults", self.store.describe())
    }

    fn directory(&self) -> Option<&Path> {
        self.store.directory()
    }

    fn create<'a>(&'a self, name: &'a str, bytes: Bytes) -> Answer<'a, Created> {
        let write = Write::Create(name.to_owned(), bytes.clone());
        Box::pin(self.run(Some(write), self.store.create(name, bytes)))
    }

    fn put<'a>(&'a self, name: &'a str, bytes: Bytes) -> Answer<'a, ()> {
        let write = Write::Put(name.to_owned(), bytes.clone());
        Box::pin(self.run(Some(write), self.store.put(name, bytes)))
    }

    fn put_unsynced<'a>(&'a self, name: &'a str, bytes: Bytes) -> Answer<'a, ()> {
        let write = Write::Put(name.to_owned(), bytes.clone());
        Box::pin(self.run(Some(write), self.store.put_unsynced(name, bytes)))
    }

    fn read<'a>(&'a self, name: &'a str) -> Answer<'a, Option<Bytes>> {
        Box::pin(self.run(None, self.store.read(name)))
    }

    fn list<'a>(&'a self, folder: &'a str) -> Answer<'a, Vec<Listed>> {
        Box::pin(self.run(None, self.store.list(folder)))
    }

    fn folders<'a>(&'a self, folder: &'a str) -> Answer<'a, Vec<String>> {
        Box::pin(self.run(None, self.store.folders(folder)))
    }

    fn delete<'a>(&'a self, name: &'a str) -> Answer<'a, ()> {
        Box::pin(self.run(Some(Write::Delete(name.to_owned())), self.store.delete(name)))
    }
}
