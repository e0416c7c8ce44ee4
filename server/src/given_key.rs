//! Given keys, which are taken out of a request before it is decoded: a decoder copies what it decodes, and
//! wipes nothing.
//!
//! The key's bytes go into memory that is wiped. The decoder sees as many zeros in their place. Of what the
//! connection read, the bytes are wiped once nobody else holds that buffer: when the connection reads into
//! another one, or ends. Keys that were read into one buffer are wiped as one part of it, for two parts would
//! hold the buffer for one another.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body::{Frame, SizeHint};
use tonic::Status;
use tonic::body::Body;
use zeroize::{Zeroize, Zeroizing};

use crate::connections::Connection;

/// The call that gives a key, and the number of the field with it.
pub(crate) const PATH: &str = "/noised.v1.Sessions/CreateSession";
const FIELD: u64 = 4;

/// Before a message: whether it is compressed, and its length.
const PREFIX_BYTES: u64 = 5;

/// No key is longer; what is, is refused for its length.
const MOST_BYTES: usize = 128;

/// Between two tries to wipe buffers that a connection still holds.
const WIPE_PAUSE: Duration = Duration::from_millis(200);

/// Parts of one connection's buffers that wait to be wiped. Each is of another buffer, and a connection has
/// few; beyond these the oldest is forgotten.
const MOST_PARTS: usize = 64;

/// The key of a request, once the request is read.
#[derive(Clone)]
pub(crate) struct GivenKey(Arc<Mutex<Zeroizing<Vec<u8>>>>);

