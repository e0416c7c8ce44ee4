//! Arguments that several commands take.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use noised::{DType, MatrixSpec, Precision, Shard, Tree};
use noised_client::{Client, ClientBuilder, Credential, RetryPolicy, Tls, tree_file};
use zeroize::Zeroizing;

use crate::failure::{Failure, say};
use crate::files::Files;
use crate::output::Format;

/// The server that is asked where none is named.
const DEFAULT_SERVER: &str = "http://127.0.0.1:7467";

/// Holds the token itself. The token cannot be an argument: every user of a machine can list the arguments of
/// its processes.
const TOKEN_VARIABLE: &str = "NOISED_TOKEN";

/// Which matrix.
#[derive(Debug, Args)]
pub(crate) struct MatrixArg {
    /// The matrix: JSON such as '{"kind":"prefix_sum"}', @FILE with it, or @- for stdin.
    #[arg(long, value_name = "JSON|@FILE")]
    matrix: String,
}

impl MatrixArg {
    pub(crate) fn read(&self, files: &Files) -> Result<MatrixSpec, Failure> {
        read_matrix(files, &self.matrix)
    }

    /// For a question about `n` steps.
    pub(crate) fn read_for(&self, files: &Files, n: u64) -> Result<MatrixSpec, Failure> {
        Ok(MatrixSpec::from_json_for(&files.text("matrix", &self.matrix)?, n)?)
    }
}

/// A matrix from JSON, or from a file that is named with `@`.
pub(crate) fn read_matrix(files: &Files, text: &str) -> Result<MatrixSpec, Failure> {
    Ok(MatrixSpec::from_json(&files.text("matrix", text)?)?)
}

/// A count of which there is at least one.
pub(crate) fn at_least_one(field: &str, count: Option<u64>) -> Result<(), Failure> {
    match count {
        Some(0) => Err(Failure::usage(field, "must be at least 1, found 0")),
        _ => Ok(()),
    }
}

/// A length of time such as `500ms`, `10s` or `2m`.
pub(crate) fn parse_time(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .map_err(|_| "must be a length of time such as 500ms, 10s or 2m".to_owned())
}

/// The same, where a number alone is seconds.
fn parse_seconds_or_time(text: &str) -> Result<Duration, String> {
    text.parse().map(Duration::from_secs).or_else(|_| parse_time(text))
}

/// How the answer is printed.
#[derive(Debug, Args)]
pub(crate) struct FormatArg {
    /// A table for people, or JSON with every digit for programs.
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub(crate) format: Format,
}

/// Where a question that needs no session is answered: in this process, unless a server is named.
#[derive(Debug, Args)]
pub(crate) struct Place {
    /// Compute in this process, as it is done unless a server is named. This goes before --server and
    /// NOISED_SERVER.
    #[arg(long)]
    local: bool,
    /// Ask this server: http://HOST:PORT, https://HOST:PORT, HOST:PORT or unix:///PATH.
    #[arg(long, value_name = "URL", env = "NOISED_SERVER")]
    server: Option<String>,
    #[command(flatten)]
    retry: RetryArg,
}

impl Place {
    /// A client of the server, or `None` for this process.
    pub(crate) async fn client(&self) -> Result<Option<Client>, Failure> {
        let Some(server) = named(self.server.as_deref()).filter(|_| !self.local) else { return Ok(None) };
        let connected = self.retry.builder(server)?.connect().await;
        let hint = |failure: Failure| failure.with("with --local no server is asked");
        connected.map(Some).map_err(|error| match error {
            noised_client::Error::Unavailable { .. } => hint(error.into()),
            other => other.into(),
        })
    }
}

/// Where a session is: on a server, unless it is to be in this process.
#[derive(Debug, Args)]
pub(crate) struct SessionPlace {
    /// Compute in this process, whether or not there is a server.
    #[arg(long)]
    local: bool,
    #[command(flatten)]
    server: ServerArg,
}

impl SessionPlace {
    pub(crate) fn is_local(&self) -> bool {
        self.local
    }

    /// A client of the server, or `None` for this process.
    pub(crate) async fn client(&self) -> Result<Option<Client>, Failure> {
        if self.local {
            return Ok(None);
        }
        self.server.client().await.map(Some)
    }
}

