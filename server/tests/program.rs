//! The program `noised` as a person or a container runs it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic here is a failed test")]

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

fn noised() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_noised"));
    command.env_clear().stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn outcome(command: &mut Command) -> (Option<i32>, String) {
    let Output { status, stderr, .. } = command.output().unwrap();
    (status.code(), String::from_utf8(stderr).unwrap())
}

/// A server that is up, ended by its own signal or killed with the test.
struct Server {
    child: Child,
    log: BufReader<std::process::ChildStderr>,
}

impl Server {
    fn start(command: &mut Command) -> Self {
        let mut child = command.spawn().unwrap();
        let log = BufReader::new(child.stderr.take().unwrap());
        let mut server = Self { child, log };
        server.line_with("serving");
        server
    }

    /// Reads the log up to a line that has `text`.
    fn line_with(&mut self, text: &str) -> String {
        loop {
            let mut line = String::new();
            assert!(self.log.read_line(&mut line).unwrap() > 0, "the server ended before it logged `{text}`");
            if line.contains(text) {
                return line;
            }
        }
    }

    fn signal(&self, name: &str) {
        let sent = Command::new("kill").args(["-s", name, &self.child.id().to_string()]).status();
        assert!(sent.unwrap().success());
    }

    fn exit_status(&mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It has ended already, unless a test failed.
        let _ended = self.child.kill();
    }
}

fn health(address: &str) -> Option<i32> {
    outcome(noised().args(["health", "--listen", address])).0
}

fn socket(directory: &Path) -> String {
    format!("unix://{}", directory.join("noised.sock").display())
}

#[test]
fn bad_usage_is_one_line_and_status_2() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "max_sesions = 3\n").unwrap();
    let path = file.path().to_str().unwrap();
    for (arguments, named) in [
        (vec!["serve", "--no-such-flag"], "--no-such-flag"),
        (vec!["serve", "--max-sessions", "many"], "--max-sessions"),
        (vec!["serve", "--max-sessions", "0"], "max_sessions"),
        (vec!["serve", "--listen", "nowhere"], "nowhere"),
        (vec!["serve", "--log", "a=b=c"], "log"),
        (vec!["serve", "--drain-timeout", "20"], "20s"),
        (vec!["serve", "--config", path], "max_sesions"),
        (vec!["serve", "--config", "/no/such/file"], "/no/such/file"),
        (vec!["fly"], "fly"),
    ] {
        let (status, text) = outcome(noised().args(&arguments));
        assert_eq!((status, text.lines().count()), (Some(2), 1), "{arguments:?}: {text}");
        assert!(text.starts_with("noised: ") && text.contains(named), "{arguments:?}: {text}");
    }
}

#[test]
fn without_a_command_it_says_which_there_are() {
    let (status, text) = outcome(&mut noised());
    assert_eq!(status, Some(2));
    assert!(text.contains("serve") && text.contains("health"), "{text}");
}

#[test]
fn it_tells_its_version() {
    let Output { status, stdout, .. } = noised().arg("--version").output().unwrap();
    assert!(status.success());
    assert!(String::from_utf8(stdout).unwrap().starts_with("noised "));
}

#[test]
fn it_serves_until_it_is_told_to_stop() {
    for signal in ["TERM", "INT"] {
        let directory = tempfile::tempdir().unwrap();
        let address = socket(directory.path());
        assert_eq!(health(&address), Some(1));
        let mut server = Server::start(noised().args(["serve", "--listen", &address]));
        assert_eq!(health(&address), Some(0));
        server.signal(signal);
        server.line_with("drained");
        assert_eq!(server.exit_status(), Some(0));
        assert_eq!(health(&address), Some(1));
        assert!(!directory.path().join("noised.sock").exists());
    }
}

#[test]
fn a_socket_that_nobody_listens_at_is_replaced_and_one_in_use_is_not() {
    let directory = tempfile::tempdir().unwrap();
    let address = socket(directory.path());
    let mut killed = Server::start(noised().args(["serve", "--listen", &address]));
    killed.signal("KILL");
    killed.exit_status();
    assert!(directory.path().join("noised.sock").exists());

    let _server = Server::start(noised().args(["serve", "--listen", &address]));
    let (status, text) = outcome(noised().args(["serve", "--listen", &address]));
    assert_eq!(status, Some(1));
    assert!(text.contains("cannot listen"), "{text}");
    assert_eq!(health(&address), Some(0));
}

#[test]
fn a_flag_wins_over_the_environment_and_that_over_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("noised.toml");
    std::fs::write(&file, "threads = 5\nmax_session_bytes = \"3MiB\"\nlog_format = \"json\"\n").unwrap();
    let started = |set_up: &dyn Fn(&mut Command)| {
        let mut command = noised();
        command.args(["serve", "--listen", &socket(directory.path())]).env("NOISED_CONFIG", &file);
        set_up(&mut command);
        let mut server = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(server.stderr.take().unwrap()).read_line(&mut line).unwrap();
        server.kill().unwrap();
        server.wait().unwrap();
        line
    };
    let line = started(&|_| ());
    assert!(line.contains("\"threads\":5") && line.contains("\"max_session_bytes\":3145728"), "{line}");
    let line = started(&|command| _ = command.env("NOISED_THREADS", "3"));
    assert!(line.contains("\"threads\":3") && line.contains("\"max_session_bytes\":3145728"), "{line}");
    let line = started(&|command| _ = command.env("NOISED_THREADS", "3").args(["--threads", "2"]));
    assert!(line.contains("\"threads\":2"), "{line}");
}

#[test]
fn the_container_s_settings_are_valid() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/noised.toml");
    let directory = tempfile::tempdir().unwrap();
    let mut server =
        Server::start(noised().args(["serve", "--config", file, "--listen", &socket(directory.path())]));
    server.signal("TERM");
    assert_eq!(server.exit_status(), Some(0));
}
