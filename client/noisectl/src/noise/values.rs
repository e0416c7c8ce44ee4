//! Steps of released values, as bytes, for a verifier.

use noised::DType;
use noised::session::ResolvedSpec;
use noised_verify::{Report, Verifier};

use crate::failure::Failure;

/// A verifier that takes steps as they travel: f32 or f64, all of one format.
pub(super) struct Values {
    verifier: Verifier,
    is_double: bool,
    singles: Vec<f32>,
    doubles: Vec<f64>,
}

impl Values {
    pub(super) fn new(verifier: Verifier, resolved: &ResolvedSpec) -> Self {
        let is_double = resolved.spec().tree.leaves().iter().any(|leaf| leaf.dtype == DType::F64);
        Self { verifier, is_double, singles: Vec::new(), doubles: Vec::new() }
    }

    pub(super) fn step(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let Self { verifier, is_double, singles, doubles } = self;
        if *is_double {
            doubles.clear();
            doubles.extend(bytes.as_chunks().0.iter().map(|&number| f64::from_le_bytes(number)));
            Ok(verifier.step(doubles)?)
        } else {
            singles.clear();
            singles.extend(bytes.as_chunks().0.iter().map(|&number| f32::from_le_bytes(number)));
            Ok(verifier.step(singles)?)
        }
    }

    pub(super) fn finish(self) -> Result<Report, Failure> {
        Ok(self.verifier.finish()?)
    }
}