/// Which server.
#[derive(Debug, Args)]
pub(crate) struct ServerArg {
    /// The server: http://HOST:PORT, https://HOST:PORT, HOST:PORT or unix:///PATH; or servers that share a
    /// store: http://A:PORT,http://B:PORT, or dns:///NAME:PORT for all addresses of a name. Unless given,
    /// http://127.0.0.1:7467.
    #[arg(long, value_name = "URL", env = "NOISED_SERVER")]
    server: Option<String>,
    #[command(flatten)]
    retry: RetryArg,
}

impl ServerArg {
    pub(crate) async fn client(&self) -> Result<Client, Failure> {
        Ok(self.builder()?.connect().await?)
    }

    /// A client's settings, for a command that has more to set.
    pub(crate) fn builder(&self) -> Result<ClientBuilder, Failure> {
        self.retry.builder(self.name())
    }

    /// The server, as it was named.
    pub(crate) fn name(&self) -> &str {
        named(self.server.as_deref()).unwrap_or(DEFAULT_SERVER)
    }
}

/// A variable that is empty is not set.
fn named(server: Option<&str>) -> Option<&str> {
    server.filter(|server| !server.is_empty())
}

/// How long a server is tried.
#[derive(Debug, Args)]
struct RetryArg {
    /// How long a server that cannot be reached is tried again, such as 500ms, 10s or 2m; a number alone is
    /// seconds.
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = parse_seconds_or_time)]
    retry: Duration,
    #[command(flatten)]
    tls: TlsArg,
    #[command(flatten)]
    token: TokenArg,
}

impl RetryArg {
    fn builder(&self, server: &str) -> Result<ClientBuilder, Failure> {
        let retry = RetryPolicy { max_elapsed: self.retry, ..RetryPolicy::default() };
        self.token.give_to(self.tls.give_to(ClientBuilder::new(server)?.retry(retry)))
    }
}

/// How TLS is spoken with a server at https://HOST:PORT.
#[derive(Debug, Args)]
struct TlsArg {
    /// With https://: the authorities whose certificates the server may have, in PEM.
    #[arg(long, value_name = "FILE", env = "NOISED_TLS_CA")]
    tls_ca: Option<PathBuf>,
    /// With https://: the certificate that is shown to the server, in PEM.
    #[arg(long, value_name = "FILE", env = "NOISED_CLIENT_TLS_CERT")]
    tls_cert: Option<PathBuf>,
    /// With https://: the private key of --tls-cert, in PEM.
    #[arg(long, value_name = "FILE", env = "NOISED_CLIENT_TLS_KEY")]
    tls_key: Option<PathBuf>,
    /// With https://: the name that the server's certificate must have, where it is not the host of the URL.
    #[arg(long, value_name = "NAME", env = "NOISED_TLS_SERVER_NAME")]
    tls_server_name: Option<String>,
}

impl TlsArg {
    /// The same settings may be in the environment of commands for servers that speak no TLS.
    fn give_to(&self, builder: ClientBuilder) -> ClientBuilder {
        if !builder.speaks_tls() {
            return builder;
        }
        let path = |path: &Option<PathBuf>| path.clone().filter(|path| !path.as_os_str().is_empty());
        builder.tls(Tls {
            ca: path(&self.tls_ca),
            cert: path(&self.tls_cert),
            key: path(&self.tls_key),
            server_name: self.tls_server_name.clone().filter(|name| !name.is_empty()),
        })
    }
}

/// By which token the server knows the caller.
#[derive(Debug, Args)]
struct TokenArg {
    /// A file with the token by which the server knows the caller. The environment variable NOISED_TOKEN
    /// may hold the token instead.
    #[arg(long, value_name = "FILE", env = "NOISED_TOKEN_FILE")]
    token_file: Option<PathBuf>,
    /// Let the token cross a network without TLS, where others can read it.
    #[arg(long)]
    insecure: bool,
}

