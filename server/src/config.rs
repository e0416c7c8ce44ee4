//! The server's settings: flags, environment and file, made into one checked [`Config`].

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, ensure};
use bytesize::ByteSize;
use clap::{Args, ValueEnum};
use noised::noise::MasterKey;
use serde::Deserialize;
use sysinfo::System;
use zeroize::Zeroizing;

use crate::listen::ListenAddr;

/// States that a session may be asked to keep, at most.
pub const MAX_KEPT_STATES: usize = 48;

/// The port that no flag asks for.
pub const DEFAULT_PORT: u16 = 7467;

/// Less than the grace that Kubernetes and most others give before they kill.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(20);

/// A length of time, written `500ms`, `20s`, `2m`, `24h` or `7d`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Span(pub Duration);

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let rule = || format!("`{text}` is not a length of time such as 500ms, 20s, 2m, 24h or 7d");
        let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).ok_or_else(rule)?);
        let number: u32 = number.parse().map_err(|_| rule())?;
        match unit {
            "ms" => Ok(Self(Duration::from_millis(number.into()))),
            "s" => Ok(Self(Duration::from_secs(number.into()))),
            "m" => Ok(Self(Duration::from_secs(60 * u64::from(number)))),
            "h" => Ok(Self(Duration::from_secs(3600 * u64::from(number)))),
            "d" => Ok(Self(Duration::from_secs(24 * 3600 * u64::from(number)))),
            _ => Err(rule()),
        }
    }
}

impl TryFrom<String> for Span {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

/// Settings as they are given. Each is a flag, an environment variable `NOISED_...` and a key of the file; a flag wins
/// over the environment, and the environment over the file.
#[derive(Args, Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Options {
    /// Where to listen: host:port, or unix:///path [default: 127.0.0.1:7467]
    #[arg(long, env = "NOISED_LISTEN", value_name = "ADDRESS")]
    pub listen: Option<ListenAddr>,
    /// Sessions that there may be at once [default: 10000]
    #[arg(long, env = "NOISED_MAX_SESSIONS", value_name = "COUNT")]
    pub max_sessions: Option<usize>,
    /// Memory for sessions, such as 12GiB [default: three quarters of what the machine or container has]
    #[arg(long, env = "NOISED_MAX_SESSION_BYTES", value_name = "BYTES")]
    pub max_session_bytes: Option<ByteSize>,
    /// States that a session may be asked to keep [default: 4]
    #[arg(long, env = "NOISED_MAX_KEPT_STATES", value_name = "COUNT")]
    pub max_kept_states: Option<usize>,
    /// A file with the master key, from which the noise of a noise_id is derived: 32 bytes, or 64 hexadecimal digits. The
    /// environment variable NOISED_MASTER_KEY may hold the digits instead
    #[arg(long, env = "NOISED_MASTER_KEY_FILE", value_name = "FILE")]
    pub master_key_file: Option<PathBuf>,
    /// A file that remembers which noises were drawn, over restarts [default: none, only this run remembers]
    #[arg(long, env = "NOISED_NOISE_LEDGER", value_name = "FILE")]
    pub noise_ledger: Option<PathBuf>,
    /// The longest message taken or made; longer trees go over a stream [default: 64MiB]
    #[arg(long, env = "NOISED_MAX_MESSAGE_BYTES", value_name = "BYTES")]
    pub max_message_bytes: Option<ByteSize>,
    /// Analysis calls that may run at once [default: 16]
    #[arg(long, env = "NOISED_MAX_ANALYSES", value_name = "COUNT")]
    pub max_analyses: Option<usize>,
    /// Calls that may be open at once on one connection [default: 1024]
    #[arg(long, env = "NOISED_MAX_CALLS_PER_CONNECTION", value_name = "COUNT")]
    pub max_calls_per_connection: Option<u32>,
    /// Threads that multiply [default: as many as there are processors]
    #[arg(long, env = "NOISED_THREADS", value_name = "COUNT")]
    pub threads: Option<usize>,
    /// Threads for the network [default: one for each four processors]
    #[arg(long, env = "NOISED_NETWORK_THREADS", value_name = "COUNT")]
    pub network_threads: Option<usize>,
    /// The longest HTTP/2 frame [default: 1MiB]
    #[arg(long, env = "NOISED_HTTP2_FRAME_BYTES", value_name = "BYTES")]
    pub http2_frame_bytes: Option<ByteSize>,
    /// The HTTP/2 window of a stream [default: 2MiB]
    #[arg(long, env = "NOISED_HTTP2_STREAM_WINDOW_BYTES", value_name = "BYTES")]
    pub http2_stream_window_bytes: Option<ByteSize>,
    /// The HTTP/2 window of a connection [default: 4MiB]
    #[arg(long, env = "NOISED_HTTP2_CONNECTION_WINDOW_BYTES", value_name = "BYTES")]
    pub http2_connection_window_bytes: Option<ByteSize>,
    /// How long steps under way may go on after SIGTERM, such as 20s or 500ms [default: 20s]
    #[arg(long, env = "NOISED_DRAIN_TIMEOUT", value_name = "DURATION")]
    pub drain_timeout: Option<Span>,
    /// Time without a use after which a session is deleted whose name the server made up, such as 24h [default: never]
    #[arg(long, env = "NOISED_DELETE_UNNAMED_AFTER", value_name = "DURATION")]
    pub delete_unnamed_after: Option<Span>,
    /// What is logged, as tracing's filter has it, such as info or noised_server=debug [default: info]
    #[arg(long, env = "NOISED_LOG", value_name = "FILTER")]
    pub log: Option<String>,
    /// How it is logged [default: text]
    #[arg(long, env = "NOISED_LOG_FORMAT", value_name = "FORMAT")]
    pub log_format: Option<LogFormat>,
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

impl Options {
    /// Reads a TOML file.
    ///
    /// # Errors
    /// Where it cannot be read, is not TOML, or has a key that is none.
    pub fn from_file(path: &Path) -> anyhow::Result<Self> {
        let text =
            std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        toml::from_str(&text).with_context(|| format!("{} is not a valid configuration", path.display()))
    }

