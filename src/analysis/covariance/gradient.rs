//! The derivative of a loss of the row norms by a matrix's parameters: reverse mode through the covariances.

use super::chain::{StageGradient, of_spec};
use super::norms::stride;
use super::step::{Step, WIRE, slots};
use super::symmetric::Symmetric;
use crate::analysis::rows::check_n;
use crate::error::{Error, Result};
use crate::limits::{MAX_SCAN_BYTES, MAX_STRUCTURED_N};
use crate::matrix::{MatrixSpec, Plan};

/// How the scan over steps is run where it has to go back through them: what it keeps, and what it computes
/// again. Every way gives the same bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scan {
    /// What every step overwrites is kept: the fastest, in `O(n planes)` memory for a fixed list of
    /// recurrences.
    #[default]
    StoreAll,
    /// The state is kept at so many steps, evenly apart, and each segment between two of them is run once
    /// more: about `sqrt(n)` of them take the least memory.
    Checkpointed {
        /// States that are kept, at least 1.
        checkpoints: usize,
    },
}

/// Row norms, and the derivative of a weighted sum of them.
#[derive(Clone, Debug, PartialEq)]
pub struct RowNormsGradient {
    /// The squared L2 norm of each row.
    pub row_norms_squared: Vec<f64>,
    /// A description of the matrix's shape that holds, in the place of each parameter, the derivative of
    /// `sum_t weights_t |row_t|^2` by it. A list whose last entry repeats has there the derivative by all
    /// that repeats it. It is no matrix to run: a derivative keeps to no rule of a parameter.
    pub gradient: MatrixSpec,
}

/// The squared L2 norm of each of the first `n` rows, and the derivative of `sum_t weights_t |row_t|^2` by
/// every parameter of the matrix, in `O(n planes^2)`. For a loss `L` of the norms that is no weighted sum,
/// `weights_t` is `dL / d|row_t|^2`.
///
/// # Errors
/// Those of [`MatrixSpec::validate`]; [`Error::Invalid`] on `n` where it is 0, over [`MAX_STRUCTURED_N`] or
/// past the end of the matrix; on `weights` where there are not `n`; on `scan` where it has no checkpoints or
/// would take more than [`MAX_SCAN_BYTES`]; [`Error::Cancelled`].
pub fn row_norms_squared_gradient(
    matrix: &MatrixSpec,
    n: u64,
    weights: &[f64],
    scan: Scan,
    cancelled: impl Fn() -> bool,
) -> Result<RowNormsGradient> {
    if weights.len() as u64 != n {
        // What is wrong with `n` is told first.
        check_n(&Plan::new(matrix)?, n, MAX_STRUCTURED_N)?;
        let rule = format!("must have n = {n} entries, found {}", weights.len());
        return Err(Error::invalid("weights", rule));
    }
    row_norms_squared_gradient_of(matrix, n, |_| weights.to_vec(), scan, cancelled)
}

/// The same, where the weights follow from the norms: `weigh` gives `dL / d|row_t|^2` for each.
pub(crate) fn row_norms_squared_gradient_of(
    matrix: &MatrixSpec,
    n: u64,
    weigh: impl FnOnce(&[f64]) -> Vec<f64>,
    scan: Scan,
    cancelled: impl Fn() -> bool,
) -> Result<RowNormsGradient> {
    // The derivative is by the parameters of every matrix of the description.
    let plan = Plan::uncancelled(matrix)?;
    plan.check_representable::<f64>()?;
    let n = check_n(&plan, n, MAX_STRUCTURED_N)?;
    let mut reverse = Reverse::new(&plan, n, scan, &cancelled)?;
    reverse.forwards()?;
    let weights = weigh(&reverse.norms);
    reverse.backwards(&weights)?;
    let Reverse { norms, gradients, .. } = reverse;
    let gradient = of_spec(matrix, &plan, gradients)?;
    Ok(RowNormsGradient { row_norms_squared: norms, gradient })
}

/// A scan that can be gone back through.
struct Reverse<'a> {
    plan: &'a Plan,
    n: usize,
    /// Steps between two checkpoints.
    segment: usize,
    cancelled: &'a dyn Fn() -> bool,
    covariance: Symmetric,
    /// The entries of the covariance before the first step of each segment.
    checkpoints: Vec<Vec<f64>>,
    /// The rows that the steps of a segment overwrote, in the order in which they did.
    overwritten: Vec<f64>,
    step: Step,
    norms: Vec<f64>,
    gradients: Vec<StageGradient>,
}

