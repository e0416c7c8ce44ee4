//! The program `noised`: parse, bind, run.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use noised_server::config::{DEFAULT_PORT, LogFormat, Options, Sources};
use noised_server::state::StateCommand;
use noised_server::{Config, ListenAddr, Listener, Memories, secrets};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::runtime::Builder;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tonic::transport::{Endpoint, Uri};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, reload};

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
    /// Serve until SIGTERM or SIGINT. SIGHUP reads the settings again and changes what is logged; all else
    /// stays until the next start.
    Serve {
        /// A TOML file with any of the settings below, such as max_sessions = 100
        #[arg(long, env = "NOISED_CONFIG", value_name = "FILE")]
        config: Option<PathBuf>,
        #[command(flatten)]
        options: Box<Options>,
    },
    /// Look at a store of sessions, or clean it, also while servers have it.
    State {
        #[command(flatten)]
        store: Box<StoreOptions>,
        #[command(subcommand)]
        command: StateCommand,
    },
    /// Ask a server how it is: exits with 0 where it serves, with 1 where it does not.
    Health {
        /// Where it listens: host:port, or unix:///path [default: 127.0.0.1:7467]
        #[arg(long, env = "NOISED_LISTEN", value_name = "ADDRESS")]
        listen: Option<ListenAddr>,
    },
}

/// Which store, as for `noised serve`.
#[derive(Args, Clone, Debug)]
struct StoreOptions {
    /// A TOML file with the settings of the server
    #[arg(long, env = "NOISED_CONFIG", value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    /// The store: a directory, or an object store such as s3://bucket/prefix
    #[arg(long, env = "NOISED_STATE", value_name = "URL", global = true)]
    state: Option<String>,
    /// What the object store needs to be told, such as endpoint=http://127.0.0.1:9000; may be repeated
    #[arg(long, env = "NOISED_STATE_OPTION", value_name = "KEY=VALUE", value_delimiter = ',', global = true)]
    state_option: Option<Vec<String>>,
    /// A file with the master key, where it does not lie in the store's directory
    #[arg(long, env = "NOISED_MASTER_KEY_FILE", value_name = "FILE", global = true)]
    master_key_file: Option<PathBuf>,
}

fn main() -> ExitCode {
    let (cli, sources) = match parse() {
        Ok(parsed) => parsed,
        Err(error) => return exit_of_usage(&error),
    };
    let result = match cli.command {
        Command::Serve { config, options } => {
            if let Err(error) = secrets::take_key_from_environment() {
                return fail(&error, 1);
            }
            let given = Given { options: *options, file: config, sources };
            let checked = given.load().and_then(|config| {
                config.check_files()?;
                Ok((init_logs(&config)?, config))
            });
            match checked {
                Ok((logs, config)) => serve(config, Reload { given, logs }),
                Err(error) => return fail(&error, 2),
            }
        }
        Command::State { store, command } => look(*store, command, sources),
        Command::Health { listen } => health(listen),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error, 1),
    }
}

/// The command line, and where each setting comes from.
fn parse() -> Result<(Cli, Sources), clap::Error> {
    let matches = Cli::command().mut_subcommands(without_empty_variables).try_get_matches()?;
    let sources = matches.subcommand().map(|(_, matches)| Sources::of_flags(matches)).unwrap_or_default();
    Ok((Cli::from_arg_matches(&matches)?, sources))
}

/// Has an environment variable that is empty be one that is not set: whoever starts programs for others often
/// cannot leave a variable out.
fn without_empty_variables(command: clap::Command) -> clap::Command {
    command.mut_args(|arg| {
        let empty = arg.get_env().and_then(std::env::var_os).is_some_and(|value| value.is_empty());
        if empty { arg.env(clap::builder::Resettable::Reset) } else { arg }
    })
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
    let text = text.trim_start_matches("error: ").split_whitespace().collect::<Vec<_>>().join(" ");
    fail(&anyhow::anyhow!("{text}{}", variable_at_fault(error).unwrap_or_default()), 2)
}

/// Names the environment variable that a mistake is in: clap tells of every value as if a flag had given it.
fn variable_at_fault(error: &clap::Error) -> Option<String> {
    let Some(ContextValue::String(argument)) = error.get(ContextKind::InvalidArg) else { return None };
    let flag = argument.split_whitespace().next()?;
    let is_flag =
        |given: &str| given.strip_prefix(flag).is_some_and(|rest| rest.is_empty() || rest.starts_with('='));
    if std::env::args_os().any(|given| given.to_str().is_some_and(is_flag)) {
        return None;
    }
    let command = Cli::command();
    let mut arguments = command.get_subcommands().flat_map(clap::Command::get_arguments);
    let argument = arguments
        .find(|argument| Some(flag) == argument.get_long().map(|long| format!("--{long}")).as_deref())?;
    Some(format!(" (set by the environment variable {})", argument.get_env()?.to_str()?))
}

#[allow(clippy::print_stderr, reason = "what a program ends with")]
fn fail(error: &anyhow::Error, status: u8) -> ExitCode {
    // A mistake in a file is shown where it is, in lines of its own.
    eprintln!("noised: {}", format!("{error:#}").trim_end());
    ExitCode::from(status)
}

