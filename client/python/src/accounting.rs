//! What the noise of a training run guarantees.

use noised::accounting::{Account, Asked, Question, Sampling, Wanted, unit};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::analysis::{ParticipationArgs, gone};
use crate::client::Connection;
use crate::error::{Failure, invalid};
use crate::spec::question;

/// How the examples of a step are chosen: the attributes of `noised.accounting.Sampling`.
#[derive(FromPyObject)]
pub(crate) struct SamplingArgs {
    scheme: String,
    probability: Option<f64>,
    bands: Option<u64>,
    batch_size: Option<u64>,
    examples: Option<u64>,
}

impl TryFrom<SamplingArgs> for Sampling {
    type Error = PyErr;

    fn try_from(args: SamplingArgs) -> PyResult<Self> {
        let SamplingArgs { scheme, probability, bands, batch_size, examples } = args;
        let missing = |field: &str| invalid(field, "is missing");
        let probability = || probability.ok_or_else(|| missing("sampling_probability"));
        Ok(match scheme.as_str() {
            "none" => Self::None,
            "poisson" => Self::Poisson { probability: probability()? },
            "cyclic_poisson" => Self::CyclicPoisson {
                probability: probability()?,
                bands: bands.ok_or_else(|| missing("bands"))?,
            },
            "fixed_size" => Self::FixedSize {
                batch_size: batch_size.ok_or_else(|| missing("batch_size"))?,
                examples: examples.ok_or_else(|| missing("examples"))?,
            },
            other => return Err(invalid("sampling", format!("is not known: {other:?}"))),
        })
    }
}

/// What two of the three last arguments give.
#[pyfunction]
pub(crate) fn account<'py>(
    py: Python<'py>,
    connection: &Connection,
    sampling: SamplingArgs,
    n: u64,
    noise_multiplier: Option<f64>,
    epsilon: Option<f64>,
    delta: Option<f64>,
) -> PyResult<Bound<'py, PyDict>> {
    let wanted = match (noise_multiplier, epsilon, delta) {
        (Some(noise_multiplier), None, Some(delta)) => {
            Wanted::Privacy { noise_multiplier, asked: Asked::Epsilon { delta } }
        }
        (Some(noise_multiplier), Some(epsilon), None) => {
            Wanted::Privacy { noise_multiplier, asked: Asked::Delta { epsilon } }
        }
        (None, Some(epsilon), Some(delta)) => Wanted::Noise { epsilon, delta },
        _ => {
            let rule = "two of noise_multiplier, epsilon and delta must be given";
            return Err(invalid("noise_multiplier", rule));
        }
    };
    let asked = Question { sampling: sampling.try_into()?, steps: n, wanted };
    let found = match connection.place.any() {
        Some(client) => {
            connection.driver.wait(py, None, async { Ok(client.analysis().privacy(asked).await?) })?
        }
        None => connection.driver.wait_for_work(py, move |told| Ok(asked.answer(&gone(told))?))?,
    };
    let Account { epsilon, delta, noise_multiplier, lower, method, adjacency, interval, order } = found;
    let dict = PyDict::new(py);
    dict.set_item("epsilon", epsilon)?;
    dict.set_item("delta", delta)?;
    dict.set_item("noise_multiplier", noise_multiplier)?;
    dict.set_item("method", method.name())?;
    dict.set_item("adjacency", adjacency.name())?;
    dict.set_item("lower", lower)?;
    dict.set_item("interval", interval)?;
    dict.set_item("order", order)?;
    Ok(dict)
}

/// What the noise multiplier of a strategy is over, once it is checked to fit the sampling.
#[pyfunction]
pub(crate) fn accounting_unit(
    py: Python<'_>,
    connection: &Connection,
    sampling: SamplingArgs,
    strategy_json: &str,
    n: u64,
    participation: ParticipationArgs,
) -> PyResult<f64> {
    let strategy = question("strategy", strategy_json, n)?;
    let (sampling, participation) = (Sampling::try_from(sampling)?, participation.into());
    connection.driver.wait_for_work(py, move |told| {
        let found = unit(sampling, &strategy, n, participation, &gone(told));
        found.map_err(Failure::from)
    })
}
