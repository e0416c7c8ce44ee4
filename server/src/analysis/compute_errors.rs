//! ComputeErrors.

use noised::Error;
use noised::analysis::{QueryErrors, query_errors_in};
use noised_proto::{ErrorsQuestion, ServiceError, v1};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::AnalysisService;
use super::streams::NUMBERS;

impl AnalysisService {
    pub(super) async fn errors(
        &self,
        request: v1::ComputeErrorsRequest,
    ) -> Result<ReceiverStream<Result<v1::ComputeErrorsResponse, Status>>, ServiceError> {
        let summary_only = request.summary_only;
        let work = move |cancelled: &dyn Fn() -> bool| -> Result<QueryErrors, Error> {
            let question = ErrorsQuestion::try_from(request)?;
            let (workload, precision) = (question.workload.as_ref(), question.precision);
            query_errors_in(question.mechanism(), workload, question.n, precision, cancelled)
        };
        self.run_then_stream(work, move |errors| messages(errors, summary_only)).await
    }
}

fn messages(
    errors: QueryErrors,
    summary_only: bool,
) -> impl Iterator<Item = v1::ComputeErrorsResponse> + Send {
    let summary = v1::ErrorSummary {
        mean: errors.mean(),
        max: errors.max(),
        last: errors.last(),
        rmse: errors.rmse(),
        way: v1::Way::from(errors.way).into(),
    };
    let values = if summary_only { Vec::new() } else { errors.per_query };
    (0..values.len().max(1)).step_by(NUMBERS).map(move |first| v1::ComputeErrorsResponse {
        summary: (first == 0).then_some(summary),
        first_query: first as u64,
        per_query: values[first..values.len().min(first + NUMBERS)].to_vec(),
    })
}
