//! The programs of this workspace, for tests that start them.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// A program of this workspace, built as this test is. Cargo builds programs for the tests of their own
/// package only.
pub fn program(name: &str) -> Command {
    static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();
    let directory = DIRECTORY.get_or_init(|| {
        let test = std::env::current_exe().unwrap();
        let directory = test.parent().unwrap().parent().unwrap();
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "--quiet", "--bin", "noised", "--bin", "noisectl", "--example", "stream_model"]);
        build.arg("--target-dir").arg(directory.parent().unwrap());
        if directory.ends_with("release") {
            build.arg("--release");
        }
        // What cargo tells this test about its package is none of the build's: a build script that reads the
        // same variables would run again, and all that depends on it be compiled again, each time.
        let of_package = |key: &str| key.starts_with("CARGO_PKG_") || key.starts_with("CARGO_MANIFEST_");
        for (key, _) in std::env::vars_os().filter(|(key, _)| of_package(&key.to_string_lossy())) {
            build.env_remove(key);
        }
        build.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap());
        assert!(build.status().unwrap().success());
        directory.to_owned()
    });
    let mut command = Command::new(directory.join(name));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    for (key, _) in std::env::vars_os().filter(|(key, _)| key.to_string_lossy().starts_with("NOISED_")) {
        command.env_remove(key);
    }
    command
}
