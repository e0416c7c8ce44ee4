//! `noisectl compare`: strategies beside each other.

use std::io::{self, Write};

use noised::analysis::{self, Mechanism, Participation, QueryErrors, Sensitivity};
use noised::{MatrixSpec, Plan};
use noised_client::Client;
use serde_json::{Value, json};

use super::args::{ParticipationArgs, WorkloadArg, read_named, stem};
use super::compared::Compared;
use crate::args::Place;
use crate::context::Context;
use crate::failure::Failure;
use crate::files::Files;
use crate::interrupt::Interrupt;
use crate::output::{
    SeriesFormat, SeriesFormatArg, csv_text, print_json, print_table, short, short_up, stdout,
};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A strategy C, with a name: NAME=JSON or NAME=@FILE; or without: JSON or @FILE. As many as there are.
    #[arg(long = "strategy", value_name = "[NAME=]JSON|@FILE", required = true)]
    strategies: Vec<String>,
    #[command(flatten)]
    workload: WorkloadArg,
    /// Steps.
    #[arg(short = 'n', value_name = "N")]
    n: u64,
    #[command(flatten)]
    participation: ParticipationArgs,
    #[cfg(feature = "plot")]
    #[command(flatten)]
    plot: super::args::PlotArg,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    format: SeriesFormatArg,
}

impl Args {
    pub(crate) async fn run(self, context: &Context) -> Result<(), Failure> {
        let workload = self.workload.read(&context.files, 0)?;
        let named: Vec<(String, MatrixSpec)> = self
            .strategies
            .iter()
            .map(|text| read_strategy(&context.files, text))
            .collect::<Result<_, _>>()?;
        #[cfg(feature = "plot")]
        let plot = self.plot.prepare(context)?;
        let client = self.place.client().await?;
        let mut compared = Vec::new();
        for (name, strategy) in named {
            let planes = Plan::new(&strategy.clone().inverse());
            let planes = planes.map_err(|error| error.moved("matrix.matrix", "strategy"))?.planes();
            let participation = self.participation.read();
            let (sensitivity, errors) =
                ask(client.as_ref(), &strategy, workload.as_ref(), self.n, participation, &context.interrupt)
                    .await?;
            compared.push(Compared { name, strategy, planes, sensitivity, errors });
        }
        #[cfg(feature = "plot")]
        plot.write(|| super::figures::compared(&compared, self.n))?;
        match self.format.format {
            SeriesFormat::Json => print_json(&to_json(&compared)?),
            SeriesFormat::Csv => write_csv(&compared).map_err(|e| Failure::printing(&e)),
            SeriesFormat::Table => write_table(&compared),
        }
    }
}

async fn ask(
    client: Option<&Client>,
    strategy: &MatrixSpec,
    workload: Option<&MatrixSpec>,
    n: u64,
    participation: Participation,
    interrupt: &Interrupt,
) -> Result<(Sensitivity, QueryErrors), Failure> {
    let cancelled = || interrupt.is_raised();
    let mechanism = Mechanism::Strategy(strategy);
    let Some(client) = client else {
        let sensitivity = analysis::sensitivity_in(strategy, n, participation, None, &cancelled)
            .map_err(|error| error.about_matrix("strategy"))?
            .0;
        return Ok((sensitivity, analysis::query_errors(mechanism, workload, n, &cancelled)?));
    };
    let analysis = client.analysis();
    let sensitivity = analysis.sensitivity_in(strategy, n, participation, None).await?.0;
    Ok((sensitivity, analysis.query_errors(mechanism, workload, n).await?))
}

/// A matrix and what it is called: its file or its kind where it has no name.
fn read_strategy(files: &Files, text: &str) -> Result<(String, MatrixSpec), Failure> {
    if let Some(path) = text.strip_prefix('@') {
        return Ok((stem(path), read_named(files, "strategy", text, 0)?));
    }
    match text.split_once('=').filter(|_| !text.trim_start().starts_with('{')) {
        Some((name, text)) => Ok((name.to_owned(), read_named(files, "strategy", text, 0)?)),
        None => {
            let strategy = read_named(files, "strategy", text, 0)?;
            let kind = serde_json::to_value(&strategy)
                .ok()
                .and_then(|value| Some(value.get("kind")?.as_str()?.to_owned()));
            Ok((kind.unwrap_or_default(), strategy))
        }
    }
}

fn to_json(compared: &[Compared]) -> Result<Value, Failure> {
    let strategy = |one: &Compared| {
        let strategy = serde_json::to_value(&one.strategy);
        Ok(json!({
            "name": one.name,
            "strategy": strategy.map_err(|e| Failure::failed("cannot write a matrix", e))?,
            "planes": one.planes,
            "sensitivity": one.sensitivity.value(),
            "sensitivity_squared": one.sensitivity.squared,
            "exact": one.sensitivity.exact,
            "mean": one.errors.mean(),
            "max": one.errors.max(),
            "last": one.errors.last(),
            "rmse": one.errors.rmse(),
            "rmse_loss": one.rmse_loss(),
            "max_loss": one.max_loss(),
        }))
    };
    Ok(json!({ "strategies": compared.iter().map(strategy).collect::<Result<Vec<_>, Failure>>()? }))
}

fn write_csv(compared: &[Compared]) -> io::Result<()> {
    let mut out = stdout();
    writeln!(out, "name,planes,sensitivity,exact,mean,max,last,rmse_loss,max_loss")?;
    for one in compared {
        let (sensitivity, errors) = (one.sensitivity, &one.errors);
        let (mean, max, last) = (errors.mean(), errors.max(), errors.last());
        writeln!(
            out,
            "{},{},{},{},{mean},{max},{last},{},{}",
            csv_text(&one.name),
            one.planes,
            sensitivity.value(),
            sensitivity.exact,
            one.rmse_loss(),
            one.max_loss()
        )?;
    }
    out.flush()
}

fn write_table(compared: &[Compared]) -> Result<(), Failure> {
    let row = |one: &Compared| {
        let bound = if one.sensitivity.exact { "" } else { "<= " };
        vec![
            one.name.clone(),
            one.planes.to_string(),
            format!("{bound}{}", short_up(one.sensitivity.value())),
            short(one.rmse_loss()),
            short(one.max_loss()),
        ]
    };
    let header = ["strategy", "planes", "sensitivity", "rmse loss", "max loss"];
    print_table(header.map(str::to_owned).to_vec(), compared.iter().map(row).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strategies_have_names() {
        let files = Files::default();
        let read = |text| read_strategy(&files, text).unwrap();
        assert_eq!(read(r#"a b={"kind":"identity"}"#), ("a b".to_owned(), MatrixSpec::Identity));
        assert_eq!(read(r#"{"kind":"prefix_sum"}"#), ("prefix_sum".to_owned(), MatrixSpec::PrefixSum));
        for bad in ["", "a", "a=", "a={}", "=@/no/such", "@/no/such/file"] {
            let Err(Failure::Usage(message)) = read_strategy(&files, bad) else { panic!("{bad} was taken") };
            assert!(message.starts_with("strategy"), "{message}");
        }
    }
}
