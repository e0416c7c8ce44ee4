//! noised over a connection, beside the echoes: every server in a process of its own, every client in this
//! one.

use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use bytes::Bytes;
use noised::{DType, MatrixSpec, SessionSpec, Tree};
use noised_client::{Client, CreateOptions, Session};
use tokio_stream::StreamExt;

use crate::cases::blt_inverse;
use crate::echo::{TonicEcho, tcp_echo};
use crate::report::{Row, Unit, median, quantile};

/// A server process, killed at the end.
pub(crate) struct ServerProcess {
    process: Child,
    pub(crate) address: SocketAddr,
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        let _gone = self.process.kill();
        let _gone = self.process.wait();
    }
}

impl ServerProcess {
    /// This program as an echo.
    pub(crate) fn echo(kind: &str) -> anyhow::Result<Self> {
        let mut process =
            Command::new(std::env::current_exe()?).args(["serve", kind]).stdout(Stdio::piped()).spawn()?;
        let mut line = String::new();
        BufReader::new(process.stdout.take().context("no stdout")?).read_line(&mut line)?;
        let address = line.trim().parse().context("the echo did not tell its port")?;
        Ok(Self { process, address })
    }

    /// The program `noised`, as it comes.
    pub(crate) async fn noised() -> anyhow::Result<Self> {
        Self::noised_with(&[]).await
    }

    /// The program `noised` with more arguments.
    pub(crate) async fn noised_with(arguments: &[String]) -> anyhow::Result<Self> {
        Self::noised_at(TcpListener::bind("127.0.0.1:0")?.local_addr()?, arguments).await
    }

