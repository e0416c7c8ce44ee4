//! Who makes a call, for whoever serves the call.

use std::sync::Arc;

use http::Extensions;
use noised_proto::access::{Right, Role};
use noised_proto::{ServiceError, name};

use super::{Identity, Peer, Quota, SessionKey, Tenant};

/// Who makes a call.
#[derive(Clone, Debug, Default)]
pub(crate) struct Caller {
    /// Who it is; `None` where the server has no tokens file, and everybody may do everything.
    pub(crate) identity: Option<Arc<Identity>>,
    /// Whose sessions the call finds.
    pub(crate) tenant: Tenant,
    /// The other end of the connection.
    pub(crate) peer: Peer,
}

impl Caller {
    /// The caller of a request, as the [`Door`](super::Door) has put it among the request's extensions.
    pub(crate) fn of(extensions: &Extensions) -> Self {
        let identity = extensions.get::<Arc<Identity>>().cloned();
        let tenant = identity.as_ref().map(|identity| identity.tenant.clone()).unwrap_or_default();
        Self { identity, tenant, peer: Peer::of(extensions) }
    }

    /// The key of the caller's own session of that name.
    pub(crate) fn key(&self, name: impl Into<String>) -> SessionKey {
        SessionKey { tenant: self.tenant.clone(), name: name.into() }
    }

    /// The key of the session that the caller means by a name, which may have a tenant.
    ///
    /// # Errors
    /// A name that is none, and NOT_FOUND where it has the tenant of others.
    pub(crate) fn find(&self, name: &str) -> Result<SessionKey, ServiceError> {
        let (tenant, session) = name::split_tenant(name)?;
        let tenant = match tenant {
            None => return Ok(self.key(session)),
            Some(tenant) => Tenant::named(tenant),
        };
        if tenant != self.tenant && !self.sees_all_tenants() {
            return Err(ServiceError::SessionNotFound { name: name.to_owned() });
        }
        Ok(SessionKey { tenant, name: session.to_owned() })
    }

    /// What the caller calls a session.
    pub(crate) fn name_of(&self, key: &SessionKey) -> String {
        if key.tenant == self.tenant {
            return key.name.clone();
        }
        name::name_in_tenant(&key.tenant.to_string(), &key.name)
    }

    /// Whether the caller lists, looks at and deletes the sessions of all tenants.
    pub(crate) fn sees_all_tenants(&self) -> bool {
        self.identity.as_ref().is_some_and(|identity| identity.role == Role::Operator)
    }

    /// The bounds of the caller's tenant.
    pub(crate) fn quota(&self) -> Quota {
        self.identity.as_ref().map(|identity| identity.quota).unwrap_or_default()
    }

    /// Refuses a caller who asks for something in a field, and has no right to it.
    pub(crate) fn check(&self, right: Right, field: &'static str) -> Result<(), ServiceError> {
        match &self.identity {
            Some(identity) if !identity.rights.contains(&right) => {
                Err(ServiceError::RightMissing { field, role: identity.role, right })
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use noised_proto::access::DEFAULT_TENANT;

    use super::*;

    fn caller(tenant: &str, role: Role) -> Caller {
        let tenant = Tenant::named(tenant);
        let (name, rights, quota) = ("a".into(), Vec::new(), Quota::default());
        let identity = Identity { name, tenant: tenant.clone(), role, rights, quota };
        Caller { identity: Some(Arc::new(identity)), tenant, peer: Peer::Unknown }
    }

    #[test]
    fn a_trainer_finds_sessions_of_its_tenant_alone() {
        let trainer = caller("one", Role::Trainer);
        let key = trainer.find("sessions/a").unwrap();
        assert_eq!(key, trainer.key("sessions/a"));
        assert_eq!(trainer.find("tenants/one/sessions/a").unwrap(), key);
        for name in ["tenants/two/sessions/a", "tenants/default/sessions/a"] {
            let error = trainer.find(name).unwrap_err();
            assert_eq!(error, ServiceError::SessionNotFound { name: name.into() });
        }
        assert_eq!(trainer.name_of(&key), "sessions/a");
    }

    #[test]
    fn an_operator_finds_those_of_all() {
        let operator = caller("one", Role::Operator);
        for (name, tenant) in [
            ("sessions/a", "one"),
            ("tenants/two/sessions/a", "two"),
            ("tenants/default/sessions/a", DEFAULT_TENANT),
        ] {
            let key = operator.find(name).unwrap();
            assert_eq!((key.tenant.to_string().as_str(), key.name.as_str()), (tenant, "sessions/a"));
            assert_eq!(operator.name_of(&key), name);
        }
    }

    #[test]
    fn without_a_tokens_file_everybody_has_all_rights() {
        assert_eq!(Caller::default().check(Right::GivenKeys, "noise_key"), Ok(()));
        assert!(caller("one", Role::Trainer).check(Right::GivenKeys, "noise_key").is_err());
    }
}
