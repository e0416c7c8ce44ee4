//! [`calibrate`]: everything about the noise that a target takes, at once.

use super::calibration::{PrivacyTarget, epsilon, mu, noise_multiplier, rho, scaled};
use crate::error::{Error, Result};

/// What a calibration begins with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Given {
    /// What is to be reached.
    Target(PrivacyTarget),
    /// The standard deviation of the noise over the sensitivity.
    NoiseMultiplier(f64),
}

/// A noise, and the privacy that it gives.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Calibration {
    /// The standard deviation of the noise over the sensitivity.
    pub noise_multiplier: f64,
    /// The standard deviation of the noise.
    pub stddev: f64,
    /// For `delta`, where there is one.
    pub epsilon: Option<f64>,
    /// The delta that `epsilon` is told for.
    pub delta: Option<f64>,
    /// Of zero-concentrated differential privacy (arXiv 1605.02065, Proposition 1.6).
    pub rho: f64,
    /// Of Gaussian differential privacy (arXiv 1905.02383, Theorem 1).
    pub mu: f64,
}

/// The noise that a target takes at an L2 sensitivity, and what else it gives. `delta` is what epsilon is
/// told for where the target has none of its own.
///
/// # Errors
/// [`Error::Invalid`] on `sensitivity` or `noise_multiplier` where it is not finite and greater than 0, on
/// `delta` where it is given beside a target that has its own, and as the functions of
/// [`calibration`](super::calibration).
pub fn calibrate(given: Given, sensitivity: f64, delta: Option<f64>) -> Result<Calibration> {
    positive("sensitivity", sensitivity)?;
    let noise_multiplier = match given {
        Given::Target(target) => noise_multiplier(target)?,
        Given::NoiseMultiplier(multiplier) => positive("noise_multiplier", multiplier)?,
    };
    let (epsilon, delta) = match (given, delta) {
        (Given::Target(PrivacyTarget::ApproximateDp { epsilon, delta }), None) => {
            (Some(epsilon), Some(delta))
        }
        (Given::Target(PrivacyTarget::ApproximateDp { .. }), Some(_)) => {
            return Err(Error::invalid("delta", "must not be set: the target has one"));
        }
        (_, None) => (None, None),
        (_, Some(delta)) => (Some(epsilon(noise_multiplier, delta)?), Some(delta)),
    };
    let stddev = scaled(noise_multiplier, sensitivity)?;
    Ok(Calibration {
        noise_multiplier,
        stddev,
        epsilon,
        delta,
        rho: rho(noise_multiplier)?,
        mu: mu(noise_multiplier)?,
    })
}

fn positive(field: &str, value: f64) -> Result<f64> {
    if value.is_finite() && value > 0.0 {
        return Ok(value);
    }
    Err(Error::invalid(field, format!("must be finite and greater than 0, found {value}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_comes_back() {
        let of = |given| calibrate(given, 3.0, Some(1e-6)).unwrap();
        let mu = of(Given::Target(PrivacyTarget::GaussianDp { mu: 0.5 }));
        assert_eq!((mu.noise_multiplier, mu.stddev, mu.delta), (2.0, 6.0, Some(1e-6)));
        assert!((mu.rho - 0.125).abs() < 1e-15 && (mu.mu - 0.5).abs() < 1e-15);
        assert_eq!(of(Given::NoiseMultiplier(2.0)), mu);
        let (epsilon, delta) = (mu.epsilon.unwrap(), 1e-6);
        let back =
            calibrate(Given::Target(PrivacyTarget::ApproximateDp { epsilon, delta }), 3.0, None).unwrap();
        assert!((back.noise_multiplier / 2.0 - 1.0).abs() < 1e-9, "{back:?}");
        assert_eq!((back.epsilon, back.delta), (mu.epsilon, mu.delta));
    }

    #[test]
    fn what_is_no_noise_is_refused() {
        let field = |given, sensitivity, delta| match calibrate(given, sensitivity, delta) {
            Err(Error::Invalid { field, .. }) => field,
            other => panic!("{other:?}"),
        };
        for bad in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert_eq!(field(Given::NoiseMultiplier(bad), 1.0, None), "noise_multiplier");
            assert_eq!(field(Given::NoiseMultiplier(1.0), bad, None), "sensitivity");
        }
        for bad in [1e-310, 1e-200, 1e200] {
            assert_eq!(field(Given::NoiseMultiplier(bad), 1.0, None), "noise_multiplier");
        }
        let target = PrivacyTarget::ApproximateDp { epsilon: 1.0, delta: 1e-5 };
        assert_eq!(field(Given::Target(target), 1.0, Some(1e-5)), "delta");
        assert_eq!(field(Given::NoiseMultiplier(1e150), 1e300, None), "sensitivity");
    }
}
