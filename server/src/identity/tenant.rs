//! Tenants: groups of callers that share sessions, and see nothing of other tenants.

use std::fmt;
use std::sync::Arc;

use noised_proto::access::DEFAULT_TENANT;

/// A tenant, by its name. The default tenant has the empty name, and costs no memory.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Tenant(Option<Arc<str>>);

impl Tenant {
    /// The tenant of a name; the default one where that is empty, or `default`.
    pub(crate) fn named(name: &str) -> Self {
        if name.is_empty() || name == DEFAULT_TENANT { Self::default() } else { Self(Some(name.into())) }
    }

    /// The name; empty for the default tenant.
    pub(crate) fn name(&self) -> &str {
        self.0.as_deref().unwrap_or_default()
    }

    /// Whether this is the tenant of whoever belongs to no other.
    pub(crate) fn is_default(&self) -> bool {
        self.0.is_none()
    }
}

impl fmt::Display for Tenant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_default() { DEFAULT_TENANT } else { self.name() })
    }
}