    /// The same at an address.
    pub(crate) async fn noised_at(address: SocketAddr, arguments: &[String]) -> anyhow::Result<Self> {
        let program: PathBuf = std::env::current_exe()?.with_file_name("noised");
        let process = Command::new(&program)
            .args(["serve", "--listen", &address.to_string()])
            .args(arguments)
            .env("NOISED_LOG", "warn")
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let server = Self { process, address };
        for _ in 0..2000 {
            if TcpStream::connect(address).is_ok() {
                return Ok(server);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        anyhow::bail!("noised does not listen at {address}")
    }

    /// Ends the server: as one that is stopped, or as one that is killed.
    pub(crate) fn end(mut self, drained: bool) -> anyhow::Result<()> {
        if drained {
            let status = Command::new("kill").args(["-TERM", &self.process.id().to_string()]).status()?;
            ensure!(status.success(), "the server cannot be told to end");
            self.process.wait()?;
        }
        Ok(())
    }

    /// The most memory that the process has had at once, in bytes.
    pub(crate) fn peak_bytes(&self) -> anyhow::Result<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
        let kib: f64 = line.trim().trim_end_matches(" kB").parse()?;
        Ok(kib * 1024.0)
    }
}

pub(crate) fn flat(matrix: MatrixSpec, lanes: usize) -> anyhow::Result<SessionSpec> {
    Ok(SessionSpec::new(matrix, Tree::flat(lanes as u64, DType::F32)?))
}

pub(crate) fn payload(lanes: usize) -> Bytes {
    (0..lanes).flat_map(|i| ((i % 1000) as f32 * 0.002 - 1.0).to_le_bytes()).collect::<Vec<u8>>().into()
}

/// Steps of a session, pipelined on one stream.
async fn steps(session: &mut Session, payload: &Bytes, count: usize) -> anyhow::Result<Duration> {
    let start = Instant::now();
    let mut received = 0;
    let inputs =
        tokio_stream::iter(std::iter::repeat_n(payload.clone(), count)).map(Ok::<_, noised_client::Error>);
    let on_answer = |answer: noised_client::Answer| {
        received += answer.payload.len();
        Ok(())
    };
    session.multiply_steps(inputs, on_answer).await?;
    ensure!(received == count * payload.len(), "noised lost bytes");
    Ok(start.elapsed())
}

/// Large steps: noised beside tonic's echo and TCP's of the same bytes.
pub(crate) async fn large_steps(lanes: usize, rounds: usize) -> anyhow::Result<Vec<Row>> {
    let (tonic, tcp) = (ServerProcess::echo("tonic-echo")?, ServerProcess::echo("tcp-echo")?);
    let noised = ServerProcess::noised().await?;
    let payload = payload(lanes);
    let spec = flat(blt_inverse(4), lanes)?;
    let cost = spec.clone().resolve()?.cost().total() as f64;
    let client = Client::connect(&format!("http://{}", noised.address)).await?;
    let mut session = client.create_session(&spec, CreateOptions::default()).await?;
    let mut echo = TonicEcho::connect(tonic.address).await?;
    let tcp = TcpStream::connect(tcp.address)?;
    let times = (400_000_000 / payload.len()).max(3);
    let gigabytes = (times * payload.len()) as f64 / 1e9;
    let mut speeds: [Vec<f64>; 3] = Default::default();
    for round in 0..=rounds {
        let taken = [
            steps(&mut session, &payload, times).await?,
            echo.stream(&payload, times).await?,
            tcp_echo(&tcp, &payload, times)?,
        ];
        // The first round warms up.
        if round > 0 {
            speeds
                .iter_mut()
                .zip(taken)
                .for_each(|(speeds, taken)| speeds.push(gigabytes / taken.as_secs_f64()));
        }
    }
    let [ours, tonic, tcp] = &speeds;
    let mib = |bytes: f64| bytes / f64::from(1 << 20);
    let measure = "StreamMultiplyNext, BLT inverse, 4 buffers";
    Ok(vec![
        Row::new(measure, lanes, Unit::GigabytesPerSecond, ours, ("raw tonic echo", tonic)),
        Row::new(measure, lanes, Unit::GigabytesPerSecond, ours, ("raw TCP echo", tcp)),
        Row::new(
            "peak memory of the server",
            lanes,
            Unit::MiB,
            &[mib(noised.peak_bytes()?)],
            ("state and one output", &[mib(cost)]),
        ),
    ])
}

/// Small steps: the latency of one call beside that of tonic's echo.
pub(crate) async fn small_steps(lanes: usize, rounds: usize) -> anyhow::Result<Vec<Row>> {
    const CALLS: usize = 2000;
    let tonic = ServerProcess::echo("tonic-echo")?;
    let noised = ServerProcess::noised().await?;
    let payload = payload(lanes);
    let client = Client::connect(&format!("http://{}", noised.address)).await?;
    let mut session = client.create_session(&flat(blt_inverse(4), lanes)?, CreateOptions::default()).await?;
    let mut echo = TonicEcho::connect(tonic.address).await?;
    let mut latencies: [[Vec<f64>; 2]; 2] = Default::default();
    for round in 0..=rounds {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..CALLS {
            let start = Instant::now();
            let step = session.next_step();
            session.multiply_next(step, payload.clone()).await?;
            ours.push(start.elapsed().as_secs_f64() * 1e6);
        }
        for _ in 0..CALLS {
            theirs.push(echo.unary(&payload).await?.as_secs_f64() * 1e6);
        }
        if round > 0 {
            for (samples, taken) in latencies.iter_mut().zip([ours, theirs]) {
                samples[0].push(median(&taken));
                samples[1].push(quantile(&taken, 0.99));
            }
        }
    }
    let [ours, theirs] = &latencies;
    let row = |name: &str, i: usize| {
        Row::new(
            format!("MultiplyNext, {name}"),
            lanes,
            Unit::Microseconds,
            &ours[i],
            ("raw tonic echo", &theirs[i]),
        )
    };
    Ok(vec![row("p50", 0), row("p99", 1)])
}

/// Many small sessions, one step of each in turn, beside one large session with as many lanes, and beside as
/// many echoes of the same bytes.
pub(crate) async fn many_sessions(count: usize, lanes: usize, rounds: usize) -> anyhow::Result<Vec<Row>> {
    const IN_FLIGHT: usize = 64;
    let (noised, tonic) = (ServerProcess::noised().await?, ServerProcess::echo("tonic-echo")?);
    let echo = TonicEcho::connect(tonic.address).await?;
    let url = format!("http://{}", noised.address);
    let large_payload = payload(count * lanes);
    let mut large = Client::connect(&url)
        .await?
        .create_session(&flat(blt_inverse(4), count * lanes)?, CreateOptions::default())
        .await?;
    let client = Client::connect(&url).await?;
    let mut groups: Vec<Vec<Session>> = (0..IN_FLIGHT).map(|_| Vec::new()).collect();
    for i in 0..count {
        groups[i % IN_FLIGHT]
            .push(client.create_session(&flat(blt_inverse(4), lanes)?, CreateOptions::default()).await?);
    }
    let payload = payload(lanes);
    let speed = |taken: Duration, steps: usize| (steps * count * lanes) as f64 / 1e6 / taken.as_secs_f64();
    let (mut many, mut one, mut echoes) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..=rounds {
        let start = Instant::now();
        let mut tasks = Vec::new();
        for mut group in std::mem::take(&mut groups) {
            let payload = payload.clone();
            tasks.push(tokio::spawn(async move {
                for session in &mut group {
                    let step = session.next_step();
                    session.multiply_next(step, payload.clone()).await?;
                }
                Ok::<_, noised_client::Error>(group)
            }));
        }
        for task in tasks {
            groups.push(task.await??);
        }
        let of_many = start.elapsed();
        let of_one = steps(&mut large, &large_payload, 5).await?;
        let of_echoes = unary_echoes(&echo, &payload, IN_FLIGHT, count / IN_FLIGHT).await?;
        if round > 0 {
            many.push(speed(of_many, 1));
            one.push(speed(of_one, 5));
            echoes.push((count / IN_FLIGHT * IN_FLIGHT * lanes) as f64 / 1e6 / of_echoes.as_secs_f64());
        }
    }
    let measure = format!("{count} sessions in turn");
    let row = |peer| Row::new(measure.as_str(), lanes, Unit::MillionLanesPerSecond, &many, peer);
    Ok(vec![row(("one session of all lanes", &one)), row(("raw tonic echo, as many at once", &echoes))])
}

/// Calls of an echo, `at_once` tasks with `each` of them.
async fn unary_echoes(
    echo: &TonicEcho,
    payload: &Bytes,
    at_once: usize,
    each: usize,
) -> anyhow::Result<Duration> {
    let start = Instant::now();
    let tasks = (0..at_once).map(|_| {
        let (mut echo, payload) = (echo.clone(), payload.clone());
        tokio::spawn(async move {
            for _ in 0..each {
                echo.unary(&payload).await?;
            }
            Ok::<_, anyhow::Error>(())
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await??;
    }
    Ok(start.elapsed())
}
