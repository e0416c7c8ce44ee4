//! Norms of rows by the covariance carried forwards, norms of columns by the quadratic form carried
//! backwards.

use super::probe::{self, Line};
use super::step::{Step, WIRE, slots};
use super::symmetric::Symmetric;
use crate::error::{Error, Result};
use crate::matrix::Plan;

/// Multiplications, about, between two questions whether the caller still wants the answer.
const WORK_BETWEEN: usize = 1 << 18;

/// Norms, and how much may be made of them.
#[derive(Debug)]
pub(in crate::analysis) struct Found {
    pub(in crate::analysis) values: Vec<f64>,
    /// What cancelled, for each unit of what was left.
    pub(in crate::analysis) cancelled: f64,
    /// The largest relative error of those that were checked.
    pub(in crate::analysis) error: f64,
}

/// Steps between two questions.
pub(super) fn stride(plan: &Plan) -> usize {
    (WORK_BETWEEN / slots(plan).pow(2)).max(1)
}

/// The squared norms of the first `n` rows.
pub(in crate::analysis) fn row_norms(plan: &Plan, n: usize, cancelled: &dyn Fn() -> bool) -> Result<Found> {
    let mut covariance = Symmetric::zeros(slots(plan));
    let mut step = Step::default();
    let mut values = Vec::with_capacity(n);
    let stride = stride(plan);
    for t in 0..n {
        if t % stride == 0 && cancelled() {
            return Err(Error::Cancelled);
        }
        covariance.reset_wire(1.0);
        step.resolve(plan, t);
        step.iter().for_each(|(target, terms)| covariance.assign(target, terms));
        values.push(covariance.at(WIRE, WIRE));
    }
    let error = probe::error(plan, Line::Row, &values, cancelled)?;
    Ok(Found { values, cancelled: covariance.cancelled(), error })
}

/// The squared norms of the first `n` columns of the leading `n x n` block.
pub(in crate::analysis) fn column_norms(
    plan: &Plan,
    n: usize,
    cancelled: &dyn Fn() -> bool,
) -> Result<Found> {
    // The sum of squares of what comes out from the next step on, as a form of the state.
    let mut form = Symmetric::zeros(slots(plan));
    let mut direction = vec![0.0; slots(plan)];
    let mut step = Step::default();
    let mut values = vec![0.0; n];
    let stride = stride(plan);
    for (t, value) in values.iter_mut().enumerate().rev() {
        if t % stride == 0 && cancelled() {
            return Err(Error::Cancelled);
        }
        form.reset_wire(1.0);
        step.resolve(plan, t);
        step.iter().rev().for_each(|(target, terms)| form.pull(target, terms, &mut direction));
        *value = form.at(WIRE, WIRE);
    }
    let error = probe::error(plan, Line::Column, &values, cancelled)?;
    Ok(Found { values, cancelled: form.cancelled(), error })
}
