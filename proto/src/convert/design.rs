//! Strategies designed: the problem, the family, and what was found.

use noised::design::{Candidate, Design, Family, Objective, Problem, Progress, Recommendation};
use noised::{Error, Result};

use super::{named_matrix, required_matrix};
use crate::v1;
use crate::v1::optimize_strategy_request::Family as WireFamily;

/// What optimum is asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct DesignQuestion {
    /// What for.
    pub problem: Problem,
    /// From which strategies.
    pub family: Family,
}

impl TryFrom<v1::OptimizeStrategyRequest> for DesignQuestion {
    type Error = Error;

    fn try_from(request: v1::OptimizeStrategyRequest) -> Result<Self> {
        // The name of the search is the service's own business.
        let v1::OptimizeStrategyRequest { problem, family, search_id: _ } = request;
        let family = match family.ok_or_else(|| Error::invalid("family", "is missing, or not known"))? {
            WireFamily::BandedToeplitz(bands) => Family::BandedToeplitz { bands: size(bands) },
            WireFamily::BandedInverseToeplitz(bands) => Family::BandedInverseToeplitz { bands: size(bands) },
            WireFamily::BufferedToeplitz(v1::BufferedToeplitzFamily { buffers }) => {
                Family::BufferedToeplitz { buffers: buffers.map(size) }
            }
            WireFamily::ColumnNormalizedBanded(bands) => {
                Family::ColumnNormalizedBanded { bands: size(bands) }
            }
            WireFamily::Dense(v1::DenseFamily {}) => Family::Dense,
        };
        Ok(Self { problem: required_problem(problem)?, family })
    }
}

impl From<&Family> for WireFamily {
    fn from(family: &Family) -> Self {
        match *family {
            Family::BandedToeplitz { bands } => Self::BandedToeplitz(bands as u64),
            Family::BandedInverseToeplitz { bands } => Self::BandedInverseToeplitz(bands as u64),
            Family::BufferedToeplitz { buffers } => {
                let buffers = buffers.map(|buffers| buffers as u64);
                Self::BufferedToeplitz(v1::BufferedToeplitzFamily { buffers })
            }
            Family::ColumnNormalizedBanded { bands } => Self::ColumnNormalizedBanded(bands as u64),
            Family::Dense => Self::Dense(v1::DenseFamily {}),
        }
    }
}

/// What recommendation is asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct RecommendQuestion {
    /// What for.
    pub problem: Problem,
    /// Planes of state a lane at most.
    pub max_planes: usize,
}

impl TryFrom<v1::RecommendStrategyRequest> for RecommendQuestion {
    type Error = Error;

    fn try_from(request: v1::RecommendStrategyRequest) -> Result<Self> {
        let v1::RecommendStrategyRequest { problem, max_planes, search_id: _ } = request;
        Ok(Self { problem: required_problem(problem)?, max_planes: size(max_planes) })
    }
}

/// What no memory holds is over every limit.
fn size(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

fn required_problem(problem: Option<v1::Problem>) -> Result<Problem> {
    let v1::Problem { n, participation, objective, workload } =
        problem.ok_or_else(|| Error::invalid("problem", "is missing"))?;
    let objective = match v1::Objective::try_from(objective) {
        Ok(v1::Objective::Unspecified | v1::Objective::Mean) => Objective::Mean,
        Ok(v1::Objective::Max) => Objective::Max,
        Err(_) => return Err(Error::invalid("objective", format!("{objective} is not known"))),
    };
    let participation = participation.unwrap_or_default().into();
    let problem = Problem { n, participation, objective, workload: named_matrix(workload, "workload")? };
    problem.validate()?;
    Ok(problem)
}

impl From<&Problem> for v1::Problem {
    fn from(problem: &Problem) -> Self {
        let Problem { n, participation, objective, workload } = problem;
        let objective = match objective {
            Objective::Mean => v1::Objective::Mean,
            Objective::Max => v1::Objective::Max,
        };
        Self {
            n: *n,
            participation: Some((*participation).into()),
            objective: objective.into(),
            workload: workload.as_ref().map(Into::into),
        }
    }
}

impl From<Progress> for v1::Progress {
    fn from(progress: Progress) -> Self {
        let Progress { what, iteration, loss } = progress;
        Self { what, iteration, loss }
    }
}

impl From<v1::Progress> for Progress {
    fn from(progress: v1::Progress) -> Self {
        let v1::Progress { what, iteration, loss } = progress;
        Self { what, iteration, loss }
    }
}

impl From<&Design> for v1::Design {
    fn from(design: &Design) -> Self {
        let Design { strategy, noising_matrix, sensitivity, mean, max, loss, complete } = design;
        Self {
            strategy: Some(strategy.into()),
            noising_matrix: Some(noising_matrix.into()),
            sensitivity: Some((*sensitivity).into()),
            mean: *mean,
            max: *max,
            loss: *loss,
            unfinished: !complete,
        }
    }
}

impl TryFrom<v1::Design> for Design {
    type Error = Error;

    fn try_from(design: v1::Design) -> Result<Self> {
        let v1::Design { strategy, noising_matrix, sensitivity, mean, max, loss, unfinished } = design;
        let matrix = |matrix, name| required_matrix(matrix).map_err(|error| error.about_matrix(name));
        let sensitivity = sensitivity.ok_or_else(|| Error::invalid("sensitivity", "is missing"))?;
        Ok(Self {
            strategy: matrix(strategy, "strategy")?,
            noising_matrix: matrix(noising_matrix, "noising_matrix")?,
            sensitivity: sensitivity.try_into()?,
            mean,
            max,
            loss,
            complete: !unfinished,
        })
    }
}

impl From<&Recommendation> for v1::Recommendation {
    fn from(recommendation: &Recommendation) -> Self {
        let Recommendation { candidates, reason, complete } = recommendation;
        let candidate = |candidate: &Candidate| {
            let Candidate { name, family, planes, design } = candidate;
            v1::Candidate {
                name: name.clone(),
                family: family.clone(),
                planes: *planes as u64,
                design: Some(design.into()),
            }
        };
        Self {
            candidates: candidates.iter().map(candidate).collect(),
            reason: reason.clone(),
            unfinished: !complete,
        }
    }
}

impl TryFrom<v1::Recommendation> for Recommendation {
    type Error = Error;

    fn try_from(recommendation: v1::Recommendation) -> Result<Self> {
        let v1::Recommendation { candidates, reason, unfinished } = recommendation;
        let candidate = |candidate| {
            let v1::Candidate { name, family, planes, design } = candidate;
            let design = design.ok_or_else(|| Error::invalid("design", "is missing"))?.try_into()?;
            Ok(Candidate { name, family, planes: size(planes), design })
        };
        let candidates = candidates.into_iter().map(candidate).collect::<Result<_>>()?;
        Ok(Self { candidates, reason, complete: !unfinished })
    }
}