/// What the program was started with.
struct Given {
    options: Options,
    file: Option<PathBuf>,
    sources: Sources,
}

impl Given {
    /// Reads the settings, the file among them as it is now.
    fn load(&self) -> anyhow::Result<Config> {
        Config::load(self.options.clone(), self.file.as_deref(), self.sources.clone())
    }

    /// All that is given now, by flags, the environment and the file.
    fn options(&self) -> anyhow::Result<Options> {
        Ok(self.options.clone().with_file(self.file.as_deref(), self.sources.clone())?.0)
    }
}

/// Changes what is logged.
type Logs = Box<dyn Fn(EnvFilter) -> anyhow::Result<()> + Send>;

/// What SIGHUP does: the settings are read again, and `log` is changed.
struct Reload {
    given: Given,
    logs: Logs,
}

impl Reload {
    async fn at_every_hangup(self, mut hangup: Signal) {
        let mut before = self.given.options().unwrap_or_default();
        while hangup.recv().await.is_some() {
            match self.reload(&before) {
                Ok(after) => before = after,
                Err(error) => tracing::error!("SIGHUP: the settings stay as they were: {error:#}"),
            }
        }
    }

    /// Takes the settings as they are now. All but `log` hold for as long as the program runs: sessions,
    /// connections and threads were made under them.
    fn reload(&self, before: &Options) -> anyhow::Result<Options> {
        let config = self.given.load()?;
        let after = self.given.options()?;
        (self.logs)(filter(&config)?)?;
        let mut changed = after.differing(before);
        changed.retain(|name| *name != "log");
        if changed.is_empty() {
            tracing::info!(log = config.log, "SIGHUP: the settings were read again");
        } else {
            tracing::warn!(log = config.log, ?changed, "SIGHUP: these settings change at the next start");
        }
        // What has not been taken is told again at the next signal.
        Ok(Options { log: after.log, ..before.clone() })
    }
}

fn serve(config: Config, reload: Reload) -> anyhow::Result<()> {
    raise_open_files(&config);
    if let Err(error) = secrets::keep_memory_private() {
        tracing::warn!(error = format!("{error:#}"), "other processes of this user may read keys in memory");
    }
    // A single thread for the network wakes no other one up, which is the fastest as long as one is enough.
    let mut runtime = match config.network_threads {
        1 => Builder::new_current_thread(),
        _ => Builder::new_multi_thread(),
    };
    let runtime = runtime.worker_threads(config.network_threads).enable_all().build();
    runtime.context("cannot start the network threads")?.block_on(bind_and_run(config, reload))
}

/// Raises the limit on open files as far as the connections need and the system allows.
fn raise_open_files(config: &Config) {
    let needed = noised_server::config::open_files(config);
    let limits = getrlimit(Resource::Nofile);
    if limits.current.is_some_and(|current| current < needed) {
        let current = limits.maximum.map_or(needed, |most| most.min(needed));
        // The server tells where the limit stays too low.
        let _unchanged = setrlimit(Resource::Nofile, Rlimit { current: Some(current), ..limits });
    }
}

async fn bind_and_run(config: Config, reload: Reload) -> anyhow::Result<()> {
    // By default this signal kills.
    tokio::spawn(reload.at_every_hangup(signal(SignalKind::hangup()).context("cannot hear SIGHUP")?));
    // Heard from here on, so that a signal that comes early is not lost.
    let mut stopped = std::pin::pin!(stop_signal()?);
    // A write beyond a limit on the length of files fails then, instead of ending the server.
    let limit = SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw());
    let _heard = signal(limit).context("cannot hear SIGXFSZ")?;
    // Clients find a server that listens, or none.
    let Some(memories) = Memories::open(&config, stopped.as_mut()).await? else { return Ok(()) };
    let listener = Listener::bind(&config.listen)
        .await
        .with_context(|| format!("cannot listen at {}", config.listen))?;
    noised_server::run_with(listener, config, memories, stopped).await
}

fn filter(config: &Config) -> anyhow::Result<EnvFilter> {
    EnvFilter::try_new(&config.log).context("log: is not a filter")
}

/// Begins to log, in colours where a person reads them. Gives the way to change what is logged.
fn init_logs(config: &Config) -> anyhow::Result<Logs> {
    let colours_off = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let (filter, handle) = reload::Layer::new(filter(config)?);
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal() && !colours_off);
    let logs = tracing_subscriber::registry().with(filter);
    match config.log_format {
        LogFormat::Text => logs.with(lines).init(),
        LogFormat::Json => logs.with(lines.json()).init(),
    }
    Ok(Box::new(move |filter| Ok(handle.reload(filter)?)))
}

/// Done when the program is asked to stop.
fn stop_signal() -> anyhow::Result<impl Future<Output = ()> + Send> {
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
async fn look(store: StoreOptions, command: StateCommand, sources: Sources) -> anyhow::Result<()> {
    let StoreOptions { config, state, state_option, master_key_file } = store;
    let options = Options { state, state_option, master_key_file, ..Options::default() };
    let config = Config::load(options, config.as_deref(), sources)?;
    noised_server::state::look(&config, command, std::io::stdout().lock()).await
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
