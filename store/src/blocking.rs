//! Work that would hold an async thread up.

use crate::error::StoreError;

/// Runs work on the threads for it. The work goes on where the caller is dropped.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(StoreError::Unavailable(format!("a thread of the store: {error}"))))
}
