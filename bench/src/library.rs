//! noised as a library, in this process.

use std::time::{Duration, Instant};

use noised::streaming::MultiplyState;
use noised::tree::TreeValues;
use noised::{DType, Precision, StreamingMatrix, Tree, analysis};

use crate::cases::Case;

/// A matrix at work on one tree.
pub(crate) struct Library {
    matrix: StreamingMatrix,
    state: MultiplyState,
    input: TreeValues,
    values: TreeValues,
    /// Bytes that a step must move: state read, state written, input, output.
    pub(crate) moved: usize,
}

impl Library {
    pub(crate) fn new(case: &Case, lanes: usize) -> anyhow::Result<Self> {
        let tree = Tree::flat(lanes as u64, DType::F32)?;
        let described = analysis::describe(&case.matrix, None, None)?;
        let moved = lanes * size_of::<f32>() * (described.planes_read + described.planes_written + 2);
        let matrix = StreamingMatrix::new(case.matrix.clone())?;
        let state = matrix.init_multiply(&tree, Precision::F32)?;
        let bytes = (0..lanes).flat_map(|i| ((i % 1000) as f32 * 0.002 - 1.0).to_le_bytes()).collect();
        let input = TreeValues::from_bytes(tree, bytes)?;
        Ok(Self { matrix, state, values: input.clone(), input, moved })
    }

    /// One step, in place. The input is written again before each, as a training loop does.
    pub(crate) fn step(&mut self) -> anyhow::Result<Duration> {
        self.values.as_bytes_mut().copy_from_slice(self.input.as_bytes());
        let start = Instant::now();
        self.matrix.multiply_next_in_place(&mut self.values, &mut self.state)?;
        Ok(start.elapsed())
    }
}
