//! Benchmarks of noised, side by side with what people use today, in one run and in turns.
//!
//! `peers` measures, prints the table of ratios and writes `target/bench/peers.json`. Each round takes a
//! sample of everything that is compared, one after the other, so that a machine whose speed changes changes
//! it for all of them.
//!
//! | room | what is in it |
//! |---|---|
//! | `cases` | the matrices |
//! | `library` | noised in this process |
//! | `memory` | the memory's own speed |
//! | `python` | peers in Python |
//! | `echo` | raw tonic and raw TCP |
//! | `noise` | noise that noised draws |
//! | `client` | the Python client |
//! | `analysis` | error analysis and strategy design |
//! | `wire` | noised over a connection |
//! | `state` | sessions in a store, beside sessions without one |
//! | `report` | ratios, the table, the file |

mod analysis;
mod cases;
mod client;
mod echo;
mod library;
mod memory;
mod noise;
mod python;
mod report;
mod state;
mod wire;

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::{Parser, Subcommand, ValueEnum};

use cases::Case;
use library::Library;
use memory::InPlace;
use python::{Peer, Worker};
use report::{Row, Unit, milliseconds};

// What a client that cares uses; the echoes get the same.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Debug, Parser)]
#[command(
    name = "noised-bench",
    version,
    about = "Benchmarks of noised, side by side with what people use today"
)]
struct Cli {
    #[command(subcommand)]
    command: Subcommands,
}

#[derive(Debug, Subcommand)]
enum Subcommands {
    /// Measure noised and its peers in turns, print the ratios, write peers.json.
    Peers(Peers),
    /// Serve an echo until killed.
    #[command(hide = true)]
    Serve { kind: EchoKind },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum EchoKind {
    TonicEcho,
    TcpEcho,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Steps in process, beside the memory's speed, jax_privacy and NumPy.
    Kernels,
    /// Large steps over TCP, beside echoes.
    Wire,
    /// Small steps over TCP, beside an echo.
    Small,
    /// Many sessions, beside one.
    Sessions,
    /// Noise that is drawn: by itself, beside NumPy and jax; fetched over TCP, beside jax_privacy's
    /// privatizer.
    Noise,
    /// The Python client, beside the one in Rust, jax_privacy's privatizer and grpcio.
    Python,
    /// Row norms, beside jax_privacy's.
    Analysis,
    /// Sessions in a state directory, beside sessions without one; the end of a server.
    State,
    /// Optimisers, beside jax_privacy's: their time and their losses.
    Optimize,
}

impl Part {
    /// Whether a server is measured.
    fn needs_server(self) -> bool {
        !matches!(self, Self::Kernels | Self::Analysis | Self::Optimize)
    }
}

#[derive(Debug, clap::Args)]
struct Peers {
    /// Lanes of the trees that kernels are measured on.
    #[arg(long, value_delimiter = ',', default_values_t = [100_000, 1_000_000, 10_000_000, 30_000_000])]
    lanes: Vec<usize>,
    /// Rounds; each takes a sample of everything.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// What to measure; everything where it is not given.
    #[arg(long, value_delimiter = ',')]
    only: Vec<Part>,
    /// Matrices whose name has this in it.
    #[arg(long, default_value = "")]
    matrix: String,
    /// Run the optimisers at every setting that there is, which takes hours.
    #[arg(long)]
    full: bool,
    /// Leave the peers in Python out.
    #[arg(long)]
    no_python: bool,
    /// Where the report goes; the peers' environment is made beside it.
    #[arg(long, default_value = "target/bench/peers.json")]
    report: PathBuf,
}

fn main() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match Cli::parse().command {
        Subcommands::Peers(peers) => peers.run(&runtime),
        Subcommands::Serve { kind: EchoKind::TonicEcho } => runtime.block_on(echo::serve_tonic()),
        Subcommands::Serve { kind: EchoKind::TcpEcho } => echo::serve_tcp(),
    }
}

impl Peers {
    fn wants(&self, part: Part) -> bool {
        self.only.is_empty() || self.only.contains(&part)
    }

    #[allow(clippy::print_stdout, reason = "the table is what this program is for")]
    fn run(&self, runtime: &tokio::runtime::Runtime) -> anyhow::Result<()> {
        let mut rows = Vec::new();
        if self.wants(Part::Kernels) {
            rows.extend(self.kernels()?);
        }
        if self.only.is_empty() || self.only.iter().any(|part| part.needs_server()) {
            build_server()?;
        }
        if self.wants(Part::Wire) {
            for lanes in [10_000_000, 30_000_000] {
                rows.extend(runtime.block_on(wire::large_steps(lanes, self.rounds))?);
            }
        }
        if self.wants(Part::Small) {
            rows.extend(runtime.block_on(wire::small_steps(1_000, self.rounds))?);
        }
        if self.wants(Part::Sessions) {
            rows.extend(runtime.block_on(wire::many_sessions(1_000, 10_000, self.rounds))?);
        }
        if self.wants(Part::Noise) {
            rows.extend(self.noise(runtime)?);
        }
        if self.wants(Part::Python) {
            rows.extend(self.python_client(runtime)?);
        }
        if self.wants(Part::State) {
            rows.extend(runtime.block_on(self.state())?);
        }
        if self.wants(Part::Analysis) {
            let python = self.python()?;
            rows.extend(analysis::row_norms(python.as_deref(), self.rounds)?);
            rows.extend(analysis::large_row_norms(self.rounds)?);
        }
        if self.wants(Part::Optimize) {
            rows.extend(analysis::optimizers(self.python()?.as_deref(), self.full, self.rounds)?);
        }
        report::write(&rows, &self.report)?;
        println!("{}", report::markdown(&rows));
        println!("written to {}", self.report.display());
        Ok(())
    }

