//! The bytes of a key, in one place from their making to their end.

use memmap2::MmapMut;
use zeroize::Zeroize;

/// Bytes of a key.
pub(super) const KEY_BYTES: usize = 32;

/// More of a thread's stack than key derivation, cipher and transform use below their caller, in words.
const STACK_WORDS: usize = 4 << 10;

/// More of it than a sweep uses that is split in two some twenty times. A thread has at least four times as
/// much.
const DEEP_STACK_WORDS: usize = 64 << 10;

/// The bytes of a key. They lie in a page of their own, which is neither swapped out nor written to a core
/// dump where the system permits that, and they are wiped when this is dropped. Moving this moves a pointer
/// to them.
pub(super) struct Secret(Place);

enum Place {
    Page(MmapMut),
    /// Where the system gives no page.
    Heap(Box<[u8; KEY_BYTES]>),
}

impl Secret {
    /// Secret bytes that `fill` makes in their place, from zeros.
    pub(super) fn filled(fill: impl FnOnce(&mut [u8; KEY_BYTES])) -> Self {
        let mut secret =
            Self(MmapMut::map_anon(KEY_BYTES).map_or_else(|_| Place::Heap(Box::default()), Place::Page));
        if let Place::Page(page) = &secret.0 {
            // Where the system permits no more locked memory, the page may be swapped out.
            let _swapped = page.lock();
            #[cfg(target_os = "linux")]
            let _dumped = page.advise(memmap2::Advice::DontDump);
        }
        scrubbed(|| fill(secret.bytes_mut()));
        secret
    }

    /// A copy of bytes, which the caller wipes; `None` where there are not as many as a key has.
    pub(super) fn of_slice(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; KEY_BYTES] = bytes.try_into().ok()?;
        Some(Self::filled(|place| place.copy_from_slice(bytes)))
    }

    /// Bytes that are written as twice as many hexadecimal digits; `None` where they are not.
    pub(super) fn of_hex(digits: &[u8]) -> Option<Self> {
        let pairs = digits.as_chunks::<2>().0;
        if digits.len() != 2 * KEY_BYTES || !digits.iter().all(u8::is_ascii_hexdigit) {
            return None;
        }
        // Arithmetic, so that no table of digits is looked up at a secret place.
        let value = |digit: u8| (digit & 0xf) + 9 * (digit >> 6);
        Some(Self::filled(|place| {
            for (byte, [high, low]) in place.iter_mut().zip(pairs) {
                *byte = value(*high) << 4 | value(*low);
            }
        }))
    }

    pub(super) fn is_zero(&self) -> bool {
        self.bytes().iter().fold(0, |any, byte| any | byte) == 0
    }

    #[allow(clippy::expect_used, reason = "a page is mapped for as many bytes")]
    pub(super) fn bytes(&self) -> &[u8; KEY_BYTES] {
        match &self.0 {
            Place::Page(page) => page.first_chunk().expect("a page holds a key"),
            Place::Heap(bytes) => bytes,
        }
    }

    #[allow(clippy::expect_used, reason = "a page is mapped for as many bytes")]
    fn bytes_mut(&mut self) -> &mut [u8; KEY_BYTES] {
        match &mut self.0 {
            Place::Page(page) => page.first_chunk_mut().expect("a page holds a key"),
            Place::Heap(bytes) => bytes,
        }
    }
}

impl Clone for Secret {
    fn clone(&self) -> Self {
        Self::filled(|place| place.copy_from_slice(self.bytes()))
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.bytes_mut().zeroize();
    }
}

/// Does `work`, and overwrites what it left on the stack.
pub(super) fn scrubbed<R>(work: impl FnOnce() -> R) -> R {
    let done = below(work);
    scrub_stack();
    done
}

/// Calls `work` in a frame of its own, which is not part of the caller's.
#[inline(never)]
fn below<R>(work: impl FnOnce() -> R) -> R {
    work()
}

/// Overwrites what functions that have returned left on this thread's stack, below the caller. Derivations
/// and ciphers leave parts of keys there.
#[inline(never)]
pub fn scrub_stack() {
    overwrite::<STACK_WORDS>();
}

/// The same for a thread that drew large steps, which are split in two again and again.
#[inline(never)]
pub fn scrub_deep_stack() {
    overwrite::<DEEP_STACK_WORDS>();
}

#[inline(always)]
fn overwrite<const WORDS: usize>() {
    let mut words = [0_u64; WORDS];
    words.as_mut_slice().zeroize();
    std::hint::black_box(&mut words);
}
