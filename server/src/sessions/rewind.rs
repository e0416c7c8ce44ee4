//! RewindSession: an explicit act, counted, kept in the session, and logged.

use std::sync::{Arc, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use noised::session::{AnyRewind, AnySession, RewindTo};
use noised_proto::access::Right;
use noised_proto::{ServiceError, v1};
use serde_json::json;
use tokio::sync::{OwnedMutexGuard, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::{SessionsService, View};
use crate::audit::What;
use crate::durable::StoredSource;
use crate::entry::{DrawerGuard, Entry};
use crate::identity::Caller;
use crate::lifecycle::Lifecycle;

/// Answers that wait to be written. More progress than is read is not told.
const QUEUE: usize = 4;

type Answers = mpsc::Sender<Result<v1::RewindSessionResponse, Status>>;

/// The halves of a session, locked: the drawer where the server draws.
struct Halves {
    drawer: Option<DrawerGuard>,
    session: OwnedMutexGuard<AnySession>,
}

/// What is asked.
struct Wanted {
    to: RewindTo,
    caller: Caller,
}

impl SessionsService {
    pub(super) async fn rewind(
        &self,
        request: v1::RewindSessionRequest,
        caller: &Caller,
    ) -> Result<ReceiverStream<Result<v1::RewindSessionResponse, Status>>, ServiceError> {
        self.lifecycle.check_open()?;
        let v1::RewindSessionRequest { name, step, allow_divergence } = request;
        if allow_divergence {
            caller.check(Right::AllowDivergence, "allow_divergence")?;
        }
        let entry = self.used_entry(caller, &name).await?;
        let unix_seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let wanted = Wanted { to: RewindTo { step, unix_seconds, allow_divergence }, caller: caller.clone() };
        let (answers, queue) = mpsc::channel(QUEUE);
        let (service, caller) = (self.clone(), caller.clone());
        // A task of its own: a session must not be left in the middle where the client goes away.
        tokio::spawn(async move {
            let rewound = service.rewind_entry(&entry, wanted, &answers).await;
            let answer = match entry.told_as_owner(rewound).await {
                Ok(steps) => {
                    entry.draw_ahead(&service.compute);
                    entry.last_use.note();
                    let session = Some(View::Basic.of(&entry, false, &caller));
                    Ok(v1::RewindSessionResponse { steps_done: steps, steps_total: steps, session })
                }
                Err(error) => Err(error.into()),
            };
            // A client that does not read must not keep the session's memory, nor the server from stopping.
            drop(entry);
            tokio::select! {
                biased;
                () = service.lifecycle.cut.cancelled() => {}
                _ = answers.send(answer) => {}
            }
        });
        Ok(ReceiverStream::new(queue))
    }

    /// Goes back, and tells how many steps were computed again.
    async fn rewind_entry(
        &self,
        entry: &Arc<Entry>,
        wanted: Wanted,
        answers: &Answers,
    ) -> Result<u64, ServiceError> {
        let drawer = entry.lock_drawer().await?;
        let session = entry.lock().await?;
        if answers.is_closed() {
            // Called off before it began: nothing has moved.
            return Err(noised::Error::Cancelled.into());
        }
        let (from_step, rewinds) = {
            let progress = entry.progress();
            (progress.standing.next_step, progress.standing.rewind_count)
        };
        let done = self.rewind_halves(entry, Halves { drawer, session }, wanted.to, answers).await;
        let (to_step, is_back) = {
            let progress = entry.progress();
            (progress.standing.next_step, progress.standing.rewind_count > rewinds)
        };
        if !is_back {
            return done;
        }
        let Wanted { to: RewindTo { step, unix_seconds: _, allow_divergence }, caller } = wanted;
        let peer = caller.peer;
        let more =
            json!({ "from_step": from_step, "to_step": to_step, "allow_divergence": allow_divergence });
        self.audit.done(What::SessionRewound, Some(&caller), &entry.key, more);
        tracing::warn!(session = %entry.key, %peer, from_step, to_step, allow_divergence, "session rewound");
        // Where the store does not answer, the session is back, and its client is told to ask again.
        let steps = done?;
        if to_step == step {
            return Ok(steps);
        }
        // It stands where it came to before it was called off: by its deletion, by the server's end, or by
        // the client.
        if entry.deleted.is_cancelled() {
            return Err(entry.not_found());
        }
        if self.lifecycle.cut.is_cancelled() {
            return Err(Lifecycle::refusal());
        }
        Err(noised::Error::Cancelled.into())
    }

    async fn rewind_halves(
        &self,
        entry: &Arc<Entry>,
        halves: Halves,
        to: RewindTo,
        answers: &Answers,
    ) -> Result<u64, ServiceError> {
        entry.reserve_for_held_gradient()?;
        // Until the end the two halves do not fit each other: where this breaks off, the session is not to be
        // trusted.
        entry.progress().damaged = true;
        let (mut halves, begun) = {
            let entry = Arc::clone(entry);
            self.compute.run(move || begin(&entry, halves, to)).await?
        };
        let rewind = match begun {
            Ok(rewind) => rewind,
            Err(error) => {
                entry.note(&halves.session);
                return Err(error);
            }
        };
        let steps_total = rewind.steps_left(halves.drawer.as_deref());
        while rewind.steps_left(halves.drawer.as_deref()) > 0
            && !answers.is_closed()
            && !entry.deleted.is_cancelled()
            && !entry.is_lost()
            && !self.lifecycle.cut.is_cancelled()
        {
            let steps_done = steps_total - rewind.steps_left(halves.drawer.as_deref());
            let _unread =
                answers.try_send(Ok(v1::RewindSessionResponse { steps_done, steps_total, session: None }));
            let entry = Arc::clone(entry);
            let pass = move || {
                if let Some(drawer) = halves.drawer.as_deref_mut() {
                    entry.with_drawer(drawer, |drawer| drawer.pass_over(to.step));
                }
                halves
            };
            halves = self.compute.run(pass).await?;
        }
        let Halves { drawer, mut session } = halves;
        session.finish_rewind(rewind, drawer.as_deref())?;
        entry.note_all(&session);
        self.store_rewind(entry, session, to.step).await?;
        Ok(steps_total)
    }

    /// Has the store know of going back before any later step, and before it is answered.
    async fn store_rewind(
        &self,
        entry: &Arc<Entry>,
        mut session: OwnedMutexGuard<AnySession>,
        asked: u64,
    ) -> Result<(), ServiceError> {
        let Some(here) = entry.stored.as_ref() else { return Ok(()) };
        let Some(rewind) = entry.progress().standing.rewinds.last().copied() else { return Ok(()) };
        let before = here.stored.snapshot().filter(|_| here.stored.source == StoredSource::Input);
        let mut state = None;
        if here.stored.source == StoredSource::Input && rewind.to_step > 0 {
            let written = here.write_state(session).await;
            // Where it cannot be written, the session goes on as the store has it.
            let (held, written) = written.inspect_err(|_| here.stored.lost.cancel())?;
            (session, state) = (held, Some(written));
        }
        let binding = here.stored.note_rewind(rewind, asked, state);
        drop(session);
        here.delete_later(before);
        here.stored.wait(binding).await
    }
}

fn begin(entry: &Entry, mut halves: Halves, to: RewindTo) -> (Halves, Result<AnyRewind, ServiceError>) {
    let Halves { drawer, session } = &mut halves;
    let begun = match drawer.as_deref_mut() {
        Some(drawer) => entry.with_drawer(drawer, |drawer| session.begin_rewind(to, Some(drawer))),
        None => session.begin_rewind(to, None),
    };
    (halves, begun.map_err(ServiceError::from))
}

impl Entry {
    /// The gradient of a step that was released before is held until all of it has come.
    fn reserve_for_held_gradient(&self) -> Result<(), ServiceError> {
        let bytes = self.resolved.input_bytes() as u64;
        let mut held = self.held_memory.lock().unwrap_or_else(PoisonError::into_inner);
        if self.noise.is_some() && held.is_none() && bytes > 0 {
            *held = Some(self.memory.reserve(bytes)?);
        }
        Ok(())
    }
}
