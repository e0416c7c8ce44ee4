//! What a session's handle refuses before the session is asked, on a server or in this process.

use noised::session::Source;

use crate::error::{Error, Result};

/// The source takes steps with a payload.
pub(crate) fn takes_input(source: &Source) -> Result<()> {
    match source {
        Source::Input | Source::Privatize { .. } => Ok(()),
        Source::Gaussian(_) => {
            Err(wrong_source(source, "the server draws all of the input: fetch its steps"))
        }
    }
}

/// The source takes steps without a payload.
pub(crate) fn is_drawn(source: &Source) -> Result<()> {
    match source {
        Source::Gaussian(_) => Ok(()),
        Source::Input | Source::Privatize { .. } => {
            Err(wrong_source(source, "a step needs a payload: multiply_next takes one"))
        }
    }
}

/// The source adds noise to what is sent.
pub(crate) fn privatizes(source: &Source) -> Result<()> {
    match source {
        Source::Privatize { .. } => Ok(()),
        Source::Input | Source::Gaussian(_) => {
            Err(wrong_source(source, "the server adds no noise to what is sent"))
        }
    }
}

/// A payload, or the memory for an answer, has the bytes of a step.
pub(crate) fn length(field: &str, expected: usize, found: usize) -> Result<()> {
    if found == expected {
        return Ok(());
    }
    Err(Error::invalid(field, format!("must have {expected} bytes, found {found}")))
}

fn wrong_source(source: &Source, why: &str) -> Error {
    Error::invalid("source", format!("is {}, where {why}", source.kind()))
}
