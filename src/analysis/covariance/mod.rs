//! Norms by covariances: of rows, of columns, and their gradient.
//!
//! Feed a list of recurrences white noise of variance 1. The variance of what comes out at step `t` is then
//! the squared norm of row `t`. It is found by carrying the covariance `K` of all that the recurrences
//! remember, with the value on the wire between them: each recurrence is a linear map `N` of a few of these
//! variables, and takes `K` to `N K N^T`. That is `O(planes^2)` a step, whatever changes from step to step.
//!
//! Run backwards, the same maps take a quadratic form of the later state, "the sum of squares of all that
//! will come out", to one of the earlier state: `W` to `N^T W N`. What it says of the input of step `j` is
//! the squared norm of column `j`. And the derivative of a loss by `K` goes back just as `W` does, which is
//! reverse mode.
//!
//! | room | what is in it |
//! |---|---|
//! | `step` | a step as a list of assignments, each of a linear combination to one variable |
//! | `symmetric` | the symmetric matrix that an assignment changes, forwards and backwards |
//! | `norms` | norms of rows forwards, of columns backwards |
//! | `probe` | single rows and columns, to check them with |
//! | `gradient` | reverse mode with checkpoints ([`Scan`]) |
//! | `chain` | from the derivative by an assignment's weights to that by a stage's parameters, and by a [`MatrixSpec`]'s |
//!
//! [`MatrixSpec`]: crate::MatrixSpec

mod chain;
mod gradient;
mod norms;
mod probe;
pub(super) mod step;
mod symmetric;
#[cfg(test)]
mod tests;

pub(crate) use gradient::row_norms_squared_gradient_of;
pub use gradient::{RowNormsGradient, Scan, row_norms_squared_gradient};
pub(super) use norms::{Found, column_norms, row_norms};
