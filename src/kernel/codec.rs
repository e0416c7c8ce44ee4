//! Between the bytes of a leaf and the numbers of a kernel.
//!
//! Payloads arrive at any alignment, so elements are read and written as little-endian byte groups, which
//! compiles to plain unaligned loads and stores. The 16-bit formats are converted without branches, in
//! integer and f32 operations that every instruction set has in its vectors.

use super::Real;
use crate::dtype::DType;

/// Reads `values.len()` elements. bf16 and f16 are widened exactly; f64 read for f32 arithmetic is rounded.
#[inline(always)]
pub(crate) fn decode<T: Real>(dtype: DType, bytes: &[u8], values: &mut [T]) {
    match dtype {
        DType::F32 => read(bytes, values, |b| T::from_f32(f32::from_le_bytes(b))),
        DType::F64 => read(bytes, values, |b| T::from_f64(f64::from_le_bytes(b))),
        DType::Bf16 => read(bytes, values, |b| T::from_f32(f32_of_bf16(u16::from_le_bytes(b)))),
        DType::F16 => read(bytes, values, |b| T::from_f32(f32_of_f16(u16::from_le_bytes(b)))),
    }
}

/// Writes every value, rounded once to nearest, ties to even.
#[inline(always)]
pub(crate) fn encode<T: Real>(dtype: DType, values: &[T], bytes: &mut [u8]) {
    match dtype {
        DType::F32 => write(values, bytes, |v| v.to_f32().to_le_bytes()),
        DType::F64 => write(values, bytes, |v| v.to_f64().to_le_bytes()),
        DType::Bf16 => write(values, bytes, |v| bf16_of_f32(v.to_f32_odd()).to_le_bytes()),
        DType::F16 => write(values, bytes, |v| f16_of_f32(v.to_f32_odd()).to_le_bytes()),
    }
}

/// Whether every element is finite: the exponent of what is infinite or no number is all ones, so that its
/// bits without the sign are the largest.
#[inline(always)]
pub(crate) fn all_finite(dtype: DType, bytes: &[u8]) -> bool {
    match dtype {
        DType::F32 => {
            let largest = |most: u32, b: &[u8; 4]| most.max(u32::from_le_bytes(*b) & 0x7fff_ffff);
            bytes.as_chunks().0.iter().fold(0, largest) < INFINITY
        }
        DType::F64 => {
            let largest = |most: u64, b: &[u8; 8]| most.max(u64::from_le_bytes(*b) & !(1 << 63));
            bytes.as_chunks().0.iter().fold(0, largest) < f64::INFINITY.to_bits()
        }
        DType::Bf16 => largest_u16(bytes) < (INFINITY >> 16) as u16,
        DType::F16 => largest_u16(bytes) < F16_INFINITY,
    }
}

/// The bits of f16's infinity.
const F16_INFINITY: u16 = 0x7c00;

#[inline(always)]
fn largest_u16(bytes: &[u8]) -> u16 {
    bytes.as_chunks().0.iter().fold(0, |most: u16, b: &[u8; 2]| most.max(u16::from_le_bytes(*b) & 0x7fff))
}

