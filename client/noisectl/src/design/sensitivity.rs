//! `noisectl sensitivity`: how much one user's data can move what a strategy measures.

use noised::Precision;
use noised::analysis::{self, Sensitivity};
use serde_json::json;

use super::args::{ParticipationArgs, read_named};
use crate::args::{FormatArg, Place};
use crate::context::Context;
use crate::failure::Failure;
use crate::output::{Format, print_fields, print_json, short_up};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The strategy C: JSON, @FILE with it, or @- for stdin.
    #[arg(long, value_name = "JSON|@FILE")]
    strategy: String,
    /// Steps.
    #[arg(short = 'n', value_name = "N")]
    n: u64,
    #[command(flatten)]
    participation: ParticipationArgs,
    /// The precision of the session that runs the inverse, f32 or f64, to which it rounds. Unless given, the
    /// larger sensitivity of the two, which is safe for both.
    #[arg(long)]
    precision: Option<Precision>,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    format: FormatArg,
}

impl Args {
    pub(crate) async fn run(self, context: &Context) -> Result<(), Failure> {
        let strategy = read_named(&context.files, "strategy", &self.strategy, self.n)?;
        let participation = self.participation.read();
        let cancelled = || context.interrupt.is_raised();
        let (found, precision) = match self.place.client().await? {
            None => analysis::sensitivity_in(&strategy, self.n, participation, self.precision, &cancelled)
                .map_err(|error| error.about_matrix("strategy"))?,
            Some(client) => {
                client.analysis().sensitivity_in(&strategy, self.n, participation, self.precision).await?
            }
        };
        let Sensitivity { squared, exact, rule, .. } = found;
        match self.format.format {
            Format::Json => print_json(&json!({
                "sensitivity": found.value(),
                "sensitivity_squared": squared,
                "exact": exact,
                "rule": rule.name(),
                "precision": precision.name(),
            })),
            Format::Table => print_fields([
                ("sensitivity", short_up(found.value())),
                ("squared", short_up(squared)),
                ("exact", if exact { "yes" } else { "no, an upper bound" }.to_owned()),
                ("rule", rule.name().replace('_', " ")),
                ("of a session in", precision.to_string()),
            ]),
        }
    }
}
