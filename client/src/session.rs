//! A session's handle.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use noised::session::ResolvedSpec;
use noised::{Layout, SessionSpec};
use noised_proto::carry::Carried;
use noised_proto::v1;
use tokio_stream::Stream;

use crate::binding::Binding;
use crate::carried;
use crate::check;
use crate::client::Client;
use crate::error::{Error, Result};
use crate::fleet::Server;
use crate::info::SessionInfo;
use crate::pieces::Pieces;
use crate::stream::{Flight, StepStream};
use crate::way::asking;
use crate::window::{Answer, Position};

const PATH: &str = "/noised.v1.Sessions/MultiplyNext";

/// A session on a server. Steps go one after the other; [`stream`](Self::stream) overlaps them.
#[derive(Debug)]
pub struct Session {
    client: Client,
    info: SessionInfo,
    resolved: ResolvedSpec,
    binding: Binding,
    /// Everything before it has been handed out.
    position: Position,
    /// Kept open from step to step.
    flight: Flight,
    /// A rewind broke off, and nobody has told this handle since where the session stands.
    pub(crate) is_unsettled: bool,
    /// What the server gave when it last kept a state.
    pub(crate) resume_token: Vec<u8>,
}

impl Session {
    pub(crate) fn new(client: Client, info: SessionInfo, resolved: ResolvedSpec) -> Self {
        let binding = Binding::new(&info, &resolved);
        let position = Position::start_of(info.next_step);
        let flight = Flight::new(client.clone(), binding.clone(), position);
        let (is_unsettled, resume_token) = (false, Vec::new());
        Self { client, info, resolved, binding, position, flight, is_unsettled, resume_token }
    }

    /// `sessions/{id}`.
    pub fn name(&self) -> &str {
        &self.info.name
    }

    /// What the server said last: when the session was made or opened, kept a state, was rewound or
    /// [looked at](Self::refresh).
    pub fn info(&self) -> &SessionInfo {
        &self.info
    }

    /// What the session is bound to.
    pub fn spec(&self) -> &SessionSpec {
        self.resolved.spec()
    }

    /// The lanes that it holds and where they lie in the bytes of a step's answer.
    pub fn layout(&self) -> &Layout {
        self.binding.traffic.answer()
    }

    /// The same in the bytes that go up, which differ where answers have a format of their own.
    pub fn input_layout(&self) -> &Layout {
        self.resolved.input_layout()
    }

    /// A digest of everything that it is bound to.
    pub fn fingerprint(&self) -> &[u8; 32] {
        &self.info.fingerprint
    }

    /// Bytes of one step's answer.
    pub fn step_bytes(&self) -> usize {
        self.binding.traffic.answer_bytes()
    }

    /// Bytes that go up for a step: none where the server draws all of the input.
    pub fn input_bytes(&self) -> usize {
        self.binding.traffic.input_bytes()
    }

    /// The step that comes next, as far as this handle knows. Of one that
    /// [`multiply_steps`](Self::multiply_steps) was cut off in, part has been handed out.
    pub fn next_step(&self) -> u64 {
        self.position.step
    }

    /// What the server gave when it [kept](Self::keep_state) a state last: with it, and with the description,
    /// any server of the same master key goes on with the noise at that step, once this session is gone
    /// ([`ResumedNoise`](crate::ResumedNoise)). It is secret: keep it as the checkpoint is kept. `None` where
    /// the source is not `gaussian` with a `noise_id`.
    pub fn resume_token(&self) -> Option<&[u8]> {
        Some(&*self.resume_token).filter(|token| !token.is_empty())
    }

    /// `(A x)_t` for a step's bytes `x_t`, laid out alike; or, where the source is `privatize`, `g_t + (A
    /// z)_t` for the gradient's bytes `g_t`.
    ///
    /// # Errors
    /// [`Error::WrongStep`], [`Error::PayloadMismatch`] and [`Error::Diverged`], which tell the step that the
    /// session expects; [`Error::PastHorizon`]; [`Error::Invalid`] where the payload has the wrong size, or
    /// `source` where the server draws all of the input; the faults of a connection.
    pub async fn multiply_next(&mut self, step: u64, payload: Bytes) -> Result<Bytes> {
        check::takes_input(&self.spec().source)?;
        self.take_step(step, payload).await
    }

