//! Random words with random access: AES-256 in counter mode.
//!
//! The words are used a chunk at a time, one chunk after they were encrypted. A processor that runs
//! instructions out of order then encrypts a chunk and uses the one before it at once, and no load waits for
//! a store that is under way.

use std::fmt;

use aes::cipher::array::Array;
use aes::cipher::consts::U16;
use aes::cipher::typenum::Unsigned;
use aes::cipher::{BlockCipherEncBackend, BlockCipherEncClosure, BlockCipherEncrypt, BlockSizeUser, KeyInit};
use aes::{Aes256Enc, Block};
use pulp::{Simd, WithSimd};

/// Bytes of a block of the cipher.
pub(super) const BLOCK_BYTES: usize = 16;

/// Blocks whose counters are written at a time.
const PAGE_BLOCKS: usize = 128;

/// Blocks of counters or of keystream, on a cache line.
#[repr(align(64))]
struct Page([[u64; 2]; PAGE_BLOCKS]);

/// What uses a keystream.
pub(super) trait Sink {
    /// Blocks that are used together: a divisor of [`PAGE_BLOCKS`].
    const GROUP_BLOCKS: usize;

    /// Uses the blocks that follow those used before: whole groups.
    fn take(&mut self, blocks: &[[u64; 2]]);
}

/// Counters, big endian, one after the other.
///
/// To be compiled within a function that has an instruction set switched on: its loop becomes one over
/// vectors.
#[inline(always)]
fn write_counters(first: u128, blocks: &mut [[u64; 2]]) {
    let (high, low) = ((first >> 64) as u64, first as u64);
    if low.checked_add(blocks.len() as u64).is_some() {
        for (i, block) in (0_u64..).zip(blocks) {
            *block = [high.to_be(), (low + i).to_be()];
        }
    } else {
        for (i, block) in (0_u128..).zip(blocks) {
            let counter = first.wrapping_add(i);
            *block = [((counter >> 64) as u64).to_be(), (counter as u64).to_be()];
        }
    }
}

/// The keystream of AES-256 in counter mode (NIST SP 800-38A), where the counter is the whole block, big
/// endian. Its round keys lie in one place, and are wiped when it is dropped.
#[derive(Clone)]
pub(super) struct Keystream {
    cipher: Box<Aes256Enc>,
    /// The counter of block 0.
    origin: u128,
}

impl Keystream {
    pub(super) fn new(key: &[u8; 32], origin: u128) -> Self {
        Self { cipher: Box::new(Aes256Enc::new(key.into())), origin }
    }

    /// Has `sink` use `count` blocks, whole groups of it, from block `first` on, with the instructions of
    /// `simd`.
    #[inline(always)]
    pub(super) fn run(&self, first: u64, count: usize, simd: impl Simd, sink: impl Sink) {
        let start = self.origin.wrapping_add(first.into());
        self.cipher.encrypt_with_backend(Blocks { start, count, simd, sink });
    }
}

/// Blocks to be encrypted and used, before the cipher has said how it runs on this machine.
struct Blocks<S, C> {
    start: u128,
    count: usize,
    simd: S,
    sink: C,
}

impl<S, C> BlockSizeUser for Blocks<S, C> {
    type BlockSize = U16;
}

impl<S: Simd, C: Sink> BlockCipherEncClosure for Blocks<S, C> {
    #[inline(always)]
    fn call<B: BlockCipherEncBackend<BlockSize = U16>>(self, backend: &B) {
        let Self { start, count, simd, sink } = self;
        simd.vectorize(Chunks { start, count, sink, backend });
    }
}

/// The loop over chunks, to be compiled within a function that has an instruction set switched on. The cipher
/// has another one: it encrypts a chunk in a function of its own.
struct Chunks<'a, C, B> {
    start: u128,
    count: usize,
    sink: C,
    backend: &'a B,
}

