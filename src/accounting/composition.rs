//! Compositions of Gaussian mechanisms that see Poisson samples, by privacy loss distributions.

use super::curve::Curve;
use super::discretise::{Pld, Rounding};
use super::pair::{Direction, Pair};
use super::plan::{Estimate, Plan, Question};
use super::{check_delta, check_epsilon, check_noise_multiplier, check_probability};
use crate::analysis::calibration;
use crate::error::{Error, Result};
use crate::limits;

/// How much coarser the grid of a lower bound is than that of an upper bound.
const LOWER_COARSENESS: f64 = 2.0;

/// The same of the grid on which the direction is looked at that is rarely worse.
const FIRST_COARSENESS: f64 = 4.0;

/// One round: a Gaussian mechanism on a Poisson sample.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PoissonGaussian {
    /// The probability with which the round's sample contains an example, in `(0, 1]`.
    pub sampling_probability: f64,
    /// The standard deviation of the noise over what one example moves.
    pub noise_multiplier: f64,
}

/// A bound and how it was found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bound {
    /// The bound.
    pub value: f64,
    /// The distance of the losses on the grid; `None` where a closed form gave the bound.
    pub interval: Option<f64>,
}

/// Rounds whose privacy losses add up. Neighbouring data sets differ in one example, which one of them lacks.
///
/// ```
/// use noised::accounting::{Composition, PoissonGaussian};
///
/// let round = PoissonGaussian { sampling_probability: 0.01, noise_multiplier: 1.0 };
/// let steps = Composition::new().with(round, 1000)?;
/// let epsilon = steps.epsilon(1e-5, &|| false)?.value;
/// assert!((1.82..1.84).contains(&epsilon), "{epsilon}");
/// # Ok::<(), noised::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Composition {
    rounds: Vec<(PoissonGaussian, u32)>,
}

impl Composition {
    /// No rounds.
    pub fn new() -> Self {
        Self::default()
    }

    /// These rounds and `count` more.
    ///
    /// # Errors
    /// [`Error::Invalid`] on `sampling_probability`, `noise_multiplier` or `rounds`, out of range.
    pub fn with(mut self, round: PoissonGaussian, count: u64) -> Result<Self> {
        check_probability("sampling_probability", round.sampling_probability)?;
        check_noise_multiplier(round.noise_multiplier)?;
        let before: u64 = self.rounds.iter().map(|(_, rounds)| u64::from(*rounds)).sum();
        let sum = before.checked_add(count).filter(|sum| *sum <= limits::MAX_ACCOUNTING_ROUNDS);
        if sum.is_none() || count == 0 {
            let most = limits::MAX_ACCOUNTING_ROUNDS;
            let rule = format!("must be at least 1 and all together at most {most}, found {count}");
            return Err(Error::invalid("rounds", rule));
        }
        match self.rounds.iter_mut().find(|(known, _)| *known == round) {
            Some((_, rounds)) => *rounds += count as u32,
            None => self.rounds.push((round, count as u32)),
        }
        if self.rounds.len() > limits::MAX_ACCOUNTING_KINDS {
            let rule = format!("must be of at most {} different kinds", limits::MAX_ACCOUNTING_KINDS);
            return Err(Error::invalid("rounds", rule));
        }
        Ok(self)
    }

    /// An upper bound of the least epsilon, 0 or more, for which the composition is `(epsilon, delta)`
    /// differentially private. `cancelled` says whether nobody waits for the answer any more.
    ///
    /// # Errors
    /// [`Error::Invalid`] on `delta`, not in `(0, 1)`; on `rounds`, without any; [`Error::Cancelled`].
    pub fn epsilon(&self, delta: f64, cancelled: &dyn Fn() -> bool) -> Result<Bound> {
        check_delta(delta)?;
        self.answer(Question::Epsilon { delta }, Rounding::ConnectTheDots, cancelled)
    }

    /// A lower bound of the same epsilon.
    ///
    /// # Errors
    /// As [`Self::epsilon`].
    pub fn epsilon_lower(&self, delta: f64, cancelled: &dyn Fn() -> bool) -> Result<Bound> {
        check_delta(delta)?;
        self.answer(Question::Epsilon { delta }, Rounding::Merge, cancelled)
    }

    /// An upper bound of the least delta for which the composition is `(epsilon, delta)` differentially
    /// private.
    ///
    /// # Errors
    /// [`Error::Invalid`] on `epsilon`, negative or not finite; on `rounds`, without any;
    /// [`Error::Cancelled`].
    pub fn delta(&self, epsilon: f64, cancelled: &dyn Fn() -> bool) -> Result<Bound> {
        check_epsilon(epsilon)?;
        self.answer(Question::Delta { epsilon }, Rounding::ConnectTheDots, cancelled)
    }

    /// A lower bound of the same delta.
    ///
    /// # Errors
    /// As [`Self::delta`].
    pub fn delta_lower(&self, epsilon: f64, cancelled: &dyn Fn() -> bool) -> Result<Bound> {
        check_epsilon(epsilon)?;
        self.answer(Question::Delta { epsilon }, Rounding::Merge, cancelled)
    }

