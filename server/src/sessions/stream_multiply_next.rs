//! StreamMultiplyNext: any number of steps, of trees of any size, in chunks.
//!
//! One task a stream takes frames, has them computed and hands the answers on. Meanwhile the connection's
//! task fills the next frames into the stream's window and writes earlier answers out, so receiving,
//! computing and sending overlap. A client that does not read fills the short queue of answers; then no more
//! is computed, no more frames are taken, and the window closes.

use std::sync::Arc;

use bytes::Bytes;
use noised::Error;
use noised::session::{Assembler, OutputChunk};
use noised_proto::carry::{Carried, Incoming, OutgoingBody};
use noised_proto::{ServiceError, v1};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tonic::body::Body;
use tonic::metadata::GRPC_CONTENT_TYPE;

use super::{SessionsService, check_fingerprint};
use crate::audit::What;
use crate::entry::Entry;
use crate::identity::Caller;
use crate::intake::PACE_BYTES;
use crate::lifecycle::Lifecycle;

/// Bytes of an answer's payload, where it is longer than what it answers: less than that costs more messages,
/// and more waits longer for its end.
const ANSWER_BYTES: usize = 1 << 20;

/// More than an answer holds beside its payload.
const ANSWER_HEAD_BYTES: usize = 64;

/// Answers that wait to be written.
const QUEUE: usize = 4;

type Frames = Incoming<v1::StreamMultiplyNextRequest>;
type Frame = Carried<v1::StreamMultiplyNextRequest>;
type Answer = Result<v1::StreamMultiplyNextResponse, Status>;

impl SessionsService {
    /// Answers a call as it comes from the connection: payloads are not copied on their way in or out.
    pub(super) fn stream_carried(&self, request: http::Request<Body>) -> http::Response<Body> {
        let caller = Caller::of(request.extensions());
        let frames = Incoming::new(request.into_body(), self.max_message_bytes);
        let mut response =
            http::Response::new(Body::new(OutgoingBody::of_server(self.stream(frames, caller))));
        response.headers_mut().insert(http::header::CONTENT_TYPE, GRPC_CONTENT_TYPE);
        response
    }

    fn stream(&self, frames: Frames, caller: Caller) -> ReceiverStream<Answer> {
        let (answers, queue) = mpsc::channel(QUEUE);
        let service = self.clone();
        tokio::spawn(async move {
            if let Err(error) = service.serve_stream(frames, &caller, &answers).await {
                tracing::debug!(%error, "a stream ended");
                service.tell_end(&answers, error).await;
            }
        });
        ReceiverStream::new(queue)
    }

    /// Tells why a stream ends, to a client that reads. A client that does not must not keep the server from
    /// stopping.
    async fn tell_end(&self, answers: &mpsc::Sender<Answer>, error: ServiceError) {
        tokio::select! {
            biased;
            // Where the client is gone, nobody is left to tell.
            _ = answers.send(Err(error.into())) => {}
            () = self.lifecycle.cut.cancelled() => {}
        }
    }

    async fn serve_stream(
        &self,
        mut frames: Frames,
        caller: &Caller,
        answers: &mpsc::Sender<Answer>,
    ) -> Result<(), ServiceError> {
        self.lifecycle.check_open()?;
        let first = tokio::select! {
            biased;
            () = self.lifecycle.draining.cancelled() => return Err(Lifecycle::refusal()),
            frame = self.receive(&mut frames) => frame?,
        };
        let Some(mut frame) = first else {
            return Ok(());
        };
        let entry = self.entry(caller, &frame.message.name).await?;
        check_fingerprint(&entry, &frame.message.fingerprint)?;
        let mut assembler = Assembler::new(entry.resolved.input_layout().clone());
        loop {
            let served = self.serve_frame(&entry, caller, &mut assembler, frame, answers).await;
            if !served.inspect_err(|error| self.note_refusal(What::Step, error, &entry.key, caller))? {
                return Ok(());
            }
            match self.next_frame(&entry, &assembler, &mut frames).await? {
                Some(next) => frame = next,
                // Whatever of a step was applied stays applied, and is finished by sending the step again.
                None => return Ok(()),
            }
        }
    }

    /// Waits for a frame, unless the session or the server ends first.
    async fn next_frame(
        &self,
        entry: &Entry,
        assembler: &Assembler,
        frames: &mut Frames,
    ) -> Result<Option<Frame>, ServiceError> {
        tokio::select! {
            biased;
            () = entry.deleted.cancelled() => Err(entry.not_found()),
            () = self.lifecycle.cut.cancelled() => Err(Lifecycle::refusal()),
            () = self.lifecycle.draining.cancelled(), if assembler.is_between_steps() => Err(Lifecycle::refusal()),
            frame = self.receive(frames) => frame,
        }
    }

