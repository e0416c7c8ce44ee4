//! Random words with random access: AES-256 in counter mode.

use std::fmt;

use aes::cipher::{Array, BlockCipherEncrypt, KeyInit};
use aes::{Aes256, Block};

/// Bytes of a block of the cipher.
pub(super) const BLOCK_BYTES: usize = 16;

/// The keystream of AES-256 in counter mode (NIST SP 800-38A), where the counter is the whole block, big endian. Its
/// round keys are wiped when it is dropped.
#[derive(Clone)]
pub(super) struct Keystream {
    cipher: Aes256,
    /// The counter of block 0.
    origin: u128,
}

impl Keystream {
    pub(super) fn new(key: &[u8; 32], origin: u128) -> Self {
        Self { cipher: Aes256::new(key.into()), origin }
    }

    /// The blocks from `first` on, as many whole ones as `bytes` holds.
    pub(super) fn fill(&self, first: u64, bytes: &mut [u8]) {
        let blocks = bytes.as_chunks_mut::<BLOCK_BYTES>().0;
        let start = self.origin.wrapping_add(first.into());
        for (counter, block) in (0_u128..).zip(blocks.iter_mut()) {
            *block = start.wrapping_add(counter).to_be_bytes();
        }
        let blocks: &mut [Block] = Array::cast_slice_from_core_mut(blocks);
        self.cipher.encrypt_blocks(blocks);
    }
}

impl fmt::Debug for Keystream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keystream(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// NIST SP 800-38A, F.5.5: CTR-AES256.Encrypt. The vectors have a plain text, so theirs is the sum of both.
    #[test]
    fn is_that_of_the_standard() {
        let key = hex("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4");
        let origin = u128::from_be_bytes(hex("f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff"));
        let plain: [u8; 64] = hex(concat!(
            "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51",
            "30c81c46a35ce411e5fbc1191a0a52eff69f2445df4f9b17ad2b417be66c3710"
        ));
        let cipher: [u8; 64] = hex(concat!(
            "601ec313775789a5b7a7f504bbf3d228f443e3ca4d62b59aca84e990cacaf5c5",
            "2b0930daa23de94ce87017ba2d84988ddfc9c58db67aada613c2dd08457941a6"
        ));
        let keystream = Keystream::new(&key, origin);
        let mut bytes = [0; 64];
        keystream.fill(0, &mut bytes);
        let sum: Vec<u8> = plain.iter().zip(bytes).map(|(plain, random)| plain ^ random).collect();
        assert_eq!(sum, cipher);
        // From any block on it is the same.
        for first in 0..4 {
            let mut from = [0; 16];
            keystream.fill(first as u64, &mut from);
            assert_eq!(from, bytes[16 * first..][..16]);
        }
    }

    fn hex<const N: usize>(text: &str) -> [u8; N] {
        std::array::from_fn(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap())
    }
}
