//! Random words to standard normals: the Box-Muller transform without branches.
//!
//! Everything here is made of integer operations, of additions, multiplications, square roots and fused
//! multiply-adds of IEEE 754, each written out in one order, so it gives the same bits on every processor.
//! There is no call of a mathematical library: those differ from one another in the last bits. Polynomials
//! are minimax ones (Remez), computed in 60 digits.

use bytemuck::Pod;

use super::GROUP_LANES;

/// Words that make the first lanes of a group's pairs; as many make the second.
const PAIRS: usize = GROUP_LANES / 2;

/// A format that normals are drawn in.
pub(crate) trait Normal: Copy + Default + Pod {
    /// As many random bits as a lane takes.
    type Word: Copy + Default + Pod;

    /// Two independent normals of standard deviation `scale` from two words: one's bits make most of the
    /// radius, the other's make the angle.
    fn pair(radius: Self::Word, angle: Self::Word, scale: Self) -> (Self, Self);
}

/// Turns groups of words into normals: those of `values`, after the first `skipped` of the first group.
///
/// Loops over indices, for an instruction set that the caller has switched on: each line becomes one over
/// vectors. A group is read before any of it is written, so nothing needs to be known of where the two lie.
#[inline(always)]
pub(super) fn transform<T: Normal>(words: &[T::Word], scale: T, mut skipped: usize, mut values: &mut [T]) {
    for words in words.as_chunks::<GROUP_LANES>().0 {
        let words = *words;
        let mut normals = [T::default(); GROUP_LANES];
        for i in 0..PAIRS {
            (normals[i], normals[PAIRS + i]) = T::pair(words[i], words[PAIRS + i], scale);
        }
        let (of_group, rest) = values.split_at_mut(values.len().min(GROUP_LANES - skipped));
        if let Ok(whole) = <&mut [T; GROUP_LANES]>::try_from(&mut *of_group) {
            *whole = normals;
        } else {
            let part = normals;
            of_group.copy_from_slice(&part[skipped..skipped + of_group.len()]);
        }
        (skipped, values) = (0, rest);
    }
}

impl Normal for f32 {
    type Word = u32;

    #[inline(always)]
    fn pair(radius: u32, angle: u32, scale: f32) -> (f32, f32) {
        // 24 bits are a whole number of f32; 16 more are the first word's last 8 and the second's.
        let high = (radius >> 8) as i32 as f32;
        let low = ((radius & 0xff) << 8 | angle & 0xff) as i32 as f32;
        let u = (low + 0.5).mul_add(TWO_POW_MINUS_40, high * TWO_POW_MINUS_24);
        // What rounds to 1 would make a radius of zero.
        let u = if u < BELOW_ONE_F32 { u } else { BELOW_ONE_F32 };
        let r = (-2.0 * ln_f32(u)).sqrt() * scale;
        // The 22 bits below the quadrant's, and half a step more: t is in (-1/2, 1/2) and exact.
        let t = f32::from_bits(0x3f80_0000 | (angle >> 8 & 0x3f_ffff) << 1 | 1) - 1.5;
        let (sin, cos) = sin_cos_f32(t);
        let odd_quadrant = (angle >> 30 & 1).wrapping_neg();
        let first = cos & !odd_quadrant | sin & odd_quadrant;
        let second = sin & !odd_quadrant | cos & odd_quadrant;
        // Turned by a quarter for each quadrant: (c, s), (-s, c), (-c, -s), (s, -c).
        let first = first ^ (angle ^ angle << 1) & 0x8000_0000;
        let second = second ^ angle & 0x8000_0000;
        (r * f32::from_bits(first), r * f32::from_bits(second))
    }
}

const TWO_POW_MINUS_24: f32 = 1.0 / (1_u64 << 24) as f32;
const TWO_POW_MINUS_40: f32 = 1.0 / (1_u64 << 40) as f32;
const BELOW_ONE_F32: f32 = 1.0 - f32::EPSILON / 2.0;