    /// These settings, and where one is missing that of `other`.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self {
            listen: self.listen.or(other.listen),
            max_sessions: self.max_sessions.or(other.max_sessions),
            max_session_bytes: self.max_session_bytes.or(other.max_session_bytes),
            max_kept_states: self.max_kept_states.or(other.max_kept_states),
            master_key_file: self.master_key_file.or(other.master_key_file),
            noise_ledger: self.noise_ledger.or(other.noise_ledger),
            max_message_bytes: self.max_message_bytes.or(other.max_message_bytes),
            max_analyses: self.max_analyses.or(other.max_analyses),
            max_calls_per_connection: self.max_calls_per_connection.or(other.max_calls_per_connection),
            threads: self.threads.or(other.threads),
            network_threads: self.network_threads.or(other.network_threads),
            http2_frame_bytes: self.http2_frame_bytes.or(other.http2_frame_bytes),
            http2_stream_window_bytes: self.http2_stream_window_bytes.or(other.http2_stream_window_bytes),
            http2_connection_window_bytes: self
                .http2_connection_window_bytes
                .or(other.http2_connection_window_bytes),
            drain_timeout: self.drain_timeout.or(other.drain_timeout),
            delete_unnamed_after: self.delete_unnamed_after.or(other.delete_unnamed_after),
            log: self.log.or(other.log),
            log_format: self.log_format.or(other.log_format),
        }
    }
}

/// The server's settings, complete and checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where to listen.
    pub listen: ListenAddr,
    /// Sessions that there may be at once.
    pub max_sessions: usize,
    /// Bytes of memory for sessions.
    pub max_session_bytes: u64,
    /// States that a session may be asked to keep.
    pub max_kept_states: usize,
    /// What the noise of a `noise_id` is derived from.
    pub master_key: Option<MasterKey>,
    /// A file that remembers which noises were drawn.
    pub noise_ledger: Option<PathBuf>,
    /// Bytes of the longest message taken or made.
    pub max_message_bytes: usize,
    /// Analysis calls that may run at once.
    pub max_analyses: usize,
    /// Calls that may be open at once on one connection.
    pub max_calls_per_connection: u32,
    /// Threads that multiply.
    pub threads: usize,
    /// Threads for the network, which the program starts; [`run`](crate::run) takes the runtime it is called in.
    pub network_threads: usize,
    /// Bytes of the longest HTTP/2 frame.
    pub http2_frame_bytes: u32,
    /// Bytes of a stream's HTTP/2 window.
    pub http2_stream_window_bytes: u32,
    /// Bytes of a connection's HTTP/2 window.
    pub http2_connection_window_bytes: u32,
    /// How long steps under way may go on once the server is asked to stop.
    pub drain_timeout: Duration,
    /// Time without a use after which a session is deleted whose name the server made up.
    pub delete_unnamed_after: Option<Duration>,
    /// What is logged.
    pub log: String,
    /// How it is logged.
    pub log_format: LogFormat,
}

