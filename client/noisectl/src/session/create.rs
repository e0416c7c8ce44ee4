//! `noisectl session create`.

use noised_client::CreateOptions;

use super::show::show;
use super::spec::SpecArgs;
use crate::args::{FormatArg, ServerArg};
use crate::context::Context;
use crate::failure::Failure;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The session's name. Unless given, the server makes one up.
    #[arg(long, default_value = "", hide_default_value = true)]
    id: String,
    #[command(flatten)]
    spec: SpecArgs,
    /// Take up the session of that name, which must exist and have been made for the same.
    #[arg(long)]
    resume: bool,
    #[command(flatten)]
    server: ServerArg,
    #[command(flatten)]
    format: FormatArg,
}

impl Args {
    pub(crate) async fn run(self, context: &Context) -> Result<(), Failure> {
        let spec = self.spec.read(&context.files)?;
        let options = self.spec.noise().create_options()?;
        let options = CreateOptions { id: self.id, resume: self.resume, must_exist: self.resume, ..options };
        let session = self.server.client().await?.create_session(spec.spec(), options).await?;
        show(session.info(), self.format.format)
    }
}
