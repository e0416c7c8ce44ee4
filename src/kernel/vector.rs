//! The vectors of an instruction set, for either format.

use pulp::Simd;

use crate::limits::BLOCK_LANES;

/// What the recurrences need of an instruction set. `fma` is one rounding on each of them.
pub(crate) trait Vectors: Sized {
    /// Neighbouring lanes.
    type Vector<S: Simd>: Copy;

    fn splat<S: Simd>(simd: S, value: Self) -> Self::Vector<S>;
    fn sum<S: Simd>(simd: S, a: Self::Vector<S>, b: Self::Vector<S>) -> Self::Vector<S>;
    fn difference<S: Simd>(simd: S, a: Self::Vector<S>, b: Self::Vector<S>) -> Self::Vector<S>;
    fn product<S: Simd>(simd: S, a: Self::Vector<S>, b: Self::Vector<S>) -> Self::Vector<S>;
    /// `a*b + c`.
    fn fma<S: Simd>(simd: S, a: Self::Vector<S>, b: Self::Vector<S>, c: Self::Vector<S>) -> Self::Vector<S>;
    /// As many whole vectors as there are.
    fn vectors<S: Simd>(values: &mut [Self]) -> &mut [Self::Vector<S>];
}

/// Vectors in a block of lanes: a power of two from 1 to [`BLOCK_LANES`].
pub(super) const fn vectors_in_block<T: Vectors, S: Simd>() -> usize {
    BLOCK_LANES * size_of::<T>() / size_of::<T::Vector<S>>()
}

macro_rules! vectors {
    ($real:ty, $vector:ident, $splat:ident, $add:ident, $sub:ident, $mul:ident, $mul_add:ident, $vectors:ident) => {
        impl Vectors for $real {
            type Vector<S: Simd> = S::$vector;

            #[inline(always)]
            fn splat<S: Simd>(simd: S, value: Self) -> S::$vector {
                simd.$splat(value)
            }

            #[inline(always)]
            fn sum<S: Simd>(simd: S, a: S::$vector, b: S::$vector) -> S::$vector {
                simd.$add(a, b)
            }

            #[inline(always)]
            fn difference<S: Simd>(simd: S, a: S::$vector, b: S::$vector) -> S::$vector {
                simd.$sub(a, b)
            }

            #[inline(always)]
            fn product<S: Simd>(simd: S, a: S::$vector, b: S::$vector) -> S::$vector {
                simd.$mul(a, b)
            }

            #[inline(always)]
            fn fma<S: Simd>(simd: S, a: S::$vector, b: S::$vector, c: S::$vector) -> S::$vector {
                simd.$mul_add(a, b, c)
            }

            #[inline(always)]
            fn vectors<S: Simd>(values: &mut [Self]) -> &mut [S::$vector] {
                S::$vectors(values).0
            }
        }
    };
}

vectors!(f32, f32s, splat_f32s, add_f32s, sub_f32s, mul_f32s, mul_add_f32s, as_mut_simd_f32s);
vectors!(f64, f64s, splat_f64s, add_f64s, sub_f64s, mul_f64s, mul_add_f64s, as_mut_simd_f64s);
