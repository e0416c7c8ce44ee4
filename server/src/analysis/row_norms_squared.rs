//! RowNormsSquared.

use noised::analysis::{RowNorms, row_norms_squared};
use noised_proto::{ServiceError, question_matrix, v1};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::AnalysisService;
use super::streams::NUMBERS;

impl AnalysisService {
    pub(super) async fn norms(
        &self,
        request: v1::RowNormsSquaredRequest,
    ) -> Result<ReceiverStream<Result<v1::RowNormsSquaredResponse, Status>>, ServiceError> {
        let v1::RowNormsSquaredRequest { matrix, n } = request;
        let work =
            move |cancelled: &dyn Fn() -> bool| row_norms_squared(&question_matrix(matrix, n)?, n, cancelled);
        self.run_then_stream(work, messages).await
    }
}

fn messages(norms: RowNorms) -> impl Iterator<Item = v1::RowNormsSquaredResponse> + Send {
    let RowNorms { values, way } = norms;
    (0..values.len()).step_by(NUMBERS).map(move |first| v1::RowNormsSquaredResponse {
        row_norms_squared: values[first..values.len().min(first + NUMBERS)].to_vec(),
        first_row: first as u64,
        way: if first == 0 { v1::Way::from(way).into() } else { v1::Way::Unspecified.into() },
    })
}
