//! The sessions that a bench made, and their end.

use std::time::Duration;

use noised::SessionSpec;
use noised_client::{Client, CreateOptions, Error};

use crate::failure::Failure;

/// A server that does not answer any more keeps nobody longer than this.
const DELETE_TIMEOUT: Duration = Duration::from_secs(10);

/// Sessions that are on the server, or may be.
#[derive(Debug)]
pub(super) struct Sessions {
    client: Client,
    names: Vec<String>,
}

impl Sessions {
    pub(super) fn new(client: Client) -> Self {
        Self { client, names: Vec::new() }
    }

    /// Makes a session under a name that nobody else uses.
    pub(super) async fn create(&mut self, spec: &SessionSpec) -> Result<String, Failure> {
        let id = format!("bench-{:016x}", fastrand::u64(..));
        // Before the call, since its answer may be lost.
        self.names.push(id.clone());
        self.client.create_session(spec, CreateOptions { id: id.clone(), resume: true }).await?;
        Ok(id)
    }

    /// Deletes every one of them, within a bounded time, or tells which are left.
    pub(super) async fn delete(&mut self) -> Result<(), String> {
        match tokio::time::timeout(DELETE_TIMEOUT, self.delete_all()).await {
            Ok(deleted) => deleted.map_err(|error| self.left(&error)),
            Err(_) => Err(self.left("the server does not answer")),
        }
    }

    async fn delete_all(&mut self) -> Result<(), Error> {
        while let Some(name) = self.names.last() {
            match self.client.delete_session(name).await {
                Ok(()) | Err(Error::NotFound { .. }) => self.names.pop(),
                Err(error) => return Err(error),
            };
        }
        Ok(())
    }

    fn left(&self, why: &(impl std::fmt::Display + ?Sized)) -> String {
        format!("left on the server: {}: {why}", self.names.join(", "))
    }
}
