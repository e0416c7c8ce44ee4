//! Who makes a call: the tenant that its sessions belong to, and where it comes from.

mod peer;
mod session_key;
mod tenant;

use http::Extensions;

pub(crate) use peer::Peer;
pub(crate) use session_key::SessionKey;
pub(crate) use tenant::Tenant;

/// Who makes a call.
#[derive(Clone, Debug, Default)]
pub(crate) struct Caller {
    /// Whose sessions the call finds.
    pub(crate) tenant: Tenant,
    /// The other end of the connection.
    pub(crate) peer: Peer,
}

impl Caller {
    /// The caller of a request, which is known by the request's extensions.
    pub(crate) fn of(extensions: &Extensions) -> Self {
        Self { peer: Peer::of(extensions), ..Self::default() }
    }

    /// The key of the caller's session of that name.
    pub(crate) fn key(&self, name: impl Into<String>) -> SessionKey {
        SessionKey { tenant: self.tenant.clone(), name: name.into() }
    }
}