    /// The same, from and into memory that the caller keeps, which is cheaper for large steps: fresh memory
    /// costs more than the network.
    ///
    /// # Errors
    /// As [`multiply_next`](Self::multiply_next). What is in `output` then means nothing.
    pub async fn multiply_next_into(&mut self, step: u64, payload: &[u8], output: &mut [u8]) -> Result<()> {
        check::takes_input(&self.spec().source)?;
        self.take_step_into(step, payload.len(), |range| Bytes::copy_from_slice(&payload[range]), output)
            .await
    }

    /// The same from several pieces of memory that follow one another, such as the leaves of a tree where
    /// they lie.
    ///
    /// # Errors
    /// As [`multiply_next_into`](Self::multiply_next_into).
    pub async fn multiply_next_pieces_into(
        &mut self,
        step: u64,
        pieces: &[&[u8]],
        output: &mut [u8],
    ) -> Result<()> {
        let pieces = Pieces::of(pieces);
        self.multiply_next_chunks_into(step, pieces.len(), |range| pieces.gather(range), output).await
    }

    /// The same from `len` bytes that `chunk` gives parts of.
    pub(crate) async fn multiply_next_chunks_into(
        &mut self,
        step: u64,
        len: usize,
        chunk: impl Fn(Range<usize>) -> Bytes,
        output: &mut [u8],
    ) -> Result<()> {
        check::takes_input(&self.spec().source)?;
        self.take_step_into(step, len, chunk, output).await
    }

    /// [`multiply_next`](Self::multiply_next) of a session that is sure to add noise.
    ///
    /// # Errors
    /// As [`multiply_next`](Self::multiply_next), and [`Error::Invalid`] on `source` where that is not
    /// `privatize`.
    pub async fn privatize(&mut self, step: u64, gradient: Bytes) -> Result<Bytes> {
        self.check_privatizes()?;
        self.take_step(step, gradient).await
    }

    /// `(A z)_t`, where the server draws all of the input.
    ///
    /// # Errors
    /// [`Error::WrongStep`], [`Error::PastHorizon`]; [`Error::TakenByAnother`] where another handle was given
    /// the step and this one never asked for it; [`Error::Invalid`] on `source` where that is not `gaussian`;
    /// the faults of a connection.
    pub async fn fetch(&mut self, step: u64) -> Result<Bytes> {
        check::is_drawn(&self.spec().source)?;
        self.take_step(step, Bytes::new()).await
    }

    /// The same, into memory that the caller keeps.
    ///
    /// # Errors
    /// As [`fetch`](Self::fetch). What is in `output` then means nothing.
    pub async fn fetch_into(&mut self, step: u64, output: &mut [u8]) -> Result<()> {
        check::is_drawn(&self.spec().source)?;
        self.take_step_into(step, 0, |_| Bytes::new(), output).await
    }

    /// A stream of steps from [`next_step`](Self::next_step) on; what
    /// [`multiply_steps`](Self::multiply_steps) handed out of that step is not handed out again. The handle
    /// must not be used for steps meanwhile.
    pub fn stream(&self) -> StepStream {
        StepStream::new(self.client.clone(), self.binding.clone(), self.position)
    }

    /// A stream that first repeats the last step, as far as the session still can: what a program needs that
    /// was cut off before it had kept that step's answer. A session keeps a byte's answer until the next
    /// step's is asked for.
    ///
    /// The stream's first push is of the step before [`next_step`](Self::next_step), unless that is 0. Where
    /// the session keeps no answer to it, since it was told that it had arrived, or went back, there are no
    /// answers to that push.
    pub fn stream_with_replay(&self) -> StepStream {
        let Some(last) = self.position.step.checked_sub(1) else {
            return self.stream();
        };
        // The handle knows of a step that was cut off only as long as it has not taken one itself.
        let fresh = self.position == Position::start_of(self.info.next_step);
        let offset = match fresh {
            true => self.binding.traffic.answer_byte(self.info.next_offset as usize),
            false => self.position.offset,
        };
        StepStream::replaying(self.client.clone(), self.binding.clone(), Position { step: last, offset })
    }

    /// The client that it is used with.
    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// Forgets what is under way, and goes on at `position`.
    pub(crate) fn go_to(&mut self, position: Position) {
        self.position = position;
        self.flight = Flight::new(self.client.clone(), self.binding.clone(), position);
    }

