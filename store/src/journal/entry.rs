//! What one object of a journal says.

use bytes::{Buf, Bytes};

use crate::error::StoreError;
use crate::record::Record;

/// One object of a journal.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Entry {
    /// The journal begins. Its number is 0.
    Begun,
    /// Payloads that were committed together.
    Batch(Vec<Bytes>),
    /// The owner may write nothing more. It is the last entry.
    Fence,
    /// Entries below that number are not needed any more.
    Fold(u64),
}

const BEGUN: u8 = 1;
const BATCH: u8 = 2;
const FENCE: u8 = 3;
const FOLD: u8 = 4;

impl Entry {
    pub(super) fn encode(&self) -> Result<Bytes, StoreError> {
        let record = match self {
            Self::Begun => Record::encode(BEGUN, &[]),
            Self::Batch(payloads) => Record::encode(BATCH, payloads),
            Self::Fence => Record::encode(FENCE, &[]),
            Self::Fold(below) => Record::encode(FOLD, &[encode_number(*below)]),
        };
        record.map_err(|error| StoreError::invalid("journal entry", "must fit a record", error.to_string()))
    }

    pub(super) fn decode(name: &str, bytes: Bytes) -> Result<Self, StoreError> {
        let record = Record::decode(bytes).map_err(|error| StoreError::damaged(name, error.to_string()))?;
        match (record.kind, record.payloads.as_slice()) {
            (BEGUN, []) => Ok(Self::Begun),
            (BATCH, _) => Ok(Self::Batch(record.payloads)),
            (FENCE, []) => Ok(Self::Fence),
            (FOLD, [below]) => decode_number(name, below.clone()).map(Self::Fold),
            _ => Err(StoreError::damaged(name, "not an entry of a journal that this program knows")),
        }
    }
}

pub(super) fn encode_number(number: u64) -> Bytes {
    Bytes::copy_from_slice(&number.to_le_bytes())
}

pub(super) fn decode_number(name: &str, mut bytes: Bytes) -> Result<u64, StoreError> {
    let number = bytes.try_get_u64_le().ok().filter(|_| bytes.is_empty());
    number.ok_or_else(|| StoreError::damaged(name, "not a number"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_come_back() {
        let batch = Entry::Batch(vec![Bytes::from_static(b"a"), Bytes::new()]);
        for entry in [Entry::Begun, batch, Entry::Fence, Entry::Fold(1 << 40)] {
            assert_eq!(Entry::decode("a", entry.encode().unwrap()), Ok(entry));
        }
    }

    #[test]
    fn other_records_are_damage() {
        for (kind, payloads) in [(9, vec![]), (FENCE, vec![Bytes::new()]), (FOLD, vec![Bytes::new()])] {
            let bytes = Record::encode(kind, &payloads).unwrap();
            assert!(matches!(Entry::decode("a", bytes), Err(StoreError::Damaged { .. })));
        }
    }
}