impl TokenArg {
    fn give_to(&self, builder: ClientBuilder) -> Result<ClientBuilder, Failure> {
        let builder = builder.insecure(self.insecure);
        if let Some(path) = self.token_file.clone().filter(|path| !path.as_os_str().is_empty()) {
            return Ok(builder.token(Credential::File(path)));
        }
        let text = std::env::var_os(TOKEN_VARIABLE).unwrap_or_default().into_encoded_bytes();
        let text = Zeroizing::new(text);
        if text.is_empty() {
            return Ok(builder);
        }
        let rule = || Failure::usage(TOKEN_VARIABLE, "must be a token, found something else");
        let credential = Credential::from_text(std::str::from_utf8(&text).map_err(|_| rule())?);
        Ok(builder.token(credential.map_err(|_| rule())?))
    }
}

/// Which tree, where a command can do without.
#[derive(Debug, Args)]
pub(crate) struct TreeArg {
    /// The tree: a .safetensors file, whose header alone is read; the .safetensors.index.json of a model in
    /// several of these; or JSON: {"leaves":[{"path","dtype","shape"}]}.
    #[arg(long, value_name = "FILE", conflicts_with = "lanes")]
    tree: Option<PathBuf>,
    /// Leave this tensor out of the tree: it takes no noise. May be given several times. Tensors of integers
    /// and truth values, which have no gradient, are left out with a note; a tensor of another format than
    /// f32, f64, bf16 and f16, such as F8, must be left out by name.
    #[arg(long, value_name = "NAME", requires = "tree", conflicts_with = "lanes")]
    skip: Vec<String>,
    /// A tree of one leaf with so many lanes.
    #[arg(long, value_name = "N")]
    lanes: Option<u64>,
    /// The format of these lanes: f32, f64, bf16 or f16.
    #[arg(long, default_value_t = DType::F32, conflicts_with = "tree")]
    dtype: DType,
}

impl TreeArg {
    pub(crate) fn read(&self, files: &Files) -> Result<Option<Tree>, Failure> {
        match (&self.tree, self.lanes) {
            (Some(path), _) => {
                let tree_file::TreeFile { tree, integers, files: read } = tree_file::read(path, &self.skip)?;
                read.iter().try_for_each(|path| files.input("tree", path))?;
                for (name, dtype) in integers {
                    let name = name.escape_debug();
                    say(&format!(
                        "note: {}: `{name}` is {dtype}, which has no gradient: skipped",
                        path.display()
                    ));
                }
                Ok(Some(tree))
            }
            (None, Some(lanes)) => Ok(Some(Tree::flat(lanes, self.dtype)?)),
            (None, None) => Ok(None),
        }
    }
}

/// Which part of the tree, and in what format its state is kept.
#[derive(Debug, Args)]
pub(crate) struct StateArgs {
    /// Hold shard I of K, with I from 0.
    #[arg(long, value_name = "I/K", value_parser = parse_shard)]
    shard: Option<Shard>,
    /// The format of state and arithmetic, f32 or f64. Unless given, f64 where any leaf is, else f32.
    #[arg(long)]
    pub(crate) precision: Option<Precision>,
}

impl StateArgs {
    pub(crate) fn shard(&self) -> Shard {
        self.shard.unwrap_or(Shard::WHOLE)
    }
}

fn parse_shard(text: &str) -> Result<Shard, String> {
    let parsed = text
        .split_once('/')
        .and_then(|(index, count)| Some(Shard::new(index.parse().ok()?, count.parse().ok()?)));
    parsed.ok_or_else(|| "must be I/K, such as 0/4".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        let cases =
            [("0", 0), ("5", 5000), ("500ms", 500), ("10s", 10_000), ("2m", 120_000), ("1h 30s", 3_630_000)];
        for (text, milliseconds) in cases {
            assert_eq!(parse_seconds_or_time(text), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
        for text in ["", "-1", "1.5", "fast", "5x", "99999999999999999999"] {
            assert!(parse_seconds_or_time(text).is_err(), "{text}");
        }
        assert!(parse_time("10").is_err());
    }

    #[test]
    fn shards() {
        assert_eq!(parse_shard("1/4"), Ok(Shard::new(1, 4)));
        for text in ["", "1", "1/", "/4", "a/b", "-1/4", "1/4/2"] {
            assert!(parse_shard(text).is_err(), "{text}");
        }
    }
}
