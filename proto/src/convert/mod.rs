//! Wire to domain and back. Every message is destructured in full, so that a new field breaks the build here.

mod matrix;
mod session;
mod tree;

#[cfg(test)]
mod tests;

pub use matrix::required_matrix;
pub use session::{
    SessionStatus, session_spec, session_spec_to_wire, session_summary_to_wire, session_to_wire,
};
pub use tree::precision;

/// A list whose absence the wire writes as an empty one.
fn non_empty(list: Vec<f64>) -> Option<Vec<f64>> {
    (!list.is_empty()).then_some(list)
}