/// `ln u` of a normal number.
#[inline(always)]
fn ln_f32(u: f32) -> f32 {
    // u = 2^e (1 + f), with 1 + f between the square roots of 1/2 and 2.
    let e = (u.to_bits().wrapping_sub(std::f32::consts::FRAC_1_SQRT_2.to_bits()) as i32) >> 23;
    let f = f32::from_bits(u.to_bits().wrapping_sub((e as u32) << 23)) - 1.0;
    // (ln(1 + f) - f) / f^2, to 4e-9 of the logarithm.
    let mut q = -0.076_217_62_f32;
    for coefficient in [
        0.129_044_12,
        -0.132_429_83,
        0.141_818_28,
        -0.166_090_84,
        0.200_019_74,
        -0.250_015_83,
        0.333_333_26,
        -0.499_999_88,
    ] {
        q = q.mul_add(f, coefficient);
    }
    let ln_1p = (f * f).mul_add(q, f);
    (e as f32).mul_add(std::f32::consts::LN_2, ln_1p)
}

/// The bits of `sin(pi/2 t)` and `cos(pi/2 t)`, for t in (-1/2, 1/2): to 4e-9 and 1e-12.
#[inline(always)]
fn sin_cos_f32(t: f32) -> (u32, u32) {
    let z = t * t;
    let mut sin = -0.004_601_658_f32;
    for coefficient in [0.079_680_03, -0.645_963_46, std::f32::consts::FRAC_PI_2] {
        sin = sin.mul_add(z, coefficient);
    }
    let mut cos = -2.490_927_8e-5_f32;
    for coefficient in [9.191_963_6e-4, -0.020_863_475, 0.253_669_5, -1.233_700_5, 1.0] {
        cos = cos.mul_add(z, coefficient);
    }
    ((sin * t).to_bits(), cos.to_bits())
}

impl Normal for f64 {
    type Word = u64;

    #[inline(always)]
    fn pair(radius: u64, angle: u64, scale: f64) -> (f64, f64) {
        let (high, low) = (of_u32(radius >> 32), of_u32(radius & 0xffff_ffff));
        let u = (low + 0.5).mul_add(TWO_POW_MINUS_64, high * TWO_POW_MINUS_32);
        let u = if u < BELOW_ONE_F64 { u } else { BELOW_ONE_F64 };
        let r = (-2.0 * ln_f64(u)).sqrt() * scale;
        // The 51 bits below the quadrant's, and half a step more.
        let t = f64::from_bits(0x3ff0 << 48 | (angle >> 11 & ((1 << 51) - 1)) << 1 | 1) - 1.5;
        let (sin, cos) = sin_cos_f64(t);
        let odd_quadrant = (angle >> 62 & 1).wrapping_neg();
        let first = cos & !odd_quadrant | sin & odd_quadrant;
        let second = sin & !odd_quadrant | cos & odd_quadrant;
        let first = first ^ (angle ^ angle << 1) & (1 << 63);
        let second = second ^ angle & (1 << 63);
        (r * f64::from_bits(first), r * f64::from_bits(second))
    }
}

const TWO_POW_MINUS_32: f64 = 1.0 / (1_u64 << 32) as f64;
const TWO_POW_MINUS_64: f64 = TWO_POW_MINUS_32 * TWO_POW_MINUS_32;
const BELOW_ONE_F64: f64 = 1.0 - f64::EPSILON / 2.0;

/// A whole number of 32 bits. Few instruction sets convert 64-bit integers, and all can do this.
#[inline(always)]
fn of_u32(value: u64) -> f64 {
    const TWO_POW_52: u64 = 0x4330 << 48;
    f64::from_bits(TWO_POW_52 | value) - f64::from_bits(TWO_POW_52)
}

