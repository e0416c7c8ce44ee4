//! Arguments of the commands about mechanisms and strategies.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use noised::MatrixSpec;
use noised::analysis::Participation;
use noised::design::{Objective, Problem};

use crate::args::text_or_file;
use crate::failure::{Failure, say};

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
    pub(crate) fn read(&self) -> Result<Problem, Failure> {
        let objective = match self.objective {
            ObjectiveArg::Mean => Objective::Mean,
            ObjectiveArg::Max => Objective::Max,
        };
        let workload = self.workload.read(0)?;
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
    /// For a question about `n` steps; 0 for a matrix that a session may run.
    pub(crate) fn read(&self, n: u64) -> Result<Option<MatrixSpec>, Failure> {
        self.workload.as_deref().map(|text| read_named("workload", text, n)).transpose()
    }
}

/// A matrix that is told of under the name of its flag, for a question about `n` steps; 0 for one that a session may run.
pub(crate) fn read_named(name: &str, text: &str, n: u64) -> Result<MatrixSpec, Failure> {
    let spec = MatrixSpec::from_json_for(&text_or_file(name, text)?, n);
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
    pub(crate) fn write(&self, noising_matrix: &MatrixSpec) -> Result<(), Failure> {
        let Some(path) = &self.save else { return Ok(()) };
        let failed = |e| Failure::failed(path.display(), e);
        std::fs::write(path, noising_matrix.to_json() + "\n").map_err(failed)?;
        say(&format!(
            "the noising matrix is in {0}: noisectl session create --matrix @{0}, noisectl error --noising-matrix @{0}",
            path.display()
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
    pub(crate) fn write(
        &self,
        figure: impl FnOnce() -> Result<crate::plot::Figure, Failure>,
    ) -> Result<(), Failure> {
        match &self.plot {
            Some(plot) => plot.write(&figure()?),
            None => Ok(()),
        }
    }
}

/// What a file is called, without its folder and ending.
pub(crate) fn stem(path: &str) -> String {
    Path::new(path).file_stem().map_or_else(|| path.to_owned(), |stem| stem.to_string_lossy().into_owned())
}
