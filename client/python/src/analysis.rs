//! Questions about matrices that need no session.

use std::sync::atomic::{AtomicBool, Ordering};

use noised::Precision;
use noised::analysis::calibration::PrivacyTarget;
use noised::analysis::{self, Calibration, Given, Mechanism, Participation};
use noised_client::Rows;
use numpy::ndarray::{Array2, Ix2};
use numpy::{IntoPyArray, PyArray1, PyArray2, PyReadonlyArray2};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::client::Connection;
use crate::error::{Failure, invalid};
use crate::spec::{matrix, question};

/// The attributes of `noised.participation.Participation`.
#[derive(FromPyObject)]
pub(crate) struct ParticipationArgs {
    min_sep: Option<u64>,
    max_participations: Option<u64>,
    epochs: Option<u64>,
}

impl From<ParticipationArgs> for Participation {
    fn from(args: ParticipationArgs) -> Self {
        let ParticipationArgs { min_sep, max_participations, epochs } = args;
        match epochs {
            Some(epochs) => Self::FixedEpochs { epochs },
            None => Self::from_limits(min_sep, max_participations),
        }
    }
}

/// Whether nobody waits for the answer any more.
pub(crate) fn gone(told: &AtomicBool) -> impl Fn() -> bool + '_ {
    || told.load(Ordering::Relaxed)
}

/// The leading `n x n` block, with zeros above its diagonal.
#[pyfunction]
pub(crate) fn materialize<'py>(
    py: Python<'py>,
    connection: &Connection,
    matrix_json: &str,
    n: u64,
) -> PyResult<Bound<'py, PyArray2<f64>>> {
    let matrix = question("matrix", matrix_json, n)?;
    let place = usize::try_from(n).map_err(|e| invalid("n", e))?;
    let rows = match connection.place.any() {
        Some(client) => connection.driver.wait(py, None, async {
            let mut rows: Rows = client.analysis().materialize(&matrix, n).await?;
            let mut all = Vec::new();
            while let Some(row) = rows.next_row().await? {
                all.push(row);
            }
            Ok(all)
        })?,
        None => connection.driver.wait_for_work(py, move |told| {
            let mut rows = analysis::Rows::new(&matrix, n)?;
            let mut all = Vec::new();
            while !told.load(Ordering::Relaxed)
                && let Some(row) = rows.next_finite_row()?
            {
                all.push(row);
            }
            Ok(all)
        })?,
    };
    let mut dense = Array2::zeros((place, place));
    for (to, row) in dense.rows_mut().into_iter().zip(&rows) {
        to.into_iter().zip(row).for_each(|(to, &entry): (&mut f64, _)| *to = entry);
    }
    Ok(dense.into_pyarray(py))
}

/// The squared L2 norm of each of the first `n` rows, and how they were found.
#[pyfunction]
pub(crate) fn row_norms_squared<'py>(
    py: Python<'py>,
    connection: &Connection,
    matrix_json: &str,
    n: u64,
) -> PyResult<(Bound<'py, PyArray1<f64>>, &'static str)> {
    let matrix = question("matrix", matrix_json, n)?;
    let norms = match connection.place.any() {
        Some(client) => connection
            .driver
            .wait(py, None, async { Ok(client.analysis().row_norms_squared(&matrix, n).await?) })?,
        None => connection
            .driver
            .wait_for_work(py, move |told| Ok(analysis::row_norms_squared(&matrix, n, gone(told))?))?,
    };
    Ok((norms.values.into_pyarray(py), norms.way.name()))
}

/// `A x` for rows of lanes, one row a step.
#[pyfunction]
pub(crate) fn multiply<'py>(
    py: Python<'py>,
    connection: &Connection,
    matrix_json: &str,
    x: PyReadonlyArray2<'py, f64>,
) -> PyResult<Bound<'py, PyArray2<f64>>> {
    let matrix = matrix("matrix", matrix_json)?;
    let x = x.as_array().to_owned();
    let product = match connection.place.any() {
        Some(client) => {
            let rows: Vec<Vec<f64>> = x.rows().into_iter().map(|row| row.to_vec()).collect();
            let product = connection
                .driver
                .wait(py, None, async { Ok(client.analysis().multiply(&matrix, &rows).await?) })?;
            Array2::from_shape_vec(x.dim(), product.concat()).map_err(|e| invalid("x", e))?
        }
        None => {
            let multiplied = connection.driver.wait_for_work(py, move |told| {
                Ok(analysis::multiply(&matrix, x.view().into_dyn(), gone(told))?)
            })?;
            multiplied.into_dimensionality::<Ix2>().map_err(|e| invalid("x", e))?
        }
    };
    Ok(product.into_pyarray(py))
}

