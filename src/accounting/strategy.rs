//! Whether a strategy goes with a sampling, and what its noise multiplier is over.

use super::training::Sampling;
use crate::analysis::{Participation, sensitivity_in, strategy_bands};
use crate::error::{Error, Result};
use crate::matrix::MatrixSpec;

/// What the noise multiplier of a strategy is over, for gradients clipped to norm 1: with sampling the
/// largest column norm, without it the sensitivity for the participation pattern; both are rounded up.
///
/// # Errors
/// [`Error::Invalid`] on `strategy` where it has more bands than the sampling allows, on `participation`
/// where a sampling gives the pattern, and as [`sensitivity_in`]; [`Error::Cancelled`].
pub fn unit(
    sampling: Sampling,
    strategy: &MatrixSpec,
    n: u64,
    participation: Participation,
    cancelled: &dyn Fn() -> bool,
) -> Result<f64> {
    let Some(most) = sampling.max_bands() else {
        let found = sensitivity_in(strategy, n, participation, None, cancelled);
        return Ok(found.map_err(|error| error.about_matrix("strategy"))?.0.value());
    };
    if participation != Participation::Single {
        let rule = format!("must not be set: {} sampling decides who takes part", sampling.name());
        return Err(Error::invalid("participation", rule));
    }
    let bands = strategy_bands(strategy, n).map_err(|error| error.about_matrix("strategy"))?;
    if bands > most {
        let fits = match sampling {
            Sampling::CyclicPoisson { .. } => {
                "a banded strategy, such as `toeplitz` with at most that many `coef`, or \
                                               sampling none"
            }
            _ => "the identity, cyclic_poisson sampling of a banded strategy, or sampling none",
        };
        let name = sampling.name();
        let rule =
            format!("must have at most {most} bands for {name} sampling, found {bands}; what fits: {fits}");
        return Err(Error::invalid("strategy", rule));
    }
    let found = sensitivity_in(strategy, n, Participation::Single, None, cancelled);
    Ok(found.map_err(|error| error.about_matrix("strategy"))?.0.value())
}
