//! `noisectl error`: what error a mechanism makes on each query.

use std::io::{self, Write};

use noised::Precision;
use noised::analysis::{self, Mechanism, QueryErrors};

use super::args::{WorkloadArg, read_named};
use crate::args::Place;
use crate::context::Context;
use crate::failure::Failure;
use crate::output::{
    SeriesFormat, SeriesFormatArg, print_note, print_table, short, stdout, write_number, write_numbers,
};

/// Queries of a table. JSON and CSV have them all.
const TABLE_ROWS: usize = 16;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The strategy C: JSON, @FILE with it, or @- for stdin.
    #[arg(
        long,
        value_name = "JSON|@FILE",
        required_unless_present = "noising_matrix",
        conflicts_with = "noising_matrix"
    )]
    strategy: Option<String>,
    /// Its inverse instead, which is what a session streams.
    #[arg(long, value_name = "JSON|@FILE")]
    noising_matrix: Option<String>,
    #[command(flatten)]
    workload: WorkloadArg,
    /// Queries.
    #[arg(short = 'n', value_name = "N")]
    n: u64,
    /// The precision of the session that runs the noising matrix, f32 or f64, to which it rounds.
    #[arg(long, default_value_t = Precision::F64)]
    precision: Precision,
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
        let workload = self.workload.read(&context.files, self.n)?;
        let (name, text) = match (&self.strategy, &self.noising_matrix) {
            (Some(text), _) => ("strategy", text),
            (None, Some(text)) => ("noising_matrix", text),
            (None, None) => return Err(Failure::usage("strategy", "is missing")),
        };
        let matrix = read_named(&context.files, name, text, self.n)?;
        #[cfg(feature = "plot")]
        let plot = self.plot.prepare(context)?;
        let mechanism = match name {
            "strategy" => Mechanism::Strategy(&matrix),
            _ => Mechanism::NoisingMatrix(&matrix),
        };
        let errors = match self.place.client().await? {
            None => {
                let cancelled = || context.interrupt.is_raised();
                analysis::query_errors_in(mechanism, workload.as_ref(), self.n, self.precision, &cancelled)?
            }
            Some(client) => {
                let analysis = client.analysis();
                analysis.query_errors_in(mechanism, workload.as_ref(), self.n, self.precision).await?
            }
        };
        #[cfg(feature = "plot")]
        plot.write(|| Ok(super::figures::errors(&errors.per_query)))?;
        match self.format.format {
            SeriesFormat::Json => write_json(&errors).map_err(|e| Failure::printing(&e)),
            SeriesFormat::Csv => write_csv(&errors).map_err(|e| Failure::printing(&e)),
            SeriesFormat::Table => write_table(&errors),
        }
    }
}

fn write_json(errors: &QueryErrors) -> io::Result<()> {
    let mut out = stdout();
    out.write_all(b"{\"per_query\":")?;
    write_numbers(&mut out, errors.per_query.iter().copied())?;
    let summary =
        [("mean", errors.mean()), ("max", errors.max()), ("last", errors.last()), ("rmse", errors.rmse())];
    for (name, value) in summary {
        write!(out, ",\"{name}\":")?;
        write_number(&mut out, value)?;
    }
    writeln!(out, ",\"way\":\"{}\"}}", errors.way)?;
    out.flush()
}

fn write_csv(errors: &QueryErrors) -> io::Result<()> {
    let mut out = stdout();
    writeln!(out, "query,squared_error")?;
    for (query, &error) in errors.per_query.iter().enumerate() {
        write!(out, "{query},")?;
        write_number(&mut out, error)?;
        writeln!(out)?;
    }
    out.flush()
}

fn write_table(errors: &QueryErrors) -> Result<(), Failure> {
    let QueryErrors { per_query, way } = errors;
    let rows = per_query.iter().enumerate().take(TABLE_ROWS);
    let rows = rows.map(|(query, &error)| vec![query.to_string(), short(error)]).collect();
    print_table(vec!["query".into(), "squared error".into()], rows)?;
    print_note(&format!(
        "{} queries: mean {}, max {}, last {}, rmse {}; found by {way}",
        per_query.len(),
        short(errors.mean()),
        short(errors.max()),
        short(errors.last()),
        short(errors.rmse())
    ))
}
