//! The service Analysis, one operation a file: decode, act, encode.

mod describe;
mod materialize;
mod multiply;
mod row_norms_squared;

use std::sync::Arc;
use std::time::Duration;

use noised::{Error, MatrixSpec};
use noised_proto::v1::analysis_server::Analysis;
use noised_proto::{ServiceError, v1};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use crate::compute::Compute;
use crate::lifecycle::Lifecycle;

/// How long a client is asked to wait where too many analyses run.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The service, and what its operations share.
#[derive(Clone, Debug)]
pub(crate) struct AnalysisService {
    compute: Arc<Compute>,
    lifecycle: Lifecycle,
    running: Arc<Semaphore>,
    limit: usize,
}

/// Leave to run, and the news that nobody waits for the answer any more.
struct Run {
    _permit: OwnedSemaphorePermit,
    /// Fires when the server's drain is cut, or the caller is gone.
    cancelled: CancellationToken,
}

impl AnalysisService {
    pub(crate) fn new(compute: Arc<Compute>, lifecycle: Lifecycle, limit: usize) -> Self {
        Self { compute, lifecycle, running: Arc::new(Semaphore::new(limit)), limit }
    }

    fn begin(&self) -> Result<Run, ServiceError> {
        self.lifecycle.check_open()?;
        let busy = |_| ServiceError::Busy { what: "analyses", limit: self.limit, retry_after: RETRY_AFTER };
        let permit = Arc::clone(&self.running).try_acquire_owned().map_err(busy)?;
        Ok(Run { _permit: permit, cancelled: self.lifecycle.cut.child_token() })
    }

    /// Runs `work` on the compute threads. Where the caller goes away, this future is dropped, and `work` is told so.
    async fn run<R: Send + 'static>(
        &self,
        work: impl FnOnce(&dyn Fn() -> bool) -> Result<R, Error> + Send + 'static,
    ) -> Result<R, ServiceError> {
        let run = self.begin()?;
        let _gone = run.cancelled.clone().drop_guard();
        let result = self.compute.run(move || work(&|| run.cancelled.is_cancelled())).await?;
        Ok(result?)
    }
}

fn required(matrix: Option<v1::Matrix>) -> Result<MatrixSpec, Error> {
    matrix.ok_or_else(|| Error::invalid("matrix", "is missing"))?.try_into()
}

#[tonic::async_trait]
impl Analysis for AnalysisService {
    type MaterializeStream = ReceiverStream<Result<v1::MaterializeResponse, Status>>;

    async fn materialize(
        &self,
        request: Request<v1::MaterializeRequest>,
    ) -> Result<Response<Self::MaterializeStream>, Status> {
        Ok(Response::new(self.rows(request.into_inner()).await?))
    }

    async fn row_norms_squared(
        &self,
        request: Request<v1::RowNormsSquaredRequest>,
    ) -> Result<Response<v1::RowNormsSquaredResponse>, Status> {
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
}
