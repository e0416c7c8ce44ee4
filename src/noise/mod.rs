//! Gaussian noise as a pure function: `z_t[lane]` of a 256-bit key, the step `t` and the lane's place in the
//! whole tree.
//!
//! Nothing else goes in: no clock, address, thread, chunk or shard. So any part of any step can be drawn
//! anywhere, again, and in any order, and two shards put together are bit for bit the whole.
//!
//! | room | what is in it |
//! |---|---|
//! | [`NoiseKey`], [`MasterKey`], [`TenantKeys`] | keys, and what is derived from what |
//! | `secret` | the bytes of a key, in one place; [`scrub_stack`] |
//! | `keystream` | random words with random access: AES-256 in counter mode |
//! | `gaussian` | words to standard normals, without branches |
//! | `step` | the noise of one step, as kernels draw it |
//!
//! # The generator
//!
//! docs/noise.md has the construction to the bit, for whoever writes another program that gives the same
//! noise.
//!
//! - The subkey of step `t` is the BLAKE3 keyed hash of `t` (8 bytes, little endian) under the noise key.
//! - The random words of a step are AES-256 in counter mode (NIST SP 800-38A) under that subkey, from counter
//!   0 on, read as little-endian words: 32 bits a lane for f32, 64 bits a lane for f64.
//! - A group of 32 lanes `32 g .. 32 g + 32` takes the 32 words at its place. Words `i` and `16 + i` of a
//!   group make the lanes `i` and `16 + i` by the Box-Muller transform (Box and Muller, 1958): a radius `r =
//!   sqrt(-2 ln u)` and an angle give `r cos` and `r sin`.
//!
//! # Precision
//!
//! | | f32 | f64 |
//! |---|---|---|
//! | bits of `u` | 40 | 64 |
//! | bits of the angle | 24 | 53 |
//! | largest `\|z\|` | `sqrt(2 ln 2^41)` = 7.54 | `sqrt(2 ln 2^65)` = 9.49 |
//! | smallest `\|z\|` | 6.4e-11 | 5e-24 |
//! | error of one value of radius `r` | `4e-7 r + 2^-23 / r` | `1e-15 r + 2^-52 / r` |
//!
//! The second part of the error is the rounding of `u` to the format, which counts near `u = 1` alone: there
//! radii are small.
//!
//! Why: the two 32-bit words of a pair hold 64 bits. An angle of 24 bits is as fine as f32 can tell, and what
//! is left goes to the radius, where each bit more carries the tail further out. Past its largest value a
//! true normal has a probability of 5e-14 (f32) and 2e-21 (f64) a value. In the tail, radii lie apart by the
//! spacing of `u`, which at the largest is a factor of 3 in probability, and at 6 standard deviations one
//! part in 10^4; the angle fills in between. Near zero, radii below 3.5e-4 do not occur in f32 (their
//! probability is 6e-8 a pair), but values do: an angle that is near a right one makes them. No value is
//! exactly zero. f64 sessions draw f64 normals; f32 normals are never drawn in less, whatever the format of
//! the gradients.
//!
//! As with every generator of floating-point normals, the values are samples of a continuous distribution,
//! rounded. Privacy proofs for the Gaussian mechanism are about real numbers; attacks on the low bits of a
//! single released value (Mironov, 2012) are not ruled out by this generator, nor by any other that the
//! training frameworks use.
//!
//! # Speed that tells nothing
//!
//! Keystream and transform do the same operations whatever the values: there is no branch, table or rejection
//! in them. Where the processor has no AES unit the cipher is a bit-sliced one, which has no tables either.

mod gaussian;
mod key;
mod keystream;
mod secret;
mod step;

pub(crate) use gaussian::Normal;
pub use key::{KeyCheck, MasterKey, NoiseKey, StepProof, TenantKeys, key_from_hex};
pub use secret::{scrub_deep_stack, scrub_stack};
pub(crate) use step::StepNoise;

/// Lanes whose words lie together: 16 pairs, whose first and second halves are each a vector of every
/// instruction set.
pub(crate) const GROUP_LANES: usize = 32;

/// Number formats that normals are drawn in: f32 and f64.
pub trait NoiseFormat: sealed::Sealed {}

impl NoiseFormat for f32 {}
impl NoiseFormat for f64 {}

mod sealed {
    use super::{NoiseKey, StepNoise};
    use crate::kernel::Backend;

    /// What only this crate implements.
    pub trait Sealed: Sized {
        fn fill(key: &NoiseKey, step: u64, first_lane: u64, values: &mut [Self]);
    }

    impl<T: crate::kernel::Real> Sealed for T {
        fn fill(key: &NoiseKey, step: u64, first_lane: u64, values: &mut [Self]) {
            Backend::best().draw(&StepNoise::new(key, step, 1.0), first_lane, values);
        }
    }
}

/// Standard normals `z_step[first_lane ..]`: as many as `values` holds.
///
/// ```
/// use noised::noise::{NoiseKey, standard_normals};
///
/// let key = NoiseKey::from_bytes([7; 32]);
/// let (mut whole, mut part) = ([0.0_f32; 100], [0.0_f32; 10]);
/// standard_normals(&key, 3, 0, &mut whole);
/// standard_normals(&key, 3, 42, &mut part);
/// assert_eq!(whole[42..52], part);
/// ```
pub fn standard_normals<T: NoiseFormat>(key: &NoiseKey, step: u64, first_lane: u64, values: &mut [T]) {
    T::fill(key, step, first_lane, values);
}

#[cfg(test)]
mod tests;