    /// Goes on with the session as it stands, whoever took it there.
    pub(crate) fn take_up(&self) {
        self.binding.asked.take_up(&self.info);
    }

    pub(crate) fn position(&self) -> Position {
        self.position
    }

    /// Notes what the server says of the session now.
    ///
    /// # Errors
    /// [`Error::FingerprintMismatch`] where it is another session under the same name.
    pub(crate) fn note(&mut self, info: SessionInfo) -> Result<()> {
        if info.fingerprint != self.info.fingerprint {
            let other = info.spec.as_ref().and_then(|spec| self.spec().first_difference(spec));
            return Err(Error::FingerprintMismatch { field: other.unwrap_or("session").to_owned() });
        }
        // Most answers leave out what the session was made for, which never changes.
        let spec = info.spec.or_else(|| self.info.spec.take());
        self.info = SessionInfo { resumed: self.info.resumed, spec, ..info };
        Ok(())
    }

    /// Takes steps from [`next_step`](Self::next_step) on for as long as `inputs` gives any, each sent while
    /// the last one's answer still comes, and hands every part of an answer to `on_answer`.
    ///
    /// A call that failed, or whose future was dropped, is gone on with by the next one, or by
    /// [`stream`](Self::stream): its first input is that of [`next_step`](Self::next_step), and its first
    /// answer begins after the last one that `on_answer` took. What was handed out of that step cannot be
    /// asked for again, so it must have been kept: the beginning of the step after it may be applied already.
    ///
    /// # Errors
    /// Those of [`multiply_next`](Self::multiply_next), and whatever error `inputs` or `on_answer` gives.
    pub async fn multiply_steps<E: From<Error>>(
        &mut self,
        inputs: impl Stream<Item = std::result::Result<Bytes, E>>,
        on_answer: impl FnMut(Answer) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        check::takes_input(&self.spec().source)?;
        self.settle().await?;
        self.take_steps(inputs, on_answer).await
    }

    /// Fetches the steps from [`next_step`](Self::next_step) on that are before `end`, where the server draws
    /// all of the input, and hands every part of an answer to `on_answer`. What is said of an interruption at
    /// [`multiply_steps`](Self::multiply_steps) is true here.
    ///
    /// # Errors
    /// Those of [`fetch`](Self::fetch), and whatever error `on_answer` gives.
    pub async fn fetch_steps<E: From<Error>>(
        &mut self,
        end: u64,
        on_answer: impl FnMut(Answer) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        check::is_drawn(&self.spec().source)?;
        self.settle().await?;
        let inputs = (self.next_step()..end).map(|_| Ok(Bytes::new()));
        self.take_steps(tokio_stream::iter(inputs), on_answer).await
    }

    async fn take_steps<E: From<Error>>(
        &mut self,
        inputs: impl Stream<Item = std::result::Result<Bytes, E>>,
        mut on_answer: impl FnMut(Answer) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        let mut stream = self.stream();
        let position = &mut self.position;
        let take = |answer: Answer| {
            let end = end_of(&answer);
            on_answer(answer)?;
            // Noted at once: this future may be dropped at any time.
            *position = end;
            Ok(())
        };
        stream.run(inputs, take).await
    }

    pub(crate) fn check_privatizes(&self) -> Result<()> {
        check::privatizes(&self.spec().source)
    }

    /// One step, whatever the source.
    async fn take_step(&mut self, step: u64, payload: Bytes) -> Result<Bytes> {
        self.binding.check_payload(payload.len())?;
        self.settle().await?;
        if self.is_unary() {
            return self.take_unary(step, payload).await.map(carried::join);
        }
        let mut output = vec![0; self.step_bytes()];
        self.take_chunked(step, |range| payload.slice(range), &mut output).await?;
        Ok(output.into())
    }

