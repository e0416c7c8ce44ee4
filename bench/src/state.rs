//! Sessions that are kept in a store, beside the same sessions without one; and what comes after the end of a
//! server.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use bytes::Bytes;
use noised::SessionSpec;
use noised::session::Source;
use noised_client::{Client, CreateOptions, Session};
use tempfile::TempDir;

use crate::cases::blt_inverse;
use crate::noise::{fetch, gaussian};
use crate::report::{Row, Unit, median};
use crate::wire::{ServerProcess, flat, payload};

/// Sessions that step at once, where there are many.
const SESSIONS: usize = 64;

/// A place for a store on the disk that the report goes to.
struct Place(TempDir);

impl Place {
    fn new(directory: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(directory)?;
        Ok(Self(tempfile::tempdir_in(directory)?))
    }

    fn arguments(&self) -> Vec<String> {
        vec!["--state".to_owned(), self.0.path().display().to_string()]
    }

    async fn server(&self) -> anyhow::Result<ServerProcess> {
        ServerProcess::noised_with(&self.arguments()).await
    }

    /// Bytes and objects that lie below these folders.
    fn size(&self, folder: &str) -> anyhow::Result<(u64, usize)> {
        let (mut bytes, mut objects) = (0, 0);
        let mut left: Vec<PathBuf> = vec![self.0.path().join(folder)];
        while let Some(folder) = left.pop() {
            for entry in std::fs::read_dir(&folder)? {
                let entry = entry?;
                if entry.file_type()?.is_dir() {
                    left.push(entry.path());
                } else {
                    bytes += entry.metadata()?.len();
                    objects += 1;
                }
            }
        }
        Ok((bytes, objects))
    }
}

async fn client(server: &ServerProcess) -> anyhow::Result<Client> {
    Ok(Client::connect(&format!("http://{}", server.address)).await?)
}

fn named(id: impl Into<String>) -> CreateOptions {
    CreateOptions { id: id.into(), ..CreateOptions::default() }
}

fn privatize(lanes: usize) -> anyhow::Result<SessionSpec> {
    let spec = gaussian(blt_inverse(4), lanes)?;
    let noise = spec.source.noise().cloned().context("gaussian has a noise")?;
    Ok(SessionSpec { source: Source::Privatize { noise, answer_dtype: None }, ..spec })
}

/// Steps of one session, one after the other, as milliseconds a step.
async fn steps(session: &mut Session, gradient: &Bytes, count: usize) -> anyhow::Result<f64> {
    let mut output = vec![0; session.step_bytes()];
    let start = Instant::now();
    for _ in 0..count {
        step(session, gradient, &mut output).await?;
    }
    Ok(start.elapsed().as_secs_f64() * 1e3 / count as f64)
}

async fn step(session: &mut Session, gradient: &Bytes, output: &mut [u8]) -> anyhow::Result<()> {
    let step = session.next_step();
    match &session.spec().source {
        Source::Input => drop(session.multiply_next(step, gradient.clone()).await?),
        Source::Gaussian(_) => drop(fetch(session, output).await?),
        Source::Privatize { .. } => drop(session.privatize(step, gradient.clone()).await?),
    }
    Ok(())
}

/// Steps with a state directory beside steps without, and the most memory that the servers have had.
pub(crate) async fn large_steps(directory: &Path, lanes: usize, rounds: usize) -> anyhow::Result<Vec<Row>> {
    const COUNT: usize = 60;
    let sources = [
        ("gaussian", gaussian(blt_inverse(4), lanes)?),
        ("privatize", privatize(lanes)?),
        ("input", flat(blt_inverse(4), lanes)?),
    ];
    let gradient = payload(lanes);
    let mut rows = Vec::new();
    for (name, spec) in sources {
        let place = Place::new(directory)?;
        let servers = [place.server().await?, ServerProcess::noised().await?];
        let mut sessions = Vec::new();
        for server in &servers {
            sessions.push(client(server).await?.create_session(&spec, named("bench")).await?);
        }
        let mut samples = [Vec::new(), Vec::new()];
        for round in 0..=rounds {
            for (session, samples) in sessions.iter_mut().zip(&mut samples) {
                let taken = steps(session, &gradient, COUNT).await?;
                if round > 0 {
                    samples.push(taken);
                }
            }
        }
        let [with, without] = &samples;
        let measure = format!("{name}, one step at a time, with a state directory");
        rows.push(Row::new(measure, lanes, Unit::Milliseconds, with, ("without", without)));
        let peak = |server: &ServerProcess| anyhow::Ok(server.peak_bytes()? / f64::from(1 << 20));
        let (with, without) = (peak(&servers[0])?, peak(&servers[1])?);
        let measure = format!("{name}, peak memory of the server, with a state directory");
        rows.push(Row::new(measure, lanes, Unit::MiB, &[with], ("without", &[without])));
    }
    Ok(rows)
}

