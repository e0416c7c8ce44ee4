//! The server's settings: flags, environment and file, made into one checked [`Config`].

mod advertise;
mod log;
mod options;
mod sources;
mod span;
mod state;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use bytesize::ByteSize;
use noised::noise::MasterKey;
use sysinfo::System;

use crate::connections::OTHER_FILES;
use crate::gate::METADATA_CEILING;
use crate::identity::Tokens;
use crate::listen::ListenAddr;
use crate::secrets;
use crate::tls::TlsFiles;
pub use advertise::{Advertise, MAX_ADVERTISE_BYTES};
pub use options::{LogFormat, Options};
pub use sources::{SettingError, Sources};
pub use span::Span;
pub use state::{SnapshotEvery, StateSettings};

/// States that a session may be asked to keep, at most.
pub const MAX_KEPT_STATES: usize = 48;

/// The port that no flag asks for.
pub const DEFAULT_PORT: u16 = 7467;

/// Less than the grace that Kubernetes and most others give before they kill.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(20);

/// More than a peer on a slow network takes.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Longer than most trainers compute between two steps. A client that comes back later connects again.
const IDLE_TIMEOUT: Duration = Duration::from_secs(3600);

/// A network that takes longer for 64 KiB is of no use for steps.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// Reading as many takes a second or so, and the sessions' own objects are rewritten rarely.
const JOURNAL_OBJECTS: u64 = 4096;

/// A server that is busy, or whose store is slow, is silent for a second or two.
const LEASE: Duration = Duration::from_secs(5);

/// Rewriting an object more often than that costs more than it gives.
const LEAST_LEASE: Duration = Duration::from_millis(500);

/// The longest lease: nobody waits longer for a server that is gone.
pub(crate) const MAX_LEASE: Duration = Duration::from_secs(300);

/// Open connections take memory and files, and a session needs few of them.
const MAX_CONNECTIONS: usize = 1024;

