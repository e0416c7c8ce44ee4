//! `noisectl optimize`: the best strategy of a family.

use clap::ValueEnum;
use noised::design::{self, Design, Family};
use serde_json::{Map, Value, json};

use super::args::{ProblemArgs, SaveArg};
use super::progress::{Search, end_early};
use crate::args::{FormatArg, Place};
use crate::context::Context;
use crate::failure::Failure;
use crate::output::{Format, print_fields, print_json, short, short_up};

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
enum FamilyArg {
    /// Toeplitz, of --bands bands.
    BandedToeplitz,
    /// The inverse of a Toeplitz matrix of --bands bands.
    BandedInverseToeplitz,
    /// BLT, of at most --buffers buffers, or as many as help.
    BufferedToeplitz,
    /// --bands bands, columns of norm 1.
    ColumnNormalizedBanded,
    /// Any lower-triangular matrix.
    Dense,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The strategies among which the best is looked for.
    #[arg(long, value_enum)]
    family: FamilyArg,
    /// Bands, of a banded family.
    #[arg(long, value_name = "P")]
    bands: Option<usize>,
    /// Buffers at most, of buffered_toeplitz. Unless given, they are added one at a time until that no longer
    /// helps.
    #[arg(long, value_name = "D", conflicts_with = "bands")]
    buffers: Option<usize>,
    #[command(flatten)]
    problem: ProblemArgs,
    #[command(flatten)]
    save: SaveArg,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    format: FormatArg,
}

impl Args {
    pub(crate) async fn run(self, context: &Context) -> Result<(), Failure> {
        let (family, problem) = (self.family()?, self.problem.read(&context.files)?);
        let save = self.save.prepare(context)?;
        let client = context.interrupt.stop(self.place.client()).await?;
        let search = Search::start(&context.interrupt);
        let found = match client {
            None => design::optimize(&family, &problem, &mut |progress| search.goes_on(progress))
                .map_err(Failure::from),
            Some(client) => {
                let goes_on = |progress| search.goes_on(progress);
                client.analysis().optimize(&family, &problem, goes_on).await.map_err(Failure::from)
            }
        };
        let design = search.end(found)?;
        save.write(&design.noising_matrix)?;
        match self.format.format {
            Format::Json => print_json(&Value::Object(to_json(&design)?))?,
            Format::Table => print_fields(to_fields(&family, &design))?,
        }
        end_early(&context.interrupt, design.complete)
    }

    fn family(&self) -> Result<Family, Failure> {
        let name =
            self.family.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
        let bands = || {
            self.bands.ok_or_else(|| {
                Failure::usage("--bands", format_args!("is missing: the family {name} needs it"))
            })
        };
        let family = match self.family {
            FamilyArg::BandedToeplitz => Family::BandedToeplitz { bands: bands()? },
            FamilyArg::BandedInverseToeplitz => Family::BandedInverseToeplitz { bands: bands()? },
            FamilyArg::BufferedToeplitz => Family::BufferedToeplitz { buffers: self.buffers },
            FamilyArg::ColumnNormalizedBanded => Family::ColumnNormalizedBanded { bands: bands()? },
            FamilyArg::Dense => Family::Dense,
        };
        let banded = !matches!(family, Family::BufferedToeplitz { .. } | Family::Dense);
        if self.bands.is_some() && !banded {
            return Err(Failure::usage("--bands", format_args!("the family {name} has none")));
        }
        if self.buffers.is_some() && self.family != FamilyArg::BufferedToeplitz {
            return Err(Failure::usage("--buffers", format_args!("the family {name} has none")));
        }
        Ok(family)
    }
}

/// A design for programs.
pub(super) fn to_json(design: &Design) -> Result<Map<String, Value>, Failure> {
    let Design { strategy, noising_matrix, sensitivity, mean, max, loss, complete } = design;
    let matrix =
        |matrix| serde_json::to_value(matrix).map_err(|e| Failure::failed("cannot write a matrix", e));
    let mut object = Map::new();
    let mut put = |name: &str, value: Value| object.insert(name.to_owned(), value);
    put("strategy", matrix(strategy)?);
    put("noising_matrix", matrix(noising_matrix)?);
    put("sensitivity", json!(sensitivity.value()));
    put("sensitivity_squared", json!(sensitivity.squared));
    put("exact", json!(sensitivity.exact));
    put("rule", json!(sensitivity.rule.name()));
    put("mean", json!(mean));
    put("max", json!(max));
    put("loss", json!(loss));
    put("complete", json!(complete));
    Ok(object)
}

fn to_fields(family: &Family, design: &Design) -> Vec<(&'static str, String)> {
    /// Longer descriptions are for programs.
    const SHOWN: usize = 300;
    let Design { strategy, noising_matrix: _, sensitivity, mean, max, loss, complete: _ } = design;
    let text = strategy.to_json();
    let strategy = if text.len() <= SHOWN { text } else { "--format json has it".to_owned() };
    let exact = if sensitivity.exact { "" } else { " at most" };
    vec![
        ("family", family.to_string()),
        ("sensitivity", format!("{}{exact}", short_up(sensitivity.value()))),
        ("mean squared error", short(*mean)),
        ("largest squared error", short(*max)),
        ("loss", short(*loss)),
        ("root of the loss", short(loss.sqrt())),
        ("strategy", strategy),
    ]
}
