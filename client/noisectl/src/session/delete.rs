//! `noisectl session delete`.

use crate::args::ServerArg;
use crate::failure::Failure;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The session's name.
    id: String,
    #[command(flatten)]
    server: ServerArg,
}

impl Args {
    pub(crate) async fn run(self) -> Result<(), Failure> {
        Ok(self.server.client().await?.delete_session(&self.id).await?)
    }
}
