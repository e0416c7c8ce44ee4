//! `noisectl bench`: a server under load.
//!
//! | room | what is in it |
//! |---|---|
//! | `case` | one setting that is measured: its sessions, its workers, what they found together |
//! | `worker` | one session stepped from a thread and a connection of its own |
//! | `report` | results as a table and as JSON |
//! | `figure` | results as a figure, with the feature `plot` |

mod case;
#[cfg(feature = "plot")]
mod figure;
mod report;
mod worker;

use std::cell::Cell;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use clap::ValueEnum;
use indicatif::{ProgressBar, ProgressFinish};
use noised::{DType, MatrixSpec, Precision, SessionSpec, Tree};

use crate::args::{FormatArg, ServerArg, parse_time, read_matrix};
use crate::context::Context;
use crate::failure::Failure;
use crate::files::{Files, OutFile};
use crate::temporary::Temporary;
use case::{Case, Measured};
use report::Report;
use worker::{Course, Goal, Mode};

/// A noising matrix of four buffers, as they are used in training.
const DEFAULT_MATRIX: &str = r#"{"kind":"inverse","matrix":{"kind":"buffered_toeplitz","buf_decay":[0.999,0.97,0.75,0.2],"output_scale":[0.03,0.1,0.2,0.17]}}"#;

/// Steps of at most so many bytes go as one message in mode `auto`: the client's own default.
const AUTO_UNARY_BYTES: usize = 1 << 20;

/// What `--help` tells beside the options.
const HELP: &str = r#"What is measured:
  Each case makes its sessions, warms them up, measures, and deletes them.
  Every session has a thread and a connection of its own, as so many workers
  would. Inputs are made before: random signs and mantissas, magnitudes from
  1 to 2, the same bytes at each step. The loop is closed: a session's next
  step waits for an answer, so latencies are those at the throughput that is
  told.

  Latency of a step, mode unary: from the call to its answer. Mode stream:
  from when its first byte is handed to the client to the last byte of its
  answer. Two steps of a session are under way at once, and the wait for the
  one before counts.

The JSON report:
  {"server", "version", "started", "cases": [{
    "lanes", "dtype", "precision", "matrix", "step_bytes", "sessions",
    "mode", "chunk_bytes", "warm_up", "steps_asked",
    "duration_asked_seconds", "steps", "seconds", "steps_per_second",
    "lanes_per_second", "gigabytes_per_second",
    "latency_ms": {"mean", "p50", "p90", "p99", "p99.9", "max"}}]}
  Rates are of all sessions together; gigabytes are 10^9 bytes of payload one
  way, and as many go the other way. "version" is noisectl's."#;

/// What is measured, for how long, and where it is told.
#[derive(Debug, clap::Args)]
#[command(after_long_help = HELP)]
pub(crate) struct Args {
    /// The matrix: JSON such as '{"kind":"prefix_sum"}', @FILE with it, or @- for stdin. Unless given, the
    /// inverse of a BLT with 4 buffers.
    #[arg(long, value_name = "JSON|@FILE", default_value = DEFAULT_MATRIX, hide_default_value = true)]
    matrix: String,
    /// Lanes of a step; a case for each.
    #[arg(
        long,
        value_name = "N,...",
        value_delimiter = ',',
        default_value = "1000,100000,10000000",
        value_parser = clap::value_parser!(u64).range(1..)
    )]
    lanes: Vec<u64>,
    /// The format of these lanes: f32, f64, bf16 or f16.
    #[arg(long, default_value_t = DType::F32)]
    dtype: DType,
    /// The format of state and arithmetic, f32 or f64. Unless given, f64 where the lanes are, else f32.
    #[arg(long)]
    precision: Option<Precision>,
    /// Steps of each session in each case that are measured.
    #[arg(long, value_name = "N", conflicts_with = "duration", value_parser = clap::value_parser!(u64).range(1..))]
    steps: Option<u64>,
    /// How long each case is measured, such as 500ms, 10s or 2m.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = parse_duration)]
    duration: Duration,
    /// Steps of each session before that, which are not counted.
    #[arg(long, value_name = "N", default_value_t = 10)]
    warm_up: u64,
    /// Sessions that are stepped at the same time.
    #[arg(long, value_name = "K", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    sessions: u16,
    /// Steps pipelined on a stream, or one call after the other; auto streams steps of more than 1 MiB.
    #[arg(long, value_enum, default_value_t = ModeArg::Auto)]
    mode: ModeArg,
    /// Bytes of a chunk on a stream.
    #[arg(
        long,
        value_name = "BYTES",
        default_value_t = 512 << 10,
        value_parser = clap::value_parser!(u32).range(1..=32 << 20)
    )]
    chunk_bytes: u32,
    /// Write the JSON report there as well.
    #[arg(long, value_name = "FILE.json")]
    report: Option<PathBuf>,
    /// Draw percentiles of latency, and throughput by lanes.
    #[cfg(feature = "plot")]
    #[arg(long, value_name = "FILE.svg|FILE.png", value_parser = crate::plot::ImageFile::parse)]
    plot: Option<crate::plot::ImageFile>,
    #[command(flatten)]
    server: ServerArg,
    #[command(flatten)]
    format: FormatArg,
}

