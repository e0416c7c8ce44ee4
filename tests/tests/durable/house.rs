//! A server with a state directory, which is killed and started again at the same place.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use noised_client::{Client, ClientBuilder, RetryPolicy};
use noised_tests::programs::program;
use tempfile::TempDir;

/// How long anything may take that should be over soon.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// A place for one server after the other.
pub(crate) struct House {
    directory: TempDir,
    arguments: Vec<String>,
    server: Mutex<Option<Child>>,
}

impl House {
    pub(crate) fn new(arguments: &[&str]) -> Self {
        let arguments = arguments.iter().map(|&argument| argument.to_owned()).collect();
        let house = Self { directory: tempfile::tempdir().unwrap(), arguments, server: Mutex::default() };
        house.start();
        house
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.directory.path().join("state")
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("noised.sock")
    }

    fn command(&self, socket: &Path) -> Command {
        let mut command = program("noised");
        command.arg("serve").arg("--listen").arg(format!("unix://{}", socket.display()));
        command.arg("--state").arg(self.state()).args(&self.arguments);
        command
    }

    /// Starts a server where there is none, and waits until it serves.
    pub(crate) fn start(&self) {
        let started = serving(self.command(&self.socket()));
        let before = self.server.lock().unwrap_or_else(PoisonError::into_inner).replace(started);
        assert!(before.is_none(), "there was a server");
    }

    /// Kills the server, which has no chance to note anything.
    pub(crate) fn kill(&self) {
        let mut server = self.server.lock().unwrap_or_else(PoisonError::into_inner).take().unwrap();
        server.kill().unwrap();
        server.wait().unwrap();
    }

    /// Asks the server to end, and waits until it has.
    pub(crate) fn drain(&self) {
        let mut server = self.server.lock().unwrap_or_else(PoisonError::into_inner).take().unwrap();
        terminate(&server);
        assert!(server.wait().unwrap().success());
    }

    /// What the server says that does not start.
    pub(crate) fn refusal(arguments: &[&str]) -> String {
        let told = program("noised").arg("serve").args(arguments).output().unwrap();
        assert!(!told.status.success());
        String::from_utf8(told.stderr).unwrap()
    }

    /// A second server with the same store, by mistake: with a ledger of its own, nothing keeps it from that.
    pub(crate) fn second(&self) -> Second {
        let socket = self.directory.path().join("second.sock");
        let mut command = self.command(&socket);
        command.arg("--noise-ledger").arg(self.directory.path().join("second.ledger"));
        Second { child: serving(command), target: format!("unix://{}", socket.display()) }
    }

    pub(crate) fn client(&self) -> Client {
        client(&format!("unix://{}", self.socket().display()))
    }
}

impl Drop for House {
    fn drop(&mut self) {
        if let Some(server) = self.server.get_mut().unwrap_or_else(PoisonError::into_inner) {
            let _ended = server.kill();
            let _ended = server.wait();
        }
    }
}

pub(crate) struct Second {
    child: Child,
    target: String,
}

impl Second {
    pub(crate) fn client(&self) -> Client {
        client(&self.target)
    }
}

impl Drop for Second {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _ended = self.child.wait();
    }
}

fn client(target: &str) -> Client {
    let retry = RetryPolicy { max_elapsed: PATIENCE, ..RetryPolicy::default() };
    ClientBuilder::new(target).unwrap().retry(retry).connect_lazy().unwrap()
}

fn serving(mut command: Command) -> Child {
    let started = Instant::now();
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut told = Vec::new();
    loop {
        let line = lines.next().unwrap_or_else(|| panic!("the server has ended: {told:?}")).unwrap();
        if line.contains("serving") {
            break;
        }
        told.push(line);
    }
    assert!(started.elapsed() < PATIENCE);
    // It must not stop at a full pipe.
    std::thread::spawn(move || lines.for_each(drop));
    child
}

fn terminate(child: &Child) {
    let pid = child.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
}