/// The server's settings, complete and checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where to listen.
    pub listen: ListenAddr,
    /// The server's certificate; without one it speaks no TLS.
    pub tls: Option<TlsFiles>,
    /// Who may call the server; without it everybody may do everything.
    pub tokens_file: Option<PathBuf>,
    /// Where it is noted who did what to sessions: a file, or `-` for the standard output.
    pub audit_log: Option<PathBuf>,
    /// Whether somebody said that the server needs no TLS where other machines reach it.
    pub insecure: bool,
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
    /// Where sessions are kept, so that they outlive the server.
    pub state: Option<StateSettings>,
    /// Noises that may be remembered.
    pub max_noises: usize,
    /// Bytes of the longest message taken or made.
    pub max_message_bytes: usize,
    /// Analysis calls that may run at once.
    pub max_analyses: usize,
    /// Calls that may be open at once on one connection.
    pub max_calls_per_connection: u32,
    /// Connections that may be open at once.
    pub max_connections: usize,
    /// Bytes of metadata that a call may have.
    pub max_metadata_bytes: usize,
    /// Threads that multiply.
    pub threads: usize,
    /// Threads for the network, which the program starts; [`run`](crate::run) takes the runtime it is called
    /// in.
    pub network_threads: usize,
    /// Bytes of the longest HTTP/2 frame.
    pub http2_frame_bytes: u32,
    /// Bytes of a stream's HTTP/2 window.
    pub http2_stream_window_bytes: u32,
    /// Bytes of a connection's HTTP/2 window.
    pub http2_connection_window_bytes: u32,
    /// How long steps under way may go on once the server is asked to stop.
    pub drain_timeout: Duration,
    /// How long a peer may take to begin with HTTP/2.
    pub handshake_timeout: Duration,
    /// How long a connection stays open on which there is no call.
    pub idle_timeout: Duration,
    /// How long a request may take for each 64 KiB of it, or for its end.
    pub body_timeout: Duration,
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
    /// A [`SettingError`] names the setting and the rule it breaks.
    pub fn new(options: Options) -> anyhow::Result<Self> {
        let Options {
            listen,
            tls_cert,
            tls_key,
            tls_client_ca,
            tokens_file,
            audit_log,
            insecure,
            max_sessions,
            max_session_bytes,
            max_kept_states,
            master_key_file,
            noise_ledger,
            state,
            state_option,
            snapshot_every,
            journal_objects,
            advertise,
            lease,
            max_noises,
            max_message_bytes,
            max_analyses,
            max_calls_per_connection,
            max_connections,
            max_metadata_bytes,
            threads,
            network_threads,
            http2_frame_bytes,
            http2_stream_window_bytes,
            http2_connection_window_bytes,
            drain_timeout,
            handshake_timeout,
            idle_timeout,
            body_timeout,
            delete_unnamed_after,
            log,
            log_format,
        } = options;
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let count = |name, given: Option<usize>, default: usize| match given.unwrap_or(default) {
            0 => Err(SettingError::new(name, "must be at least 1, found 0")),
            value => Ok(value),
        };
        let span = |name, given: Option<Span>, default| match given.map_or(default, |Span(span)| span) {
            Duration::ZERO => Err(SettingError::new(name, "must be longer than 0s")),
            span => Ok(span),
        };
        let path = |name, given: Option<PathBuf>| match given {
            Some(path) if path.as_os_str().is_empty() => {
                Err(SettingError::new(name, "must not be empty: leave it out to have none"))
            }
            path => Ok(path),
        };
        // HTTP/2 allows frames of 2^14 to 2^24 - 1 bytes and windows of up to 2^31 - 1.
        let bytes = |name, given: Option<ByteSize>, default: u64, least: u64, most: u64| {
            let bytes = given.map_or(default, |size| size.as_u64());
            let rule = || format!("must be from {least} to {most} bytes, found {bytes}");
            let checked = u32::try_from(bytes).ok().filter(|_| (least..=most).contains(&bytes));
            checked.ok_or_else(|| SettingError::new(name, rule()))
        };
        let http2 = bytes;
        // The largest dense matrix, written in full, takes 33.6 MB.
        let message = bytes("max_message_bytes", max_message_bytes, 64 << 20, 1 << 12, 1 << 31)?;
        let kept_states = max_kept_states.unwrap_or(4);
        if kept_states > MAX_KEPT_STATES {
            let rule = format!("must be at most {MAX_KEPT_STATES}, found {kept_states}");
            return Err(SettingError::new("max_kept_states", rule).into());
        }
        let log = log.unwrap_or_else(|| "info".to_owned());
        log::check_filter(&log).map_err(|rule| SettingError::new("log", rule))?;
        let listen = listen.unwrap_or(ListenAddr::Tcp(([127, 0, 0, 1], DEFAULT_PORT).into()));
        let [cert, key, client_ca] =
            [path("tls_cert", tls_cert)?, path("tls_key", tls_key)?, path("tls_client_ca", tls_client_ca)?];
        let tls = tls_files(&listen, cert, key, client_ca)?;
        let has_certificate = tls.is_some();
        check_reach(&listen, has_certificate || insecure.unwrap_or(false))?;
        Ok(Self {
            tls,
            tokens_file: path("tokens_file", tokens_file)?,
            audit_log: path("audit_log", audit_log)?,
            insecure: insecure.unwrap_or(false),
            listen,
            max_sessions: count("max_sessions", max_sessions, 10_000)?,
            max_session_bytes: max_session_bytes
                .map_or_else(default_session_bytes, |size| Ok(size.as_u64()))?,
            max_kept_states: kept_states,
            master_key: path("master_key_file", master_key_file)?
                .map(|path| secrets::key_of_file(&path))
                .transpose()?,
            noise_ledger: path("noise_ledger", noise_ledger)?,
            state: state_settings(GivenState {
                url: state,
                options: state_option,
                snapshot_every,
                journal_objects,
                advertise,
                lease,
                has_certificate,
            })?,
            max_noises: count("max_noises", max_noises, 1 << 20)?,
            max_message_bytes: message as usize,
            max_analyses: count("max_analyses", max_analyses, 16)?,
            max_calls_per_connection: u32::try_from(count(
                "max_calls_per_connection",
                max_calls_per_connection.map(|calls| calls as usize),
                1024,
            )?)?,
            max_connections: count("max_connections", max_connections, default_connections())?,
            max_metadata_bytes: bytes(
                "max_metadata_bytes",
                max_metadata_bytes,
                16 << 10,
                1 << 10,
                METADATA_CEILING.into(),
            )? as usize,
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
            delete_unnamed_after: delete_unnamed_after
                .map(|given| span("delete_unnamed_after", Some(given), Duration::ZERO))
                .transpose()?,
            drain_timeout: drain_timeout.map_or(DRAIN_TIMEOUT, |Span(duration)| duration),
            handshake_timeout: span("handshake_timeout", handshake_timeout, HANDSHAKE_TIMEOUT)?,
            idle_timeout: span("idle_timeout", idle_timeout, IDLE_TIMEOUT)?,
            body_timeout: span("body_timeout", body_timeout, BODY_TIMEOUT)?,
            log,
            log_format: log_format.unwrap_or(LogFormat::Text),
        })
    }

    /// Checks the files that are read when the server starts, so that a mistake in one is told before.
    ///
    /// # Errors
    /// Those of a certificate and its key, and of the tokens file: names the setting and the file.
    pub fn check_files(&self) -> anyhow::Result<()> {
        self.tls.as_ref().map_or(Ok(()), |files| files.load().map(drop))?;
        self.tokens_file.as_ref().map_or(Ok(()), |path| Tokens::load(path).map(drop))
    }

    /// The settings of a command line, with the file that it names. `sources` tells where the flags come
    /// from.
    ///
    /// # Errors
    /// Those of [`Options::from_file`] and [`Config::new`]; the latter name where the setting was given.
    pub fn load(flags: Options, file: Option<&Path>, sources: Sources) -> anyhow::Result<Self> {
        let (options, sources) = flags.with_file(file, sources)?;
        let mut config = Self::new(options).map_err(|error| sources.name_in(error))?;
        // A secret is no flag: those are read by whoever lists the processes.
        if let Some(key) = secrets::key_of_environment()? {
            if config.master_key.is_some() {
                let rule = "must not be set where master_key_file is";
                return Err(sources.name_in(SettingError::new(secrets::VARIABLE, rule).into()));
            }
            config.master_key = Some(key);
        }
        Ok(config)
    }
}

