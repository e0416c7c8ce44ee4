//! From a privacy target to noise, and back.

use noised::analysis::calibration::PrivacyTarget;
use noised::analysis::{Calibration, Given};
use noised::{Error, Result};

use crate::v1;
use crate::v1::calibrate_noise_request::Target;

/// What calibration is asked for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CalibrationQuestion {
    /// What is given.
    pub given: Given,
    /// The L2 sensitivity.
    pub sensitivity: f64,
    /// The delta that epsilon is told for, where the target has none.
    pub delta: Option<f64>,
}

impl TryFrom<v1::CalibrateNoiseRequest> for CalibrationQuestion {
    type Error = Error;

    fn try_from(request: v1::CalibrateNoiseRequest) -> Result<Self> {
        let v1::CalibrateNoiseRequest { target, sensitivity, delta } = request;
        let given = match target.ok_or_else(|| Error::invalid("target", "is missing"))? {
            Target::ApproximateDp(v1::ApproximateDp { epsilon, delta }) => {
                Given::Target(PrivacyTarget::ApproximateDp { epsilon, delta })
            }
            Target::Rho(rho) => Given::Target(PrivacyTarget::ZeroConcentratedDp { rho }),
            Target::Mu(mu) => Given::Target(PrivacyTarget::GaussianDp { mu }),
            Target::NoiseMultiplier(multiplier) => Given::NoiseMultiplier(multiplier),
        };
        Ok(Self { given, sensitivity: sensitivity.unwrap_or(1.0), delta })
    }
}

impl From<CalibrationQuestion> for v1::CalibrateNoiseRequest {
    fn from(question: CalibrationQuestion) -> Self {
        let CalibrationQuestion { given, sensitivity, delta } = question;
        let target = match given {
            Given::Target(PrivacyTarget::ApproximateDp { epsilon, delta }) => {
                Target::ApproximateDp(v1::ApproximateDp { epsilon, delta })
            }
            Given::Target(PrivacyTarget::ZeroConcentratedDp { rho }) => Target::Rho(rho),
            Given::Target(PrivacyTarget::GaussianDp { mu }) => Target::Mu(mu),
            Given::NoiseMultiplier(multiplier) => Target::NoiseMultiplier(multiplier),
        };
        Self { target: Some(target), sensitivity: Some(sensitivity), delta }
    }
}

impl From<Calibration> for v1::CalibrateNoiseResponse {
    fn from(calibration: Calibration) -> Self {
        let Calibration { noise_multiplier, stddev, epsilon, delta, rho, mu } = calibration;
        Self { noise_multiplier, stddev, epsilon, delta, rho, mu }
    }
}

impl From<v1::CalibrateNoiseResponse> for Calibration {
    fn from(calibration: v1::CalibrateNoiseResponse) -> Self {
        let v1::CalibrateNoiseResponse { noise_multiplier, stddev, epsilon, delta, rho, mu } = calibration;
        Self { noise_multiplier, stddev, epsilon, delta, rho, mu }
    }
}
