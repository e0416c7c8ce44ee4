//! How far the values of a matrix's recurrences grow, and how large rounding errors become in what it gives.
//!
//! A few lanes of signs go through the recurrences in f64, step by step, as assignments (see
//! `covariance::step`). Beside each value goes the error that it has in the arithmetic of a session: every
//! rounded operation adds one of a random sign and the size that rounding has, and all of them go through the
//! same recurrences. That is the first order of the error, which tells when it is no longer small. Steps past
//! those that are run are told by how the last of them grew.

use super::covariance::step::{Step, Term, WIRE, slots};
use crate::dtype::Precision;
use crate::error::Result;
use crate::limits::{MAX_GROWTH_STEPS, MAX_RELATIVE_ERROR, UNLIMITED_GROWTH_STEPS};
use crate::matrix::{MatrixSpec, Plan, Runs, Stage};

/// Lanes that go through the recurrences together.
const LANES: usize = 8;

/// Terms of assignments, about, that are worked out.
const MOST_TERMS: usize = 1 << 18;

/// Steps that are run at least, beside twice as many as there are planes.
const LEAST_STEPS: usize = 1 << 8;

/// Steps whose values and errors are compared as a whole.
const WINDOW: usize = 16;

/// How far the values of a session's lanes may be beyond those of the few that are run.
const PEAK: f64 = 16.0;

/// From here on, squares are those of quotients by this number.
const LARGE: f64 = 1e140;

/// What large values are multiplied with before they are squared: the square of no number overflows then.
const UNIT_OF_LARGE: f64 = 1e-200;

/// The root mean square of a rounding error, in units of half the distance from 1 to the next number, for
/// each unit of what is rounded: errors are spread evenly, and numbers within their powers of two.
const ROUNDING: f64 = 0.42;

/// How values and rounding errors of a matrix grow.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Growth {
    /// The steps that this is about: the horizon where there is one and it is not longer than
    /// [`MAX_GROWTH_STEPS`].
    pub steps: u64,
    /// The root mean square of the rounding error at the last of these steps, or where
    /// [`Growth::sound_steps`] ends, for each unit of that of what the matrix gives there; for white input,
    /// to the first order. 1 where no digit is left.
    pub relative_error: f64,
    /// The steps, fewer than `steps`, up to which rounding errors are at most [`MAX_RELATIVE_ERROR`] of what
    /// the matrix gives, and no value overflows. `None` where all of them are so.
    pub sound_steps: Option<u64>,
    /// Whether it is an overflow that comes then.
    pub overflows: bool,
}

/// How a matrix grows in a session of a precision, for white input of variance 1.
///
/// # Errors
/// Those of [`MatrixSpec::validate`].
pub fn growth_of(matrix: &MatrixSpec, precision: Precision, horizon: Option<u64>) -> Result<Growth> {
    let plan = Plan::new(matrix)?;
    let ends = [horizon, plan.horizon()].into_iter().flatten().min();
    Ok(growth(&plan, precision, ends.map(|end| end.max(1)), 1.0))
}

/// Growth from an octave of steps to the next, as a power of 2, from which on it may be exponential.
const SUSPECTED: f64 = 1.0;

/// The same, from which on it is: no power of the step that a session's matrix grows with is as large.
const CERTAIN: f64 = 3.0;

/// Terms of a step of which eight times as many steps are affordable.
const FEW_TERMS: usize = 256;

/// How a matrix grows in an arithmetic, for white input of standard deviation `stddev`.
pub(crate) fn growth(plan: &Plan, precision: Precision, horizon: Option<u64>, stddev: f64) -> Growth {
    let steps = horizon.unwrap_or(UNLIMITED_GROWTH_STEPS).min(MAX_GROWTH_STEPS);
    // The numbers that a session multiplies with. Where it cannot hold them, there is none.
    let rounded = plan.rounded(precision, Runs::Matrix);
    let mut lanes = Lanes::new(rounded.as_ref().unwrap_or(plan), precision, stddev);
    let mut run = lanes.affordable_steps(steps);
    let mut least = if lanes.step.terms.len() < FEW_TERMS { SUSPECTED } else { CERTAIN };
    let mut t = 0;
    let (errors, values) = loop {
        while t < run {
            if let Some(overflows) = lanes.step(t as usize) {
                let relative_error = capped(lanes.window.relative_error());
                return Growth { steps, relative_error, sound_steps: Some(t), overflows };
            }
            t += 1;
        }
        if run == steps {
            let relative_error = capped(lanes.window.relative_error());
            return Growth { steps, relative_error, sound_steps: None, overflows: false };
        }
        let errors = Trend::of(lanes.octaves.map(|octave| octave.relative_error()), run, least);
        let values = Trend::of(lanes.octaves.map(|octave| octave.largest), run, least);
        if least == CERTAIN || (errors.rate == 0.0 && values.rate == 0.0) {
            break (errors, values);
        }
        // Sums of a few lanes double by chance. Exponential growth has eight times the power after three
        // octaves more.
        run = run.saturating_mul(8).min(steps);
        least = CERTAIN;
    };
    let unsound = errors.reaches(MAX_RELATIVE_ERROR).max(run as f64);
    let overflow = values.reaches(lanes.largest_value).max(run as f64);
    let first = unsound.min(overflow);
    Growth {
        steps,
        relative_error: capped(errors.at((first as u64).min(steps) as f64)),
        sound_steps: (first < steps as f64).then_some(first as u64),
        overflows: overflow < unsound,
    }
}

