//! Many steps on one stream.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use noised_proto::carry::{Carried, Incoming, OutgoingBody};
use noised_proto::v1::{StreamMultiplyNextRequest, StreamMultiplyNextResponse};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tonic::Status;
use tonic::body::Body;

use crate::binding::Binding;
use crate::carried;
use crate::client::Client;
use crate::error::{Error, Result};
use crate::fleet::Server;
use crate::way::Way;
use crate::window::{Answer, Chunk, Position, Window};

/// Chunks that wait for HTTP/2 to take them. The window bounds what is under way; this only has to keep it
/// busy.
const QUEUED_CHUNKS: usize = 2;

const PATH: &str = "/noised.v1.Sessions/StreamMultiplyNext";

/// Steps that are taken before their answer is complete: one whose answer is coming, one on its way.
const STEPS_AT_HAND: usize = 2;

/// A session's steps, one after the other, on one stream: the next step goes up while the last one's answer
/// still comes down. Where the server draws all of the input, the next step is asked for once the last one's
/// answer is there, and the server has it ready by then.
///
/// Push steps while [`wants_input`](Self::wants_input), and take answers with [`next`](Self::next), which
/// does all the work; or have [`run`](Self::run) do both. A stream that is cut is opened again, and goes on
/// where it was.
#[derive(Debug)]
pub struct StepStream {
    flight: Flight,
    /// The steps whose answers are not complete, from that of `flight`'s next answer on.
    inputs: VecDeque<Bytes>,
    /// A step that may be gone, until part of an answer to it has come.
    replayed: Option<u64>,
}

impl StepStream {
    pub(crate) fn new(client: Client, binding: Binding, start: Position) -> Self {
        Self { flight: Flight::new(client, binding, start), inputs: VecDeque::new(), replayed: None }
    }

    /// A stream whose first step is left out where the session does not have its answer any more.
    pub(crate) fn replaying(client: Client, binding: Binding, start: Position) -> Self {
        Self { replayed: Some(start.step), ..Self::new(client, binding, start) }
    }

    /// The step that the next push is of.
    pub fn next_input_step(&self) -> u64 {
        self.next_answer_step() + self.inputs.len() as u64
    }

    /// The step that the next answer is of.
    pub fn next_answer_step(&self) -> u64 {
        self.flight.window.delivered().step
    }

    /// Whether another step would find room.
    pub fn wants_input(&self) -> bool {
        self.inputs.len() < STEPS_AT_HAND
    }

    /// Puts a step in the queue; [`next`](Self::next) sends it. Where the server draws all of the input, the
    /// payload is empty.
    ///
    /// # Errors
    /// [`Error::WrongStep`] where it is not the step after the last one pushed; [`Error::Invalid`] where the
    /// payload has the wrong size.
    pub fn push(&mut self, step: u64, payload: Bytes) -> Result<()> {
        let expected = self.next_input_step();
        if step != expected {
            return Err(Error::WrongStep { requested: step, expected });
        }
        self.flight.binding.check_payload(payload.len())?;
        self.inputs.push_back(payload);
        Ok(())
    }

