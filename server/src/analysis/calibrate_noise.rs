//! CalibrateNoise.

use noised::analysis::calibrate;
use noised_proto::{CalibrationQuestion, ServiceError, v1};

use super::AnalysisService;

impl AnalysisService {
    pub(super) async fn calibration(
        &self,
        request: v1::CalibrateNoiseRequest,
    ) -> Result<v1::CalibrateNoiseResponse, ServiceError> {
        let found = self.run(move |_| {
            let CalibrationQuestion { given, sensitivity, delta } = request.try_into()?;
            calibrate(given, sensitivity, delta)
        });
        Ok(found.await?.into())
    }
}
