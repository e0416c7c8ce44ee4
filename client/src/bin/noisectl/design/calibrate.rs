//! `noisectl calibrate`: from a privacy target to noise, and back.

use noised::analysis::calibration::PrivacyTarget;
use noised::analysis::{Calibration, Given, calibrate};
use serde_json::json;

use crate::args::{FormatArg, Place};
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
    /// The L2 sensitivity, as `noisectl sensitivity` tells it.
    #[arg(long, value_name = "S", default_value_t = 1.0, allow_negative_numbers = true)]
    sensitivity: f64,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    format: FormatArg,
}

impl Args {
    pub(crate) async fn run(self) -> Result<(), Failure> {
        let (given, delta) = self.given()?;
        let found = match self.place.client().await? {
            None => calibrate(given, self.sensitivity, delta)?,
            Some(client) => client.analysis().calibrate(given, self.sensitivity, delta).await?,
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