    /// The next frame. Between frames the client has all the time that it likes, and within one it has the
    /// pace of any request: what has come of a frame is held until all of it is there.
    async fn receive(&self, frames: &mut Frames) -> Result<Option<Frame>, ServiceError> {
        let mut before = None;
        loop {
            tokio::select! {
                biased;
                frame = frames.message() => return Ok(frame?),
                () = tokio::time::sleep(self.body_timeout) => {}
            }
            let now = frames.is_within_message().then(|| frames.received_bytes());
            if let (Some(before), Some(now)) = (before, now)
                && now - before < PACE_BYTES as u64
            {
                return Err(ServiceError::Stalled { bytes: PACE_BYTES, timeout: self.body_timeout });
            }
            before = now;
        }
    }

    /// Answers a frame; `false` where the client does not read any more.
    async fn serve_frame(
        &self,
        entry: &Arc<Entry>,
        caller: &Caller,
        assembler: &mut Assembler,
        frame: Frame,
        answers: &mpsc::Sender<Answer>,
    ) -> Result<bool, ServiceError> {
        entry.last_use.note();
        let Carried { message, payload } = frame;
        let v1::StreamMultiplyNextRequest { name, step, offset, payload: _, fingerprint: _ } = message;
        // The name of another tenant's form means the same session.
        if !name.is_empty() && name != entry.key.name && caller.find(&name)? != entry.key {
            return Err(Error::invalid("name", "must be that of the stream's first message, or empty").into());
        }
        if entry.draws_all() {
            if payload.iter().any(|piece| !piece.is_empty()) {
                return Err(Error::invalid("payload", "must be empty: the source is `gaussian`").into());
            }
            // An offset that does not fit is past the end of any step.
            let offset = usize::try_from(offset).unwrap_or(usize::MAX);
            let chunks = entry.fetch(&self.compute, step, offset).await?;
            return self.send(entry, step, chunks, ANSWER_BYTES, answers).await;
        }
        match assembler.push(step, offset, payload)? {
            Some(run) => {
                // An answer is as long as what it answers, but where formats differ or much was held back.
                let bytes = run.pieces.iter().map(Bytes::len).sum::<usize>().max(ANSWER_BYTES);
                let chunks = entry.apply(&self.compute, run.step, run.offset, run.pieces).await?;
                self.send(entry, run.step, chunks, bytes, answers).await
            }
            None => Ok(true),
        }
    }

    /// Hands parts of a step's answer on, in messages of at most `largest` bytes; `false` where the client
    /// does not read any more.
    async fn send(
        &self,
        entry: &Entry,
        step: u64,
        chunks: Vec<OutputChunk>,
        largest: usize,
        answers: &mpsc::Sender<Answer>,
    ) -> Result<bool, ServiceError> {
        let largest = largest.min(self.max_message_bytes - ANSWER_HEAD_BYTES);
        for chunk in chunks.into_iter().flat_map(|chunk| split(chunk, largest)) {
            let answer = self.answer(entry, step, chunk);
            let sent = tokio::select! {
                biased;
                () = self.lifecycle.cut.cancelled() => return Err(Lifecycle::refusal()),
                // A client that does not read must not keep the session's memory.
                () = entry.deleted.cancelled() => return Err(entry.not_found()),
                sent = answers.send(Ok(answer)) => sent,
            };
            if sent.is_err() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn answer(&self, entry: &Entry, step: u64, chunk: OutputChunk) -> v1::StreamMultiplyNextResponse {
        let OutputChunk { offset, bytes, replay } = chunk;
        let step_end = offset + bytes.len() == entry.resolved.layout().byte_len();
        v1::StreamMultiplyNextResponse { step, offset: offset as u64, payload: bytes, replay, step_end }
    }
}

/// A part of an answer in parts of at most `largest` bytes, which share its memory.
fn split(chunk: OutputChunk, largest: usize) -> impl Iterator<Item = OutputChunk> {
    let OutputChunk { offset, bytes, replay } = chunk;
    (0..bytes.len()).step_by(largest).map(move |start| {
        let end = bytes.len().min(start + largest);
        OutputChunk { offset: offset + start, bytes: bytes.slice(start..end), replay }
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::service;
    use super::*;

    /// A client that reads nothing is not waited for once the server ends.
    #[tokio::test]
    async fn the_end_of_a_stream_that_nobody_reads() {
        let service = service();
        let (answers, mut queue) = mpsc::channel(1);
        service.tell_end(&answers, ServiceError::Internal).await;
        let mut telling = std::pin::pin!(service.tell_end(&answers, ServiceError::Internal));
        let soon = std::time::Duration::from_millis(50);
        tokio::time::timeout(soon, telling.as_mut()).await.expect_err("the queue is full");
        service.lifecycle.cut.cancel();
        tokio::time::timeout(std::time::Duration::from_secs(60), telling).await.expect("this hangs");
        assert!(queue.recv().await.unwrap().is_err());
    }
}
