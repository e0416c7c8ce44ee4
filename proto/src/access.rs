//! Who may do what: roles, rights, the names of callers and tenants, and why a caller is not known.

use std::fmt;
use std::str::FromStr;

use noised::{Error, Result};

/// Bytes of the name of a caller or a tenant.
pub const MAX_CALLER_BYTES: usize = 64;

/// What a tenant is called that callers belong to who name no other.
pub const DEFAULT_TENANT: &str = "default";

/// What a caller is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Makes sessions of its tenant, takes their steps and ends them; asks questions about matrices.
    Trainer,
    /// Asks questions about matrices, and knows of no session.
    Analyst,
    /// Lists, looks at and deletes the sessions of all tenants, and gets no step of any.
    Operator,
}

/// Something that touches the privacy of a noise or its secrecy, and that a trainer may do only where it
/// was given the right.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Right {
    /// Go back with `allow_divergence`, after which another gradient gets the same noise.
    AllowDivergence,
    /// Begin a noise again that was drawn before, with `start_noise_over`.
    StartNoiseOver,
    /// Give the key of a noise, with which the caller can compute all of the noise.
    GivenKeys,
    /// Take the state of a session out of the server.
    ExportStates,
}

/// Writes an enum's names, each once.
macro_rules! named {
    ($kind:ident, $what:literal, { $($variant:ident = $name:literal),+ $(,)? }) => {
        impl $kind {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The name, as files and messages have it.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),+ }
            }
        }

        impl FromStr for $kind {
            type Err = Error;

            fn from_str(text: &str) -> Result<Self> {
                match text {
                    $($name => Ok(Self::$variant),)+
                    other => {
                        let names = Self::ALL.iter().map(|one| one.name()).collect::<Vec<_>>().join(", ");
                        let rule = format!("must be one of {names}; found `{}`", other.escape_debug());
                        Err(Error::invalid($what, rule))
                    }
                }
            }
        }

        impl fmt::Display for $kind {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.name())
            }
        }
    };
}

named!(Role, "role", { Trainer = "trainer", Analyst = "analyst", Operator = "operator" });
named!(Right, "rights", {
    AllowDivergence = "allow_divergence",
    StartNoiseOver = "start_noise_over",
    GivenKeys = "given_keys",
    ExportStates = "export_states",
});

/// Why a server does not know who calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Stranger {
    /// Neither a token nor a certificate of a known name came.
    #[error(
        "the call carries no token, and its connection shows no certificate of a known caller: set the \
         metadata `authorization: Bearer noised_...`"
    )]
    Nothing,
    /// The metadata is not what it has to be.
    #[error("authorization: must be `Bearer noised_...`, once")]
    Malformed,
    /// No entry has this token.
    #[error("the server does not know the token of the call")]
    Unknown,
    /// The token was good until some time.
    #[error("the token of the call has expired")]
    Expired,
    /// The names of a certificate are those of several callers.
    #[error("the names in the client's certificate belong to several callers")]
    Several,
    /// The token crossed a network without TLS.
    #[error(
        "the token came over a network without TLS, where others can read it: connect to \
         https://host:port, and replace the token"
    )]
    InClear,
}

impl Stranger {
    /// The name, for programs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Nothing => "NO_TOKEN",
            Self::Malformed => "MALFORMED",
            Self::Unknown => "UNKNOWN_TOKEN",
            Self::Expired => "EXPIRED",
            Self::Several => "SEVERAL_CALLERS",
            Self::InClear => "IN_CLEAR",
        }
    }
}

/// Checks the name of a caller or of a tenant.
///
/// # Errors
/// [`Error::Invalid`] on `field`.
pub fn check_caller(field: &str, name: &str) -> Result<()> {
    let first = name.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    let rest =
        name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-' | b'@'));
    if first && rest && name.len() <= MAX_CALLER_BYTES {
        return Ok(());
    }
    let rule = format!(
        "must be 1 to {MAX_CALLER_BYTES} of a-z, A-Z, 0-9, '.', '_', '-', '@', the first a letter or digit; \
         found `{}`",
        name.chars().take(MAX_CALLER_BYTES).collect::<String>().escape_debug()
    );
    Err(Error::invalid(field, rule))
}

/// Checks that a role may have rights.
///
/// # Errors
/// [`Error::Invalid`] on `rights`: what they are about, a trainer alone can do.
pub fn check_rights(role: Role, rights: &[Right]) -> Result<()> {
    match rights.first() {
        Some(right) if role != Role::Trainer => {
            let rule = format!("must be empty for the role {role}: {right} is for a trainer; found {right}");
            Err(Error::invalid("rights", rule))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_back() {
        for role in Role::ALL {
            assert_eq!(role.name().parse(), Ok(*role));
        }
        for right in Right::ALL {
            assert_eq!(right.name().parse(), Ok(*right));
        }
        let error = "root".parse::<Role>().unwrap_err().to_string();
        assert_eq!(error, "role: must be one of trainer, analyst, operator; found `root`");
    }

    #[test]
    fn callers_keep_their_rule() {
        for name in ["a", "team-7", "ann@example.org", &"x".repeat(64)] {
            assert_eq!(check_caller("tenant", name), Ok(()), "{name}");
        }
        for name in ["", ".a", "a/b", "a b", "a\n", "ü", &"x".repeat(65)] {
            assert!(check_caller("tenant", name).is_err(), "{name}");
        }
    }
}
