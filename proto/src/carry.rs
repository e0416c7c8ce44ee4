//! Messages that carry a payload, to and from the frames of a connection without a copy of it.
//!
//! A general codec copies a message into one buffer on its way out and out of one on its way in. For large
//! payloads that is most of what a connection costs. Here the payload goes out as the slice of memory that it
//! is, behind a few bytes with everything else; and comes in as the pieces that the connection read it in. On
//! the wire it is gRPC with protobuf as any client or server speaks it.

use std::collections::VecDeque;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use prost::Message;
use prost::encoding::{WireType, decode_key, decode_varint, encode_key, encode_varint};
use tokio_stream::Stream;
use tonic::Status;

use crate::error::ServiceError;
use crate::v1;

/// Before each message: whether it is compressed, and its length.
const PREFIX_BYTES: usize = 5;

/// The most that a message may have beside its payload: names and numbers.
const MAX_HEAD_BYTES: usize = 64 << 10;

/// A message with one field that may be large.
pub trait Carrier: Message + Default {
    /// The number of that field, of type `bytes`.
    const PAYLOAD_TAG: u32;

    /// Takes the payload out.
    fn take_payload(&mut self) -> Bytes;
}

impl Carrier for v1::MultiplyNextRequest {
    const PAYLOAD_TAG: u32 = 3;

    fn take_payload(&mut self) -> Bytes {
        std::mem::take(&mut self.payload)
    }
}

impl Carrier for v1::MultiplyNextResponse {
    const PAYLOAD_TAG: u32 = 2;

    fn take_payload(&mut self) -> Bytes {
        std::mem::take(&mut self.payload)
    }
}

impl Carrier for v1::StreamMultiplyNextRequest {
    const PAYLOAD_TAG: u32 = 4;

    fn take_payload(&mut self) -> Bytes {
        std::mem::take(&mut self.payload)
    }
}

impl Carrier for v1::StreamMultiplyNextResponse {
    const PAYLOAD_TAG: u32 = 3;

    fn take_payload(&mut self) -> Bytes {
        std::mem::take(&mut self.payload)
    }
}

/// A message as it came: its payload lies in `payload`, in order, and that of `message` is empty.
#[derive(Clone, Debug, PartialEq)]
pub struct Carried<M> {
    /// Everything but the payload.
    pub message: M,
    /// The payload, in the pieces in which it was read.
    pub payload: Vec<Bytes>,
}

/// A message as two frames: everything before the payload, and the payload.
fn encode<M: Carrier>(mut message: M) -> (Bytes, Bytes) {
    let payload = message.take_payload();
    let mut head = BytesMut::with_capacity(PREFIX_BYTES + message.encoded_len() + 2 * 10);
    head.put_bytes(0, PREFIX_BYTES);
    // There is room for it: a buffer grows by itself.
    let _fits = message.encode(&mut head);
    if !payload.is_empty() {
        encode_key(M::PAYLOAD_TAG, WireType::LengthDelimited, &mut head);
        encode_varint(payload.len() as u64, &mut head);
    }
    let length = (head.len() - PREFIX_BYTES + payload.len()) as u32;
    head[1..PREFIX_BYTES].copy_from_slice(&length.to_be_bytes());
    (head.freeze(), payload)
}

/// What has been read and is not taken yet.
#[derive(Debug, Default)]
struct Segments {
    segments: VecDeque<Bytes>,
    len: usize,
}

impl Segments {
    fn push(&mut self, segment: Bytes) {
        if !segment.is_empty() {
            self.len += segment.len();
            self.segments.push_back(segment);
        }
    }

    /// The next `len` bytes, which are there, in the pieces they lie in.
    fn take(&mut self, mut len: usize) -> Vec<Bytes> {
        let mut pieces = Vec::new();
        while let Some(front) = self.segments.front_mut().filter(|_| len > 0) {
            let piece = if front.len() > len { front.split_to(len) } else { std::mem::take(front) };
            if front.is_empty() {
                self.segments.pop_front();
            }
            len -= piece.len();
            self.len -= piece.len();
            pieces.push(piece);
        }
        pieces
    }
}

impl Buf for Segments {
    fn remaining(&self) -> usize {
        self.len
    }

    fn chunk(&self) -> &[u8] {
        self.segments.front().map_or(&[], |front| front)
    }

    fn advance(&mut self, count: usize) {
        drop(self.take(count));
    }
}

