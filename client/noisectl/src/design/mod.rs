//! Mechanisms and strategies: errors, sensitivities, designs, comparisons, calibration.

pub(crate) mod account;
mod args;
pub(crate) mod calibrate;
pub(crate) mod compare;
mod compared;
pub(crate) mod error;
#[cfg(feature = "plot")]
mod figures;
pub(crate) mod optimize;
mod progress;
pub(crate) mod recommend;
mod sampling;
pub(crate) mod sensitivity;
pub(crate) mod strategy;
