//! `noisectl` as its users meet it: what it prints and how it ends, without a server.
//!
//! | room | what is in it |
//! |---|---|
//! | `matrix` | matrices written out, their row norms and their products |
//! | `trees` | trees from files, and what `describe` tells of them |
//! | `session` | `session run --local`: answers, noise of a key, shards, gradients, and what is refused |
//! | `noise` | `noise check` and `noise verify` |
//! | `token` | tokens that are made, and where a token may go |
//! | `usage` | what is refused and how, and what needs no server |
//! | `terminal` | help, tables and colours |
//! | `files` | files that are read and written: none is lost, none is half there |
//! | `interrupt` | Ctrl-C and SIGTERM |
//! | `documents` | the figures of the documents |
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is a failed test")]

mod documents;
mod files;
mod interrupt;
mod matrix;
mod noise;
mod session;
mod terminal;
mod token;
mod trees;
mod usage;

use std::process::{Command, Output, Stdio};

use serde_json::Value;

const PREFIX_SUM: &str = r#"{"kind":"prefix_sum"}"#;

fn noisectl(args: &[&str]) -> Output {
    command(args).output().unwrap()
}

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_noisectl"));
    command.args(args).stdin(Stdio::null());
    for variable in [
        "NOISED_SERVER",
        "NOISED_TOKEN",
        "NOISED_TOKEN_FILE",
        "NOISED_NOISE_KEY_HEX",
        "COLUMNS",
        "CLICOLOR_FORCE",
    ] {
        command.env_remove(variable);
    }
    command
}

/// What a command that succeeds prints.
fn stdout(args: &[&str]) -> String {
    let output = noisectl(args);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{args:?}: {stderr}");
    String::from_utf8(output.stdout).unwrap()
}

fn json(args: &[&str]) -> Value {
    serde_json::from_str(&stdout(args)).unwrap()
}

/// The one line that a command that fails says.
fn failure(args: &[&str], status: i32) -> String {
    let output = noisectl(args);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(status), "{args:?}: {stderr}");
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "", "{args:?}");
    assert_eq!(stderr.lines().count(), 1, "{args:?}: {stderr}");
    let line = stderr.strip_prefix("noisectl: ").unwrap_or_else(|| panic!("{args:?}: {stderr}"));
    line.trim_end().to_owned()
}

/// Key and matrix of noise that is drawn in process.
const KEY: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

const BANDED: &str = r#"{"kind":"toeplitz","coef":[1,-0.5,0.25]}"#;
