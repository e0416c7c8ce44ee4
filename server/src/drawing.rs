//! Drawing for a session: the step that is asked for, and those after it, ahead of the client.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use noised::limits::MAX_STEPS_UNDER_WAY;
use noised::session::{DrawnStep, NoiseDrawer, StepBuffer};
use noised_proto::ServiceError;

use crate::compute::Compute;
use crate::entry::{DrawerGuard, Entry, INLINE_WORK, NoiseHalf};

/// What drawing a lane costs, in planes.
const DRAW_PLANES: usize = 4;

/// About as long as a client that is still there takes to read an answer.
const RETRY_AFTER: Duration = Duration::from_millis(200);

impl Entry {
    /// Draws the next step, unless it is drawn by the time that the drawer is free.
    ///
    /// A task of its own does it: a call that is given up half way must not take the noise with it.
    pub(crate) async fn draw_next(self: &Arc<Self>, compute: &Arc<Compute>) -> Result<(), ServiceError> {
        let (entry, compute) = (Arc::clone(self), Arc::clone(compute));
        let task = tokio::spawn(async move {
            // A session without a drawer never asks for noise: to ask again would go on for ever.
            let Some(mut drawer) = entry.lock_drawer().await? else { return Err(ServiceError::Internal) };
            let buffers = {
                let mut session = entry.lock().await?;
                if !session.needs_noise() {
                    return Ok(());
                }
                let steps = session.wanted_steps().max(1).min(session.room());
                if steps == 0 {
                    return Err(answers_are_held());
                }
                session.take_buffers(steps, Some(&mut *drawer))
            };
            entry.draw(&compute, drawer, buffers).await
        });
        task.await.map_err(|_| ServiceError::Internal)?
    }

    /// Has noise drawn in the background until there is as much as the options say. A client that stops
    /// asking is not run ahead of by more than that.
    pub(crate) fn draw_ahead(self: &Arc<Self>, compute: &Arc<Compute>) {
        let Some(NoiseHalf { drawing_ahead, options, .. }) = &self.noise else {
            return;
        };
        if options.lookahead == 0 || drawing_ahead.swap(true, Ordering::AcqRel) {
            return;
        }
        let (entry, compute) = (Arc::clone(self), Arc::clone(compute));
        tokio::spawn(async move {
            let drawing = DrawingAhead(&entry);
            if let Err(error) = entry.draw_until_enough(&compute).await {
                tracing::debug!(session = %entry.key, %error, "no more is drawn ahead");
            }
            drop(drawing);
        });
    }

    async fn draw_until_enough(self: &Arc<Self>, compute: &Compute) -> Result<(), ServiceError> {
        loop {
            let Some(mut drawer) = self.lock_drawer().await? else { return Ok(()) };
            let buffers = {
                let mut session = self.lock().await?;
                let steps = session.wanted_steps().min(session.room());
                let left =
                    self.resolved.spec().horizon.map_or(u64::MAX, |n| n.saturating_sub(drawer.next_step()));
                if steps == 0 || left == 0 {
                    // Under the session's lock: whoever takes a step after this starts drawing anew.
                    self.stop_drawing_ahead();
                    return Ok(());
                }
                session.take_buffers(steps, Some(&mut *drawer))
            };
            self.draw(compute, drawer, buffers).await?;
        }
    }

    fn stop_drawing_ahead(&self) {
        if let Some(noise) = &self.noise {
            noise.drawing_ahead.store(false, Ordering::Release);
        }
    }

    /// Takes the drawer past the steps that a session which is gone released, unless this one is deleted
    /// meanwhile.
    async fn catch_up(
        self: &Arc<Self>,
        compute: &Compute,
        mut drawer: DrawerGuard,
    ) -> Result<DrawerGuard, ServiceError> {
        while drawer.steps_behind() > 0 {
            if self.deleted.is_cancelled() || self.is_lost() {
                return Err(self.not_found());
            }
            let entry = Arc::clone(self);
            let pass = move || {
                entry.pass(&mut drawer, NoiseDrawer::catch_up);
                drawer
            };
            drawer = compute.run(pass).await?;
        }
        Ok(drawer)
    }

    /// Has the drawer do its work, and puts a part of its state away where one is due.
    fn pass<R>(&self, drawer: &mut NoiseDrawer, work: impl FnOnce(&mut NoiseDrawer) -> R) -> R {
        let started = Instant::now();
        let done = self.with_drawer(drawer, work);
        if let Some(here) = &self.stored {
            here.roll(drawer, started.elapsed());
        }
        done
    }

    /// Draws, and hands over what was drawn before the drawer is free for others.
    async fn draw(
        self: &Arc<Self>,
        compute: &Compute,
        drawer: DrawerGuard,
        buffers: Vec<StepBuffer>,
    ) -> Result<(), ServiceError> {
        let mut drawer = self.catch_up(compute, drawer).await?;
        let planes = self.resolved.plan().planes() + DRAW_PLANES * buffers.len();
        let drawn: Result<(_, Vec<DrawnStep>), _> = if self.resolved.layout().lanes() * planes <= INLINE_WORK
        {
            let drawn = self.pass(&mut drawer, |drawer| drawer.draw(buffers));
            Ok((drawer, drawn))
        } else {
            let entry = Arc::clone(self);
            let work = move || {
                let drawn = entry.pass(&mut drawer, |drawer| drawer.draw(buffers));
                (drawer, drawn)
            };
            compute.run(work).await
        };
        let (_drawer, drawn) = drawn.inspect_err(|_| {
            tracing::error!(session = %self.key, "drawing panicked; the session is damaged");
        })?;
        Ok(self.lock().await?.supply(drawn)?)
    }
}

/// A task that draws ahead, which is over when this is dropped, however it ends.
struct DrawingAhead<'a>(&'a Entry);

impl Drop for DrawingAhead<'_> {
    fn drop(&mut self) {
        self.0.stop_drawing_ahead();
    }
}

/// Clients that ask for steps and do not read them hold their memory: one step more would be one too many.
fn answers_are_held() -> ServiceError {
    let limit = MAX_STEPS_UNDER_WAY;
    ServiceError::Busy { what: "answers of this session", limit, retry_after: RETRY_AFTER }
}
