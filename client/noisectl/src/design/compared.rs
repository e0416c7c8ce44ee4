//! What is known of a strategy that is compared with others.

use noised::MatrixSpec;
use noised::analysis::{QueryErrors, Sensitivity};

/// A strategy, its sensitivity and its errors.
pub(super) struct Compared {
    pub(super) name: String,
    pub(super) strategy: MatrixSpec,
    pub(super) planes: usize,
    pub(super) sensitivity: Sensitivity,
    pub(super) errors: QueryErrors,
}

impl Compared {
    pub(super) fn rmse_loss(&self) -> f64 {
        self.sensitivity.value() * self.errors.rmse()
    }

    pub(super) fn max_loss(&self) -> f64 {
        self.sensitivity.value() * self.errors.max().sqrt()
    }
}
