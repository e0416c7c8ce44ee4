//! MultiplyNext: one whole step of a tree that fits a message.

use bytes::{Bytes, BytesMut};
use noised::session::{Assembler, OutputChunk};
use noised::{Error, Layout};
use noised_proto::carry::{Carried, Incoming, OutgoingBody};
use noised_proto::{ServiceError, v1};
use tonic::Status;
use tonic::body::Body;
use tonic::metadata::GRPC_CONTENT_TYPE;

use super::{SessionsService, check_fingerprint};
use crate::audit::What;
use crate::identity::Caller;

/// What an answer holds beside its payload.
const ENVELOPE_BYTES: usize = 64;

impl SessionsService {
    /// Answers a call as it comes from the connection: payloads are not copied on their way in or out.
    pub(super) async fn step_carried(&self, request: http::Request<Body>) -> http::Response<Body> {
        let caller = Caller::of(request.extensions());
        match self.receive_and_step(request.into_body(), &caller).await {
            Ok(answer) => {
                let answers = tokio_stream::once(Ok(answer));
                let mut response = http::Response::new(Body::new(OutgoingBody::of_server(answers)));
                response.headers_mut().insert(http::header::CONTENT_TYPE, GRPC_CONTENT_TYPE);
                response
            }
            Err(status) => status.into_http(),
        }
    }

    async fn receive_and_step(
        &self,
        body: Body,
        caller: &Caller,
    ) -> Result<v1::MultiplyNextResponse, Status> {
        // A body that is given up says why: it came too slowly, or the server ends.
        let request =
            Incoming::new(body, self.max_message_bytes).only_message().await.map_err(Status::from)?;
        let missing = || ServiceError::Malformed("must be one message, found none".to_owned());
        Ok(self.step(request.ok_or_else(missing)?, caller).await?)
    }

    async fn step(
        &self,
        request: Carried<v1::MultiplyNextRequest>,
        caller: &Caller,
    ) -> Result<v1::MultiplyNextResponse, ServiceError> {
        self.lifecycle.check_open()?;
        let Carried { message, payload } = request;
        let v1::MultiplyNextRequest { name, step, payload: _, fingerprint } = message;
        let entry = self.used_entry(caller, &name).await?;
        check_fingerprint(&entry, &fingerprint)?;
        let found: usize = payload.iter().map(Bytes::len).sum();
        let expected = entry.resolved.input_bytes();
        if found != expected {
            return Err(
                Error::invalid("payload", format!("must have {expected} bytes, found {found}")).into()
            );
        }
        let answer_bytes = entry.resolved.layout().byte_len();
        let (size, limit) = ((answer_bytes + ENVELOPE_BYTES) as u64, self.max_message_bytes as u64);
        if size > limit {
            return Err(ServiceError::MessageTooLarge { field: "payload", size, limit });
        }
        let chunks = if entry.draws_all() {
            entry.fetch(&self.compute, step, 0).await?
        } else {
            let pieces = whole_tiles(entry.resolved.input_layout(), step, payload)?;
            let applied = entry.apply(&self.compute, step, 0, pieces).await;
            applied.inspect_err(|error| self.note_refusal(What::Step, error, &entry.key, caller))?
        };
        let replay = chunks.iter().all(|chunk| chunk.replay);
        Ok(v1::MultiplyNextResponse { step, payload: join(chunks, answer_bytes), replay })
    }
}

/// All of a step, in pieces of whole tiles. Bytes are copied only where a tile lies across pieces.
fn whole_tiles(layout: &Layout, step: u64, payload: Vec<Bytes>) -> Result<Vec<Bytes>, Error> {
    if payload.len() == 1 {
        return Ok(payload);
    }
    let run = Assembler::new(layout.clone()).push(step, 0, payload)?;
    Ok(run.map(|run| run.pieces).unwrap_or_default())
}

/// The chunks as one. There is more than one only where a stream was cut in the middle of the step.
fn join(mut chunks: Vec<OutputChunk>, len: usize) -> Bytes {
    if chunks.len() == 1 {
        return chunks.swap_remove(0).bytes;
    }
    let mut whole = BytesMut::with_capacity(len);
    chunks.iter().for_each(|chunk| whole.extend_from_slice(&chunk.bytes));
    whole.freeze()
}
