//! What a session is found by.

use std::fmt;

use super::Tenant;

/// A session's tenant and its name. Two tenants may each have a session of one name.
///
/// Keys are in the order of tenants, and within a tenant in the order of names. The text of a key is for
/// logs; clients see the name alone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SessionKey {
    /// Whose session it is.
    pub(crate) tenant: Tenant,
    /// `sessions/{session_id}`.
    pub(crate) name: String,
}

impl SessionKey {
    /// The key of a tenant's session.
    pub(crate) fn named(tenant: &str, name: &str) -> Self {
        Self { tenant: Tenant::named(tenant), name: name.to_owned() }
    }
}

impl fmt::Display for SessionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { tenant, name } = self;
        if tenant.is_default() { f.write_str(name) } else { write!(f, "{tenant}/{name}") }
    }
}
