//! ComputeSensitivity.

use noised::analysis::sensitivity;
use noised_proto::{SensitivityQuestion, ServiceError, v1};

use super::AnalysisService;

impl AnalysisService {
    pub(super) async fn sensitivity(
        &self,
        request: v1::ComputeSensitivityRequest,
    ) -> Result<v1::ComputeSensitivityResponse, ServiceError> {
        let found = self.run(move |cancelled| {
            let SensitivityQuestion { strategy, n, participation } = request.try_into()?;
            sensitivity(&strategy, n, participation, cancelled)
                .map_err(|error| error.about_matrix("strategy"))
        });
        Ok(found.await?.into())
    }
}
