//! Errors of the client as exceptions of `noised.errors`.

use noised_client::Error;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::{IntoPyDict, PyDict};

/// Why a call from Python failed.
pub(crate) enum Failure {
    /// A call of the client.
    Client(Error),
    /// Python code that was called back, or a signal.
    Python(PyErr),
    /// The caller called it off.
    Cancelled,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Client(error)
    }
}

impl From<noised::Error> for Failure {
    fn from(error: noised::Error) -> Self {
        Self::Client(error.into())
    }
}

impl From<PyErr> for Failure {
    fn from(error: PyErr) -> Self {
        Self::Python(error)
    }
}

impl From<Failure> for PyErr {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Python(error) => error,
            Failure::Client(error) => Python::attach(|py| exception(py, &error).unwrap_or_else(|e| e)),
            Failure::Cancelled => plain("CancelledError", "the call was called off"),
        }
    }
}

/// An argument that breaks a rule.
pub(crate) fn invalid(field: &str, rule: impl ToString) -> PyErr {
    Failure::Client(Error::Invalid { field: field.to_owned(), rule: rule.to_string() }).into()
}

/// A state of this process in which nothing can be done.
pub(crate) fn unusable(message: &str) -> PyErr {
    PyRuntimeError::new_err(message.to_owned())
}

/// A call from within a call.
pub(crate) fn reentrant() -> PyErr {
    plain("ReentrantCallError", "another call is under way in this thread")
}

/// A call in the child of a fork.
pub(crate) fn forked(message: &str) -> PyErr {
    plain("ForkedError", message)
}

fn plain(class: &str, message: &str) -> PyErr {
    Python::attach(|py| raise(py, class, message, &PyDict::new(py)).unwrap_or_else(|e| e))
}

/// The exception that an error is, with the error's fields as attributes.
fn exception(py: Python<'_>, error: &Error) -> PyResult<PyErr> {
    if let Error::Shard { index, server, error: of_shard } = error {
        // The class is that of what went wrong: whoever handles a wrong step handles one of a shard.
        let (class, fields) = parts(py, of_shard)?;
        fields.set_item("shard", index)?;
        fields.set_item("server", server)?;
        return raise(py, class, &error.to_string(), &fields);
    }
    let (class, fields) = parts(py, error)?;
    raise(py, class, &error.to_string(), &fields)
}

fn raise(py: Python<'_>, class: &str, message: &str, fields: &Bound<'_, PyDict>) -> PyResult<PyErr> {
    let class = py.import("noised.errors")?.getattr(class)?;
    Ok(PyErr::from_value(class.call((message,), Some(fields))?))
}

/// The class of an error, and its fields.
fn parts<'py>(py: Python<'py>, error: &Error) -> PyResult<(&'static str, Bound<'py, PyDict>)> {
    let steps =
        |requested: u64, expected: u64| [("requested", requested), ("expected", expected)].into_py_dict(py);
    let seconds = |after: &Option<std::time::Duration>| {
        [("retry_after", after.map(|after| after.as_secs_f64()))].into_py_dict(py)
    };
    let nothing = || Ok(PyDict::new(py));
    let (class, fields) = match error {
        Error::Invalid { field, rule } => {
            ("InvalidArgumentError", [("field", field), ("rule", rule)].into_py_dict(py))
        }
        Error::WrongStep { requested, expected } => ("WrongStepError", steps(*requested, *expected)),
        Error::PayloadMismatch { requested, expected, offset: _ } => {
            ("PayloadMismatchError", steps(*requested, *expected))
        }
        Error::Diverged { requested, expected } => ("DivergedError", steps(*requested, *expected)),
        Error::TakenByAnother { requested } => {
            ("TakenByAnotherError", [("requested", requested)].into_py_dict(py))
        }
        Error::PastHorizon { requested, horizon } => {
            ("PastHorizonError", [("requested", requested), ("horizon", horizon)].into_py_dict(py))
        }
        Error::PastReleased { requested, released } => {
            ("PastReleasedError", [("requested", requested), ("released", released)].into_py_dict(py))
        }
        Error::NotKept { requested } => ("NotKeptError", [("requested", requested)].into_py_dict(py)),
        Error::FingerprintMismatch { field } => {
            ("FingerprintMismatchError", [("field", field)].into_py_dict(py))
        }
        Error::NoiseInUse { message: _ } => ("NoiseInUseError", nothing()),
        Error::NoiseUsed { message: _, next_step } => {
            ("NoiseUsedError", [("next_step", next_step)].into_py_dict(py))
        }
        Error::NoMasterKey { message: _ } => ("NoMasterKeyError", nothing()),
        Error::NotFound { message: _ } => ("SessionNotFoundError", nothing()),
        Error::AlreadyExists { message: _ } => ("SessionExistsError", nothing()),
        Error::ResourceExhausted { message: _, retry_after } => {
            ("ResourceExhaustedError", seconds(retry_after))
        }
        Error::Unavailable { message: _, retry_after } => ("UnavailableError", seconds(retry_after)),
        Error::Elsewhere { message: _, owner } => {
            ("SessionElsewhereError", [("owner", owner)].into_py_dict(py))
        }
        Error::Tls { message: _ } => ("TlsError", nothing()),
        Error::Unauthenticated { message: _ } => ("UnauthenticatedError", nothing()),
        Error::PermissionDenied { message: _ } => ("PermissionDeniedError", nothing()),
        Error::Transport { message: _ } => ("ConnectionBrokenError", nothing()),
        Error::Protocol { message: _ } => ("ProtocolError", nothing()),
        Error::DataLoss { message: _ } => ("DataLossError", nothing()),
        Error::Other { code, message: _ } => {
            ("ServerError", [("code", format!("{code:?}"))].into_py_dict(py))
        }
        // Of a shard, the caller has taken apart; the rest is to come.
        _ => ("NoisedError", nothing()),
    };
    Ok((class, fields?))
}
