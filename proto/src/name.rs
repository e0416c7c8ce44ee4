//! Names of sessions: `sessions/{session_id}`.

use noised::{Error, Result};

/// Bytes of a session id.
pub const MAX_SESSION_ID_BYTES: usize = 128;

const PREFIX: &str = "sessions/";

/// The name of the session with this id.
pub fn session_name(id: &str) -> String {
    format!("{PREFIX}{id}")
}

/// Checks a session id.
///
/// # Errors
/// [`Error::Invalid`] on `session_id`.
pub fn check_session_id(id: &str) -> Result<()> {
    check(id, "session_id")
}

/// The id in a session's name.
///
/// # Errors
/// [`Error::Invalid`] on `name`.
pub fn session_id(name: &str) -> Result<&str> {
    let id = name.strip_prefix(PREFIX).ok_or_else(|| {
        Error::invalid("name", format!("must be `{PREFIX}{{session_id}}`, found `{}`", excerpt(name)))
    })?;
    check(id, "name").map(|()| id)
}

fn check(id: &str, field: &str) -> Result<()> {
    let first = id.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    let rest = id.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'));
    if first && rest && id.len() <= MAX_SESSION_ID_BYTES {
        return Ok(());
    }
    let rule = format!(
        "a session id is 1 to {MAX_SESSION_ID_BYTES} of a-z, A-Z, 0-9, '.', '_', '-', the first a letter or digit; \
         found `{}`",
        excerpt(id)
    );
    Err(Error::invalid(field, rule))
}

/// The beginning of what a client sent, for an error.
fn excerpt(text: &str) -> String {
    text.chars().take(40).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_keep_their_rule() {
        for id in ["a", "Z9", "run-17_b.c", &"x".repeat(128)] {
            assert_eq!(session_id(&session_name(id)), Ok(id));
            assert_eq!(check_session_id(id), Ok(()));
        }
        for id in ["", ".a", "-a", "a/b", "a b", "ü", &"x".repeat(129)] {
            assert!(session_id(&session_name(id)).is_err(), "{id}");
            assert!(check_session_id(id).is_err(), "{id}");
        }
        assert!(session_id("a").is_err());
    }
}