/// How steps are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ModeArg {
    Stream,
    Unary,
    Auto,
}

impl Args {
    pub(crate) async fn run(self, context: &Context) -> Result<(), Failure> {
        let interrupt = &context.interrupt;
        let cases = self.cases(&context.files)?;
        let outputs = self.outputs(&context.files)?;
        let started = SystemTime::now();
        let mut sessions = Temporary::new(interrupt.stop(self.server.client()).await?);
        let (all, done) = (cases.len(), Cell::new(0));
        let measured = tokio::select! {
            measured = self.measure(cases, &mut sessions, &done) => measured,
            () = interrupt.raised() => {
                let done = done.get();
                Err(interrupt.failure(format_args!("{done} of {all} sizes were measured; nothing is reported")))
            }
        };
        let measured = sessions.end(measured).await?;
        self.tell(&Report { server: self.server.name().to_owned(), started, cases: measured }, &outputs)
    }

    /// Checked before a server is looked for.
    fn cases(&self, files: &Files) -> Result<Vec<Case>, Failure> {
        let matrix = read_matrix(files, &self.matrix)?;
        self.lanes.iter().map(|&lanes| self.case(matrix.clone(), lanes)).collect()
    }

    fn case(&self, matrix: MatrixSpec, lanes: u64) -> Result<Case, Failure> {
        let tree = Tree::flat(lanes, self.dtype).map_err(|e| Failure::usage("lanes", e))?;
        let spec = SessionSpec::new(matrix, tree);
        let precision = self.precision.unwrap_or(spec.precision);
        let resolved = SessionSpec { precision, ..spec }.resolve()?;
        let horizon = resolved.spec().horizon;
        let goal = self.steps.map_or(Goal::Duration(self.duration), Goal::Steps);
        let wanted = self.warm_up.saturating_add(self.steps.unwrap_or(1));
        if let Some(rows) = horizon.filter(|&rows| wanted > rows) {
            let rule = format_args!("{wanted} with the warm-up are wanted, and the matrix has {rows} rows");
            return Err(Failure::usage("steps", rule));
        }
        let mode = match self.mode {
            ModeArg::Stream => Mode::Stream,
            ModeArg::Unary => Mode::Unary,
            ModeArg::Auto if resolved.layout().byte_len() <= AUTO_UNARY_BYTES => Mode::Unary,
            ModeArg::Auto => Mode::Stream,
        };
        Ok(Case {
            lanes,
            dtype: self.dtype,
            sessions: self.sessions,
            chunk_bytes: self.chunk_bytes as usize,
            course: Course { mode, warm_up: self.warm_up, goal, horizon },
            resolved,
        })
    }

    /// A file that cannot be written is told before the work and not after it.
    fn outputs(&self, files: &Files) -> Result<Outputs, Failure> {
        Ok(Outputs {
            report: self.report.as_ref().map(|path| files.output("report", path)).transpose()?,
            #[cfg(feature = "plot")]
            plot: self.plot.as_ref().map(|plot| plot.prepare(files)).transpose()?,
        })
    }

    async fn measure(
        &self,
        cases: Vec<Case>,
        sessions: &mut Temporary,
        done: &Cell<usize>,
    ) -> Result<Vec<Measured>, Failure> {
        let progress = ProgressBar::no_length().with_finish(ProgressFinish::AndClear);
        let mut measured = Vec::with_capacity(cases.len());
        for case in cases {
            // No thread keeps the line moving: it would take time from what is measured.
            progress.set_message(case.title());
            progress.tick();
            measured.push(case.measure(&self.server, sessions).await?);
            sessions.delete().await.map_err(Failure::Failed)?;
            done.set(measured.len());
        }
        Ok(measured)
    }

    fn tell(&self, report: &Report, outputs: &Outputs) -> Result<(), Failure> {
        if let Some(out) = &outputs.report {
            report.write(out)?;
        }
        #[cfg(feature = "plot")]
        if let Some(plot) = &outputs.plot {
            plot.write(&figure::figure(report))?;
        }
        report.print(self.format.format)
    }
}

/// The files that it writes.
#[derive(Debug)]
struct Outputs {
    report: Option<OutFile>,
    #[cfg(feature = "plot")]
    plot: Option<crate::plot::PreparedImage>,
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    match parse_time(text)? {
        Duration::ZERO => Err("must be more than nothing".to_owned()),
        duration => Ok(duration),
    }
}
