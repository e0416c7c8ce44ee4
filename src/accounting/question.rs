//! [`Question`]: what accounting is asked for, as a value.

use super::training::{Account, Asked, Sampling, account, noise_multiplier};
use crate::error::Result;

/// A question about a training run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Question {
    /// How the examples of a step are chosen.
    pub sampling: Sampling,
    /// Steps, `n`.
    pub steps: u64,
    /// What is asked.
    pub wanted: Wanted,
}

/// What is asked about a training run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Wanted {
    /// What a noise guarantees.
    Privacy {
        /// The noise multiplier.
        noise_multiplier: f64,
        /// Epsilon or delta.
        asked: Asked,
    },
    /// The least noise multiplier for a guarantee.
    Noise {
        /// The bound on the privacy loss.
        epsilon: f64,
        /// The probability that it does not hold.
        delta: f64,
    },
}

impl Question {
    /// The answer. Where noise is asked for, epsilon is that of the noise found, which is at most the target.
    ///
    /// # Errors
    /// As [`account`] and [`noise_multiplier`].
    pub fn answer(&self, cancelled: &dyn Fn() -> bool) -> Result<Account> {
        let Self { sampling, steps, wanted } = *self;
        match wanted {
            Wanted::Privacy { noise_multiplier, asked } => {
                account(sampling, steps, noise_multiplier, asked, cancelled)
            }
            Wanted::Noise { epsilon, delta } => {
                let found = noise_multiplier(sampling, steps, epsilon, delta, cancelled)?;
                account(sampling, steps, found, Asked::Epsilon { delta }, cancelled)
            }
        }
    }
}
