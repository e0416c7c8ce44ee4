//! A session's handle, in bytes: trees are Python's business.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use noised::session::{KeyOrigin, Rewind, SessionSpec, Source, WhenFull};
use noised::{DType, ShardCut};
use noised_client::{LocalSession, SessionInfo, ShardedSession};
use numpy::{PyArray1, PyArrayMethods, PyReadonlyArray1};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};
use tokio::sync::Mutex;
use tokio::time::timeout;

use crate::error::{Failure, invalid, unusable};
use crate::runtime::{CancelToken, Driver};

/// Where a session is held.
pub(crate) enum Held {
    /// By one server.
    Server(Box<noised_client::Session>),
    /// In shards, by several.
    Sharded(Box<ShardedSession>),
    /// By this process.
    Local(LocalSession),
}

/// A session. Steps are taken one after the other, whichever thread asks.
#[pyclass(frozen, module = "noised._noised")]
pub(crate) struct Session {
    driver: Arc<Driver>,
    held: Arc<Mutex<Held>>,
    facts: Facts,
}

/// What does not change.
struct Facts {
    /// The names, of every shard.
    names: Vec<String>,
    fingerprints: Vec<[u8; 32]>,
    step_bytes: usize,
    input_bytes: usize,
    /// The lanes held, in the whole tree.
    lanes: (u64, u64),
    source: &'static str,
    /// The format of every leaf of an answer, where it is not that of the leaf.
    answer_dtype: Option<&'static str>,
    horizon: Option<u64>,
    /// Path, format and shape of every leaf of the whole tree.
    leaves: Vec<(String, &'static str, Vec<u64>)>,
    resumed: bool,
    is_shard: bool,
    is_local: bool,
}

impl Facts {
    fn of(held: &Held) -> Result<Self, Failure> {
        let of_server = |session: &noised_client::Session| {
            (session.name().to_owned(), *session.fingerprint(), session.info().resumed)
        };
        let parts: Vec<(String, [u8; 32], bool)> = match held {
            Held::Server(session) => vec![of_server(session)],
            Held::Sharded(session) => session.shards().iter().map(of_server).collect(),
            Held::Local(session) => {
                vec![(session.name().to_owned(), *session.fingerprint(), session.info()?.resumed)]
            }
        };
        let (spec, step_bytes, input_bytes) = match held {
            Held::Server(session) => (session.spec(), session.step_bytes(), session.input_bytes()),
            Held::Sharded(session) => (session.spec(), session.step_bytes(), session.input_bytes()),
            Held::Local(session) => (session.spec(), session.step_bytes(), session.input_bytes()),
        };
        let lanes = spec.shard.lanes(&spec.tree)?;
        let leaves = spec.tree.leaves().iter();
        Ok(Self {
            names: parts.iter().map(|(name, _, _)| name.clone()).collect(),
            fingerprints: parts.iter().map(|(_, fingerprint, _)| *fingerprint).collect(),
            resumed: parts.iter().any(|(_, _, resumed)| *resumed),
            step_bytes,
            input_bytes,
            lanes: (lanes.start, lanes.end),
            source: spec.source.kind(),
            answer_dtype: match &spec.source {
                Source::Privatize { noise: _, answer_dtype } => answer_dtype.map(DType::name),
                Source::Input | Source::Gaussian(_) => None,
            },
            horizon: spec.horizon,
            leaves: leaves.map(|leaf| (leaf.path.clone(), leaf.dtype.name(), leaf.shape.clone())).collect(),
            is_shard: spec.shard.count > 1,
            is_local: matches!(held, Held::Local(_)),
        })
    }
}

impl Session {
    pub(crate) fn new(driver: Arc<Driver>, held: Held) -> Result<Self, Failure> {
        let facts = Facts::of(&held)?;
        Ok(Self { driver, held: Arc::new(Mutex::new(held)), facts })
    }

    async fn settle(&self) -> noised_client::Result<()> {
        match &mut *self.held.lock().await {
            Held::Server(session) => session.settle().await,
            Held::Sharded(session) => session.settle().await,
            Held::Local(_) => Ok(()),
        }
    }

