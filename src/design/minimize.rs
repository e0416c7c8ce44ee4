//! Minimising a smooth function with its gradient: L-BFGS.
//!
//! Ours and not a library's, because of what the functions here need together: value and gradient come from
//! one sweep and cost the same; a point outside the domain has no value, and the line search has to step back
//! from it; the best point seen is kept, whatever happens after; and whoever waits may give up at any
//! iteration.

use std::collections::VecDeque;

use crate::error::{Error, Result};

/// When to stop.
#[derive(Clone, Copy, Debug)]
pub(super) struct MinimizeOptions {
    /// Iterations at most.
    pub(super) max_iterations: u64,
    /// Stop where [`PATIENCE`] iterations together lower the value by less than this part of it.
    pub(super) relative_tolerance: f64,
    /// Pairs of steps and gradient differences that are remembered.
    pub(super) memory: usize,
}

impl Default for MinimizeOptions {
    fn default() -> Self {
        Self { max_iterations: 500, relative_tolerance: 1e-9, memory: 20 }
    }
}

/// The lowest point seen.
#[derive(Clone, Debug)]
pub(super) struct Minimum {
    pub(super) point: Vec<f64>,
    pub(super) value: f64,
    pub(super) iterations: u64,
}

/// Writes the gradient at a point and gives the value there, or `None` outside the domain.
pub(super) type ValueAndGradient<'a> = dyn FnMut(&[f64], &mut [f64]) -> Option<f64> + 'a;

/// Iterations over which progress is judged.
const PATIENCE: usize = 8;

/// Trials of one line search.
const MAX_TRIALS: usize = 60;

/// Minimises `value_and_gradient` from `start`. The function writes its gradient and gives its value, or
/// `None` outside its domain. `on_iteration` hears the iteration and the value; where it answers `false` the
/// lowest point so far is the answer.
///
/// # Errors
/// [`Error::Invalid`] where `start` is outside the domain.
pub(super) fn minimize(
    start: Vec<f64>,
    value_and_gradient: &mut ValueAndGradient<'_>,
    options: &MinimizeOptions,
    on_iteration: &mut dyn FnMut(u64, f64) -> bool,
) -> Result<Minimum> {
    let mut function = |point: &[f64]| {
        let mut gradient = vec![0.0; point.len()];
        let value = value_and_gradient(point, &mut gradient)?;
        let finite = value.is_finite() && gradient.iter().all(|g| g.is_finite());
        finite.then_some(Evaluation { point: point.to_vec(), value, gradient })
    };
    let outside =
        || Error::invalid("workload", "the loss of the strategy that the search starts from is not finite");
    let mut here = function(&start).ok_or_else(outside)?;
    let mut memory = Memory::new(options.memory);
    let mut values = VecDeque::from([here.value]);
    let mut iterations = 0;
    while iterations < options.max_iterations {
        if !on_iteration(iterations, here.value) {
            break;
        }
        let mut direction = memory.direction(&here.gradient);
        if dot(&direction, &here.gradient) >= 0.0 {
            memory.forget();
            direction = memory.direction(&here.gradient);
        }
        let next = match line_search(&here, &direction, &mut function) {
            Some(next) => next,
            // What is remembered may mislead; the gradient alone does not.
            None if !memory.is_empty() => {
                memory.forget();
                continue;
            }
            None => break,
        };
        memory.learn(&here, &next);
        here = next;
        iterations += 1;
        values.push_back(here.value);
        if values.len() > PATIENCE {
            let before = values.pop_front().unwrap_or(f64::INFINITY);
            if before - here.value <= options.relative_tolerance * here.value.abs().max(f64::MIN_POSITIVE) {
                break;
            }
        }
    }
    // Every step that a line search takes goes down, so the last point is the lowest.
    Ok(Minimum { point: here.point, value: here.value, iterations })
}

struct Evaluation {
    point: Vec<f64>,
    value: f64,
    gradient: Vec<f64>,
}

/// A point lower than `here` along `direction`, by a bisection for the weak Wolfe conditions (Lewis and
/// Overton 2013), which needs no value where there is none.
fn line_search(
    here: &Evaluation,
    direction: &[f64],
    function: &mut impl FnMut(&[f64]) -> Option<Evaluation>,
) -> Option<Evaluation> {
    const SUFFICIENT: f64 = 1e-4;
    const CURVATURE: f64 = 0.9;
    let slope = dot(direction, &here.gradient);
    if slope >= 0.0 || !slope.is_finite() {
        return None;
    }
    let (mut low, mut high, mut step) = (0.0, f64::INFINITY, 1.0);
    let mut lower = None;
    for _ in 0..MAX_TRIALS {
        let point: Vec<f64> = here.point.iter().zip(direction).map(|(x, d)| x + step * d).collect();
        match function(&point) {
            Some(there) if there.value <= here.value + SUFFICIENT * step * slope => {
                if dot(direction, &there.gradient) >= CURVATURE * slope {
                    return (there.value < here.value).then_some(there);
                }
                low = step;
                if there.value < here.value {
                    lower = Some(there);
                }
            }
            Some(_) | None => high = step,
        }
        step = if high.is_finite() { 0.5 * (low + high) } else { 2.0 * low };
        if high - low <= f64::EPSILON * low {
            break;
        }
    }
    lower
}

