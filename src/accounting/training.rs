//! Accounting of a training run: who takes part in a step, and what that is worth.

use super::composition::{Bound, Composition, PoissonGaussian};
use super::renyi;
use super::{check_delta, check_epsilon, check_noise_multiplier, check_probability};
use crate::analysis::calibration::{self, PrivacyTarget};
use crate::error::{Error, Result};
use crate::limits;

/// Halvings of the logarithm of an interval that holds a noise multiplier: they leave about 1e-7 of it.
const HALVINGS: usize = 24;

/// How the examples of a step are chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Sampling {
    /// In an order that the accounting gives no credit for: full batches, or epochs in a fixed or a shuffled
    /// order. The noise multiplier is over the *sensitivity* of the strategy for the participation pattern.
    None,
    /// Every step takes every example with the same probability, independently (DP-SGD). The strategy is the
    /// identity.
    Poisson {
        /// The probability, in `(0, 1]`.
        probability: f64,
    },
    /// The examples are split into as many groups as the strategy has bands, whatever they hold; step `t`
    /// takes every example of group `t mod bands` with the same probability, independently (arXiv 2306.08153,
    /// Section 4). The noise multiplier is over the largest *column norm* of the strategy.
    CyclicPoisson {
        /// The probability for an example of the step's group, in `(0, 1]`.
        probability: f64,
        /// The number of groups: at least the strategy's bands, at most the steps.
        bands: u64,
    },
    /// Every step draws so many of the examples without replacement. The strategy is the identity.
    FixedSize {
        /// The examples of a step.
        batch_size: u64,
        /// All examples.
        examples: u64,
    },
}

impl Sampling {
    /// A name for programs: `cyclic_poisson`.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Poisson { .. } => "poisson",
            Self::CyclicPoisson { .. } => "cyclic_poisson",
            Self::FixedSize { .. } => "fixed_size",
        }
    }

    /// The bands that a strategy may have at most; `None` for any number.
    pub fn max_bands(self) -> Option<u64> {
        match self {
            Self::None => None,
            Self::CyclicPoisson { bands, .. } => Some(bands),
            Self::Poisson { .. } | Self::FixedSize { .. } => Some(1),
        }
    }
}

/// What is asked of a training run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Asked {
    /// The epsilon of this delta.
    Epsilon {
        /// In `(0, 1)`.
        delta: f64,
    },
    /// The delta of this epsilon.
    Delta {
        /// At least 0.
        epsilon: f64,
    },
}

/// How a figure was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// The closed form of one Gaussian mechanism.
    Gaussian,
    /// Privacy loss distributions.
    Pld,
    /// Renyi divergences.
    Rdp,
}

impl Method {
    /// A name for programs: `pld`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gaussian => "gaussian",
            Self::Pld => "pld",
            Self::Rdp => "rdp",
        }
    }
}

/// In what neighbouring data sets differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Adjacency {
    /// One of them has an example that the other lacks.
    AddOrRemove,
    /// One example is another one.
    Replace,
}

impl Adjacency {
    /// A name for programs: `add_or_remove`.
    pub fn name(self) -> &'static str {
        match self {
            Self::AddOrRemove => "add_or_remove",
            Self::Replace => "replace",
        }
    }
}

/// What a training run guarantees: `(epsilon, delta)` differential privacy.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Account {
    /// The bound on the privacy loss.
    pub epsilon: f64,
    /// The probability that it does not hold.
    pub delta: f64,
    /// The noise multiplier for which it holds.
    pub noise_multiplier: f64,
    /// A lower bound of the figure that was asked for, where there is one: no accountant can tell less.
    pub lower: Option<f64>,
    /// How it was found.
    pub method: Method,
    /// Between which data sets it holds.
    pub adjacency: Adjacency,
    /// The distance of neighbouring losses in a privacy loss distribution.
    pub interval: Option<f64>,
    /// The order of the Renyi divergence.
    pub order: Option<u32>,
}

/// What `steps` steps guarantee. `noise_multiplier` is the standard deviation of the noise over the clip norm
/// times the sensitivity or column norm that [`Sampling`] names.
///
/// # Errors
/// [`Error::Invalid`] on a field out of range, under the names of the fields of [`Sampling`] and [`Asked`],
/// of `noise_multiplier` and of `n`, the steps; [`Error::Cancelled`].
pub fn account(
    sampling: Sampling,
    steps: u64,
    noise_multiplier: f64,
    asked: Asked,
    cancelled: &dyn Fn() -> bool,
) -> Result<Account> {
    check(sampling, steps, asked)?;
    if let Sampling::FixedSize { batch_size, examples } = sampling {
        return fixed_size(batch_size, examples, steps, noise_multiplier, asked);
    }
    let Some(composition) = composition(sampling, steps, noise_multiplier)? else {
        let (epsilon, delta) = match asked {
            Asked::Epsilon { delta } => (calibration::epsilon(noise_multiplier, delta)?, delta),
            Asked::Delta { epsilon } => (epsilon, calibration::delta(noise_multiplier, epsilon)?),
        };
        return Ok(told(Method::Gaussian, epsilon, delta, noise_multiplier));
    };
    let (epsilon, delta, Bound { interval, .. }, lower) = match asked {
        Asked::Epsilon { delta } => {
            let upper = composition.epsilon(delta, cancelled)?;
            (upper.value, delta, upper, composition.epsilon_lower(delta, cancelled)?)
        }
        Asked::Delta { epsilon } => {
            let upper = composition.delta(epsilon, cancelled)?;
            (epsilon, upper.value, upper, composition.delta_lower(epsilon, cancelled)?)
        }
    };
    let method = if interval.is_some() { Method::Pld } else { Method::Gaussian };
    Ok(Account { interval, lower: Some(lower.value), ..told(method, epsilon, delta, noise_multiplier) })
}

