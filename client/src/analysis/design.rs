//! Strategies designed by a server.

use noised::design::{Design, Family, Problem, Progress, Recommendation, Verdict};
use noised_proto::parts::Incoming;
use noised_proto::v1;
use noised_proto::v1::{optimize_strategy_response, recommend_strategy_response};
use uuid::Uuid;

use super::Analysis;
use crate::error::{Error, Result};

impl Analysis {
    /// The best strategy of a family that is found. `on_progress` hears of it as it is looked for. Where it
    /// answers [`Verdict::Finish`], the server ends the search with the best that it has found; where the
    /// future is dropped, it stops.
    ///
    /// # Errors
    /// [`Error::Invalid`] names the field at fault; CANCELLED where `on_progress` answers
    /// [`Verdict::Abandon`]; the faults of a connection, of which those that come after the first news are
    /// not tried again.
    pub async fn optimize(
        &self,
        family: &Family,
        problem: &Problem,
        on_progress: impl FnMut(Progress) -> Verdict + Send,
    ) -> Result<Design> {
        use optimize_strategy_response::Event;
        let mut search = Search::new(self, on_progress);
        let request = v1::OptimizeStrategyRequest {
            problem: Some(problem.into()),
            family: Some(family.into()),
            search_id: search.id.clone(),
        };
        let answers =
            self.ask(&request, |mut client, request| async move { client.optimize_strategy(request).await });
        let (mut answers, mut found, mut parts) = (answers.await?, None, Incoming::default());
        while let Some(v1::OptimizeStrategyResponse { event }) = answers.message().await? {
            match event {
                Some(Event::Progress(progress)) => search.hear(progress.into()).await?,
                Some(Event::Design(design)) => found = Some(design),
                Some(Event::DesignPart(part)) => parts.push(&part).map_err(unexpected)?,
                None => {}
            }
        }
        let found = found.map_or_else(|| parts.finish(), |found| Ok(Some(found))).map_err(unexpected)?;
        found.ok_or_else(ended)?.try_into().map_err(unexpected)
    }

    /// The strategies that fit into `max_planes` planes of state a lane, compared, and which to use.
    /// `on_progress` as with [`optimize`](Self::optimize).
    ///
    /// # Errors
    /// As those of [`optimize`](Self::optimize).
    pub async fn recommend(
        &self,
        problem: &Problem,
        max_planes: usize,
        on_progress: impl FnMut(Progress) -> Verdict + Send,
    ) -> Result<Recommendation> {
        use recommend_strategy_response::Event;
        let mut search = Search::new(self, on_progress);
        let request = v1::RecommendStrategyRequest {
            problem: Some(problem.into()),
            max_planes: max_planes as u64,
            search_id: search.id.clone(),
        };
        let answers =
            self.ask(&request, |mut client, request| async move { client.recommend_strategy(request).await });
        let (mut answers, mut found, mut parts) = (answers.await?, None, Incoming::default());
        while let Some(v1::RecommendStrategyResponse { event }) = answers.message().await? {
            match event {
                Some(Event::Progress(progress)) => search.hear(progress.into()).await?,
                Some(Event::Recommendation(recommendation)) => found = Some(recommendation),
                Some(Event::RecommendationPart(part)) => parts.push(&part).map_err(unexpected)?,
                None => {}
            }
        }
        let found = found.map_or_else(|| parts.finish(), |found| Ok(Some(found))).map_err(unexpected)?;
        found.ok_or_else(ended)?.try_into().map_err(unexpected)
    }
}

/// A search under way, and the function that hears of its progress.
struct Search<'a, F> {
    analysis: &'a Analysis,
    /// A name that nobody guesses.
    id: String,
    on_progress: F,
    finishing: bool,
}

impl<'a, F: FnMut(Progress) -> Verdict> Search<'a, F> {
    fn new(analysis: &'a Analysis, on_progress: F) -> Self {
        Self { analysis, id: Uuid::new_v4().to_string(), on_progress, finishing: false }
    }

    async fn hear(&mut self, progress: Progress) -> Result<()> {
        match (self.on_progress)(progress) {
            Verdict::Continue => {}
            Verdict::Abandon => return Err(noised::Error::Cancelled.into()),
            Verdict::Finish if self.finishing => {}
            Verdict::Finish => {
                self.finishing = true;
                let request = v1::FinishSearchRequest { search_id: self.id.clone() };
                // Of the server that searches, which answered last.
                let server = self.analysis.way().server().await?;
                server.analysis().finish_search(request).await?;
            }
        }
        Ok(())
    }
}

/// What a server sends is not the caller's fault.
fn unexpected(error: noised::Error) -> Error {
    Error::Protocol { message: error.to_string() }
}

fn ended() -> Error {
    Error::Transport { message: "the answer ended early".into() }
}
