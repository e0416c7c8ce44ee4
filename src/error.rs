//! What can go wrong in the core, as one type that says which field or step is at fault.

use std::fmt;

/// The result of a fallible operation of the core.
pub type Result<T> = std::result::Result<T, Error>;

/// An error of the core. Nothing was changed by the call that returned it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A description breaks a rule.
    #[error("{field}: {rule}")]
    Invalid {
        /// The path of the field at fault, such as `matrix.factors[1].coef`.
        field: String,
        /// The rule it breaks.
        rule: String,
    },
    /// The session is at another step.
    #[error("step {requested} cannot be served: the session expects step {expected}")]
    WrongStep {
        /// The step that was asked for.
        requested: u64,
        /// The step that the session expects.
        expected: u64,
    },
    /// A step that was applied, in whole or in part, was asked again with other bytes.
    #[error(
        "step {requested} was applied with other bytes (they differ at or after byte {offset}); \
         the session expects step {expected}"
    )]
    PayloadMismatch {
        /// The step that was asked for.
        requested: u64,
        /// The step that the session expects.
        expected: u64,
        /// The first byte of the tile that differs.
        offset: u64,
    },
    /// The step is at or past the horizon.
    #[error("step {requested} is at or past the horizon of {horizon} steps")]
    PastHorizon {
        /// The step that was asked for.
        requested: u64,
        /// The number of steps that the session may ever produce.
        horizon: u64,
    },
    /// A session is bound to something else than what it is asked to go on with.
    #[error("the session was made for another {field}: fingerprints differ")]
    FingerprintMismatch {
        /// The first part of the description that differs.
        field: &'static str,
    },
    /// A step that was released is asked again with another gradient: the same noise under two gradients
    /// would give their difference away.
    #[error(
        "step {requested} was released with another gradient before the session was rewound; one noise under two \
         gradients gives their difference away (a rewind with allow_divergence permits it)"
    )]
    Diverged {
        /// The step that was asked for.
        requested: u64,
        /// The step that the session expects.
        expected: u64,
    },
    /// The noise of a step overflowed, and is not released: the matrix's recurrences grow without end.
    #[error(
        "the noise of step {requested} is not finite and is not released: the recurrences of the matrix overflow; \
         make a session with a shorter horizon, of precision F64, or of a matrix without factors that cancel"
    )]
    NoiseNotFinite {
        /// The step that was asked for.
        requested: u64,
    },
    /// A rewind to a step that was never released.
    #[error("step {requested} was never released: a session goes back to at most step {released}")]
    PastReleased {
        /// The step that was asked for.
        requested: u64,
        /// The number of steps that were ever released.
        released: u64,
    },
    /// A rewind to a step whose state cannot be computed again and was not kept.
    #[error("the state of step {requested} is not kept, and the client's input cannot be drawn again")]
    NotKept {
        /// The step that was asked for.
        requested: u64,
    },
    /// As many states are kept as may be.
    #[error("{limit} states are kept, as many as may be; release the oldest, or keep fewer")]
    KeptStates {
        /// How many there may be.
        limit: usize,
    },
    /// Stored state does not read back as what was written.
    #[error("the stored state is damaged: {what}")]
    Damaged {
        /// What is wrong with it.
        what: String,
    },
    /// The caller withdrew a long computation.
    #[error("the computation was cancelled")]
    Cancelled,
}

impl Error {
    /// A rule broken by `field`.
    pub fn invalid(field: impl Into<String>, rule: impl fmt::Display) -> Self {
        Self::Invalid { field: field.into(), rule: rule.to_string() }
    }

    /// The same error about a matrix that the caller knows by another name than `matrix`: `matrix.coef`
    /// becomes `strategy.coef`.
    #[must_use]
    pub fn about_matrix(self, name: &str) -> Self {
        self.moved("matrix", name)
    }

    /// The same error where what stands at the path `from` is known to the caller as `to`.
    #[must_use]
    pub fn moved(self, from: &str, to: &str) -> Self {
        match self {
            Self::Invalid { field, rule } => {
                let rest =
                    field.strip_prefix(from).filter(|rest| rest.is_empty() || rest.starts_with(['.', '[']));
                let field = rest.map(|rest| format!("{to}{rest}")).unwrap_or(field);
                Self::Invalid { field, rule }
            }
            other => other,
        }
    }

    /// A stored state that does not read back.
    pub fn damaged(what: impl fmt::Display) -> Self {
        Self::Damaged { what: what.to_string() }
    }
}
