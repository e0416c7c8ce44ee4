//! Settings as they are given: by flags, by the environment, and by a file.

use std::path::{Path, PathBuf};

use anyhow::Context;
use bytesize::ByteSize;
use clap::{Args, ValueEnum};
use serde::Deserialize;

use super::advertise::Advertise;
use super::sources::Sources;
use super::span::Span;
use super::state::SnapshotEvery;
use crate::listen::ListenAddr;

/// Settings as they are given. Each is a flag, an environment variable `NOISED_...` and a key of the file; a
/// flag wins over the environment, and the environment over the file. An environment variable that is empty
/// is one that is not set.
#[derive(Args, Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Options {
    /// Where to listen: host:port, or unix:///path [default: 127.0.0.1:7467]
    #[arg(long, env = "NOISED_LISTEN", value_name = "ADDRESS")]
    pub listen: Option<ListenAddr>,
    /// The server's certificate and those that lead to its authority, in PEM. With it and tls_key the server
    /// speaks TLS 1.3; the files are read again when they change, and at SIGHUP
    #[arg(long, env = "NOISED_TLS_CERT", value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,
    /// The private key of tls_cert, in PEM. The file must be for its owner alone
    #[arg(long, env = "NOISED_TLS_KEY", value_name = "FILE")]
    pub tls_key: Option<PathBuf>,
    /// Authorities, in PEM: clients must show a certificate of one of them [default: clients need none]
    #[arg(long, env = "NOISED_TLS_CLIENT_CA", value_name = "FILE")]
    pub tls_client_ca: Option<PathBuf>,
    /// A file that says who may call the server: the hashes of tokens and the names in clients'
    /// certificates, with a tenant, a role and rights for each. It is read again when it changes, and at
    /// SIGHUP [default: none, everybody who reaches the server may do everything]
    #[arg(long, env = "NOISED_TOKENS_FILE", value_name = "FILE")]
    pub tokens_file: Option<PathBuf>,
    /// Where it is noted who makes, deletes and rewinds sessions, and who is refused: a file, which is
    /// added to, or - for the standard output; one JSON object a line [default: none]
    #[arg(long, env = "NOISED_AUDIT_LOG", value_name = "FILE|-")]
    pub audit_log: Option<PathBuf>,
    /// Listen without a certificate at an address that other machines reach. Without
    /// tokens_file, everybody who reaches it has all sessions; with it, tokens cross the network in clear
    /// [default: false]
    #[arg(
        long,
        env = "NOISED_INSECURE",
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true"
    )]
    pub insecure: Option<bool>,
    /// Sessions that there may be at once [default: 10000]
    #[arg(long, env = "NOISED_MAX_SESSIONS", value_name = "COUNT")]
    pub max_sessions: Option<usize>,
    /// Memory for sessions, such as 12GiB [default: three quarters of what the machine or container has]
    #[arg(long, env = "NOISED_MAX_SESSION_BYTES", value_name = "BYTES")]
    pub max_session_bytes: Option<ByteSize>,
    /// States that a session may be asked to keep [default: 4]
    #[arg(long, env = "NOISED_MAX_KEPT_STATES", value_name = "COUNT")]
    pub max_kept_states: Option<usize>,
    /// A file with the master key, from which the noise of a noise_id is derived: 32 bytes, or 64 hexadecimal
    /// digits. The environment variable NOISED_MASTER_KEY may hold the digits instead
    #[arg(long, env = "NOISED_MASTER_KEY_FILE", value_name = "FILE")]
    pub master_key_file: Option<PathBuf>,
    /// A file that remembers which noises were drawn, over restarts [default: none, only this run remembers]
    #[arg(long, env = "NOISED_NOISE_LEDGER", value_name = "FILE")]
    pub noise_ledger: Option<PathBuf>,
    /// Where sessions are kept, so that they outlive the server: a directory, or an object store such as
    /// s3://bucket/prefix [default: none, sessions end with the server]
    #[arg(long, env = "NOISED_STATE", value_name = "URL")]
    pub state: Option<String>,
    /// What the object store needs to be told, such as endpoint=http://127.0.0.1:9000; may be repeated
    #[arg(long, env = "NOISED_STATE_OPTION", value_name = "KEY=VALUE", value_delimiter = ',')]
    pub state_option: Option<Vec<String>>,
    /// How often the state of a session is stored: every so many steps, such as 1, or at most so often, such
    /// as 10s. What came after the last state is sent or computed again after a crash [default: 10s]
    #[arg(long, env = "NOISED_SNAPSHOT_EVERY", value_name = "STEPS|DURATION")]
    pub snapshot_every: Option<SnapshotEvery>,
    /// Objects of the server's journal in the store after which what they say is put into the sessions' own,
    /// and they are deleted [default: 4096]
    #[arg(long, env = "NOISED_JOURNAL_OBJECTS", value_name = "COUNT")]
    pub journal_objects: Option<u64>,
    /// Where servers share a store: the address of this server alone by which clients reach it, such as
    /// http://10.0.0.7:7467; port 0 is the port that it listens at. Without it, a server that is asked for a
    /// session of this one takes the session at once [default: none]
    #[arg(long, env = "NOISED_ADVERTISE", value_name = "URL")]
    pub advertise: Option<Advertise>,
    /// With advertise: how long this server may be silent in the store before others take its sessions, 500ms
    /// to 5m [default: 5s]
    #[arg(long, env = "NOISED_LEASE", value_name = "DURATION")]
    pub lease: Option<Span>,
    /// Noises of a noise_id that may be remembered, at 192 bytes of memory each [default: 1048576]
    #[arg(long, env = "NOISED_MAX_NOISES", value_name = "COUNT")]
    pub max_noises: Option<usize>,
    /// The longest message taken or made; longer trees go over a stream [default: 64MiB]
    #[arg(long, env = "NOISED_MAX_MESSAGE_BYTES", value_name = "BYTES")]
    pub max_message_bytes: Option<ByteSize>,
    /// Analysis calls that may run at once [default: 16]
    #[arg(long, env = "NOISED_MAX_ANALYSES", value_name = "COUNT")]
    pub max_analyses: Option<usize>,
    /// Calls that may be open at once on one connection [default: 1024]
    #[arg(long, env = "NOISED_MAX_CALLS_PER_CONNECTION", value_name = "COUNT")]
    pub max_calls_per_connection: Option<u32>,
    /// Connections that may be open at once; further ones are refused [default: 1024, or as many as the limit
    /// on open files leaves]
    #[arg(long, env = "NOISED_MAX_CONNECTIONS", value_name = "COUNT")]
    pub max_connections: Option<usize>,
    /// Metadata that a call may have, each entry's name and value and 32 bytes more [default: 16KiB]
    #[arg(long, env = "NOISED_MAX_METADATA_BYTES", value_name = "BYTES")]
    pub max_metadata_bytes: Option<ByteSize>,
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
    /// How long a peer may take to begin with HTTP/2 [default: 10s]
    #[arg(long, env = "NOISED_HANDSHAKE_TIMEOUT", value_name = "DURATION")]
    pub handshake_timeout: Option<Span>,
    /// How long a connection stays open on which there is no call [default: 1h]
    #[arg(long, env = "NOISED_IDLE_TIMEOUT", value_name = "DURATION")]
    pub idle_timeout: Option<Span>,
    /// How long a request may take for each 64 KiB of it, or for its end [default: 30s]
    #[arg(long, env = "NOISED_BODY_TIMEOUT", value_name = "DURATION")]
    pub body_timeout: Option<Span>,
    /// Time without a use after which a session is deleted whose name the server made up, such as 24h
    /// [default: never]
    #[arg(long, env = "NOISED_DELETE_UNNAMED_AFTER", value_name = "DURATION")]
    pub delete_unnamed_after: Option<Span>,
    /// What is logged: a level, or levels of parts of the program, such as info,noised_server=debug [default:
    /// info]
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

    /// These settings with those of a file beside them, and where each was given.
    ///
    /// # Errors
    /// Those of [`Options::from_file`].
    pub fn with_file(self, path: Option<&Path>, sources: Sources) -> anyhow::Result<(Self, Sources)> {
        let Some(path) = path else {
            return Ok((self, sources));
        };
        let file = Self::from_file(path)?;
        let sources = sources.with_file(path, &file);
        Ok((self.or(file), sources))
    }
}