/// The least noise multiplier, to about 1e-7 of it and never less, at which `steps` steps are `(epsilon,
/// delta)` differentially private.
///
/// # Errors
/// As [`account`]; [`Error::Invalid`] on `epsilon` where no noise multiplier within the limits reaches it.
pub fn noise_multiplier(
    sampling: Sampling,
    steps: u64,
    epsilon: f64,
    delta: f64,
    cancelled: &dyn Fn() -> bool,
) -> Result<f64> {
    let target = PrivacyTarget::ApproximateDp { epsilon, delta };
    check(sampling, steps, Asked::Epsilon { delta })?;
    if sampling == Sampling::None {
        return calibration::noise_multiplier(target);
    }
    if !(epsilon > 0.0 && epsilon.is_finite()) {
        return Err(Error::invalid("epsilon", format!("must be greater than 0 and finite, found {epsilon}")));
    }
    let reaches = |multiplier: f64| {
        if cancelled() {
            return Err(Error::Cancelled);
        }
        let found = match sampling {
            Sampling::FixedSize { batch_size, examples } => {
                fixed_size(batch_size, examples, steps, multiplier, Asked::Epsilon { delta })?.epsilon
            }
            _ => match composition(sampling, steps, multiplier)? {
                Some(composition) => composition.epsilon(delta, cancelled)?.value,
                None => calibration::epsilon(multiplier, delta)?,
            },
        };
        Ok(found <= epsilon)
    };
    let (least, most) = (limits::MIN_NOISE_MULTIPLIER, limits::MAX_NOISE_MULTIPLIER);
    let (mut low, mut high) = (1.0, 1.0);
    while !reaches(high)? {
        low = high;
        if high >= most {
            let rule = format!("is not reached with a noise multiplier of {most:e} or less, found {epsilon}");
            return Err(Error::invalid("epsilon", rule));
        }
        high = (high * 2.0).min(most);
    }
    while low == high {
        low = (low / 2.0).max(least);
        if reaches(low)? {
            if low <= least {
                return Ok(least);
            }
            high = low;
        }
    }
    for _ in 0..HALVINGS {
        let middle = (low * high).sqrt();
        if reaches(middle)? {
            high = middle;
        } else {
            low = middle;
        }
    }
    Ok(high)
}

/// Rounds whose losses add up; `None` where all of it is one Gaussian mechanism.
fn composition(sampling: Sampling, steps: u64, noise_multiplier: f64) -> Result<Option<Composition>> {
    let (sampling_probability, rounds) = match sampling {
        Sampling::None | Sampling::FixedSize { .. } => return Ok(None),
        Sampling::Poisson { probability } => (probability, steps),
        Sampling::CyclicPoisson { probability, bands } => (probability, steps.div_ceil(bands)),
    };
    let round = PoissonGaussian { sampling_probability, noise_multiplier };
    Composition::new().with(round, rounds).map(Some)
}

fn told(method: Method, epsilon: f64, delta: f64, noise_multiplier: f64) -> Account {
    Account {
        epsilon,
        delta,
        noise_multiplier,
        lower: None,
        method,
        adjacency: Adjacency::AddOrRemove,
        interval: None,
        order: None,
    }
}

/// Steps on samples without replacement, by the best order.
fn fixed_size(
    batch_size: u64,
    examples: u64,
    steps: u64,
    noise_multiplier: f64,
    asked: Asked,
) -> Result<Account> {
    check_noise_multiplier(noise_multiplier)?;
    let mut best: Option<(f64, u32)> = None;
    for order in 2..=limits::MAX_RENYI_ORDER {
        let one = renyi::fixed_size_gaussian(batch_size, examples, noise_multiplier, order)?;
        let (order_real, all) = (f64::from(order), one * steps as f64);
        let found = match asked {
            Asked::Epsilon { delta } => renyi::epsilon(order_real, all, delta)?,
            Asked::Delta { epsilon } => renyi::delta(order_real, all, epsilon)?,
        };
        if best.is_none_or(|(least, _)| found < least) {
            best = Some((found, order));
        }
    }
    let (found, order) = best.unwrap_or((f64::INFINITY, 2));
    let (epsilon, delta) = match asked {
        Asked::Epsilon { delta } => (found, delta),
        Asked::Delta { epsilon } => (epsilon, found),
    };
    let adjacency = Adjacency::Replace;
    Ok(Account { adjacency, order: Some(order), ..told(Method::Rdp, epsilon, delta, noise_multiplier) })
}

fn check(sampling: Sampling, steps: u64, asked: Asked) -> Result<()> {
    let most = limits::MAX_ACCOUNTING_ROUNDS;
    if steps == 0 || steps > most {
        return Err(Error::invalid("n", format!("must be at least 1 and at most {most}, found {steps}")));
    }
    match sampling {
        Sampling::None => {}
        Sampling::Poisson { probability } => check_probability("sampling_probability", probability)?,
        Sampling::CyclicPoisson { probability, bands } => {
            check_probability("sampling_probability", probability)?;
            if bands == 0 || bands > steps {
                let rule = format!("must be at least 1 and at most n = {steps}, found {bands}");
                return Err(Error::invalid("bands", rule));
            }
        }
        Sampling::FixedSize { batch_size, examples } => renyi::check_batch(batch_size, examples)?,
    }
    match asked {
        Asked::Epsilon { delta } => check_delta(delta),
        Asked::Delta { epsilon } => check_epsilon(epsilon),
    }
}
