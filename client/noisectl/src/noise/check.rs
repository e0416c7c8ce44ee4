//! `noisectl noise check`: noise in a file.

use std::fs::File;
use std::path::{Path, PathBuf};

use noised::session::ResolvedSpec;
use noised::{DType, MatrixSpec, Precision, SessionSpec, Tree};
use noised_verify::{Report, Verifier, VerifyOptions};

use super::report;
use super::values::Values;
use crate::args::{FormatArg, MatrixArg};
use crate::context::Context;
use crate::failure::Failure;
use crate::files::unreadable;
use crate::interrupt::Interrupt;
use crate::steps::{Inputs, StepFile, npy_header};

/// What is required takes more than a line of most terminals.
const USAGE: &str = "noisectl noise check --input <FILE.npy> --matrix <JSON|@FILE>
           --stddev <S> [OPTIONS]";

#[derive(Debug, clap::Args)]
#[command(override_usage = USAGE)]
pub(crate) struct Args {
    /// The steps as they were released: .npy of f32 or f64 with [steps, lanes], as `session run --out` writes
    /// it.
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
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        let resolved = describe(&self.input, self.matrix.read(&context.files)?)?;
        let file = StepFile::open(&context.files, &self.input, &resolved)?;
        let options = VerifyOptions { level: self.level, ..VerifyOptions::default() };
        let matrix = &resolved.spec().matrix;
        let verifier = Verifier::new(matrix, self.stddev, resolved.layout().lanes(), options)?;
        let report = verify(verifier, file, &resolved, &context.interrupt)?;
        report::print(&report, None, self.format.format)?;
        report::judge(&report)
    }
}

/// What a session is that would release such a file.
fn describe(path: &Path, matrix: MatrixSpec) -> Result<ResolvedSpec, Failure> {
    let opened = File::open(path).and_then(|file| Ok((file.metadata()?.len(), file)));
    let (len, mut file) = opened.map_err(|e| unreadable("input", path, &e))?;
    let invalid = |rule: String| Failure::usage("input", format_args!("{}: {rule}", path.display()));
    let header = npy_header(&mut file, len).map_err(invalid)?;
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

fn verify(
    verifier: Verifier,
    file: StepFile,
    resolved: &ResolvedSpec,
    interrupt: &Interrupt,
) -> Result<Report, Failure> {
    let input = Inputs::File(file);
    let mut values = Values::new(verifier, resolved);
    let steps = input.steps().unwrap_or(0);
    for step in 0..steps {
        if interrupt.is_raised() {
            return Err(
                interrupt.failure(format_args!("{step} of {steps} steps are checked; nothing is reported"))
            );
        }
        values.step(&input.read(step)?)?;
    }
    values.finish()
}
