//! A session's handle.

use bytes::Bytes;
use noised::session::ResolvedSpec;
use noised::{Layout, SessionSpec};
use noised_proto::{session_spec, v1};
use tokio_stream::Stream;

use crate::client::Client;
use crate::error::{Error, Result};
use crate::retry::retrying;
use crate::stream::{Flight, StepStream};
use crate::window::{Answer, Position};

/// What a session is and where it stood when the server was asked.
#[derive(Clone, Debug, PartialEq)]
pub struct SessionInfo {
    /// `sessions/{id}`.
    pub name: String,
    /// What it was made for; absent from a list.
    pub spec: Option<SessionSpec>,
    /// A digest of that.
    pub fingerprint: [u8; 32],
    /// The step that it expects.
    pub next_step: u64,
    /// Bytes of that step that are applied already.
    pub next_offset: u64,
    /// Lanes that it holds.
    pub lanes: u64,
    /// Bytes of one step.
    pub step_bytes: u64,
    /// Memory that it takes on the server.
    pub memory_bytes: u64,
    /// Whether it existed before it was asked for.
    pub resumed: bool,
}

impl TryFrom<v1::Session> for SessionInfo {
    type Error = Error;

    fn try_from(session: v1::Session) -> Result<Self> {
        let v1::Session {
            name,
            matrix,
            tree,
            shard,
            source,
            precision,
            horizon,
            fingerprint,
            next_step,
            next_offset,
            lanes,
            step_bytes,
            memory_bytes,
            resumed,
        } = session;
        // A list leaves out what the sessions are made for.
        let spec = match (matrix, tree) {
            (Some(matrix), Some(tree)) => {
                let (matrix, tree) = (Some(matrix), Some(tree));
                let bound =
                    v1::Session { matrix, tree, shard, source, precision, horizon, ..v1::Session::default() };
                Some(session_spec(bound).map_err(|e| Error::Protocol { message: e.to_string() })?)
            }
            _ => None,
        };
        let fingerprint = fingerprint.try_into().map_err(|found: Vec<u8>| Error::Protocol {
            message: format!("a fingerprint has 32 bytes, found {}", found.len()),
        })?;
        Ok(Self { name, spec, fingerprint, next_step, next_offset, lanes, step_bytes, memory_bytes, resumed })
    }
}

/// What a stream needs to know of its session.
#[derive(Clone, Debug)]
pub(crate) struct Binding {
    name: String,
    fingerprint: Vec<u8>,
    pub(crate) layout: Layout,
}

impl Binding {
    pub(crate) fn check_payload(&self, len: usize) -> Result<()> {
        let expected = self.layout.byte_len();
        if len == expected {
            return Ok(());
        }
        Err(Error::invalid("payload", format!("must have {expected} bytes, found {len}")))
    }

    /// A chunk. Only the first message of a stream has to say what session it is for.
    pub(crate) fn request(
        &self,
        step: u64,
        offset: u64,
        payload: Bytes,
        opened: &mut bool,
    ) -> v1::StreamMultiplyNextRequest {
        let first = !std::mem::replace(opened, true);
        let name = if first { self.name.clone() } else { String::new() };
        let fingerprint = if first { self.fingerprint.clone() } else { Vec::new() };
        v1::StreamMultiplyNextRequest { name, step, offset, payload, fingerprint }
    }
}

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
}

impl Session {
    pub(crate) fn new(client: Client, info: SessionInfo, resolved: ResolvedSpec) -> Self {
        let binding = Binding {
            name: info.name.clone(),
            fingerprint: info.fingerprint.to_vec(),
            layout: resolved.layout().clone(),
        };
        let position = Position::start_of(info.next_step);
        let flight = Flight::new(client.clone(), binding.clone(), position);
        Self { client, info, resolved, binding, position, flight }
    }

    /// `sessions/{id}`.
    pub fn name(&self) -> &str {
        &self.info.name
    }

    /// What the server said when the session was made or opened.
    pub fn info(&self) -> &SessionInfo {
        &self.info
    }

    /// What the session is bound to.
    pub fn spec(&self) -> &SessionSpec {
        self.resolved.spec()
    }

    /// The lanes that it holds and where they lie in a step's bytes.
    pub fn layout(&self) -> &Layout {
        &self.binding.layout
    }

    /// A digest of everything that it is bound to.
    pub fn fingerprint(&self) -> &[u8; 32] {
        &self.info.fingerprint
    }

    /// Bytes of one step.
    pub fn step_bytes(&self) -> usize {
        self.binding.layout.byte_len()
    }

    /// The step that comes next, as far as this handle knows. Of one that [`multiply_steps`](Self::multiply_steps) was cut
    /// off in, part has been handed out.
    pub fn next_step(&self) -> u64 {
        self.position.step
    }

