//! Given keys, which are taken out of a request before it is decoded: a decoder copies what it decodes, and
//! wipes nothing.
//!
//! The key's bytes go into memory that is wiped. The decoder sees as many zeros in their place. Of what the
//! connection read, the bytes are wiped once nobody else holds that buffer: when the connection reads into
//! another one, or ends.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tonic::Status;
use tonic::body::Body;
use zeroize::{Zeroize, Zeroizing};

/// The call that gives a key, and the number of the field with it.
pub(crate) const PATH: &str = "/noised.v1.Sessions/CreateSession";
const FIELD: u64 = 4;

/// Before a message: whether it is compressed, and its length.
const PREFIX_BYTES: u64 = 5;

/// No key is longer; what is, is refused for its length.
const MOST_BYTES: usize = 128;

/// Between two tries to wipe buffers that a connection still holds.
const WIPE_PAUSE: Duration = Duration::from_millis(200);

/// The key of a request, once the request is read.
#[derive(Clone)]
pub(crate) struct GivenKey(Arc<Mutex<Zeroizing<Vec<u8>>>>);

impl GivenKey {
    /// Takes the key of a request on its way to the decoder, which finds this among the request's extensions.
    pub(crate) fn take_from(request: http::Request<Body>, wiper: &Wiper) -> http::Request<Body> {
        // It does not grow, and so leaves no copy behind.
        let key = Self(Arc::new(Mutex::new(Zeroizing::new(Vec::with_capacity(MOST_BYTES)))));
        let (wiper, taken) = (wiper.clone(), key.clone());
        let masked =
            |body| Masked { body, place: Place::Prefix(PREFIX_BYTES), taken, wiper, queue: VecDeque::new() };
        let mut request = request.map(|body| Body::new(masked(body)));
        request.extensions_mut().insert(key);
        request
    }

    /// The key where one was taken that the decoder found zeros in the place of.
    pub(crate) fn or(&self, decoded: Zeroizing<Vec<u8>>) -> Zeroizing<Vec<u8>> {
        let mut bytes = self.bytes();
        if bytes.len() == decoded.len() { std::mem::take(&mut bytes) } else { decoded }
    }

    fn bytes(&self) -> MutexGuard<'_, Zeroizing<Vec<u8>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for GivenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("GivenKey(..)")
    }
}

/// A body whose key is zeros.
struct Masked {
    body: Body,
    place: Place,
    taken: GivenKey,
    wiper: Wiper,
    /// Parts of a frame that are not handed on yet.
    queue: VecDeque<Bytes>,
}

/// Where in a message the next byte is.
#[derive(Clone, Copy, Debug)]
enum Place {
    /// Before it, with so many bytes to come.
    Prefix(u64),
    /// In the number of a field, of which so many bits are known.
    Tag {
        value: u64,
        bits: u32,
    },
    /// In the length of a field.
    Length {
        field: u64,
        value: u64,
        bits: u32,
    },
    Varint,
    Skipped(u64),
    Key(u64),
    /// In something that is no message: the decoder says so.
    Lost,
}

impl Place {
    const FIELD: Self = Self::Tag { value: 0, bits: 0 };

    /// Goes on by one byte or more of the same part; tells how many, and whether they are of a key.
    fn advance(&mut self, bytes: &[u8]) -> (usize, bool) {
        let first = bytes.first().copied().unwrap_or_default();
        let run = |left: u64| usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
        let more = |left: u64, part: fn(u64) -> Self| if left == 0 { Self::FIELD } else { part(left) };
        let add = |value: u64, bits: u32| value | u64::from(first & 0x7f).checked_shl(bits).unwrap_or(0);
        let last = first < 0x80;
        let (next, length, key) = match *self {
            Self::Prefix(PREFIX_BYTES) if first != 0 => (Self::Lost, 1, false),
            Self::Prefix(left) => (more(left - 1, Self::Prefix), 1, false),
            Self::Tag { bits: 64.., .. } | Self::Length { bits: 64.., .. } | Self::Lost => {
                (Self::Lost, bytes.len(), false)
            }
            Self::Tag { value, bits } if !last => {
                (Self::Tag { value: add(value, bits), bits: bits + 7 }, 1, false)
            }
            Self::Tag { value, bits } => {
                let tag = add(value, bits);
                let next = match tag & 7 {
                    0 => Self::Varint,
                    1 => Self::Skipped(8),
                    2 => Self::Length { field: tag >> 3, value: 0, bits: 0 },
                    5 => Self::Skipped(4),
                    _ => Self::Lost,
                };
                (next, 1, false)
            }
            Self::Length { field, value, bits } if !last => {
                (Self::Length { field, value: add(value, bits), bits: bits + 7 }, 1, false)
            }
            Self::Length { field, value, bits } => {
                let part = if field == FIELD { Self::Key } else { Self::Skipped };
                (more(add(value, bits), part), 1, false)
            }
            Self::Varint => (if last { Self::FIELD } else { Self::Varint }, 1, false),
            Self::Skipped(left) => (more(left - run(left) as u64, Self::Skipped), run(left), false),
            Self::Key(left) => (more(left - run(left) as u64, Self::Key), run(left), true),
        };
        *self = next;
        (length, key)
    }
}