/// An error of all digits is as large as there is, and so is one that is not a number.
fn capped(relative_error: f64) -> f64 {
    if relative_error < 1.0 { relative_error } else { 1.0 }
}

/// Whether a matrix may grow, or lose digits, at all: one that remembers a few inputs, or adds them up, may
/// not.
pub(crate) fn may_grow(plan: &Plan) -> bool {
    let feeds_back = |stage: &Stage| {
        matches!(stage, Stage::Banded { inverse: true, .. } | Stage::Blt { inverse: true, .. })
    };
    let stateful = plan.stages().iter().filter(|stage| stage.planes() > 0);
    stateful.clone().count() > 1 || stateful.clone().any(feeds_back)
}

/// Sums over some steps.
#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    values: f64,
    errors: f64,
    largest: f64,
}

impl Sums {
    fn add(&mut self, other: Self) {
        self.values += other.values;
        self.errors += other.errors;
        self.largest = self.largest.max(other.largest);
    }

    fn relative_error(&self) -> f64 {
        if self.errors == 0.0 { 0.0 } else { (self.errors / self.values).sqrt() }
    }
}

/// The sums over the last few steps.
#[derive(Debug, Default)]
struct Window {
    steps: [Sums; WINDOW],
}

impl Window {
    fn relative_error(&self) -> f64 {
        let mut all = Sums::default();
        self.steps.iter().for_each(|&step| all.add(step));
        all.relative_error()
    }
}

/// How a number went from octave to octave of steps, and goes on.
#[derive(Clone, Copy, Debug)]
struct Trend {
    /// The middle of the last octave, and the logarithm of the number there.
    middle: f64,
    last: f64,
    /// Growth as a power of the step.
    power: f64,
    /// Growth a step, where powers do not tell it.
    rate: f64,
}

impl Trend {
    /// Of the last three octaves before `run`. Growth by less than the power `least` is never told to be
    /// exponential.
    fn of(octaves: [f64; 3], run: u64, least: f64) -> Self {
        /// What growth as a power may rise by, from an octave to the next, where chance alone has a hand in
        /// it.
        const CHANCE: f64 = 0.5;
        let [first, second, third] = octaves.map(|value| value.max(f64::MIN_POSITIVE).log2());
        let (before, power) = (second - first, third - second);
        let exponential = power > least && power > before + CHANCE;
        let rate = if exponential { power / (0.375 * run as f64) } else { 0.0 };
        Self { middle: 0.75 * run as f64, last: third, power: power.max(0.0), rate }
    }

    fn at(&self, step: f64) -> f64 {
        let grown = if self.rate > 0.0 {
            self.rate * (step - self.middle)
        } else {
            self.power * (step / self.middle).log2()
        };
        (self.last + grown).exp2()
    }

    /// The step at which the number reaches a limit; infinite where it does not grow.
    fn reaches(&self, limit: f64) -> f64 {
        let left = limit.log2() - self.last;
        if self.rate > 0.0 {
            self.middle + left / self.rate
        } else if self.power > 0.0 {
            self.middle * (left / self.power).exp2()
        } else {
            f64::INFINITY
        }
    }
}

/// Values and their errors in all variables of a plan, for a few lanes.
struct Lanes<'a> {
    plan: &'a Plan,
    step: Step,
    values: Vec<[f64; LANES]>,
    errors: Vec<[f64; LANES]>,
    /// The size of a rounding error, for each unit of what is rounded.
    unit: f64,
    /// The largest value that these lanes may have.
    largest_value: f64,
    signs: u64,
    /// Whether a value was larger than [`LARGE`].
    has_grown: bool,
    window: Window,
    /// The octaves of steps that ended last.
    octaves: [Sums; 3],
    octave: Sums,
}

