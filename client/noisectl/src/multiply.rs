//! `noisectl multiply`: a matrix times an array.

use std::fs::File;
use std::io::{BufReader, Write};
use std::path::{Path, PathBuf};

use ndarray::{ArrayViewD, IxDyn};
use noised::{MatrixSpec, analysis};
use noised_client::Client;

use crate::args::{FormatArg, MatrixArg, Place};
use crate::context::Context;
use crate::failure::Failure;
use crate::files::{Files, unreadable};
use crate::interrupt::Interrupt;
use crate::npy::Array;
use crate::output::{Format, print_first_columns, print_note, short, stdout, write_numbers};

/// Rows and columns of a table. JSON has them all.
const TABLE_ROWS: usize = 16;
const TABLE_COLUMNS: usize = 10;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    matrix: MatrixArg,
    /// The array, its first axis the step: @FILE.npy, @FILE.json, or JSON such as '[[1,2],[3,4]]'.
    #[arg(long, value_name = "JSON|@FILE")]
    x: String,
    /// Write the product there as well, as .npy of f64 with the shape of x.
    #[arg(long, value_name = "FILE.npy")]
    out: Option<PathBuf>,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    format: FormatArg,
}

impl Args {
    pub(crate) async fn run(self, context: &Context) -> Result<(), Failure> {
        let matrix = self.matrix.read(&context.files)?;
        let x = read_array(&context.files, &self.x)?;
        let out = self.out.as_ref().map(|path| context.files.output("out", path)).transpose()?;
        let values = match self.place.client().await? {
            None => multiply_here(&matrix, &x, &context.interrupt)?,
            Some(client) => multiply_there(&client, &matrix, &x).await?,
        };
        let product = Array { shape: x.shape, values };
        if let Some(out) = &out {
            out.write(|out| product.write(out))?;
        }
        match self.format.format {
            Format::Json => write_json(&product),
            Format::Table => write_table(&product),
        }
    }
}

fn multiply_here(matrix: &MatrixSpec, x: &Array, interrupt: &Interrupt) -> Result<Vec<f64>, Failure> {
    let shape: Vec<usize> = x.shape.iter().map(|&axis| axis as usize).collect();
    let x = ArrayViewD::from_shape(IxDyn(&shape), &x.values).map_err(|e| Failure::usage("x", e))?;
    Ok(analysis::multiply(matrix, x, || interrupt.is_raised())?.into_iter().collect())
}

async fn multiply_there(client: &Client, matrix: &MatrixSpec, x: &Array) -> Result<Vec<f64>, Failure> {
    let rows: Vec<Vec<f64>> = rows(x).map(<[f64]>::to_vec).collect();
    if rows.is_empty() {
        return Err(Failure::usage("x", "must not be empty"));
    }
    Ok(client.analysis().multiply(matrix, &rows).await?.concat())
}

/// The lanes of each step.
fn rows(array: &Array) -> std::slice::Chunks<'_, f64> {
    let lanes: u64 = array.shape.iter().skip(1).product();
    array.values.chunks((lanes as usize).max(1))
}

fn read_array(files: &Files, text: &str) -> Result<Array, Failure> {
    if let Some(path) = text.strip_prefix('@').map(Path::new)
        && path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("npy"))
    {
        files.input("x", path)?;
        let invalid = |rule: String| Failure::usage("x", format_args!("{}: {rule}", path.display()));
        let file = File::open(path).map_err(|e| unreadable("x", path, &e))?;
        let array = Array::read(&mut BufReader::new(file)).map_err(invalid)?;
        return if array.shape.is_empty() {
            Err(Failure::usage("x", "must have an axis of steps"))
        } else {
            Ok(array)
        };
    }
    parse_json(&files.text("x", text)?)
}

/// A list of steps, each a list of lanes, or one number where there is one lane.
fn parse_json(text: &str) -> Result<Array, Failure> {
    if let Ok(values) = serde_json::from_str::<Vec<f64>>(text) {
        return Ok(Array { shape: vec![values.len() as u64], values });
    }
    let not_rows = |e| Failure::usage("x", format_args!("must be a list of lists of numbers: {e}"));
    let rows: Vec<Vec<f64>> = serde_json::from_str(text).map_err(not_rows)?;
    let lanes = rows.first().map_or(0, Vec::len);
    if let Some(step) = rows.iter().position(|row| row.len() != lanes) {
        let rule = format!("must have {lanes} numbers like the first, found {}", rows[step].len());
        return Err(Failure::usage(format_args!("x[{step}]"), rule));
    }
    Ok(Array { shape: vec![rows.len() as u64, lanes as u64], values: rows.concat() })
}

fn write_json(product: &Array) -> Result<(), Failure> {
    let mut out = stdout();
    let mut write = || {
        write!(out, "{{\"n\":{},\"rows\":[", product.shape[0])?;
        for (i, row) in rows(product).enumerate() {
            if i > 0 {
                out.write_all(b",")?;
            }
            write_numbers(&mut out, row.iter().copied())?;
        }
        writeln!(out, "]}}")?;
        out.flush()
    };
    write().map_err(|e| Failure::printing(&e))
}

fn write_table(product: &Array) -> Result<(), Failure> {
    let line = |(step, row): (usize, &[f64])| {
        let lanes = row.iter().take(TABLE_COLUMNS).map(|&value| short(value));
        [step.to_string()].into_iter().chain(lanes).collect()
    };
    let lines: Vec<Vec<String>> = rows(product).enumerate().take(TABLE_ROWS).map(line).collect();
    let (steps, shown) = (product.shape[0] as usize, lines.len());
    let lanes = product.values.len() / steps.max(1);
    let columns = lanes.min(TABLE_COLUMNS);
    let header = ["step".to_owned()].into_iter().chain((0..columns).map(|lane| lane.to_string()));
    let columns = print_first_columns(header.collect(), lines)?.saturating_sub(1);
    if shown < steps || columns < lanes {
        print_note(&format!(
            "{shown} of {steps} steps, {columns} of {lanes} lanes; --format json has them all"
        ))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrays_from_json() {
        let array = |text| parse_json(text).unwrap();
        assert_eq!(array("[1, 2.5]"), Array { shape: vec![2], values: vec![1.0, 2.5] });
        assert_eq!(array("[[1,2],[3,4],[5,6]]").shape, [3, 2]);
        for (text, field) in [("[[1,2],[3]]", "x[1]"), ("{}", "x"), ("[[\"a\"]]", "x"), ("nonsense", "x")] {
            let Err(Failure::Usage(message)) = parse_json(text) else { panic!("{text} was taken") };
            assert!(message.starts_with(&format!("{field}: ")), "{message}");
        }
    }
}
