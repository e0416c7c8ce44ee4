//! What a strategy is designed for, and from which family.

use std::fmt;

use crate::analysis::{Participation, toeplitz_coefs};
use crate::error::{Error, Result};
use crate::limits::MAX_STRUCTURED_N;
use crate::matrix::{MatrixSpec, Plan};

/// What a design minimises, times the squared sensitivity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Objective {
    /// The mean of the expected squared errors of the queries.
    #[default]
    Mean,
    /// The largest of them.
    Max,
}

/// A family of strategies, with its size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Toeplitz strategies with so many bands (arXiv 2405.15913).
    BandedToeplitz {
        /// Non-zero diagonals.
        bands: usize,
    },
    /// Strategies whose noising matrix is Toeplitz with so many bands (arXiv 2505.12128).
    BandedInverseToeplitz {
        /// Non-zero diagonals of the noising matrix.
        bands: usize,
    },
    /// BLTs (arXiv 2404.16706, 2408.08868).
    BufferedToeplitz {
        /// Buffers; `None` adds them one at a time until that no longer helps.
        buffers: Option<usize>,
    },
    /// Banded strategies with columns of norm 1 (arXiv 2306.08153, 2405.15913).
    ColumnNormalizedBanded {
        /// Non-zero diagonals.
        bands: usize,
    },
    /// Any lower-triangular strategy (arXiv 2202.08312, 2211.06530).
    Dense,
}

/// What a strategy is designed for.
#[derive(Clone, Debug, PartialEq)]
pub struct Problem {
    /// Steps.
    pub n: u64,
    /// Which steps one user's data may take part in.
    pub participation: Participation,
    /// What is minimised.
    pub objective: Objective,
    /// The workload; `None` for the prefix sum.
    pub workload: Option<MatrixSpec>,
}

impl Objective {
    /// Which of the two it is.
    pub fn of(self, mean: f64, max: f64) -> f64 {
        match self {
            Self::Mean => mean,
            Self::Max => max,
        }
    }
}

impl Family {
    /// The name in JSON and on the command line.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::BandedToeplitz { .. } => "banded_toeplitz",
            Self::BandedInverseToeplitz { .. } => "banded_inverse_toeplitz",
            Self::BufferedToeplitz { .. } => "buffered_toeplitz",
            Self::ColumnNormalizedBanded { .. } => "column_normalized_banded",
            Self::Dense => "dense",
        }
    }

    /// Whether it can be designed for a workload that is not Toeplitz.
    pub fn takes_any_workload(&self) -> bool {
        matches!(self, Self::ColumnNormalizedBanded { .. } | Self::Dense)
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BandedToeplitz { bands } => write!(f, "banded Toeplitz, {bands} bands"),
            Self::BandedInverseToeplitz { bands } => write!(f, "banded inverse Toeplitz, {bands} bands"),
            Self::BufferedToeplitz { buffers: None } => write!(f, "buffered Toeplitz"),
            Self::BufferedToeplitz { buffers: Some(1) } => write!(f, "buffered Toeplitz, 1 buffer"),
            Self::BufferedToeplitz { buffers: Some(buffers) } => {
                write!(f, "buffered Toeplitz, {buffers} buffers")
            }
            Self::ColumnNormalizedBanded { bands } => write!(f, "column-normalised banded, {bands} bands"),
            Self::Dense => write!(f, "dense"),
        }
    }
}

impl Problem {
    /// Checks what does not depend on a family.
    ///
    /// # Errors
    /// [`Error::Invalid`] on `n` where it is 0 or over [`MAX_STRUCTURED_N`], on a participation that `n`
    /// steps have no room for, on a workload that breaks a rule or ends before `n`.
    pub fn validate(&self) -> Result<()> {
        if self.n == 0 || self.n > MAX_STRUCTURED_N as u64 {
            let rule = format!("must be at least 1 and at most {MAX_STRUCTURED_N}, found {}", self.n);
            return Err(Error::invalid("n", rule));
        }
        self.participation.true_max_participations(self.n)?;
        if let Some(workload) = &self.workload {
            let rows = Plan::new(workload).map_err(|error| error.about_matrix("workload"))?.horizon();
            if let Some(rows) = rows.filter(|&rows| rows < self.n) {
                let rule = format!("must have at least n = {} rows, and ends at row {rows}", self.n);
                return Err(Error::invalid("workload", rule));
            }
        }
        Ok(())
    }

    /// Whether the workload is Toeplitz by its algebra, as the prefix sum is.
    ///
    /// # Errors
    /// Those of [`MatrixSpec::validate`], on `workload`.
    pub fn has_toeplitz_workload(&self) -> Result<bool> {
        self.workload.as_ref().map_or(Ok(true), |workload| {
            Ok(Plan::new(workload).map_err(|error| error.about_matrix("workload"))?.is_toeplitz())
        })
    }
}

/// A problem whose workload is Toeplitz, as the Toeplitz families see it.
#[derive(Clone, Debug)]
pub(super) struct ToeplitzProblem {
    pub(super) n: u64,
    pub(super) objective: Objective,
    /// Steps from one participation to the next.
    pub(super) separation: u64,
    /// Participations.
    pub(super) participations: u64,
    /// The first column of the workload, where it is not the prefix sum.
    pub(super) workload: Option<Vec<f64>>,
}

impl ToeplitzProblem {
    /// # Errors
    /// Those of [`Problem::validate`]; [`Error::Invalid`] on `workload` where it is not Toeplitz, or
    /// singular.
    pub(super) fn new(problem: &Problem) -> Result<Self> {
        problem.validate()?;
        let Problem { n, participation, objective, workload } = problem;
        let participations = participation.true_max_participations(*n)?;
        let workload = match workload {
            None | Some(MatrixSpec::PrefixSum) => None,
            Some(workload) => {
                let not_toeplitz = || Error::invalid("workload", "must be Toeplitz for this family");
                let column = toeplitz_coefs(workload, *n).map_err(|error| error.about_matrix("workload"))?;
                Some(column.ok_or_else(not_toeplitz)?)
            }
        };
        if workload.as_ref().is_some_and(|column| column[0] == 0.0 || !column.iter().all(|a| a.is_finite())) {
            return Err(Error::invalid("workload", "must not be singular, nor overflow within n steps"));
        }
        let separation = participation.separation(*n);
        Ok(Self { n: *n, objective: *objective, separation, participations, workload })
    }
}
