//! Between the bytes of a leaf and the numbers of a kernel.
//!
//! Payloads arrive at any alignment, so elements are read and written as little-endian byte groups, which compiles to
//! plain unaligned loads and stores.

use half::{bf16, f16};

use super::Real;
use crate::dtype::DType;

/// Reads `values.len()` elements. bf16 and f16 are widened exactly; f64 read for f32 arithmetic is rounded.
pub(crate) fn decode<T: Real>(dtype: DType, bytes: &[u8], values: &mut [T]) {
    match dtype {
        DType::F32 => read(bytes, values, |b| T::from_f32(f32::from_le_bytes(b))),
        DType::F64 => read(bytes, values, |b| T::from_f64(f64::from_le_bytes(b))),
        DType::Bf16 => read(bytes, values, |b| T::from_f32(bf16::from_le_bytes(b).to_f32())),
        DType::F16 => read(bytes, values, |b| T::from_f32(f16::from_le_bytes(b).to_f32())),
    }
}

/// Writes every value, rounded once to nearest, ties to even.
pub(crate) fn encode<T: Real>(dtype: DType, values: &[T], bytes: &mut [u8]) {
    match dtype {
        DType::F32 => write(values, bytes, |v| v.to_f32().to_le_bytes()),
        DType::F64 => write(values, bytes, |v| v.to_f64().to_le_bytes()),
        DType::Bf16 => write(values, bytes, |v| bf16::from_f32(v.to_f32_odd()).to_le_bytes()),
        DType::F16 => write(values, bytes, |v| f16::from_f32(v.to_f32_odd()).to_le_bytes()),
    }
}

fn read<T, const N: usize>(bytes: &[u8], values: &mut [T], convert: impl Fn([u8; N]) -> T) {
    for (value, bytes) in values.iter_mut().zip(bytes.as_chunks::<N>().0) {
        *value = convert(*bytes);
    }
}

fn write<T: Copy, const N: usize>(values: &[T], bytes: &mut [u8], convert: impl Fn(T) -> [u8; N]) {
    for (value, bytes) in values.iter().zip(bytes.as_chunks_mut::<N>().0) {
        *bytes = convert(*value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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

    /// Between each two neighbours lies a tie, which goes to the even one; anything on either side of it goes to the
    /// nearer one, however close. (Rounding to f32 first, or dropping low bits, makes ties of what is none.)
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
