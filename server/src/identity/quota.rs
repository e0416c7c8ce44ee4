//! What the tokens file lets a tenant have: sessions, memory, and calls in a second.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use noised_proto::ServiceError;

use super::Tenant;

/// The bounds of a tenant; `None` where there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Quota {
    /// Sessions that the tenant may have at once.
    pub(crate) max_sessions: Option<u64>,
    /// Memory of its sessions.
    pub(crate) max_session_bytes: Option<u64>,
    /// Calls in a second. A stream is one call.
    pub(crate) requests_per_second: Option<u32>,
}

impl Quota {
    /// Refuses one more session of so many bytes to a tenant that has sessions already.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED, which names the quota and its limit.
    pub(crate) fn check_session(&self, sessions: u64, bytes: u64, needed: u64) -> Result<(), ServiceError> {
        let over = |quota, limit: Option<u64>, found: u64| match limit.filter(|&limit| found > limit) {
            Some(limit) => Err(ServiceError::TenantQuota { quota, limit, found, retry_after: None }),
            None => Ok(()),
        };
        over("max_sessions", self.max_sessions, sessions.saturating_add(1))?;
        over("max_session_bytes", self.max_session_bytes, bytes.saturating_add(needed))
    }
}

/// The calls that tenants have left.
#[derive(Clone, Debug, Default)]
pub(super) struct Rates(Arc<Mutex<HashMap<Tenant, Left>>>);

/// What a tenant has left of the calls of a second.
#[derive(Clone, Copy, Debug)]
struct Left {
    calls: f64,
    at: Instant,
}

impl Rates {
    /// Takes a call from what a tenant has left. A tenant that was silent for a second has the calls of a
    /// second.
    pub(super) fn take(&self, tenant: &Tenant, quota: Quota, now: Instant) -> Result<(), ServiceError> {
        let Some(limit) = quota.requests_per_second else { return Ok(()) };
        let rate = f64::from(limit);
        let mut tenants = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let left = tenants.entry(tenant.clone()).or_insert(Left { calls: rate, at: now });
        let since = now.saturating_duration_since(left.at).as_secs_f64();
        *left = Left { calls: (left.calls + since * rate).min(rate), at: now };
        if left.calls >= 1.0 {
            left.calls -= 1.0;
            return Ok(());
        }
        let wait = Duration::from_secs_f64((1.0 - left.calls) / rate);
        let (quota, limit) = ("requests_per_second", u64::from(limit));
        Err(ServiceError::TenantQuota { quota, limit, found: limit + 1, retry_after: Some(wait) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenant_has_its_calls_of_each_second() {
        let (rates, start) = (Rates::default(), Instant::now());
        let quota = Quota { requests_per_second: Some(2), ..Quota::default() };
        let (one, two) = (Tenant::named("one"), Tenant::named("two"));
        let take = |tenant, after: u64| rates.take(tenant, quota, start + Duration::from_millis(after));
        assert!(take(&one, 0).is_ok() && take(&one, 0).is_ok());
        let refused = take(&one, 0).unwrap_err();
        let half = Some(Duration::from_millis(500));
        assert!(
            matches!(refused, ServiceError::TenantQuota { limit: 2, retry_after, .. } if retry_after == half)
        );
        assert!(take(&two, 0).is_ok(), "tenants do not share");
        assert!(take(&one, 500).is_ok() && take(&one, 501).is_err());
        assert!(take(&one, 9000).is_ok() && take(&one, 9000).is_ok() && take(&one, 9000).is_err());
        assert!(rates.take(&one, Quota::default(), start).is_ok());
    }

    #[test]
    fn sessions_and_their_memory_are_bounded() {
        let quota = Quota { max_sessions: Some(2), max_session_bytes: Some(100), ..Quota::default() };
        assert_eq!(quota.check_session(1, 50, 50), Ok(()));
        for (sessions, bytes, named) in [(2, 0, "max_sessions"), (0, 51, "max_session_bytes")] {
            let error = quota.check_session(sessions, bytes, 50).unwrap_err();
            assert!(matches!(error, ServiceError::TenantQuota { quota, .. } if quota == named), "{error}");
        }
        assert_eq!(Quota::default().check_session(u64::MAX, u64::MAX, 1), Ok(()));
    }
}
