//! ComputePrivacy.

use noised::accounting::Question;
use noised_proto::{ServiceError, v1};

use super::AnalysisService;

impl AnalysisService {
    pub(super) async fn privacy(
        &self,
        request: v1::ComputePrivacyRequest,
    ) -> Result<v1::ComputePrivacyResponse, ServiceError> {
        let found = self.run(move |cancelled| Question::try_from(request)?.answer(cancelled));
        Ok(found.await?.into())
    }
}
