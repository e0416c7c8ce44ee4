//! `noisectl session keep`.

use noised_client::WhenFull;

use super::show::show;
use crate::args::{FormatArg, ServerArg};
use crate::failure::Failure;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The session's name.
    id: String,
    /// The step, which must be the one that the session expects.
    step: u64,
    /// Where as many states are kept as may be, let go of that of the earliest step.
    #[arg(long)]
    release_oldest: bool,
    #[command(flatten)]
    server: ServerArg,
    #[command(flatten)]
    format: FormatArg,
}

impl Args {
    pub(crate) async fn run(self) -> Result<(), Failure> {
        let when_full = if self.release_oldest { WhenFull::ReleaseOldest } else { WhenFull::Refuse };
        let info = self.server.client().await?.keep_state(&self.id, self.step, when_full).await?;
        show(&info, self.format.format)
    }
}
