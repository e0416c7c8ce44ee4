//! [`Participation`]: which steps one user's data may take part in.

use crate::error::{Error, Result};

/// The participation pattern that a mechanism's privacy unit keeps to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Participation {
    /// In one step at most.
    #[default]
    Single,
    /// In steps at least `min_sep` apart: 1 allows steps that follow one another ("b-min-sep", arXiv
    /// 2306.08153).
    MinSep {
        /// The least difference between two steps of participation, `b`.
        min_sep: u64,
        /// Participations at most, `k`; `None` for as many as fit.
        max_participations: Option<u64>,
    },
    /// In each of `epochs` passes over the data, exactly `n / epochs` steps apart ("(k, b)-fixed-epoch
    /// order", arXiv 2211.06530). `epochs` divides `n`.
    FixedEpochs {
        /// Participations, `k`.
        epochs: u64,
    },
}

impl Participation {
    /// Neither limit: [`Participation::Single`]; else [`Participation::MinSep`], with a `min_sep` of 1 where
    /// there is none.
    pub fn from_limits(min_sep: Option<u64>, max_participations: Option<u64>) -> Self {
        match (min_sep, max_participations) {
            (None, None) => Self::Single,
            (min_sep, max_participations) => {
                Self::MinSep { min_sep: min_sep.unwrap_or(1), max_participations }
            }
        }
    }

    /// The number of participations that `n` steps have room for: 1, `min(k, ceil(n / b))`, or the epochs.
    ///
    /// # Errors
    /// [`Error::Invalid`] on `min_sep` or `max_participations` where it is 0, on `min_sep` over `n`, on
    /// `epochs` where it is 0 or does not divide `n`.
    pub fn true_max_participations(&self, n: u64) -> Result<u64> {
        match *self {
            Self::Single => Ok(1),
            Self::MinSep { min_sep, max_participations } => {
                if min_sep == 0 || min_sep > n {
                    let rule = format!("must be at least 1 and at most n = {n}, found {min_sep}");
                    return Err(Error::invalid("min_sep", rule));
                }
                if max_participations == Some(0) {
                    return Err(Error::invalid("max_participations", "must be at least 1, found 0"));
                }
                let fit = n.div_ceil(min_sep);
                Ok(max_participations.map_or(fit, |most| most.min(fit)))
            }
            Self::FixedEpochs { epochs } => {
                if epochs == 0 || !n.is_multiple_of(epochs) {
                    return Err(Error::invalid("epochs", format!("must divide n = {n}, found {epochs}")));
                }
                Ok(epochs)
            }
        }
    }

    /// The least difference between two steps of participation: `min_sep`, `n / epochs`, or all of `n`.
    pub fn separation(&self, n: u64) -> u64 {
        match *self {
            Self::Single => n,
            Self::MinSep { min_sep, max_participations: _ } => min_sep,
            Self::FixedEpochs { epochs } => n / epochs.max(1),
        }
    }
}
