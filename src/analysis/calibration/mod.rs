//! From a privacy target to the noise it takes, and back.
//!
//! A mechanism that adds Gaussian noise of standard deviation `stddev` to what one user moves by at most
//! `sensitivity` has the noise multiplier `sigma = stddev / sensitivity`, which alone fixes its privacy:
//! `sigma = 1 / mu` of [Gaussian differential privacy](https://arxiv.org/abs/1905.02383), `rho = 1 / (2
//! sigma^2)` of zero-concentrated differential privacy (arXiv 1605.02065, Proposition 1.6), and the curve
//! `delta(epsilon)` of the analytic Gaussian mechanism (arXiv 1805.06530, Theorem 8). All of a
//! correlated-noise mechanism's steps are one such release, with the [sensitivity](super::sensitivity) of its
//! strategy for the pattern in which a user takes part.
//!
//! What is answered is never less noise than the target takes, rounding included: it is larger by a few units
//! in the last place. And what is told of a noise is never less loss of privacy than there is: `epsilon`,
//! `delta`, `rho` and `mu` are rounded up.
//!
//! **No amplification by sampling is claimed.** Where batches are drawn at random and the adversary does not
//! know who is in them, the same noise gives more privacy than is told here:
//! [`accounting`](crate::accounting) counts that.

mod gaussian;
#[cfg(test)]
mod tests;

use super::upward;
use crate::error::{Error, Result};

/// Relative slack for the rounding of what a curve is evaluated at.
const ARGUMENT_SLACK: f64 = 8.0 * f64::EPSILON;

/// Halvings after which an interval of `f64`s is down to neighbours, whatever its ends.
const MAX_HALVINGS: usize = 2_200;

/// How private a mechanism has to be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum PrivacyTarget {
    /// `(epsilon, delta)` differential privacy.
    ApproximateDp {
        /// The bound on the privacy loss, greater than 0.
        epsilon: f64,
        /// The probability that it does not hold, in `(0, 1)`.
        delta: f64,
    },
    /// Zero-concentrated differential privacy.
    ZeroConcentratedDp {
        /// The bound on the privacy loss's Renyi divergences, per order, greater than 0.
        rho: f64,
    },
    /// Gaussian differential privacy.
    GaussianDp {
        /// The distance of two unit Gaussians that are as hard to tell apart, greater than 0.
        mu: f64,
    },
}

/// The least `stddev / sensitivity` that reaches a target.
///
/// # Errors
/// [`Error::Invalid`] on `epsilon`, `rho` or `mu` where it is not greater than 0 and finite, on `delta` where
/// it is not in `(0, 1)`, and where the multiplier is not a finite number greater than 0.
pub fn noise_multiplier(target: PrivacyTarget) -> Result<f64> {
    let (field, found) = match target {
        PrivacyTarget::ApproximateDp { epsilon, delta } => {
            positive("epsilon", epsilon)?;
            probability(delta)?;
            ("epsilon", multiplier_for(epsilon, delta))
        }
        PrivacyTarget::ZeroConcentratedDp { rho } => {
            positive("rho", rho)?;
            ("rho", least((0.5 / rho).sqrt(), |multiplier| reaches(rho, multiplier)))
        }
        PrivacyTarget::GaussianDp { mu } => {
            positive("mu", mu)?;
            ("mu", upward::quotient(1.0, mu))
        }
    };
    if !(found > 0.0 && found.is_finite()) {
        return Err(Error::invalid(field, "the noise multiplier that it takes is not a finite f64"));
    }
    Ok(found)
}

/// The least standard deviation of the noise that reaches a target, at a sensitivity.
///
/// # Errors
/// Those of [`noise_multiplier`]; [`Error::Invalid`] on `sensitivity` where it is not greater than 0 and
/// finite, or the product is not.
pub fn stddev(target: PrivacyTarget, sensitivity: f64) -> Result<f64> {
    positive("sensitivity", sensitivity)?;
    scaled(noise_multiplier(target)?, sensitivity)
}

/// `multiplier * sensitivity`, rounded up.
pub(super) fn scaled(multiplier: f64, sensitivity: f64) -> Result<f64> {
    let stddev = upward::product(multiplier, sensitivity);
    if !(stddev > 0.0 && stddev.is_finite()) {
        return Err(Error::invalid("sensitivity", "the stddev that it takes is not a finite f64"));
    }
    Ok(stddev)
}

/// The least `epsilon`, 0 or more, for which noise of a multiplier gives `(epsilon, delta)` differential
/// privacy (arXiv 1805.06530, Theorem 8).
///
/// # Errors
/// [`Error::Invalid`] on `noise_multiplier` where it is not from `1e-153` to `1e153`, or so small that
/// `epsilon` is not finite; on `delta` where it is not in `(0, 1)`.
pub fn epsilon(noise_multiplier: f64, delta: f64) -> Result<f64> {
    multiplier(noise_multiplier)?;
    probability(delta)?;
    let mu = 1.0 / noise_multiplier;
    let fits = |epsilon: f64| gaussian::fits(mu, epsilon, delta);
    if fits(0.0) {
        return Ok(0.0);
    }
    // At this one the curve is below the probability that a Gaussian exceeds 40, which is less than any
    // delta.
    let most = mu * (mu / 2.0 + 40.0);
    let epsilon = boundary(0.0, most, |epsilon| !fits(epsilon));
    let safe = epsilon + ARGUMENT_SLACK * (epsilon + mu * mu);
    if !safe.is_finite() {
        return Err(Error::invalid("noise_multiplier", "so small that its epsilon is not a finite f64"));
    }
    Ok(safe)
}

