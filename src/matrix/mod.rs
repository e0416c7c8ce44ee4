//! Matrices: what they are, the rules they keep, and how they become recurrences.
//!
//! | room | what is in it |
//! |---|---|
//! | [`spec`](MatrixSpec) | the description: a Rust enum, a JSON object |
//! | `json`, `validate` | reading it, and its rules, with the path of the field at fault |
//! | `plan` | [`Plan`]: the description as a list of recurrences; the algebra of inverses |
//! | `cancel` | recurrences that undo each other |
//! | `rounded` | the matrix that a session of a precision applies |
//! | `ring` | one step of a banded recurrence |
//! | `dense` | [`DenseMatrix`]: the same matrix written out from its definition, as an oracle |
//! | [`strategy`] | the named strategies of the literature |

mod cancel;
mod dense;
mod json;
mod plan;
mod ring;
mod rounded;
mod spec;
pub mod strategy;
mod validate;

pub use dense::DenseMatrix;
pub use plan::Plan;
pub(crate) use plan::{Rows as BandedRows, Scale, Stage, banded_weight, clip};
pub(crate) use rounded::Runs;
pub use spec::MatrixSpec;
