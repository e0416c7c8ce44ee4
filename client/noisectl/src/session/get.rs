//! `noisectl session get`.

use super::show::show;
use crate::args::{FormatArg, ServerArg};
use crate::failure::Failure;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The session's name.
    id: String,
    #[command(flatten)]
    server: ServerArg,
    #[command(flatten)]
    format: FormatArg,
}

impl Args {
    pub(crate) async fn run(self) -> Result<(), Failure> {
        let info = self.server.client().await?.get_session(&self.id).await?;
        show(&info, self.format.format)
    }
}
