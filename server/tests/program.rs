//! The program `noised` as a person or a container runs it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic here is a failed test")]

use std::io::{BufRead, BufReader, Read};
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
    /// The line that says that it serves, and how.
    serving: String,
}

impl Server {
    fn start(command: &mut Command) -> Self {
        let mut child = command.spawn().unwrap();
        let log = BufReader::new(child.stderr.take().unwrap());
        let mut server = Self { child, log, serving: String::new() };
        server.serving = server.line_with("serving");
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

/// The line that a server logs once it serves.
fn serving(server: &mut Child) -> String {
    let mut lines = BufReader::new(server.stderr.take().unwrap()).lines().map(Result::unwrap);
    lines.find(|line| line.contains("serving")).expect("the server has ended")
}

#[test]
fn bad_usage_is_one_line_and_status_2() {
    for (arguments, named) in [
        (vec!["serve", "--no-such-flag"], "--no-such-flag"),
        (vec!["serve", "--max-sessions", "many"], "--max-sessions"),
        (vec!["serve", "--max-sessions", "0"], "max_sessions"),
        (vec!["serve", "--listen", "nowhere"], "nowhere:7467"),
        (vec!["serve", "--listen", ":7467"], "0.0.0.0:7467"),
        (vec!["serve", "--listen", "0.0.0.0:0"], "set tls_cert, tls_key and tls_client_ca"),
        (vec!["serve", "--log", "nonsense"], "noised_server=debug"),
        (vec!["serve", "--log", "a=b=c"], "log"),
        (vec!["serve", "--drain-timeout", "20"], "20s"),
        (vec!["serve", "--config", "/no/such/file"], "/no/such/file"),
        (vec!["fly"], "fly"),
    ] {
        let (status, text) = outcome(noised().args(&arguments));
        assert_eq!((status, text.lines().count()), (Some(2), 1), "{arguments:?}: {text}");
        assert!(text.starts_with("noised: ") && text.contains(named), "{arguments:?}: {text}");
    }
}

#[test]
fn an_address_that_others_reach_is_served_where_somebody_says_so() {
    for (arguments, variable) in [(&["--insecure"][..], ""), (&[], "true")] {
        let mut command = noised();
        command.args(["serve", "--listen", "0.0.0.0:0"]).args(arguments).env("NOISED_INSECURE", variable);
        let mut child = command.spawn().unwrap();
        let log = BufReader::new(child.stderr.take().unwrap());
        let mut server = Server { child, log, serving: String::new() };
        server.line_with("insecure: whoever reaches the address");
        server.line_with("serving");
        server.signal("TERM");
        assert_eq!(server.exit_status(), Some(0));
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
        let line = serving(&mut server);
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

/// A file's mistake is shown where it is.
#[test]
fn a_mistake_in_the_file_keeps_its_lines() {
    let file = tempfile::NamedTempFile::new().unwrap();
    for (text, line, named) in [
        ("threads = 2\nmax_sesions = 3\n", "2 | max_sesions = 3", "max_sessions"),
        ("threads = \"many\"\n", "1 | threads = \"many\"", "invalid type"),
        ("\n\nlisten = \":7467\"\n", "3 | listen = \":7467\"", "write 127.0.0.1:7467"),
        ("threads = \n", "1 | threads =", "TOML"),
    ] {
        std::fs::write(file.path(), text).unwrap();
        let (status, told) = outcome(noised().args(["serve", "--config"]).arg(file.path()));
        assert_eq!(status, Some(2), "{told}");
        assert!(told.lines().any(|found| found.starts_with(line)), "{text}: {told}");
        assert!(told.contains(named) && told.contains(&*file.path().to_string_lossy()), "{text}: {told}");
    }
}

/// Whoever has to mend a setting is told where it was given.
#[test]
fn a_mistake_names_where_the_setting_was_given() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "max_sessions = 0\n").unwrap();
    let in_file = format!("(set in {})", file.path().display());
    let config = ["serve", "--config", file.path().to_str().unwrap()];
    for (arguments, variable, told_of) in [
        (&config[..], None, in_file.as_str()),
        (&["serve", "--max-sessions", "0"], None, "(set by the flag --max-sessions)"),
        (&["serve"], Some(("NOISED_MAX_SESSIONS", "0")), "environment variable NOISED_MAX_SESSIONS)"),
        (&["serve"], Some(("NOISED_MAX_SESSIONS", "many")), "environment variable NOISED_MAX_SESSIONS)"),
        (&["serve"], Some(("NOISED_LISTEN", ":7467")), "environment variable NOISED_LISTEN)"),
        (&["serve"], Some(("NOISED_LOG", "nonsense")), "environment variable NOISED_LOG)"),
        (&["health"], Some(("NOISED_LISTEN", "7467")), "environment variable NOISED_LISTEN)"),
    ] {
        let (status, told) = outcome(noised().args(arguments).envs(variable));
        assert_eq!(status, Some(2), "{told}");
        assert!(told.trim_end().ends_with(told_of), "{arguments:?} {variable:?}: {told}");
    }
    // A flag is at fault for itself, whatever the environment has.
    let (_, told) = outcome(noised().args(["serve", "--threads", "x"]).env("NOISED_THREADS", "2"));
    assert!(told.contains("--threads") && !told.contains("NOISED_THREADS"), "{told}");
}

/// The environment variables of every setting, as the help tells them.
fn variables() -> Vec<String> {
    let Output { stdout, .. } = noised().args(["serve", "--help"]).output().unwrap();
    let help = String::from_utf8(stdout).unwrap();
    let variables: Vec<_> =
        help.split("[env: ").skip(1).map(|rest| rest.split('=').next().unwrap().to_owned()).collect();
    assert!(
        variables.len() > 20 && variables.contains(&"NOISED_MASTER_KEY_FILE".to_owned()),
        "{variables:?}"
    );
    variables
}

/// The page for operators has a row for every setting.
#[test]
fn every_setting_is_documented() {
    let page = include_str!("../../docs/operating.md");
    for variable in variables().iter().filter(|variable| *variable != "NOISED_CONFIG") {
        let setting = variable.trim_start_matches("NOISED_").to_lowercase();
        assert!(page.contains(&format!("\n| `{setting}` | ")), "{setting}");
    }
}

/// An empty environment variable is one that is not set, for every setting.
#[test]
fn an_empty_variable_is_not_set() {
    let variables = variables();
    let empty = |command: &mut Command| _ = command.envs(variables.iter().map(|name| (name, "")));
    let directory = tempfile::tempdir().unwrap();
    let address = socket(directory.path());
    let mut command = noised();
    empty(&mut command);
    let server = Server::start(command.env("NOISED_MASTER_KEY", "").args(["serve", "--listen", &address]));
    let mut health = noised();
    empty(&mut health);
    assert_eq!(outcome(health.args(["health", "--listen", &address])).0, Some(0));
    drop(server);
    // An empty flag was written by somebody.
    for flag in ["--listen", "--threads", "--log", "--noise-ledger", "--master-key-file", "--drain-timeout"] {
        let (status, told) = outcome(noised().args(["serve", flag, ""]));
        assert_eq!(status, Some(2), "{flag}: {told}");
    }
}

/// The log of a server whose standard error is a file or a pipe is plain text.
#[test]
fn a_log_that_no_person_reads_has_no_colours() {
    let directory = tempfile::tempdir().unwrap();
    for format in ["text", "json"] {
        let mut command = noised();
        command.args(["serve", "--log-format", format, "--listen", &socket(directory.path())]);
        let mut child = command.spawn().unwrap();
        let line = serving(&mut child);
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(line.contains("serving") && !line.contains('\u{1b}'), "{line:?}");
    }
}

#[test]
fn a_hangup_reads_the_settings_again() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("noised.toml");
    let address = socket(directory.path());
    std::fs::write(&file, "log = \"info\"\nthreads = 2\n").unwrap();
    let mut server = Server::start(noised().args(["serve", "--listen", &address, "--config"]).arg(&file));
    server.signal("HUP");
    server.line_with("read again");
    std::fs::write(&file, "log = \"nonsense\"\n").unwrap();
    server.signal("HUP");
    assert!(server.line_with("stay as they were").contains("nonsense"));
    std::fs::write(&file, "log = \"warn\"\nthreads = 3\nmax_sessions = 7\n").unwrap();
    server.signal("HUP");
    let line = server.line_with("at the next start");
    assert!(line.contains("threads") && line.contains("max_sessions") && !line.contains("listen"), "{line}");
    // It serves, and says no more than it was told to: the drain is told at the level of information.
    assert_eq!(health(&address), Some(0));
    server.signal("TERM");
    assert_eq!(server.exit_status(), Some(0));
    let mut rest = String::new();
    server.log.read_to_string(&mut rest).unwrap();
    assert!(!rest.contains("draining"), "{rest}");
}

/// With more connections than the system has files for: those that have a place are served, others are
/// refused or wait, and the server says so once.
#[test]
fn a_limit_on_open_files_is_borne() {
    for arguments in ["", "--max-connections 1000"] {
        let script = format!(
            "ulimit -n 64; exec \"$0\" serve --listen 127.0.0.1:0 --handshake-timeout 1h {arguments}"
        );
        let mut command = Command::new("/bin/sh");
        command.args(["-c", &script, env!("CARGO_BIN_EXE_noised")]).env_clear().stderr(Stdio::piped());
        let mut server = Server::start(&mut command);
        let address = server.serving.split("address=").nth(1).unwrap().split(' ').next().unwrap().to_owned();
        let open: Vec<_> = (0..100).map(|_| std::net::TcpStream::connect(&address).unwrap()).collect();
        let said = server.line_with("WARN");
        assert!(said.contains("connection"), "{said}");
        drop(open);
        // Once connections end, others have their places.
        assert!((0..100).any(|_| health(&address) == Some(0)));
        server.signal("TERM");
        assert_eq!(server.exit_status(), Some(0));
        let mut rest = String::new();
        server.log.read_to_string(&mut rest).unwrap();
        assert!(!rest.contains("WARN"), "{rest}");
    }
}
