//! The product of a matrix with an array.

use ndarray::{ArrayD, ArrayViewD, Axis};

use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::kernel::{Aligned, Backend, Data, Pass, PassState, StepIo, Steps, state_values};
use crate::limits::{ANALYSIS_STATE_BYTES, MAX_STEPS_A_PASS, TILE_LANES};
use crate::matrix::{MatrixSpec, Plan};
use crate::tree::Layout;

/// `A x` where the first axis of `x` is the step. `cancelled` is asked between steps.
///
/// # Errors
/// Those of [`MatrixSpec::validate`]; [`Error::Invalid`] on `x` where it has no steps, no lanes, or more
/// steps than the matrix has rows, or where it is finite and the product is not; [`Error::Cancelled`].
pub fn multiply(
    matrix: &MatrixSpec,
    x: ArrayViewD<'_, f64>,
    cancelled: impl Fn() -> bool,
) -> Result<ArrayD<f64>> {
    let plan = Plan::new(matrix)?;
    plan.check_representable::<f64>()?;
    multiply_plan(&plan, x, &cancelled)
}

/// The same of a matrix that is ready to run.
pub(super) fn multiply_plan(
    plan: &Plan,
    x: ArrayViewD<'_, f64>,
    cancelled: &dyn Fn() -> bool,
) -> Result<ArrayD<f64>> {
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
    let is_finite = |row: ndarray::ArrayView1<'_, f64>| row.iter().all(|value| value.is_finite());
    if let Some(step) = product.outer_iter().position(|row| !is_finite(row))
        && x.iter().all(|value| value.is_finite())
    {
        let rule = format!("must have at most {step} steps: the product is not finite in f64 at step {step}");
        return Err(Error::invalid("x", rule));
    }
    product.into_shape_with_order(x.raw_dim()).map_err(invalid)
}
