//! The way of a call through the servers of a fleet: which one is asked, and which one after it failed.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tonic::Status;

use crate::error::{Error, Result};
use crate::fleet::{Fleet, Server};
use crate::retry::{Attempts, RetryPolicy};

/// Between two rounds, at most, where the servers agree on a session's owner, and the owner does not answer:
/// it hands the session over, or its lease runs out soon.
const CHANGING: Duration = Duration::from_millis(300);

/// One call, or one stream, on its way.
///
/// In a round, each server is asked at most once, and one whose connection broke once more: so however
/// servers send a client to each other, it pauses after a round, and its time for retries ends.
#[derive(Debug)]
pub(crate) struct Way {
    fleet: Arc<Fleet>,
    key: String,
    attempts: Attempts,
    asked: Option<Arc<Server>>,
    /// Servers that failed in this round.
    tried: Vec<Arc<Server>>,
    /// Servers whose connections broke in this round.
    broken: Vec<Arc<Server>>,
}

impl Way {
    /// A call of the session of this name.
    pub(crate) fn new(fleet: &Arc<Fleet>, key: &str, policy: RetryPolicy) -> Self {
        Self {
            fleet: Arc::clone(fleet),
            key: key.to_owned(),
            attempts: Attempts::new(policy),
            asked: None,
            tried: Vec::new(),
            broken: Vec::new(),
        }
    }

    /// The server to ask now.
    ///
    /// # Errors
    /// [`Error::Unavailable`] where no address is known.
    pub(crate) async fn server(&mut self) -> Result<Arc<Server>> {
        if let Some(server) = &self.asked {
            return Ok(Arc::clone(server));
        }
        let server = self.untried().await?;
        let nobody = || Error::Unavailable { message: "there is no server".into(), retry_after: None };
        let server = server.ok_or_else(nobody)?;
        self.asked = Some(Arc::clone(&server));
        Ok(server)
    }

    /// Goes on with the server that a stream is open with.
    pub(crate) fn is_with(&mut self, server: &Arc<Server>) {
        self.asked = Some(Arc::clone(server));
    }

    /// The server has answered.
    pub(crate) fn succeeded(&self) {
        self.attempts.succeeded();
        if let Some(server) = &self.asked {
            self.fleet.note_home(&self.key, &server.target);
        }
    }

    /// Chooses whom to ask after an attempt that failed, and waits until it is time.
    ///
    /// # Errors
    /// The error itself, where there shall be no other attempt.
    pub(crate) async fn failed(&mut self, error: Error) -> Result<()> {
        let Some(server) = self.asked.take().filter(|_| self.fleet.targets().are_several()) else {
            return self.attempts.pause(error).await;
        };
        match &error {
            Error::Elsewhere { message: _, owner } => {
                self.tried.push(server);
                match self.known(owner).await {
                    Some(home) if !has(&self.tried, &home) => {
                        tracing::info!("the session is at {owner}");
                        self.fleet.note_home(&self.key, &home.target);
                        self.asked = Some(home);
                        self.attempts.hop();
                        return Ok(());
                    }
                    Some(_) => {}
                    None => return self.end_round(error, Duration::MAX).await,
                }
            }
            // The server may be there still, and go on where it was.
            Error::Transport { .. } if !has(&self.broken, &server) => {
                self.broken.push(Arc::clone(&server));
                self.asked = Some(server);
                self.attempts.hop();
                return Ok(());
            }
            Error::Transport { .. } | Error::Unavailable { .. } => {
                self.fleet.forget_home(&self.key, &server.target);
                self.tried.push(server);
            }
            _ => {
                self.asked = Some(server);
                return self.attempts.pause(error).await;
            }
        }
        match self.untried().await {
            Ok(Some(next)) => {
                tracing::warn!("asking {} next: {error}", next.target);
                self.asked = Some(next);
                self.attempts.hop();
                Ok(())
            }
            _ => {
                let is_changing = matches!(error, Error::Elsewhere { .. });
                self.end_round(error, if is_changing { CHANGING } else { Duration::MAX }).await
            }
        }
    }

    /// Waits for the next round.
    async fn end_round(&mut self, error: Error, most: Duration) -> Result<()> {
        self.attempts.pause_at_most(most, error).await?;
        self.tried.clear();
        self.broken.clear();
        // Servers may have come and gone. Where that is not known, the addresses stay.
        let _unknown = self.fleet.resolve().await;
        Ok(())
    }

    /// The server at an address that another one named.
    async fn known(&self, owner: &str) -> Option<Arc<Server>> {
        if let Some(server) = self.fleet.at(owner) {
            return Some(server);
        }
        // It may have come after the addresses were looked up.
        self.fleet.resolve().await.ok()?;
        self.fleet.at(owner)
    }

    async fn untried(&self) -> Result<Option<Arc<Server>>> {
        let order = self.fleet.order(&self.key).await?;
        Ok(order.into_iter().find(|server| !has(&self.tried, server)))
    }
}

fn has(servers: &[Arc<Server>], server: &Arc<Server>) -> bool {
    servers.iter().any(|other| other.target == server.target)
}

/// Sends a request until there is an answer, a refusal, or no time left.
//
// The closure returns a future. An async closure would not do: the compiler cannot tell that its future is
// `Send` where a caller spawns it.
pub(crate) async fn asking<R: Clone, T, F>(
    mut way: Way,
    request: &R,
    call: impl Fn(Arc<Server>, R) -> F,
) -> Result<T>
where
    F: Future<Output = std::result::Result<tonic::Response<T>, Status>>,
{
    loop {
        let called = match way.server().await {
            Ok(server) => call(server, request.clone()).await.map_err(Error::from),
            Err(error) => Err(error),
        };
        match called {
            Ok(answer) => {
                way.succeeded();
                return Ok(answer.into_inner());
            }
            Err(error) => way.failed(error).await?,
        }
    }
}
