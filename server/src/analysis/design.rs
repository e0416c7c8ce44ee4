//! OptimizeStrategy and RecommendStrategy: long work that tells how far it is.

use std::time::{Duration, Instant};

use noised::Error;
use noised::design::{Progress, Verdict, optimize, recommend};
use noised_proto::parts::Outgoing;
use noised_proto::v1::{optimize_strategy_response, recommend_strategy_response};
use noised_proto::{DesignQuestion, RecommendQuestion, ServiceError, v1};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Status};

use super::finish_search::Search;
use super::streams::{PATIENCE, deadline, passed, send};
use super::{AnalysisService, QUEUE, Run};
use crate::identity::Caller;

/// Between two messages about progress.
const PROGRESS_EVERY: Duration = Duration::from_millis(200);

type Answers<T> = mpsc::Sender<Result<T, Status>>;
type Events<T> = ReceiverStream<Result<T, Status>>;

/// The part of a call's deadline after which a search ends with the best that it has found. The rest is for
/// measuring and sending it.
const SEARCHED_PART: f64 = 0.8;

/// Tells of progress, and says whether to go on.
type Tell<'a> = &'a mut dyn FnMut(Progress) -> Verdict;

impl AnalysisService {
    pub(super) fn optimum(
        &self,
        request: Request<v1::OptimizeStrategyRequest>,
    ) -> Result<Events<v1::OptimizeStrategyResponse>, ServiceError> {
        use optimize_strategy_response::Event;
        let tenant = Caller::of(request.extensions()).tenant;
        let (deadline, request) = (deadline(&request), request.into_inner());
        let search = self.searches.begin(tenant, request.search_id.clone())?;
        let work = move |tell: Tell<'_>| -> Result<Vec<Event>, Error> {
            let DesignQuestion { problem, family } = request.try_into()?;
            let design = optimize(&family, &problem, tell)?;
            Ok(match Outgoing::new(v1::Design::from(&design)) {
                Outgoing::Whole(design) => vec![Event::Design(design)],
                Outgoing::Parts(parts) => parts.into_iter().map(Event::DesignPart).collect(),
            })
        };
        let message = |event| v1::OptimizeStrategyResponse { event: Some(event) };
        self.tell_while(deadline, search, work, Event::Progress, message)
    }

    pub(super) fn recommendation(
        &self,
        request: Request<v1::RecommendStrategyRequest>,
    ) -> Result<Events<v1::RecommendStrategyResponse>, ServiceError> {
        use recommend_strategy_response::Event;
        let tenant = Caller::of(request.extensions()).tenant;
        let (deadline, request) = (deadline(&request), request.into_inner());
        let search = self.searches.begin(tenant, request.search_id.clone())?;
        let work = move |tell: Tell<'_>| -> Result<Vec<Event>, Error> {
            let RecommendQuestion { problem, max_planes } = request.try_into()?;
            let found = recommend(&problem, max_planes, tell)?;
            Ok(match Outgoing::new(v1::Recommendation::from(&found)) {
                Outgoing::Whole(found) => vec![Event::Recommendation(found)],
                Outgoing::Parts(parts) => parts.into_iter().map(Event::RecommendationPart).collect(),
            })
        };
        let message = |event| v1::RecommendStrategyResponse { event: Some(event) };
        self.tell_while(deadline, search, work, Event::Progress, message)
    }

    /// Runs `work` on the compute threads, and sends what it tells and what it finds. Its place is free once
    /// it has heard that nobody waits, and the client has what it takes.
    fn tell_while<E: Send + 'static, T: Send + 'static>(
        &self,
        deadline: Option<Duration>,
        search: Search,
        work: impl FnOnce(Tell<'_>) -> Result<Vec<E>, Error> + Send + 'static,
        of_progress: fn(v1::Progress) -> E,
        message: fn(E) -> T,
    ) -> Result<Events<T>, ServiceError> {
        let run = self.begin()?;
        let (answers, queue) = mpsc::channel(QUEUE + 1);
        let service = self.clone();
        let enough =
            deadline.and_then(|deadline| Instant::now().checked_add(deadline.mul_f64(SEARCHED_PART)));
        tokio::spawn(async move {
            // Room for an error is kept from the beginning: telling one never waits for the client.
            let Ok(last) = answers.clone().reserve_owned().await else { return };
            let told = Told { answers: answers.clone(), search, enough, of_progress, message };
            let cancelled = run.cancelled.clone();
            let answer = service.find_and_send(run, work, told);
            let answered = tokio::select! {
                answered = answer => answered,
                () = answers.closed() => Ok(()),
                () = passed(deadline) => Err(ServiceError::DeadlinePassed),
            };
            // Where it still computes, it hears of this at its next step.
            cancelled.cancel();
            if let Err(error) = answered {
                last.send(Err(error.into()));
            }
        });
        Ok(ReceiverStream::new(queue))
    }

    async fn find_and_send<E: Send + 'static, T: Send + 'static>(
        &self,
        run: Run,
        work: impl FnOnce(Tell<'_>) -> Result<Vec<E>, Error> + Send + 'static,
        told: Told<E, T>,
    ) -> Result<(), ServiceError> {
        let Told { answers, search, enough, of_progress, message } = told;
        let for_progress = answers.clone();
        let (run, found) = self
            .compute
            .run(move || {
                let mut last = None::<Instant>;
                let found = work(&mut |progress| {
                    if last.is_none_or(|last| last.elapsed() >= PROGRESS_EVERY) {
                        last = Some(Instant::now());
                        // What a slow reader has no room for is left out.
                        let _slow = for_progress.try_send(Ok(message(of_progress(progress.into()))));
                    }
                    match enough {
                        _ if run.cancelled.is_cancelled() => Verdict::Abandon,
                        _ if search.is_finished() => Verdict::Finish,
                        Some(enough) if Instant::now() >= enough => Verdict::Finish,
                        _ => Verdict::Continue,
                    }
                });
                (run, found)
            })
            .await?;
        for event in found? {
            if !send(&answers, message(event), &run.cancelled, PATIENCE).await? {
                break;
            }
        }
        Ok(())
    }
}

/// Where news of the work go, and what becomes of them on the way.
struct Told<E, T> {
    answers: Answers<T>,
    search: Search,
    /// When the search ends with what it has found.
    enough: Option<Instant>,
    of_progress: fn(v1::Progress) -> E,
    message: fn(E) -> T,
}
