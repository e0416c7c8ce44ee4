//! Messages that are too long for one: serialized, and cut into pieces.

use noised::{Error, Result};
use prost::Message;

/// A message that takes more than this is cut, and no piece is longer.
pub const PART_BYTES: usize = 256 << 10;

/// What is put together takes at most this.
pub const MAX_WHOLE_BYTES: usize = 1 << 30;

/// A message as it goes out.
#[derive(Clone, Debug, PartialEq)]
pub enum Outgoing<M> {
    /// In one.
    Whole(M),
    /// Serialized, in pieces.
    Parts(Vec<Vec<u8>>),
}

impl<M: Message> Outgoing<M> {
    /// Cut where it is long.
    pub fn new(message: M) -> Self {
        if message.encoded_len() <= PART_BYTES {
            return Self::Whole(message);
        }
        Self::Parts(message.encode_to_vec().chunks(PART_BYTES).map(<[u8]>::to_vec).collect())
    }
}

/// Puts pieces together.
#[derive(Clone, Debug, Default)]
pub struct Incoming(Vec<u8>);

impl Incoming {
    /// The next piece.
    ///
    /// # Errors
    /// [`Error::Invalid`] where the whole takes more than [`MAX_WHOLE_BYTES`].
    pub fn push(&mut self, part: &[u8]) -> Result<()> {
        if part.len() > MAX_WHOLE_BYTES - self.0.len() {
            return Err(Error::invalid("part", format!("the whole takes at most {MAX_WHOLE_BYTES} bytes")));
        }
        self.0.extend_from_slice(part);
        Ok(())
    }

    /// The message after the last piece; `None` where there was none.
    ///
    /// # Errors
    /// [`Error::Invalid`] where it does not read.
    pub fn finish<M: Message + Default>(self) -> Result<Option<M>> {
        if self.0.is_empty() {
            return Ok(None);
        }
        M::decode(self.0.as_slice()).map(Some).map_err(|e| Error::invalid("part", e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v1;

    #[test]
    fn what_is_cut_is_put_together() {
        for (values, pieces) in [(0, None), (100, None), (100_000, Some(4))] {
            let row = v1::Row { values: (0..values).map(f64::from).collect() };
            match Outgoing::new(row.clone()) {
                Outgoing::Whole(whole) => assert_eq!((whole, None), (row, pieces)),
                Outgoing::Parts(parts) => {
                    assert_eq!(Some(parts.len()), pieces);
                    let mut incoming = Incoming::default();
                    parts.iter().for_each(|part| incoming.push(part).unwrap());
                    assert_eq!(incoming.finish(), Ok(Some(row)));
                }
            }
        }
        assert_eq!(Incoming::default().finish::<v1::Row>(), Ok(None));
        let mut damaged = Incoming::default();
        damaged.push(&[0xff; 5]).unwrap();
        assert!(damaged.finish::<v1::Row>().is_err());
    }
}