impl Config {
    /// Fills in defaults and checks every setting.
    ///
    /// # Errors
    /// Names the setting and the rule it breaks.
    pub fn new(options: Options) -> anyhow::Result<Self> {
        let Options {
            listen,
            max_sessions,
            max_session_bytes,
            max_kept_states,
            master_key_file,
            noise_ledger,
            max_message_bytes,
            max_analyses,
            max_calls_per_connection,
            threads,
            network_threads,
            http2_frame_bytes,
            http2_stream_window_bytes,
            http2_connection_window_bytes,
            drain_timeout,
            delete_unnamed_after,
            log,
            log_format,
        } = options;
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let count = |name: &str, given: Option<usize>, default: usize| {
            let value = given.unwrap_or(default);
            ensure!(value > 0, "{name}: must be at least 1");
            Ok(value)
        };
        // HTTP/2 allows frames of 2^14 to 2^24 - 1 bytes and windows of up to 2^31 - 1.
        let http2 = |name: &str, given: Option<ByteSize>, default: u64, least: u64, most: u64| {
            let bytes = given.map_or(default, |size| size.as_u64());
            ensure!(
                (least..=most).contains(&bytes),
                "{name}: must be from {least} to {most} bytes, found {bytes}"
            );
            Ok(u32::try_from(bytes)?)
        };
        // The largest dense matrix, written in full, takes 33.6 MB.
        let message = max_message_bytes.map_or(64 << 20, |size| size.as_u64());
        ensure!((1 << 12..=1 << 31).contains(&message), "max_message_bytes: must be from 4 KiB to 2 GiB");
        let kept_states = max_kept_states.unwrap_or(4);
        ensure!(
            kept_states <= MAX_KEPT_STATES,
            "max_kept_states: must be at most {MAX_KEPT_STATES}, found {kept_states}"
        );
        Ok(Self {
            listen: listen.unwrap_or(ListenAddr::Tcp(([127, 0, 0, 1], DEFAULT_PORT).into())),
            max_sessions: count("max_sessions", max_sessions, 10_000)?,
            max_session_bytes: max_session_bytes
                .map_or_else(default_session_bytes, |size| Ok(size.as_u64()))?,
            max_kept_states: kept_states,
            master_key: master_key_file.map(|path| read_master_key(&path)).transpose()?,
            noise_ledger,
            max_message_bytes: usize::try_from(message)?,
            max_analyses: count("max_analyses", max_analyses, 16)?,
            max_calls_per_connection: u32::try_from(count(
                "max_calls_per_connection",
                max_calls_per_connection.map(|calls| calls as usize),
                1024,
            )?)?,
            threads: count("threads", threads, processors)?,
            network_threads: count("network_threads", network_threads, processors.div_ceil(4))?,
            http2_frame_bytes: http2(
                "http2_frame_bytes",
                http2_frame_bytes,
                1 << 20,
                1 << 14,
                (1 << 24) - 1,
            )?,
            http2_stream_window_bytes: http2(
                "http2_stream_window_bytes",
                http2_stream_window_bytes,
                2 << 20,
                (1 << 16) - 1,
                (1 << 31) - 1,
            )?,
            http2_connection_window_bytes: http2(
                "http2_connection_window_bytes",
                http2_connection_window_bytes,
                4 << 20,
                (1 << 16) - 1,
                (1 << 31) - 1,
            )?,
            delete_unnamed_after: delete_unnamed_after.map(|Span(duration)| duration),
            drain_timeout: drain_timeout.map_or(DRAIN_TIMEOUT, |Span(duration)| duration),
            log: log.unwrap_or_else(|| "info".to_owned()),
            log_format: log_format.unwrap_or(LogFormat::Text),
        })
    }

