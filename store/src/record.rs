//! Several payloads in one object.
//!
//! ```text
//! version = 1   kind   count (4)   length (4) payload   length (4) payload   …
//! ```
//!
//! Numbers are little-endian. The kind is the writer's own: what the payloads mean. A record is exactly as
//! long as its payloads say, so that nothing stands behind them.

use bytes::{Buf, BufMut, Bytes};
use zeroize::Zeroizing;

/// The version that this program writes.
const VERSION: u8 = 1;

const HEADER_BYTES: usize = 6;
const LENGTH_BYTES: usize = 4;

/// Payloads of one record, at most.
pub const MAX_RECORD_PAYLOADS: usize = 1 << 20;

/// A record: its kind and its payloads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// What the payloads mean, for whoever wrote them.
    pub kind: u8,
    /// The payloads, in the order in which they were written.
    pub payloads: Vec<Bytes>,
}

/// What is wrong with the bytes of a record.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("record: {0}")]
pub struct RecordError(&'static str);

impl Record {
    /// The record's bytes, whose memory is overwritten when the last handle to them is dropped.
    ///
    /// # Errors
    /// Where there are more than [`MAX_RECORD_PAYLOADS`] payloads, or one has 4 GiB or more.
    pub fn encode(kind: u8, payloads: &[Bytes]) -> Result<Bytes, RecordError> {
        let length = |bytes: usize| u32::try_from(bytes).map_err(|_| RecordError("a payload is too long"));
        if payloads.len() > MAX_RECORD_PAYLOADS {
            return Err(RecordError("too many payloads"));
        }
        let total: usize = payloads.iter().map(|payload| LENGTH_BYTES + payload.len()).sum();
        let mut bytes = Zeroizing::new(Vec::with_capacity(HEADER_BYTES + total));
        bytes.put_u8(VERSION);
        bytes.put_u8(kind);
        bytes.put_u32_le(length(payloads.len())?);
        for payload in payloads {
            bytes.put_u32_le(length(payload.len())?);
            bytes.put_slice(payload);
        }
        Ok(Bytes::from_owner(bytes))
    }

    /// Reads a record. Payloads are slices of its bytes.
    ///
    /// # Errors
    /// Where the bytes are not exactly one record.
    pub fn decode(mut bytes: Bytes) -> Result<Self, RecordError> {
        if bytes.len() < HEADER_BYTES {
            return Err(RecordError("shorter than its header"));
        }
        if bytes.get_u8() != VERSION {
            return Err(RecordError("of a version that this program does not know"));
        }
        let kind = bytes.get_u8();
        let count = bytes.get_u32_le() as usize;
        // Every payload has a length, so what follows bounds the memory that the count asks for.
        if count > MAX_RECORD_PAYLOADS || count > bytes.len() / LENGTH_BYTES {
            return Err(RecordError("more payloads than bytes for them"));
        }
        let mut payloads = Vec::with_capacity(count);
        for _ in 0..count {
            let length = bytes.try_get_u32_le().map_err(|_| RecordError("cut short"))? as usize;
            if length > bytes.len() {
                return Err(RecordError("cut short"));
            }
            payloads.push(bytes.split_to(length));
        }
        if bytes.is_empty() {
            Ok(Self { kind, payloads })
        } else {
            Err(RecordError("longer than its payloads"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_back() {
        for payloads in [vec![], vec![Bytes::new()], vec![Bytes::from_static(b"abc"), Bytes::new()]] {
            let bytes = Record::encode(7, &payloads).unwrap();
            assert_eq!(Record::decode(bytes), Ok(Record { kind: 7, payloads }));
        }
    }

    #[test]
    fn other_bytes_are_refused() {
        let whole = Record::encode(1, &[Bytes::from_static(b"abc"), Bytes::from_static(b"de")]).unwrap();
        for length in 0..whole.len() {
            assert!(Record::decode(whole.slice(..length)).is_err(), "{length}");
        }
        let mut longer = whole.to_vec();
        longer.push(0);
        assert!(Record::decode(longer.into()).is_err());
        // A count that asks for memory beyond the bytes that are there.
        let huge = [1, 0, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0];
        assert!(Record::decode(Bytes::copy_from_slice(&huge)).is_err());
    }
}