    async fn state(&self) -> anyhow::Result<Vec<Row>> {
        const LANES: usize = 10_000_000;
        let directory = self.report.parent().context("the report has no directory")?;
        let mut rows = state::large_steps(directory, LANES, self.rounds).await?;
        rows.extend(state::small_steps(directory, 1_000, self.rounds).await?);
        rows.push(state::restart(directory, 1_000, 10_000, self.rounds).await?);
        rows.extend(state::take_over(directory, LANES, self.rounds.min(3), Duration::from_secs(30)).await?);
        Ok(rows)
    }

    fn noise(&self, runtime: &tokio::runtime::Runtime) -> anyhow::Result<Vec<Row>> {
        const LANES: usize = 10_000_000;
        let python = self.python()?;
        let python = python.as_deref();
        let mut rows = noise::normals(python, 1, LANES, self.rounds)?;
        rows.extend(noise::normals(python, 2, LANES, self.rounds)?);
        for threads in [1, 2] {
            rows.push(noise::steps_a_sweep(threads, LANES, self.rounds)?);
        }
        for (bands, lookahead) in [(2, 2), (2, 4), (2, 8), (4, 4), (4, 8), (8, 8)] {
            rows.push(noise::replayed(bands, lookahead, LANES, self.rounds)?);
        }
        rows.extend(runtime.block_on(noise::fetched(python, LANES, self.rounds))?);
        rows.push(runtime.block_on(noise::fetched_in_time(LANES, self.rounds))?);
        Ok(rows)
    }

    fn python_client(&self, runtime: &tokio::runtime::Runtime) -> anyhow::Result<Vec<Row>> {
        const LANES: usize = 10_000_000;
        let Some(python) = self.python()? else {
            return Ok(Vec::new());
        };
        python::install_noised(&python)?;
        let mut rows = runtime.block_on(client::fetches(&python, LANES, self.rounds))?;
        rows.extend(runtime.block_on(client::steps(&python, LANES, self.rounds))?);
        rows.extend(client::local(&python, LANES, self.rounds)?);
        rows.extend(runtime.block_on(client::small_steps(&python, 1_000, self.rounds))?);
        rows.push(client::imports(&python, self.rounds)?);
        Ok(rows)
    }

    /// The interpreter of the peers in Python, unless they are left out.
    fn python(&self) -> anyhow::Result<Option<PathBuf>> {
        let directory = self.report.parent().context("the report has no directory")?;
        if self.no_python { Ok(None) } else { python::environment(directory).map(Some) }
    }

    #[allow(clippy::print_stderr, reason = "progress")]
    fn kernels(&self) -> anyhow::Result<Vec<Row>> {
        let python = self.python()?;
        let mut rows = Vec::new();
        for &lanes in &self.lanes {
            for case in cases::all()?.iter().filter(|case| case.name.contains(&self.matrix)) {
                eprintln!("{}, {lanes} lanes", case.name);
                // Fresh ones: an allocator that gives nothing back would keep the memory of the last case.
                let start =
                    |python| Peer::STEPS.map(|peer| Worker::start(python, peer).map(|worker| (peer, worker)));
                let workers = python.as_deref().into_iter().flat_map(start);
                rows.extend(compare(case, lanes, self.rounds, workers.collect::<anyhow::Result<_>>()?)?);
            }
        }
        Ok(rows)
    }
}

/// One matrix at one size: noised, the memory and every peer that has it, a sample of each a round.
#[allow(clippy::print_stderr, reason = "a peer that is left out is told of")]
fn compare(
    case: &Case,
    lanes: usize,
    rounds: usize,
    workers: Vec<(Peer, Worker)>,
) -> anyhow::Result<Vec<Row>> {
    let mut library = Library::new(case, lanes)?;
    let mut memory = InPlace::new(library.moved)?;
    // Samples of a tenth of a second or so, of three steps at least; the ring of a banded matrix fills
    // meanwhile.
    let count = (40_000_000 / library.moved).clamp(1, 66) * 3;
    for _ in 0..33 {
        library.step()?;
    }
    let mut present = Vec::new();
    for (peer, mut worker) in workers {
        match worker.set_up(case, lanes) {
            Ok(form) if form.is_empty() => present.push((peer.name().to_owned(), worker, Vec::new())),
            Ok(form) => present.push((format!("{}, {form}", peer.name()), worker, Vec::new())),
            Err(error) => eprintln!("  without {}: {error}", peer.name()),
        }
    }
    let (mut ours, mut in_place) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        in_place.push(milliseconds(&(0..count).map(|_| memory.update()).collect::<Vec<_>>()));
        ours.push(milliseconds(&(0..count).map(|_| library.step()).collect::<anyhow::Result<Vec<_>>>()?));
        for (_, worker, samples) in &mut present {
            samples.push(milliseconds(&worker.steps(count.min(30))?));
        }
    }
    let mut rows = vec![Row::new(
        &*case.name,
        lanes,
        Unit::Milliseconds,
        &ours,
        ("in-place update of the same bytes", &in_place),
    )];
    for (name, _, samples) in present {
        rows.push(Row::new(&*case.name, lanes, Unit::Milliseconds, &ours, (&name, &samples)));
    }
    Ok(rows)
}

/// Builds the program `noised` beside this one.
fn build_server() -> anyhow::Result<()> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let mut command = Command::new(cargo);
    command.args(["build", "--quiet", "--package", "noised-server", "--bin", "noised"]);
    if !cfg!(debug_assertions) {
        command.arg("--release");
    }
    let status = command.status().context("cannot run cargo")?;
    ensure!(status.success(), "the server does not build");
    Ok(())
}
