//! ListSessions.

use std::sync::Arc;

use noised::Error;
use noised_proto::{ServiceError, SessionStatus, session_summary_to_wire, v1};

use super::{STATUS_BYTES, SessionsService, status};
use crate::entry::Entry;
use crate::identity::Caller;

const DEFAULT_PAGE: usize = 100;
const LARGEST_PAGE: usize = 1000;

fn not_answered() -> Error {
    Error::invalid("page_token", "is not one that a page was answered with")
}

impl SessionsService {
    /// The token of a page is the last name of the page before.
    pub(super) fn list(
        &self,
        request: v1::ListSessionsRequest,
        caller: &Caller,
    ) -> Result<v1::ListSessionsResponse, ServiceError> {
        let v1::ListSessionsRequest { page_size, page_token } = request;
        let count = match usize::try_from(page_size) {
            Ok(0) => DEFAULT_PAGE,
            Ok(size) => size.min(LARGEST_PAGE),
            Err(_) => return Err(Error::invalid("page_size", "must not be negative").into()),
        };
        let after = match page_token.as_str() {
            "" => None,
            name => Some(caller.find(name).map_err(|_| not_answered())?),
        };
        // A page fits a message; what does not is on the next.
        let count = count.min(self.max_message_bytes / STATUS_BYTES).max(1);
        let of = (!caller.sees_all_tenants()).then_some(&caller.tenant);
        let (page, more) = self.registry.page(of, after.as_ref(), count);
        let next_page_token =
            page.last().filter(|_| more).map_or_else(String::new, |entry| caller.name_of(&entry.key));
        let summary = |entry: &Arc<Entry>| {
            let status = SessionStatus { rewinds: Vec::new(), ..status(entry, false, caller) };
            session_summary_to_wire(&entry.resolved, status)
        };
        let sessions = page.iter().map(summary).collect();
        Ok(v1::ListSessionsResponse { sessions, next_page_token })
    }
}
