//! `noisectl session run`: a session taken through steps.

use std::path::PathBuf;

use bytes::Bytes;
use noised::SessionSpec;
use noised::session::{ResolvedSpec, Source};
use noised_client::{CreateOptions, LocalHost};
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;

use super::SpecArgs;
use super::progress::Progress;
use crate::args::{FormatArg, Place};
use crate::failure::Failure;
use crate::steps::{Generator, Inputs, OutputFile, StepFile};

/// Inputs made ahead of the one that is sent.
const INPUTS_AHEAD: usize = 1;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The session's name. A run that was interrupted goes on under the same name.
    #[arg(long, default_value = "")]
    id: String,
    #[command(flatten)]
    spec: SpecArgs,
    /// The step to stop before. Unless given, the end of the input, or the horizon.
    #[arg(long, value_name = "T")]
    steps: Option<u64>,
    /// Steps or gradients from a file: .npy with [steps, lanes], or .safetensors with a tensor for each leaf, steps first.
    #[arg(long, value_name = "FILE", conflicts_with = "seed")]
    input: Option<PathBuf>,
    /// Standard normals from a seed, for trying things out; no private noise.
    #[arg(long, value_name = "SEED")]
    seed: Option<u64>,
    /// Write the answers there, as .npy with [steps, lanes].
    #[arg(long, value_name = "FILE.npy")]
    out: Option<PathBuf>,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    format: FormatArg,
}

impl Args {
    pub(crate) async fn run(self) -> Result<(), Failure> {
        let resolved = self.spec.read()?;
        let inputs = self.inputs(&resolved)?;
        let end = self.end(&inputs, resolved.spec().horizon)?;
        let options = self.spec.noise().create_options()?;
        match self.place.client().await? {
            None => self.run_here(resolved.spec(), &inputs, end),
            Some(client) => {
                let options = CreateOptions { id: self.id.clone(), resume: true, ..options };
                let session = client.create_session(resolved.spec(), options).await?;
                self.run_there(session, inputs, end).await
            }
        }
    }

    fn inputs(&self, resolved: &ResolvedSpec) -> Result<Inputs, Failure> {
        let is_drawn = match resolved.spec().source {
            Source::Gaussian(_) => true,
            Source::Input | Source::Privatize { .. } => false,
        };
        match (&self.input, self.seed) {
            (Some(_), _) if is_drawn => Err(Failure::usage("input", "does not go with --source gaussian")),
            (_, Some(_)) if is_drawn => Err(Failure::usage("seed", "does not go with --source gaussian")),
            (Some(path), _) => Ok(Inputs::File(StepFile::open(path, resolved)?)),
            (None, Some(seed)) => Ok(Inputs::Seed(Generator::new(seed, resolved)?)),
            (None, None) if is_drawn => Ok(Inputs::Drawn),
            (None, None) => Err(Failure::usage("input", "give --input FILE or --seed SEED")),
        }
    }

    /// The step to stop before.
    fn end(&self, inputs: &Inputs, horizon: Option<u64>) -> Result<u64, Failure> {
        if let (Some(wanted), Some(there)) =
            (self.steps, inputs.steps().filter(|&there| self.steps > Some(there)))
        {
            return Err(Failure::usage(
                "steps",
                format_args!("{wanted} are wanted, and the input has {there}"),
            ));
        }
        let endless = || Failure::usage("steps", "say how many: neither the input nor the matrix ends");
        self.steps.or(inputs.steps()).or(horizon).ok_or_else(endless)
    }

    async fn run_there(
        &self,
        session: noised_client::Session,
        inputs: Inputs,
        end: u64,
    ) -> Result<(), Failure> {
        let first = session.next_step();
        let out = self.open_out(session.layout(), end, first)?;
        let mut progress = Progress::new(first.min(end), end, session.step_bytes() as u64);
        // The answer to the last step may have been lost with the run that asked for it.
        let mut stream = if out.is_some() { session.stream_with_replay() } else { session.stream() };
        let queued = read_ahead(inputs, stream.next_input_step()..end);
        let taken = stream.run(queued, |answer| {
            if let Some(out) = &out {
                out.write(answer.step, answer.offset, &answer.payload)?;
            }
            if answer.step_end && answer.step >= first {
                progress.step();
            }
            Ok::<(), Failure>(())
        });
        taken.await?;
        progress.finish(session.name(), first.max(end), self.format.format)
    }

    /// The same without a server.
    fn run_here(&self, spec: &SessionSpec, inputs: &Inputs, end: u64) -> Result<(), Failure> {
        let mut session = LocalHost::new().create_session(spec, self.spec.noise().local_options()?)?;
        let mut progress = Progress::new(0, end, session.step_bytes() as u64);
        let out = self.open_out(session.layout(), end, 0)?;
        for step in 0..end {
            let answer = match inputs {
                Inputs::Drawn => session.fetch(step)?,
                Inputs::File(_) | Inputs::Seed(_) => {
                    session.multiply_next(step, inputs.read(step)?.into())?
                }
            };
            if let Some(out) = &out {
                out.write(step, 0, &answer)?;
            }
            progress.step();
        }
        progress.finish("local", end, self.format.format)
    }

    fn open_out(&self, layout: &noised::Layout, end: u64, first: u64) -> Result<Option<OutputFile>, Failure> {
        self.out.as_ref().map(|path| OutputFile::open(path, layout, end, first)).transpose()
    }
}

/// Makes inputs on a thread of its own, so that the network does not wait for them.
fn read_ahead(inputs: Inputs, steps: std::ops::Range<u64>) -> impl Stream<Item = Result<Bytes, Failure>> {
    let (sender, receiver) = mpsc::channel(INPUTS_AHEAD);
    tokio::task::spawn_blocking(move || {
        for step in steps {
            // Nobody waits for more where the run has failed.
            if sender.blocking_send(inputs.read(step).map(Bytes::from)).is_err() {
                return;
            }
        }
    });
    ReceiverStream::new(receiver)
}
