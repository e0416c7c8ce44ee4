//! Noise that noised draws, beside those who draw it today.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::ensure;
use noised::noise::{NoiseKey, standard_normals};
use noised::session::{KeyOrigin, Noise, NoiseOptions, NoiseSession, NoiseState, Outcome, Source};
use noised::streaming::MultiplyState;
use noised::tree::TreeValues;
use noised::{DType, MatrixSpec, Precision, SessionSpec, StreamingMatrix, Tree};
use noised_client::{Client, CreateOptions, Session};
use rayon::prelude::*;

use crate::cases::{Case, blt_inverse, replayable};
use crate::echo::TonicEcho;
use crate::python::{Peer, Worker};
use crate::report::{Row, Unit, median, milliseconds};
use crate::wire::ServerProcess;

/// Longer than a step of the largest tree here takes to draw.
pub(crate) const TRAINER: Duration = Duration::from_millis(120);

fn key() -> NoiseKey {
    NoiseKey::from_bytes([7; 32])
}

pub(crate) fn gaussian(matrix: MatrixSpec, lanes: usize) -> anyhow::Result<SessionSpec> {
    let source = Source::Gaussian(Noise { stddev: 1.0, key: KeyOrigin::Fresh });
    let tree = Tree::flat(lanes as u64, DType::F32)?;
    Ok(SessionSpec { source, ..SessionSpec::new(matrix, tree) })
}

/// Peers that run the same thing, by name, with their samples.
pub(crate) fn peers(
    python: Option<&Path>,
    which: &[Peer],
    lanes: usize,
) -> anyhow::Result<Vec<(Peer, Worker, Vec<f64>)>> {
    let Some(python) = python else {
        return Ok(Vec::new());
    };
    let case = Case { name: String::new(), matrix: blt_inverse(4) };
    let start = |&peer: &Peer| {
        let mut worker = Worker::start(python, peer)?;
        worker.set_up(&case, lanes)?;
        Ok((peer, worker, Vec::new()))
    };
    which.iter().map(start).collect()
}

/// Standard normals in f32 on so many threads.
pub(crate) fn normals(
    python: Option<&Path>,
    threads: usize,
    lanes: usize,
    rounds: usize,
) -> anyhow::Result<Vec<Row>> {
    const PART: usize = 1 << 16;
    let which: &[Peer] = match threads {
        1 => &[Peer::NumPyPcg64, Peer::NumPySfc64],
        _ => &[Peer::JaxNormal, Peer::JaxNormalTuned],
    };
    let mut peers = peers(python, which, lanes)?;
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
    let mut values = vec![0.0_f32; lanes];
    let draw = |values: &mut [f32], step: u64| {
        let start = Instant::now();
        let parts = values.par_chunks_mut(PART).enumerate();
        let fill = |(i, part): (usize, &mut [f32])| standard_normals(&key(), step, (i * PART) as u64, part);
        pool.install(|| parts.for_each(fill));
        start.elapsed()
    };
    let speed = |times: Vec<Duration>| lanes as f64 / 1e3 / milliseconds(&times);
    let mut ours = Vec::new();
    for round in 0..=rounds {
        let taken = speed((0..9).map(|step| draw(&mut values, step)).collect());
        for (_, worker, samples) in &mut peers {
            let taken = speed(worker.steps(5)?);
            if round > 0 {
                samples.push(taken);
            }
        }
        if round > 0 {
            ours.push(taken);
        }
    }
    let measure = format!("standard normals, f32, {threads} thread{}", if threads == 1 { "" } else { "s" });
    let row = |(peer, _, samples): &(Peer, Worker, Vec<f64>)| {
        Row::new(&*measure, lanes, Unit::MillionLanesPerSecond, &ours, (peer.name(), samples))
    };
    Ok(peers.iter().map(row).collect())
}

/// Eight steps in one sweep beside one step in each, of input that is there: no noise is drawn.
pub(crate) fn steps_a_sweep(threads: usize, lanes: usize, rounds: usize) -> anyhow::Result<Row> {
    const STEPS: usize = 8;
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
    let tree = Tree::flat(lanes as u64, DType::F32)?;
    let matrix = StreamingMatrix::new(blt_inverse(8))?;
    let mut state = matrix.init_multiply(&tree, Precision::F32)?;
    let mut steps = vec![TreeValues::zeros(tree); STEPS];
    let sweep = |steps: &mut [TreeValues], state: &mut MultiplyState| -> anyhow::Result<f64> {
        steps.iter_mut().for_each(|step| step.as_bytes_mut().fill(0x3c));
        let start = Instant::now();
        let count = steps.len();
        pool.install(|| matrix.multiply_steps_in_place(steps, state))?;
        Ok((lanes * count) as f64 / 1e6 / start.elapsed().as_secs_f64())
    };
    let (mut eight, mut one) = (Vec::new(), Vec::new());
    for round in 0..=rounds {
        let at_once = (0..3).map(|_| sweep(&mut steps, &mut state)).collect::<anyhow::Result<Vec<_>>>()?;
        let singly =
            (0..9).map(|_| sweep(&mut steps[..1], &mut state)).collect::<anyhow::Result<Vec<_>>>()?;
        if round > 0 {
            eight.push(median(&at_once));
            one.push(median(&singly));
        }
    }
    let measure = format!("8 steps a sweep, BLT inverse, 8 buffers, {threads} thread(s)");
    Ok(Row::new(measure, lanes, Unit::MillionLanesPerSecond, &eight, ("1 step a sweep", &one)))
}

