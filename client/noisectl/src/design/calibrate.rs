//! `noisectl calibrate`: from a privacy target to noise, and back.

use noised::accounting::{Asked, Question, Wanted};
use noised::analysis::calibration::PrivacyTarget;
use noised::analysis::{Calibration, Given, calibrate};
use serde_json::json;

use super::sampling::{SamplingArgs, answer, print};
use crate::args::{FormatArg, Place};
use crate::context::Context;
use crate::failure::Failure;
use crate::output::{Format, print_fields, print_json, short_up};

/// One of them is given, which takes more than a line of most terminals.
const USAGE: &str = "noisectl calibrate [OPTIONS] --epsilon <E> --delta <D>
       noisectl calibrate [OPTIONS] --rho <R>
       noisectl calibrate [OPTIONS] --mu <M>
       noisectl calibrate [OPTIONS] --noise-multiplier <S>";

#[derive(Debug, clap::Args)]
#[command(override_usage = USAGE)]
#[command(group = clap::ArgGroup::new("target").required(true).multiple(false))]
pub(crate) struct Args {
    /// The target (epsilon, delta), with --delta.
    #[arg(long, value_name = "E", group = "target", requires = "delta", allow_negative_numbers = true)]
    epsilon: Option<f64>,
    /// The target rho of zero-concentrated differential privacy.
    #[arg(long, value_name = "R", group = "target", allow_negative_numbers = true)]
    rho: Option<f64>,
    /// The target mu of Gaussian differential privacy.
    #[arg(long, value_name = "M", group = "target", allow_negative_numbers = true)]
    mu: Option<f64>,
    /// What noise gives: its standard deviation over the sensitivity.
    #[arg(long, value_name = "S", group = "target", allow_negative_numbers = true)]
    noise_multiplier: Option<f64>,
    /// The delta of the target, or what epsilon is told for.
    #[arg(long, value_name = "D", allow_negative_numbers = true)]
    delta: Option<f64>,
    /// The L2 sensitivity, as `noisectl sensitivity` tells it; with --sampling, the strategy's largest column
    /// norm. Unless given, that of --strategy, or 1.
    #[arg(long, value_name = "S", allow_negative_numbers = true)]
    sensitivity: Option<f64>,
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    format: FormatArg,
}

impl Args {
    pub(crate) async fn run(self, context: &Context) -> Result<(), Failure> {
        let (given, delta) = self.given()?;
        if !self.sampling.is_plain() {
            return self.sampled(context, given, delta).await;
        }
        let sensitivity = self.sensitivity.unwrap_or(1.0);
        let found = match self.place.client().await? {
            None => calibrate(given, sensitivity, delta)?,
            Some(client) => client.analysis().calibrate(given, sensitivity, delta).await?,
        };
        let Calibration { noise_multiplier, stddev, epsilon, delta, rho, mu } = found;
        match self.format.format {
            Format::Json => print_json(&json!({
                "noise_multiplier": noise_multiplier,
                "stddev": stddev,
                "epsilon": epsilon,
                "delta": delta,
                "rho": rho,
                "mu": mu,
            })),
            Format::Table => {
                let some = |value: Option<f64>| value.map_or_else(|| "needs --delta".to_owned(), short_up);
                print_fields([
                    ("noise multiplier", short_up(noise_multiplier)),
                    ("stddev", short_up(stddev)),
                    ("epsilon", some(epsilon)),
                    ("delta", some(delta)),
                    ("rho", short_up(rho)),
                    ("mu", short_up(mu)),
                ])
            }
        }
    }

    /// The noise of a training run that samples, or of a strategy.
    async fn sampled(&self, context: &Context, given: Given, delta: Option<f64>) -> Result<(), Failure> {
        let wanted = match (given, delta) {
            (Given::Target(PrivacyTarget::ApproximateDp { epsilon, delta }), _) => {
                Wanted::Noise { epsilon, delta }
            }
            (Given::NoiseMultiplier(noise_multiplier), Some(delta)) => {
                Wanted::Privacy { noise_multiplier, asked: Asked::Epsilon { delta } }
            }
            (Given::NoiseMultiplier(_), None) => return Err(Failure::usage("delta", "is missing")),
            (Given::Target(_), _) => {
                let rule =
                    "is missing: with sampling the target is --epsilon and --delta, or --noise-multiplier";
                return Err(Failure::usage("epsilon", rule));
            }
        };
        let (sampling, steps, unit) = self.sampling.read(context)?;
        if unit.is_some() && self.sensitivity.is_some() {
            return Err(Failure::usage("sensitivity", "does not go with --strategy, which has its own"));
        }
        let unit = unit.unwrap_or(self.sensitivity.unwrap_or(1.0));
        if !(unit > 0.0 && unit.is_finite()) {
            let rule = format!("must be finite and greater than 0, found {unit}");
            return Err(Failure::usage("sensitivity", rule));
        }
        let found = answer(&self.place, context, Question { sampling, steps, wanted }).await?;
        let stddev = (found.noise_multiplier * unit).next_up();
        print(found, Some(unit), Some(stddev), self.format.format)
    }

    /// What is given, and the delta that epsilon is told for.
    fn given(&self) -> Result<(Given, Option<f64>), Failure> {
        match (self.epsilon, self.rho, self.mu, self.noise_multiplier) {
            (Some(epsilon), ..) => {
                let delta = self.delta.ok_or_else(|| Failure::usage("--delta", "is missing"))?;
                Ok((Given::Target(PrivacyTarget::ApproximateDp { epsilon, delta }), None))
            }
            (_, Some(rho), ..) => Ok((Given::Target(PrivacyTarget::ZeroConcentratedDp { rho }), self.delta)),
            (_, _, Some(mu), _) => Ok((Given::Target(PrivacyTarget::GaussianDp { mu }), self.delta)),
            (.., Some(multiplier)) => Ok((Given::NoiseMultiplier(multiplier), self.delta)),
            _ => {
                Err(Failure::usage("--epsilon", "is missing, and so are --rho, --mu and --noise-multiplier"))
            }
        }
    }
}
