//! What is said, and the exit status, where a command fails.

use std::borrow::Cow;
use std::fmt::Display;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::error::ErrorKind;
use noised_client::Error;

use crate::printable::printable;

/// Why a command did not do what it was asked.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Bad usage or a bad description: the field and the rule it breaks.
    Usage(String),
    /// Anything else.
    Failed(String),
    /// Work was called off, as its caller asked.
    Cancelled,
    /// A signal ended it: what was done and what was not, and the exit status.
    Interrupted { message: String, status: u8 },
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

    /// The same with more to say.
    pub(crate) fn with(self, more: impl Display) -> Self {
        let with = |message: String| format!("{message}; {more}");
        match self {
            Self::Usage(message) => Self::Usage(with(message)),
            Self::Failed(message) => Self::Failed(with(message)),
            Self::Interrupted { message, status } => Self::Interrupted { message: with(message), status },
            other @ (Self::Cancelled | Self::Closed) => other,
        }
    }

    /// Says it and gives the exit status.
    pub(crate) fn exit(self) -> ExitCode {
        let (message, status) = match self {
            Self::Usage(message) => (message, 2),
            Self::Failed(message) => (message, 1),
            Self::Cancelled => ("the work was called off".to_owned(), 1),
            Self::Interrupted { message, status } => (message, status),
            Self::Closed => return ExitCode::SUCCESS,
        };
        say(&one_line(&message));
        ExitCode::from(status)
    }
}

impl From<noised::Error> for Failure {
    fn from(error: noised::Error) -> Self {
        match error {
            noised::Error::Cancelled => Self::Cancelled,
            other => Error::from(other).into(),
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::Invalid { field, rule } => Self::usage(field, rule),
            other => Self::Failed(other.to_string()),
        }
    }
}

/// Prints a line for people on stderr. Where nobody listens there is nobody to tell.
pub(crate) fn say(message: &str) {
    let _unheard = writeln!(io::stderr(), "noisectl: {}", printable(message));
}

/// Help and version as clap prints them; a mistake in one line.
pub(crate) fn exit_of_usage(error: &clap::Error) -> ExitCode {
    let status = u8::try_from(error.exit_code()).unwrap_or(2);
    if matches!(
        error.kind(),
        ErrorKind::DisplayHelp
            | ErrorKind::DisplayVersion
            | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
    ) {
        let _unread = error.print();
        return ExitCode::from(status);
    }
    let text = error.render().to_string();
    let text = text.split("\nUsage:").next().unwrap_or_default();
    let text = text.split("\nFor more information").next().unwrap_or_default();
    say(&one_line(text.trim_start_matches("error: ")));
    ExitCode::from(status)
}

fn one_line(message: &str) -> Cow<'_, str> {
    if message.contains(['\n', '\r', '\t']) || message.contains("  ") {
        return message.split_whitespace().collect::<Vec<_>>().join(" ").into();
    }
    message.into()
}