/// `ln u` of a normal number.
#[inline(always)]
fn ln_f64(u: f64) -> f64 {
    let place = u.to_bits().wrapping_sub(std::f64::consts::FRAC_1_SQRT_2.to_bits());
    // A shift of signed 64-bit integers is what some sets lack: the sign goes below 2^12 and comes off again.
    let biased = place.wrapping_add(1024 << 52) >> 52;
    let e = of_u32(biased) - 1024.0;
    let f = f64::from_bits(u.to_bits().wrapping_sub(biased.wrapping_sub(1024) << 52)) - 1.0;
    // ln(1 + f) = 2 atanh(s) = 2 s + s^3 R(s^2), with R to 2e-18.
    let s = f / (2.0 + f);
    let z = s * s;
    let mut r = 0.130_878_086_153_496_58_f64;
    for coefficient in [
        0.132_686_513_354_908_03,
        0.153_862_446_316_642_86,
        0.181_817_955_412_374_78,
        0.222_222_223_927_324_52,
        0.285_714_285_707_986_2,
        0.400_000_000_000_008_85,
        0.666_666_666_666_666_6,
    ] {
        r = r.mul_add(z, coefficient);
    }
    // 2 s is f - s f.
    let ln_1p = (-s).mul_add((-z).mul_add(r, f), f);
    e.mul_add(std::f64::consts::LN_2, ln_1p)
}

