//! `noisectl`: noised from the command line.
//!
//! | room | what is in it |
//! |---|---|
//! | `materialize`, `row_norms`, `multiply`, `describe` | questions about a matrix, asked of a server or in process |
//! | `design` | errors, sensitivities and designs of strategies, comparisons, calibration |
//! | `session` | sessions: make, look at, end, run |
//! | `token` | tokens by which a server knows its callers |
//! | `noise` | whether noise is what it should be |
//! | `bench` | a server under load: throughput and latency |
//! | `plot` | figures with axes and lines, as SVG or PNG, with the feature `plot` |
//! | `source` | arguments that say where a session's input comes from |
//! | `temporary` | sessions that a command makes for itself, and their end |
//! | `args` | arguments that several commands take |
//! | `context` | what every command has at hand: `files` and `interrupt` |
//! | `files` | the files that a command reads and writes, no file both |
//! | `interrupt` | Ctrl-C and SIGTERM |
//! | `npy`, `steps`, `answers` | arrays, and runs of steps, from files and to files |
//! | `output` | tables for people, JSON for programs |
//! | `printable` | texts of others without characters that a terminal obeys |
//! | `failure` | what is said, and the exit status, where a command fails |
//!
//! Exit status: 0 done, 2 bad usage or a bad description (one line on stderr names the field), 130 after
//! Ctrl-C and 143 after SIGTERM (one line says what was done), 1 anything else.

mod answers;
mod args;
mod bench;
mod context;
mod describe;
mod design;
mod failure;
mod files;
mod interrupt;
mod materialize;
mod multiply;
mod noise;
mod npy;
mod output;
#[cfg(feature = "plot")]
mod plot;
mod printable;
mod row_norms;
mod session;
mod source;
mod steps;
mod temporary;
mod token;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use context::Context;
use failure::Failure;

/// Correlated noise for differentially private training: ask about matrices, run sessions.
#[derive(Debug, Parser)]
#[command(name = "noisectl", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Write a matrix out.
    Materialize(materialize::Args),
    /// The squared L2 norm of each row: of a decoder, each query's expected squared error at noise of
    /// variance 1.
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
    /// What the noise of a training run guarantees, with the amplification of its sampling: an upper bound of
    /// epsilon or delta.
    Account(design::account::Args),
    /// From a privacy target to the noise it takes, and back. Without --sampling no amplification is claimed.
    Calibrate(design::calibrate::Args),
    /// Sessions of a server.
    #[command(subcommand)]
    Session(session::Command),
    /// Tokens by which a server knows its callers.
    #[command(subcommand)]
    Token(token::Command),
    /// Check noise.
    #[command(subcommand)]
    Noise(noise::Command),
    /// Load a server and tell its throughput and latency.
    Bench(bench::Args),
}

impl Command {
    /// Whether it has something to put in order or to tell where it is interrupted, and so does not just
    /// stop.
    fn ends_itself(&self) -> bool {
        matches!(
            self,
            Self::Session(session::Command::Run(_))
                | Self::Noise(noise::Command::Verify(_))
                | Self::Bench(_)
                | Self::Optimize(_)
                | Self::Recommend(_)
        )
    }

    async fn run(self, context: &Context) -> Result<(), Failure> {
        match self {
            Self::Materialize(args) => args.run(context).await,
            Self::RowNorms(args) => args.run(context).await,
            Self::Multiply(args) => args.run(context).await,
            Self::Describe(args) => args.run(context).await,
            Self::Error(args) => args.run(context).await,
            Self::Sensitivity(args) => args.run(context).await,
            Self::Optimize(args) => args.run(context).await,
            Self::Strategy(args) => args.run(context),
            Self::Recommend(args) => args.run(context).await,
            Self::Compare(args) => args.run(context).await,
            Self::Account(args) => args.run(context).await,
            Self::Calibrate(args) => args.run(context).await,
            Self::Session(command) => command.run(context).await,
            Self::Token(command) => command.run(),
            Self::Noise(command) => command.run(context).await,
            Self::Bench(args) => args.run(context).await,
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
    let runtime = runtime.map_err(|e| Failure::failed("cannot start", e))?;
    let context = Context::new()?;
    let done = runtime.block_on(async {
        match cli.command.ends_itself() {
            true => cli.command.run(&context).await,
            false => context.interrupt.stop(cli.command.run(&context)).await,
        }
    });
    let unfinished = "the answer is not complete, and no file is written";
    done.map_err(|failure| context.interrupt.explain(failure, unfinished))
}