impl<'a> Lanes<'a> {
    fn new(plan: &'a Plan, precision: Precision, stddev: f64) -> Self {
        let (roundoff, largest) = match precision {
            Precision::F32 => (f64::from(f32::EPSILON) / 2.0, f64::from(f32::MAX)),
            Precision::F64 => (f64::EPSILON / 2.0, f64::MAX),
        };
        Self {
            plan,
            step: Step::default(),
            values: vec![[0.0; LANES]; slots(plan)],
            errors: vec![[0.0; LANES]; slots(plan)],
            unit: ROUNDING * roundoff,
            largest_value: largest / PEAK / stddev,
            signs: 0x9E37_79B9_7F4A_7C15,
            has_grown: false,
            window: Window::default(),
            octaves: [Sums::default(); 3],
            octave: Sums::default(),
        }
    }

    /// All steps where they are few, and else a power of two.
    fn affordable_steps(&mut self, steps: u64) -> u64 {
        let planes = self.plan.planes();
        // No step has more terms than one whose rings are full.
        self.step.resolve(self.plan, (steps - 1).min(planes as u64) as usize);
        let affordable = (MOST_TERMS / self.step.terms.len().max(1)).max(LEAST_STEPS).max(2 * planes);
        let affordable = affordable.next_power_of_two() as u64;
        steps.min(affordable)
    }

    /// Takes the lanes through a step. Tells whether a value overflows (`true`), or rounding errors are too
    /// large.
    fn step(&mut self, t: usize) -> Option<bool> {
        let mut step = std::mem::take(&mut self.step);
        step.resolve(self.plan, t);
        self.values[WIRE] = self.random_signs();
        self.errors[WIRE] = [0.0; LANES];
        let mut largest = 0.0_f64;
        for (target, terms) in step.iter() {
            largest = largest.max(self.assign(target, terms));
        }
        self.step = step;
        // The squares of what is large are too large, and the sums are about their quotients alone.
        self.has_grown |= largest > LARGE;
        let unit = self.unit_of_squares();
        let squares = |list: &[f64; LANES]| list.iter().map(|x| (x * unit).powi(2)).sum();
        let (values, errors) = (squares(&self.values[WIRE]), squares(&self.errors[WIRE]));
        let sums = Sums { values, errors, largest };
        self.window.steps[t % WINDOW] = sums;
        self.octave.add(sums);
        if (t + 1).is_power_of_two() {
            self.octaves.rotate_left(1);
            self.octaves[2] = std::mem::take(&mut self.octave);
        }
        let overflows = largest > self.largest_value;
        let unsound = self.window.relative_error() > MAX_RELATIVE_ERROR || !errors.is_finite();
        (overflows || unsound).then_some(overflows)
    }

    /// Sets a variable to a linear combination, and tells the largest number on the way.
    fn assign(&mut self, target: usize, terms: &[Term]) -> f64 {
        if let [Term { slot, weight: 1.0 }] = *terms {
            (self.values[target], self.errors[target]) = (self.values[slot], self.errors[slot]);
            return 0.0;
        }
        let unit = self.unit_of_squares();
        let (mut sum, mut error, mut rounded, mut largest) =
            ([0.0; LANES], [0.0; LANES], [0.0; LANES], [0.0_f64; LANES]);
        for &Term { slot, weight } in terms {
            let (values, errors) = (&self.values[slot], &self.errors[slot]);
            for i in 0..LANES {
                sum[i] += weight * values[i];
                error[i] += weight * errors[i];
                rounded[i] += (sum[i] * unit).powi(2);
                largest[i] = largest[i].max(sum[i].abs());
            }
        }
        let signs = self.random_signs();
        for i in 0..LANES {
            error[i] += signs[i] * self.unit * rounded[i].sqrt() / unit;
        }
        (self.values[target], self.errors[target]) = (sum, error);
        // `max` passes over what is not a number.
        if sum.iter().all(|sum| sum.is_finite()) {
            largest.into_iter().fold(0.0, f64::max)
        } else {
            f64::INFINITY
        }
    }

    fn unit_of_squares(&self) -> f64 {
        if self.has_grown { UNIT_OF_LARGE } else { 1.0 }
    }

    fn random_signs(&mut self) -> [f64; LANES] {
        self.signs ^= self.signs << 13;
        self.signs ^= self.signs >> 7;
        self.signs ^= self.signs << 17;
        std::array::from_fn(|i| if self.signs >> (20 + i) & 1 == 1 { 1.0 } else { -1.0 })
    }
}