impl GivenKey {
    /// Takes the key of a request on its way to the decoder, which finds this among the request's extensions.
    pub(crate) fn take_from(request: http::Request<Body>, wiper: &Wiper) -> http::Request<Body> {
        // It does not grow, and so leaves no copy behind.
        let key = Self(Arc::new(Mutex::new(Zeroizing::new(Vec::with_capacity(MOST_BYTES)))));
        let (wiper, taken) = (wiper.clone(), key.clone());
        let connection = request.extensions().get::<Arc<Connection>>().cloned();
        let masked = |body| Masked::new(body, taken, wiper, connection);
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
    /// What the body is read from, where that is known.
    connection: Option<Arc<Connection>>,
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
    fn new(body: Body, taken: GivenKey, wiper: Wiper, connection: Option<Arc<Connection>>) -> Self {
        Self { body, place: Place::Prefix(PREFIX_BYTES), taken, wiper, connection, queue: VecDeque::new() }
    }

    /// A frame in parts, where it has a part of a key. The bytes between two keys of a frame are wiped with
    /// the keys.
    fn mask(&mut self, data: Bytes) -> Bytes {
        let mut at = 0;
        // From the first byte of a key on, with zeros for keys.
        let mut masked: Option<(usize, Vec<u8>)> = None;
        while at < data.len() {
            let begins = matches!(self.place, Place::Length { field: FIELD, .. });
            let (length, of_key) = self.place.advance(&data[at..]);
            if begins && matches!(self.place, Place::Key(_)) {
                // Of a field that comes twice, the last counts.
                self.taken.bytes().zeroize();
            }
            if of_key {
                let key = &data[at..at + length];
                let mut taken = self.taken.bytes();
                let room = MOST_BYTES - taken.len();
                taken.extend_from_slice(&key[..length.min(room)]);
                drop(taken);
                let (first, bytes) = masked.get_or_insert_with(|| (at, Vec::new()));
                bytes.extend_from_slice(&data[*first + bytes.len()..at]);
                bytes.resize(bytes.len() + length, 0);
            }
            at += length;
        }
        let Some((first, bytes)) = masked else { return data };
        let last = first + bytes.len();
        // The last byte of a frame was read to where it is; those before may have been moved there.
        let address = data.as_ptr().addr() + data.len() - 1;
        let buffer = self.connection.as_ref().and_then(|connection| {
            let end = connection.buffer_end(address)?;
            Some(Buffer { connection: Arc::clone(connection), end })
        });
        self.wiper.wipe(Part::new(data.slice(first..last), buffer));
        self.queue.extend([Bytes::from(bytes), data.slice(last..)]);
        data.slice(..first)
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

/// A buffer that a connection reads into.
#[derive(Clone, Debug)]
struct Buffer {
    connection: Arc<Connection>,
    /// The address behind its last byte.
    end: usize,
}

impl Buffer {
    fn is(&self, other: &Self) -> bool {
        self.end == other.end && Arc::ptr_eq(&self.connection, &other.connection)
    }
}

/// A part of a buffer that is to be wiped.
#[derive(Debug)]
struct Part {
    /// Its beginning, which keeps the buffer.
    bytes: Bytes,
    /// Its length, which may be more than that of its beginning.
    length: usize,
    /// Where that is known.
    buffer: Option<Buffer>,
}

impl Part {
    fn new(bytes: Bytes, buffer: Option<Buffer>) -> Self {
        Self { length: bytes.len(), bytes, buffer }
    }

    fn is_beside(&self, other: &Self) -> bool {
        self.buffer.as_ref().zip(other.buffer.as_ref()).is_some_and(|(one, other)| one.is(other))
    }

    /// The part from the beginning of the first of two of one buffer to the end of the last. Only the first
    /// keeps the buffer then.
    fn merge(self, other: Self) -> Self {
        let address = |part: &Self| part.bytes.as_ptr().addr();
        let end = |part: &Self| address(part) + part.length;
        let last = end(&self).max(end(&other));
        let mut first = if address(&self) <= address(&other) { self } else { other };
        first.length = last - address(&first);
        first
    }

    /// Wipes the part, where nobody else holds the buffer, and gives it back.
    fn wipe(self) -> Result<BytesMut, Self> {
        let Self { bytes, length, buffer } = self;
        match bytes.try_into_mut() {
            Ok(mut bytes) => {
                // This reaches to the end of the buffer. It is not moved, which would wipe a copy.
                bytes.resize(length.min(bytes.capacity()), 0);
                bytes.as_mut().zeroize();
                Ok(bytes)
            }
            Err(bytes) => Err(Self { bytes, length, buffer }),
        }
    }
}

/// Wipes parts of the buffers of connections, as soon as nobody else holds the buffer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wiper(Arc<Mutex<Vec<Part>>>);

impl Wiper {
    fn wipe(&self, part: Part) {
        let mut parts = self.parts();
        let was_empty = parts.is_empty();
        Self::add(&mut parts, part);
        if was_empty {
            let wiper = self.clone();
            tokio::spawn(async move {
                while !wiper.wipe_free() {
                    tokio::time::sleep(WIPE_PAUSE).await;
                }
            });
        }
    }

    /// Adds a part, with at most one of each buffer.
    fn add(parts: &mut Vec<Part>, part: Part) {
        if let Some(found) = parts.iter().position(|other| part.is_beside(other)) {
            let other = parts.swap_remove(found);
            parts.push(part.merge(other));
            return;
        }
        let connection = |part: &Part| part.buffer.as_ref().map(|buffer| Arc::as_ptr(&buffer.connection));
        let same = |other: &Part| connection(other) == connection(&part);
        if parts.iter().filter(|other| same(other)).count() >= MOST_PARTS
            && let Some(oldest) = parts.iter().position(same)
        {
            tracing::warn!("a connection gave keys into too many buffers: one is not wiped");
            parts.remove(oldest);
        }
        parts.push(part);
    }

    /// Wipes what it can, and tells whether that was all.
    fn wipe_free(&self) -> bool {
        let mut parts = self.parts();
        *parts = std::mem::take(&mut *parts).into_iter().filter_map(|part| part.wipe().err()).collect();
        parts.is_empty()
    }

    fn parts(&self) -> MutexGuard<'_, Vec<Part>> {
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
        let mut masked = Masked::new(Body::empty(), taken.clone(), Wiper::default(), None);
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
        wiper.parts().push(Part::new(part, None));
        assert!(!wiper.wipe_free());
        connection.clear();
        drop(connection);
        assert!(wiper.wipe_free());
    }

    fn buffer(connection: &Arc<Connection>, end: usize) -> Option<Buffer> {
        Some(Buffer { connection: Arc::clone(connection), end })
    }

    #[tokio::test]
    async fn keys_in_one_buffer_are_wiped_as_one_part() {
        let connection = Arc::new(Connection::new(0));
        for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0]] {
            let mut read = BytesMut::with_capacity(100);
            read.extend_from_slice(&[7; 90]);
            let end = read.as_ptr().addr() + read.capacity();
            let frames: Vec<Bytes> = (0..3).map(|_| read.split_to(20).freeze()).collect();
            let start = frames[0].as_ptr().addr();
            let wiper = Wiper::default();
            for i in order {
                let part = Part::new(frames[i].slice(5..10), buffer(&connection, end));
                Wiper::add(&mut wiper.parts(), part);
            }
            drop(frames);
            assert_eq!(wiper.parts().len(), 1);
            assert!(!wiper.wipe_free(), "the connection still reads into it");
            drop(read);
            let part = wiper.parts().pop().unwrap();
            let wiped = part.wipe().unwrap();
            assert_eq!(wiped.as_ptr().addr(), start + 5, "in its place");
            assert_eq!(wiped[..], [0; 45]);
        }
    }

