//! ComputeSensitivity.

use noised::analysis::sensitivity_in;
use noised_proto::{SensitivityQuestion, ServiceError, v1};

use super::AnalysisService;

impl AnalysisService {
    pub(super) async fn sensitivity(
        &self,
        request: v1::ComputeSensitivityRequest,
    ) -> Result<v1::ComputeSensitivityResponse, ServiceError> {
        let found = self.run(move |cancelled| {
            let SensitivityQuestion { strategy, n, participation, precision } = request.try_into()?;
            sensitivity_in(&strategy, n, participation, precision, cancelled)
                .map_err(|error| error.about_matrix("strategy"))
        });
        let (found, precision) = found.await?;
        Ok(v1::ComputeSensitivityResponse {
            precision: v1::Precision::from(precision).into(),
            ..found.into()
        })
    }
}
