//! The service Analysis, one operation a file: decode, act, encode.

mod calibrate_noise;
mod compute_errors;
mod compute_privacy;
mod compute_sensitivity;
mod describe;
mod design;
mod finish_search;
mod materialize;
mod multiply;
mod row_norms_squared;
mod streams;

use std::sync::Arc;
use std::time::Duration;

use finish_search::Searches;
use noised::{Error, MatrixSpec};
use noised_proto::v1::analysis_server::Analysis;
use noised_proto::{ServiceError, v1};
use streams::{PATIENCE, send};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use crate::compute::Compute;
use crate::identity::Caller;
use crate::lifecycle::Lifecycle;

/// How long a client is asked to wait where too many analyses run.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Messages that wait to be written.
const QUEUE: usize = 2;

/// The messages of an answer.
type Messages<T> = ReceiverStream<Result<T, Status>>;

/// The service, and what its operations share.
#[derive(Clone, Debug)]
pub(crate) struct AnalysisService {
    compute: Arc<Compute>,
    lifecycle: Lifecycle,
    running: Arc<Semaphore>,
    limit: usize,
    searches: Searches,
}

/// Leave to run, and the news that nobody waits for the answer any more.
struct Run {
    _permit: OwnedSemaphorePermit,
    /// Fires when the server's drain is cut, or the caller is gone.
    cancelled: CancellationToken,
}

impl AnalysisService {
    pub(crate) fn new(compute: Arc<Compute>, lifecycle: Lifecycle, limit: usize) -> Self {
        Self {
            compute,
            lifecycle,
            running: Arc::new(Semaphore::new(limit)),
            limit,
            searches: Searches::default(),
        }
    }

    fn begin(&self) -> Result<Run, ServiceError> {
        self.lifecycle.check_open()?;
        let busy = |_| ServiceError::Busy { what: "analyses", limit: self.limit, retry_after: RETRY_AFTER };
        let permit = Arc::clone(&self.running).try_acquire_owned().map_err(busy)?;
        Ok(Run { _permit: permit, cancelled: self.lifecycle.cut.child_token() })
    }

    /// Runs `work` on the compute threads. Where the caller goes away, this future is dropped, and `work` is
    /// told so.
    async fn run<R: Send + 'static>(
        &self,
        work: impl FnOnce(&dyn Fn() -> bool) -> Result<R, Error> + Send + 'static,
    ) -> Result<R, ServiceError> {
        Ok(self.run_and_hold(work).await?.1)
    }

    /// The same; the place is held until the [`Run`] is dropped.
    async fn run_and_hold<R: Send + 'static>(
        &self,
        work: impl FnOnce(&dyn Fn() -> bool) -> Result<R, Error> + Send + 'static,
    ) -> Result<(Run, R), ServiceError> {
        let run = self.begin()?;
        let gone = run.cancelled.clone().drop_guard();
        let (run, result) = self
            .compute
            .run(move || {
                let result = work(&|| run.cancelled.is_cancelled());
                (run, result)
            })
            .await?;
        gone.disarm();
        Ok((run, result?))
    }

    /// Runs `work`, and sends what it found in as many messages as it takes.
    async fn run_then_stream<R, T, M>(
        &self,
        work: impl FnOnce(&dyn Fn() -> bool) -> Result<R, Error> + Send + 'static,
        messages: impl FnOnce(R) -> M,
    ) -> Result<ReceiverStream<Result<T, Status>>, ServiceError>
    where
        R: Send + 'static,
        T: Send + 'static,
        M: Iterator<Item = T> + Send + 'static,
    {
        let (run, found) = self.run_and_hold(work).await?;
        let mut messages = messages(found);
        let (answers, queue) = mpsc::channel(QUEUE + 1);
        tokio::spawn(async move {
            // Room for an error is kept from the beginning: telling one never waits for the client.
            let Ok(last) = answers.reserve().await else { return };
            let sent = async {
                while let Some(message) = messages.next()
                    && send(&answers, message, &run.cancelled, PATIENCE).await?
                {}
                Ok::<_, ServiceError>(())
            };
            if let Err(error) = sent.await {
                last.send(Err(error.into()));
            }
        });
        Ok(ReceiverStream::new(queue))
    }
}

fn required(matrix: Option<v1::Matrix>) -> Result<MatrixSpec, Error> {
    matrix.ok_or_else(|| Error::invalid("matrix", "is missing"))?.try_into()
}

#[tonic::async_trait]
impl Analysis for AnalysisService {
    type MaterializeStream = Messages<v1::MaterializeResponse>;
    type RowNormsSquaredStream = Messages<v1::RowNormsSquaredResponse>;
    type ComputeErrorsStream = Messages<v1::ComputeErrorsResponse>;
    type OptimizeStrategyStream = Messages<v1::OptimizeStrategyResponse>;
    type RecommendStrategyStream = Messages<v1::RecommendStrategyResponse>;

    async fn materialize(
        &self,
        request: Request<v1::MaterializeRequest>,
    ) -> Result<Response<Self::MaterializeStream>, Status> {
        Ok(Response::new(self.rows(request.into_inner()).await?))
    }

    async fn row_norms_squared(
        &self,
        request: Request<v1::RowNormsSquaredRequest>,
    ) -> Result<Response<Self::RowNormsSquaredStream>, Status> {
        Ok(Response::new(self.norms(request.into_inner()).await?))
    }

    async fn multiply(
        &self,
        request: Request<v1::MultiplyRequest>,
    ) -> Result<Response<v1::MultiplyResponse>, Status> {
        Ok(Response::new(self.product(request.into_inner()).await?))
    }

    async fn describe(
        &self,
        request: Request<v1::DescribeRequest>,
    ) -> Result<Response<v1::DescribeResponse>, Status> {
        Ok(Response::new(self.description(request.into_inner()).await?))
    }

    async fn compute_errors(
        &self,
        request: Request<v1::ComputeErrorsRequest>,
    ) -> Result<Response<Self::ComputeErrorsStream>, Status> {
        Ok(Response::new(self.errors(request.into_inner()).await?))
    }

    async fn compute_sensitivity(
        &self,
        request: Request<v1::ComputeSensitivityRequest>,
    ) -> Result<Response<v1::ComputeSensitivityResponse>, Status> {
        Ok(Response::new(self.sensitivity(request.into_inner()).await?))
    }

    async fn optimize_strategy(
        &self,
        request: Request<v1::OptimizeStrategyRequest>,
    ) -> Result<Response<Self::OptimizeStrategyStream>, Status> {
        Ok(Response::new(self.optimum(request)?))
    }

    async fn recommend_strategy(
        &self,
        request: Request<v1::RecommendStrategyRequest>,
    ) -> Result<Response<Self::RecommendStrategyStream>, Status> {
        Ok(Response::new(self.recommendation(request)?))
    }

    async fn finish_search(
        &self,
        request: Request<v1::FinishSearchRequest>,
    ) -> Result<Response<v1::FinishSearchResponse>, Status> {
        let tenant = Caller::of(request.extensions()).tenant;
        Ok(Response::new(self.finish(request.into_inner(), &tenant)?))
    }

    async fn calibrate_noise(
        &self,
        request: Request<v1::CalibrateNoiseRequest>,
    ) -> Result<Response<v1::CalibrateNoiseResponse>, Status> {
        Ok(Response::new(self.calibration(request.into_inner()).await?))
    }

    async fn compute_privacy(
        &self,
        request: Request<v1::ComputePrivacyRequest>,
    ) -> Result<Response<v1::ComputePrivacyResponse>, Status> {
        Ok(Response::new(self.privacy(request.into_inner()).await?))
    }
}