    /// The same into memory, with a payload of `len` bytes that `chunk` gives parts of.
    async fn take_step_into(
        &mut self,
        step: u64,
        len: usize,
        chunk: impl Fn(Range<usize>) -> Bytes,
        output: &mut [u8],
    ) -> Result<()> {
        self.binding.check_payload(len)?;
        check::length("output", self.step_bytes(), output.len())?;
        self.settle().await?;
        if self.is_unary() {
            let mut output = output;
            for piece in self.take_unary(step, chunk(0..len)).await? {
                let (of_piece, rest) = output.split_at_mut(piece.len());
                of_piece.copy_from_slice(&piece);
                output = rest;
            }
            return Ok(());
        }
        self.take_chunked(step, chunk, output).await
    }

    fn is_unary(&self) -> bool {
        self.step_bytes().max(self.input_bytes()) <= self.client.settings().unary_bytes
    }

    /// The answer to a whole step, in the pieces in which it came.
    async fn take_unary(&mut self, step: u64, payload: Bytes) -> Result<Vec<Bytes>> {
        let request = v1::MultiplyNextRequest {
            name: self.binding.name.clone(),
            step,
            payload,
            fingerprint: self.binding.fingerprint.clone(),
        };
        let asked = &self.binding.asked;
        let (way, limit) = (self.client.way(&self.binding.name), self.client.settings().message_bytes);
        let answer = asking(way, &request, |server: Arc<Server>, request| {
            asked.begin();
            asked.note(step);
            async move {
                let answered = carried::unary(server.link(), PATH, request, limit).await;
                // Also where another server is asked next: the one that refused has released nothing.
                answered.inspect_err(|status| asked.note_failure(&Error::from(status.clone())))
            }
        });
        let answer = answer.await?;
        let Carried { message, payload } = answer;
        let v1::MultiplyNextResponse { step: answered, payload: _, replay } = message;
        let found: usize = payload.iter().map(Bytes::len).sum();
        if answered != step || found != self.step_bytes() {
            let message = format!("{found} bytes of step {answered} in answer to step {step}");
            return Err(Error::Protocol { message });
        }
        asked.check(step, replay)?;
        self.position = Position::start_of(step + 1);
        Ok(payload)
    }

    async fn take_chunked(
        &mut self,
        step: u64,
        chunk: impl Fn(Range<usize>) -> Bytes,
        output: &mut [u8],
    ) -> Result<()> {
        self.flight.seek(step);
        let start = Position::start_of(step);
        let fresh = Flight::new(self.client.clone(), self.binding.clone(), start);
        // Held by this call alone: where it is dropped in the middle, so is the stream. An answer that nobody
        // reads would take up the connection's window, and with it every other call's.
        let mut flight = std::mem::replace(&mut self.flight, fresh);
        while let Some(answer) = flight.advance(step + 1, |_, range| chunk(range)).await? {
            let Answer { offset, payload, step: _, replay: _, step_end: _ } = answer;
            output[offset..offset + payload.len()].copy_from_slice(&payload);
        }
        self.flight = flight;
        self.position = Position::start_of(step + 1);
        Ok(())
    }
}

/// The place after an answer.
fn end_of(answer: &Answer) -> Position {
    let Answer { step, offset, payload, step_end, replay: _ } = answer;
    if *step_end {
        Position::start_of(step + 1)
    } else {
        Position { step: *step, offset: offset + payload.len() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a program spawns on a runtime of many threads. That it compiles is the test.
    #[allow(dead_code, reason = "compiled, never called")]
    fn futures_may_go_to_other_threads(
        client: &'static Client,
        session: &'static mut Session,
        spec: &'static SessionSpec,
    ) {
        fn is_send(_: impl Send) {}
        is_send(client.create_session(spec, crate::CreateOptions::default()));
        is_send(client.open_session("a"));
        is_send(session.stream().next());
        let inputs = tokio_stream::empty::<std::result::Result<Bytes, Error>>();
        is_send(session.multiply_steps(inputs, |_| Ok::<_, Error>(())));
        is_send(session.multiply_next(0, Bytes::new()));
        is_send(session.multiply_next_into(0, &[], &mut []));
        is_send(session.multiply_next_pieces_into(0, &[], &mut []));
        is_send(session.privatize(0, Bytes::new()));
        is_send(session.fetch(0));
        is_send(session.fetch_into(0, &mut []));
        is_send(session.fetch_steps(1, |_| Ok::<_, Error>(())));
        is_send(session.keep_state(0, crate::WhenFull::Refuse));
        is_send(session.rewind(0, false, |_, _| ()));
        is_send(session.refresh());
    }
}
