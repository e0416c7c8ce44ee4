//! From noise and sampling to `(epsilon, delta)`, and back.
//!
//! What [`account`] tells is an upper bound: there is not more loss of privacy than that. Truncation,
//! discretisation and the rounding of transforms are counted in it. The figures hold for the sampling that is
//! named and no other.
//!
//! | [`Sampling`] | what is composed | neighbours | method |
//! |---|---|---|---|
//! | `None` | one Gaussian mechanism of the strategy's sensitivity | add or remove | the closed form of arXiv 1805.06530 |
//! | `Poisson` | `n` rounds, each a Gaussian mechanism on a Poisson sample | add or remove | privacy loss distributions |
//! | `CyclicPoisson` | `ceil(n / bands)` such rounds, at the strategy's largest column norm (arXiv 2306.08153) | add or remove | privacy loss distributions |
//! | `FixedSize` | `n` rounds on samples without replacement | replace | Renyi divergences (arXiv 1808.00087) |
//!
//! | room | what is in it |
//! |---|---|
//! | `training` | [`account`], [`noise_multiplier`]: a training run |
//! | `question` | [`Question`]: either of them, as a value |
//! | `strategy` | [`unit()`]: whether a strategy goes with a sampling |
//! | `composition` | [`Composition`]: rounds of Poisson-subsampled Gaussian mechanisms |
//! | `pair` | the dominating pair of one round |
//! | `discretise` | its privacy loss distribution on a grid, from above and from below |
//! | `plan` | the tilt, the grid and the window of a composition |
//! | `curve` | the transform, its error, and the curve `delta(epsilon)` |
//! | [`renyi`] | Renyi divergences and their conversion |
//! | `quadrature` | Gauss-Legendre rules |

mod composition;
mod curve;
mod discretise;
mod pair;
mod plan;
mod quadrature;
mod question;
pub mod renyi;
mod strategy;
#[cfg(test)]
mod tests;
mod training;

pub use composition::{Bound, Composition, PoissonGaussian};
pub use question::{Question, Wanted};
pub use strategy::unit;
pub use training::{Account, Adjacency, Asked, Method, Sampling, account, noise_multiplier};

use crate::error::{Error, Result};
use crate::limits;

fn check_probability(field: &str, value: f64) -> Result<()> {
    if value > 0.0 && value <= 1.0 {
        return Ok(());
    }
    Err(Error::invalid(field, format!("must be greater than 0 and at most 1, found {value}")))
}

fn check_noise_multiplier(value: f64) -> Result<()> {
    let (least, most) = (limits::MIN_NOISE_MULTIPLIER, limits::MAX_NOISE_MULTIPLIER);
    if (least..=most).contains(&value) {
        return Ok(());
    }
    Err(Error::invalid("noise_multiplier", format!("must be from {least} to {most:e}, found {value}")))
}

fn check_delta(value: f64) -> Result<()> {
    if value > 0.0 && value < 1.0 {
        return Ok(());
    }
    Err(Error::invalid("delta", format!("must be greater than 0 and less than 1, found {value}")))
}

fn check_epsilon(value: f64) -> Result<()> {
    if value >= 0.0 && value.is_finite() {
        return Ok(());
    }
    Err(Error::invalid("epsilon", format!("must be at least 0 and finite, found {value}")))
}
