//! Wire to domain and back. Every message is destructured in full, so that a new field breaks the build here.

mod accounting;
mod calibration;
mod design;
mod errors;
mod matrix;
mod session;
mod source;
mod tree;

#[cfg(test)]
mod tests;

pub use calibration::CalibrationQuestion;
pub use design::{DesignQuestion, RecommendQuestion};
pub use errors::{ErrorsQuestion, SensitivityQuestion, way_from_wire};
pub use matrix::{named_matrix, question_matrix, required_matrix};
pub use session::{
    AskedSession, SessionStatus, asked_session, session_spec, session_spec_to_wire, session_summary_to_wire,
    session_to_wire,
};
pub use source::noise_state;
pub use tree::precision;

/// A list whose absence the wire writes as an empty one.
fn non_empty(list: Vec<f64>) -> Option<Vec<f64>> {
    (!list.is_empty()).then_some(fitted(list))
}

/// A list that is too long is refused before it is converted.
fn at_most(found: usize, most: usize, field: &str, what: &str) -> noised::Result<()> {
    if found > most {
        return Err(noised::Error::invalid(field, format!("at most {most} {what}, found {found}")));
    }
    Ok(())
}

/// A list that grew while it was read, without the room that it did not need: a session is charged for its
/// numbers alone.
fn fitted<T>(mut list: Vec<T>) -> Vec<T> {
    list.shrink_to_fit();
    list
}
