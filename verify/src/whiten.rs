//! The correlation undone.

use noised::streaming::MultiplyState;
use noised::tree::TreeValues;
use noised::{DType, Error, MatrixSpec, Precision, Result, StreamingMatrix, Tree};

use crate::correlations::check_lanes;
use crate::tamed;

/// Takes released slices `y_t` to `z_t = (A^-1 y)_t / stddev`, one step at a time, in f64.
///
/// Released f32 lie on a lattice, and where `y` is much larger than the `z` in it, as sums of many are, the
/// lattice shows in `z`. So each is moved by a uniform number within half a unit of its last place, which
/// makes up for what rounding took, and adds as little.
///
/// It takes the matrix's state, a slice and its result: `8 * (planes + 2)` bytes a lane.
#[derive(Debug)]
pub struct Whitener {
    inverse: StreamingMatrix,
    state: MultiplyState,
    slice: TreeValues,
    normals: Vec<f64>,
    scale: f64,
}

impl Whitener {
    /// Before the first step.
    ///
    /// # Errors
    /// Those of [`MatrixSpec::validate`]; [`Error::Invalid`] where the matrix has no inverse, there are no
    /// lanes, or `stddev` is not positive and finite.
    pub fn new(matrix: &MatrixSpec, stddev: f64, lanes: usize) -> Result<Self> {
        let scale = scale(stddev)?;
        let inverse = StreamingMatrix::new(matrix.clone())?.inverse()?;
        let tree = Tree::flat(lanes as u64, DType::F64)?;
        let state = inverse.init_multiply(&tree, Precision::F64)?;
        Ok(Self { inverse, state, slice: TreeValues::zeros(tree), normals: vec![0.0; lanes], scale })
    }

    /// The next step: what should be independent standard normals. What is not finite goes in as 0, so that
    /// it does not spoil the lane's later steps.
    ///
    /// # Errors
    /// [`Error::Invalid`] where there is not one value for each lane; [`Error::PastHorizon`] where the matrix
    /// has ended.
    pub fn step<T: Copy + Into<f64>>(&mut self, values: &[T]) -> Result<&[f64]> {
        check_lanes(values.len(), self.normals.len())?;
        let (numbers, _) = self.slice.as_bytes_mut().as_chunks_mut::<8>();
        let unit = last_place::<T>();
        // Multiples of an odd number, modulo 2^32, are spread evenly. Another number at each step, or else
        // what a matrix subtracts would be the same at every lane.
        let (stride, mut phase) = (odd(self.state.step()), 0_u32);
        for (number, &value) in numbers.iter_mut().zip(values) {
            let value = value.into();
            phase = phase.wrapping_add(stride);
            let uniform = f64::from(phase as i32) * 2.0_f64.powi(-32);
            let moved = value + uniform * unit * power_of_two_below(value);
            *number = tamed(self.scale * moved).to_le_bytes();
        }
        self.inverse.multiply_next_in_place(&mut self.slice, &mut self.state)?;
        let (numbers, _) = self.slice.as_bytes().as_chunks::<8>();
        for (normal, number) in self.normals.iter_mut().zip(numbers) {
            *normal = f64::from_le_bytes(*number);
        }
        Ok(&self.normals)
    }
}

/// An odd number for each step, none of which has to do with the others (the finalizer of SplitMix64).
fn odd(step: u64) -> u32 {
    let mut bits = step.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (bits >> 32) as u32 | 1
}

/// The unit of the last place of a number from 1 to 2, where it is of consequence: that of f64 is not.
fn last_place<T>() -> f64 {
    if size_of::<T>() == size_of::<f32>() { f32::EPSILON.into() } else { 0.0 }
}

/// The power of two that begins a number's binade: its exponent alone.
fn power_of_two_below(value: f64) -> f64 {
    f64::from_bits(value.to_bits() & f64::INFINITY.to_bits())
}

/// What brings values of this deviation to 1.
pub(crate) fn scale(stddev: f64) -> Result<f64> {
    let scale = 1.0 / stddev;
    if !(scale > 0.0 && scale.is_finite() && stddev.is_finite()) {
        return Err(Error::invalid("stddev", format!("must be positive and finite, found {stddev}")));
    }
    Ok(scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_moved_within_their_last_place() {
        assert_eq!([0.0, 1.0, -1.5, 7.0, 0.3].map(power_of_two_below), [0.0, 1.0, 1.0, 4.0, 0.25]);
        let mut whitener = Whitener::new(&MatrixSpec::Identity, 1.0, 10_000).unwrap();
        let moved = whitener.step(&[5.0_f32; 10_000]).unwrap();
        let half = 2.0 * f64::from(f32::EPSILON);
        let mut moved: Vec<f64> = moved.iter().map(|z| (z - 5.0) / half).collect();
        moved.sort_by(f64::total_cmp);
        for (i, moved) in moved.iter().enumerate() {
            assert!((moved - (i as f64 / 5_000.0 - 1.0)).abs() < 0.02, "{i} {moved}");
        }
    }

    #[test]
    fn normals_come_back() {
        let mut whitener = Whitener::new(&MatrixSpec::PrefixSum, 2.0, 2).unwrap();
        assert_eq!(whitener.step(&[2.0, -4.0]).unwrap(), [1.0, -2.0]);
        let &[first, second] = whitener.step(&[3.0_f32, f32::NAN]).unwrap() else { panic!("two lanes") };
        assert!((first - 0.5).abs() < 2e-7 && second == 2.0);
        whitener = Whitener::new(&MatrixSpec::PrefixSum, 2.0, 2).unwrap();
        whitener.step(&[3.0, f64::INFINITY]).unwrap();
        assert_eq!(whitener.step(&[3.0, 2.0]).unwrap(), [0.0, 1.0]);
        assert!(whitener.step(&[1.0]).is_err());
        let dense = MatrixSpec::Dense { rows: vec![vec![1.0]] };
        let mut ends = Whitener::new(&dense, 1.0, 1).unwrap();
        ends.step(&[1.0]).unwrap();
        assert!(matches!(ends.step(&[1.0]), Err(Error::PastHorizon { requested: 1, horizon: 1 })));
        for stddev in [0.0, -1.0, f64::NAN, f64::INFINITY, 5e-324] {
            assert!(Whitener::new(&MatrixSpec::Identity, stddev, 1).is_err(), "{stddev}");
        }
        assert!(Whitener::new(&MatrixSpec::Diagonal { diag: vec![1.0, 0.0] }, 1.0, 1).is_err());
    }
}