/// The files of TLS, which are there together or not at all.
fn tls_files(
    listen: &ListenAddr,
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
    client_ca: Option<PathBuf>,
) -> Result<Option<TlsFiles>, SettingError> {
    let files = match (cert, key, client_ca) {
        (Some(cert), Some(key), client_ca) => TlsFiles { cert, key, client_ca },
        (None, None, None) => return Ok(None),
        (Some(_), None, _) => return Err(SettingError::new("tls_cert", "needs tls_key as well")),
        (None, Some(_), _) => return Err(SettingError::new("tls_key", "needs tls_cert as well")),
        (None, None, Some(_)) => {
            return Err(SettingError::new("tls_client_ca", "needs tls_cert and tls_key as well"));
        }
    };
    if matches!(listen, ListenAddr::Unix(_)) {
        let rule =
            "must not be set where listen is a Unix socket: its file's permissions say who may connect";
        return Err(SettingError::new("tls_cert", rule));
    }
    Ok(Some(files))
}

/// Refuses an address that other machines reach, unless the server is protected or somebody said that it need
/// not be.
fn check_reach(listen: &ListenAddr, is_allowed: bool) -> Result<(), SettingError> {
    if is_allowed || listen.is_of_this_machine() {
        return Ok(());
    }
    let rule = format!(
        "must be of this machine alone, such as 127.0.0.1:{DEFAULT_PORT} or unix:///path, found {listen}, \
         where whoever reaches it has all sessions: set tls_cert, tls_key and tls_client_ca, or insecure to \
         allow it all the same"
    );
    Err(SettingError::new("listen", rule))
}

