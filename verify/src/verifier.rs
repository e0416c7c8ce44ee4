//! All checks of one stream.

use noised::{Error, MatrixSpec, Result};

use crate::correlations::{Correlations, check_lanes};
use crate::covariance::{Covariance, MAX_COVARIANCE_STEPS};
use crate::report::{Finding, Report};
use crate::univariate::{Atoms, Univariate, zeros_finding};
use crate::whiten::{Whitener, scale};

/// What a [`Verifier`] looks at, and how strictly.
#[derive(Clone, Debug, PartialEq)]
pub struct VerifyOptions {
    /// The probability that a sound source fails any of the checks. Unless set, 1e-6.
    pub level: f64,
    /// How many lanes apart values of a step are correlated. Unless set, 1, 2, 16, 32 and 1024.
    pub lane_lags: Vec<usize>,
    /// How many steps apart values of a lane are correlated, up to 64. Each step up to the longest is kept, 4
    /// bytes a lane. Unless set, 1 to 8.
    pub step_lags: Vec<usize>,
    /// How many of the first steps have their covariance compared, up to [`MAX_COVARIANCE_STEPS`], which is
    /// what it is unless set.
    pub covariance_steps: usize,
    /// At how many lanes, 8 bytes for each and step. Unless set, 2^17.
    pub covariance_lanes: usize,
    /// How often a sound source may at most give exactly 0. Unless set, 2^-24, that of a generator which has
    /// 24 random bits for a value.
    pub zero_probability: f64,
}

impl Default for VerifyOptions {
    fn default() -> Self {
        Self {
            level: 1e-6,
            lane_lags: vec![1, 2, 16, 32, 1024],
            step_lags: (1..=8).collect(),
            covariance_steps: MAX_COVARIANCE_STEPS,
            covariance_lanes: 1 << 17,
            zero_probability: 2.0_f64.powi(-24),
        }
    }
}

impl VerifyOptions {
    fn validate(&self) -> Result<()> {
        if !(self.level > 0.0 && self.level < 1.0) {
            return Err(Error::invalid("level", format!("must be between 0 and 1, found {}", self.level)));
        }
        if !(0.0..1.0).contains(&self.zero_probability) {
            let rule = format!("must be at least 0 and less than 1, found {}", self.zero_probability);
            return Err(Error::invalid("zero_probability", rule));
        }
        Ok(())
    }
}

/// Checks that released slices are `y = stddev * A z` with `z` independent standard normals.
///
/// Takes the matrix's state and, a lane, 16 bytes, the steps of the longest lag and the steps of the
/// covariance: see [`VerifyOptions`]. To split the lanes between threads, give each a verifier of its part
/// and [`merge`](Self::merge) them.
///
/// A matrix with a zero on its diagonal has no inverse: its stream cannot be whitened, and only the
/// covariance of the first steps is compared, entry by entry.
#[derive(Debug)]
pub struct Verifier {
    options: VerifyOptions,
    scale: f64,
    lanes: usize,
    released: Atoms,
    covariance: Covariance,
    /// `None` where the matrix has no inverse.
    whitened: Option<Whitened>,
}

/// What is known of the whitened values.
#[derive(Debug)]
struct Whitened {
    whitener: Whitener,
    univariate: Univariate,
    correlations: Correlations,
}

impl Verifier {
    /// Before the first step of a stream of `lanes` lanes.
    ///
    /// # Errors
    /// Those of [`MatrixSpec::validate`]; [`Error::Invalid`] where `stddev` is not positive and finite, there
    /// are no lanes, or an option breaks its rule.
    pub fn new(matrix: &MatrixSpec, stddev: f64, lanes: usize, options: VerifyOptions) -> Result<Self> {
        options.validate()?;
        let (steps, at_lanes) = (options.covariance_steps, options.covariance_lanes);
        let covariance = Covariance::new(matrix, stddev, lanes, steps, at_lanes)?;
        let correlations = Correlations::new(lanes, &options.lane_lags, &options.step_lags)?;
        let whitened = if covariance.has_inverse() {
            let whitener = Whitener::new(matrix, stddev, lanes)?;
            Some(Whitened { whitener, univariate: Univariate::new(), correlations })
        } else {
            None
        };
        let scale = scale(stddev)?;
        Ok(Self { options, scale, lanes, released: Atoms::default(), covariance, whitened })
    }

    /// Takes the next step's released values, f32 or f64.
    ///
    /// # Errors
    /// [`Error::Invalid`] where there is not one for each lane, or this has been merged;
    /// [`Error::PastHorizon`] where the matrix has ended.
    pub fn step<T: Copy + Into<f64>>(&mut self, values: &[T]) -> Result<()> {
        check_lanes(values.len(), self.lanes)?;
        // First, since it refuses what must be refused.
        self.covariance.step(values)?;
        if let Some(Whitened { whitener, univariate, correlations }) = &mut self.whitened {
            let normals = whitener.step(values)?;
            univariate.add(normals);
            correlations.step(normals)?;
        }
        self.released.add(values, self.scale);
        Ok(())
    }

    /// Takes what another one has seen of other lanes of the same steps, or of another stream of the same
    /// kind. That ends it: no steps are taken any more.
    ///
    /// # Errors
    /// [`Error::Invalid`] where it is of another matrix, deviation or options, or its covariance has seen
    /// more or fewer steps.
    pub fn merge(&mut self, other: &Self) -> Result<()> {
        if self.options != other.options {
            return Err(Error::invalid("other", "has other options"));
        }
        self.covariance.merge(&other.covariance)?;
        if let (Some(own), Some(of_other)) = (&mut self.whitened, &other.whitened) {
            own.correlations.merge(&of_other.correlations)?;
            own.univariate.merge(&of_other.univariate);
        }
        self.released.merge(other.released);
        Ok(())
    }

    /// What was found, to be judged beside other things.
    ///
    /// # Errors
    /// Those of [`Covariance::findings`].
    pub fn findings(&self) -> Result<Vec<Finding>> {
        let Atoms { count, zeros, not_finite } = self.released;
        let mut findings = vec![Finding::rule("released not finite", not_finite, "none", not_finite == 0)];
        if let Some(Whitened { whitener: _, univariate, correlations }) = &self.whitened {
            let probability = self.options.zero_probability;
            findings.push(zeros_finding("released zeros", zeros, count as f64, probability));
            findings.extend(univariate.findings(None));
            findings.extend(correlations.findings());
        }
        findings.extend(self.covariance.findings()?);
        Ok(findings)
    }

    /// Judges what was found.
    ///
    /// # Errors
    /// Those of [`Covariance::findings`].
    pub fn finish(self) -> Result<Report> {
        Ok(Report::judge(self.findings()?, self.options.level))
    }
}