impl<C: Sink, B: BlockCipherEncBackend<BlockSize = U16>> WithSimd for Chunks<'_, C, B> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let Self { start, count, mut sink, backend } = self;
        let chunk = const { chunk_blocks(B::ParBlocksSize::USIZE, C::GROUP_BLOCKS) };
        let mut page = Page([[0; 2]; PAGE_BLOCKS]);
        for at in (0..count).step_by(PAGE_BLOCKS) {
            let page = &mut page.0[..PAGE_BLOCKS.min(count - at)];
            write_counters(start.wrapping_add(at as u128), page);
            let mut encrypted = 0..0;
            for first in (0..page.len()).step_by(chunk) {
                // Most chunks have the length that is known when this is compiled.
                if let Some(whole) = page[first..].get_mut(..chunk) {
                    encrypt(backend, whole);
                } else {
                    encrypt(backend, &mut page[first..]);
                }
                sink.take(&page[encrypted]);
                encrypted = first..page.len().min(first + chunk);
            }
            sink.take(&page[encrypted]);
        }
    }
}

/// Blocks of a chunk: as many as are encrypted at a time, in whole groups.
const fn chunk_blocks(parallel: usize, group: usize) -> usize {
    let chunk = parallel.next_multiple_of(group);
    assert!(PAGE_BLOCKS.is_multiple_of(chunk), "a page is whole chunks");
    chunk
}

#[inline(always)]
fn encrypt<B: BlockCipherEncBackend<BlockSize = U16>>(backend: &B, blocks: &mut [[u64; 2]]) {
    let blocks: &mut [[u8; BLOCK_BYTES]] = bytemuck::cast_slice_mut(blocks);
    let blocks: &mut [Block] = Array::cast_slice_from_core_mut(blocks);
    let (parallel, tail) = Array::slice_as_chunks_mut(blocks);
    for blocks in parallel {
        backend.encrypt_par_blocks_inplace(blocks);
    }
    if !tail.is_empty() {
        backend.encrypt_tail_blocks_inplace(tail);
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

    /// NIST SP 800-38A, F.5.5: CTR-AES256.Encrypt. The vectors have a plain text, so theirs is the sum of
    /// both.
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
        let bytes = blocks(&keystream, 0, 8);
        let sum: Vec<u8> = plain.iter().zip(&bytes).map(|(plain, random)| plain ^ random).collect();
        assert_eq!(sum, cipher);
        // From any block on it is the same.
        for first in 0..4 {
            assert_eq!(blocks(&keystream, first as u64, 8)[..64], bytes[16 * first..][..64]);
        }
    }

    /// Block by block, beside the cipher on one block: every length that ends within a chunk or at its end,
    /// and counters that carry from one half of a block into the other.
    #[test]
    fn chunks_are_blocks_one_after_the_other() {
        let key = [0x5a; 32];
        let cipher = Aes256Enc::new(&key.into());
        for origin in [0, 1_u128 << 64, (1 << 64) - 70, u128::MAX - 70] {
            let keystream = Keystream::new(&key, origin);
            for (first, count) in (0..40).map(|groups| (3, 8 * groups)).chain([(0, 1000)]) {
                let found = blocks(&keystream, first, count);
                for (i, found) in found.as_chunks::<BLOCK_BYTES>().0.iter().enumerate() {
                    let counter = origin.wrapping_add(u128::from(first) + i as u128);
                    let mut block = Block::from(counter.to_be_bytes());
                    cipher.encrypt_block(&mut block);
                    assert_eq!(found[..], block[..], "block {i} of {count} from {first} at {origin:#x}");
                }
                assert_eq!(found.len(), count * BLOCK_BYTES);
            }
        }
    }

    /// Collects blocks.
    struct Collect<'a>(&'a mut Vec<u8>);

    impl Sink for Collect<'_> {
        const GROUP_BLOCKS: usize = 8;

        fn take(&mut self, blocks: &[[u64; 2]]) {
            self.0.extend_from_slice(bytemuck::cast_slice(blocks));
        }
    }

    fn blocks(keystream: &Keystream, first: u64, count: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        keystream.run(first, count, pulp::Scalar, Collect(&mut bytes));
        bytes
    }

    fn hex<const N: usize>(text: &str) -> [u8; N] {
        std::array::from_fn(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap())
    }
}
