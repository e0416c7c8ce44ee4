//! Authenticated encryption of one object.
//!
//! ```text
//! magic (7)  version = 1 (1)  key id (8)  check (8)  nonce (24)  encrypted bytes …  tag (16)
//! ```
//!
//! XChaCha20-Poly1305 with a random nonce. The associated data are the header and the object's full name, so
//! that an object which takes another one's place does not open. The key id says which master key it was; the
//! check is a hash of what stands before it, so that a damaged key id is not taken for another key.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use chacha20poly1305::aead::{AeadInOut, KeyInit};
use chacha20poly1305::{Key, Tag, XChaCha20Poly1305, XNonce};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::error::StoreError;

const MAGIC_AND_VERSION: [u8; 8] = *b"noisedS\x01";
const KEY_ID_BYTES: usize = 8;
const CHECK_BYTES: usize = 8;
const HEADER_BYTES: usize = MAGIC_AND_VERSION.len() + KEY_ID_BYTES + CHECK_BYTES;
const NONCE_BYTES: usize = 24;
const TAG_BYTES: usize = 16;

/// How much longer a sealed object is than its plain bytes.
pub const SEAL_BYTES: usize = HEADER_BYTES + NONCE_BYTES + TAG_BYTES;

const OF_SEAL: &str = "noised 2026 key of sealed objects from master key";
const OF_KEY_ID: &str = "noised 2026 public id of a master key of sealed objects";

/// The key that seals the objects of a store. A clone is another handle to the same memory, which is
/// overwritten when the last one is dropped.
#[derive(Clone)]
pub struct SealKey {
    secret: Arc<Secret>,
    id: [u8; KEY_ID_BYTES],
}

#[derive(Zeroize, ZeroizeOnDrop)]
struct Secret([u8; 32]);

impl fmt::Debug for SealKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SealKey").field("id", &self.id()).finish_non_exhaustive()
    }
}

impl SealKey {
    /// The key of a master key.
    #[must_use]
    pub fn derive(master: &[u8; 32]) -> Self {
        let mut secret = Secret([0; 32]);
        derive(OF_SEAL, master, &mut secret.0);
        let mut id = [0; KEY_ID_BYTES];
        derive(OF_KEY_ID, master, &mut id);
        let mut held = Arc::new(Secret([0; 32]));
        // The bytes move once, out of `secret`, which overwrites itself here.
        if let Some(held) = Arc::get_mut(&mut held) {
            held.0.copy_from_slice(&secret.0);
        }
        Self { secret: held, id }
    }

