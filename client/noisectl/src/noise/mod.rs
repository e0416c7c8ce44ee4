//! `noisectl noise`: whether noise is what it should be.

mod check;
mod report;
mod values;
mod verify;

use clap::Subcommand;

use crate::context::Context;
use crate::failure::Failure;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Check that steps in a file are stddev * A z with A a matrix and z independent standard normals.
    Check(check::Args),
    /// Draw steps of noise on a server, check them likewise, and leave nothing there.
    Verify(Box<verify::Args>),
}

impl Command {
    pub(crate) async fn run(self, context: &Context) -> Result<(), Failure> {
        match self {
            Self::Check(args) => args.run(context),
            Self::Verify(args) => args.run(context).await,
        }
    }
}