/// The expected squared error of each of the first `n` queries at noise of variance 1, and how they were
/// found.
#[pyfunction]
pub(crate) fn query_errors<'py>(
    py: Python<'py>,
    connection: &Connection,
    noising_matrix_json: &str,
    workload_json: Option<&str>,
    n: u64,
) -> PyResult<(Bound<'py, PyArray1<f64>>, &'static str)> {
    let noising = question("noising_matrix", noising_matrix_json, n)?;
    let workload = workload_json.map(|json| question("workload", json, n)).transpose()?;
    let errors = match connection.place.any() {
        Some(client) => connection.driver.wait(py, None, async {
            let mechanism = Mechanism::NoisingMatrix(&noising);
            Ok(client.analysis().query_errors(mechanism, workload.as_ref(), n).await?)
        })?,
        None => connection.driver.wait_for_work(py, move |told| {
            let mechanism = Mechanism::NoisingMatrix(&noising);
            Ok(analysis::query_errors(mechanism, workload.as_ref(), n, &gone(told))?)
        })?,
    };
    Ok((errors.per_query.into_pyarray(py), errors.way.name()))
}

/// The sensitivity of the leading block of a strategy, its square, whether it is exact, the rule that it
/// comes from, and the precision of the session whose sensitivity it is.
#[pyfunction]
pub(crate) fn sensitivity(
    py: Python<'_>,
    connection: &Connection,
    strategy_json: &str,
    n: u64,
    participation: ParticipationArgs,
    precision: Option<&str>,
) -> PyResult<(f64, f64, bool, &'static str, &'static str)> {
    let strategy = question("strategy", strategy_json, n)?;
    let participation = participation.into();
    let precision = precision.map(|name| name.parse::<Precision>().map_err(Failure::from)).transpose()?;
    let (found, of) = match connection.place.any() {
        Some(client) => connection.driver.wait(py, None, async {
            Ok(client.analysis().sensitivity_in(&strategy, n, participation, precision).await?)
        })?,
        None => connection.driver.wait_for_work(py, move |told| {
            Ok(analysis::sensitivity_in(&strategy, n, participation, precision, &gone(told))?)
        })?,
    };
    Ok((found.value(), found.squared, found.exact, found.rule.name(), of.name()))
}

/// The noise that a target takes at an L2 sensitivity, and what else it gives. `given` names the target:
/// `epsilon`, `rho`, `mu` or `noise_multiplier`.
#[pyfunction]
pub(crate) fn calibrate<'py>(
    py: Python<'py>,
    connection: &Connection,
    sensitivity: f64,
    given: &str,
    value: f64,
    delta: Option<f64>,
) -> PyResult<Bound<'py, PyDict>> {
    let (given, delta) = match given {
        "epsilon" => {
            let delta = delta.ok_or_else(|| invalid("delta", "must be set beside epsilon"))?;
            (Given::Target(PrivacyTarget::ApproximateDp { epsilon: value, delta }), None)
        }
        "rho" => (Given::Target(PrivacyTarget::ZeroConcentratedDp { rho: value }), delta),
        "mu" => (Given::Target(PrivacyTarget::GaussianDp { mu: value }), delta),
        "noise_multiplier" => (Given::NoiseMultiplier(value), delta),
        other => return Err(invalid("given", format!("is not known: {other:?}"))),
    };
    let found = match connection.place.any() {
        Some(client) => connection
            .driver
            .wait(py, None, async { Ok(client.analysis().calibrate(given, sensitivity, delta).await?) })?,
        None => analysis::calibrate(given, sensitivity, delta).map_err(Failure::from)?,
    };
    let Calibration { noise_multiplier, stddev, epsilon, delta, rho, mu } = found;
    let dict = PyDict::new(py);
    dict.set_item("noise_multiplier", noise_multiplier)?;
    dict.set_item("stddev", stddev)?;
    dict.set_item("epsilon", epsilon)?;
    dict.set_item("delta", delta)?;
    dict.set_item("rho", rho)?;
    dict.set_item("mu", mu)?;
    Ok(dict)
}