#[inline(always)]
fn f32_of_bf16(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// Rounds to nearest, ties to even. A NaN stays one, with its sign.
#[inline(always)]
fn bf16_of_f32(value: f32) -> u16 {
    let bits = value.to_bits();
    let rounded = (bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16) as u16;
    let quiet = (bits >> 16) as u16 | 0x40;
    if bits & 0x7fff_ffff > INFINITY { quiet } else { rounded }
}

/// The bits of f32's infinity; those of a NaN are above.
const INFINITY: u32 = 0x7f80_0000;

#[inline(always)]
fn f32_of_f16(bits: u16) -> f32 {
    let sign = u32::from(bits & 0x8000) << 16;
    let magnitude = u32::from(bits & 0x7fff);
    // With the fields moved into their places the exponent is off by the difference of the biases, which a
    // product with a power of two puts right, for subnormal numbers as well.
    let finite = f32::from_bits(magnitude << 13) * f32::from_bits((127 + 127 - 15) << 23);
    let special = f32::from_bits(INFINITY | magnitude << 13);
    let value = if magnitude < 0x7c00 { finite } else { special };
    f32::from_bits(value.to_bits() | sign)
}

/// Rounds to nearest, ties to even; what is out of range is infinite. A NaN stays one, with its sign.
#[inline(always)]
fn f16_of_f32(value: f32) -> u16 {
    let sign = (value.to_bits() >> 16) as u16 & 0x8000;
    let bits = value.to_bits() & 0x7fff_ffff;
    let odd = bits >> 13 & 1;
    // The exponent to the other bias, and half of the last place kept. A carry goes into the exponent, as it
    // should.
    let normal = (bits.wrapping_sub((127 - 15) << 23).wrapping_add(0x0fff + odd) >> 13) as u16;
    // The last place of 1/2 in f32 is that of the subnormal numbers: the sum rounds as it should.
    let subnormal = ((f32::from_bits(bits) + 0.5).to_bits().wrapping_sub(0.5_f32.to_bits())) as u16;
    let finite = if bits < (127 - 14) << 23 { subnormal } else { normal };
    // From the middle between the largest number and the power of two above it on.
    let special = if bits > INFINITY { 0x7e00 } else { 0x7c00 };
    let magnitude = if bits >= 0x477f_f000 { special } else { finite };
    magnitude | sign
}

#[inline(always)]
fn read<T, const N: usize>(bytes: &[u8], values: &mut [T], convert: impl Fn([u8; N]) -> T) {
    for (value, bytes) in values.iter_mut().zip(bytes.as_chunks::<N>().0) {
        *value = convert(*bytes);
    }
}

#[inline(always)]
fn write<T: Copy, const N: usize>(values: &[T], bytes: &mut [u8], convert: impl Fn(T) -> [u8; N]) {
    for (value, bytes) in values.iter().zip(bytes.as_chunks_mut::<N>().0) {
        *bytes = convert(*value);
    }
}

#[cfg(test)]
mod tests {
    use half::{bf16, f16};

    use super::*;

    /// As the crate `half` has it, for numbers of every size.
    #[test]
    fn narrowing_f32_is_that_of_a_library() {
        for bits in (0..=u32::MAX).step_by(997).chain((0..=u32::MAX >> 13).map(|bits| bits << 13 | 0xfff)) {
            let value = f32::from_bits(bits);
            assert_eq!(bf16_of_f32(value), bf16::from_f32(value).to_bits(), "{value:e}");
            let (found, expected) = (f16::from_bits(f16_of_f32(value)), f16::from_f32(value));
            assert!(
                found.to_bits() == expected.to_bits() || (found.is_nan() && expected.is_nan()),
                "{value:e}"
            );
        }
    }

    #[test]
    fn widening_is_that_of_a_library() {
        for bits in 0..=u16::MAX {
            for (found, expected) in [
                (f32_of_bf16(bits), bf16::from_bits(bits).to_f32()),
                (f32_of_f16(bits), f16::from_bits(bits).to_f32()),
            ] {
                let same = found.to_bits() == expected.to_bits() || (found.is_nan() && expected.is_nan());
                assert!(same, "{bits:#x}: {found} instead of {expected}");
            }
        }
    }

    /// Every 16-bit pattern survives the way in and out, in both precisions.
    #[test]
    fn half_formats_round_trip() {
        fn check<T: Real>(dtype: DType, is_nan: impl Fn(u16) -> bool) {
            for bits in 0..=u16::MAX {
                let mut value = [T::default()];
                decode(dtype, &bits.to_le_bytes(), &mut value);
                let mut back = [0; 2];
                encode(dtype, &value, &mut back);
                let back = u16::from_le_bytes(back);
                assert!(
                    back == bits || (is_nan(bits) && is_nan(back)),
                    "{dtype} {bits:#06x} came back as {back:#06x}"
                );
            }
        }
        check::<f32>(DType::Bf16, |bits| bf16::from_bits(bits).is_nan());
        check::<f64>(DType::Bf16, |bits| bf16::from_bits(bits).is_nan());
        check::<f32>(DType::F16, |bits| f16::from_bits(bits).is_nan());
        check::<f64>(DType::F16, |bits| f16::from_bits(bits).is_nan());
    }

    /// Between each two neighbours lies a tie, which goes to the even one; anything on either side of it goes
    /// to the nearer one, however close. (Rounding to f32 first, or dropping low bits, makes ties of what is
    /// none.)
    #[test]
    fn narrowing_rounds_once_to_nearest_even() {
        fn check(dtype: DType, to_f64: impl Fn(u16) -> f64) {
            let narrow = |value: f64| {
                let mut bytes = [0; 2];
                encode(dtype, &[value], &mut bytes);
                u16::from_le_bytes(bytes)
            };
            for low in (0..0x7fff_u16).filter(|&bits| to_f64(bits + 1).is_finite()) {
                let (a, b) = (to_f64(low), to_f64(low + 1));
                let tie = a / 2.0 + b / 2.0;
                assert_eq!(narrow(tie), low + low % 2, "{dtype}: the tie above {a:e}");
                assert_eq!(narrow(tie.next_down()), low, "{dtype}: just below the tie above {a:e}");
                assert_eq!(narrow(tie.next_up()), low + 1, "{dtype}: just above the tie above {a:e}");
                assert_eq!(narrow(-tie.next_up()), (low + 1) | 0x8000, "{dtype}: the same, negative");
            }
        }
        check(DType::Bf16, |bits| bf16::from_bits(bits).to_f64());
        check(DType::F16, |bits| f16::from_bits(bits).to_f64());
    }

    #[test]
    fn what_is_not_finite_is_noticed_wherever_it_is() {
        let of_bits = |dtype: DType, bits: u64| bits.to_le_bytes()[..dtype.size()].to_vec();
        let cases = [
            (DType::F32, u64::from(f32::MAX.to_bits()), 31),
            (DType::F64, f64::MAX.to_bits(), 63),
            (DType::Bf16, u64::from(bf16::MAX.to_bits()), 15),
            (DType::F16, u64::from(f16::MAX.to_bits()), 15),
        ];
        for (dtype, largest, sign) in cases {
            let finite = [0, 1, largest, largest | 1 << sign, 1 << sign].map(|bits| of_bits(dtype, bits));
            let bytes: Vec<u8> = finite.iter().cycle().take(67).flatten().copied().collect();
            assert!(all_finite(dtype, &bytes) && all_finite(dtype, &[]), "{dtype}");
            // Infinity is the number after the largest; what comes after that is no number.
            for bits in [largest + 1, (largest + 1) | 1 << sign, largest + 2, (1 << sign) - 1] {
                for place in [0, 1, 31, 66] {
                    let mut bytes = bytes.clone();
                    bytes[place * dtype.size()..][..dtype.size()].copy_from_slice(&of_bits(dtype, bits));
                    assert!(!all_finite(dtype, &bytes), "{dtype} {bits:#x} at {place}");
                }
            }
        }
    }

    #[test]
    fn narrowing_overflows_to_infinity() {
        let mut bytes = [0; 2];
        for dtype in [DType::Bf16, DType::F16] {
            encode(dtype, &[f64::MAX], &mut bytes);
            let mut back = [0.0_f64];
            decode(dtype, &bytes, &mut back);
            assert_eq!(back, [f64::INFINITY]);
        }
    }
}
