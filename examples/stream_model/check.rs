//! Some lanes of every step, compared with the matrix written out.

use anyhow::ensure;
use noised::{DType, DenseMatrix, SessionSpec, Tree};
use noised_tests::trees;

/// Lanes that are checked, spread over the tree.
const CHECKED: u64 = 10_000;

/// The largest error that rounding explains, in units of the roundoff of the arithmetic and the size of what
/// cancels.
const ALLOWED: f64 = 64.0;

pub(crate) struct Check {
    tree: Tree,
    dense: DenseMatrix,
    lanes: Vec<u64>,
    /// Of each lane, what went into every step so far.
    inputs: Vec<Vec<f64>>,
    steps: usize,
}

impl Check {
    /// Of as many steps of a session.
    pub(crate) fn new(spec: &SessionSpec, steps: u64) -> anyhow::Result<Self> {
        let tree = spec.tree.clone();
        let stride = (tree.lanes() / CHECKED).max(1);
        let lanes: Vec<u64> = (0..tree.lanes()).step_by(stride as usize).chain([tree.lanes() - 1]).collect();
        let inputs = vec![Vec::new(); lanes.len()];
        Ok(Self { dense: DenseMatrix::new(&spec.matrix, steps as usize)?, tree, lanes, inputs, steps: 0 })
    }

    /// How many lanes of a step are compared.
    pub(crate) fn lanes(&self) -> usize {
        self.lanes.len()
    }

    /// The largest error of the next step's answer, relative to the size of what cancels in it.
    ///
    /// `input` is what the step's input was in a lane.
    ///
    /// # Errors
    /// Where a lane is not what the matrix makes of its inputs.
    pub(crate) fn next(&mut self, input: impl Fn(u64) -> f64, answer: &[u8]) -> anyhow::Result<f64> {
        let mut largest = 0.0_f64;
        for (inputs, &lane) in self.inputs.iter_mut().zip(&self.lanes) {
            inputs.push(input(lane));
            let (found, dtype) = trees::lane(&self.tree, answer, lane);
            let expected = self.dense.apply_row(self.steps, inputs);
            let size = self.dense.apply_row_magnitude(self.steps, inputs).max(f64::MIN_POSITIVE);
            let error = (found - expected).abs() / size;
            let roundoff = trees::roundoff(dtype).max(trees::roundoff(DType::F32));
            let step = self.steps;
            ensure!(error <= ALLOWED * roundoff, "lane {lane} of step {step}: {found}, not {expected}");
            largest = largest.max(error);
        }
        self.steps += 1;
        Ok(largest)
    }
}
