//! `noisectl`: noised from the command line.
//!
//! | room | what is in it |
//! |---|---|
//! | `materialize`, `row_norms`, `multiply`, `describe` | questions about a matrix, asked of a server or in process |
//! | `design` | errors, sensitivities and designs of strategies, comparisons, calibration |
//! | `session` | sessions: make, look at, end, run |
//! | `noise` | whether noise is what it should be |
//! | `bench` | a server under load: throughput and latency |
//! | `plot` | figures with axes and lines, as SVG or PNG, with the feature `plot` |
//! | `source` | arguments that say where a session's input comes from |
//! | `local` | sessions in this process |
//! | `temporary` | sessions that a command makes for itself, and their end |
//! | `args` | arguments that several commands take |
//! | `npy`, `steps` | arrays and runs of steps, from files |
//! | `output` | tables for people, JSON for programs |
//! | `failure` | what is said, and the exit status, where a command fails |
//!
//! Exit status: 0 done, 2 bad usage or a bad description (one line on stderr names the field), 1 anything else.

mod args;
mod bench;
mod describe;
mod design;
mod failure;
mod materialize;
mod multiply;
mod noise;
mod npy;
mod output;
#[cfg(feature = "plot")]
mod plot;
mod row_norms;
mod session;
mod source;
mod steps;
mod temporary;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use failure::Failure;

/// Correlated noise for differentially private training: ask about matrices, run sessions.
#[derive(Debug, Parser)]
#[command(name = "noisectl", version, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Write a matrix out.
    Materialize(materialize::Args),
    /// The squared L2 norm of each row: of a decoder, each query's expected squared error at noise of variance 1.
    RowNorms(row_norms::Args),
    /// Multiply a matrix with an array whose first axis is the step.
    Multiply(multiply::Args),
    /// What a session on a matrix would hold and move.
    Describe(describe::Args),
    /// What error a mechanism makes on each query of a workload, at noise of variance 1.
    Error(design::error::Args),
    /// How much one user's data can move what a strategy measures.
    Sensitivity(design::sensitivity::Args),
    /// Look for the best strategy of a family.
    Optimize(design::optimize::Args),
    /// Write out a named strategy of the literature.
    Strategy(design::strategy::Args),
    /// Compare the strategies that fit, and tell which to use.
    Recommend(design::recommend::Args),
    /// Compare given strategies.
    Compare(design::compare::Args),
    /// From a privacy target to the noise it takes, and back. No amplification by sampling is claimed.
    Calibrate(design::calibrate::Args),
    /// Sessions of a server.
    #[command(subcommand)]
    Session(session::Command),
    /// Check noise.
    #[command(subcommand)]
    Noise(noise::Command),
    /// Load a server and tell its throughput and latency.
    Bench(bench::Args),
}

impl Command {
    async fn run(self) -> Result<(), Failure> {
        match self {
            Self::Materialize(args) => args.run().await,
            Self::RowNorms(args) => args.run().await,
            Self::Multiply(args) => args.run().await,
            Self::Describe(args) => args.run().await,
            Self::Error(args) => args.run().await,
            Self::Sensitivity(args) => args.run().await,
            Self::Optimize(args) => args.run().await,
            Self::Strategy(args) => args.run(),
            Self::Recommend(args) => args.run().await,
            Self::Compare(args) => args.run().await,
            Self::Calibrate(args) => args.run().await,
            Self::Session(command) => command.run().await,
            Self::Noise(command) => command.run().await,
            Self::Bench(args) => args.run().await,
        }
    }
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return failure::exit_of_usage(&error),
    };
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.exit(),
    }
}

/// One thread for the network is the fastest there is: it does not wake others.
fn run(cli: Cli) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|e| Failure::failed("cannot start", e))?.block_on(cli.command.run())
}