    /// Which master key this is of, in hexadecimal digits. It is public: it stands in every object.
    #[must_use]
    pub fn id(&self) -> String {
        self.id.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Seals the bytes of the object of that name. Memory: the sealed bytes.
    ///
    /// # Errors
    /// `Unavailable` where the system has no random bytes.
    pub fn seal(&self, name: &str, plain: &[u8]) -> Result<Bytes, StoreError> {
        let mut sealed = Vec::with_capacity(plain.len() + SEAL_BYTES);
        sealed.extend_from_slice(&self.header());
        let mut nonce = [0; NONCE_BYTES];
        getrandom::fill(&mut nonce)
            .map_err(|error| StoreError::Unavailable(format!("random bytes of the system: {error}")))?;
        sealed.extend_from_slice(&nonce);
        sealed.extend_from_slice(plain);
        let associated = associated(&sealed[..HEADER_BYTES], name);
        let buffer = &mut sealed[HEADER_BYTES + NONCE_BYTES..];
        let tag = self
            .cipher()
            .encrypt_inout_detached(&XNonce::from(nonce), &associated, buffer.into())
            // 256 GiB is the cipher's bound.
            .map_err(|_| StoreError::invalid("object", "is too long to be sealed", name))?;
        sealed.extend_from_slice(&tag);
        Ok(sealed.into())
    }

    /// Opens the bytes of the object of that name. The memory of the plain bytes is overwritten when the last
    /// handle to them is dropped.
    ///
    /// # Errors
    /// `Damaged` where one bit is not as it was sealed under this name; `OtherKey` where another master key
    /// sealed it.
    pub fn open(&self, name: &str, sealed: &[u8]) -> Result<Bytes, StoreError> {
        let damaged = |what: &str| StoreError::damaged(name, what);
        if sealed.len() < SEAL_BYTES {
            return Err(damaged("shorter than a seal"));
        }
        let (header, rest) = sealed.split_at(HEADER_BYTES);
        let (public, check) = header.split_at(HEADER_BYTES - CHECK_BYTES);
        let (magic, key_id) = public.split_at(MAGIC_AND_VERSION.len());
        if check != check_of(public) {
            return Err(damaged("its header is not one that was written"));
        }
        if magic != MAGIC_AND_VERSION {
            return Err(damaged("sealed in a version that this program does not know"));
        }
        if key_id != self.id {
            return Err(StoreError::OtherKey { name: name.to_owned() });
        }
        let (nonce, rest) = rest.split_at(NONCE_BYTES);
        let (body, tag) = rest.split_at(rest.len() - TAG_BYTES);
        let (Ok(nonce), Ok(tag)) = (XNonce::try_from(nonce), Tag::try_from(tag)) else {
            return Err(damaged("shorter than a seal"));
        };
        let mut plain = Zeroizing::new(body.to_vec());
        self.cipher()
            .decrypt_inout_detached(&nonce, &associated(header, name), plain.as_mut_slice().into(), &tag)
            .map_err(|_| damaged("its seal does not hold: changed, or another object in its place"))?;
        Ok(Bytes::from_owner(plain))
    }

    fn header(&self) -> [u8; HEADER_BYTES] {
        let mut header = [0; HEADER_BYTES];
        let (public, check) = header.split_at_mut(HEADER_BYTES - CHECK_BYTES);
        let (magic, key_id) = public.split_at_mut(MAGIC_AND_VERSION.len());
        magic.copy_from_slice(&MAGIC_AND_VERSION);
        key_id.copy_from_slice(&self.id);
        check.copy_from_slice(&check_of(public));
        header
    }

    fn cipher(&self) -> XChaCha20Poly1305 {
        let mut key = Key::from(self.secret.0);
        let cipher = XChaCha20Poly1305::new(&key);
        key.as_mut_slice().zeroize();
        cipher
    }
}

fn derive(context: &str, master: &[u8; 32], out: &mut [u8]) {
    let mut hasher = blake3::Hasher::new_derive_key(context);
    hasher.update(master);
    let mut reader = hasher.finalize_xof();
    reader.fill(out);
    hasher.zeroize();
    reader.zeroize();
}

fn check_of(public: &[u8]) -> [u8; CHECK_BYTES] {
    let mut check = [0; CHECK_BYTES];
    check.copy_from_slice(&blake3::hash(public).as_bytes()[..CHECK_BYTES]);
    check
}

fn associated(header: &[u8], name: &str) -> Vec<u8> {
    [header, name.as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> SealKey {
        SealKey::derive(&[byte; 32])
    }

    #[test]
    fn what_was_sealed_opens() {
        for plain in [&b""[..], b"a", &[7; 100_000]] {
            let sealed = key(1).seal("a/b", plain).unwrap();
            assert_eq!(sealed.len(), plain.len() + SEAL_BYTES);
            assert_eq!(key(1).open("a/b", &sealed).unwrap(), plain);
        }
    }

    #[test]
    fn equal_bytes_are_sealed_differently() {
        assert_ne!(key(1).seal("a", b"plain").unwrap(), key(1).seal("a", b"plain").unwrap());
    }

    #[test]
    fn every_flipped_bit_is_damage() {
        let sealed = key(1).seal("a", b"some plain bytes").unwrap();
        for bit in 0..sealed.len() * 8 {
            let mut other = sealed.to_vec();
            other[bit / 8] ^= 1 << (bit % 8);
            let error = key(1).open("a", &other).unwrap_err();
            assert!(matches!(&error, StoreError::Damaged { name, .. } if name == "a"), "bit {bit}: {error}");
        }
    }

    #[test]
    fn every_cut_and_every_addition_is_damage() {
        let sealed = key(1).seal("a", b"some plain bytes").unwrap();
        for length in 0..sealed.len() {
            let error = key(1).open("a", &sealed[..length]).unwrap_err();
            assert!(matches!(error, StoreError::Damaged { .. }), "{length}");
        }
        let longer = [&sealed[..], &[0]].concat();
        assert!(matches!(key(1).open("a", &longer), Err(StoreError::Damaged { .. })));
    }

    #[test]
    fn an_object_in_the_place_of_another_is_damage() {
        let sealed = key(1).seal("a/1", b"plain").unwrap();
        for name in ["a/2", "a", "a/11", ""] {
            assert!(matches!(key(1).open(name, &sealed), Err(StoreError::Damaged { .. })), "{name}");
        }
    }

    #[test]
    fn another_master_key_is_told_apart() {
        let sealed = key(1).seal("a", b"plain").unwrap();
        assert_eq!(key(2).open("a", &sealed), Err(StoreError::OtherKey { name: "a".to_owned() }));
        assert_ne!(key(1).id(), key(2).id());
    }

    /// Objects of an earlier build must open: the key, its id and the layout are fixed.
    #[test]
    fn the_key_of_a_master_key_stays() {
        assert_eq!(key(1).id(), "7168b06803edca16");
        assert!(!format!("{:?}", key(1)).contains("secret"));
    }
}