/// Writes what has to be said of every setting, so that no setting is left out.
macro_rules! for_every_setting {
    ($($name:ident),+ $(,)?) => {
        impl Options {
            /// These settings, and where one is missing that of `other`.
            #[must_use]
            pub fn or(self, other: Self) -> Self {
                Self { $($name: self.$name.or(other.$name)),+ }
            }

            /// The names of the settings that are given.
            pub fn given(&self) -> Vec<&'static str> {
                let mut names = Vec::new();
                $(if self.$name.is_some() { names.push(stringify!($name)); })+
                names
            }

            /// The names of the settings that differ from those of `other`.
            pub fn differing(&self, other: &Self) -> Vec<&'static str> {
                let mut names = Vec::new();
                $(if self.$name != other.$name { names.push(stringify!($name)); })+
                names
            }
        }
    };
}

for_every_setting!(
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
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_told_apart_by_name() {
        let one = Options { threads: Some(3), log: Some("info".into()), ..Options::default() };
        let two = Options { threads: Some(4), max_sessions: Some(1), ..one.clone() };
        assert_eq!(one.given(), ["threads", "log"]);
        assert_eq!(one.differing(&two), ["max_sessions", "threads"]);
        assert_eq!(two.clone().or(one.clone()), two);
        assert_eq!(one.clone().or(two).differing(&one), ["max_sessions"]);
    }
}
