//! Questions about a matrix that need no session: its rows, their norms, its product with an array, its cost,
//! the errors and sensitivities of a mechanism.
//!
//! All arithmetic is in f64.
//!
//! | room | what is in it |
//! |---|---|
//! | `rows`, `multiply`, `describe` | the matrix written out, its product with an array, what a session on it costs |
//! | `norms` | norms of rows and columns: which way is taken |
//! | `column` | the first column of a Toeplitz matrix, by one recurrence after another |
//! | `scaled` | a Toeplitz matrix between two diagonals: one convolution |
//! | `covariance` | any list of recurrences with few planes: the covariance of its state; its adjoint; its gradient |
//! | [`blt`] | closed forms for BLTs, for any number of steps |
//! | `growth` | how values and rounding errors grow in a session |
//! | `geometric` | sums of powers of which no digit is lost |
//! | `blocks` | anything else: the tile pipeline over blocks of columns |
//! | `error`, `sensitivity`, `participation` | what a mechanism adds, and what it protects |
//! | `way` | how an answer by structure was found |
//! | `upward` | numbers that are rounded up |
//! | `calibrate`, [`calibration`] | from a privacy target to the noise it takes, and back |

mod blocks;
pub mod blt;
mod calibrate;
pub mod calibration;
mod column;
mod covariance;
mod describe;
mod error;
pub(crate) mod geometric;
pub(crate) mod growth;
mod multiply;
mod norms;
mod participation;
mod rows;
mod scaled;
mod sensitivity;
#[cfg(test)]
mod tests;
mod upward;
mod way;

pub use calibrate::{Calibration, Given, calibrate};
pub(crate) use column::first_column;
pub use column::toeplitz_coefs;
pub(crate) use covariance::row_norms_squared_gradient_of;
pub use covariance::{RowNormsGradient, Scan, row_norms_squared_gradient};
pub use describe::{Description, TreeDescription, describe};
pub use error::{Mechanism, QueryErrors, query_errors, query_errors_in};
pub use growth::{Growth, growth_of};
pub use multiply::multiply;
pub use norms::{column_norms_squared, row_norms_squared};
pub use participation::Participation;
pub use rows::Rows;
pub(crate) use sensitivity::{Columns, strategy_bands, worst_patterns};
pub use sensitivity::{Sensitivity, SensitivityRule, sensitivity, sensitivity_in};
pub use way::{RowNorms, Way};
