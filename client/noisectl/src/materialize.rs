//! `noisectl materialize`: a matrix written out, row by row, without holding more than a row.

use std::io::{self, Write};

use noised::analysis;

use crate::args::{FormatArg, MatrixArg, Place};
use crate::context::Context;
use crate::failure::Failure;
use crate::output::{self, Format, print_first_columns, print_note, short, stdout};

/// Rows and columns of a table. JSON has them all.
const TABLE_ROWS: usize = 16;
const TABLE_COLUMNS: usize = 10;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    matrix: MatrixArg,
    /// Rows and columns.
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
        let rows = match self.place.client().await? {
            None => Rows::Local(analysis::Rows::new(&matrix, self.n)?, context),
            Some(client) => Rows::Remote(client.analysis().materialize(&matrix, self.n).await?),
        };
        match self.format.format {
            Format::Json => write_json(rows, self.n as usize).await,
            Format::Table => write_table(rows, self.n as usize).await,
        }
    }
}

enum Rows<'a> {
    Local(analysis::Rows, &'a Context),
    Remote(noised_client::Rows),
}

impl Rows<'_> {
    /// The next row up to its diagonal.
    async fn next(&mut self) -> Result<Option<Vec<f64>>, Failure> {
        match self {
            Self::Local(_, context) if context.interrupt.is_raised() => Err(Failure::Cancelled),
            Self::Local(rows, _) => Ok(rows.next_finite_row()?),
            Self::Remote(rows) => Ok(rows.next_row().await?),
        }
    }
}

async fn write_json(mut rows: Rows<'_>, n: usize) -> Result<(), Failure> {
    let mut out = stdout();
    let mut first = true;
    while let Some(row) = rows.next().await? {
        // Nothing is printed before the first row is there: a refusal leaves stdout empty.
        let before = if first { format!("{{\"n\":{n},\"rows\":[") } else { ",".to_owned() };
        first = false;
        write_row(&mut out, &before, row, n).map_err(|e| Failure::printing(&e))?;
    }
    writeln!(out, "]}}").and_then(|()| out.flush()).map_err(|e| Failure::printing(&e))
}

fn write_row(out: &mut impl Write, before: &str, mut row: Vec<f64>, n: usize) -> io::Result<()> {
    row.resize(n, 0.0);
    out.write_all(before.as_bytes())?;
    output::write_numbers(out, row)
}

async fn write_table(mut rows: Rows<'_>, n: usize) -> Result<(), Failure> {
    let columns = n.min(TABLE_COLUMNS);
    let mut lines = Vec::new();
    while lines.len() < TABLE_ROWS
        && let Some(mut row) = rows.next().await?
    {
        row.resize(n, 0.0);
        let label = lines.len().to_string();
        lines.push([label].into_iter().chain(row[..columns].iter().map(|&entry| short(entry))).collect());
    }
    let shown = lines.len();
    let header = ["".to_owned()].into_iter().chain((0..columns).map(|column| column.to_string()));
    let columns = print_first_columns(header.collect(), lines)?.saturating_sub(1);
    if shown < n || columns < n {
        print_note(&format!("{shown} of {n} rows, {columns} of {n} columns; --format json has them all"))?;
    }
    Ok(())
}
