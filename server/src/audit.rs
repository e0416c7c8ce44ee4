//! The audit log: who did what to sessions and noises, and who was refused; one JSON object a line.
//!
//! A line has the names of callers, tenants and sessions, and numbers of steps. It has no payload, key or
//! token. A line that cannot be written is told in the server's log, and what it is about goes on.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context;
use noised_proto::ServiceError;
use noised_proto::access::Role;
use serde::Serialize;
use serde_json::Value;

use crate::identity::{Caller, SessionKey};

/// What the setting says for the standard output.
const STANDARD_OUTPUT: &str = "-";

/// Calls of callers who are not known, or may not make the call, that are noted in [`REFUSALS_TIME`].
/// A stranger can make any number of such calls.
const MOST_REFUSALS: u64 = 20;
const REFUSALS_TIME: Duration = Duration::from_secs(10);

/// Characters of a name or path that a caller gave and nobody has checked.
const MOST_CHARACTERS: usize = 200;

/// What became of what was asked.
const DONE: &str = "ok";

/// The audit log, or none.
#[derive(Clone, Debug, Default)]
pub(crate) struct Audit(Option<Arc<Mutex<Log>>>);

#[derive(Debug)]
struct Log {
    sink: Sink,
    /// When the calls were first counted that are refused, how many there were, and how many were not
    /// noted.
    since: Option<Instant>,
    refusals: u64,
    left_out: u64,
}

#[derive(Debug)]
enum Sink {
    Output,
    File {
        path: PathBuf,
        file: File,
        /// Whether the last line may have been written in part.
        torn: bool,
    },
}

/// What is noted.
#[derive(Clone, Copy, Debug)]
pub(crate) enum What {
    SessionMade,
    SessionDeleted,
    SessionRewound,
    /// A step that was asked for: noted where it is refused for the sake of privacy.
    Step,
    /// A call whose caller is not known, or may not make the call.
    Call,
    /// Files that are read again.
    Reload,
}

impl What {
    fn name(self) -> &'static str {
        match self {
            Self::SessionMade => "session_made",
            Self::SessionDeleted => "session_deleted",
            Self::SessionRewound => "session_rewound",
            Self::Step => "step",
            Self::Call => "call",
            Self::Reload => "reload",
        }
    }
}

/// A line.
#[derive(Serialize)]
struct Line<'a> {
    time: String,
    what: &'static str,
    /// The caller's entry in the tokens file; null without one.
    name: Option<&'a str>,
    tenant: Option<String>,
    role: Option<&'static str>,
    /// Null where the server does something by itself.
    peer: Option<String>,
    session: Option<String>,
    /// `ok`, or the reason of the error.
    outcome: &'a str,
    #[serde(skip_serializing_if = "Value::is_null")]
    more: Value,
}

impl Audit {
    /// Opens the log of the setting: a file, which is made where it is missing and added to, or the
    /// standard output.
    ///
    /// # Errors
    /// Names the setting and the file that cannot be opened.
    pub(crate) fn open(setting: Option<&Path>) -> anyhow::Result<Self> {
        let Some(path) = setting else { return Ok(Self::default()) };
        let sink = if path == Path::new(STANDARD_OUTPUT) {
            Sink::Output
        } else {
            let file = open(path).with_context(|| format!("audit_log: {}", path.display()))?;
            Sink::File { path: path.to_owned(), file, torn: false }
        };
        Ok(Self(Some(Arc::new(Mutex::new(Log { sink, since: None, refusals: 0, left_out: 0 })))))
    }

    /// Notes what was done to a session; `caller` is absent where the server did it by itself.
    pub(crate) fn done(&self, what: What, caller: Option<&Caller>, session: &SessionKey, more: Value) {
        self.write(what, caller, Some(session.to_string()), DONE, more);
    }

    /// Notes a refusal that touches the privacy of a noise, or for which the caller lacks a right.
    pub(crate) fn refused(&self, what: What, caller: &Caller, session: &str, error: &ServiceError) {
        self.write(what, Some(caller), Some(cut(session).to_owned()), error.reason(), Value::Null);
    }