    /// A step of a session in this process that takes a while: on a thread of its own, so that a signal is
    /// heard meanwhile. A step that the caller gave up is taken all the same; the next request for the step
    /// gets its answer.
    fn take_large(
        &self,
        py: Python<'_>,
        step: u64,
        pieces: Option<&[&[u8]]>,
        output: &mut [u8],
        cancel: Option<&CancelToken>,
    ) -> PyResult<()> {
        if output.len() != self.facts.step_bytes {
            let rule = format!("must have {} bytes, found {}", self.facts.step_bytes, output.len());
            return Err(invalid("output", rule));
        }
        let answer = self.driver.wait(py, cancel, async {
            let mut held = Arc::clone(&self.held).lock_owned().await;
            let input = match &mut *held {
                Held::Local(session) => pieces.map(|pieces| session.gather(pieces)).transpose()?,
                Held::Server(_) | Held::Sharded(_) => None,
            };
            let taking = tokio::task::spawn_blocking(move || match (&mut *held, input) {
                (Held::Local(session), None) => session.fetch(step),
                (Held::Local(session), Some(input)) => {
                    let taken = session.multiply_next(step, input.clone());
                    session.reuse(input);
                    taken
                }
                (Held::Server(_) | Held::Sharded(_), _) => Ok(Bytes::new()),
            });
            Ok(taking.await.map_err(|e| unusable(&e.to_string()))??)
        })?;
        py.detach(|| noised_client::copy_large(&answer, output));
        Ok(())
    }
}

/// How long a handle waits to be told where a session stands whose rewind broke off.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(2);

/// Bytes of a local step from which on it is taken on a thread of its own: the hand-over is nothing beside
/// it.
const LARGE_STEP: usize = 4 << 20;

#[pymethods]
impl Session {
    #[getter]
    fn names(&self) -> Vec<String> {
        self.facts.names.clone()
    }

    #[getter]
    fn fingerprints(&self) -> Vec<Vec<u8>> {
        self.facts.fingerprints.iter().map(|fingerprint| fingerprint.to_vec()).collect()
    }

    #[getter]
    fn step_bytes(&self) -> usize {
        self.facts.step_bytes
    }

    #[getter]
    fn input_bytes(&self) -> usize {
        self.facts.input_bytes
    }

    #[getter]
    fn lanes(&self) -> (u64, u64) {
        self.facts.lanes
    }

    #[getter]
    fn source(&self) -> &'static str {
        self.facts.source
    }

