//! [`Rows`]: a matrix written out row by row, with the recurrences that sessions run.
//!
//! Lane `j` is fed the `j`-th unit vector, so that the lanes at step `t` are row `t`. Lanes right of the
//! diagonal are not touched.

use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::kernel::{Aligned, Backend, Data, Pass, PassState, StepIo, Steps, state_values};
use crate::limits::{MAX_ANALYSIS_N, MAX_ROWS_STATE_BYTES, TILE_LANES};
use crate::matrix::{MatrixSpec, Plan};
use crate::tree::Layout;

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
    /// Those of [`MatrixSpec::validate`], and [`Error::Invalid`] on `n` where it is 0, over
    /// [`MAX_ANALYSIS_N`], past the end of the matrix, or its state would take more than
    /// [`MAX_ROWS_STATE_BYTES`].
    pub fn new(matrix: &MatrixSpec, n: u64) -> Result<Self> {
        let plan = Plan::for_question(matrix, n)?;
        plan.check_representable::<f64>()?;
        Self::of(plan, n)
    }

    /// The same of a matrix that is ready to run.
    pub(super) fn of(plan: Plan, n: u64) -> Result<Self> {
        let n = check_n(&plan, n, MAX_ANALYSIS_N)?;
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
            // Lanes right of the diagonal have only been fed zeros: their state is zero, so the tiles past
            // this one need not run, and the tile of the diagonal runs whole.
            let covered = self.n.min(lanes.next_multiple_of(TILE_LANES));
            let mut row = vec![0.0; covered];
            row[self.step] = 1.0;
            self.step_in_place(&mut row);
            self.step += 1;
            row.truncate(lanes);
            row
        })
    }

    /// The next row as [`Rows::next_row`] gives it, where all of its entries are finite.
    ///
    /// # Errors
    /// [`Error::Invalid`] on `n` where an entry is not: there are so many rows before it.
    pub fn next_finite_row(&mut self) -> Result<Option<Vec<f64>>> {
        let at = self.step;
        match self.next_row() {
            Some(row) if !row.iter().all(|entry| entry.is_finite()) => Err(not_finite("an entry of row", at)),
            row => Ok(row),
        }
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

/// The one rule for answers that overflow: there is no answer.
pub(super) fn not_finite(what: &str, index: usize) -> Error {
    let rule = format!("must be less: {what} {index} is not finite in f64, since the matrix grows too fast");
    Error::invalid("n", rule)
}

/// Checks that every number of a list, one a row, column or query, is finite.
pub(super) fn check_finite(what: &str, values: &[f64]) -> Result<()> {
    match values.iter().position(|value| !value.is_finite()) {
        Some(index) => Err(not_finite(what, index)),
        None => Ok(()),
    }
}

/// `n` rows, where there may be at most `most` and the matrix has so many.
pub(super) fn check_n(plan: &Plan, n: u64, most: usize) -> Result<usize> {
    let most = plan.horizon().unwrap_or(u64::MAX).min(most as u64);
    if n == 0 || n > most {
        return Err(Error::invalid("n", format!("must be at least 1 and at most {most}, found {n}")));
    }
    Ok(n as usize)
}