/// As many connections as the limit on open files leaves.
fn default_connections() -> usize {
    open_files_limit().map_or(MAX_CONNECTIONS, |limit| {
        usize::try_from(limit).unwrap_or(usize::MAX).saturating_sub(OTHER_FILES).clamp(1, MAX_CONNECTIONS)
    })
}

/// How many files the process has open with as many connections as may be.
pub fn open_files(config: &Config) -> u64 {
    config.max_connections.saturating_add(OTHER_FILES) as u64
}

/// How many files the process may have open, if there is a limit.
pub(crate) fn open_files_limit() -> Option<u64> {
    rustix::process::getrlimit(rustix::process::Resource::Nofile).current
}

/// Three quarters of what the machine, or the container that this runs in, has: the rest is for messages
/// under way, the programs beside this one, and the system.
fn default_session_bytes() -> anyhow::Result<u64> {
    let unknown = "max_session_bytes: must be set, since the machine does not tell its memory";
    let mut system = System::new().context(unknown)?;
    system.refresh_memory();
    let machine = system.total_memory();
    let container = system.cgroup_limits().map_or(machine, |limits| limits.total_memory);
    Ok(machine.min(container) / 4 * 3)
}

/// The settings of the store as they are given.
struct GivenState {
    url: Option<String>,
    options: Option<Vec<String>>,
    snapshot_every: Option<SnapshotEvery>,
    journal_objects: Option<u64>,
    advertise: Option<Advertise>,
    lease: Option<Span>,
    has_certificate: bool,
}

/// Puts the settings of the store together.
fn state_settings(given: GivenState) -> Result<Option<StateSettings>, SettingError> {
    let GivenState { url, options, snapshot_every, journal_objects, advertise, lease, has_certificate } =
        given;
    let Some(url) = url else {
        let given = [
            ("state_option", options.is_some()),
            ("snapshot_every", snapshot_every.is_some()),
            ("journal_objects", journal_objects.is_some()),
            ("advertise", advertise.is_some()),
            ("lease", lease.is_some()),
        ];
        return match given.into_iter().find(|(_, given)| *given) {
            Some((name, _)) => Err(SettingError::new(name, "must not be set without state")),
            None => Ok(None),
        };
    };
    let lease = lease_of(advertise.as_ref(), lease, has_certificate)?;
    if url.is_empty() {
        return Err(SettingError::new("state", "must not be empty: leave it out to have none"));
    }
    let pair = |option: String| match option.split_once('=') {
        Some((key, value)) => Ok((key.to_owned(), value.to_owned())),
        // Its text may be a secret.
        None => Err(SettingError::new("state_option", "must be KEY=VALUE, and one has no `=`")),
    };
    let fold_after = journal_objects.unwrap_or(JOURNAL_OBJECTS);
    // What says that it was folded is an object as well.
    if fold_after < 2 {
        let rule = format!("must be at least 2, found {fold_after}");
        return Err(SettingError::new("journal_objects", rule));
    }
    let options = options.into_iter().flatten().map(pair).collect::<Result<_, _>>()?;
    let snapshot_every = snapshot_every.unwrap_or_default();
    Ok(Some(StateSettings { url, options, snapshot_every, fold_after, advertise, lease }))
}

