//! What is said, and the exit status, where a command fails.

use std::fmt::Display;
use std::io::{self, Write};
use std::process::ExitCode;

/// Why a command did not do what it was asked.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Bad usage or a bad description: the field and the rule it breaks.
    Usage(String),
    /// Anything else.
    Failed(String),
    /// Nobody reads what it prints any more.
    Closed,
}

impl Failure {
    /// `field` breaks `rule`.
    pub(crate) fn usage(field: impl Display, rule: impl Display) -> Self {
        Self::Usage(format!("{field}: {rule}"))
    }

    /// `what` went wrong.
    pub(crate) fn failed(what: impl Display, why: impl Display) -> Self {
        Self::Failed(format!("{what}: {why}"))
    }

    /// What was printed could not be.
    pub(crate) fn printing(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::Closed,
            _ => Self::failed("standard output", error),
        }
    }

    /// Says it and gives the exit status.
    pub(crate) fn exit(self) -> ExitCode {
        let (message, status) = match self {
            Self::Usage(message) => (message, 2),
            Self::Failed(message) => (message, 1),
            Self::Closed => return ExitCode::SUCCESS,
        };
        say(&one_line(&message));
        ExitCode::from(status)
    }
}

impl From<noised::Error> for Failure {
    fn from(error: noised::Error) -> Self {
        noised_client::Error::from(error).into()
    }
}

impl From<noised_client::Error> for Failure {
    fn from(error: noised_client::Error) -> Self {
        match error {
            noised_client::Error::Invalid { field, rule } => Self::usage(field, rule),
            other => Self::Failed(other.to_string()),
        }
    }
}

/// Prints a line for people on stderr. Where nobody listens there is nobody to tell.
pub(crate) fn say(message: &str) {
    let _unheard = writeln!(io::stderr(), "noisectl: {message}");
}

/// Help and version as clap prints them; a mistake in one line.
pub(crate) fn exit_of_usage(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        let _unread = error.print();
        return ExitCode::SUCCESS;
    }
    let text = error.render().to_string();
    let text = text.split("\nUsage:").next().unwrap_or_default();
    let text = text.split("\nFor more information").next().unwrap_or_default();
    Failure::Usage(text.trim_start_matches("error: ").to_owned()).exit()
}

fn one_line(message: &str) -> String {
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}
