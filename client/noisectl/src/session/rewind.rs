//! `noisectl session rewind`.

use indicatif::{ProgressBar, ProgressFinish, ProgressStyle};

use super::show::show;
use crate::args::{FormatArg, ServerArg};
use crate::failure::Failure;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The session's name.
    id: String,
    /// The step to be expected next: any up to the last that was ever released.
    step: u64,
    /// Of a session that privatizes: let steps that were released be asked again with another gradient. One
    /// noise under two gradients gives their difference away; whoever says this accounts for that elsewhere.
    #[arg(long)]
    allow_divergence: bool,
    #[command(flatten)]
    server: ServerArg,
    #[command(flatten)]
    format: FormatArg,
}

impl Args {
    /// Interrupted, it leaves the session at the step that it had come to.
    pub(crate) async fn run(self) -> Result<(), Failure> {
        let client = self.server.client().await?;
        let bar = ProgressBar::no_length().with_finish(ProgressFinish::AndClear);
        if let Ok(style) =
            ProgressStyle::with_template("{bar:30} {pos}/{len} steps computed again, {eta} left")
        {
            bar.set_style(style);
        }
        let note = |done, total| {
            bar.set_length(total);
            bar.set_position(done);
        };
        let info = client.rewind_session(&self.id, self.step, self.allow_divergence, note).await?;
        bar.finish_and_clear();
        show(&info, self.format.format)
    }
}
