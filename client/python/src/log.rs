//! What the client reports, as records of Python's `logging`.
//!
//! An event of the client comes up where no Python code may run. So it waits until a wait has time for the
//! interpreter: where a handler of a record raises, as a Ctrl-C does, the wait ends as it does for a handler
//! of a signal.

use std::collections::VecDeque;
use std::fmt::{self, Write as _};
use std::sync::{Mutex, PoisonError};

use pyo3::exceptions::PyException;
use pyo3::prelude::*;
use tracing::field::{Field, Visit};
use tracing::subscriber::set_global_default;
use tracing::{Event, Level, Metadata, Subscriber, span};

/// The logger, and the crate whose events it gets.
const LOGGER: &str = "noised";
const REPORTS: &str = "noised_client";
/// Records that wait at most; more of them are dropped.
const MAX_WAITING: usize = 256;

static WAITING: Mutex<VecDeque<(u8, String)>> = Mutex::new(VecDeque::new());

/// Takes the events of this process, unless somebody does already.
pub(crate) fn listen() {
    let _somebody_else_does = set_global_default(Reports);
}

/// Hands over what was reported.
///
/// # Errors
/// What is no `Exception`, such as a `KeyboardInterrupt` that came meanwhile.
pub(crate) fn tell(py: Python<'_>) -> PyResult<()> {
    while let Some((level, message)) = waiting().pop_front() {
        if let Err(error) = log(py, level, &message) {
            if !error.is_instance_of::<PyException>(py) {
                return Err(error);
            }
            error.write_unraisable(py, None);
        }
    }
    Ok(())
}

fn log(py: Python<'_>, level: u8, message: &str) -> PyResult<()> {
    let logger = py.import("logging")?.call_method1("getLogger", (LOGGER,))?;
    logger.call_method1("log", (level, "%s", message)).map(drop)
}

fn waiting() -> std::sync::MutexGuard<'static, VecDeque<(u8, String)>> {
    WAITING.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Reports;

impl Subscriber for Reports {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && metadata.target().starts_with(REPORTS)
    }

    fn event(&self, event: &Event<'_>) {
        let mut message = Message(String::new());
        event.record(&mut message);
        let level = match *event.metadata().level() {
            Level::ERROR => 40,
            Level::WARN => 30,
            Level::INFO => 20,
            Level::DEBUG => 10,
            Level::TRACE => 5,
        };
        let mut waiting = waiting();
        if waiting.len() < MAX_WAITING {
            waiting.push_back((level, message.0));
        }
    }

    // There are no spans, for none is enabled.
    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

/// The text of an event, which says all that its fields do.
struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            let _never_fails = write!(self.0, "{value:?}");
        }
    }
}
