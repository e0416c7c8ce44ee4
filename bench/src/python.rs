//! Peers in Python: a virtual environment of their own, and a process for each way of setting them up.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};
use noised::MatrixSpec;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::cases::Case;

const STEPS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/peers/steps.py");
const ANALYSIS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/peers/analysis.py");
const CLIENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/peers/client.py");
const PACKAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../client/python");
const REQUIREMENTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/peers/requirements.txt");

/// How a Python peer is set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Peer {
    /// jax_privacy as pip installs it.
    JaxPrivacy,
    /// jax_privacy with an allocator that keeps its memory, in huge pages.
    JaxPrivacyTuned,
    NumPy,
    /// NumPy's standard normals, by generator.
    NumPyPcg64,
    NumPySfc64,
    /// jax.random.normal.
    JaxNormal,
    JaxNormalTuned,
    /// jax_privacy's matrix_factorization_privatizer.
    JaxPrivatizer,
    JaxPrivatizerTuned,
    /// jax_privacy's row_norms_squared, jitted.
    JaxRowNorms,
    JaxRowNormsF64,
    /// jax_privacy's optimisers.
    JaxOptimizer,
    /// noised's own Python client.
    Noised,
    /// A bare unary call.
    Grpcio,
}

impl Peer {
    /// Those that take steps of a matrix.
    pub(crate) const STEPS: [Self; 3] = [Self::JaxPrivacy, Self::JaxPrivacyTuned, Self::NumPy];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::JaxPrivacy => "jax_privacy",
            Self::JaxPrivacyTuned => "jax_privacy, tuned allocator",
            Self::NumPy => "NumPy",
            Self::NumPyPcg64 => "NumPy, PCG64",
            Self::NumPySfc64 => "NumPy, SFC64",
            Self::JaxNormal => "jax.random.normal",
            Self::JaxNormalTuned => "jax.random.normal, tuned allocator",
            Self::JaxPrivatizer => "jax_privacy's privatizer in process",
            Self::JaxPrivatizerTuned => "jax_privacy's privatizer in process, tuned allocator",
            Self::JaxRowNorms => "jax_privacy, jitted, f32",
            Self::JaxRowNormsF64 => "jax_privacy, jitted, f64",
            Self::JaxOptimizer => "jax_privacy, compiling included",
            Self::Noised => "noised's Python client",
            Self::Grpcio => "bare grpcio call, raw tonic echo",
        }
    }

    fn script(self) -> &'static str {
        match self {
            Self::JaxRowNorms | Self::JaxRowNormsF64 | Self::JaxOptimizer => ANALYSIS,
            Self::Noised | Self::Grpcio => CLIENT,
            _ => STEPS,
        }
    }

    /// What the script is told.
    fn library(self) -> &'static str {
        match self {
            Self::JaxPrivacy | Self::JaxPrivacyTuned => "jax_privacy",
            Self::NumPy => "numpy",
            Self::NumPyPcg64 => "numpy_pcg64",
            Self::NumPySfc64 => "numpy_sfc64",
            Self::JaxNormal | Self::JaxNormalTuned => "jax_normal",
            Self::JaxPrivatizer | Self::JaxPrivatizerTuned => "jax_privatizer",
            Self::JaxRowNorms => "float32",
            Self::JaxRowNormsF64 | Self::JaxOptimizer => "float64",
            Self::Noised => "noised",
            Self::Grpcio => "grpcio",
        }
    }

    /// What glibc is told: give nothing back, map nothing by itself, use huge pages.
    fn environment(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::JaxPrivacy
            | Self::NumPy
            | Self::NumPyPcg64
            | Self::NumPySfc64
            | Self::JaxNormal
            | Self::JaxPrivatizer
            | Self::JaxRowNorms
            | Self::JaxRowNormsF64
            | Self::JaxOptimizer
            | Self::Noised
            | Self::Grpcio => &[],
            Self::JaxPrivacyTuned | Self::JaxNormalTuned | Self::JaxPrivatizerTuned => &[
                ("MALLOC_TRIM_THRESHOLD_", "68719476736"),
                ("MALLOC_MMAP_MAX_", "0"),
                ("MALLOC_TOP_PAD_", "268435456"),
                ("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1"),
            ],
        }
    }
}

/// A running peer.
pub(crate) struct Worker {
    process: Child,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
}

#[derive(Deserialize)]
struct Answer {
    error: Option<String>,
    form: Option<String>,
    seconds: Option<Vec<f64>>,
    loss: Option<f64>,
}

