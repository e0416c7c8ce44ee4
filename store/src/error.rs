//! What goes wrong with a store.

/// What went wrong with a store. The caller's answer depends on the kind alone.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// Trying again helps: a full disk, a network that is away, a timeout. Whether a write took place is
    /// unknown.
    #[error("store unavailable: {0}")]
    Unavailable(String),
    /// Trying again does not help: missing permission, wrong credentials, no such bucket.
    #[error("store refused: {0}")]
    Refused(String),
    /// The caller asked for something that cannot be.
    #[error("{field}: {rule}, found {value:?}")]
    Invalid {
        /// What was given.
        field: &'static str,
        /// The rule that it breaks.
        rule: String,
        /// The value found.
        value: String,
    },
    /// A stored object is not as it was written, or is missing.
    #[error("damaged object {name}: {what}")]
    Damaged {
        /// The object's name.
        name: String,
        /// What is wrong with it.
        what: String,
    },
    /// A stored object is whole, but was sealed under another master key.
    #[error(
        "object {name}: sealed under another master key; start with the key that this store was written with"
    )]
    OtherKey {
        /// The object's name.
        name: String,
    },
}

impl StoreError {
    /// Whether the same call may succeed later.
    #[must_use]
    pub fn is_unavailable(&self) -> bool {
        matches!(self, Self::Unavailable(_))
    }

    pub(crate) fn invalid(field: &'static str, rule: impl Into<String>, value: impl Into<String>) -> Self {
        Self::Invalid { field, rule: rule.into(), value: value.into() }
    }

    pub(crate) fn damaged(name: &str, what: impl Into<String>) -> Self {
        Self::Damaged { name: name.to_owned(), what: what.into() }
    }
}
