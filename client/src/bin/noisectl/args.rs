//! Arguments that several commands take.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use noised::{DType, MatrixSpec, Precision, Shard, Tree};
use noised_client::{Client, ClientBuilder, RetryPolicy, tree_file};

use crate::failure::{Failure, say};
use crate::output::Format;

/// Which matrix.
#[derive(Debug, Args)]
pub(crate) struct MatrixArg {
    /// The matrix: JSON such as '{"kind":"prefix_sum"}', @FILE with it, or @- for stdin.
    #[arg(long, value_name = "JSON|@FILE")]
    matrix: String,
}

impl MatrixArg {
    pub(crate) fn read(&self) -> Result<MatrixSpec, Failure> {
        read_matrix(&self.matrix)
    }

    /// For a question about `n` steps.
    pub(crate) fn read_for(&self, n: u64) -> Result<MatrixSpec, Failure> {
        Ok(MatrixSpec::from_json_for(&text_or_file("matrix", &self.matrix)?, n)?)
    }
}

/// A matrix from JSON, or from a file that is named with `@`.
pub(crate) fn read_matrix(text: &str) -> Result<MatrixSpec, Failure> {
    Ok(MatrixSpec::from_json(&text_or_file("matrix", text)?)?)
}

/// The text itself, or that of the file that it names with `@`.
pub(crate) fn text_or_file(field: &str, text: &str) -> Result<String, Failure> {
    match text.strip_prefix('@') {
        None => Ok(text.to_owned()),
        Some("-") => {
            let mut read = String::new();
            std::io::stdin().read_to_string(&mut read).map_err(|e| Failure::usage(field, e))?;
            Ok(read)
        }
        Some(path) => std::fs::read_to_string(path).map_err(|e| unreadable(field, Path::new(path), &e)),
    }
}

/// A file that was named cannot be read.
pub(crate) fn unreadable(field: &str, path: &Path, error: &std::io::Error) -> Failure {
    Failure::usage(field, format_args!("{}: {error}", path.display()))
}

/// How the answer is printed.
#[derive(Debug, Args)]
pub(crate) struct FormatArg {
    /// A table for people, or JSON with every digit for programs.
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub(crate) format: Format,
}

/// Where a question is answered.
#[derive(Debug, Args)]
pub(crate) struct Place {
    /// Compute in this process, whether or not there is a server.
    #[arg(long)]
    pub(crate) local: bool,
    #[command(flatten)]
    server: ServerArg,
}

impl Place {
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
    /// The server: http://HOST:PORT, HOST:PORT or unix:///PATH.
    #[arg(long, value_name = "URL", env = "NOISED_SERVER", default_value = "http://127.0.0.1:7467")]
    server: String,
    /// How long a server that cannot be reached is tried again, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 5)]
    retry: u64,
}

impl ServerArg {
    pub(crate) async fn client(&self) -> Result<Client, Failure> {
        Ok(self.builder()?.connect().await?)
    }

    /// A client's settings, for a command that has more to set.
    pub(crate) fn builder(&self) -> Result<ClientBuilder, Failure> {
        let retry = RetryPolicy { max_elapsed: Duration::from_secs(self.retry), ..RetryPolicy::default() };
        Ok(ClientBuilder::new(&self.server)?.retry(retry))
    }

    /// The server, as it was named.
    pub(crate) fn name(&self) -> &str {
        &self.server
    }
}

/// Which tree, where a command can do without.
#[derive(Debug, Args)]
pub(crate) struct TreeArg {
    /// The tree: a .safetensors file, whose header alone is read, or JSON: {"leaves":[{"path","dtype","shape"}]}.
    #[arg(long, value_name = "FILE", conflicts_with = "lanes")]
    tree: Option<PathBuf>,
    /// A tree of one leaf with so many lanes.
    #[arg(long, value_name = "N")]
    lanes: Option<u64>,
    /// The format of these lanes: f32, f64, bf16 or f16.
    #[arg(long, default_value_t = DType::F32, conflicts_with = "tree")]
    dtype: DType,
}

impl TreeArg {
    pub(crate) fn read(&self) -> Result<Option<Tree>, Failure> {
        match (&self.tree, self.lanes) {
            (Some(path), _) => {
                let tree_file::TreeFile { tree, skipped } = tree_file::read(path)?;
                for (name, dtype) in skipped {
                    say(&format!(
                        "note: {}: `{name}` is {dtype}, which is no float: skipped",
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
    fn shards() {
        assert_eq!(parse_shard("1/4"), Ok(Shard::new(1, 4)));
        for text in ["", "1", "1/", "/4", "a/b", "-1/4", "1/4/2"] {
            assert!(parse_shard(text).is_err(), "{text}");
        }
    }
}
