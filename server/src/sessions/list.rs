//! ListSessions.

use std::sync::Arc;

use noised::Error;
use noised_proto::{ServiceError, SessionStatus, name, session_summary_to_wire, v1};

use super::{STATUS_BYTES, SessionsService, status};
use crate::entry::Entry;
use crate::identity::Caller;

const DEFAULT_PAGE: usize = 100;
const LARGEST_PAGE: usize = 1000;

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
        if !page_token.is_empty() && name::session_id(&page_token).is_err() {
            return Err(Error::invalid("page_token", "is not one that a page was answered with").into());
        }
        // A page fits a message; what does not is on the next.
        let count = count.min(self.max_message_bytes / STATUS_BYTES).max(1);
        let (page, more) = self.registry.page(&caller.key(page_token), count);
        let next_page_token =
            page.last().filter(|_| more).map_or_else(String::new, |entry| entry.key.name.clone());
        let summary = |entry: &Arc<Entry>| {
            let status = SessionStatus { rewinds: Vec::new(), ..status(entry, false) };
            session_summary_to_wire(&entry.resolved, status)
        };
        let sessions = page.iter().map(summary).collect();
        Ok(v1::ListSessionsResponse { sessions, next_page_token })
    }
}
