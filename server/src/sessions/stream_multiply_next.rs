//! StreamMultiplyNext: any number of steps, of trees of any size, in chunks.
//!
//! One task a stream takes frames, has them computed and hands the answers on. Meanwhile the connection's task fills the
//! next frames into the stream's window and writes earlier answers out, so receiving, computing and sending overlap. A
//! client that does not read fills the short queue of answers; then no more is computed, no more frames are taken, and
//! the window closes.

use std::sync::Arc;

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
use crate::lifecycle::Lifecycle;
use crate::registry::Entry;

/// Answers that wait to be written.
const QUEUE: usize = 4;

type Frames = Incoming<v1::StreamMultiplyNextRequest>;
type Frame = Carried<v1::StreamMultiplyNextRequest>;
type Answer = Result<v1::StreamMultiplyNextResponse, Status>;

impl SessionsService {
    /// Answers a call as it comes from the connection: payloads are not copied on their way in or out.
    pub(super) fn stream_carried(&self, request: http::Request<Body>) -> http::Response<Body> {
        let frames = Incoming::new(request.into_body(), self.max_message_bytes);
        let mut response = http::Response::new(Body::new(OutgoingBody::of_server(self.stream(frames))));
        response.headers_mut().insert(http::header::CONTENT_TYPE, GRPC_CONTENT_TYPE);
        response
    }

    fn stream(&self, frames: Frames) -> ReceiverStream<Answer> {
        let (answers, queue) = mpsc::channel(QUEUE);
        let service = self.clone();
        tokio::spawn(async move {
            if let Err(error) = service.serve_stream(frames, &answers).await {
                tracing::debug!(%error, "a stream ended");
                // Where the client is gone, nobody is left to tell.
                let _ = answers.send(Err(error.into())).await;
            }
        });
        ReceiverStream::new(queue)
    }

    async fn serve_stream(
        &self,
        mut frames: Frames,
        answers: &mpsc::Sender<Answer>,
    ) -> Result<(), ServiceError> {
        self.lifecycle.check_open()?;
        let first = tokio::select! {
            biased;
            () = self.lifecycle.draining.cancelled() => return Err(Lifecycle::refusal()),
            frame = frames.message() => frame?,
        };
        let Some(mut frame) = first else {
            return Ok(());
        };
        let entry = self.entry(&frame.message.name)?;
        check_fingerprint(&entry, &frame.message.fingerprint)?;
        let mut assembler = Assembler::new(entry.resolved.layout().clone());
        loop {
            if !self.serve_frame(&entry, &mut assembler, frame, answers).await? {
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
            frame = frames.message() => Ok(frame?),
        }
    }

    /// Answers a frame; `false` where the client does not read any more.
    async fn serve_frame(
        &self,
        entry: &Arc<Entry>,
        assembler: &mut Assembler,
        frame: Frame,
        answers: &mpsc::Sender<Answer>,
    ) -> Result<bool, ServiceError> {
        let Carried { message, payload } = frame;
        let v1::StreamMultiplyNextRequest { name, step, offset, payload: _, fingerprint: _ } = message;
        if !name.is_empty() && name != entry.name {
            return Err(Error::invalid("name", "must be that of the stream's first message, or empty").into());
        }
        if let Some(run) = assembler.push(step, offset, payload)? {
            let chunks = entry.apply(&self.compute, run.step, run.offset, run.pieces).await?;
            for chunk in chunks {
                let answer = self.answer(entry, run.step, chunk);
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
        }
        Ok(true)
    }

    fn answer(&self, entry: &Entry, step: u64, chunk: OutputChunk) -> v1::StreamMultiplyNextResponse {
        let OutputChunk { offset, bytes, replay } = chunk;
        let step_end = offset + bytes.len() == entry.resolved.layout().byte_len();
        v1::StreamMultiplyNextResponse { step, offset: offset as u64, payload: bytes, replay, step_end }
    }
}