/// As [`sin_cos_f32`], to 2e-21.
#[inline(always)]
fn sin_cos_f64(t: f64) -> (u64, u64) {
    let z = t * t;
    let mut sin = -6.627_430_909_221_974e-10_f64;
    for coefficient in [
        5.691_926_150_177_687_4e-8,
        -3.598_842_711_289_656_2e-6,
        1.604_411_847_256_721_4e-4,
        -0.004_681_754_135_314_739,
        0.079_692_626_246_166_92,
        -0.645_964_097_506_246_3,
        std::f64::consts::FRAC_PI_2,
    ] {
        sin = sin.mul_add(z, coefficient);
    }
    let mut cos = 6.513_225_393_253_984e-11_f64;
    for coefficient in [
        -6.386_389_120_227_318e-9,
        4.710_874_326_511_298e-7,
        -2.520_204_236_776_240_5e-5,
        9.192_602_748_390_895e-4,
        -0.020_863_480_763_352_95,
        0.253_669_507_901_048_03,
        -1.233_700_550_136_169_7,
        1.0,
    ] {
        cos = cos.mul_add(z, coefficient);
    }
    ((sin * t).to_bits(), cos.to_bits())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Against f64 and its library, at numbers of every size; the smallest and the largest are among them.
    #[test]
    fn the_logarithm_in_f32() {
        let smallest = (0.5 * TWO_POW_MINUS_40).to_bits();
        for bits in (smallest..=BELOW_ONE_F32.to_bits()).step_by(37).chain([BELOW_ONE_F32.to_bits()]) {
            let u = f32::from_bits(bits);
            let (found, expected) = (f64::from(ln_f32(u)), f64::from(u).ln());
            assert!(found < 0.0, "the radius of u = {u:e} is one");
            assert!((found / expected - 1.0).abs() < 2.5e-7, "ln {u:e}: {found:e} instead of {expected:e}");
        }
    }

    #[test]
    fn the_logarithm_in_f64() {
        let smallest = (0.5 * TWO_POW_MINUS_64).to_bits();
        let step = (1 << 52) / 9973;
        for bits in (smallest..=BELOW_ONE_F64.to_bits()).step_by(step).chain([BELOW_ONE_F64.to_bits()]) {
            let u = f64::from_bits(bits);
            let (found, expected) = (ln_f64(u), u.ln());
            assert!(found < 0.0, "the radius of u = {u:e} is one");
            assert!((found / expected - 1.0).abs() < 6e-16, "ln {u:e}: {found:e} instead of {expected:e}");
        }
    }

    /// Every angle there is in f32, by the words that make it.
    #[test]
    fn the_circle_in_f32() {
        for angle in (0..1_u32 << 24).step_by(7) {
            let (x, y) = f32::pair(0, angle << 8, 1.0);
            let r = (-2.0 * ln_f32(0.5 * TWO_POW_MINUS_40)).sqrt();
            let theta = (f64::from(angle) + 0.5) / f64::from(1_u32 << 22) - 0.5;
            let (sin, cos) = (theta * std::f64::consts::FRAC_PI_2).sin_cos();
            for (found, expected) in [(x, cos), (y, sin)] {
                let error = (f64::from(found) / f64::from(r) - expected).abs();
                assert!(error < 1.5e-7, "angle {angle}: {found} instead of {expected}, off by {error:e}");
                assert!(found != 0.0);
            }
        }
    }

    #[test]
    fn the_circle_in_f64() {
        for i in 0..1_000_000_u64 {
            let angle = i.wrapping_mul(0x9e37_79b9_7f4a_7c15) & !0x7ff;
            let (x, y) = f64::pair(0, angle, 1.0);
            let r = (-2.0 * ln_f64(0.5 * TWO_POW_MINUS_64)).sqrt();
            // A quarter of the circle by itself, so that the library sees a small argument.
            let (quadrant, rest) = (angle >> 62, angle << 2 >> 2);
            let t = (rest >> 11) as f64 / (1_u64 << 51) as f64 - 0.5;
            let (sin, cos) = (t * std::f64::consts::FRAC_PI_2).sin_cos();
            let expected = [(cos, sin), (-sin, cos), (-cos, -sin), (sin, -cos)][quadrant as usize];
            for (found, expected) in [(x, expected.0), (y, expected.1)] {
                let error = (found / r - expected).abs();
                assert!(error < 1e-15, "angle {angle:#x}: {found} instead of {expected}, off by {error:e}");
            }
        }
    }

    /// What the module's page says of the largest and the smallest value.
    #[test]
    fn the_range_is_what_is_said() {
        let (largest, _) = f32::pair(0, 1 << 29, 1.0);
        assert!((largest - (2.0 * 41.0 * 2f32.ln()).sqrt()).abs() < 1e-5, "{largest}");
        let (x, y) = f32::pair(u32::MAX, 0xff, 1.0);
        assert!((x.hypot(y) - 3.45e-4).abs() < 1e-5, "{x} {y}");
        let (largest, _) = f64::pair(0, 1 << 61, 1.0);
        assert!((largest - (2.0 * 65.0 * 2f64.ln()).sqrt()).abs() < 1e-12, "{largest}");
    }

    /// Bits that must never change: a noise that comes again after an update is the same noise.
    #[test]
    fn golden_pairs() {
        let bits = |(x, y): (f32, f32)| (x.to_bits(), y.to_bits());
        let found = [
            bits(f32::pair(0, 0, 1.0)),
            bits(f32::pair(0x1234_5678, 0x9abc_def0, 1.0)),
            bits(f32::pair(u32::MAX, u32::MAX, 1.0)),
            bits(f32::pair(0xdead_beef, 0x4000_0000, 2.5)),
        ];
        assert_eq!(found, GOLDEN_F32, "{found:#010x?}");
        let bits = |(x, y): (f64, f64)| (x.to_bits(), y.to_bits());
        let found = [
            bits(f64::pair(0, 0, 1.0)),
            bits(f64::pair(0x1234_5678_9abc_def0, 0x0fed_cba9_8765_4321, 1.0)),
            bits(f64::pair(u64::MAX, u64::MAX, 1.0)),
        ];
        assert_eq!(found, GOLDEN_F64, "{found:#018x?}");
    }

    const GOLDEN_F32: [(u32, u32); 4] = [
        (0x40aa_9727, 0xc0aa_9724),
        (0xc011_eed4, 0x3e97_a093),
        (0x397f_fffd, 0xb980_0001),
        (0x3f6e_fe3b, 0x3f6e_fe41),
    ];
    const GOLDEN_F64: [(u64, u64); 3] = [
        (0x401a_d95d_457b_0adc, 0xc01a_d95d_457b_0ad6),
        (0x4000_fb77_3b49_abf9, 0xbfec_46b3_8934_0b8a),
        (0x3e46_a09e_667f_3bca, 0xbe46_a09e_667f_3bcf),
    ];
}
