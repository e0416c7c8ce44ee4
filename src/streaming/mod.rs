//! [`StreamingMatrix`]: a matrix applied one step at a time to trees, in a program's own memory.
//!
//! This is the library form of what a session does, with the interface of jax_privacy's `StreamingMatrix`,
//! and the place where a program brings a matrix of its own.
//!
//! ```
//! use noised::{DType, StreamingMatrix, Tree, tree::TreeValues};
//!
//! let a = StreamingMatrix::prefix_sum();
//! let tree = Tree::flat(3, DType::F32)?;
//! let mut state = a.init_multiply(&tree, tree.default_precision())?;
//! let mut x = TreeValues::zeros(tree);
//! x.set_leaf(0, ndarray::arr1(&[1.0, 2.0, 3.0]).into_dyn().view())?;
//! assert_eq!(a.multiply_next(&x, &mut state)?.leaf(0).as_slice(), Some(&[1.0, 2.0, 3.0][..]));
//! assert_eq!(a.multiply_next(&x, &mut state)?.leaf(0).as_slice(), Some(&[2.0, 4.0, 6.0][..]));
//! # Ok::<(), noised::Error>(())
//! ```

mod array;
mod state;

use std::ops::Mul;
use std::sync::Arc;

use ndarray::{Array2, ArrayD, ArrayViewD, Axis};

use crate::analysis;
use crate::dtype::{DType, Precision};
use crate::error::{Error, Result};
use crate::limits::MAX_ANALYSIS_N;
use crate::matrix::MatrixSpec;
use crate::tree::{Leaf, Tree, TreeValues};
use array::{ArrayImplementation, Lifted};
pub use state::MultiplyState;

/// A lower-triangular linear map `x -> A x`, applied one step at a time.
///
/// `A * B` is the matrix product, `A * 2.0` a scalar multiple.
#[derive(Clone, Debug)]
pub struct StreamingMatrix {
    repr: Arc<Repr>,
}

#[derive(Clone, Debug)]
enum Repr {
    Spec(MatrixSpec),
    Array(Arc<dyn ArrayImplementation>),
    /// The right-most is applied first. Never two specifications alone: those are one specification.
    Product(Vec<StreamingMatrix>),
}

impl StreamingMatrix {
    fn of(repr: Repr) -> Self {
        Self { repr: Arc::new(repr) }
    }