/// The last steps and how the gradient changed along them.
struct Memory {
    pairs: VecDeque<Pair>,
    most: usize,
}

struct Pair {
    step: Vec<f64>,
    change: Vec<f64>,
    /// Their product.
    curvature: f64,
}

impl Memory {
    fn new(most: usize) -> Self {
        Self { pairs: VecDeque::new(), most }
    }

    fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }

    fn forget(&mut self) {
        self.pairs.clear();
    }

    fn learn(&mut self, here: &Evaluation, there: &Evaluation) {
        let difference = |a: &[f64], b: &[f64]| -> Vec<f64> { a.iter().zip(b).map(|(a, b)| a - b).collect() };
        let step = difference(&there.point, &here.point);
        let change = difference(&there.gradient, &here.gradient);
        let curvature = dot(&step, &change);
        if curvature > f64::EPSILON * dot(&change, &change).sqrt() * dot(&step, &step).sqrt() {
            self.pairs.push_back(Pair { step, change, curvature });
            if self.pairs.len() > self.most {
                self.pairs.pop_front();
            }
        }
    }

    /// The two-loop recursion (Nocedal and Wright, Numerical Optimization, Algorithm 7.4), negated.
    fn direction(&self, gradient: &[f64]) -> Vec<f64> {
        let mut direction: Vec<f64> = gradient.iter().map(|g| -g).collect();
        let Some(last) = self.pairs.back() else {
            // Without knowledge of the scale: a step of length one at most.
            let length = dot(gradient, gradient).sqrt();
            direction.iter_mut().for_each(|d| *d /= length.max(1.0));
            return direction;
        };
        let mut weights = Vec::with_capacity(self.pairs.len());
        for pair in self.pairs.iter().rev() {
            let weight = dot(&pair.step, &direction) / pair.curvature;
            direction.iter_mut().zip(&pair.change).for_each(|(d, y)| *d -= weight * y);
            weights.push(weight);
        }
        let scale = last.curvature / dot(&last.change, &last.change);
        direction.iter_mut().for_each(|d| *d *= scale);
        for (pair, weight) in self.pairs.iter().zip(weights.into_iter().rev()) {
            let correction = weight - dot(&pair.change, &direction) / pair.curvature;
            direction.iter_mut().zip(&pair.step).for_each(|(d, s)| *d += correction * s);
        }
        direction
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rosenbrock(x: &[f64], gradient: &mut [f64]) -> Option<f64> {
        let (a, b) = (1.0 - x[0], x[1] - x[0] * x[0]);
        gradient[0] = -2.0 * a - 400.0 * x[0] * b;
        gradient[1] = 200.0 * b;
        Some(a * a + 100.0 * b * b)
    }

    #[test]
    fn a_curved_valley() {
        let start = vec![-1.2, 1.0];
        let found = minimize(start, &mut rosenbrock, &MinimizeOptions::default(), &mut |_, _| true).unwrap();
        assert!(found.value < 1e-12 && found.iterations < 100, "{found:?}");
    }

    #[test]
    fn a_point_outside_the_domain_is_stepped_back_from() {
        // Falls to its lowest point just inside of where it ends.
        let mut function = |x: &[f64], gradient: &mut [f64]| {
            gradient[0] = -1.0 + 1e-3 / (1.0 - x[0]);
            (x[0] < 1.0).then(|| -x[0] - 1e-3 * (1.0 - x[0]).ln())
        };
        let found =
            minimize(vec![-50.0], &mut function, &MinimizeOptions::default(), &mut |_, _| true).unwrap();
        assert!((found.point[0] - 0.999).abs() < 1e-4, "{found:?}");
        let outside = minimize(vec![2.0], &mut function, &MinimizeOptions::default(), &mut |_, _| true);
        assert!(outside.is_err());
    }

    #[test]
    fn a_search_that_is_stopped_gives_its_lowest_point() {
        let mut heard = f64::INFINITY;
        let stop = &mut |iteration, value| {
            heard = value;
            iteration < 3
        };
        let found = minimize(vec![-1.2, 1.0], &mut rosenbrock, &MinimizeOptions::default(), stop).unwrap();
        assert_eq!((found.iterations, found.value), (3, heard));
        assert_eq!(rosenbrock(&found.point, &mut [0.0; 2]), Some(heard));
    }
}