    /// The next part of an answer, or `None` where every step pushed is answered. Dropping the future loses
    /// nothing.
    ///
    /// # Errors
    /// A refusal of the server, or the last fault of the connection once the time for retries is spent;
    /// [`Error::TakenByAnother`] where another handle was given the step and this one never asked for it.
    pub async fn next(&mut self) -> Result<Option<Answer>> {
        loop {
            match self.advance().await {
                Err(Error::WrongStep { requested, expected })
                    if self.replayed == Some(requested) && expected == requested + 1 =>
                {
                    self.replayed = None;
                    self.inputs.pop_front();
                    self.flight.seek(expected);
                }
                Ok(answer) => {
                    if answer.is_some() {
                        self.replayed = None;
                    }
                    return Ok(answer);
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn advance(&mut self) -> Result<Option<Answer>> {
        let first = self.next_answer_step();
        let Self { flight, inputs, replayed: _ } = self;
        let chunk_of = |step: u64, range: Range<usize>| {
            inputs.get((step - first) as usize).map(|input| input.slice(range)).unwrap_or_default()
        };
        let answer = flight.advance(first + inputs.len() as u64, chunk_of).await?;
        if answer.as_ref().is_some_and(|answer| answer.step_end) {
            inputs.pop_front();
        }
        Ok(answer)
    }

    /// Sends every step that `inputs` gives and hands every answer to `on_answer`, until all are answered.
    ///
    /// Answers are taken while an input is awaited, so an input that takes long to make keeps nothing back.
    ///
    /// # Errors
    /// Those of [`push`](Self::push) and [`next`](Self::next), and whatever error `inputs` or `on_answer`
    /// gives.
    pub async fn run<E: From<Error>>(
        &mut self,
        inputs: impl Stream<Item = std::result::Result<Bytes, E>>,
        mut on_answer: impl FnMut(Answer) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        let mut inputs = std::pin::pin!(inputs);
        let mut ended = false;
        loop {
            let idle = self.inputs.is_empty();
            if idle && ended {
                return Ok(());
            }
            let wants_input = self.wants_input() && !ended;
            tokio::select! {
                input = inputs.next(), if wants_input => match input {
                    Some(payload) => self.push(self.next_input_step(), payload?)?,
                    None => ended = true,
                },
                answer = self.next(), if !idle => {
                    if let Some(answer) = answer? {
                        on_answer(answer)?;
                    }
                }
            }
        }
    }
}

/// A window on a session, with the connection that moves it.
#[derive(Debug)]
pub(crate) struct Flight {
    client: Client,
    binding: Binding,
    window: Window,
    exchange: Option<Exchange>,
    /// Whether the step under way is sent from its beginning: a server that took the session from a store has
    /// no part of it.
    from_beginning: bool,
}

impl Flight {
    pub(crate) fn new(client: Client, binding: Binding, start: Position) -> Self {
        let window = Window::new(binding.traffic.clone(), client.settings().chunk_bytes, start);
        Self { client, binding, window, exchange: None, from_beginning: false }
    }

    /// Makes ready for a step: keeps the open stream where that is what comes next on it, and drops it where
    /// not.
    pub(crate) fn seek(&mut self, step: u64) {
        if !self.window.is_at_start_of(step) {
            *self = Self::new(self.client.clone(), self.binding.clone(), Position::start_of(step));
        }
    }

    /// Sends what may be sent until an answer comes; `None` where nothing is under way and nothing is left to
    /// send. The steps before `inputs_end` are at hand, and `chunk_of` gives their bytes.
    pub(crate) async fn advance(
        &mut self,
        inputs_end: u64,
        chunk_of: impl Fn(u64, Range<usize>) -> Bytes,
    ) -> Result<Option<Answer>> {
        let mut way = self.client.way(&self.binding.name);
        if let Some(exchange) = &self.exchange {
            way.is_with(&exchange.server);
        }
        while self.window.delivered() < Position::start_of(inputs_end) {
            match self.answer(&mut way, inputs_end, &chunk_of).await {
                Ok(answer) => {
                    // An error leaves the answers that follow to nobody.
                    self.binding
                        .asked
                        .check(answer.step, answer.replay)
                        .inspect_err(|_| self.exchange = None)?;
                    if let Some(answer) = self.window.take(answer)? {
                        way.succeeded();
                        self.from_beginning = false;
                        return Ok(Some(answer));
                    }
                }
                Err(error) => {
                    self.exchange = None;
                    self.binding.asked.note_failure(&error);
                    if self.is_without_its_part(&error) {
                        self.from_beginning = true;
                        continue;
                    }
                    way.failed(error).await?;
                }
            }
        }
        Ok(None)
    }

    /// Whether the server refused to go on in the middle of a step, of which it has no part.
    fn is_without_its_part(&self, error: &Error) -> bool {
        let is_in_the_middle = self.window.delivered().offset > 0 && !self.from_beginning;
        is_in_the_middle && matches!(error, Error::Invalid { field, .. } if field == "offset")
    }

    async fn answer(
        &mut self,
        way: &mut Way,
        inputs_end: u64,
        chunk_of: impl Fn(u64, Range<usize>) -> Bytes,
    ) -> Result<Answer> {
        let exchange = match &mut self.exchange {
            Some(exchange) => exchange,
            none => {
                if self.from_beginning {
                    self.window.restart();
                } else {
                    self.window.reconnect();
                }
                self.binding.asked.begin();
                none.insert(Exchange::open(&self.client, way.server().await?))
            }
        };
        loop {
            let chunk = self.window.next_chunk(inputs_end).filter(|_| !exchange.requests.is_closed());
            tokio::select! {
                // What has come in frees the server's memory and opens the window.
                biased;
                answer = exchange.answers.next() => return answer,
                permit = exchange.requests.reserve(), if chunk.is_some() => {
                    // Where the stream takes nothing any more, its answers tell why.
                    if let (Ok(permit), Some(chunk)) = (permit, chunk) {
                        self.window.note_sent(&chunk);
                        let Chunk { step, offset, input } = chunk;
                        self.binding.asked.note(step);
                        let payload = chunk_of(step, input);
                        permit.send(self.binding.request(step, offset as u64, payload, &mut exchange.opened));
                    }
                }
            }
        }
    }
}

/// One gRPC stream, whose payloads are not copied on their way out or in.
#[derive(Debug)]
struct Exchange {
    server: Arc<Server>,
    requests: mpsc::Sender<StreamMultiplyNextRequest>,
    answers: Answers,
    /// Whether the first message, which names the session, is sent.
    opened: bool,
}

#[derive(Debug)]
struct Answers {
    /// A server may wait for the first message before it answers at all, so the call waits on a task of its
    /// own.
    call: JoinHandle<std::result::Result<Incoming<StreamMultiplyNextResponse>, Status>>,
    open: Option<Incoming<StreamMultiplyNextResponse>>,
    /// What is left of a message that came in pieces.
    pieces: VecDeque<Answer>,
}

impl Exchange {
    fn open(client: &Client, server: Arc<Server>) -> Self {
        let (requests, queued) = mpsc::channel(QUEUED_CHUNKS);
        let queued = ReceiverStream::new(queued).map(Ok::<_, Status>);
        let body = Body::new(OutgoingBody::of_client(queued));
        let limit = client.settings().message_bytes;
        let call = tokio::spawn(carried::call(server.link(), PATH, body, limit));
        Self {
            server,
            requests,
            answers: Answers { call, open: None, pieces: VecDeque::new() },
            opened: false,
        }
    }
}

impl Answers {
    /// The next part of an answer. Dropping the future loses nothing.
    async fn next(&mut self) -> Result<Answer> {
        loop {
            if let Some(answer) = self.pieces.pop_front() {
                return Ok(answer);
            }
            let open = match &mut self.open {
                Some(open) => open,
                none => {
                    let call =
                        (&mut self.call).await.map_err(|e| Error::Transport { message: e.to_string() })?;
                    none.insert(call?)
                }
            };
            let ended = || Error::Transport { message: "the server ended the stream early".into() };
            let message = open.message().await.map_err(Status::from)?;
            self.pieces.extend(decode(message.ok_or_else(ended)?));
        }
    }
}

impl Drop for Answers {
    fn drop(&mut self) {
        self.call.abort();
    }
}

/// A message as an answer for each of its pieces.
fn decode(carried: Carried<StreamMultiplyNextResponse>) -> impl Iterator<Item = Answer> {
    let Carried { message, mut payload } = carried;
    let StreamMultiplyNextResponse { step, offset, payload: _, replay, step_end } = message;
    // An offset that does not fit is none that is waited for.
    let mut offset = usize::try_from(offset).unwrap_or(usize::MAX);
    if payload.is_empty() {
        payload.push(Bytes::new());
    }
    payload.into_iter().map(move |payload| {
        let start = offset;
        offset = offset.saturating_add(payload.len());
        Answer { step, offset: start, payload, replay, step_end }
    })
}