    fn answer(&self, question: Question, rounding: Rounding, cancelled: &dyn Fn() -> bool) -> Result<Bound> {
        if self.rounds.is_empty() {
            return Err(Error::invalid("rounds", "must be at least 1, found 0"));
        }
        let rounds = merged(&self.rounds);
        if let [(PoissonGaussian { sampling_probability: 1.0, noise_multiplier }, 1)] = rounds[..] {
            return closed_form(question, noise_multiplier, rounding);
        }
        let drawn: f64 =
            rounds.iter().map(|(round, count)| f64::from(*count) * round.sampling_probability).sum();
        if let Question::Epsilon { delta } = question
            && drawn * (1.0 + 1e-9) <= delta
        {
            // The example is in no sample but with a probability of less than delta.
            return Ok(Bound { value: 0.0, interval: None });
        }
        let lower = rounding == Rounding::Merge;
        let coarseness = if lower { LOWER_COARSENESS } else { 1.0 };
        let remove = pairs(&rounds, Direction::Remove);
        let (removed, interval) = one_direction(&remove, question, rounding, coarseness, cancelled)?;
        // Sampling takes privacy loss away: what holds without it is a bound where a grid has too few points
        // for a better one.
        let whole = closed_form(question, merged_whole(&rounds), rounding)?.value;
        let capped = |found: f64| if rounding == Rounding::Merge { found.max(0.0) } else { found.min(whole) };
        let removed = capped(removed);
        let add = pairs(&rounds, Direction::Add);
        let most: f64 = add.iter().map(|(pair, count)| f64::from(*count) * pair.most()).sum();
        // Beyond its largest loss the other direction has no delta, and its epsilon is not larger.
        let decided = match question {
            Question::Epsilon { .. } => removed >= most * (1.0 + 1e-12),
            Question::Delta { epsilon } => epsilon >= most * (1.0 + 1e-12),
        };
        // The other direction only adds to a lower bound.
        if decided || lower {
            return Ok(Bound { value: removed, interval: Some(interval) });
        }
        // Adding is rarely worse than removing, and a coarse grid mostly tells.
        let (added, other) = one_direction(&add, question, rounding, FIRST_COARSENESS, cancelled)?;
        if capped(added) <= removed {
            return Ok(Bound { value: removed, interval: Some(interval) });
        }
        let (finer, fine) = one_direction(&add, question, rounding, 1.0, cancelled)?;
        let (added, other) = if finer < added { (finer, fine) } else { (added, other) };
        let interval = if added > removed { other } else { interval };
        Ok(Bound { value: removed.max(capped(added)), interval: Some(interval) })
    }
}

/// The same rounds, with all Gaussian mechanisms without sampling as one, whose `1/s^2` is the sum of theirs.
fn merged(rounds: &[(PoissonGaussian, u32)]) -> Vec<(PoissonGaussian, u32)> {
    let whole = |round: &PoissonGaussian| round.sampling_probability >= 1.0;
    let mut sampled: Vec<_> = rounds.iter().copied().filter(|(round, _)| !whole(round)).collect();
    let all: Vec<_> = rounds.iter().copied().filter(|(round, _)| whole(round)).collect();
    if !all.is_empty() {
        let noise_multiplier = merged_whole(&all);
        sampled.push((PoissonGaussian { sampling_probability: 1.0, noise_multiplier }, 1));
    }
    sampled
}

/// The noise multiplier of one Gaussian mechanism that is as all rounds are without sampling, rounded down.
fn merged_whole(rounds: &[(PoissonGaussian, u32)]) -> f64 {
    let each = rounds.iter().map(|(round, count)| f64::from(*count) / round.noise_multiplier.powi(2));
    each.sum::<f64>().sqrt().recip() * (1.0 - 1e-14)
}

fn closed_form(question: Question, noise_multiplier: f64, rounding: Rounding) -> Result<Bound> {
    let (value, slack) = match question {
        Question::Epsilon { delta } => (calibration::epsilon(noise_multiplier, delta)?, 1e-9),
        Question::Delta { epsilon } => (calibration::delta(noise_multiplier, epsilon)?, 1e-9),
    };
    let value = if rounding == Rounding::Merge { value * (1.0 - slack) } else { value };
    Ok(Bound { value, interval: None })
}

/// The dominating pairs of rounds.
fn pairs(rounds: &[(PoissonGaussian, u32)], direction: Direction) -> Vec<(Pair, u32)> {
    let pair = |round: &PoissonGaussian| Pair {
        probability: round.sampling_probability,
        noise: round.noise_multiplier,
        direction,
    };
    rounds.iter().map(|(round, count)| (pair(round), *count)).collect()
}

/// A bound for one direction, and the interval of its grid.
fn one_direction(
    pairs: &[(Pair, u32)],
    question: Question,
    rounding: Rounding,
    coarseness: f64,
    cancelled: &dyn Fn() -> bool,
) -> Result<(f64, f64)> {
    let estimate = Estimate::new(pairs, question);
    let upper = rounding != Rounding::Merge;
    let plan: Plan = estimate.plan(question, coarseness);
    let mut plds = Vec::with_capacity(pairs.len());
    for (pair, count) in pairs {
        if cancelled() {
            return Err(Error::Cancelled);
        }
        plds.push((Pld::new(pair, plan.interval, plan.tail, rounding), *count));
    }
    if cancelled() {
        return Err(Error::Cancelled);
    }
    let curve = Curve::new(&plds, &estimate, &plan, upper);
    let found = match question {
        Question::Epsilon { delta } => curve.epsilon(delta),
        Question::Delta { epsilon } => curve.delta(epsilon),
    };
    Ok((found, plan.interval))
}
