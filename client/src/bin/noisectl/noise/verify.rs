//! `noisectl noise verify`: noise as a server draws it.

use bytes::Bytes;
use noised::session::{Noise, ResolvedSpec, Source};
use noised::{DType, Precision, SessionSpec, Tree, analysis};
use noised_client::verify::{Report, Verifier, VerifyOptions};
use noised_client::{Client, LocalHost, Session};
use tokio::sync::mpsc;

use super::report;
use super::values::Values;
use crate::args::{FormatArg, Place, read_matrix};
use crate::failure::Failure;
use crate::source::NoiseArgs;
use crate::temporary::{Temporary, interrupted};

/// Steps that are drawn while one is checked.
const STEPS_AHEAD: usize = 1;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The matrix: JSON such as '{"kind":"prefix_sum"}', @FILE with it, or @- for stdin.
    #[arg(long, value_name = "JSON|@FILE", default_value = r#"{"kind":"identity"}"#)]
    matrix: String,
    /// The standard deviation of the noise before the matrix.
    #[arg(long, value_name = "S", default_value_t = 1.0, allow_negative_numbers = true)]
    stddev: f64,
    /// Values of a step.
    #[arg(long, value_name = "N", default_value_t = 1 << 20)]
    lanes: u64,
    /// Steps to draw.
    #[arg(long, value_name = "T", default_value_t = 64)]
    steps: u64,
    /// The format of the values: f32 or f64.
    #[arg(long, default_value_t = DType::F32)]
    dtype: DType,
    /// The format of state and arithmetic, f32 or f64. Unless given, that of the values.
    #[arg(long)]
    precision: Option<Precision>,
    #[command(flatten)]
    noise: NoiseArgs,
    /// The probability that sound noise fails, all checks together.
    #[arg(long, value_name = "P", default_value = "1e-6")]
    level: f64,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    format: FormatArg,
}

impl Args {
    pub(crate) async fn run(self) -> Result<(), Failure> {
        let resolved = self.describe()?;
        let options = VerifyOptions { level: self.level, ..VerifyOptions::default() };
        let matrix = &resolved.spec().matrix;
        let growth = analysis::describe(matrix, None, Some(resolved.spec().precision))?.growth;
        let verifier = Verifier::new(matrix, self.stddev, resolved.layout().lanes(), options)?;
        let values = Values::new(verifier, &resolved);
        let report = match self.place.client().await? {
            None => self.check_here(resolved.spec(), values)?,
            Some(client) => self.check_there(client, &resolved, values).await?,
        };
        report::print(&report, Some(&growth), self.format.format)?;
        report::judge(&report)
    }

    /// Checked before a server is looked for.
    fn describe(&self) -> Result<ResolvedSpec, Failure> {
        if self.steps == 0 {
            return Err(Failure::usage("steps", "must be at least 1"));
        }
        if !matches!(self.dtype, DType::F32 | DType::F64) {
            let rule = format_args!("must be f32 or f64, found {}: its resolution would show", self.dtype);
            return Err(Failure::usage("dtype", rule));
        }
        let tree = Tree::flat(self.lanes, self.dtype).map_err(|e| Failure::usage("lanes", e))?;
        let source = Source::Gaussian(Noise { stddev: self.stddev, key: self.noise.origin()? });
        let spec = SessionSpec::new(read_matrix(&self.matrix)?, tree);
        let precision = self.precision.unwrap_or(spec.precision);
        let resolved = SessionSpec { source, precision, ..spec }.resolve()?;
        if let Some(rows) = resolved.spec().horizon.filter(|&rows| self.steps > rows) {
            let rule = format_args!("{} are wanted, and the matrix has {rows} rows", self.steps);
            return Err(Failure::usage("steps", rule));
        }
        // A key that is none is told before a server is looked for.
        self.noise.create_options()?;
        Ok(resolved)
    }

    fn check_here(&self, spec: &SessionSpec, mut values: Values) -> Result<Report, Failure> {
        let mut session = LocalHost::new().create_session(spec, self.noise.local_options()?)?;
        for step in 0..self.steps {
            values.step(&session.fetch(step)?)?;
        }
        values.finish()
    }

    /// In a session that is gone afterwards, whatever happens.
    async fn check_there(
        &self,
        client: Client,
        resolved: &ResolvedSpec,
        values: Values,
    ) -> Result<Report, Failure> {
        let mut sessions = Temporary::new(client);
        let checked = async {
            let options = self.noise.create_options()?;
            let session = sessions.create("verify", resolved.spec(), options).await?;
            check_session(session, self.steps, values).await
        };
        let checked = tokio::select! {
            checked = checked => checked,
            interruption = interrupted() => Err(interruption),
        };
        sessions.end(checked).await
    }
}

/// Draws the next steps while the last one is checked, on a thread of its own.
async fn check_session(mut session: Session, steps: u64, mut values: Values) -> Result<Report, Failure> {
    let (drawn, mut queued) = mpsc::channel::<Bytes>(STEPS_AHEAD);
    let checker = tokio::task::spawn_blocking(move || {
        while let Some(bytes) = queued.blocking_recv() {
            values.step(&bytes)?;
        }
        values.finish()
    });
    for step in 0..steps {
        // A checker that takes nothing any more has failed, and tells why below.
        if drawn.send(session.fetch(step).await?).await.is_err() {
            break;
        }
    }
    drop(drawn);
    checker.await.map_err(|e| Failure::failed("the checks", e))?
}
