//! The Python client, beside the client in Rust and beside what people use today.

use std::path::Path;
use std::time::{Duration, Instant};

use noised_client::{Client, CreateOptions};
use serde_json::{Value, json};

use crate::cases::blt_inverse;
use crate::noise::{TRAINER, fetch, gaussian, peers};
use crate::python::{Peer, Worker};
use crate::report::{Row, Unit, median};
use crate::wire::{ServerProcess, flat, payload};

/// Leaves of a tree that is more than one array.
const LEAVES: usize = 20;
/// More steps than are drawn ahead, so that drawing is measured as well.
const STEPS: usize = 24;
/// For as long as a server takes to draw ahead, for whoever had its turn, and everybody to fall asleep.
const REST: Duration = Duration::from_millis(300);
/// Calls of a sample of small steps.
const CALLS: usize = 2000;

/// What a worker makes a session for.
#[derive(Clone, Copy, Debug)]
struct Setting<'a> {
    target: &'a str,
    call: &'a str,
    lanes: usize,
    leaves: usize,
    fetch_ahead: bool,
}

impl Setting<'_> {
    fn start(self, python: &Path, name: impl Into<String>) -> anyhow::Result<Contestant> {
        let Setting { target, call, lanes, leaves, fetch_ahead } = self;
        let matrix: Value = serde_json::from_str(&blt_inverse(4).to_json())?;
        let mut worker = Worker::start(python, Peer::Noised)?;
        worker.set_up_as(json!({
            "target": target, "call": call, "matrix": matrix, "lanes": lanes, "leaves": leaves,
            "fetch_ahead": fetch_ahead,
        }))?;
        Ok(Contestant::new(name, worker))
    }
}

/// Whose samples are taken in turns.
struct Contestant {
    name: String,
    worker: Worker,
    samples: Vec<f64>,
}

impl Contestant {
    fn new(name: impl Into<String>, worker: Worker) -> Self {
        Self { name: name.into(), worker, samples: Vec::new() }
    }

    /// The mean of some steps, in milliseconds. The first round warms up.
    fn mean(&mut self, round: usize, count: usize, pause: Duration) -> anyhow::Result<()> {
        let times = self.worker.steps_after(count, pause)?;
        self.note(round, mean(&times));
        Ok(())
    }

    /// The median of many small steps, in microseconds.
    fn median(&mut self, round: usize) -> anyhow::Result<()> {
        let times = self.worker.steps(CALLS)?;
        self.note(round, median(&times.iter().map(|time| time.as_secs_f64() * 1e6).collect::<Vec<_>>()));
        Ok(())
    }

    fn note(&mut self, round: usize, sample: f64) {
        if round > 0 {
            self.samples.push(sample);
        }
    }

    fn beside(&self, lanes: usize, unit: Unit, peer: (&str, &[f64])) -> Row {
        Row::new(&*self.name, lanes, unit, &self.samples, peer)
    }
}

fn mean(times: &[Duration]) -> f64 {
    times.iter().sum::<Duration>().as_secs_f64() * 1e3 / times.len() as f64
}

/// jax_privacy's privatizer, as it is installed and tuned.
fn privatizers(python: &Path, lanes: usize) -> anyhow::Result<Vec<Contestant>> {
    let which = [Peer::JaxPrivatizer, Peer::JaxPrivatizerTuned];
    let peers = peers(Some(python), &which, lanes)?.into_iter();
    Ok(peers.map(|(peer, worker, _)| Contestant::new(peer.name(), worker)).collect())
}

/// Noise fetched over TCP by a trainer that computes nothing, with and without the step ahead, beside the
/// client in Rust and beside jax_privacy's privatizer in process; and by one that computes.
pub(crate) async fn fetches(python: &Path, lanes: usize, rounds: usize) -> anyhow::Result<Vec<Row>> {
    let server = ServerProcess::noised().await?;
    let target = server.address.to_string();
    let setting = |fetch_ahead| Setting { target: &target, call: "fetch", lanes, leaves: 1, fetch_ahead };
    let mut ours = [
        setting(false).start(python, "fetch over TCP")?,
        setting(true).start(python, "fetch over TCP, one step ahead")?,
    ];
    let computes =
        |how: &str| format!("fetch over TCP{how}, the trainer computes {} ms", TRAINER.as_millis());
    let mut computing = [
        setting(true).start(python, computes(", one step ahead"))?,
        setting(false).start(python, "not a step ahead")?,
    ];
    let client = Client::connect(&format!("http://{target}")).await?;
    let mut session =
        client.create_session(&gaussian(blt_inverse(4), lanes)?, CreateOptions::default()).await?;
    let mut output = vec![0; session.step_bytes()];
    let mut rust = Vec::new();
    let mut privatizers = privatizers(python, lanes)?;
    for round in 0..=rounds {
        let mut times = Vec::new();
        for _ in 0..STEPS {
            times.push(fetch(&mut session, &mut output).await?);
        }
        if round > 0 {
            rust.push(mean(&times));
        }
        std::thread::sleep(REST);
        for contestant in &mut ours {
            contestant.mean(round, STEPS, Duration::ZERO)?;
            std::thread::sleep(REST);
        }
        for contestant in &mut privatizers {
            contestant.mean(round, 5, Duration::ZERO)?;
        }
        for contestant in &mut computing {
            contestant.mean(round, 7, TRAINER)?;
            std::thread::sleep(REST);
        }
    }
    let unit = Unit::Milliseconds;
    let mut rows = Vec::new();
    for contestant in &ours {
        rows.push(contestant.beside(lanes, unit, ("the client in Rust", &rust)));
        rows.extend(
            privatizers.iter().map(|peer| contestant.beside(lanes, unit, (&peer.name, &peer.samples))),
        );
    }
    let [ahead, not_ahead] = &computing;
    rows.push(ahead.beside(lanes, unit, (&not_ahead.name, &not_ahead.samples)));
    Ok(rows)
}

