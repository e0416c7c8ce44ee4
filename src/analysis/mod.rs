//! Questions about a matrix that need no session: its rows, their norms, its product with an array, its cost.
//!
//! All arithmetic is in f64. A matrix is probed with the recurrences that sessions run: lane `j` is fed the `j`-th
//! unit vector, so that the lanes at step `t` are row `t`. Lanes right of the diagonal are not touched.

use ndarray::{ArrayD, ArrayViewD, Axis};

use crate::dtype::{DType, Precision};
use crate::error::{Error, Result};
use crate::kernel::{Aligned, Backend, Data, Pass, PassState, StepIo, Steps, state_values};
use crate::limits::{
    ANALYSIS_STATE_BYTES, MAX_ANALYSIS_N, MAX_ROWS_STATE_BYTES, MAX_STEPS_A_PASS, TILE_LANES,
};
use crate::matrix::{MatrixSpec, Plan};
use crate::session::SessionSpec;
use crate::tree::{Layout, Shard, Tree};

/// The rows of a matrix's leading `n x n` block, one after the other, in `O(n)` memory a plane.
#[derive(Debug)]
pub struct Rows {
    plan: Plan,
    n: usize,
    step: usize,
    state: Aligned<f64>,
    backend: Backend,
}

impl Rows {
    /// Starts at row 0.
    ///
    /// # Errors
    /// Those of [`MatrixSpec::validate`], and [`Error::Invalid`] on `n` where it is 0, over [`MAX_ANALYSIS_N`], past the
    /// end of the matrix, or its state would take more than [`MAX_ROWS_STATE_BYTES`].
    pub fn new(matrix: &MatrixSpec, n: u64) -> Result<Self> {
        let plan = Plan::new(matrix)?;
        plan.check_representable::<f64>()?;
        let n = check_n(&plan, n)?;
        if n * plan.planes() * size_of::<f64>() > MAX_ROWS_STATE_BYTES {
            let most = MAX_ROWS_STATE_BYTES / size_of::<f64>() / plan.planes();
            return Err(Error::invalid(
                "n",
                format!("at most {most} for a matrix of {} planes", plan.planes()),
            ));
        }
        let state = Aligned::zeroed(state_values(n, plan.planes()));
        Ok(Self { n, step: 0, state, backend: Backend::best(), plan })
    }

    /// The next row, with its entries up to the diagonal, or `None` after the last.
    pub fn next_row(&mut self) -> Option<Vec<f64>> {
        (self.step < self.n).then(|| {
            let lanes = self.step + 1;
            // Lanes right of the diagonal have only been fed zeros: their state is zero, so the tiles past this one
            // need not run, and the tile of the diagonal runs whole.
            let covered = self.n.min(lanes.next_multiple_of(TILE_LANES));
            let mut row = vec![0.0; covered];
            row[self.step] = 1.0;
            self.step_in_place(&mut row);
            self.step += 1;
            row.truncate(lanes);
            row
        })
    }

    fn step_in_place(&mut self, row: &mut [f64]) {
        let planes = self.plan.planes();
        let program = self.plan.program(self.step as u64, row.len().div_ceil(TILE_LANES));
        let data = Data::InPlace(bytemuck::cast_slice_mut(row));
        let layout = Layout::flat(self.n, DType::F64);
        let lanes = 0..data.input().len() / size_of::<f64>();
        let state = &mut self.state[..state_values(lanes.len(), planes)];
        let mut steps = Steps::new();
        steps.push(StepIo { program: &program, data, digests: &mut [] });
        Pass { backend: self.backend, layout: &layout, planes, lanes }.run(PassState::Kept(state), steps);
    }
}

impl Iterator for Rows {
    type Item = Vec<f64>;

    fn next(&mut self) -> Option<Vec<f64>> {
        self.next_row()
    }
}

/// The squared L2 norm of each of the first `n` rows: of a decoder `B = A C^-1`, the expected squared error of each
/// query at noise of variance 1. `cancelled` is asked between rows.
///
/// # Errors
/// Those of [`Rows::new`]; [`Error::Cancelled`].
pub fn row_norms_squared(matrix: &MatrixSpec, n: u64, cancelled: impl Fn() -> bool) -> Result<Vec<f64>> {
    let mut norms = Vec::new();
    for row in Rows::new(matrix, n)? {
        if cancelled() {
            return Err(Error::Cancelled);
        }
        norms.push(row.iter().map(|entry| entry * entry).sum());
    }
    Ok(norms)
}

