//! Single rows and columns, by the step's assignments on a vector: what norms by covariances are checked
//! with.
//!
//! A covariance squares what it is made of, and keeps the rounding of its largest values where recurrences do
//! not forget. What is small beside these has lost digits, without a trace in the numbers at hand.

use super::norms::stride;
use super::step::{Step, WIRE, slots};
use crate::error::{Error, Result};
use crate::matrix::Plan;

/// A line of a matrix.
#[derive(Clone, Copy, Debug)]
pub(super) enum Line {
    Row,
    Column,
}

/// The largest relative error of some of the norms found: those of both ends, of the middle, and the
/// smallest.
pub(super) fn error(plan: &Plan, line: Line, norms: &[f64], cancelled: &dyn Fn() -> bool) -> Result<f64> {
    let n = norms.len();
    let smallest = (0..n).min_by(|&i, &j| norms[i].total_cmp(&norms[j])).unwrap_or_default();
    let mut worst = 0.0_f64;
    for i in [0, n / 2, n - 1, smallest] {
        let exact = match line {
            Line::Row => row(plan, i, cancelled)?,
            Line::Column => column(plan, i, n, cancelled)?,
        };
        if norms[i] != exact {
            let error = (norms[i] - exact).abs() / exact;
            // What is not a number is no small error.
            worst = worst.max(if error.is_nan() { f64::INFINITY } else { error });
        }
    }
    Ok(worst)
}

/// The squared norm of row `i`: the output's derivative by every input, from the last to the first.
fn row(plan: &Plan, i: usize, cancelled: &dyn Fn() -> bool) -> Result<f64> {
    let (mut step, mut derivative) = (Step::default(), vec![0.0; slots(plan)]);
    let mut sum = 0.0;
    for t in (0..=i).rev() {
        check(plan, t, cancelled)?;
        derivative[WIRE] = f64::from(t == i);
        step.resolve(plan, t);
        for (target, terms) in step.iter().rev() {
            let own = std::mem::take(&mut derivative[target]);
            terms.iter().for_each(|term| derivative[term.slot] += term.weight * own);
        }
        sum += derivative[WIRE] * derivative[WIRE];
    }
    Ok(sum)
}

/// The squared norm of column `j`: what comes out of a unit impulse.
fn column(plan: &Plan, j: usize, n: usize, cancelled: &dyn Fn() -> bool) -> Result<f64> {
    let (mut step, mut values) = (Step::default(), vec![0.0; slots(plan)]);
    let mut sum = 0.0;
    for t in j..n {
        check(plan, t, cancelled)?;
        values[WIRE] = f64::from(t == j);
        step.resolve(plan, t);
        for (target, terms) in step.iter() {
            values[target] = terms.iter().map(|term| term.weight * values[term.slot]).sum();
        }
        sum += values[WIRE] * values[WIRE];
    }
    Ok(sum)
}

fn check(plan: &Plan, t: usize, cancelled: &dyn Fn() -> bool) -> Result<()> {
    if t.is_multiple_of(stride(plan)) && cancelled() {
        return Err(Error::Cancelled);
    }
    Ok(())
}
