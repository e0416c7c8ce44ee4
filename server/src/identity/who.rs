//! A caller that the server knows.

use noised_proto::access::{Right, Role};

use super::{Quota, Tenant};

/// A caller that an entry of the tokens file names.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    /// The name of the entry.
    pub(crate) name: String,
    /// Whose sessions the caller has.
    pub(crate) tenant: Tenant,
    pub(crate) role: Role,
    pub(crate) rights: Vec<Right>,
    /// The bounds of the tenant.
    pub(crate) quota: Quota,
}
