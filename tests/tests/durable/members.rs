//! Several servers with one state directory, each at a port of its own, which are killed, stopped and
//! started.

use std::process::{Child, Command};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use noised_client::{Client, ClientBuilder, RetryPolicy};
use noised_tests::programs::program;
use tempfile::TempDir;

use super::house::{client, serving_at, signal};

/// The lease of the servers: long enough for a machine that is busy with other tests.
const LEASE: &str = "1500ms";

/// Servers that share a directory.
pub(crate) struct Fleet {
    directory: TempDir,
    arguments: Vec<String>,
    members: Mutex<Vec<Member>>,
    told: Arc<Mutex<Vec<String>>>,
}

struct Member {
    /// Where it listens, and does again when it is started again.
    address: String,
    server: Option<Child>,
}

impl Fleet {
    pub(crate) fn new(count: usize, arguments: &[&str]) -> Self {
        let arguments = arguments.iter().map(|&argument| argument.to_owned()).collect();
        let (directory, members, told) = (tempfile::tempdir().unwrap(), Mutex::default(), Arc::default());
        let fleet = Self { directory, arguments, members, told };
        for _ in 0..count {
            fleet.add();
        }
        fleet
    }

    fn members(&self) -> MutexGuard<'_, Vec<Member>> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn command(&self, address: &str) -> Command {
        let mut command = program("noised");
        let state = self.directory.path().join("state");
        command.args(["serve", "--listen", address, "--lease", LEASE, "--drain-timeout", "5s"]);
        command.arg("--advertise").arg(format!("http://{address}")).arg("--state").arg(state);
        // Each has a ledger of its own: nobody waits for another server's.
        command.args(&self.arguments);
        command
    }

    /// Starts one more server, and gives its number.
    pub(crate) fn add(&self) -> usize {
        let member = self.members().len();
        let (child, address) = serving_at(self.command("127.0.0.1:0"), Arc::clone(&self.told));
        self.members().push(Member { address, server: Some(child) });
        member
    }

    /// Starts a server again where it was, unless it runs.
    pub(crate) fn start(&self, member: usize) {
        let address = match &self.members()[member] {
            Member { server: Some(_), .. } => return,
            Member { address, server: None } => address.clone(),
        };
        let (child, _) = serving_at(self.command(&address), Arc::clone(&self.told));
        self.members()[member].server = Some(child);
    }

    /// Kills a server, which has no chance to note anything.
    pub(crate) fn kill(&self, member: usize) {
        if let Some(mut server) = self.take(member) {
            server.kill().unwrap();
            server.wait().unwrap();
        }
    }

    /// Asks a server to end, and waits until it has.
    pub(crate) fn drain(&self, member: usize) {
        if let Some(mut server) = self.take(member) {
            signal(&server, "TERM");
            assert!(server.wait().unwrap().success());
        }
    }

    /// Sends a signal to a server.
    pub(crate) fn signal(&self, member: usize, name: &str) {
        if let Some(server) = &self.members()[member].server {
            signal(server, name);
        }
    }

    fn take(&self, member: usize) -> Option<Child> {
        self.members()[member].server.take()
    }

    /// Where a server is.
    pub(crate) fn target(&self, member: usize) -> String {
        format!("http://{}", self.members()[member].address)
    }

    /// Where all are, the ones at `members` first.
    pub(crate) fn targets(&self, members: &[usize]) -> String {
        members.iter().map(|&member| self.target(member)).collect::<Vec<_>>().join(",")
    }

    /// A client of all servers.
    pub(crate) fn client(&self) -> Client {
        let all: Vec<_> = (0..self.members().len()).collect();
        client(&self.targets(&all))
    }

    /// A client of one server, which tries nothing again.
    pub(crate) fn client_of(&self, member: usize) -> Client {
        let builder = ClientBuilder::new(&self.target(member)).unwrap();
        builder.retry(RetryPolicy::NEVER).connect_lazy().unwrap()
    }

    /// The number of the server at an address.
    pub(crate) fn at(&self, target: &str) -> usize {
        let members = self.members();
        members.iter().position(|member| format!("http://{}", member.address) == target).unwrap()
    }

    /// The server that has a session.
    pub(crate) async fn owner_of(&self, name: &str) -> usize {
        let info = self.client().get_session(name).await.unwrap();
        self.at(&info.owner)
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
            let faults = told.iter().filter(|line| line.contains("ERROR") || line.contains("panicked"));
            faults.for_each(|line| eprintln!("a server: {line}"));
        }
        for member in self.members().iter_mut() {
            if let Some(server) = &mut member.server {
                // One that was stopped is killed all the same.
                let _ended = server.kill();
                let _ended = server.wait();
            }
        }
    }
}
