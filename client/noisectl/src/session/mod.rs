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
mod spec;

use clap::Subcommand;

use crate::context::Context;
use crate::failure::Failure;

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
    /// Take a session to --steps steps in all, from where it stands: making it, or going on after an
    /// interruption.
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
