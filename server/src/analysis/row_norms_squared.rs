//! RowNormsSquared.

use noised::analysis::row_norms_squared;
use noised_proto::{ServiceError, v1};

use super::{AnalysisService, required};

impl AnalysisService {
    pub(super) async fn norms(
        &self,
        request: v1::RowNormsSquaredRequest,
    ) -> Result<v1::RowNormsSquaredResponse, ServiceError> {
        let v1::RowNormsSquaredRequest { matrix, n } = request;
        let norms = self.run(move |cancelled| row_norms_squared(&required(matrix)?, n, cancelled)).await?;
        Ok(v1::RowNormsSquaredResponse { row_norms_squared: norms.values })
    }
}
