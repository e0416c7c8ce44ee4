//! Norms of rows and columns of any matrix: the tile pipeline over blocks of columns, of the lower triangle
//! only, on all threads.

use rayon::prelude::*;

use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::kernel::{Aligned, Backend, Data, Pass, PassState, Program, StepIo, Steps, state_values};
use crate::limits::{MAX_STEPS_A_PASS, TILE_LANES};
use crate::matrix::Plan;
use crate::tree::Layout;

/// Steps between two questions whether the caller still wants the answer.
const STRIDE: usize = 128;

/// The squared norms of the rows and columns of a leading block.
#[derive(Debug)]
pub(super) struct Norms {
    pub(super) rows: Vec<f64>,
    pub(super) columns: Vec<f64>,
}

/// A tile of columns, from the step of its first diagonal on: above that there are only zeros.
struct Block {
    first: usize,
    lanes: usize,
    state: Aligned<f64>,
    values: Vec<f64>,
    /// The sums of squares of its part of each row, from row `first` on.
    rows: Vec<f64>,
    columns: Vec<f64>,
}

impl Block {
    fn new(first: usize, n: usize, planes: usize) -> Self {
        let lanes = TILE_LANES.min(n - first);
        Self {
            first,
            lanes,
            state: Aligned::zeroed(state_values(lanes, planes)),
            values: vec![0.0; lanes * MAX_STEPS_A_PASS],
            rows: Vec::with_capacity(n - first),
            columns: vec![0.0; lanes],
        }
    }

    /// Takes the block through as many steps as there are programs, from `step` on, where they have reached
    /// it.
    fn run(&mut self, step: usize, programs: &[Program<f64>], planes: usize) {
        let skipped = self.first.saturating_sub(step).min(programs.len());
        let mut step = step + skipped;
        for programs in programs[skipped..].chunks(MAX_STEPS_A_PASS) {
            let values = &mut self.values[..self.lanes * programs.len()];
            values.fill(0.0);
            let mut steps = Steps::new();
            for (i, (program, row)) in programs.iter().zip(values.chunks_exact_mut(self.lanes)).enumerate() {
                if let Some(diagonal) = row.get_mut(step + i - self.first) {
                    *diagonal = 1.0;
                }
                let data = Data::InPlace(bytemuck::cast_slice_mut(row));
                steps.push(StepIo { program, data, digests: &mut [] });
            }
            let layout = Layout::flat(self.lanes, DType::F64);
            let pass = Pass { backend: Backend::best(), layout: &layout, planes, lanes: 0..self.lanes };
            pass.run(PassState::Kept(&mut self.state), steps);
            for row in values.chunks_exact(self.lanes) {
                self.rows.push(row.iter().map(|entry| entry * entry).sum());
                self.columns.iter_mut().zip(row).for_each(|(norm, entry)| *norm += entry * entry);
            }
            step += programs.len();
        }
    }
}

/// Both norms, from the entries.
///
/// # Errors
/// [`Error::Cancelled`].
pub(super) fn norms(plan: &Plan, n: usize, cancelled: &dyn Fn() -> bool) -> Result<Norms> {
    let planes = plan.planes();
    let mut norms = Norms { rows: vec![0.0; n], columns: Vec::with_capacity(n) };
    let firsts: Vec<usize> = (0..n).step_by(TILE_LANES).collect();
    // As many at a time as there are threads: their state is all that is held.
    for firsts in firsts.chunks(rayon::current_num_threads().max(1)) {
        let mut blocks: Vec<Block> = firsts.iter().map(|&first| Block::new(first, n, planes)).collect();
        for step in (firsts[0]..n).step_by(STRIDE) {
            if cancelled() {
                return Err(Error::Cancelled);
            }
            let programs: Vec<Program<f64>> =
                (step..n.min(step + STRIDE)).map(|step| plan.program(step as u64, 1)).collect();
            blocks.par_iter_mut().for_each(|block| block.run(step, &programs, planes));
        }
        for block in blocks {
            norms.rows[block.first..].iter_mut().zip(&block.rows).for_each(|(norm, part)| *norm += part);
            norms.columns.extend(block.columns);
        }
    }
    Ok(norms)
}
