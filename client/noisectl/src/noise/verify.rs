//! `noisectl noise verify`: noise as a server draws it.

use std::cell::Cell;

use bytes::Bytes;
use noised::session::{Noise, ResolvedSpec, Source};
use noised::{DType, Precision, SessionSpec, Tree, analysis};
use noised_client::{Client, LocalHost, Session};
use noised_verify::{Report, Verifier, VerifyOptions};
use tokio::sync::mpsc;

use super::report;
use super::values::Values;
use crate::args::{FormatArg, SessionPlace, at_least_one, read_matrix};
use crate::context::Context;
use crate::failure::Failure;
use crate::files::Files;
use crate::interrupt::Interrupt;
use crate::source::NoiseArgs;
use crate::temporary::Temporary;

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
    place: SessionPlace,
    #[command(flatten)]
    format: FormatArg,
}

impl Args {
    pub(crate) async fn run(self, context: &Context) -> Result<(), Failure> {
        let resolved = self.describe(&context.files)?;
        let options = VerifyOptions { level: self.level, ..VerifyOptions::default() };
        let matrix = &resolved.spec().matrix;
        let growth = analysis::describe(matrix, None, Some(resolved.spec().precision))?.growth;
        let verifier = Verifier::new(matrix, self.stddev, resolved.layout().lanes(), options)?;
        let values = Values::new(verifier, &resolved);
        let report = match context.interrupt.stop(self.place.client()).await? {
            None => self.check_here(resolved.spec(), values, &context.interrupt)?,
            Some(client) => self.check_there(client, &resolved, values, &context.interrupt).await?,
        };
        report::print(&report, Some(&growth), self.format.format)?;
        report::judge(&report)
    }

    /// Checked before a server is looked for.
    fn describe(&self, files: &Files) -> Result<ResolvedSpec, Failure> {
        at_least_one("steps", Some(self.steps))?;
        if !matches!(self.dtype, DType::F32 | DType::F64) {
            let rule = format_args!("must be f32 or f64, found {}: its resolution would show", self.dtype);
            return Err(Failure::usage("dtype", rule));
        }
        let tree = Tree::flat(self.lanes, self.dtype).map_err(|e| Failure::usage("lanes", e))?;
        let source = Source::Gaussian(Noise { stddev: self.stddev, key: self.noise.origin()? });
        let spec = SessionSpec::new(read_matrix(files, &self.matrix)?, tree);
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

    fn check_here(
        &self,
        spec: &SessionSpec,
        mut values: Values,
        interrupt: &Interrupt,
    ) -> Result<Report, Failure> {
        let mut session = LocalHost::new().create_session(spec, self.noise.local_options()?)?;
        for step in 0..self.steps {
            if interrupt.is_raised() {
                return Err(self.interrupted(interrupt, step));
            }
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
        interrupt: &Interrupt,
    ) -> Result<Report, Failure> {
        let mut sessions = Temporary::new(client);
        let drawn = Cell::new(0);
        let checked = async {
            let options = self.noise.create_options()?;
            let session = sessions.create("verify", resolved.spec(), options).await?;
            check_session(session, self.steps, values, &drawn).await
        };
        let checked = tokio::select! {
            checked = checked => checked,
            () = interrupt.raised() => Err(self.interrupted(interrupt, drawn.get())),
        };
        sessions.end(checked).await
    }

    fn interrupted(&self, interrupt: &Interrupt, drawn: u64) -> Failure {
        let state = format_args!("{drawn} of {} steps were drawn; nothing is reported", self.steps);
        interrupt.failure(state)
    }
}

/// Draws the next steps while the last one is checked, on a thread of its own.
async fn check_session(
    mut session: Session,
    steps: u64,
    mut values: Values,
    counted: &Cell<u64>,
) -> Result<Report, Failure> {
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
        counted.set(step + 1);
    }
    drop(drawn);
    checker.await.map_err(|e| Failure::failed("the checks", e))?
}