    #[getter]
    fn answer_dtype(&self) -> Option<&'static str> {
        self.facts.answer_dtype
    }

    #[getter]
    fn horizon(&self) -> Option<u64> {
        self.facts.horizon
    }

    #[getter]
    fn leaves(&self) -> Vec<(String, &'static str, Vec<u64>)> {
        self.facts.leaves.clone()
    }

    #[getter]
    fn resumed(&self) -> bool {
        self.facts.resumed
    }

    #[getter]
    fn is_shard(&self) -> bool {
        self.facts.is_shard
    }

    /// The step that comes next, as far as this handle knows.
    fn next_step(&self, py: Python<'_>) -> PyResult<u64> {
        self.driver.wait(py, None, async {
            Ok(match &*self.held.lock().await {
                Held::Server(session) => session.next_step(),
                Held::Sharded(session) => session.next_step(),
                Held::Local(session) => session.next_step(),
            })
        })
    }

    /// A step: from the bytes of `pieces`, or from nothing where there are none, into `output`.
    #[pyo3(signature = (step, pieces, output, cancel=None))]
    fn take(
        &self,
        py: Python<'_>,
        step: u64,
        pieces: Option<Vec<PyReadonlyArray1<'_, u8>>>,
        output: &Bound<'_, PyArray1<u8>>,
        cancel: Option<&CancelToken>,
    ) -> PyResult<()> {
        let mut output = output.try_readwrite().map_err(|e| invalid("output", e))?;
        let output = output.as_slice_mut().map_err(|e| invalid("output", e))?;
        let pieces = pieces.as_deref().map(slices).transpose()?;
        if self.facts.is_local && output.len() >= LARGE_STEP {
            return self.take_large(py, step, pieces.as_deref(), output, cancel);
        }
        self.driver.wait(py, cancel, async {
            match (&mut *self.held.lock().await, pieces) {
                (Held::Server(session), None) => session.fetch_into(step, output).await?,
                (Held::Server(session), Some(pieces)) => {
                    session.multiply_next_pieces_into(step, &pieces, output).await?;
                }
                (Held::Sharded(session), None) => session.fetch_into(step, output).await?,
                (Held::Sharded(session), Some(pieces)) => {
                    session.multiply_next_pieces_into(step, &pieces, output).await?;
                }
                (Held::Local(session), None) => session.fetch_into(step, output)?,
                (Held::Local(session), Some(pieces)) => {
                    session.multiply_next_pieces_into(step, &pieces, output)?;
                }
            }
            Ok(())
        })
    }

    /// Keeps the state of a step. Gives the tokens of the shards with which its noise is gone on with, if the
    /// session is gone.
    fn keep_state(&self, py: Python<'_>, step: u64, release_oldest: bool) -> PyResult<Option<Vec<Vec<u8>>>> {
        let when_full = if release_oldest { WhenFull::ReleaseOldest } else { WhenFull::Refuse };
        self.driver.wait(py, None, async {
            let owned = |tokens: Vec<&[u8]>| tokens.into_iter().map(<[u8]>::to_vec).collect();
            Ok(match &mut *self.held.lock().await {
                Held::Server(session) => {
                    session.keep_state(step, when_full).await?;
                    session.resume_token().map(|token| owned(vec![token]))
                }
                Held::Sharded(session) => {
                    session.keep_state(step, when_full).await?;
                    session.resume_tokens().map(owned)
                }
                Held::Local(session) => {
                    session.keep_state(step, when_full)?;
                    session.resume_token().map(|token| owned(vec![token]))
                }
            })
        })
    }

    /// Goes back to `step`. `on_progress` gets the steps done and all there are to do.
    #[pyo3(signature = (step, allow_divergence, on_progress=None))]
    fn rewind(
        &self,
        py: Python<'_>,
        step: u64,
        allow_divergence: bool,
        on_progress: Option<Py<PyAny>>,
    ) -> PyResult<()> {
        let failed = std::sync::Mutex::new(None);
        let call_off = CancelToken::default();
        // What computes in this thread hears of signals here.
        let tell = |done: u64, total: u64| {
            let told = Python::attach(|py| {
                py.check_signals()?;
                on_progress.as_ref().map_or(Ok(()), |call| call.call1(py, (done, total)).map(drop))
            });
            let Err(error) = told else { return ControlFlow::Continue(()) };
            *failed.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(error);
            call_off.cancel();
            ControlFlow::Break(())
        };
        let note = |done: u64, total: u64| {
            let _called_off = tell(done, total);
        };
        let rewound = self.driver.wait(py, Some(&call_off), async {
            match &mut *self.held.lock().await {
                Held::Server(session) => session.rewind(step, allow_divergence, note).await?,
                Held::Sharded(session) => session.rewind(step, allow_divergence, note).await?,
                Held::Local(session) => session.rewind(step, allow_divergence, tell)?,
            }
            Ok(())
        });
        let rewound = match failed.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner) {
            Some(error) => Err(error),
            None => rewound,
        };
        if rewound.is_err() {
            // Where that cannot be told soon, the handle asks before it takes a step.
            let _of_asking = self.driver.wait(py, None, async {
                Ok(timeout(SETTLE_TIMEOUT, self.settle()).await.unwrap_or(Ok(()))?)
            });
        }
        rewound
    }

    /// What makes the same session again, but for keys: of the matrix and where the input comes from. The
    /// tree is in `leaves`.
    fn description<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let spec = self.driver.wait(py, None, async {
            Ok(match &*self.held.lock().await {
                Held::Server(session) => session.spec().clone(),
                Held::Sharded(session) => session.spec().clone(),
                Held::Local(session) => session.spec().clone(),
            })
        })?;
        let SessionSpec { matrix, tree: _, shard, source, precision, horizon } = &spec;
        let noise = source.noise();
        let noise_id = noise.and_then(|noise| match &noise.key {
            KeyOrigin::Derived { noise_id } => Some(noise_id.clone()),
            KeyOrigin::Fresh | KeyOrigin::Given => None,
        });
        let cut = match shard.cut {
            ShardCut::Lanes => "lanes",
            ShardCut::Leaves => "leaves",
        };
        let dict = PyDict::new(py);
        dict.set_item("matrix", matrix.to_json())?;
        dict.set_item("shard", (shard.count > 1).then_some((shard.index, shard.count)))?;
        dict.set_item("cut", cut)?;
        dict.set_item("source", source.kind())?;
        dict.set_item("stddev", noise.map_or(0.0, |noise| noise.stddev))?;
        dict.set_item("noise_id", noise_id)?;
        dict.set_item("answer_dtype", self.facts.answer_dtype)?;
        dict.set_item("precision", precision.name())?;
        dict.set_item("horizon", horizon)?;
        Ok(dict)
    }

    /// Asks again where the session stands.
    fn refresh(&self, py: Python<'_>) -> PyResult<()> {
        self.driver.wait(py, None, async {
            match &mut *self.held.lock().await {
                Held::Server(session) => session.refresh().await?,
                Held::Sharded(session) => session.refresh().await?,
                Held::Local(session) => session.refresh()?,
            }
            Ok(())
        })
    }

    /// What was said last of the session, or of each of its shards.
    fn info<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let infos = self.driver.wait(py, None, async {
            Ok(match &*self.held.lock().await {
                Held::Server(session) => vec![session.info().clone()],
                Held::Sharded(session) => session.shards().iter().map(|shard| shard.info().clone()).collect(),
                Held::Local(session) => vec![session.info()?],
            })
        })?;
        let infos: Vec<_> = infos.iter().map(|info| to_dict(py, info)).collect::<PyResult<_>>()?;
        PyList::new(py, infos)
    }
}