impl<'a> Reverse<'a> {
    fn new(plan: &'a Plan, n: usize, scan: Scan, cancelled: &'a dyn Fn() -> bool) -> Result<Self> {
        let checkpoints = match scan {
            Scan::StoreAll => 1,
            Scan::Checkpointed { checkpoints } => checkpoints.min(n),
        };
        if checkpoints == 0 {
            return Err(Error::invalid("scan", "must have at least 1 checkpoint"));
        }
        let segment = n.div_ceil(checkpoints);
        let (slots, mut step) = (slots(plan), Step::default());
        // No step has more assignments than one whose rings are full.
        step.resolve(plan, n - 1);
        let of_segment = (step.assigns.len() + 1).saturating_mul(slots).saturating_mul(segment);
        let values = slots.pow(2).saturating_mul(n.div_ceil(segment)).saturating_add(of_segment);
        let bytes = values.saturating_mul(size_of::<f64>());
        if bytes > MAX_SCAN_BYTES {
            let rule = format!("would take {bytes} bytes, and may take {MAX_SCAN_BYTES}");
            return Err(Error::invalid("scan", rule));
        }
        Ok(Self {
            plan,
            n,
            segment,
            cancelled,
            covariance: Symmetric::zeros(slots),
            checkpoints: Vec::new(),
            overwritten: Vec::with_capacity(of_segment),
            step,
            norms: Vec::with_capacity(n),
            gradients: plan.stages().iter().map(StageGradient::zeros).collect(),
        })
    }

    /// One step; `kept` says that it will be gone back through.
    fn step(&mut self, t: usize, kept: bool) {
        if kept {
            self.overwritten.extend(self.covariance.row(WIRE));
        }
        self.covariance.reset_wire(1.0);
        self.step.resolve(self.plan, t);
        for (target, terms) in self.step.iter() {
            if kept {
                self.overwritten.extend(self.covariance.row(target));
            }
            self.covariance.assign(target, terms);
        }
    }

    fn check(&self, t: usize) -> Result<()> {
        if t.is_multiple_of(stride(self.plan)) && (self.cancelled)() {
            return Err(Error::Cancelled);
        }
        Ok(())
    }

    /// All norms; what the last segment overwrites is kept, since it comes first on the way back.
    fn forwards(&mut self) -> Result<()> {
        let last = (self.n - 1) / self.segment;
        for t in 0..self.n {
            self.check(t)?;
            if t.is_multiple_of(self.segment) {
                self.checkpoints.push(self.covariance.entries().to_vec());
            }
            self.step(t, t / self.segment == last);
            self.norms.push(self.covariance.at(WIRE, WIRE));
        }
        Ok(())
    }

    fn backwards(&mut self, weights: &[f64]) -> Result<()> {
        let mut derivative = Symmetric::zeros(slots(self.plan));
        let mut scratch = Scratch::new(slots(self.plan));
        for segment in (0..self.checkpoints.len()).rev() {
            let steps = segment * self.segment..self.n.min((segment + 1) * self.segment);
            if segment + 1 < self.checkpoints.len() {
                self.covariance.set_entries(&self.checkpoints[segment]);
                for t in steps.clone() {
                    self.check(t)?;
                    self.step(t, true);
                }
            }
            for t in steps.rev() {
                self.check(t)?;
                derivative.add_to_wire(weights[t]);
                self.back(t, &mut derivative, &mut scratch);
            }
        }
        Ok(())
    }

    /// Takes the covariance and the derivative by it from after step `t` to before it.
    fn back(&mut self, t: usize, derivative: &mut Symmetric, scratch: &mut Scratch) {
        self.step.resolve(self.plan, t);
        scratch.by_weight.clear();
        scratch.by_weight.resize(self.step.terms.len(), 0.0);
        let mut end = self.step.terms.len();
        for (target, terms) in self.step.iter().rev() {
            undo(&mut self.covariance, &mut self.overwritten, target);
            derivative.pull(target, terms, &mut scratch.direction);
            let begin = end - terms.len();
            for (by_weight, term) in scratch.by_weight[begin..end].iter_mut().zip(terms) {
                *by_weight = 2.0 * self.covariance.times(term.slot, &scratch.direction);
            }
            end = begin;
        }
        undo(&mut self.covariance, &mut self.overwritten, WIRE);
        // What comes in is the same whatever the parameters.
        derivative.reset_wire(0.0);
        let terms = self.step.stages.iter().cloned();
        for ((gradient, stage), terms) in self.gradients.iter_mut().zip(self.plan.stages()).zip(terms) {
            gradient.add(stage, t, &scratch.by_weight[terms]);
        }
    }
}

/// What a step back needs for its own time.
struct Scratch {
    direction: Vec<f64>,
    by_weight: Vec<f64>,
}

impl Scratch {
    fn new(slots: usize) -> Self {
        Self { direction: vec![0.0; slots], by_weight: Vec::new() }
    }
}

fn undo(covariance: &mut Symmetric, overwritten: &mut Vec<f64>, target: usize) {
    let begin = overwritten.len() - covariance.row(target).len();
    covariance.restore(target, &overwritten[begin..]);
    overwritten.truncate(begin);
}
