//! Sessions that a command makes for itself, and their end.

use std::time::Duration;

use noised::SessionSpec;
use noised_client::{Client, CreateOptions, Error, Session};

use crate::failure::{Failure, say};

/// A server that does not answer any more keeps nobody longer than this.
const DELETE_TIMEOUT: Duration = Duration::from_secs(10);

/// Sessions that are on the server, or may be.
#[derive(Debug)]
pub(crate) struct Temporary {
    client: Client,
    names: Vec<String>,
}

impl Temporary {
    pub(crate) fn new(client: Client) -> Self {
        Self { client, names: Vec::new() }
    }

    /// Makes a session under a name that nobody else uses, which begins with `prefix`.
    pub(crate) async fn create(
        &mut self,
        prefix: &str,
        spec: &SessionSpec,
        options: CreateOptions,
    ) -> Result<Session, Failure> {
        let id = format!("{prefix}-{:016x}", fastrand::u64(..));
        // Before the call, since its answer may be lost.
        self.names.push(id.clone());
        Ok(self.client.create_session(spec, CreateOptions { id, resume: true, ..options }).await?)
    }

    /// Deletes them, and gives the result of the work that they were made for. What went wrong first is the
    /// reason; what is left of it is told beside that.
    pub(crate) async fn end<T>(mut self, done: Result<T, Failure>) -> Result<T, Failure> {
        match (done, self.delete().await) {
            (Ok(done), Ok(())) => Ok(done),
            (Ok(_), Err(left)) => Err(Failure::Failed(left)),
            (Err(failure), deleted) => {
                if let Err(left) = deleted {
                    say(&format!("note: {left}"));
                }
                Err(failure)
            }
        }
    }

    /// Deletes every one of them, within a bounded time, or tells which are left.
    pub(crate) async fn delete(&mut self) -> Result<(), String> {
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