/// The lease of a server that is reached at an address of its own.
fn lease_of(
    advertise: Option<&Advertise>,
    lease: Option<Span>,
    has_certificate: bool,
) -> Result<Duration, SettingError> {
    if let Some(address) = advertise.filter(|address| !address.is_unix())
        && address.is_tls() != has_certificate
    {
        let rule = format!("must begin with https:// where tls_cert is set, and only there, found {address}");
        return Err(SettingError::new("advertise", rule));
    }
    let Some(Span(lease)) = lease else { return Ok(LEASE) };
    if advertise.is_none() {
        return Err(SettingError::new("lease", "must not be set without advertise"));
    }
    if !(LEAST_LEASE..=MAX_LEASE).contains(&lease) {
        return Err(SettingError::new("lease", format!("must be from 500ms to 5m, found {lease:?}")));
    }
    Ok(lease)
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
    fn a_setting_that_breaks_its_rule_is_named() {
        for (text, name) in [
            ("max_sessions = 0", "max_sessions"),
            ("threads = 0", "threads"),
            ("max_connections = 0", "max_connections"),
            ("http2_frame_bytes = 5", "http2_frame_bytes"),
            ("max_message_bytes = 1", "max_message_bytes"),
            ("max_metadata_bytes = \"1MiB\"", "max_metadata_bytes"),
            ("idle_timeout = \"0s\"", "idle_timeout"),
            ("delete_unnamed_after = \"0s\"", "delete_unnamed_after"),
            ("noise_ledger = \"\"", "noise_ledger"),
            ("log = \"nonsense\"", "log"),
            ("listen = \"0.0.0.0:7467\"", "listen"),
            ("listen = \"[::]:0\"\ninsecure = false", "listen"),
            ("tls_cert = \"a.pem\"", "tls_cert"),
            ("tls_key = \"a.pem\"", "tls_key"),
            ("tls_client_ca = \"a.pem\"", "tls_client_ca"),
            ("advertise = \"http://10.0.0.7:7467\"", "advertise"),
            ("state = \"s\"\nadvertise = \"https://10.0.0.7:7467\"", "advertise"),
            ("state = \"s\"\nlease = \"5s\"", "lease"),
            ("state = \"s\"\nadvertise = \"http://10.0.0.7:7467\"\nlease = \"1ms\"", "lease"),
        ] {
            let error = Config::new(file(text)).unwrap_err();
            let sources = Sources::default().with_file(Path::new("/a.toml"), &file(text));
            let told = format!("{:#}", sources.name_in(error));
            assert!(told.starts_with(&format!("{name}: ")) && told.ends_with("(set in /a.toml)"), "{told}");
        }
        assert!(
            toml::from_str::<Options>("max_session = 1").unwrap_err().to_string().contains("max_session")
        );
        assert!(toml::from_str::<Options>("drain_timeout = \"-1s\"").is_err());
        assert!(toml::from_str::<Options>("listen = \"nowhere\"").is_err());
    }

    #[test]
    fn an_address_that_others_reach_wants_a_certificate_or_a_word() {
        let tls = "tls_cert = \"a.pem\"\ntls_key = \"a.key\"";
        for text in [
            "listen = \"0.0.0.0:7467\"\ninsecure = true",
            &format!("listen = \"0.0.0.0:7467\"\n{tls}"),
            "listen = \"127.9.9.9:7467\"",
            "listen = \"[::1]:7467\"",
            "listen = \"[::ffff:127.0.0.1]:7467\"",
            "listen = \"unix:///run/noised.sock\"",
        ] {
            Config::new(file(text)).unwrap();
        }
        let refused = Config::new(file("listen = \"192.0.2.1:7467\"")).unwrap_err().to_string();
        assert!(refused.contains("found 192.0.2.1:7467") && refused.contains("tls_cert"), "{refused}");
    }

    #[test]
    fn the_default_leaves_memory_to_others() {
        let bytes = default_session_bytes().unwrap();
        let mut system = System::new().unwrap();
        system.refresh_memory();
        assert!(bytes > 0 && bytes < system.total_memory());
    }
}