    /// `(A x)_t` for a step's bytes `x_t`, laid out alike.
    ///
    /// # Errors
    /// [`Error::WrongStep`] and [`Error::PayloadMismatch`], which tell the step that the session expects;
    /// [`Error::PastHorizon`]; [`Error::Invalid`] where the payload has the wrong size; the faults of a connection.
    pub async fn multiply_next(&mut self, step: u64, payload: Bytes) -> Result<Bytes> {
        self.binding.check_payload(payload.len())?;
        if self.is_unary() {
            return self.multiply_unary(step, payload).await;
        }
        let mut output = vec![0; self.step_bytes()];
        self.multiply_chunked(step, |range| payload.slice(range), &mut output).await?;
        Ok(output.into())
    }

    /// The same, from and into memory that the caller keeps, which is cheaper for large steps: fresh memory costs more
    /// than the network.
    ///
    /// # Errors
    /// As [`multiply_next`](Self::multiply_next). What is in `output` then means nothing.
    pub async fn multiply_next_into(&mut self, step: u64, payload: &[u8], output: &mut [u8]) -> Result<()> {
        self.binding.check_payload(payload.len())?;
        if output.len() != self.step_bytes() {
            let rule = format!("must have {} bytes, found {}", self.step_bytes(), output.len());
            return Err(Error::invalid("output", rule));
        }
        if self.is_unary() {
            let answer = self.multiply_unary(step, Bytes::copy_from_slice(payload)).await?;
            output.copy_from_slice(&answer);
            return Ok(());
        }
        self.multiply_chunked(step, |range| Bytes::copy_from_slice(&payload[range]), output).await
    }

    /// A stream of steps from [`next_step`](Self::next_step) on; what [`multiply_steps`](Self::multiply_steps) handed out of
    /// that step is not handed out again. The handle must not be used for steps meanwhile.
    pub fn stream(&self) -> StepStream {
        StepStream::new(self.client.clone(), self.binding.clone(), self.position)
    }

    /// A stream that first repeats the last step, as far as the session still can: what a program needs that was cut
    /// off before it had kept that step's answer. A session keeps a byte's answer until the next step's is asked for.
    ///
    /// The stream's first push is of the step before [`next_step`](Self::next_step), unless that is 0.
    pub fn stream_with_replay(&self) -> StepStream {
        let Some(last) = self.position.step.checked_sub(1) else {
            return self.stream();
        };
        // The handle knows of a step that was cut off only as long as it has not taken one itself.
        let fresh = self.position == Position::start_of(self.info.next_step);
        let offset = if fresh { self.info.next_offset as usize } else { self.position.offset };
        StepStream::new(self.client.clone(), self.binding.clone(), Position { step: last, offset })
    }

    /// Takes steps from [`next_step`](Self::next_step) on for as long as `inputs` gives any, each sent while the last
    /// one's answer still comes, and hands every part of an answer to `on_answer`.
    ///
    /// A call that failed, or whose future was dropped, is gone on with by the next one, or by [`stream`](Self::stream): its
    /// first input is that of [`next_step`](Self::next_step), and its first answer begins after the last one that
    /// `on_answer` took. What was handed out of that step cannot be asked for again, so it must have been kept: the
    /// beginning of the step after it may be applied already.
    ///
    /// # Errors
    /// Those of [`multiply_next`](Self::multiply_next), and whatever error `inputs` or `on_answer` gives.
    pub async fn multiply_steps<E: From<Error>>(
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

    fn is_unary(&self) -> bool {
        self.step_bytes() <= self.client.settings().unary_bytes
    }

    async fn multiply_unary(&mut self, step: u64, payload: Bytes) -> Result<Bytes> {
        let request = v1::MultiplyNextRequest {
            name: self.binding.name.clone(),
            step,
            payload,
            fingerprint: self.binding.fingerprint.clone(),
        };
        let answer = retrying(self.client.settings().retry, &request, |request| {
            let mut sessions = self.client.sessions();
            async move { sessions.multiply_next(request).await }
        });
        let v1::MultiplyNextResponse { step: answered, payload, replay: _ } = answer.await?;
        if answered != step || payload.len() != self.step_bytes() {
            let message = format!("{} bytes of step {answered} in answer to step {step}", payload.len());
            return Err(Error::Protocol { message });
        }
        self.position = Position::start_of(step + 1);
        Ok(payload)
    }

    async fn multiply_chunked(
        &mut self,
        step: u64,
        chunk: impl Fn(std::ops::Range<usize>) -> Bytes,
        output: &mut [u8],
    ) -> Result<()> {
        self.flight.seek(step);
        while let Some(answer) = self.flight.advance(step + 1, |_, range| chunk(range)).await? {
            let Answer { offset, payload, step: _, replay: _, step_end: _ } = answer;
            output[offset..offset + payload.len()].copy_from_slice(&payload);
        }
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
    }
}