    /// The settings of a command line, with the file that it names.
    ///
    /// # Errors
    /// Those of [`Options::from_file`] and [`Config::new`].
    pub fn load(flags: Options, file: Option<PathBuf>) -> anyhow::Result<Self> {
        let file = file.map_or_else(|| Ok(Options::default()), |path| Options::from_file(&path))?;
        let mut config = Self::new(flags.or(file))?;
        // A secret is no flag: those are read by whoever lists the processes.
        if let Some(text) = std::env::var_os(MASTER_KEY_VARIABLE).filter(|text| !text.is_empty()) {
            ensure!(
                config.master_key.is_none(),
                "{MASTER_KEY_VARIABLE}: must not be set where master_key_file is"
            );
            let text = Zeroizing::new(text.into_encoded_bytes());
            config.master_key = Some(MasterKey::parse(MASTER_KEY_VARIABLE, &text)?);
        }
        Ok(config)
    }
}

/// Holds the master key, where no file does.
const MASTER_KEY_VARIABLE: &str = "NOISED_MASTER_KEY";

fn read_master_key(path: &Path) -> anyhow::Result<MasterKey> {
    let content = std::fs::read(path).with_context(|| format!("master_key_file: {}", path.display()))?;
    Ok(MasterKey::parse("master_key_file", &Zeroizing::new(content))?)
}

/// Three quarters of what the machine, or the container that this runs in, has: the rest is for messages under way, the
/// programs beside this one, and the system.
fn default_session_bytes() -> anyhow::Result<u64> {
    let unknown = "max_session_bytes: must be set, since the machine does not tell its memory";
    let mut system = System::new().context(unknown)?;
    system.refresh_memory();
    let machine = system.total_memory();
    let container = system.cgroup_limits().map_or(machine, |limits| limits.total_memory);
    Ok(machine.min(container) / 4 * 3)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> Options {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn flags_win_over_the_file_and_the_file_over_defaults() {
        let flags = Options { max_sessions: Some(3), ..Options::default() };
        let both = flags
            .or(file("max_sessions = 5\nthreads = 7\nmax_session_bytes = \"3GiB\"\nlog_format = \"json\""));
        let config = Config::new(both).unwrap();
        assert_eq!((config.max_sessions, config.threads), (3, 7));
        assert_eq!(config.max_session_bytes, 3 << 30);
        assert_eq!(config.log_format, LogFormat::Json);
        assert_eq!(config.listen.to_string(), "127.0.0.1:7467");
    }

    #[test]
    fn spans() {
        for (text, span) in [
            ("500ms", 500),
            ("20s", 20_000),
            ("2m", 120_000),
            ("3h", 10_800_000),
            ("2d", 172_800_000),
            ("0s", 0),
        ] {
            assert_eq!(text.parse(), Ok(Span(Duration::from_millis(span))));
        }
        for text in ["", "20", "s", "-1s", "1.5s", "1w", "99999999999s", "20 s"] {
            assert!(text.parse::<Span>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_setting_that_breaks_its_rule_is_named() {
        for (text, name) in [
            ("max_sessions = 0", "max_sessions"),
            ("threads = 0", "threads"),
            ("http2_frame_bytes = 5", "http2_frame_bytes"),
            ("max_message_bytes = 1", "max_message_bytes"),
        ] {
            let error = Config::new(file(text)).unwrap_err();
            assert!(format!("{error:#}").contains(name), "{error:#}");
        }
        assert!(
            toml::from_str::<Options>("max_session = 1").unwrap_err().to_string().contains("max_session")
        );
        assert!(toml::from_str::<Options>("drain_timeout = \"-1s\"").is_err());
        assert!(toml::from_str::<Options>("listen = \"nowhere\"").is_err());
    }

    #[test]
    fn the_default_leaves_memory_to_others() {
        let bytes = default_session_bytes().unwrap();
        let mut system = System::new().unwrap();
        system.refresh_memory();
        assert!(bytes > 0 && bytes < system.total_memory());
    }
}
