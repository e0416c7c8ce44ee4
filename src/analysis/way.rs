//! [`Way`]: how an answer by structure was found.

use std::fmt;

/// How the norms of rows or columns were found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// The matrix is Toeplitz: cumulative squares of its first column, in `O(n planes)`.
    Toeplitz,
    /// A Toeplitz matrix between two diagonals: one convolution of squares.
    ScaledToeplitz,
    /// The covariance of the recurrences' state, carried from step to step, in `O(n planes^2)`.
    Covariance,
    /// Every row, by the recurrences that sessions run, in `O(n^2 planes)`.
    Rows,
}

impl Way {
    /// Its name for programs: `toeplitz`, `scaled_toeplitz`, `covariance` or `rows`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Toeplitz => "toeplitz",
            Self::ScaledToeplitz => "scaled_toeplitz",
            Self::Covariance => "covariance",
            Self::Rows => "rows",
        }
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The squared L2 norm of each row, and how they were found.
#[derive(Clone, Debug, PartialEq)]
pub struct RowNorms {
    /// One a row.
    pub values: Vec<f64>,
    /// How they were found.
    pub way: Way,
}
