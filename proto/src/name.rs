//! Names of sessions: `sessions/{session_id}`, and `tenants/{tenant}/sessions/{session_id}` of another
//! tenant.

use noised::{Error, Result};

use crate::access::check_caller;

/// Bytes of a session id.
pub const MAX_SESSION_ID_BYTES: usize = 128;

const PREFIX: &str = "sessions/";

const TENANTS: &str = "tenants/";

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

/// The name of a session of some tenant, for a caller of another tenant. `session` is its name within the
/// tenant.
pub fn name_in_tenant(tenant: &str, session: &str) -> String {
    format!("{TENANTS}{tenant}/{session}")
}

/// The parts of a session's name: the tenant, where the name has one, and the name within the tenant.
///
/// # Errors
/// [`Error::Invalid`] on `name`.
pub fn split_tenant(name: &str) -> Result<(Option<&str>, &str)> {
    let Some(rest) = name.strip_prefix(TENANTS) else { return session_id(name).map(|_| (None, name)) };
    let rule = || format!("must be `{TENANTS}{{tenant}}/{PREFIX}{{session_id}}`, found `{}`", excerpt(name));
    let (tenant, session) = rest.split_once('/').ok_or_else(|| Error::invalid("name", rule()))?;
    check_caller("name", tenant)?;
    session_id(session).map(|_| (Some(tenant), session))
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

    #[test]
    fn a_name_may_have_a_tenant() {
        assert_eq!(split_tenant("sessions/a"), Ok((None, "sessions/a")));
        let name = name_in_tenant("acme", "sessions/a");
        assert_eq!(name, "tenants/acme/sessions/a");
        assert_eq!(split_tenant(&name), Ok((Some("acme"), "sessions/a")));
        for name in
            ["", "a", "tenants/", "tenants/a", "tenants/a/b", "tenants//sessions/a", "tenants/a/sessions/"]
        {
            assert!(split_tenant(name).is_err(), "{name}");
        }
    }
}
