//! `noisectl noise check`: noise in a file.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use noised::session::ResolvedSpec;
use noised::{DType, MatrixSpec, Precision, SessionSpec, Tree};
use noised_client::verify::{Report, Verifier, VerifyOptions};

use super::report;
use super::values::Values;
use crate::args::{FormatArg, MatrixArg, unreadable};
use crate::failure::Failure;
use crate::npy::Header;
use crate::steps::{Inputs, StepFile};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The steps as they were released: .npy of f32 or f64 with [steps, lanes], as `session run --out` writes it.
    #[arg(long, value_name = "FILE.npy")]
    input: PathBuf,
    #[command(flatten)]
    matrix: MatrixArg,
    /// The standard deviation of the noise before the matrix.
    #[arg(long, value_name = "S")]
    stddev: f64,
    /// The probability that sound noise fails, all checks together.
    #[arg(long, value_name = "P", default_value = "1e-6")]
    level: f64,
    #[command(flatten)]
    format: FormatArg,
}

impl Args {
    pub(crate) fn run(self) -> Result<(), Failure> {
        let resolved = describe(&self.input, self.matrix.read()?)?;
        let file = StepFile::open(&self.input, &resolved)?;
        let options = VerifyOptions { level: self.level, ..VerifyOptions::default() };
        let matrix = &resolved.spec().matrix;
        let verifier = Verifier::new(matrix, self.stddev, resolved.layout().lanes(), options)?;
        let report = verify(verifier, file, &resolved)?;
        report::print(&report, None, self.format.format)?;
        report::judge(&report)
    }
}

/// What a session is that would release such a file.
fn describe(path: &Path, matrix: MatrixSpec) -> Result<ResolvedSpec, Failure> {
    let file = File::open(path).map_err(|e| unreadable("input", path, &e))?;
    let invalid = |rule: String| Failure::usage("input", format_args!("{}: {rule}", path.display()));
    let header = Header::read(&mut BufReader::new(file)).map_err(invalid)?;
    if !matches!(header.dtype, DType::F32 | DType::F64) {
        return Err(invalid(format!("must have elements of f32 or f64, found {}", header.dtype)));
    }
    let &[steps @ 1..=u64::MAX, lanes @ 1..=u64::MAX] = header.shape.as_slice() else {
        return Err(invalid(format!(
            "must have two axes, steps and lanes, not empty; found {:?}",
            header.shape
        )));
    };
    let spec = SessionSpec::new(matrix, Tree::flat(lanes, header.dtype)?);
    // The matrix is only undone, which is done in f64.
    let resolved = SessionSpec { precision: Precision::F64, ..spec }.resolve()?;
    if let Some(rows) = resolved.spec().horizon.filter(|&rows| steps > rows) {
        return Err(invalid(format!("has {steps} steps, and the matrix ends at row {rows}")));
    }
    Ok(resolved)
}

fn verify(verifier: Verifier, file: StepFile, resolved: &ResolvedSpec) -> Result<Report, Failure> {
    let input = Inputs::File(file);
    let mut values = Values::new(verifier, resolved);
    for step in 0..input.steps().unwrap_or(0) {
        values.step(&input.read(step)?)?;
    }
    values.finish()
}