/// Small durable steps of many sessions at once, whose records are written together.
pub(crate) async fn small_steps(directory: &Path, lanes: usize, rounds: usize) -> anyhow::Result<Vec<Row>> {
    const EACH: usize = 100;
    let place = Place::new(directory)?;
    let mut arguments = place.arguments();
    // So that all objects of the journal can be counted.
    arguments.extend(["--journal-objects".to_owned(), "1000000".to_owned()]);
    let servers = [ServerProcess::noised_with(&arguments).await?, ServerProcess::noised().await?];
    let (spec, gradient) = (privatize(lanes)?, payload(lanes));
    let mut groups = Vec::new();
    for server in &servers {
        let client = client(server).await?;
        let mut sessions = Vec::new();
        for number in 0..SESSIONS {
            sessions.push(client.create_session(&spec, named(format!("s{number}"))).await?);
        }
        groups.push(sessions);
    }
    let (_, before) = place.size("journals")?;
    let mut samples = [Vec::new(), Vec::new()];
    for round in 0..=rounds {
        for (sessions, samples) in groups.iter_mut().zip(&mut samples) {
            let start = Instant::now();
            let mut tasks = Vec::new();
            for mut session in std::mem::take(sessions) {
                let gradient = gradient.clone();
                tasks.push(tokio::spawn(async move {
                    for _ in 0..EACH {
                        step(&mut session, &gradient, &mut []).await?;
                    }
                    Ok::<_, anyhow::Error>(session)
                }));
            }
            for task in tasks {
                sessions.push(task.await??);
            }
            if round > 0 {
                samples.push((SESSIONS * EACH) as f64 / start.elapsed().as_secs_f64());
            }
        }
    }
    let (_, after) = place.size("journals")?;
    let [with, without] = &samples;
    let measure = format!("privatize, {SESSIONS} sessions at once, durable");
    let per_step = (after - before) as f64 / (SESSIONS * EACH * (rounds + 1)) as f64;
    let objects = "privatize, objects of the journal for a step (2 fsyncs each)";
    Ok(vec![
        Row::new(measure, lanes, Unit::StepsPerSecond, with, ("without a store", without)),
        Row::new(objects, lanes, Unit::Objects, &[per_step], ("one by one", &[1.0])),
    ])
}

/// From the start of a server with many sessions in its store to its first answer.
pub(crate) async fn restart(
    directory: &Path,
    count: usize,
    lanes: usize,
    rounds: usize,
) -> anyhow::Result<Row> {
    let place = Place::new(directory)?;
    let (spec, gradient) = (privatize(lanes)?, payload(lanes));
    {
        let server = place.server().await?;
        let client = client(&server).await?;
        for number in 0..count {
            let mut session = client.create_session(&spec, named(format!("s{number}"))).await?;
            step(&mut session, &gradient, &mut []).await?;
        }
        // It is killed.
    }
    let (mut with, mut without) = (Vec::new(), Vec::new());
    for round in 0..=rounds {
        let start = Instant::now();
        let server = place.server().await?;
        let name = format!("sessions/s{}", round % count);
        let mut session = client(&server).await?.open_session(&name).await?;
        step(&mut session, &gradient, &mut []).await?;
        let taken = start.elapsed().as_secs_f64() * 1e3;
        drop(server);
        let start = Instant::now();
        let server = ServerProcess::noised().await?;
        let mut session = client(&server).await?.create_session(&spec, named("s")).await?;
        step(&mut session, &gradient, &mut []).await?;
        if round > 0 {
            with.push(taken);
            without.push(start.elapsed().as_secs_f64() * 1e3);
        }
    }
    let measure = format!("start to first answer, {count} sessions in the store, killed before");
    Ok(Row::new(measure, lanes, Unit::Milliseconds, &with, ("a new session without a store", &without)))
}

/// The pause of a step while another server takes the session over, beside a step. A server is drained, or
/// killed, after it has run for `runs`.
pub(crate) async fn take_over(
    directory: &Path,
    lanes: usize,
    rounds: usize,
    runs: Duration,
) -> anyhow::Result<Vec<Row>> {
    let gradient = payload(lanes);
    let mut rows = Vec::new();
    for (name, spec) in [("gaussian", gaussian(blt_inverse(4), lanes)?), ("privatize", privatize(lanes)?)] {
        for ends in ["drained", "killed"] {
            let (mut pauses, mut normal) = (Vec::new(), Vec::new());
            for _ in 0..rounds {
                let place = Place::new(directory)?;
                let server = place.server().await?;
                let mut session = client(&server).await?.create_session(&spec, named("s")).await?;
                let (started, mut taken) = (Instant::now(), Vec::new());
                while started.elapsed() < runs {
                    taken.push(steps(&mut session, &gradient, 5).await?);
                }
                let address = server.address;
                let start = Instant::now();
                server.end(ends == "drained")?;
                let server = ServerProcess::noised_at(address, &place.arguments()).await?;
                let after = steps(&mut session, &gradient, 1).await?;
                ensure!(after > 0.0, "a step takes time");
                pauses.push(start.elapsed().as_secs_f64() * 1e3);
                normal.push(median(&taken));
                drop(server);
            }
            let measure =
                format!("{name}, step over a server {ends} after {} s and its successor", runs.as_secs());
            rows.push(Row::new(measure, lanes, Unit::Milliseconds, &pauses, ("a step", &normal)));
        }
    }
    Ok(rows)
}