    /// Whether a state of the one is a state of the other.
    fn is_same(&self, other: &Self) -> bool {
        if Arc::ptr_eq(&self.repr, &other.repr) {
            return true;
        }
        match (&*self.repr, &*other.repr) {
            (Repr::Spec(a), Repr::Spec(b)) => a == b,
            (Repr::Array(a), Repr::Array(b)) => Arc::ptr_eq(a, b),
            (Repr::Product(a), Repr::Product(b)) => {
                a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.is_same(b))
            }
            (Repr::Spec(_) | Repr::Array(_) | Repr::Product(_), _) => false,
        }
    }

    /// A matrix from its description.
    ///
    /// # Errors
    /// Those of [`MatrixSpec::validate`].
    pub fn new(spec: MatrixSpec) -> Result<Self> {
        spec.validate()?;
        Ok(Self::of(Repr::Spec(spec)))
    }

    /// The identity.
    pub fn identity() -> Self {
        Self::of(Repr::Spec(MatrixSpec::Identity))
    }

    /// The lower triangle of ones.
    pub fn prefix_sum() -> Self {
        Self::of(Repr::Spec(MatrixSpec::PrefixSum))
    }

    /// A matrix from an implementation on one array, lifted to trees: it runs on each leaf by itself, in f64.
    ///
    /// `init` makes the state for a leaf of the shape given; `next` takes the leaf's values and its state to
    /// the result, which must have the shape of the values. `next` must be linear in values and state, and
    /// depend on earlier steps through the state alone.
    ///
    /// ```
    /// use ndarray::{ArrayD, ArrayViewD};
    /// use noised::StreamingMatrix;
    ///
    /// // Exponential smoothing: s = 0.9 s + x; y = s.
    /// let smooth = StreamingMatrix::from_array_implementation(
    ///     |shape| ArrayD::<f64>::zeros(shape),
    ///     |x: ArrayViewD<'_, f64>, s: &mut ArrayD<f64>| {
    ///         *s *= 0.9;
    ///         *s += &x;
    ///         s.clone()
    ///     },
    /// );
    /// let b = &smooth * &StreamingMatrix::prefix_sum();
    /// assert_eq!(b.materialize(2)?, ndarray::arr2(&[[1.0, 0.0], [1.9, 1.0]]));
    /// # Ok::<(), noised::Error>(())
    /// ```
    pub fn from_array_implementation<S: Send + 'static>(
        init: impl Fn(&[usize]) -> S + Send + Sync + 'static,
        next: impl Fn(ArrayViewD<'_, f64>, &mut S) -> ArrayD<f64> + Send + Sync + 'static,
    ) -> Self {
        Self::of(Repr::Array(Arc::new(Lifted::new(init, next))))
    }

    /// The description, of a matrix that has no array implementation in it.
    pub fn spec(&self) -> Option<&MatrixSpec> {
        match &*self.repr {
            Repr::Spec(spec) => Some(spec),
            Repr::Array(_) | Repr::Product(_) => None,
        }
    }

    /// The inverse, streaming.
    ///
    /// # Errors
    /// [`Error::Invalid`] where the diagonal has a zero, or the matrix has an array implementation in it,
    /// which nothing is known of.
    pub fn inverse(&self) -> Result<Self> {
        match self.spec() {
            Some(spec) => Self::new(spec.clone().inverse()),
            None => {
                Err(Error::invalid("matrix", "an array implementation has no inverse that could be derived"))
            }
        }
    }

    /// `diag(row_scale) * self * diag(col_scale)`. The last entry of a scale repeats for ever.
    ///
    /// # Errors
    /// [`Error::Invalid`] where a scale is empty or not finite.
    pub fn scale_rows_and_columns(
        &self,
        row_scale: Option<&[f64]>,
        col_scale: Option<&[f64]>,
    ) -> Result<Self> {
        if let Some(spec) = self.spec() {
            let scaled = spec
                .clone()
                .scale_rows_and_columns(row_scale.map(<[f64]>::to_vec), col_scale.map(<[f64]>::to_vec));
            return Self::new(scaled);
        }
        let mut factors = vec![self.clone()];
        if let Some(scale) = row_scale {
            factors.insert(0, Self::new(MatrixSpec::Diagonal { diag: scale.to_vec() })?);
        }
        if let Some(scale) = col_scale {
            factors.push(Self::new(MatrixSpec::Diagonal { diag: scale.to_vec() })?);
        }
        Ok(Self::product(factors))
    }

    /// The state before step 0, for steps of `tree`. A matrix with an array implementation in it computes in
    /// f64, whatever `precision` says.
    ///
    /// # Errors
    /// [`Error::Invalid`] where a coefficient is not finite in `precision`.
    pub fn init_multiply(&self, tree: &Tree, precision: Precision) -> Result<MultiplyState> {
        MultiplyState::new(self, tree, precision)
    }

    /// One step: `x_t` to `(A x)_t`.
    ///
    /// # Errors
    /// [`Error::Invalid`] where `x` is not of the state's tree, or the state is one of another matrix;
    /// [`Error::PastHorizon`] where the matrix has ended. The state is unchanged then. [`Error::Damaged`]
    /// where an array implementation gave another shape than it was given, now or before: its state cannot be
    /// taken back.
    pub fn multiply_next(&self, x: &TreeValues, state: &mut MultiplyState) -> Result<TreeValues> {
        let mut output = x.clone();
        self.multiply_next_in_place(&mut output, state)?;
        Ok(output)
    }

    /// The same with the result in the place of `x_t`: no memory is taken, and less is moved.
    ///
    /// Run it in a rayon pool of one's own to choose the threads.
    ///
    /// # Errors
    /// As [`StreamingMatrix::multiply_next`].
    pub fn multiply_next_in_place(&self, x: &mut TreeValues, state: &mut MultiplyState) -> Result<()> {
        self.multiply_steps_in_place(std::slice::from_mut(x), state)
    }

    /// Several steps whose inputs are known, the first first, in place. The state is swept once for up to
    /// [`MAX_STEPS_A_PASS`](crate::limits::MAX_STEPS_A_PASS) of them, which is what most of the time goes to;
    /// the bits are those of one step after the other.
    ///
    /// # Errors
    /// As [`StreamingMatrix::multiply_next`]; where one of the steps is refused, none is made.
    pub fn multiply_steps_in_place(&self, steps: &mut [TreeValues], state: &mut MultiplyState) -> Result<()> {
        state.multiply(self, steps)
    }

    /// The leading `n x n` block.
    ///
    /// # Errors
    /// [`Error::Invalid`] where `n` is 0, over [`MAX_ANALYSIS_N`], or past the end of the matrix.
    pub fn materialize(&self, n: usize) -> Result<Array2<f64>> {
        let Some(spec) = self.spec() else {
            check_n(n)?;
            return self
                .multiply(Array2::eye(n).into_dyn().view())
                .and_then(|product| product.into_dimensionality().map_err(|e| Error::invalid("n", e)));
        };
        let rows = analysis::Rows::new(spec, n as u64)?;
        let mut matrix = Array2::zeros((n, n));
        for (mut target, row) in matrix.rows_mut().into_iter().zip(rows) {
            target.iter_mut().zip(row).for_each(|(target, entry)| *target = entry);
        }
        Ok(matrix)
    }

    /// The squared L2 norm of each of the first `n` rows.
    ///
    /// # Errors
    /// As those of [`StreamingMatrix::materialize`].
    pub fn row_norms_squared(&self, n: usize) -> Result<Vec<f64>> {
        match self.spec() {
            Some(spec) => Ok(analysis::row_norms_squared(spec, n as u64, || false)?.values),
            None => Ok(self.materialize(n)?.rows().into_iter().map(|row| row.dot(&row)).collect()),
        }
    }

    /// `A x`, where the first axis of `x` is the step.
    ///
    /// # Errors
    /// [`Error::Invalid`] where `x` is empty; the matrix may end before `x` does, which is one or
    /// [`Error::PastHorizon`].
    pub fn multiply(&self, x: ArrayViewD<'_, f64>) -> Result<ArrayD<f64>> {
        if let Some(spec) = self.spec() {
            return analysis::multiply(spec, x, || false);
        }
        if x.ndim() == 0 || x.is_empty() {
            return Err(Error::invalid("x", "must have an axis of steps and not be empty"));
        }
        let shape: Vec<u64> = x.shape()[1..].iter().map(|&axis| axis as u64).collect();
        let tree = Tree::new(vec![Leaf::new("x", DType::F64, shape)])?;
        let mut state = self.init_multiply(&tree, Precision::F64)?;
        let mut values = TreeValues::zeros(tree);
        let mut product = ArrayD::zeros(x.raw_dim());
        for (slice, mut target) in x.axis_iter(Axis(0)).zip(product.axis_iter_mut(Axis(0))) {
            values.set_leaf(0, slice)?;
            self.multiply_next_in_place(&mut values, &mut state)?;
            target.assign(&values.leaf(0));
        }
        Ok(product)
    }

    /// The product of the factors' own factors: however long a chain of products, it is one level deep.
    fn product(factors: Vec<Self>) -> Self {
        let factors: Vec<Self> = factors.into_iter().flat_map(Self::into_factors).collect();
        let specs: Option<Vec<MatrixSpec>> = factors.iter().map(|factor| factor.spec().cloned()).collect();
        match specs {
            Some(factors) => Self::of(Repr::Spec(MatrixSpec::Product { factors })),
            None => Self::of(Repr::Product(factors)),
        }
    }

    fn into_factors(self) -> Vec<Self> {
        match &*self.repr {
            Repr::Product(factors) => factors.clone(),
            Repr::Spec(MatrixSpec::Product { factors }) => {
                factors.iter().map(|factor| Self::of(Repr::Spec(factor.clone()))).collect()
            }
            Repr::Spec(_) | Repr::Array(_) => vec![self],
        }
    }
}

fn check_n(n: usize) -> Result<()> {
    if n == 0 || n > MAX_ANALYSIS_N {
        return Err(Error::invalid(
            "n",
            format!("must be at least 1 and at most {MAX_ANALYSIS_N}, found {n}"),
        ));
    }
    Ok(())
}

impl Mul for &StreamingMatrix {
    type Output = StreamingMatrix;

    /// The matrix product; the right one is applied first.
    fn mul(self, right: Self) -> StreamingMatrix {
        StreamingMatrix::product(vec![self.clone(), right.clone()])
    }
}

impl Mul<f64> for &StreamingMatrix {
    type Output = StreamingMatrix;

    /// The scalar multiple. A factor that is not finite is refused where the product is used.
    fn mul(self, factor: f64) -> StreamingMatrix {
        let scalar = StreamingMatrix::of(Repr::Spec(MatrixSpec::Diagonal { diag: vec![factor] }));
        StreamingMatrix::product(vec![self.clone(), scalar])
    }
}
