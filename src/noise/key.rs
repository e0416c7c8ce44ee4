//! Keys of noise, and what is derived from what.

use std::fmt;
use std::ops::Range;

use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::error::{Error, Result};
use crate::session::Fingerprint;

/// The secret that the noise of a session is a function of: 256 bits, wiped when dropped.
///
/// Its `Debug` shows nothing of it, and there is no way to read the bytes back.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct NoiseKey([u8; 32]);

/// A secret that servers share, from which the keys of sessions are derived: 256 bits, wiped when dropped.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct MasterKey([u8; 32]);

/// What tells one [`NoiseKey`] from another without telling anything of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyCheck(blake3::Hash);

/// Proves that whoever has it was told by a holder of a [`NoiseKey`] that some lanes of its noise stood at some step. It tells
/// nothing of the key. Comparing two takes the same time wherever they differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepProof(blake3::Hash);

impl StepProof {
    /// The 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        self.0.as_bytes()
    }

    /// Reads 32 bytes; `None` where there are not as many.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        Some(Self(<[u8; 32]>::try_from(bytes).ok()?.into()))
    }
}

const OF_NOISE: &str = "noised 2026 key of a noise from master key, noise_id and fingerprint";
const OF_CHECK: &str = "noised 2026 check of a noise key";
const OF_RESUMING: &str = "noised 2026 proofs of steps from a noise key";
const OF_DIGESTS: &str = "noised 2026 digests of released gradients from a noise key";

impl NoiseKey {
    /// A key of these bytes, which should come from the operating system's generator, or from nobody else than the
    /// person whose experiment it is.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// A key written as 64 hexadecimal digits.
    ///
    /// # Errors
    /// [`Error::Invalid`] on `field`, without the text.
    pub fn from_hex(field: &str, text: &str) -> Result<Self> {
        key_from_hex(field, text).map(|bytes| Self(*bytes))
    }

    /// A key from 32 bytes.
    ///
    /// # Errors
    /// [`Error::Invalid`] on `field` where there are not 32, or all of them are zero: that is a buffer that nobody filled.
    pub fn from_slice(field: &str, bytes: &[u8]) -> Result<Self> {
        let rule = || Error::invalid(field, format!("must have 32 bytes, found {}", bytes.len()));
        let bytes: [u8; 32] = bytes.try_into().map_err(|_| rule())?;
        if bytes == [0; 32] {
            return Err(Error::invalid(field, "must not be all zero"));
        }
        Ok(Self(bytes))
    }

    /// What can be compared and kept in place of the key.
    pub fn check(&self) -> KeyCheck {
        KeyCheck(self.derive(OF_CHECK))
    }

    /// The key of the cipher at a step.
    pub(super) fn of_step(&self, step: u64) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(blake3::keyed_hash(&self.0, &step.to_le_bytes()).into())
    }

    /// What only somebody can have who was told it by a holder of this key: that these lanes of the noise stood at `step`.
    pub fn proof_of_step(&self, step: u64, lanes: &Range<u64>) -> StepProof {
        let key = self.derive(OF_RESUMING);
        let mut hash = Zeroizing::new(blake3::Hasher::new_keyed(key.as_bytes()));
        for number in [step, lanes.start, lanes.end] {
            hash.update(&number.to_le_bytes());
        }
        StepProof(hash.finalize())
    }

    /// The key of digests that nobody without this key can make two gradients agree in.
    pub(crate) fn of_digests(&self) -> Zeroizing<[u8; 32]> {
        let mut derived = self.derive(OF_DIGESTS);
        let key = Zeroizing::new(*derived.as_bytes());
        derived.zeroize();
        key
    }

    fn derive(&self, context: &str) -> blake3::Hash {
        let mut hash = blake3::Hasher::new_derive_key(context);
        hash.update(&self.0);
        let derived = hash.finalize();
        hash.zeroize();
        derived
    }
}

impl MasterKey {
    /// A master key of these bytes.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// A master key as files hold it: 32 bytes, or 64 hexadecimal digits and white space.
    ///
    /// # Errors
    /// [`Error::Invalid`] on `field`, without what was read.
    pub fn parse(field: &str, content: &[u8]) -> Result<Self> {
        let bytes = match <[u8; 32]>::try_from(content) {
            Ok(bytes) => Zeroizing::new(bytes),
            Err(_) => {
                let text = std::str::from_utf8(content)
                    .map_err(|_| Error::invalid(field, "must be 32 bytes, or 64 hexadecimal digits"))?;
                key_from_hex(field, text.trim())?
            }
        };
        if *bytes == [0; 32] {
            return Err(Error::invalid(field, "must not be all zero"));
        }
        Ok(Self(*bytes))
    }

    /// The key of the noise `noise_id` of a session.
    ///
    /// `fingerprint` is that of the whole tree's session, so that every shard gets the same key, and the same `noise_id`
    /// with another matrix, tree, source, stddev, precision or horizon gives a noise that is independent of it.
    pub fn derive(&self, noise_id: &str, fingerprint: &Fingerprint) -> NoiseKey {
        let mut hash = blake3::Hasher::new_derive_key(OF_NOISE);
        hash.update(&self.0);
        hash.update(fingerprint.as_bytes());
        hash.update(noise_id.as_bytes());
        let derived = Zeroizing::new(<[u8; 32]>::from(hash.finalize()));
        hash.zeroize();
        NoiseKey(*derived)
    }
}

/// The bytes of a key that is written as 64 hexadecimal digits.
///
/// # Errors
/// [`Error::Invalid`] on `field`, without the text.
pub fn key_from_hex(field: &str, text: &str) -> Result<Zeroizing<[u8; 32]>> {
    let rule = || Error::invalid(field, "must be 64 hexadecimal digits");
    let digits = text.as_bytes();
    if digits.len() != 64 {
        return Err(rule());
    }
    let mut bytes = Zeroizing::new([0; 32]);
    for (byte, digits) in bytes.iter_mut().zip(digits.as_chunks::<2>().0) {
        let digit = |digit: u8| char::from(digit).to_digit(16).ok_or_else(rule);
        *byte = (digit(digits[0])? << 4 | digit(digits[1])?) as u8;
    }
    Ok(bytes)
}

impl fmt::Debug for NoiseKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NoiseKey(..)")
    }
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MasterKey(..)")
    }
}
