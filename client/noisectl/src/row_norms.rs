//! `noisectl row-norms`: the squared L2 norm of each row.

use std::io::Write;

use noised::analysis::{self, RowNorms};

use crate::args::{FormatArg, MatrixArg, Place};
use crate::context::Context;
use crate::failure::Failure;
use crate::output::{Format, print_note, print_table, short, stdout, write_numbers};

/// Rows of a table. JSON has them all.
const TABLE_ROWS: usize = 32;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    matrix: MatrixArg,
    /// Rows.
    #[arg(short = 'n', value_name = "N")]
    n: u64,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    format: FormatArg,
}

impl Args {
    pub(crate) async fn run(self, context: &Context) -> Result<(), Failure> {
        let matrix = self.matrix.read_for(&context.files, self.n)?;
        let norms = match self.place.client().await? {
            None => analysis::row_norms_squared(&matrix, self.n, || context.interrupt.is_raised())?,
            Some(client) => client.analysis().row_norms_squared(&matrix, self.n).await?,
        };
        match self.format.format {
            Format::Json => write_json(&norms.values),
            Format::Table => write_table(&norms),
        }
    }
}

fn write_json(norms: &[f64]) -> Result<(), Failure> {
    let mut out = stdout();
    write!(out, "{{\"n\":{},\"row_norms_squared\":", norms.len())
        .and_then(|()| write_numbers(&mut out, norms.iter().copied()))
        .and_then(|()| writeln!(out, "}}"))
        .and_then(|()| out.flush())
        .map_err(|e| Failure::printing(&e))
}

/// The first rows, and the largest and the mean of all, which are the max and the mean squared error of a
/// decoder.
fn write_table(norms: &RowNorms) -> Result<(), Failure> {
    let RowNorms { values: norms, way } = norms;
    let rows = norms.iter().enumerate().take(TABLE_ROWS);
    let rows = rows.map(|(row, &norm)| vec![row.to_string(), short(norm)]).collect();
    print_table(vec!["row".into(), "norm squared".into()], rows)?;
    let largest = norms.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let mean = norms.iter().sum::<f64>() / norms.len() as f64;
    let (largest, mean) = (short(largest), short(mean));
    print_note(&format!("{} rows: largest {largest}, mean {mean}; found by {way}", norms.len()))
}
