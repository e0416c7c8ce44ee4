//! Arguments that say what a session is made for.

use noised::SessionSpec;
use noised::session::ResolvedSpec;

use crate::args::{MatrixArg, StateArgs, TreeArg};
use crate::failure::Failure;
use crate::files::Files;
use crate::source::{NoiseArgs, SourceArgs};

/// What a session is made for.
#[derive(Debug, clap::Args)]
pub(super) struct SpecArgs {
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
    pub(super) fn read(&self, files: &Files) -> Result<ResolvedSpec, Failure> {
        let source = self.source.read()?;
        let matrix = self.matrix.read(files)?;
        let tree =
            self.tree.read(files)?.ok_or_else(|| Failure::usage("tree", "give --tree FILE or --lanes N"))?;
        let spec = SessionSpec::new(matrix, tree);
        let precision = self.state.precision.unwrap_or(spec.precision);
        let shard = self.state.shard();
        Ok(SessionSpec { shard, source, precision, horizon: self.horizon, ..spec }.resolve()?)
    }

    pub(super) fn noise(&self) -> &NoiseArgs {
        self.source.noise()
    }
}
