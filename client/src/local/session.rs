//! A handle of a session in this process.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::{Bytes, BytesMut};
use noised::noise::StepProof;
use noised::session::{OutputChunk, RewindTo, Source, WhenFull};
use noised::{Layout, SessionSpec};
use tonic::Code;

use super::copy;
use super::shared::{KEPT_STATES, Shared, check_room};
use crate::asked::Asked;
use crate::check;
use crate::error::{Error, Result};
use crate::info::SessionInfo;

/// A session in this process: [`Session`](crate::Session) without a server. Made by a
/// [`LocalHost`](crate::LocalHost), which holds it; dropping a handle does not end the session.
///
/// A session may have many handles, on many threads: a step is released once, whichever of them asks for it,
/// and a call waits for the one before it. Steps are computed on rayon's threads, those of the pool that the
/// caller is in; handles of one session must not be used by several tasks of one such pool, which would wait
/// for one another.
#[derive(Debug)]
pub struct LocalSession {
    shared: Arc<Shared>,
    resumed: bool,
    next_step: u64,
    asked: Asked,
    resume_token: Option<StepProof>,
    /// Memory in which pieces are put together: fresh memory costs more than the step.
    gathered: BytesMut,
}

impl LocalSession {
    pub(super) fn new(shared: Arc<Shared>, resumed: bool) -> Self {
        let (next_step, asked) = {
            let info = shared.noted();
            (info.next_step, Asked::new(&shared.resolved.spec().source, &info))
        };
        Self { shared, resumed, next_step, asked, resume_token: None, gathered: BytesMut::new() }
    }

    /// `sessions/{id}`.
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// What the session is and where it stands now, without waiting for what it computes.
    ///
    /// # Errors
    /// [`Error::NotFound`] where it is deleted.
    pub fn info(&self) -> Result<SessionInfo> {
        self.shared.info(self.resumed)
    }

    /// What the session is bound to.
    pub fn spec(&self) -> &SessionSpec {
        self.shared.resolved.spec()
    }

    /// The lanes that it holds and where they lie in the bytes of a step's answer.
    pub fn layout(&self) -> &Layout {
        self.shared.resolved.layout()
    }

    /// The same in the bytes of a step's input, which differ where answers have a format of their own.
    pub fn input_layout(&self) -> &Layout {
        self.shared.resolved.input_layout()
    }

    /// A digest of everything that it is bound to.
    pub fn fingerprint(&self) -> &[u8; 32] {
        self.shared.fingerprint.as_bytes()
    }

    /// Bytes of one step's answer.
    pub fn step_bytes(&self) -> usize {
        self.layout().byte_len()
    }

    /// Bytes of one step's input: none where all of it is drawn.
    pub fn input_bytes(&self) -> usize {
        self.shared.resolved.input_bytes()
    }

    /// The step that comes next, as far as this handle knows.
    pub fn next_step(&self) -> u64 {
        self.next_step
    }

    /// `(A x)_t` for a step's bytes `x_t`, laid out alike; or, where the source is `privatize`, `g_t + (A
    /// z)_t` for the gradient's bytes `g_t`. The answer is the session's own memory, shared: nothing is
    /// copied.
    ///
    /// # Errors
    /// [`Error::WrongStep`], [`Error::PayloadMismatch`] and [`Error::Diverged`], which tell the step that the
    /// session expects; [`Error::PastHorizon`]; [`Error::Invalid`] where the payload has the wrong size, or
    /// on `source` where all of the input is drawn; [`Error::NotFound`] where the session is deleted;
    /// [`Error::DataLoss`] where a call on it broke off in the middle.
    pub fn multiply_next(&mut self, step: u64, payload: Bytes) -> Result<Bytes> {
        check::takes_input(self.source())?;
        self.take(step, payload).map(copy::join)
    }

    /// The same, into memory that the caller keeps.
    ///
    /// # Errors
    /// As [`multiply_next`](Self::multiply_next), and [`Error::Invalid`] where `output` has the wrong size.
    pub fn multiply_next_into(&mut self, step: u64, payload: Bytes, output: &mut [u8]) -> Result<()> {
        check::takes_input(self.source())?;
        self.take_into(step, payload, output)
    }

