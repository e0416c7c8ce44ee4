//! RewindSession: an explicit act, counted, kept in the session, and logged.

use std::sync::{Arc, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use noised::session::NoiseRewind;
use noised_proto::{ServiceError, v1};
use tokio::sync::{OwnedMutexGuard, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::audit::Peer;
use super::{SessionsService, View};
use crate::entry::{Answering, DrawerGuard, Entry};
use crate::lifecycle::Lifecycle;

/// Answers that wait to be written. More progress than is read is not told.
const QUEUE: usize = 4;

type Answers = mpsc::Sender<Result<v1::RewindSessionResponse, Status>>;

/// Both halves of a session whose noise the server draws, locked.
struct Halves {
    drawer: DrawerGuard,
    session: OwnedMutexGuard<Answering>,
}

/// What is asked.
#[derive(Clone, Copy)]
struct Wanted {
    step: u64,
    allow_divergence: bool,
    unix_seconds: u64,
    peer: Peer,
}

impl SessionsService {
    pub(super) fn rewind(
        &self,
        request: v1::RewindSessionRequest,
        peer: Peer,
    ) -> Result<ReceiverStream<Result<v1::RewindSessionResponse, Status>>, ServiceError> {
        self.lifecycle.check_open()?;
        let v1::RewindSessionRequest { name, step, allow_divergence } = request;
        let entry = self.used_entry(&name)?;
        let unix_seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let wanted = Wanted { step, allow_divergence, unix_seconds, peer };
        let (answers, queue) = mpsc::channel(QUEUE);
        let service = self.clone();
        // A task of its own: a session must not be left in the middle where the client goes away.
        tokio::spawn(async move {
            let answer = match service.rewind_entry(&entry, wanted, &answers).await {
                Ok(steps) => {
                    entry.draw_ahead(&service.compute);
                    entry.last_use.note();
                    let session = Some(View::Basic.of(&entry, false));
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
        let from_step = entry.progress().next_step;
        let steps = match drawer {
            Some(drawer) => self.rewind_noise(entry, Halves { drawer, session }, wanted, answers).await?,
            None => self.rewind_input(entry, session, wanted).await.map(|()| 0)?,
        };
        let to_step = entry.progress().next_step;
        let Wanted { step, allow_divergence, unix_seconds: _, peer } = wanted;
        tracing::warn!(session = %entry.name, %peer, from_step, to_step, allow_divergence, "session rewound");
        if to_step == step {
            return Ok(steps);
        }
        // It stands where it came to before it was called off: by its deletion, by the server's end, or by the client.
        if entry.deleted.is_cancelled() {
            return Err(entry.not_found());
        }
        if self.lifecycle.cut.is_cancelled() {
            return Err(Lifecycle::refusal());
        }
        Err(noised::Error::Cancelled.into())
    }

    async fn rewind_input(
        &self,
        entry: &Arc<Entry>,
        mut session: OwnedMutexGuard<Answering>,
        wanted: Wanted,
    ) -> Result<(), ServiceError> {
        let entry = Arc::clone(entry);
        let work = move || {
            let done = match &mut *session {
                Answering::Input(session) => session.rewind(wanted.step, wanted.unix_seconds),
                Answering::Noise(_) => return Err(ServiceError::Internal),
            };
            entry.note_rewound(&session);
            Ok(done?)
        };
        self.compute.run(work).await?
    }

    async fn rewind_noise(
        &self,
        entry: &Arc<Entry>,
        halves: Halves,
        wanted: Wanted,
        answers: &Answers,
    ) -> Result<u64, ServiceError> {
        entry.reserve_for_held_gradient()?;
        // Until the end the two halves do not fit each other: where this breaks off, the session is not to be trusted.
        entry.progress().damaged = true;
        let (mut halves, begun) = {
            let entry = Arc::clone(entry);
            self.compute.run(move || begin(&entry, halves, wanted.step)).await?
        };
        let rewind = match begun {
            Ok(rewind) => rewind,
            Err(error) => {
                entry.note(&halves.session);
                return Err(error);
            }
        };
        let steps_total = rewind.steps_left(&halves.drawer);
        while rewind.steps_left(&halves.drawer) > 0
            && !answers.is_closed()
            && !entry.deleted.is_cancelled()
            && !self.lifecycle.cut.is_cancelled()
        {
            let steps_done = steps_total - rewind.steps_left(&halves.drawer);
            let _unread =
                answers.try_send(Ok(v1::RewindSessionResponse { steps_done, steps_total, session: None }));
            let entry = Arc::clone(entry);
            let pass = move || {
                entry.with_drawer(&mut halves.drawer, |drawer| drawer.pass_over(wanted.step));
                halves
            };
            halves = self.compute.run(pass).await?;
        }
        let Halves { drawer, mut session } = halves;
        if let Answering::Noise(session) = &mut *session {
            session.finish_rewind(rewind, &drawer, wanted.unix_seconds, wanted.allow_divergence);
        }
        entry.note_rewound(&session);
        Ok(steps_total)
    }
}

fn begin(entry: &Entry, mut halves: Halves, step: u64) -> (Halves, Result<NoiseRewind, ServiceError>) {
    let begun = match &*halves.session {
        Answering::Noise(session) => entry
            .with_drawer(&mut halves.drawer, |drawer| session.begin_rewind(step, drawer))
            .map_err(ServiceError::from),
        Answering::Input(_) => Err(ServiceError::Internal),
    };
    (halves, begun)
}

impl Entry {
    /// The gradient of a step that was released before is held until all of it has come.
    fn reserve_for_held_gradient(&self) -> Result<(), ServiceError> {
        let bytes = self.resolved.input_bytes() as u64;
        let mut held = self.held_memory.lock().unwrap_or_else(PoisonError::into_inner);
        if held.is_none() && bytes > 0 {
            *held = Some(self.memory.reserve(bytes)?);
        }
        Ok(())
    }
}
