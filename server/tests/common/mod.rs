//! The program `noised` as a test starts it.
#![allow(dead_code, reason = "each test uses a part of this")]

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Output, Stdio};

pub(crate) fn noised() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_noised"));
    command.env_clear().stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

pub(crate) fn outcome(command: &mut Command) -> (Option<i32>, String) {
    let Output { status, stderr, .. } = command.output().unwrap();
    (status.code(), String::from_utf8(stderr).unwrap())
}

/// A server that is up, ended by its own signal or killed with the test.
pub(crate) struct Server {
    pub(crate) child: Child,
    log: BufReader<std::process::ChildStderr>,
}

impl Server {
    /// Starts one, and returns once it serves.
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut server = Self::spawn(command);
        server.line_with("serving");
        server
    }

    /// Starts one that may not come to serve.
    pub(crate) fn spawn(command: &mut Command) -> Self {
        let mut child = command.spawn().unwrap();
        let log = BufReader::new(child.stderr.take().unwrap());
        Self { child, log }
    }

    /// Reads the log up to a line that has `text`.
    pub(crate) fn line_with(&mut self, text: &str) -> String {
        loop {
            let mut line = String::new();
            assert!(self.log.read_line(&mut line).unwrap() > 0, "the server ended before it logged `{text}`");
            if line.contains(text) {
                return line;
            }
        }
    }

    pub(crate) fn signal(&self, name: &str) {
        let sent = Command::new("kill").args(["-s", name, &self.child.id().to_string()]).status();
        assert!(sent.unwrap().success());
    }

    pub(crate) fn exit_status(&mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It has ended already, unless a test failed.
        let _ended = self.child.kill();
    }
}