    /// The same from several pieces of memory that follow one another, such as the leaves of a tree where
    /// they lie.
    ///
    /// # Errors
    /// As [`multiply_next_into`](Self::multiply_next_into).
    pub fn multiply_next_pieces_into(
        &mut self,
        step: u64,
        pieces: &[&[u8]],
        output: &mut [u8],
    ) -> Result<()> {
        let payload = self.gather(pieces)?;
        let taken = self.take_into(step, payload.clone(), output);
        self.reuse(payload);
        taken
    }

    /// Pieces of memory that follow one another as the payload of a step, in memory of the handle's. Give it
    /// back to [`reuse`](Self::reuse) after that step: fresh memory costs more than the step.
    ///
    /// # Errors
    /// [`Error::Invalid`] where together they have the wrong size, or on `source` where all of the input is
    /// drawn.
    pub fn gather(&mut self, pieces: &[&[u8]]) -> Result<Bytes> {
        check::takes_input(self.source())?;
        // Before memory is taken for them.
        check::length("payload", self.input_bytes(), pieces.iter().map(|piece| piece.len()).sum())?;
        let mut gathered = std::mem::take(&mut self.gathered);
        copy::gather(pieces, &mut gathered);
        Ok(gathered.freeze())
    }

    /// Takes memory back that [`gather`](Self::gather) gave.
    pub fn reuse(&mut self, payload: Bytes) {
        self.gathered = payload.try_into_mut().unwrap_or_default();
    }

    /// [`multiply_next`](Self::multiply_next) of a session that is sure to add noise.
    ///
    /// # Errors
    /// As [`multiply_next`](Self::multiply_next), and [`Error::Invalid`] on `source` where that is not
    /// `privatize`.
    pub fn privatize(&mut self, step: u64, gradient: Bytes) -> Result<Bytes> {
        check::privatizes(self.source())?;
        self.take(step, gradient).map(copy::join)
    }

    /// The same, into memory that the caller keeps.
    ///
    /// # Errors
    /// As [`privatize`](Self::privatize), and [`Error::Invalid`] where `output` has the wrong size.
    pub fn privatize_into(&mut self, step: u64, gradient: Bytes, output: &mut [u8]) -> Result<()> {
        check::privatizes(self.source())?;
        self.take_into(step, gradient, output)
    }

    /// `(A z)_t`, where all of the input is drawn. The answer is the session's own memory, shared: nothing is
    /// copied. That memory is used again once the answer is dropped.
    ///
    /// # Errors
    /// [`Error::WrongStep`], [`Error::PastHorizon`]; [`Error::TakenByAnother`] where another handle was given
    /// the step and this one never asked for it; [`Error::Invalid`] on `source` where that is not `gaussian`;
    /// [`Error::NotFound`], [`Error::DataLoss`].
    pub fn fetch(&mut self, step: u64) -> Result<Bytes> {
        check::is_drawn(self.source())?;
        self.take(step, Bytes::new()).map(copy::join)
    }

    /// The same, into memory that the caller keeps.
    ///
    /// # Errors
    /// As [`fetch`](Self::fetch), and [`Error::Invalid`] where `output` has the wrong size.
    pub fn fetch_into(&mut self, step: u64, output: &mut [u8]) -> Result<()> {
        check::is_drawn(self.source())?;
        self.take_into(step, Bytes::new(), output)
    }

