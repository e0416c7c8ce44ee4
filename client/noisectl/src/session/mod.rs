//! `noisectl session`: sessions of a server.

mod create;
mod delete;
mod get;
mod keep;
mod list;
mod progress;
mod rewind;
mod run;
mod show;

use clap::Subcommand;
use noised::SessionSpec;
use noised::session::ResolvedSpec;

use crate::args::{MatrixArg, StateArgs, TreeArg};
use crate::context::Context;
use crate::failure::Failure;
use crate::files::Files;
use crate::source::{NoiseArgs, SourceArgs};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a session, or with --resume take one up that was made for the same.
    Create(create::Args),
    /// What a session is and where it stands.
    Get(get::Args),
    /// Every session of the server.
    List(list::Args),
    /// End a session and free its memory.
    Delete(delete::Args),
    /// Take a session to --steps steps in all, from where it stands: making it, or going on after an interruption.
    Run(run::Args),
    /// Keep the state of the step that a session expects, so that it goes back to it at once.
    Keep(keep::Args),
    /// Have a session go back to an earlier step, so that it and those after it are asked for again.
    Rewind(rewind::Args),
}

impl Command {
    pub(crate) async fn run(self, context: &Context) -> Result<(), Failure> {
        match self {
            Self::Create(args) => args.run(context).await,
            Self::Get(args) => args.run().await,
            Self::List(args) => args.run().await,
            Self::Delete(args) => args.run().await,
            Self::Run(args) => args.run(context).await,
            Self::Keep(args) => args.run().await,
            Self::Rewind(args) => args.run().await,
        }
    }
}

/// What a session is made for.
#[derive(Debug, clap::Args)]
struct SpecArgs {
    #[command(flatten)]
    matrix: MatrixArg,
    #[command(flatten)]
    tree: TreeArg,
    #[command(flatten)]
    source: SourceArgs,
    #[command(flatten)]
    state: StateArgs,
    /// The number of steps that the session may ever produce. Unless given, as many as the matrix has rows.
    #[arg(long, value_name = "STEPS")]
    horizon: Option<u64>,
}

impl SpecArgs {
    /// Checked here, so that a mistake is told before a server is looked for.
    fn read(&self, files: &Files) -> Result<ResolvedSpec, Failure> {
        let source = self.source.read()?;
        let matrix = self.matrix.read(files)?;
        let tree =
            self.tree.read(files)?.ok_or_else(|| Failure::usage("tree", "give --tree FILE or --lanes N"))?;
        let spec = SessionSpec::new(matrix, tree);
        let precision = self.state.precision.unwrap_or(spec.precision);
        let shard = self.state.shard();
        Ok(SessionSpec { shard, source, precision, horizon: self.horizon, ..spec }.resolve()?)
    }

    fn noise(&self) -> &NoiseArgs {
        self.source.noise()
    }
}