/// Steps of the client's input over TCP, as one array and as a tree, beside the client in Rust.
pub(crate) async fn steps(python: &Path, lanes: usize, rounds: usize) -> anyhow::Result<Vec<Row>> {
    let server = ServerProcess::noised().await?;
    let target = server.address.to_string();
    let setting =
        |leaves| Setting { target: &target, call: "multiply_next", lanes, leaves, fetch_ahead: false };
    let mut ours = [
        setting(1).start(python, "multiply_next over TCP")?,
        setting(LEAVES).start(python, format!("multiply_next over TCP, {LEAVES} leaves"))?,
    ];
    let client = Client::connect(&format!("http://{target}")).await?;
    let mut session = client.create_session(&flat(blt_inverse(4), lanes)?, CreateOptions::default()).await?;
    let input = payload(lanes);
    let mut output = vec![0; session.step_bytes()];
    let mut rust = Vec::new();
    for round in 0..=rounds {
        std::thread::sleep(REST);
        let mut times = Vec::new();
        for _ in 0..STEPS / 2 {
            let start = Instant::now();
            session.multiply_next_into(session.next_step(), &input, &mut output).await?;
            times.push(start.elapsed());
        }
        if round > 0 {
            rust.push(mean(&times));
        }
        for contestant in &mut ours {
            std::thread::sleep(REST);
            contestant.mean(round, STEPS / 2, Duration::ZERO)?;
        }
    }
    let peer = ("the client in Rust", &*rust);
    Ok(ours.iter().map(|contestant| contestant.beside(lanes, Unit::Milliseconds, peer)).collect())
}

/// Noise drawn in the trainer's own process, beside jax_privacy's privatizer.
pub(crate) fn local(python: &Path, lanes: usize, rounds: usize) -> anyhow::Result<Vec<Row>> {
    let setting = Setting { target: "local:", call: "fetch", lanes, leaves: 1, fetch_ahead: false };
    let mut ours = setting.start(python, "fetch from local:")?;
    let mut privatizers = privatizers(python, lanes)?;
    for round in 0..=rounds {
        ours.mean(round, 2 * STEPS, Duration::ZERO)?;
        for contestant in &mut privatizers {
            contestant.mean(round, 5, Duration::ZERO)?;
        }
    }
    let row = |peer: &Contestant| ours.beside(lanes, Unit::Milliseconds, (&peer.name, &peer.samples));
    Ok(privatizers.iter().map(row).collect())
}

/// Small steps over TCP: the latency of a call, beside that of a bare call of grpcio's with the same bytes.
pub(crate) async fn small_steps(python: &Path, lanes: usize, rounds: usize) -> anyhow::Result<Vec<Row>> {
    let (server, echo) = (ServerProcess::noised().await?, ServerProcess::echo("tonic-echo")?);
    let target = server.address.to_string();
    let setting = |call, leaves| Setting { target: &target, call, lanes, leaves, fetch_ahead: false };
    let mut ours = [
        setting("multiply_next", 1).start(python, "multiply_next, p50")?,
        setting("multiply_next", LEAVES).start(python, format!("multiply_next, {LEAVES} leaves, p50"))?,
        setting("fetch", 1).start(python, "fetch, p50")?,
        setting("fetch", LEAVES).start(python, format!("fetch, {LEAVES} leaves, p50"))?,
    ];
    let mut grpcio = Worker::start(python, Peer::Grpcio)?;
    grpcio.set_up_as(json!({"target": echo.address.to_string(), "lanes": lanes}))?;
    let mut grpcio = Contestant::new(Peer::Grpcio.name(), grpcio);
    for round in 0..=rounds {
        for contestant in ours.iter_mut().chain([&mut grpcio]) {
            contestant.median(round)?;
        }
    }
    let peer = (&*grpcio.name, &*grpcio.samples);
    Ok(ours.iter().map(|contestant| contestant.beside(lanes, Unit::Microseconds, peer)).collect())
}

/// How long `import noised` takes once NumPy is there, beside what NumPy takes; each time in a process of its
/// own.
pub(crate) fn imports(python: &Path, rounds: usize) -> anyhow::Result<Row> {
    let (mut ours, mut numpy) = (Vec::new(), Vec::new());
    for round in 0..=rounds {
        let [of_numpy, of_noised] = Worker::start(python, Peer::Noised)?.imports()?;
        if round > 0 {
            ours.push(of_noised.as_secs_f64() * 1e3);
            numpy.push(of_numpy.as_secs_f64() * 1e3);
        }
    }
    Ok(Row::new("import noised, after NumPy", 0, Unit::Milliseconds, &ours, ("import numpy", &numpy)))
}
