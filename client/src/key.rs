//! A key of noise that the client gives.

use std::fmt;

use noised::noise::{NoiseKey, key_from_hex};
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::error::Result;

/// The key of a session's noise, of a source whose key is [given](noised::session::KeyOrigin::Given): 256
/// bits, wiped when dropped.
///
/// Its `Debug` shows nothing of it, and there is no way to read the bytes back. It goes to the server as it
/// is, so the network between must be one that may know it; what the transport copies of a message is not
/// wiped.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct GivenKey([u8; 32]);

impl GivenKey {
    /// A key of these bytes.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// A key written as 64 hexadecimal digits.
    ///
    /// # Errors
    /// [`Error::Invalid`](crate::Error::Invalid) on `noise_key_hex`, without the text.
    pub fn from_hex(text: &str) -> Result<Self> {
        Ok(Self(*key_from_hex("noise_key_hex", text)?))
    }

    /// As a session in this process draws with it.
    ///
    /// # Errors
    /// [`Error::Invalid`](crate::Error::Invalid) on `noise_key` where it is all zero.
    pub(crate) fn to_noise_key(&self) -> Result<NoiseKey> {
        Ok(NoiseKey::from_slice("noise_key", &self.0)?)
    }

    /// As a request carries it.
    pub(crate) fn to_wire(&self) -> Vec<u8> {
        self.0.to_vec()
    }
}

impl fmt::Debug for GivenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("GivenKey(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    #[test]
    fn hexadecimal_digits_are_read() {
        let text = "000102030405060708090a0b0c0d0e0f101112131415161718191A1B1C1D1E1F";
        let bytes: Vec<u8> = (0..32).collect();
        assert_eq!(GivenKey::from_hex(text).unwrap().to_wire(), bytes);
        assert_eq!(format!("{:?}", GivenKey::from_hex(text).unwrap()), "GivenKey(..)");
    }

    #[test]
    fn what_is_no_key_is_refused_without_being_repeated() {
        let good = "ab".repeat(32);
        for text in ["", "ab", &good[1..], &format!("{good}00"), &good.replace("ab", "g1"), &"é".repeat(32)]
        {
            let error = GivenKey::from_hex(text).unwrap_err();
            assert_eq!(error, Error::invalid("noise_key_hex", "must be 64 hexadecimal digits"));
        }
    }
}