impl Masked {
    /// A frame in parts, where it has a part of a key.
    fn mask(&mut self, data: Bytes) -> Bytes {
        let (mut done, mut at) = (0, 0);
        while at < data.len() {
            let begins = matches!(self.place, Place::Length { field: FIELD, .. });
            let (length, of_key) = self.place.advance(&data[at..]);
            if begins && matches!(self.place, Place::Key(_)) {
                // Of a field that comes twice, the last counts.
                self.taken.bytes().zeroize();
            }
            if of_key {
                let (before, key) = (data.slice(done..at), data.slice(at..at + length));
                let mut taken = self.taken.bytes();
                let room = MOST_BYTES - taken.len();
                taken.extend_from_slice(&key[..length.min(room)]);
                drop(taken);
                self.wiper.wipe(key);
                self.queue.extend([before, Bytes::from(vec![0; length])]);
                done = at + length;
            }
            at += length;
        }
        if self.queue.is_empty() {
            return data;
        }
        self.queue.push_back(data.slice(done..));
        self.queue.pop_front().unwrap_or_default()
    }
}

impl http_body::Body for Masked {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if let Some(part) = self.queue.pop_front() {
            return Poll::Ready(Some(Ok(Frame::data(part))));
        }
        let Poll::Ready(next) = Pin::new(&mut self.body).poll_frame(context) else {
            return Poll::Pending;
        };
        Poll::Ready(next.map(|frame| frame.map(|frame| frame.map_data(|data| self.mask(data)))))
    }

    fn is_end_stream(&self) -> bool {
        self.queue.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        if self.queue.is_empty() { self.body.size_hint() } else { SizeHint::default() }
    }
}

/// Wipes parts of the buffers of connections, as soon as nobody else holds the buffer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wiper(Arc<Mutex<Vec<Bytes>>>);

impl Wiper {
    fn wipe(&self, part: Bytes) {
        let mut parts = self.parts();
        parts.push(part);
        if parts.len() == 1 {
            let wiper = self.clone();
            tokio::spawn(async move {
                while !wiper.wipe_free() {
                    tokio::time::sleep(WIPE_PAUSE).await;
                }
            });
        }
    }

    /// Wipes what it can, and tells whether that was all.
    fn wipe_free(&self) -> bool {
        let mut parts = self.parts();
        let held = std::mem::take(&mut *parts).into_iter().filter_map(|part| match part.try_into_mut() {
            Ok(mut bytes) => {
                bytes.as_mut().zeroize();
                None
            }
            Err(part) => Some(part),
        });
        *parts = held.collect();
        parts.is_empty()
    }

    fn parts(&self) -> MutexGuard<'_, Vec<Bytes>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use noised_proto::v1;
    use prost::Message;

    use super::*;

    /// What the decoder gets of a request, and the key that was taken, where the request comes in pieces.
    fn through(message: &[u8], piece: usize) -> (Vec<u8>, Vec<u8>) {
        let taken = GivenKey(Arc::new(Mutex::new(Zeroizing::new(Vec::with_capacity(MOST_BYTES)))));
        let (body, wiper, queue) = (Body::empty(), Wiper::default(), VecDeque::new());
        let mut masked =
            Masked { body, place: Place::Prefix(PREFIX_BYTES), taken: taken.clone(), wiper, queue };
        let mut request = vec![0];
        request.extend((message.len() as u32).to_be_bytes());
        request.extend(message);
        let mut seen = Vec::new();
        for piece in request.chunks(piece) {
            seen.extend(masked.mask(Bytes::copy_from_slice(piece)));
            seen.extend(masked.queue.drain(..).flatten());
        }
        assert_eq!(seen.len(), request.len());
        (seen.split_off(PREFIX_BYTES as usize), taken.bytes().to_vec())
    }

    #[tokio::test]
    async fn a_key_is_taken_however_a_request_comes() {
        let key: Vec<u8> = (1..=32).collect();
        for noise_key in [vec![], key.clone(), key[..31].to_vec(), vec![7; 200]] {
            let request = v1::CreateSessionRequest {
                session_id: "a".repeat(300),
                session: Some(v1::Session { lookahead: Some(3), ..v1::Session::default() }),
                resume: true,
                noise_key: noise_key.clone(),
                start_noise_over: true,
                ..v1::CreateSessionRequest::default()
            };
            let zeros = v1::CreateSessionRequest { noise_key: vec![0; noise_key.len()], ..request.clone() };
            let mut message = request.encode_to_vec();
            let twice =
                [v1::CreateSessionRequest { noise_key: vec![9; 32], ..request.clone() }, request.clone()];
            for message in [std::mem::take(&mut message), twice.map(|it| it.encode_to_vec()).concat()] {
                for piece in (1..50).chain([message.len() - 10, 1 << 20]) {
                    let (seen, taken) = through(&message, piece);
                    let seen = v1::CreateSessionRequest::decode(seen.as_slice()).unwrap();
                    if noise_key.is_empty() {
                        continue;
                    }
                    assert_eq!(seen, zeros, "{piece}");
                    assert_eq!(taken, noise_key[..noise_key.len().min(MOST_BYTES)], "{piece}");
                }
            }
        }
    }

    #[tokio::test]
    async fn what_is_no_message_goes_through_as_it_is() {
        let samples: [&[u8]; 8] =
            [&[0xff; 40], &[0x0b], &[0x22], &[0x22, 0xff], &[0x0a, 0x05, 1], &[0x80; 20], &[0x08], &[]];
        for bytes in samples {
            for piece in 1..5 {
                let (seen, taken) = through(bytes, piece);
                assert!(seen == bytes && taken.is_empty(), "{bytes:?}");
            }
        }
    }

    #[tokio::test]
    async fn a_buffer_is_wiped_when_nobody_else_holds_it() {
        let mut buffer = BytesMut::from(&b"before the key behind"[..]);
        let mut connection = buffer.split_off(14);
        let part = buffer.freeze().slice(11..14);
        let wiper = Wiper::default();
        wiper.parts().push(part);
        assert!(!wiper.wipe_free());
        connection.clear();
        drop(connection);
        assert!(wiper.wipe_free());
    }
}