/// Finds messages in what is read.
#[derive(Debug)]
pub struct Decoder<M> {
    read: Segments,
    /// The length of the message under way, once its prefix has been read.
    length: Option<usize>,
    limit: usize,
    message: PhantomData<fn() -> M>,
}

impl<M: Carrier> Decoder<M> {
    /// For messages of at most `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self { read: Segments::default(), length: None, limit, message: PhantomData }
    }

    /// Takes what was read.
    pub fn push(&mut self, segment: Bytes) {
        self.read.push(segment);
    }

    /// Whether a message has begun that is not whole.
    pub fn is_within_message(&self) -> bool {
        self.length.is_some() || self.read.len > 0
    }

    /// The next message, where all of it has been read.
    ///
    /// # Errors
    /// Where it is compressed, longer than the limit, or no message.
    pub fn next_message(&mut self) -> Result<Option<Carried<M>>, ServiceError> {
        let length = match self.length {
            Some(length) => length,
            None if self.read.len < PREFIX_BYTES => return Ok(None),
            None => {
                let compressed = self.read.get_u8();
                let length = self.read.get_u32() as usize;
                if compressed != 0 {
                    return Err(ServiceError::Malformed("compression is not spoken".to_owned()));
                }
                if length > self.limit {
                    let text = format!("a message of {length} bytes, and the limit is {}", self.limit);
                    return Err(ServiceError::MessageOverLimit { text });
                }
                *self.length.insert(length)
            }
        };
        if self.read.len < length {
            return Ok(None);
        }
        self.length = None;
        let left = self.read.len - length;
        decode(&mut self.read, left).map(Some)
    }
}

/// Reads a message that ends where `left` bytes are left. Its fields may be in any order; the last payload
/// counts.
fn decode<M: Carrier>(read: &mut Segments, left: usize) -> Result<Carried<M>, ServiceError> {
    let malformed = |error: prost::DecodeError| ServiceError::Malformed(error.to_string());
    let truncated = || ServiceError::Malformed("a field goes past the end of its message".to_owned());
    let mut head = BytesMut::new();
    let mut payload = Vec::new();
    while read.len > left {
        let (tag, wire_type) = decode_key(read).map_err(malformed)?;
        let length = match wire_type {
            WireType::Varint => {
                let value = decode_varint(read).map_err(malformed)?;
                encode_key(tag, wire_type, &mut head);
                encode_varint(value, &mut head);
                // Numbers are short, and there may be millions of them.
                if head.len() > MAX_HEAD_BYTES {
                    return Err(head_too_long());
                }
                continue;
            }
            WireType::LengthDelimited => decode_varint(read).map_err(malformed)?,
            WireType::SixtyFourBit => 8,
            WireType::ThirtyTwoBit => 4,
            WireType::StartGroup | WireType::EndGroup => {
                return Err(ServiceError::Malformed("groups are not spoken".to_owned()));
            }
        };
        let length = usize::try_from(length)
            .ok()
            .filter(|length| read.len.checked_sub(*length).is_some_and(|after| after >= left))
            .ok_or_else(truncated)?;
        if tag == M::PAYLOAD_TAG && wire_type == WireType::LengthDelimited {
            payload = read.take(length);
            continue;
        }
        if head.len() + length > MAX_HEAD_BYTES {
            return Err(head_too_long());
        }
        encode_key(tag, wire_type, &mut head);
        if wire_type == WireType::LengthDelimited {
            encode_varint(length as u64, &mut head);
        }
        read.take(length).iter().for_each(|piece| head.put_slice(piece));
    }
    if read.len < left {
        return Err(truncated());
    }
    Ok(Carried { message: M::decode(head.freeze()).map_err(malformed)?, payload })
}

fn head_too_long() -> ServiceError {
    ServiceError::Malformed(format!("a message holds at most {MAX_HEAD_BYTES} bytes beside its payload"))
}

/// Messages on their way out, as the body of a request or of a response.
#[derive(Debug)]
pub struct OutgoingBody<S> {
    messages: S,
    payload: Option<Bytes>,
    /// Whether a status follows the messages, as one does a server's.
    trailers: bool,
    ended: bool,
}

impl<S> OutgoingBody<S> {
    /// A request's: it ends with its last message.
    pub fn of_client(messages: S) -> Self {
        Self { messages, payload: None, trailers: false, ended: false }
    }