/// Memory of Python's that stays as it is while the interpreter is let go: `noised` alone holds it then, or
/// says not to change it.
fn slices<'a>(pieces: &'a [PyReadonlyArray1<'_, u8>]) -> PyResult<Vec<&'a [u8]>> {
    pieces.iter().map(|piece| piece.as_slice().map_err(|e| invalid("payload", e))).collect()
}

/// What a server tells of a session.
pub(crate) fn to_dict<'py>(py: Python<'py>, info: &SessionInfo) -> PyResult<Bound<'py, PyDict>> {
    let SessionInfo {
        name,
        spec: _,
        fingerprint,
        next_step,
        next_offset: _,
        lanes,
        step_bytes,
        memory_bytes,
        resumed,
        options,
        kept_steps,
        rewinds,
        rewind_count,
        released_steps,
        noise_started_over,
        last_used_unix_seconds,
        owner,
        epoch,
    } = info;
    let dict = PyDict::new(py);
    dict.set_item("name", name)?;
    dict.set_item("fingerprint", fingerprint.to_vec())?;
    dict.set_item("next_step", next_step)?;
    dict.set_item("lanes", lanes)?;
    dict.set_item("step_bytes", step_bytes)?;
    dict.set_item("memory_bytes", memory_bytes)?;
    dict.set_item("resumed", resumed)?;
    dict.set_item("lookahead", options.map(|options| options.lookahead))?;
    dict.set_item("kept_steps", kept_steps)?;
    let rewinds = rewinds.iter().map(|rewind| {
        let Rewind { from_step, to_step, unix_seconds, allow_divergence } = *rewind;
        (from_step, to_step, unix_seconds, allow_divergence)
    });
    dict.set_item("rewinds", rewinds.collect::<Vec<_>>())?;
    dict.set_item("rewind_count", rewind_count)?;
    dict.set_item("released_steps", released_steps)?;
    dict.set_item("noise_started_over", noise_started_over)?;
    dict.set_item("last_used_unix_seconds", last_used_unix_seconds)?;
    dict.set_item("owner", owner)?;
    dict.set_item("epoch", epoch)?;
    Ok(dict)
}
