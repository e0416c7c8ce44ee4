//! Errors and sensitivities of a mechanism.

use noised::analysis::{Mechanism, Participation, Sensitivity, SensitivityRule, Way};
use noised::{Error, MatrixSpec, Precision, Result};

use super::{precision, question_matrix};
use crate::v1;
use crate::v1::compute_errors_request::Mechanism as WireMechanism;

/// What errors are asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct ErrorsQuestion {
    /// `A`; `None` for the prefix sum.
    pub workload: Option<MatrixSpec>,
    /// `C` or `C^-1`.
    pub matrix: MatrixSpec,
    /// Whether `matrix` is `C^-1`.
    pub is_noising: bool,
    /// Queries.
    pub n: u64,
    /// Whether the errors of single queries are left out.
    pub summary_only: bool,
    /// The precision of the session that runs the noising matrix.
    pub precision: Precision,
}

impl ErrorsQuestion {
    /// The matrix as what it is.
    pub fn mechanism(&self) -> Mechanism<'_> {
        if self.is_noising {
            Mechanism::NoisingMatrix(&self.matrix)
        } else {
            Mechanism::Strategy(&self.matrix)
        }
    }
}

impl TryFrom<v1::ComputeErrorsRequest> for ErrorsQuestion {
    type Error = Error;

    fn try_from(request: v1::ComputeErrorsRequest) -> Result<Self> {
        let v1::ComputeErrorsRequest { workload, mechanism, n, summary_only, precision: format } = request;
        let (matrix, is_noising) = match mechanism {
            Some(WireMechanism::Strategy(matrix)) => (matrix, false),
            Some(WireMechanism::NoisingMatrix(matrix)) => (matrix, true),
            None => return Err(Error::invalid("strategy", "is missing, and so is noising_matrix")),
        };
        let name = if is_noising { "noising_matrix" } else { "strategy" };
        let matrix = question_matrix(Some(matrix), n).map_err(|error| error.about_matrix(name))?;
        let workload = workload.map(|workload| question_matrix(Some(workload), n)).transpose();
        let workload = workload.map_err(|error| error.about_matrix("workload"))?;
        let precision = precision(format)?.unwrap_or(Precision::F64);
        Ok(Self { workload, matrix, is_noising, n, summary_only, precision })
    }
}

/// What sensitivity is asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct SensitivityQuestion {
    /// `C`.
    pub strategy: MatrixSpec,
    /// Steps.
    pub n: u64,
    /// Which steps one user's data may take part in.
    pub participation: Participation,
    /// The precision of the session that runs its inverse; `None` for either.
    pub precision: Option<Precision>,
}

impl TryFrom<v1::ComputeSensitivityRequest> for SensitivityQuestion {
    type Error = Error;

    fn try_from(request: v1::ComputeSensitivityRequest) -> Result<Self> {
        let v1::ComputeSensitivityRequest { strategy, n, participation, precision: format } = request;
        let strategy = question_matrix(strategy, n).map_err(|error| error.about_matrix("strategy"))?;
        let precision = precision(format)?;
        Ok(Self { strategy, n, participation: participation.unwrap_or_default().into(), precision })
    }
}

impl From<v1::Participation> for Participation {
    fn from(participation: v1::Participation) -> Self {
        use v1::participation::{MinSep, Pattern};
        let v1::Participation { pattern } = participation;
        match pattern {
            None => Self::Single,
            Some(Pattern::MinSep(MinSep { min_sep, max_participations })) => {
                Self::MinSep { min_sep, max_participations }
            }
            Some(Pattern::Epochs(epochs)) => Self::FixedEpochs { epochs },
        }
    }
}

impl From<Participation> for v1::Participation {
    fn from(participation: Participation) -> Self {
        use v1::participation::{MinSep, Pattern};
        let pattern = match participation {
            Participation::Single => None,
            Participation::MinSep { min_sep, max_participations } => {
                Some(Pattern::MinSep(MinSep { min_sep, max_participations }))
            }
            Participation::FixedEpochs { epochs } => Some(Pattern::Epochs(epochs)),
        };
        Self { pattern }
    }
}

impl From<Sensitivity> for v1::ComputeSensitivityResponse {
    fn from(sensitivity: Sensitivity) -> Self {
        let Sensitivity { squared, exact, rule, .. } = sensitivity;
        let rule = v1::SensitivityRule::from(rule).into();
        let precision = v1::Precision::Unspecified.into();
        Self { sensitivity: sensitivity.value(), sensitivity_squared: squared, exact, rule, precision }
    }
}

impl TryFrom<v1::ComputeSensitivityResponse> for Sensitivity {
    type Error = Error;

    fn try_from(sensitivity: v1::ComputeSensitivityResponse) -> Result<Self> {
        let v1::ComputeSensitivityResponse {
            sensitivity: value,
            sensitivity_squared: squared,
            exact,
            rule,
            precision: _,
        } = sensitivity;
        let known = match v1::SensitivityRule::try_from(rule) {
            Ok(v1::SensitivityRule::LargestColumn) => SensitivityRule::LargestColumn,
            Ok(v1::SensitivityRule::ShiftedColumns) => SensitivityRule::ShiftedColumns,
            Ok(v1::SensitivityRule::DisjointColumns) => SensitivityRule::DisjointColumns,
            Ok(v1::SensitivityRule::GramSums) => SensitivityRule::GramSums,
            Ok(v1::SensitivityRule::SumOfNorms) => SensitivityRule::SumOfNorms,
            Ok(v1::SensitivityRule::Unspecified) | Err(_) => {
                return Err(Error::invalid("rule", format!("{rule} is not known")));
            }
        };
        Ok(Self::told(value, squared, exact, known))
    }
}

impl From<SensitivityRule> for v1::SensitivityRule {
    fn from(rule: SensitivityRule) -> Self {
        match rule {
            SensitivityRule::LargestColumn => Self::LargestColumn,
            SensitivityRule::ShiftedColumns => Self::ShiftedColumns,
            SensitivityRule::DisjointColumns => Self::DisjointColumns,
            SensitivityRule::GramSums => Self::GramSums,
            SensitivityRule::SumOfNorms => Self::SumOfNorms,
        }
    }
}

impl From<Way> for v1::Way {
    fn from(way: Way) -> Self {
        match way {
            Way::Toeplitz => Self::Toeplitz,
            Way::ScaledToeplitz => Self::ScaledToeplitz,
            Way::Covariance => Self::Covariance,
            Way::Rows => Self::Rows,
        }
    }
}

/// The way that a server tells.
///
/// # Errors
/// [`Error::Invalid`] on `way` where it tells none that is known here.
pub fn way_from_wire(way: i32) -> Result<Way> {
    match v1::Way::try_from(way) {
        Ok(v1::Way::Toeplitz) => Ok(Way::Toeplitz),
        Ok(v1::Way::ScaledToeplitz) => Ok(Way::ScaledToeplitz),
        Ok(v1::Way::Covariance) => Ok(Way::Covariance),
        Ok(v1::Way::Rows) => Ok(Way::Rows),
        Ok(v1::Way::Unspecified) | Err(_) => Err(Error::invalid("way", format!("{way} is not known"))),
    }
}