impl Worker {
    pub(crate) fn start(python: &Path, peer: Peer) -> anyhow::Result<Self> {
        let mut process = Command::new(python)
            .arg(peer.script())
            .arg(peer.library())
            .env("JAX_PLATFORMS", "cpu")
            .envs(peer.environment().iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start python")?;
        let requests = process.stdin.take().context("no stdin")?;
        let answers = BufReader::new(process.stdout.take().context("no stdout")?);
        Ok(Self { process, requests, answers })
    }

    /// Makes ready for a matrix; tells in which form its step is run. An error of the peer is one line.
    pub(crate) fn set_up(&mut self, case: &Case, lanes: usize) -> anyhow::Result<String> {
        let matrix: Value = serde_json::from_str(&case.matrix.to_json())?;
        let answer = self.ask(&json!({"do": "set_up", "matrix": matrix, "lanes": lanes}))?;
        Ok(answer.form.unwrap_or_default())
    }

    /// The same for what takes more than a matrix and a size: the fields of an object.
    pub(crate) fn set_up_as(&mut self, mut request: Value) -> anyhow::Result<()> {
        request["do"] = json!("set_up");
        self.ask(&request).map(drop)
    }

    pub(crate) fn steps(&mut self, count: usize) -> anyhow::Result<Vec<Duration>> {
        self.times(&json!({"do": "steps", "count": count}))
    }

    /// Steps that come after a pause each.
    pub(crate) fn steps_after(&mut self, count: usize, pause: Duration) -> anyhow::Result<Vec<Duration>> {
        self.times(&json!({"do": "steps", "count": count, "pause": pause.as_secs_f64()}))
    }

    /// The times that NumPy and, after it, noised take to be imported by a worker that has done nothing else.
    pub(crate) fn imports(&mut self) -> anyhow::Result<[Duration; 2]> {
        let times = self.times(&json!({"do": "imports"}))?;
        let count = times.len();
        times.try_into().map_err(|_| anyhow::anyhow!("the worker told {count} times"))
    }

    fn times(&mut self, request: &Value) -> anyhow::Result<Vec<Duration>> {
        let answer = self.ask(request)?;
        Ok(answer.seconds.unwrap_or_default().into_iter().map(Duration::from_secs_f64).collect())
    }

    /// The time that an optimiser took, and its loss.
    pub(crate) fn optimize(&mut self, setting: &Value) -> anyhow::Result<(Duration, f64)> {
        let answer = self.ask(&json!({"do": "optimize", "setting": setting}))?;
        let seconds = answer.seconds.unwrap_or_default();
        let [seconds] = *seconds else {
            anyhow::bail!("the peer told {} times", seconds.len());
        };
        Ok((Duration::from_secs_f64(seconds), answer.loss.context("no loss")?))
    }

    /// The loss of a strategy, computed by the peer's side.
    pub(crate) fn loss(&mut self, setting: &Value, strategy: &MatrixSpec) -> anyhow::Result<f64> {
        let strategy: Value = serde_json::from_str(&strategy.to_json())?;
        let answer = self.ask(&json!({"do": "loss", "setting": setting, "strategy": strategy}))?;
        answer.loss.context("no loss")
    }

    fn ask(&mut self, request: &Value) -> anyhow::Result<Answer> {
        writeln!(self.requests, "{request}")?;
        self.requests.flush()?;
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        let answer: Answer =
            serde_json::from_str(&line).with_context(|| format!("the peer said {line:?}"))?;
        match answer.error {
            Some(error) => Err(anyhow::anyhow!(error)),
            None => Ok(answer),
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _gone = self.process.kill();
        let _gone = self.process.wait();
    }
}

/// The interpreter of an environment under `directory` that has the peers, made where there is none yet.
pub(crate) fn environment(directory: &Path) -> anyhow::Result<PathBuf> {
    let venv = directory.join("venv");
    let python = venv.join("bin/python");
    if !python.exists() {
        run(Command::new("python3").args(["-m", "venv"]).arg(&venv))?;
    }
    run(Command::new(&python).args(["-m", "pip", "install", "--quiet", "-r", REQUIREMENTS]))?;
    Ok(python)
}

/// Installs noised's Python client into an environment, as its users do.
pub(crate) fn install_noised(python: &Path) -> anyhow::Result<()> {
    let mut command = Command::new(python);
    command.args(["-m", "pip", "install", "--quiet", "--no-deps", PACKAGE]);
    // What is built already need not be built again: this program lies in `target/{profile}`.
    let target = std::env::current_exe()?;
    if let Some(target) = target.parent().and_then(Path::parent) {
        command.env("CARGO_TARGET_DIR", target);
    }
    run(&mut command)
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    let status = command.stdout(Stdio::null()).status().with_context(|| format!("{command:?}"))?;
    ensure!(status.success(), "{command:?} ended with {status}");
    Ok(())
}
