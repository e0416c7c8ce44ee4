//! `noisectl session run`: a session taken through steps.

use std::path::PathBuf;

use bytes::Bytes;
use noised::session::{ResolvedSpec, Source};
use noised_client::{Client, CreateOptions, LocalHost, Session};
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;

use super::progress::Progress;
use super::spec::SpecArgs;
use crate::answers::AnswerFile;
use crate::args::{FormatArg, SessionPlace, at_least_one};
use crate::context::Context;
use crate::failure::Failure;
use crate::files::{Files, OutFile};
use crate::interrupt::Interrupt;
use crate::steps::{Generator, Inputs, StepFile};
use crate::temporary::Temporary;

/// Inputs made ahead of the one that is sent.
const INPUTS_AHEAD: usize = 1;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The session's name, under which a run that was interrupted goes on. Unless given, the session is
    /// deleted when the run has ended, however it ends.
    #[arg(long, default_value = "", hide_default_value = true)]
    id: String,
    #[command(flatten)]
    spec: SpecArgs,
    /// The step to stop before. Unless given, the end of the input, or the horizon.
    #[arg(long, value_name = "T")]
    steps: Option<u64>,
    /// Steps or gradients from a file: .npy with [steps, lanes], or .safetensors with a tensor for each leaf,
    /// steps first.
    #[arg(long, value_name = "FILE", conflicts_with = "seed")]
    input: Option<PathBuf>,
    /// Standard normals from a seed, for trying things out; no private noise.
    #[arg(long, value_name = "SEED")]
    seed: Option<u64>,
    /// Write the answers there, as .npy with [steps, lanes]. The file has this name once it is whole. Until
    /// then a session with --id writes to FILE.npy.partial, with which the next run goes on; any other
    /// session writes to FILE.npy.*.partial, which stays behind only where a second signal ends the run at
    /// once.
    #[arg(long, value_name = "FILE.npy")]
    out: Option<PathBuf>,
    #[command(flatten)]
    place: SessionPlace,
    #[command(flatten)]
    format: FormatArg,
}

impl Args {
    pub(crate) async fn run(self, context: &Context) -> Result<(), Failure> {
        at_least_one("steps", self.steps)?;
        let resolved = self.spec.read(&context.files)?;
        let inputs = self.inputs(&context.files, &resolved)?;
        let end = self.end(&inputs, resolved.spec().horizon)?;
        let out = self.out.as_ref().map(|path| context.files.output("out", path)).transpose()?;
        let course = Course { resolved, inputs, end, out };
        let progress = Progress::new(end, course.resolved.layout().byte_len() as u64);
        match context.interrupt.stop(self.place.client()).await? {
            None => {
                let done = self.run_here(course, &progress, &context.interrupt);
                done.map_err(|failure| self.state(failure, &progress))?;
                progress.finish("local", self.format.format)
            }
            Some(client) => {
                let name = self.run_there(client, course, &progress, &context.interrupt).await?;
                progress.finish(&name, self.format.format)
            }
        }
    }

    fn inputs(&self, files: &Files, resolved: &ResolvedSpec) -> Result<Inputs, Failure> {
        let is_drawn = match resolved.spec().source {
            Source::Gaussian(_) => true,
            Source::Input | Source::Privatize { .. } => false,
        };
        match (&self.input, self.seed) {
            (Some(_), _) if is_drawn => Err(Failure::usage("input", "does not go with --source gaussian")),
            (_, Some(_)) if is_drawn => Err(Failure::usage("seed", "does not go with --source gaussian")),
            (Some(path), _) => Ok(Inputs::File(StepFile::open(files, path, resolved)?)),
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

    /// On a server. A session that has no name of the user's is gone afterwards, whatever happens.
    async fn run_there(
        &self,
        client: Client,
        course: Course,
        progress: &Progress,
        interrupt: &Interrupt,
    ) -> Result<String, Failure> {
        let options = self.spec.noise().create_options()?;
        let mut made_up = Temporary::new(client.clone());
        let run = async {
            let spec = course.resolved.spec();
            let session = if self.is_named() {
                let options = CreateOptions { id: self.id.clone(), resume: true, ..options };
                client.create_session(spec, options).await?
            } else {
                made_up.create("run", spec, options).await?
            };
            let name = session.name().to_owned();
            self.take_through(session, course, progress).await.map(|()| name)
        };
        let done = tokio::select! {
            done = run => done,
            () = interrupt.raised() => Err(interrupt.failure(progress)),
        };
        made_up.end(done.map_err(|failure| self.state(failure, progress))).await
    }

    async fn take_through(
        &self,
        session: Session,
        course: Course,
        progress: &Progress,
    ) -> Result<(), Failure> {
        let Course { resolved: _, inputs, end, out } = course;
        let first = session.next_step();
        progress.start(first);
        let out = out.map(|out| AnswerFile::open(out, session.layout(), end, first, self.is_named()));
        let mut out = out.transpose()?;
        // The answer to the last step may have been lost with the run that asked for it.
        let mut stream = if out.is_some() { session.stream_with_replay() } else { session.stream() };
        let queued = read_ahead(inputs, stream.next_input_step()..end);
        let taken = stream.run(queued, |answer| {
            if let Some(out) = &mut out {
                out.write(answer.step, answer.offset, &answer.payload)?;
            }
            if answer.step_end && answer.step >= first {
                progress.step();
            }
            Ok::<(), Failure>(())
        });
        taken.await?;
        out.map_or(Ok(()), AnswerFile::finish)
    }

    /// The same without a server.
    fn run_here(&self, course: Course, progress: &Progress, interrupt: &Interrupt) -> Result<(), Failure> {
        let Course { resolved, inputs, end, out } = course;
        let options = self.spec.noise().local_options()?;
        let mut session = LocalHost::new().create_session(resolved.spec(), options)?;
        progress.start(0);
        let out = out.map(|out| AnswerFile::open(out, session.layout(), end, 0, false));
        let mut out = out.transpose()?;
        for step in 0..end {
            if interrupt.is_raised() {
                return Err(interrupt.failure(progress));
            }
            let answer = match &inputs {
                Inputs::Drawn => session.fetch(step)?,
                Inputs::File(_) | Inputs::Seed(_) => {
                    session.multiply_next(step, inputs.read(step)?.into())?
                }
            };
            if let Some(out) = &mut out {
                out.write(step, 0, &answer)?;
            }
            progress.step();
        }
        out.map_or(Ok(()), AnswerFile::finish)
    }

    /// Whether the session is the user's, to stay and to be gone on with.
    fn is_named(&self) -> bool {
        !self.place.is_local() && !self.id.is_empty()
    }

    /// A failure, with what of the run was done and what was not, once a session was there.
    fn state(&self, failure: Failure, progress: &Progress) -> Failure {
        let Some(next_step) = progress.next_step() else { return failure };
        let failure = match failure {
            Failure::Interrupted { .. } => failure,
            other if next_step == 0 => return other,
            other => other.with(progress),
        };
        let failure = match &self.out {
            Some(path) if !self.is_named() => failure.with(format_args!("{} is not written", path.display())),
            _ => failure,
        };
        match self.is_named() {
            true => failure.with(format_args!("the same command with --id {} goes on from there", self.id)),
            false => failure,
        }
    }
}

/// What a session is taken through.
#[derive(Debug)]
struct Course {
    resolved: ResolvedSpec,
    inputs: Inputs,
    /// The step to stop before.
    end: u64,
    out: Option<OutFile>,
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
