//! What every part works on.

use noised::{MatrixSpec, Tree};

/// What the noise is for.
pub(crate) struct Job {
    pub(crate) tree: Tree,
    /// A: the noising matrix, the inverse of a strategy.
    pub(crate) matrix: MatrixSpec,
    pub(crate) steps: u64,
}

/// The standard deviation of each `z_t[lane]`, before the matrix.
pub(crate) const STDDEV: f64 = 1.5;