    /// Keeps the state of the step that the session expects, so that [`rewind`](Self::rewind) comes back to
    /// it at once; or, where all of the input is drawn, of the step before: see
    /// [`Client::keep_state`](crate::Client::keep_state). Done again for a step that is kept, it changes
    /// nothing.
    ///
    /// # Errors
    /// [`Error::WrongStep`] where it is neither of these, or the step is applied in part;
    /// [`Error::ResourceExhausted`] where [`LocalHost::MAX_KEPT_STATES`](crate::LocalHost::MAX_KEPT_STATES)
    /// are kept, or the system does not give the memory; [`Error::NotFound`], [`Error::DataLoss`].
    pub fn keep_state(&mut self, step: u64, when_full: WhenFull) -> Result<()> {
        self.shared.with_engine(|engine| {
            check_room(engine.kept_state_bytes()?)?;
            let kept = engine.keep_state(step, when_full, KEPT_STATES);
            engine.note_all(&mut self.shared.noted());
            kept?;
            self.resume_token = engine.proof_of_step(step);
            Ok(())
        })
    }

    /// What the session gave when it kept a state last: see
    /// [`Session::resume_token`](crate::Session::resume_token). A host of the same master key takes it, and
    /// so does a server.
    pub fn resume_token(&self) -> Option<&[u8]> {
        self.resume_token.as_ref().map(|proof| &proof.as_bytes()[..])
    }

    /// Goes back to `step`, so that it and those after it are asked for again. `on_progress` gets the steps
    /// whose state has been computed again, and how many have to be, every few steps and at the end; a
    /// [`ControlFlow::Break`] calls it off. The session then stands at the step that it had come to, from
    /// where a rewind also goes forward. No handle of the session may be asked for anything but its
    /// [`info`](Self::info) from within `on_progress`.
    ///
    /// What comes again is as [`Session::rewind`](crate::Session::rewind) has it.
    ///
    /// # Errors
    /// [`Error::PastReleased`] where the step was never released; [`Error::NotKept`] where a session of the
    /// client's input keeps no state of it; [`Error::Other`] of the code [`Cancelled`](Code::Cancelled) where
    /// it was called off; [`Error::NotFound`], also where the session is deleted meanwhile;
    /// [`Error::DataLoss`].
    pub fn rewind(
        &mut self,
        step: u64,
        allow_divergence: bool,
        mut on_progress: impl FnMut(u64, u64) -> ControlFlow<()>,
    ) -> Result<()> {
        let unix_seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let wanted = RewindTo { step, unix_seconds, allow_divergence };
        let shared = &self.shared;
        let rewound = shared.with_engine(|engine| {
            let stands = engine.rewind(wanted, |done, total| match shared.is_deleted() {
                true => ControlFlow::Break(()),
                false => on_progress(done, total),
            });
            engine.note_all(&mut shared.noted());
            Ok(stands?)
        });
        self.next_step = rewound?;
        self.asked.take_up(&self.shared.noted());
        if self.next_step == step {
            return Ok(());
        }
        if shared.is_deleted() {
            return Err(shared.not_found());
        }
        let message = format!("the rewind to step {step} was called off at step {}", self.next_step);
        Err(Error::Other { code: Code::Cancelled, message })
    }

    /// Goes on where the session stands, whichever handle took it there.
    ///
    /// # Errors
    /// [`Error::NotFound`] where it is deleted, also where another session has its name now.
    pub fn refresh(&mut self) -> Result<()> {
        let info = self.info()?;
        self.next_step = info.next_step;
        self.asked.take_up(&info);
        Ok(())
    }

    fn source(&self) -> &Source {
        &self.spec().source
    }

    fn take(&mut self, step: u64, payload: Bytes) -> Result<Vec<OutputChunk>> {
        check::length("payload", self.input_bytes(), payload.len())?;
        self.asked.begin();
        self.asked.note(step);
        let taken = self.shared.with_engine(|engine| Ok(engine.take(step, &payload)?));
        let chunks = taken.inspect_err(|error| self.asked.note_failure(error))?;
        self.asked.check(step, chunks.iter().any(|chunk| chunk.replay))?;
        self.next_step = step + 1;
        Ok(chunks)
    }

    fn take_into(&mut self, step: u64, payload: Bytes, output: &mut [u8]) -> Result<()> {
        check::length("payload", self.input_bytes(), payload.len())?;
        check::length("output", self.step_bytes(), output.len())?;
        let chunks = self.take(step, payload)?;
        copy::into(&chunks, output);
        Ok(())
    }
}
