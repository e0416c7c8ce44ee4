//! Which strategy is best.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use noised::design::{self, Design, Family, Objective, Problem, Progress, Recommendation, Verdict};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyDict, PyList};

use crate::analysis::ParticipationArgs;
use crate::client::Connection;
use crate::error::{Failure, invalid};
use crate::runtime::CancelToken;
use crate::spec::matrix;

/// The attributes of `noised.design._Problem`.
#[derive(FromPyObject)]
pub(crate) struct ProblemArgs {
    n: u64,
    participation: ParticipationArgs,
    objective: String,
    workload: Option<String>,
}

impl ProblemArgs {
    fn read(self) -> Result<Problem, Failure> {
        let objective = match self.objective.as_str() {
            "mean" => Objective::Mean,
            "max" => Objective::Max,
            other => return Err(invalid("objective", format!("must be mean or max, found {other:?}")).into()),
        };
        let workload = self.workload.as_deref().map(|json| matrix("workload", json)).transpose()?;
        let problem = Problem { n: self.n, participation: self.participation.into(), objective, workload };
        problem.validate()?;
        Ok(problem)
    }
}

fn family(kind: &str, size: Option<usize>) -> Result<Family, Failure> {
    let bands = || size.ok_or_else(|| invalid("bands", "must be set for this family"));
    Ok(match kind {
        "banded_toeplitz" => Family::BandedToeplitz { bands: bands()? },
        "banded_inverse_toeplitz" => Family::BandedInverseToeplitz { bands: bands()? },
        "buffered_toeplitz" => Family::BufferedToeplitz { buffers: size },
        "column_normalized_banded" => Family::ColumnNormalizedBanded { bands: bands()? },
        "dense" => Family::Dense,
        other => return Err(invalid("family", format!("is not known: {other:?}")).into()),
    })
}

/// Whoever wants to hear how far it is. One that raises ends it.
struct Listener {
    call: Option<Py<PyAny>>,
    raised: Mutex<Option<PyErr>>,
    call_off: CancelToken,
}

impl Listener {
    fn new(call: Option<Py<PyAny>>) -> Self {
        Self { call, raised: Mutex::new(None), call_off: CancelToken::default() }
    }

    /// Whether to go on: what is called says `False` to have the best so far, and raises to have nothing.
    fn tell(&self, progress: Progress) -> Verdict {
        let Some(call) = &self.call else { return Verdict::Continue };
        let Progress { what, iteration, loss } = progress;
        let enough = Python::attach(|py| {
            let answer = call.call1(py, (what, iteration, loss))?;
            Ok(answer.bind(py).is(PyBool::new(py, false)))
        });
        match enough {
            Ok(false) => Verdict::Continue,
            Ok(true) => Verdict::Finish,
            Err(error) => {
                *self.raised.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                self.call_off.cancel();
                Verdict::Abandon
            }
        }
    }

    /// The same for a search on a thread of its own, which hears of the answer at its next step.
    fn tell_later(&self, finish: &AtomicBool, progress: Progress) -> Result<(), Failure> {
        match self.tell(progress) {
            Verdict::Continue => Ok(()),
            Verdict::Finish => {
                finish.store(true, Ordering::Relaxed);
                Ok(())
            }
            Verdict::Abandon => Err(Failure::Cancelled),
        }
    }

    fn done<T>(&self, found: PyResult<T>) -> PyResult<T> {
        match self.raised.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(error) => Err(error),
            None => found,
        }
    }
}

/// The best strategy of a family that is found.
#[pyfunction]
#[pyo3(signature = (connection, kind, size, problem, on_progress=None))]
pub(crate) fn optimize<'py>(
    py: Python<'py>,
    connection: &Connection,
    kind: &str,
    size: Option<usize>,
    problem: ProblemArgs,
    on_progress: Option<Py<PyAny>>,
) -> PyResult<Bound<'py, PyDict>> {
    let (family, problem) = (family(kind, size)?, problem.read()?);
    let listener = Listener::new(on_progress);
    let found = match connection.place.any() {
        Some(client) => connection.driver.wait(py, Some(&listener.call_off), async {
            Ok(client.analysis().optimize(&family, &problem, |progress| listener.tell(progress)).await?)
        }),
        None => {
            let finish = Arc::new(AtomicBool::new(false));
            let told = Arc::clone(&finish);
            let hear = |progress| listener.tell_later(&finish, progress);
            connection.driver.wait_for_news(py, hear, move |_, tell| {
                Ok(design::optimize(&family, &problem, &mut |progress| verdict(&told, tell(progress)))?)
            })
        }
    };
    design_to_dict(py, &listener.done(found)?)
}

/// The strategies that fit into `max_planes`, compared, and which to use.
#[pyfunction]
#[pyo3(signature = (connection, max_planes, problem, on_progress=None))]
pub(crate) fn recommend<'py>(
    py: Python<'py>,
    connection: &Connection,
    max_planes: usize,
    problem: ProblemArgs,
    on_progress: Option<Py<PyAny>>,
) -> PyResult<(Bound<'py, PyList>, String, bool)> {
    let problem = problem.read()?;
    let listener = Listener::new(on_progress);
    let found = match connection.place.any() {
        Some(client) => connection.driver.wait(py, Some(&listener.call_off), async {
            let tell = |progress| listener.tell(progress);
            Ok(client.analysis().recommend(&problem, max_planes, tell).await?)
        }),
        None => {
            let finish = Arc::new(AtomicBool::new(false));
            let told = Arc::clone(&finish);
            let hear = |progress| listener.tell_later(&finish, progress);
            connection.driver.wait_for_news(py, hear, move |_, tell| {
                let mut tell = |progress| verdict(&told, tell(progress));
                Ok(design::recommend(&problem, max_planes, &mut tell)?)
            })
        }
    };
    let Recommendation { candidates, reason, complete } = listener.done(found)?;
    let candidates = candidates.iter().map(|candidate| {
        let dict = design_to_dict(py, &candidate.design)?;
        dict.set_item("name", &candidate.name)?;
        dict.set_item("family", &candidate.family)?;
        dict.set_item("planes", candidate.planes)?;
        Ok(dict)
    });
    Ok((PyList::new(py, candidates.collect::<PyResult<Vec<_>>>()?)?, reason, complete))
}

/// Where nobody listens, nobody waits.
fn verdict(finish: &AtomicBool, heard: bool) -> Verdict {
    match heard {
        false => Verdict::Abandon,
        true if finish.load(Ordering::Relaxed) => Verdict::Finish,
        true => Verdict::Continue,
    }
}

fn design_to_dict<'py>(py: Python<'py>, design: &Design) -> PyResult<Bound<'py, PyDict>> {
    let Design { strategy, noising_matrix, sensitivity, mean, max, loss, complete } = design;
    let dict = PyDict::new(py);
    dict.set_item("strategy", strategy.to_json())?;
    dict.set_item("noising_matrix", noising_matrix.to_json())?;
    dict.set_item("sensitivity", sensitivity.value())?;
    dict.set_item("sensitivity_squared", sensitivity.squared)?;
    dict.set_item("exact", sensitivity.exact)?;
    dict.set_item("rule", sensitivity.rule.name())?;
    dict.set_item("mean", mean)?;
    dict.set_item("max", max)?;
    dict.set_item("loss", loss)?;
    dict.set_item("complete", complete)?;
    Ok(dict)
}
