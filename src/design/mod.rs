//! Which strategy is best: optimisers for every family, and a recommendation among them.

mod banded;
mod blt;
mod column_normalized;
#[cfg(feature = "dense")]
mod dense;
mod dual;
mod minimize;
mod problem;
mod recommend;
#[cfg(test)]
mod sweep;
mod watch;

use crate::analysis::{self, Mechanism, Sensitivity};
use crate::error::Result;
use crate::matrix::MatrixSpec;

use banded::Known;
use watch::Watch;

pub use problem::{Family, Objective, Problem};
pub use recommend::{Candidate, Recommendation, recommend};

/// How far an optimisation is.
#[derive(Clone, Debug, PartialEq)]
pub struct Progress {
    /// What is being optimised: `buffered_toeplitz, 3 buffers`.
    pub what: String,
    /// Iterations done.
    pub iteration: u64,
    /// The loss so far.
    pub loss: f64,
}

/// What whoever hears of progress answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// Search on.
    #[default]
    Continue,
    /// Search no further: give the best that was found so far. The listener is still asked while that is
    /// measured.
    Finish,
    /// Give everything up: nobody waits for an answer.
    Abandon,
}

/// A strategy, and what it achieves.
#[derive(Clone, Debug, PartialEq)]
pub struct Design {
    /// `C`.
    pub strategy: MatrixSpec,
    /// `C^-1`: what a session streams.
    pub noising_matrix: MatrixSpec,
    /// For the problem's participation.
    pub sensitivity: Sensitivity,
    /// The mean squared error at noise of variance 1.
    pub mean: f64,
    /// The largest squared error at noise of variance 1.
    pub max: f64,
    /// The squared sensitivity times the objective.
    pub loss: f64,
    /// Whether the search came to its end: `false` where a [`Verdict::Finish`] ended it early.
    pub complete: bool,
}

impl Design {
    /// What a strategy and its inverse achieve on a problem.
    ///
    /// # Errors
    /// [`Error::Invalid`](crate::Error::Invalid) names the field and the rule it breaks;
    /// [`Error::Cancelled`](crate::Error::Cancelled).
    pub fn of(
        strategy: MatrixSpec,
        noising_matrix: MatrixSpec,
        problem: &Problem,
        cancelled: &dyn Fn() -> bool,
    ) -> Result<Self> {
        let workload = problem.workload.as_ref();
        let noising = Mechanism::NoisingMatrix(&noising_matrix);
        let errors = analysis::query_errors(noising, workload, problem.n, cancelled)?;
        let sensitivity = analysis::sensitivity(&strategy, problem.n, problem.participation, cancelled)?;
        let (mean, max) = (errors.mean(), errors.max());
        let loss = sensitivity.squared * problem.objective.of(mean, max);
        Ok(Self { strategy, noising_matrix, sensitivity, mean, max, loss, complete: true })
    }
}

/// The best strategy of a family that is found. `progress` hears of every iteration, and of the last one
/// again wherever something else takes long. Where it answers [`Verdict::Finish`], the call gives the best
/// that was found so far.
///
/// # Errors
/// [`Error::Invalid`](crate::Error::Invalid) names the field and the rule it breaks;
/// [`Error::Cancelled`](crate::Error::Cancelled) where `progress` answers [`Verdict::Abandon`].
pub fn optimize(
    family: &Family,
    problem: &Problem,
    progress: &mut dyn FnMut(Progress) -> Verdict,
) -> Result<Design> {
    problem.validate()?;
    let watch = Watch::new(progress);
    let found = designed(family, problem, &Known::default(), &watch)?;
    Ok(Design { complete: !watch.stopped(), ..found })
}

fn designed(family: &Family, problem: &Problem, known: &Known, watch: &Watch<'_>) -> Result<Design> {
    match *family {
        Family::BufferedToeplitz { buffers } => blt::optimize_blt(problem, buffers, watch),
        Family::BandedToeplitz { bands } => banded::optimize_banded_toeplitz(problem, bands, known, watch),
        Family::BandedInverseToeplitz { bands } => {
            banded::optimize_banded_inverse_toeplitz(problem, bands, known, watch)
        }
        Family::ColumnNormalizedBanded { bands } => {
            column_normalized::optimize_column_normalized(problem, bands, watch)
        }
        #[cfg(feature = "dense")]
        Family::Dense => dense::optimize_dense(problem, watch),
        #[cfg(not(feature = "dense"))]
        Family::Dense => {
            Err(crate::Error::invalid("family", "dense strategies need a build with the feature `dense`"))
        }
    }
}