    /// A response's: it ends with a status.
    pub fn of_server(messages: S) -> Self {
        Self { messages, payload: None, trailers: true, ended: false }
    }
}

impl<M: Carrier, S: Stream<Item = Result<M, Status>> + Unpin> Body for OutgoingBody<S> {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if let Some(payload) = self.payload.take() {
            return Poll::Ready(Some(Ok(Frame::data(payload))));
        }
        if self.ended {
            return Poll::Ready(None);
        }
        let next = match Pin::new(&mut self.messages).poll_next(context) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(next) => next,
        };
        let status = match next {
            Some(Ok(message)) => {
                let (head, payload) = encode(message);
                self.payload = (!payload.is_empty()).then_some(payload);
                return Poll::Ready(Some(Ok(Frame::data(head))));
            }
            Some(Err(status)) => status,
            None => Status::ok(""),
        };
        self.ended = true;
        if !self.trailers {
            return Poll::Ready(None);
        }
        let mut trailers = HeaderMap::new();
        let added = status.add_header(&mut trailers);
        Poll::Ready(Some(added.map(|()| Frame::trailers(trailers))))
    }

    /// Spares a request an empty frame at its end, where it is known that no message follows.
    fn is_end_stream(&self) -> bool {
        let no_more = self.ended || (!self.trailers && self.messages.size_hint().1 == Some(0));
        no_more && self.payload.is_none()
    }
}

/// Why no message comes.
#[derive(Debug)]
pub enum Fault {
    /// What came is no message.
    Message(ServiceError),
    /// The peer, or the connection, ended the body with a status.
    Ended(Status),
}

impl From<ServiceError> for Fault {
    fn from(error: ServiceError) -> Self {
        Self::Message(error)
    }
}

impl From<Status> for Fault {
    fn from(status: Status) -> Self {
        Self::Ended(status)
    }
}

impl From<Fault> for ServiceError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Message(error) => error,
            Fault::Ended(status) => Self::from_transport(status),
        }
    }
}

impl From<Fault> for Status {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Message(error) => error.into(),
            Fault::Ended(status) => status,
        }
    }
}

/// Messages on their way in, from the body of a request or of a response.
#[derive(Debug)]
pub struct Incoming<M> {
    body: tonic::body::Body,
    decoder: Decoder<M>,
    received_bytes: u64,
}

impl<M: Carrier> Incoming<M> {
    /// For messages of at most `limit` bytes.
    pub fn new(body: tonic::body::Body, limit: usize) -> Self {
        Self { body, decoder: Decoder::new(limit), received_bytes: 0 }
    }

    /// Bytes that have come, of whole messages and of the one under way.
    pub fn received_bytes(&self) -> u64 {
        self.received_bytes
    }

    /// Whether a message has begun that is not whole.
    pub fn is_within_message(&self) -> bool {
        self.decoder.is_within_message()
    }

    /// The only message of a body, after the end of the body; `None` where it has no message.
    ///
    /// # Errors
    /// As [`message`](Self::message), and where there are several messages.
    pub async fn only_message(mut self) -> Result<Option<Carried<M>>, Fault> {
        let message = self.message().await?;
        // A body that is dropped before its end resets the call.
        if message.is_some() && self.message().await?.is_some() {
            return Err(ServiceError::Malformed("must be one message, found several".to_owned()).into());
        }
        Ok(message)
    }

    /// The next message, or `None` where the body has ended well. Dropping the future loses nothing.
    ///
    /// # Errors
    /// The status that the body ends with, or why something is no message.
    pub async fn message(&mut self) -> Result<Option<Carried<M>>, Fault> {
        loop {
            if let Some(message) = self.decoder.next_message()? {
                return Ok(Some(message));
            }
            let Some(frame) = self.body.frame().await.transpose()? else {
                if self.decoder.is_within_message() {
                    let text = "the body ended within a message".to_owned();
                    return Err(ServiceError::ConnectionBroken { text }.into());
                }
                return Ok(None);
            };
            match frame.into_data() {
                Ok(data) => {
                    self.received_bytes += data.len() as u64;
                    self.decoder.push(data);
                }
                Err(frame) => {
                    let status = frame.trailers_ref().and_then(Status::from_header_map);
                    if let Some(status) = status.filter(|status| status.code() != tonic::Code::Ok) {
                        return Err(status.into());
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
