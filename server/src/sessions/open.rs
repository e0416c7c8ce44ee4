//! Sessions that are in the store, and not in this server's memory: looked for when somebody asks for them.

use std::sync::Arc;

use noised_proto::ServiceError;
use tokio::sync::OwnedMutexGuard;

use super::SessionsService;
use crate::durable::{Begun, Durable, delete_state, told};
use crate::entry::Entry;
use crate::identity::SessionKey;
use crate::lifecycle::Lifecycle;
use crate::registry::Restored;

impl SessionsService {
    /// The session of a key: in memory, or taken from the store.
    pub(super) async fn open(&self, key: &SessionKey) -> Result<Arc<Entry>, ServiceError> {
        match self.registry.get(key) {
            Ok(entry) if !entry.is_lost() => return Ok(entry),
            found if self.registry.durable().is_none() => return found,
            _ => {}
        }
        // A server that hands its sessions over takes none.
        self.lifecycle.check_open()?;
        let (service, key) = (self.clone(), key.clone());
        // A task of its own, with the turn: a session that is taken is entered before anybody else looks for
        // it, whether or not its caller waits.
        let opening = tokio::spawn(async move {
            let _turn = service.turn(&key).await;
            let found = service.find_in_turn(&key).await?;
            found.ok_or_else(|| ServiceError::SessionNotFound { name: key.name.clone() })
        });
        tokio::select! {
            biased;
            // Whether another server is alive may take longer to learn than this one has.
            () = self.lifecycle.draining.cancelled() => Err(Lifecycle::refusal()),
            opened = opening => opened.map_err(|_| ServiceError::Internal)?,
        }
    }

    /// The same for a task that has the session's turn; `None` where there is no such session.
    pub(super) async fn find_in_turn(&self, key: &SessionKey) -> Result<Option<Arc<Entry>>, ServiceError> {
        let Some(durable) = self.registry.durable() else { return Ok(self.registry.get(key).ok()) };
        if let Ok(entry) = self.registry.get(key) {
            if !entry.is_lost() {
                return Ok(Some(entry));
            }
            tracing::warn!(session = %key, "another server had taken the session: looking for it again");
            self.let_go(entry).await;
        }
        let Some(found) = durable.find(key).await? else { return Ok(None) };
        self.lifecycle.check_open()?;
        // A description may hold millions of numbers, each of which is checked.
        let (registry, store, of) = (Arc::clone(&self.registry), Arc::clone(durable), key.clone());
        let preparing = tokio::task::spawn_blocking(move || {
            let resolved = Arc::new(found.made.resolved()?);
            let (memory, keyed) = registry.prepare(&store, &of, &found.made, &resolved)?;
            Ok::<_, ServiceError>((found, resolved, memory, keyed))
        });
        let (found, resolved, memory, keyed) = preparing.await.map_err(|_| ServiceError::Internal)??;
        let stored = durable.take(&found).await?;
        let state = durable.state_of(&found);
        let fault = state.as_ref().map(crate::durable::StateReader::fault);
        // The step whose state is stored, so that what comes before it need not be computed again.
        let state_of = found.past.state(found.made.source()).map(|state| state.step);
        let (made, past) = (found.made, found.past);
        let restored = Restored { made, past, state, stored, memory, keyed, resolved };
        let registry = Arc::clone(&self.registry);
        let turn = registry.turn_to_create().await;
        let entered = key.clone();
        let entering = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            registry.restore(entered, restored)
        });
        let entry = match (entering.await.map_err(|_| ServiceError::Internal)?, fault) {
            (Ok(entry), _) => entry,
            (Err(error), fault) => {
                tracing::error!(session = %key, %error, "a stored session cannot go on");
                // A store that did not answer is no damage.
                return Err(fault.and_then(|fault| fault.get().cloned()).map_or(error, told));
            }
        };
        let next_step = entry.progress().standing.next_step;
        tracing::info!(session = %entry.key, next_step, state_of, "session taken from the store");
        Ok(Some(entry))
    }

    /// Waits until nobody else looks for a session of this key, or makes or ends one, where they are stored.
    pub(super) async fn turn(&self, key: &SessionKey) -> Option<OwnedMutexGuard<()>> {
        match self.registry.durable() {
            Some(durable) => Some(durable.turn(key).await),
            None => None,
        }
    }

    /// Stores a session that was made, before anybody is told of it. One that cannot be stored is let go of.
    /// For a task that has the session's turn.
    pub(super) async fn store(&self, entry: &Arc<Entry>, begun: &Begun) -> Result<(), ServiceError> {
        let Some(here) = &entry.stored else { return Ok(()) };
        let done = here.durable.make(&here.stored, begun).await;
        if done.is_err() {
            self.let_go(Arc::clone(entry)).await;
        }
        done
    }

    /// Lets go of a session of which this server stores nothing more.
    async fn let_go(&self, entry: Arc<Entry>) {
        self.registry.let_go(&entry);
        // Nothing is released of it after this, whoever holds it still.
        drop(entry.session.lock().await);
        entry.end_claim();
        let _dropped = tokio::task::spawn_blocking(move || drop(entry)).await;
    }

    /// Gives all sessions up that are stored, when the server is about to end.
    pub(crate) async fn hand_over(&self) {
        /// States that are written at once.
        const AT_ONCE: usize = 8;
        let Some(durable) = self.registry.durable().cloned() else { return };
        let mut left = self.registry.stored().into_iter();
        let mut tasks = tokio::task::JoinSet::new();
        let (mut count, mut all) = (0, 0);
        loop {
            while tasks.len() < AT_ONCE
                && let Some(entry) = left.next()
            {
                let durable = Arc::clone(&durable);
                all += 1;
                tasks.spawn(async move {
                    let done = entry.hand_over(&durable).await;
                    if let Err(error) = &done {
                        // Whoever takes the session fences this server's journal instead.
                        tracing::warn!(session = %entry.key, %error, "a session was not handed over");
                    }
                    done.is_ok()
                });
            }
            let Some(done) = tasks.join_next().await else { break };
            count += usize::from(done.unwrap_or(false));
        }
        tracing::info!(sessions = count, of = all, "sessions handed over");
    }
}

impl Entry {
    async fn hand_over(&self, durable: &Durable) -> Result<(), ServiceError> {
        let Some(here) = &self.stored else { return Ok(()) };
        let mut session = self.lock().await?;
        let mut before = None;
        if here.stored.lacks_state(session.next_step()) {
            let started = std::time::Instant::now();
            let (held, state) = here.write_state(session).await?;
            before = here.stored.snapshot();
            let _stored_with_all = here.stored.note_state(state, started, true);
            session = held;
        }
        let standing = session.standing();
        durable.hand_over(&here.stored, &standing).await?;
        if let Some(before) = before {
            delete_state(durable.store(), here.stored.place(), &before).await;
        }
        Ok(())
    }
}
