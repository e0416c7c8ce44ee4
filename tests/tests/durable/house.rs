//! A server with a state directory, which is killed and started again at the same place.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::{Arc, Mutex, PoisonError};
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
    /// What its servers have written to their logs.
    told: Arc<Mutex<Vec<String>>>,
}

impl House {
    pub(crate) fn new(arguments: &[&str]) -> Self {
        let arguments = arguments.iter().map(|&argument| argument.to_owned()).collect();
        let (directory, server, told) = (tempfile::tempdir().unwrap(), Mutex::default(), Arc::default());
        let house = Self { directory, arguments, server, told };
        house.start();
        house
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.directory.path().join("state")
    }

    /// The objects of sessions whose name begins with this.
    pub(crate) fn objects(&self, prefix: &str) -> Vec<PathBuf> {
        let named =
            |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix));
        files(&self.state().join("sessions")).into_iter().filter(named).collect()
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
        let started = serving(self.command(&self.socket()), Arc::clone(&self.told));
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

    /// Waits until a server has written a line with this in it, and gives the line.
    pub(crate) fn told(&self, what: &str) -> String {
        let started = Instant::now();
        loop {
            let found = self.told.lock().unwrap().iter().find(|line| line.contains(what)).cloned();
            if let Some(line) = found {
                return line;
            }
            assert!(started.elapsed() < PATIENCE, "no server says {what}");
            std::thread::sleep(Duration::from_millis(10));
        }
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
        Second { child: serving(command, Arc::default()), target: format!("unix://{}", socket.display()) }
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

/// A client with patience.
pub(crate) fn client(target: &str) -> Client {
    let retry = RetryPolicy { max_elapsed: PATIENCE, ..RetryPolicy::default() };
    ClientBuilder::new(target).unwrap().retry(retry).connect_lazy().unwrap()
}

/// Starts a server, and waits until it serves.
fn serving(command: Command, log: Arc<Mutex<Vec<String>>>) -> Child {
    serving_at(command, log).0
}

/// The same, and where the server listens.
pub(crate) fn serving_at(mut command: Command, log: Arc<Mutex<Vec<String>>>) -> (Child, String) {
    let started = Instant::now();
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut told = Vec::new();
    let address = loop {
        let line = lines.next().unwrap_or_else(|| panic!("the server has ended: {told:?}")).unwrap();
        if let Some((_, rest)) = line.split_once("serving address=") {
            break rest.split_whitespace().next().unwrap().to_owned();
        }
        told.push(line);
    };
    assert!(started.elapsed() < PATIENCE);
    // It must not stop at a full pipe.
    std::thread::spawn(move || {
        lines.map_while(Result::ok).for_each(|line| log.lock().unwrap().push(line));
    });
    (child, address)
}

fn terminate(child: &Child) {
    signal(child, "TERM");
}

/// Sends a signal to a program.
pub(crate) fn signal(child: &Child, name: &str) {
    let pid = child.id().to_string();
    assert!(Command::new("kill").args([&format!("-{name}"), &pid]).status().unwrap().success());
}

/// All files in a directory and in those in it.
pub(crate) fn files(directory: &Path) -> Vec<PathBuf> {
    // A server may delete some meanwhile.
    let entries = std::fs::read_dir(directory).into_iter().flatten().map_while(Result::ok);
    let within = |path: PathBuf| if path.is_dir() { files(&path) } else { vec![path] };
    entries.flat_map(|entry| within(entry.path())).collect()
}
