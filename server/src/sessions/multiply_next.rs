//! MultiplyNext: one whole step of a tree that fits a message.

use bytes::{Bytes, BytesMut};
use noised::Error;
use noised::session::OutputChunk;
use noised_proto::{ServiceError, v1};

use super::audit::{Peer, note_refusal};
use super::{SessionsService, check_fingerprint};

/// What an answer holds beside its payload.
const ENVELOPE_BYTES: usize = 64;

impl SessionsService {
    pub(super) async fn step(
        &self,
        request: v1::MultiplyNextRequest,
        peer: Peer,
    ) -> Result<v1::MultiplyNextResponse, ServiceError> {
        self.lifecycle.check_open()?;
        let v1::MultiplyNextRequest { name, step, payload, fingerprint } = request;
        let entry = self.used_entry(&name)?;
        check_fingerprint(&entry, &fingerprint)?;
        let (expected, found) = (entry.resolved.input_bytes(), payload.len());
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
            let applied = entry.apply(&self.compute, step, 0, vec![payload]).await;
            applied.inspect_err(|error| note_refusal(error, &entry.name, peer))?
        };
        let replay = chunks.iter().all(|chunk| chunk.replay);
        Ok(v1::MultiplyNextResponse { step, payload: join(chunks, answer_bytes), replay })
    }
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
