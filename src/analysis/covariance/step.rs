//! [`Step`]: one step of a list of recurrences as assignments of linear combinations to variables.

use std::ops::Range;

use crate::matrix::{BandedRows, Plan, Stage, banded_weight, clip};

/// The variable of the value that goes from one recurrence to the next.
pub(in crate::analysis) const WIRE: usize = 0;

/// A variable that holds what is needed for the length of one recurrence.
const SPARE: usize = 1;

/// The variables that are not state.
const BESIDE_STATE: usize = 2;

/// A variable and what it is multiplied with.
#[derive(Clone, Copy, Debug)]
pub(in crate::analysis) struct Term {
    pub(in crate::analysis) slot: usize,
    pub(in crate::analysis) weight: f64,
}

/// A variable gets a linear combination of variables.
#[derive(Clone, Debug)]
pub(in crate::analysis) struct Assign {
    pub(in crate::analysis) target: usize,
    pub(in crate::analysis) terms: Range<usize>,
}

/// One step. Made once, and resolved for one step after another.
#[derive(Clone, Debug, Default)]
pub(in crate::analysis) struct Step {
    pub(in crate::analysis) assigns: Vec<Assign>,
    pub(in crate::analysis) terms: Vec<Term>,
    /// The terms of each stage.
    pub(in crate::analysis) stages: Vec<Range<usize>>,
}

/// The variables of a plan: those beside its state, and its state.
pub(in crate::analysis) fn slots(plan: &Plan) -> usize {
    BESIDE_STATE + plan.planes()
}

impl Step {
    /// Sets this to step `step` of a plan.
    pub(in crate::analysis) fn resolve(&mut self, plan: &Plan, step: usize) {
        self.assigns.clear();
        self.terms.clear();
        self.stages.clear();
        let mut first = BESIDE_STATE;
        for stage in plan.stages() {
            let terms = self.terms.len();
            self.stage(stage, step, first);
            self.stages.push(terms..self.terms.len());
            first += stage.planes();
        }
    }

    /// The assignment and its terms, for each.
    pub(in crate::analysis) fn iter(&self) -> impl DoubleEndedIterator<Item = (usize, &[Term])> {
        self.assigns.iter().map(|assign| (assign.target, &self.terms[assign.terms.clone()]))
    }

    fn assign(&mut self, target: usize, terms: impl IntoIterator<Item = (usize, f64)>) {
        let first = self.terms.len();
        self.terms.extend(terms.into_iter().map(|(slot, weight)| Term { slot, weight }));
        self.assigns.push(Assign { target, terms: first..self.terms.len() });
    }

    /// Appends a stage whose state begins at `first`. What `chain` makes of the weights follows the order of
    /// the terms here.
    fn stage(&mut self, stage: &Stage, step: usize, first: usize) {
        match stage {
            Stage::Scale(scale) => self.assign(WIRE, [(WIRE, scale.at(step as u64))]),
            Stage::PrefixSum { inverse: false } => {
                self.assign(first, [(first, 1.0), (WIRE, 1.0)]);
                self.assign(WIRE, [(first, 1.0)]);
            }
            Stage::PrefixSum { inverse: true } => {
                self.assign(SPARE, [(WIRE, 1.0), (first, -1.0)]);
                self.assign(first, [(WIRE, 1.0)]);
                self.assign(WIRE, [(SPARE, 1.0)]);
            }
            Stage::Momentum { momentum, learning_rates, inverse } => {
                let (m, r) = (first, first + 1);
                let rate = learning_rates[clip(step as u64, learning_rates.len())];
                if *inverse {
                    self.assign(SPARE, [(WIRE, 1.0 / rate), (r, -1.0 / rate)]);
                    self.assign(r, [(WIRE, 1.0)]);
                    self.assign(WIRE, [(SPARE, 1.0), (m, -momentum)]);
                    self.assign(m, [(SPARE, 1.0)]);
                } else {
                    self.assign(m, [(m, *momentum), (WIRE, 1.0)]);
                    self.assign(r, [(r, 1.0), (m, rate)]);
                    self.assign(WIRE, [(r, 1.0)]);
                }
            }
            Stage::Banded { rows, inverse } => self.banded(rows, *inverse, step, first),
            Stage::Blt { buf_decay, output_scale, inverse } => {
                let sign = if *inverse { -1.0 } else { 1.0 };
                let output = if *inverse { WIRE } else { SPARE };
                let sum = output_scale.iter().enumerate().map(|(k, weight)| (first + k, sign * weight));
                self.assign(output, [(WIRE, 1.0)].into_iter().chain(sum));
                for (k, &theta) in buf_decay.iter().enumerate() {
                    self.assign(first + k, [(first + k, theta), (WIRE, 1.0)]);
                }
                if !inverse {
                    self.assign(WIRE, [(SPARE, 1.0)]);
                }
            }
        }
    }

    /// What was pushed at step `i` lies in plane `i` modulo the planes.
    fn banded(&mut self, rows: &BandedRows, inverse: bool, step: usize, first: usize) {
        let planes = rows.planes();
        let output = if inverse || planes == 0 { WIRE } else { SPARE };
        let term = |back: usize| {
            let slot = if back == 0 { WIRE } else { first + (step - back) % planes };
            (slot, banded_weight(rows, inverse, step, back))
        };
        self.assign(output, (0..=planes.min(step)).map(term));
        if planes > 0 {
            self.assign(first + step % planes, [(WIRE, 1.0)]);
        }
        if output == SPARE {
            self.assign(WIRE, [(SPARE, 1.0)]);
        }
    }
}