    #[tokio::test]
    async fn parts_of_two_buffers_or_connections_stay_two_and_are_bounded() {
        let connections: Vec<_> = (0..2).map(|_| Arc::new(Connection::new(0))).collect();
        let mut parts = Vec::new();
        for end in 0..100 {
            for connection in &connections {
                Wiper::add(&mut parts, Part::new(Bytes::from(vec![7; 9]), buffer(connection, end)));
                Wiper::add(&mut parts, Part::new(Bytes::from(vec![7; 9]), None));
            }
        }
        assert_eq!(parts.len(), 3 * MOST_PARTS);
        assert!(parts.into_iter().all(|part| part.wipe().is_ok_and(|wiped| wiped[..] == [0; 9])));
    }

    /// Keys of several requests and frames, as a connection reads them.
    #[tokio::test]
    async fn keys_of_one_connection_are_wiped_when_it_ends() {
        let connection = Arc::new(Connection::new(0));
        let request = v1::CreateSessionRequest { noise_key: vec![9; 32], ..Default::default() };
        let message = [request.encode_to_vec(), [0x22, 1, 5].repeat(100)].concat();
        let wiper = Wiper::default();
        let mut read = BytesMut::with_capacity(4096);
        for piece in [1 << 20, 20, 1] {
            let taken = GivenKey(Arc::default());
            let connection = Some(Arc::clone(&connection));
            let mut masked = Masked::new(Body::empty(), taken.clone(), wiper.clone(), connection.clone());
            let head = [&[0][..], &(message.len() as u32).to_be_bytes()].concat();
            let mut seen = Vec::new();
            for frame in [head, message.clone()].concat().chunks(piece) {
                let start = read.spare_capacity_mut().as_ptr().addr();
                let room = start..start + read.capacity() - read.len();
                read.extend_from_slice(frame);
                connection.iter().for_each(|it| it.note_read(frame.len(), room.clone()));
                seen.extend(masked.mask(read.split().freeze()));
                seen.extend(masked.queue.drain(..).flatten());
            }
            let seen = v1::CreateSessionRequest::decode(&seen[5..]).unwrap();
            assert_eq!((seen.noise_key, taken.bytes().to_vec()), (vec![0], vec![5]));
        }
        assert_eq!(wiper.parts().len(), 1);
        assert!(!wiper.wipe_free());
        drop(read);
        assert!(wiper.wipe_free());
    }
}
