//! Strategies designed by a server.

use noised::design::{Design, Family, Problem, Progress, Recommendation};
use noised_proto::parts::Incoming;
use noised_proto::v1;
use noised_proto::v1::{optimize_strategy_response, recommend_strategy_response};

use super::Analysis;
use crate::error::{Error, Result};
use crate::retry::retrying;

impl Analysis {
    /// The best strategy of a family that is found. `on_progress` hears of it as it is looked for; where the future is
    /// dropped, the server stops.
    ///
    /// # Errors
    /// [`Error::Invalid`] names the field at fault; the faults of a connection, of which those that come after the first
    /// news are not tried again.
    pub async fn optimize(
        &self,
        family: &Family,
        problem: &Problem,
        mut on_progress: impl FnMut(Progress) + Send,
    ) -> Result<Design> {
        use optimize_strategy_response::Event;
        let request =
            v1::OptimizeStrategyRequest { problem: Some(problem.into()), family: Some(family.into()) };
        let answers = retrying(self.retry, &request, |request| {
            let mut client = self.client.clone();
            async move { client.optimize_strategy(request).await }
        });
        let (mut answers, mut found, mut parts) = (answers.await?, None, Incoming::default());
        while let Some(v1::OptimizeStrategyResponse { event }) = answers.message().await? {
            match event {
                Some(Event::Progress(progress)) => on_progress(progress.into()),
                Some(Event::Design(design)) => found = Some(design),
                Some(Event::DesignPart(part)) => parts.push(&part).map_err(unexpected)?,
                None => {}
            }
        }
        let found = found.map_or_else(|| parts.finish(), |found| Ok(Some(found))).map_err(unexpected)?;
        found.ok_or_else(ended)?.try_into().map_err(unexpected)
    }

    /// The strategies that fit into `max_planes` planes of state a lane, compared, and which to use. `on_progress` as with
    /// [`optimize`](Self::optimize).
    ///
    /// # Errors
    /// As those of [`optimize`](Self::optimize).
    pub async fn recommend(
        &self,
        problem: &Problem,
        max_planes: usize,
        mut on_progress: impl FnMut(Progress) + Send,
    ) -> Result<Recommendation> {
        use recommend_strategy_response::Event;
        let max_planes = max_planes as u64;
        let request = v1::RecommendStrategyRequest { problem: Some(problem.into()), max_planes };
        let answers = retrying(self.retry, &request, |request| {
            let mut client = self.client.clone();
            async move { client.recommend_strategy(request).await }
        });
        let (mut answers, mut found, mut parts) = (answers.await?, None, Incoming::default());
        while let Some(v1::RecommendStrategyResponse { event }) = answers.message().await? {
            match event {
                Some(Event::Progress(progress)) => on_progress(progress.into()),
                Some(Event::Recommendation(recommendation)) => found = Some(recommendation),
                Some(Event::RecommendationPart(part)) => parts.push(&part).map_err(unexpected)?,
                None => {}
            }
        }
        let found = found.map_or_else(|| parts.finish(), |found| Ok(Some(found))).map_err(unexpected)?;
        found.ok_or_else(ended)?.try_into().map_err(unexpected)
    }
}

/// What a server sends is not the caller's fault.
fn unexpected(error: noised::Error) -> Error {
    Error::Protocol { message: error.to_string() }
}

fn ended() -> Error {
    Error::Transport { message: "the answer ended early".into() }
}
