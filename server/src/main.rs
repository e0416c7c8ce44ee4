//! The program `noised`: parse, bind, run.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::error::ErrorKind;
use clap::{Parser, Subcommand};
use noised_server::config::{DEFAULT_PORT, LogFormat, Options};
use noised_server::{Config, ListenAddr, Listener};
use tokio::runtime::Builder;
use tonic::transport::{Endpoint, Uri};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tracing_subscriber::EnvFilter;

#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How long `noised health` waits for an answer.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(2);

/// Correlated noise for differentially private training, as a gRPC service.
#[derive(Debug, Parser)]
#[command(name = "noised", version, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve until SIGTERM or SIGINT.
    Serve {
        /// A TOML file with any of the settings below, such as max_sessions = 100
        #[arg(long, env = "NOISED_CONFIG", value_name = "FILE")]
        config: Option<PathBuf>,
        #[command(flatten)]
        options: Box<Options>,
    },
    /// Ask a server how it is: exits with 0 where it serves, with 1 where it does not.
    Health {
        /// Where it listens: host:port, or unix:///path [default: 127.0.0.1:7467]
        #[arg(long, env = "NOISED_LISTEN", value_name = "ADDRESS")]
        listen: Option<ListenAddr>,
    },
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return exit_of_usage(&error),
    };
    let result = match cli.command {
        Command::Serve { config, options } => {
            match Config::load(*options, config).and_then(|config| init_logs(&config).map(|()| config)) {
                Ok(config) => serve(config),
                Err(error) => return fail(&error, 2),
            }
        }
        Command::Health { listen } => health(listen),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error, 1),
    }
}

/// Help and version as clap prints them; a mistake in one line.
fn exit_of_usage(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        let _unread = error.print();
        return ExitCode::SUCCESS;
    }
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        let _unread = error.print();
        return ExitCode::from(2);
    }
    let text = error.render().to_string();
    let text = text.split("\nUsage:").next().unwrap_or_default();
    let text = text.split("\nFor more information").next().unwrap_or_default();
    fail(&anyhow::anyhow!("{}", text.trim_start_matches("error: ")), 2)
}

#[allow(clippy::print_stderr, reason = "the one line that a program ends with")]
fn fail(error: &anyhow::Error, status: u8) -> ExitCode {
    let text = format!("{error:#}");
    eprintln!("noised: {}", text.split_whitespace().collect::<Vec<_>>().join(" "));
    ExitCode::from(status)
}

fn serve(config: Config) -> anyhow::Result<()> {
    // A single thread for the network wakes no other one up, which is the fastest as long as one is enough.
    let mut runtime = match config.network_threads {
        1 => Builder::new_current_thread(),
        _ => Builder::new_multi_thread(),
    };
    let runtime = runtime.worker_threads(config.network_threads).enable_all().build();
    runtime.context("cannot start the network threads")?.block_on(bind_and_run(config))
}

async fn bind_and_run(config: Config) -> anyhow::Result<()> {
    let listener = Listener::bind(&config.listen)
        .await
        .with_context(|| format!("cannot listen at {}", config.listen))?;
    // Heard from here on, so that a signal that comes early is not lost.
    let stopped = stop_signal()?;
    noised_server::run(listener, config, stopped).await
}

fn init_logs(config: &Config) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&config.log).context("log: is not a filter")?;
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match config.log_format {
        LogFormat::Text => logs.init(),
        LogFormat::Json => logs.json().init(),
    }
    Ok(())
}

/// Done when the program is asked to stop.
fn stop_signal() -> anyhow::Result<impl Future<Output = ()> + Send> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate()).context("cannot hear SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot hear SIGINT")?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

#[tokio::main(flavor = "current_thread")]
async fn health(listen: Option<ListenAddr>) -> anyhow::Result<()> {
    let address = listen.unwrap_or(ListenAddr::Tcp(([127, 0, 0, 1], DEFAULT_PORT).into()));
    let endpoint = match &address {
        ListenAddr::Tcp(address) => {
            // A server that listens at every address is asked at the loopback.
            let host =
                if address.ip().is_unspecified() { "127.0.0.1".to_owned() } else { address.ip().to_string() };
            let host = if host.contains(':') { format!("[{host}]") } else { host };
            Endpoint::from(format!("http://{host}:{}", address.port()).parse::<Uri>()?)
        }
        ListenAddr::Unix(path) => Endpoint::try_from(format!("unix://{}", path.display()))?,
    };
    let endpoint = endpoint.connect_timeout(HEALTH_TIMEOUT).timeout(HEALTH_TIMEOUT);
    let channel = endpoint.connect().await.with_context(|| format!("no server answers at {address}"))?;
    let request = HealthCheckRequest { service: String::new() };
    let status = HealthClient::new(channel).check(request).await.context("the server does not tell")?;
    let status = status.into_inner().status();
    anyhow::ensure!(status == ServingStatus::Serving, "the server at {address} is {}", status.as_str_name());
    Ok(())
}
