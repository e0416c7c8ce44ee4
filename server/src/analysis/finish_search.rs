//! FinishSearch: a search under way ends with the best that it has found.

use std::sync::{Arc, Mutex, PoisonError};

use noised::Error;
use noised_proto::{ServiceError, v1};
use tokio_util::sync::CancellationToken;

use super::AnalysisService;
use crate::identity::Tenant;

/// Bytes of the name of a search.
const MAX_SEARCH_ID_BYTES: usize = 128;

/// The searches under way that have a name.
#[derive(Clone, Debug, Default)]
pub(super) struct Searches(Arc<Mutex<Vec<Named>>>);

#[derive(Debug)]
struct Named {
    /// Of whom: others do not find it.
    tenant: Tenant,
    id: String,
    finish: Arc<CancellationToken>,
}

/// A search under way. It is forgotten when this is dropped.
#[derive(Debug)]
pub(super) struct Search {
    searches: Searches,
    finish: Arc<CancellationToken>,
}

impl Searches {
    /// A search that begins.
    ///
    /// # Errors
    /// [`Error::Invalid`] on `search_id` where it is too long.
    pub(super) fn begin(&self, tenant: Tenant, id: String) -> Result<Search, Error> {
        if id.len() > MAX_SEARCH_ID_BYTES {
            let rule = format!("must have at most {MAX_SEARCH_ID_BYTES} bytes, found {}", id.len());
            return Err(Error::invalid("search_id", rule));
        }
        let finish = Arc::new(CancellationToken::new());
        if !id.is_empty() {
            self.with(|named| named.push(Named { tenant, id, finish: Arc::clone(&finish) }));
        }
        Ok(Search { searches: self.clone(), finish })
    }

    fn with<R>(&self, act: impl FnOnce(&mut Vec<Named>) -> R) -> R {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Search {
    /// Whether somebody wants what was found so far.
    pub(super) fn is_finished(&self) -> bool {
        self.finish.is_cancelled()
    }
}

impl Drop for Search {
    fn drop(&mut self) {
        self.searches.with(|named| named.retain(|named| !Arc::ptr_eq(&named.finish, &self.finish)));
    }
}

impl AnalysisService {
    /// Ends all searches of a tenant that have a name: a client that tried again has more than one.
    pub(super) fn finish(
        &self,
        request: v1::FinishSearchRequest,
        tenant: &Tenant,
    ) -> Result<v1::FinishSearchResponse, ServiceError> {
        let v1::FinishSearchRequest { search_id } = request;
        if search_id.is_empty() {
            return Err(Error::invalid("search_id", "must not be empty").into());
        }
        let found = self.searches.with(|named| {
            let is_meant = |named: &&Named| named.id == search_id && named.tenant == *tenant;
            let searches: Vec<_> = named.iter().filter(is_meant).collect();
            searches.iter().for_each(|named| named.finish.cancel());
            !searches.is_empty()
        });
        Ok(v1::FinishSearchResponse { found })
    }
}