/// `A x` where the first axis of `x` is the step. `cancelled` is asked between steps.
///
/// # Errors
/// Those of [`MatrixSpec::validate`]; [`Error::Invalid`] on `x` where it has no steps, no lanes, or more steps than
/// the matrix has rows; [`Error::Cancelled`].
pub fn multiply(
    matrix: &MatrixSpec,
    x: ArrayViewD<'_, f64>,
    cancelled: impl Fn() -> bool,
) -> Result<ArrayD<f64>> {
    let plan = Plan::new(matrix)?;
    plan.check_representable::<f64>()?;
    if x.ndim() == 0 {
        return Err(Error::invalid("x", "must have an axis of steps"));
    }
    let (n, lanes) = (x.len_of(Axis(0)), x.shape()[1..].iter().product::<usize>());
    if n == 0 || lanes == 0 {
        return Err(Error::invalid("x", "must not be empty"));
    }
    if let Some(rows) = plan.horizon().filter(|&rows| n as u64 > rows) {
        return Err(Error::invalid("x", format!("has {n} steps, and the matrix ends at row {rows}")));
    }
    let invalid = |e| Error::invalid("x", e);
    let mut product = x.to_shape((n, lanes)).map_err(invalid)?.as_standard_layout().into_owned();
    // Lanes do not depend on each other: the state of some at a time is all that has to be held.
    let tile_bytes = TILE_LANES * plan.planes() * size_of::<f64>();
    let tiles = (ANALYSIS_STATE_BYTES / tile_bytes.max(1)).clamp(1, lanes.div_ceil(TILE_LANES));
    for start in (0..lanes).step_by(tiles * TILE_LANES) {
        let range = start..lanes.min(start + tiles * TILE_LANES);
        let layout = Layout::flat(range.len(), DType::F64);
        let mut state: Aligned<f64> = Aligned::zeroed(state_values(layout.lanes(), plan.planes()));
        let mut step = 0;
        for mut rows in product.axis_chunks_iter_mut(Axis(0), MAX_STEPS_A_PASS) {
            if cancelled() {
                return Err(Error::Cancelled);
            }
            let programs: Vec<_> =
                (step..).take(rows.nrows()).map(|step| plan.program(step, tiles)).collect();
            step += rows.nrows() as u64;
            let mut steps = Steps::new();
            for (program, row) in programs.iter().zip(rows.outer_iter_mut()) {
                let Some(row) = row.into_slice() else {
                    return Err(Error::invalid("x", "must lie in memory row after row"));
                };
                let data = Data::InPlace(bytemuck::cast_slice_mut(&mut row[range.clone()]));
                steps.push(StepIo { program, data, digests: &mut [] });
            }
            let lanes = 0..layout.lanes();
            Pass { backend: Backend::best(), layout: &layout, planes: plan.planes(), lanes }
                .run(PassState::Kept(&mut state), steps);
        }
    }
    product.into_shape_with_order(x.raw_dim()).map_err(invalid)
}

fn check_n(plan: &Plan, n: u64) -> Result<usize> {
    let most = plan.horizon().unwrap_or(u64::MAX).min(MAX_ANALYSIS_N as u64);
    if n == 0 || n > most {
        return Err(Error::invalid("n", format!("must be at least 1 and at most {most}, found {n}")));
    }
    Ok(n as usize)
}

/// What a session on a matrix holds and moves.
#[derive(Clone, Debug, PartialEq)]
pub struct Description {
    /// State values a lane.
    pub planes: usize,
    /// Planes that one step reads, once every plane is in use.
    pub planes_read: usize,
    /// Planes that one step writes.
    pub planes_written: usize,
    /// Whether the matrix is Toeplitz by its algebra.
    pub toeplitz: bool,
    /// The number of rows of a matrix that ends.
    pub horizon: Option<u64>,
    /// The format of state and arithmetic.
    pub precision: Precision,
    /// Figures for the tree, where there is one.
    pub tree: Option<TreeDescription>,
}

/// What a session on a matrix and a tree holds and moves, in bytes.
#[derive(Clone, Debug, PartialEq)]
pub struct TreeDescription {
    /// Lanes of the shard.
    pub lanes: u64,
    /// One step's payload.
    pub step_bytes: u64,
    /// State.
    pub state_bytes: u64,
    /// State, one step's output, digests.
    pub memory_bytes: u64,
    /// State read and written, input and output: what must move through memory in a step.
    pub moved_bytes_per_step: u64,
}

/// Tells what a session on `matrix` would hold and move, for a shard of a tree where one is given.
///
/// # Errors
/// [`Error::Invalid`] names the field and the rule it breaks.
pub fn describe(
    matrix: &MatrixSpec,
    tree: Option<(&Tree, Shard)>,
    precision: Option<Precision>,
) -> Result<Description> {
    let plan = Plan::new(matrix)?;
    let (planes_read, planes_written) = plan.planes_moved();
    let default = tree.map_or(Precision::F32, |(tree, _)| tree.default_precision());
    let precision = precision.unwrap_or(default);
    let tree = match tree {
        None => None,
        Some((tree, shard)) => {
            let spec = SessionSpec { shard, precision, ..SessionSpec::new(matrix.clone(), tree.clone()) };
            let resolved = spec.resolve()?;
            let cost = resolved.cost();
            let lanes = resolved.layout().lanes() as u64;
            let moved_state = (planes_read + planes_written) as u64 * lanes * precision.size() as u64;
            Some(TreeDescription {
                lanes,
                step_bytes: cost.output_bytes,
                state_bytes: cost.state_bytes,
                memory_bytes: cost.total(),
                moved_bytes_per_step: moved_state + 2 * cost.output_bytes,
            })
        }
    };
    Ok(Description {
        planes: plan.planes(),
        planes_read,
        planes_written,
        toeplitz: plan.is_toeplitz(),
        horizon: plan.horizon(),
        precision,
        tree,
    })
}
