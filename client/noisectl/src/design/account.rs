//! `noisectl account`: what the noise of a training run guarantees.

use noised::accounting::{Asked, Question, Wanted};

use super::sampling::{SamplingArgs, answer, print};
use crate::args::{FormatArg, Place};
use crate::context::Context;
use crate::failure::Failure;

/// A delta or an epsilon is given, which takes more than a line of most terminals.
const USAGE: &str = "noisectl account [OPTIONS] -n <N> --noise-multiplier <S> --delta <D>
       noisectl account [OPTIONS] -n <N> --noise-multiplier <S> --epsilon <E>";

#[derive(Debug, clap::Args)]
#[command(override_usage = USAGE)]
#[command(group = clap::ArgGroup::new("asked").required(true).multiple(false))]
pub(crate) struct Args {
    #[command(flatten)]
    sampling: SamplingArgs,
    /// The noise multiplier. With sampling, the standard deviation of the noise over the clip norm times the
    /// strategy's largest column norm; without, over the clip norm times the strategy's sensitivity.
    #[arg(long, value_name = "S", allow_negative_numbers = true)]
    noise_multiplier: f64,
    /// Tell the epsilon of this delta.
    #[arg(long, value_name = "D", group = "asked", allow_negative_numbers = true)]
    delta: Option<f64>,
    /// Tell the delta of this epsilon.
    #[arg(long, value_name = "E", group = "asked", allow_negative_numbers = true)]
    epsilon: Option<f64>,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    format: FormatArg,
}

impl Args {
    pub(crate) async fn run(self, context: &Context) -> Result<(), Failure> {
        let asked = match (self.delta, self.epsilon) {
            (Some(delta), _) => Asked::Epsilon { delta },
            (None, Some(epsilon)) => Asked::Delta { epsilon },
            (None, None) => return Err(Failure::usage("delta", "is missing, and so is epsilon")),
        };
        let (sampling, steps, unit) = self.sampling.read(context)?;
        let wanted = Wanted::Privacy { noise_multiplier: self.noise_multiplier, asked };
        let found = answer(&self.place, context, Question { sampling, steps, wanted }).await?;
        print(found, unit, None, self.format.format)
    }
}