/// Banded matrices drawn with nothing kept, beside the same with the ring kept.
pub(crate) fn replayed(bands: usize, lookahead: u32, lanes: usize, rounds: usize) -> anyhow::Result<Row> {
    let spec = gaussian(replayable(bands)?, lanes)?;
    let start = |state| -> anyhow::Result<_> {
        Ok(NoiseSession::new(spec.clone().resolve()?, key(), NoiseOptions { lookahead, state })?)
    };
    let mut sessions = [start(NoiseState::Replayed)?, start(NoiseState::Kept)?];
    let steps = (lookahead as usize / 2).max(1);
    let mut samples = [Vec::new(), Vec::new()];
    for round in 0..=rounds {
        for ((session, drawer), samples) in sessions.iter_mut().zip(&mut samples) {
            let mut times = Vec::new();
            for _ in 0..4 {
                let buffers = session.take_buffers(steps, drawer);
                let start = Instant::now();
                let drawn = drawer.draw(buffers);
                times.push(start.elapsed().as_secs_f64() * 1e3 / steps as f64);
                session.supply(drawn)?;
                for _ in 0..steps {
                    let fetched = session.fetch(session.next_step(), 0)?;
                    ensure!(fetched != Outcome::NeedsNoise, "a step is missing");
                }
            }
            if round > 0 {
                samples.push(median(&times));
            }
        }
    }
    let measure = format!("drawn, {bands} bands, nothing kept, {steps} step(s) a sweep");
    let [replayed, kept] = &samples;
    Ok(Row::new(measure, lanes, Unit::Milliseconds, replayed, ("ring kept", kept)))
}

/// Steps of noise fetched over TCP by a trainer that computes nothing, beside jax_privacy's privatizer in
/// process.
pub(crate) async fn fetched(python: Option<&Path>, lanes: usize, rounds: usize) -> anyhow::Result<Vec<Row>> {
    let mut peers = peers(python, &[Peer::JaxPrivatizer, Peer::JaxPrivatizerTuned], lanes)?;
    let server = ServerProcess::noised().await?;
    let client = Client::connect(&format!("http://{}", server.address)).await?;
    let options = CreateOptions::default();
    let mut session = client.create_session(&gaussian(blt_inverse(4), lanes)?, options).await?;
    let mut output = vec![0; session.step_bytes()];
    let mut ours = Vec::new();
    for round in 0..=rounds {
        let mut times = Vec::new();
        // More steps than are drawn ahead, so that drawing is measured as well.
        for _ in 0..24 {
            times.push(fetch(&mut session, &mut output).await?);
        }
        let taken = times.iter().sum::<Duration>().as_secs_f64() * 1e3 / times.len() as f64;
        for (_, worker, samples) in &mut peers {
            let taken = milliseconds(&worker.steps(5)?);
            if round > 0 {
                samples.push(taken);
            }
        }
        if round > 0 {
            ours.push(taken);
        }
    }
    let row = |(peer, _, samples): &(Peer, Worker, Vec<f64>)| {
        let measure = "gaussian fetch over TCP, BLT inverse, 4 buffers";
        Row::new(measure, lanes, Unit::Milliseconds, &ours, (peer.name(), samples))
    };
    Ok(peers.iter().map(row).collect())
}

/// The same by a trainer that computes for longer than a step takes to draw, beside a download of as many
/// bytes.
pub(crate) async fn fetched_in_time(lanes: usize, rounds: usize) -> anyhow::Result<Row> {
    let (noised, tonic) = (ServerProcess::noised().await?, ServerProcess::echo("tonic-echo")?);
    let client = Client::connect(&format!("http://{}", noised.address)).await?;
    let options = CreateOptions::default();
    let mut session = client.create_session(&gaussian(blt_inverse(4), lanes)?, options).await?;
    let mut echo = TonicEcho::connect(tonic.address).await?;
    let mut output = vec![0; session.step_bytes()];
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for round in 0..=rounds {
        let (mut fetches, mut downloads) = (Vec::new(), Vec::new());
        for _ in 0..7 {
            tokio::time::sleep(TRAINER).await;
            fetches.push(fetch(&mut session, &mut output).await?);
            tokio::time::sleep(TRAINER).await;
            downloads.push(echo.download(&mut output).await?);
        }
        if round > 0 {
            ours.push(milliseconds(&fetches));
            theirs.push(milliseconds(&downloads));
        }
    }
    let measure = format!("gaussian fetch over TCP, the trainer computes {} ms", TRAINER.as_millis());
    Ok(Row::new(measure, lanes, Unit::Milliseconds, &ours, ("raw tonic download of the same bytes", &theirs)))
}

pub(crate) async fn fetch(session: &mut Session, output: &mut [u8]) -> anyhow::Result<Duration> {
    let start = Instant::now();
    session.fetch_into(session.next_step(), output).await?;
    Ok(start.elapsed())
}