/// The least `delta` for which noise of a multiplier gives `(epsilon, delta)` differential privacy, rounded up by some `1e-13`
/// of itself where it is more than `1e-300`: `Phi(mu/2 - epsilon/mu) - e^epsilon Phi(-mu/2 - epsilon/mu)` with `mu` the reciprocal of
/// the multiplier (arXiv 1805.06530, Theorem 8).
///
/// # Errors
/// [`Error::Invalid`] on `noise_multiplier` where it is not greater than 0 and finite, on `epsilon` where it
/// is negative or not finite.
pub fn delta(noise_multiplier: f64, epsilon: f64) -> Result<f64> {
    multiplier(noise_multiplier)?;
    if !(epsilon >= 0.0 && epsilon.is_finite()) {
        return Err(Error::invalid("epsilon", format!("must be at least 0 and finite, found {epsilon}")));
    }
    Ok(gaussian::delta(1.0 / noise_multiplier, epsilon))
}

/// The `rho` of zero-concentrated differential privacy that noise of a multiplier gives.
///
/// # Errors
/// [`Error::Invalid`] on `noise_multiplier` where it is not from `1e-153` to `1e153`.
pub fn rho(noise_multiplier: f64) -> Result<f64> {
    multiplier(noise_multiplier)?;
    let rho = rho_of(noise_multiplier).next_down().next_down();
    Ok(least(rho, |rho| reaches(rho, noise_multiplier)))
}

/// The `mu` of Gaussian differential privacy that noise of a multiplier gives.
///
/// # Errors
/// [`Error::Invalid`] on `noise_multiplier` where it is not from `1e-153` to `1e153`.
pub fn mu(noise_multiplier: f64) -> Result<f64> {
    multiplier(noise_multiplier)?;
    Ok(upward::quotient(1.0, noise_multiplier))
}

/// Checks that what a multiplier gives can be told: that its `rho` neither overflows nor vanishes.
fn multiplier(noise_multiplier: f64) -> Result<()> {
    positive("noise_multiplier", noise_multiplier)?;
    let rho = rho_of(noise_multiplier);
    if rho >= f64::MIN_POSITIVE && rho.is_finite() {
        return Ok(());
    }
    Err(Error::invalid("noise_multiplier", format!("must be from 1e-153 to 1e153, found {noise_multiplier}")))
}

fn rho_of(noise_multiplier: f64) -> f64 {
    0.5 / noise_multiplier / noise_multiplier
}

fn positive(field: &str, value: f64) -> Result<()> {
    if value > 0.0 && value.is_finite() {
        return Ok(());
    }
    Err(Error::invalid(field, format!("must be greater than 0 and finite, found {value}")))
}

fn probability(delta: f64) -> Result<()> {
    if delta > 0.0 && delta < 1.0 {
        return Ok(());
    }
    Err(Error::invalid("delta", format!("must be greater than 0 and less than 1, found {delta}")))
}

/// `start`, or the first number after it that suffices, which is not far.
fn least(start: f64, suffices: impl Fn(f64) -> bool) -> f64 {
    // A few roundings of half a unit each are what it may lack.
    (0..8).fold(start, |found, _| if suffices(found) { found } else { found.next_up() })
}

/// Whether `2 rho sigma^2 >= 1`, with the roundings of the products added up again.
fn reaches(rho: f64, multiplier: f64) -> bool {
    // The powers of two are taken out, so that no product leaves the numbers whose roundings f64 holds.
    let half = (multiplier.log2() / 2.0).round() as i32;
    let unit = 2.0_f64.powi(-half);
    let (sigma, rho) = (multiplier * unit * unit, 2.0 * rho / unit / unit / unit / unit);
    let square = sigma * sigma;
    let of_square = sigma.mul_add(sigma, -square);
    let product = rho * square;
    let of_product = rho.mul_add(square, -product);
    (product - 1.0) + (of_product + rho * of_square) >= 0.0
}

fn multiplier_for(epsilon: f64, delta: f64) -> f64 {
    let fits = |mu: f64| gaussian::fits(mu, epsilon, delta);
    let (mut low, mut high) = (1.0, 1.0);
    while low > 0.0 && !fits(low) {
        high = low;
        low /= 2.0;
    }
    while high.is_finite() && fits(high) {
        low = high;
        high *= 2.0;
    }
    let unfit = boundary(low, high, fits);
    (1.0 / unfit.next_down()) * (1.0 + ARGUMENT_SLACK)
}

/// The least number for which `holds` does not hold any more, which is so at `high`, where it does at `low`.
fn boundary(mut low: f64, mut high: f64, holds: impl Fn(f64) -> bool) -> f64 {
    for _ in 0..MAX_HALVINGS {
        let middle = low + (high - low) / 2.0;
        if middle <= low || middle >= high {
            break;
        }
        if holds(middle) {
            low = middle;
        } else {
            high = middle;
        }
    }
    high
}
