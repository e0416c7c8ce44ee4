//! `noisectl sensitivity`: how much one user's data can move what a strategy measures.

use noised::analysis::{self, Sensitivity};
use serde_json::json;

use super::args::{ParticipationArgs, read_named};
use crate::args::{FormatArg, Place};
use crate::failure::Failure;
use crate::output::{Format, print_fields, print_json, short};

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
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    format: FormatArg,
}

impl Args {
    pub(crate) async fn run(self) -> Result<(), Failure> {
        let strategy = read_named("strategy", &self.strategy)?;
        let participation = self.participation.read();
        let found = match self.place.client().await? {
            None => analysis::sensitivity(&strategy, self.n, participation, &|| false)
                .map_err(|error| error.about_matrix("strategy"))?,
            Some(client) => client.analysis().sensitivity(&strategy, self.n, participation).await?,
        };
        let Sensitivity { squared, exact, rule } = found;
        match self.format.format {
            Format::Json => print_json(&json!({
                "sensitivity": found.value(),
                "sensitivity_squared": squared,
                "exact": exact,
                "rule": rule.name(),
            })),
            Format::Table => print_fields([
                ("sensitivity", short(found.value())),
                ("squared", short(squared)),
                ("exact", if exact { "yes" } else { "no, an upper bound" }.to_owned()),
                ("rule", rule.name().replace('_', " ")),
            ]),
        }
    }
}