    /// Notes a call that was refused before anybody looked at its request: as many as there is time for.
    pub(crate) fn call_refused(&self, caller: &Caller, path: &str, error: &ServiceError) {
        let Some(log) = &self.0 else { return };
        let mut more = serde_json::json!({ "path": cut(path) });
        if let ServiceError::Unauthenticated { why } = error {
            more["why"] = why.name().into();
        }
        {
            let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
            if log.since.is_none_or(|since| since.elapsed() >= REFUSALS_TIME) {
                (log.since, log.refusals) = (Some(Instant::now()), 0);
            }
            log.refusals += 1;
            if log.refusals > MOST_REFUSALS {
                log.left_out += 1;
                return;
            }
            match std::mem::take(&mut log.left_out) {
                0 => {}
                count => more["left_out_before"] = count.into(),
            }
        }
        self.write(What::Call, Some(caller), None, error.reason(), more);
    }

    /// Notes that files were read again, or could not be.
    pub(crate) fn reloaded(&self, files: &str, failed: bool) {
        let outcome = if failed { "FAILED" } else { DONE };
        self.write(What::Reload, None, None, outcome, serde_json::json!({ "files": files }));
    }

    fn write(
        &self,
        what: What,
        caller: Option<&Caller>,
        session: Option<String>,
        outcome: &str,
        more: Value,
    ) {
        let Some(log) = &self.0 else { return };
        let identity = caller.and_then(|caller| caller.identity.as_deref());
        let is_known = caller.filter(|_| outcome != "UNAUTHENTICATED");
        let line = Line {
            time: humantime::format_rfc3339_millis(SystemTime::now()).to_string(),
            what: what.name(),
            name: identity.map(|identity| identity.name.as_str()),
            tenant: is_known.map(|caller| caller.tenant.to_string()),
            role: identity.map(|identity| Role::name(identity.role)),
            peer: caller.map(|caller| caller.peer.to_string()),
            session,
            outcome,
            more,
        };
        let written = serde_json::to_vec(&line).map_err(io::Error::from).and_then(|mut text| {
            text.push(b'\n');
            log.lock().unwrap_or_else(PoisonError::into_inner).sink.write(&text)
        });
        if let Err(error) = written {
            tracing::error!(%error, what = what.name(), outcome, "a line was not written to the audit log");
        }
    }
}

impl Sink {
    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        match self {
            Self::Output => {
                let mut output = io::stdout().lock();
                output.write_all(line)?;
                output.flush()
            }
            Self::File { path, file, torn } => {
                // A program that rotates logs moves the file away.
                let id = |metadata: std::fs::Metadata| (metadata.dev(), metadata.ino());
                if std::fs::metadata(&*path).map(id).ok() != Some(id(file.metadata()?)) {
                    (*file, *torn) = (open(path)?, false);
                }
                // A line after a part of one begins anew.
                if std::mem::replace(torn, true) {
                    file.write_all(b"\n")?;
                }
                file.write_all(line)?;
                *torn = false;
                Ok(())
            }
        }
    }
}

/// The beginning of a text that nobody has checked.
pub(crate) fn cut(text: &str) -> &str {
    let end = text.char_indices().nth(MOST_CHARACTERS).map_or(text.len(), |(end, _)| end);
    &text[..end]
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

#[cfg(test)]
mod tests {
    use noised_proto::access::Stranger;

    use super::*;

    fn lines(path: &Path) -> Vec<Value> {
        let text = std::fs::read_to_string(path).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[test]
    fn a_log_that_is_moved_away_is_begun_anew_and_many_refusals_are_counted() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("audit.log");
        let audit = Audit::open(Some(&path)).unwrap();
        let caller = Caller::default();
        audit.done(What::SessionMade, Some(&caller), &caller.key("sessions/a"), Value::Null);
        let moved = directory.path().join("audit.log.1");
        std::fs::rename(&path, &moved).unwrap();
        audit.reloaded("tokens_file", true);
        let (before, after) = (lines(&moved), lines(&path));
        assert_eq!(
            (&before[0]["what"], &before[0]["session"]),
            (&"session_made".into(), &"sessions/a".into())
        );
        assert_eq!((&before[0]["outcome"], &before[0]["tenant"]), (&"ok".into(), &"default".into()));
        assert_eq!((&after[0]["what"], &after[0]["outcome"]), (&"reload".into(), &"FAILED".into()));
        let error = ServiceError::Unauthenticated { why: Stranger::Unknown };
        for _ in 0..1000 {
            audit.call_refused(&caller, "/noised.v1.Sessions/GetSession", &error);
        }
        let noted = lines(&path).len() as u64 - 1;
        assert!((MOST_REFUSALS..500).contains(&noted), "{noted}");
        assert_eq!(lines(&path)[1]["tenant"], Value::Null);
        assert_eq!(lines(&path)[1]["more"]["why"], "UNKNOWN_TOKEN");
    }
}
