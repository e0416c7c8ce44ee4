//! Arguments of the commands about mechanisms and strategies.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use noised::MatrixSpec;
use noised::analysis::Participation;
use noised::design::{Objective, Problem};

use crate::context::Context;
use crate::failure::{Failure, say};
use crate::files::{Files, OutFile};

/// Which steps one user's data may take part in. Without any of these: in one step at most.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct ParticipationArgs {
    /// One user takes part in steps at least B apart.
    #[arg(long, value_name = "B")]
    min_sep: Option<u64>,
    /// One user takes part at most K times; at least --min-sep apart, or 1 where that is not given.
    #[arg(long, value_name = "K")]
    max_participations: Option<u64>,
    /// One user takes part in each of K passes, exactly n / K steps apart.
    #[arg(long, value_name = "K", conflicts_with_all = ["min_sep", "max_participations"])]
    epochs: Option<u64>,
}

impl ParticipationArgs {
    pub(crate) fn read(self) -> Participation {
        match self.epochs {
            Some(epochs) => Participation::FixedEpochs { epochs },
            None => Participation::from_limits(self.min_sep, self.max_participations),
        }
    }
}

/// What is minimised.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum ObjectiveArg {
    /// The mean squared error of the queries.
    Mean,
    /// The largest.
    Max,
}

/// What a strategy is for.
#[derive(Debug, Args)]
pub(crate) struct ProblemArgs {
    /// Steps.
    #[arg(short = 'n', value_name = "N")]
    n: u64,
    #[command(flatten)]
    participation: ParticipationArgs,
    #[command(flatten)]
    workload: WorkloadArg,
    /// What is minimised, times the squared sensitivity.
    #[arg(long, value_enum, default_value_t = ObjectiveArg::Mean)]
    objective: ObjectiveArg,
}

impl ProblemArgs {
    pub(crate) fn read(&self, files: &Files) -> Result<Problem, Failure> {
        let objective = match self.objective {
            ObjectiveArg::Mean => Objective::Mean,
            ObjectiveArg::Max => Objective::Max,
        };
        let workload = self.workload.read(files, 0)?;
        let problem = Problem { n: self.n, participation: self.participation.read(), objective, workload };
        problem.validate()?;
        Ok(problem)
    }
}

/// What is wanted of the gradients.
#[derive(Debug, Args)]
pub(crate) struct WorkloadArg {
    /// The workload A: JSON, @FILE with it, or @- for stdin. Unless given, the prefix sum.
    #[arg(long, value_name = "JSON|@FILE")]
    workload: Option<String>,
}

impl WorkloadArg {
    pub(crate) fn is_given(&self) -> bool {
        self.workload.is_some()
    }

    /// For a question about `n` steps; 0 for a matrix that a session may run.
    pub(crate) fn read(&self, files: &Files, n: u64) -> Result<Option<MatrixSpec>, Failure> {
        self.workload.as_deref().map(|text| read_named(files, "workload", text, n)).transpose()
    }
}

/// The matrix of the flag `name`, for a question about `n` steps; 0 for a matrix that a session may run.
pub(crate) fn read_named(files: &Files, name: &str, text: &str, n: u64) -> Result<MatrixSpec, Failure> {
    let spec = MatrixSpec::from_json_for(&files.text(name, text)?, n);
    Ok(spec.map_err(|error| error.about_matrix(name))?)
}

/// Where a noising matrix is kept.
#[derive(Debug, Args)]
pub(crate) struct SaveArg {
    /// Write the noising matrix there as JSON: `--matrix @FILE` of a session and `--noising-matrix @FILE` of
    /// `noisectl error` take it.
    #[arg(long, value_name = "FILE")]
    save: Option<PathBuf>,
}

impl SaveArg {
    /// Before the work: whether there can be such a file.
    pub(crate) fn prepare(&self, context: &Context) -> Result<Save, Failure> {
        Ok(Save(self.save.as_ref().map(|path| context.files.output("save", path)).transpose()?))
    }
}

/// A place for a noising matrix, where one is wanted.
#[derive(Debug)]
pub(crate) struct Save(Option<OutFile>);

impl Save {
    pub(crate) fn write(&self, noising_matrix: &MatrixSpec) -> Result<(), Failure> {
        let Some(out) = &self.0 else { return Ok(()) };
        out.write(|out| writeln!(out, "{}", noising_matrix.to_json()))?;
        say(&format!(
            "the noising matrix is in {0}: noisectl session create --matrix @{0}, noisectl error --noising-matrix @{0}",
            out.display()
        ));
        Ok(())
    }
}

/// A figure, where it is asked for.
#[cfg(feature = "plot")]
#[derive(Debug, Args)]
pub(crate) struct PlotArg {
    /// Draw a figure.
    #[arg(long, value_name = "FILE.svg|FILE.png", value_parser = crate::plot::ImageFile::parse)]
    plot: Option<crate::plot::ImageFile>,
}

#[cfg(feature = "plot")]
impl PlotArg {
    /// Before the work: whether there can be such a file.
    pub(crate) fn prepare(&self, context: &Context) -> Result<Plot, Failure> {
        Ok(Plot(self.plot.as_ref().map(|plot| plot.prepare(&context.files)).transpose()?))
    }
}

/// A place for a figure, where one is wanted.
#[cfg(feature = "plot")]
#[derive(Debug)]
pub(crate) struct Plot(Option<crate::plot::PreparedImage>);

#[cfg(feature = "plot")]
impl Plot {
    pub(crate) fn write(
        &self,
        figure: impl FnOnce() -> Result<crate::plot::Figure, Failure>,
    ) -> Result<(), Failure> {
        match &self.0 {
            Some(plot) => plot.write(&figure()?),
            None => Ok(()),
        }
    }
}

/// What a file is called, without its folder and ending.
pub(crate) fn stem(path: &str) -> String {
    Path::new(path).file_stem().map_or_else(|| path.to_owned(), |stem| stem.to_string_lossy().into_owned())
}
