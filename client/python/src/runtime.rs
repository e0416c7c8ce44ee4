//! How a Python thread waits: the interpreter is let go, signals are heard, and whoever wants to may call it
//! off.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use pyo3::prelude::*;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tokio_util::sync::CancellationToken;

use crate::error::{Failure, forked, reentrant, unusable};
use crate::log::tell;

/// How long a Ctrl-C may go unheard.
const SIGNALS_EVERY: Duration = Duration::from_millis(50);

/// Calls off a call that is under way in another thread, at any time and once for all.
#[pyclass(frozen, module = "noised._noised")]
#[derive(Default)]
pub(crate) struct CancelToken(CancellationToken);

#[pymethods]
impl CancelToken {
    #[new]
    fn new() -> Self {
        Self::default()
    }

    pub(crate) fn cancel(&self) {
        self.0.cancel();
    }
}

/// What drives a client's connections. It has no thread of its own: whoever waits drives, which spares every
/// step the waking of another thread.
pub(crate) struct Driver {
    /// There until it is dropped.
    runtime: Option<Runtime>,
    process: u32,
}

impl Driver {
    pub(crate) fn new() -> PyResult<Self> {
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|e| unusable(&format!("cannot start the network: {e}")))?;
        Ok(Self { runtime: Some(runtime), process: std::process::id() })
    }

    /// Waits for `future` with the interpreter let go.
    ///
    /// # Errors
    /// What the future fails with; what a handler of a signal raises, and [`Failure::Cancelled`]: the future
    /// is dropped then.
    pub(crate) fn wait<T: Send>(
        &self,
        py: Python<'_>,
        cancel: Option<&CancelToken>,
        future: impl Future<Output = Result<T, Failure>> + Send,
    ) -> PyResult<T> {
        // A child of a fork shares its parent's sockets: what both wrote would be one stream of nonsense.
        check_process(self.process, "the process was forked after it connected")?;
        // Progress and handlers of signals are called from within a wait.
        if Handle::try_current().is_ok() {
            return Err(reentrant());
        }
        let Some(runtime) = &self.runtime else {
            return Err(unusable("the network is gone"));
        };
        let waited = py.detach(|| runtime.block_on(interruptible(cancel, future)));
        tell(py)?;
        waited.map_err(PyErr::from)
    }

    /// Has `work` done on a thread of its own, and waits for it. `work` is told when nobody waits for it any
    /// more.
    ///
    /// # Errors
    /// As [`wait`](Self::wait).
    pub(crate) fn wait_for_work<T: Send + 'static>(
        &self,
        py: Python<'_>,
        work: impl FnOnce(&AtomicBool) -> Result<T, Failure> + Send + 'static,
    ) -> PyResult<T> {
        self.wait_for_news(py, |()| Ok(()), |told, _news| work(told))
    }

    /// The same for work that has news, which are heard in the thread that waits: the other one never enters
    /// the interpreter, which may end while it still works. Where `hear` fails, so does the wait.
    ///
    /// # Errors
    /// As [`wait`](Self::wait), and what `hear` fails with.
    pub(crate) fn wait_for_news<N: Send + 'static, T: Send + 'static>(
        &self,
        py: Python<'_>,
        mut hear: impl FnMut(N) -> Result<(), Failure> + Send,
        work: impl FnOnce(&AtomicBool, &mut dyn FnMut(N) -> bool) -> Result<T, Failure> + Send + 'static,
    ) -> PyResult<T> {
        let given_up = GivenUp(Arc::new(AtomicBool::new(false)));
        let told = Arc::clone(&given_up.0);
        self.wait(py, None, async move {
            let (sender, mut receiver) = mpsc::channel(1);
            let working = tokio::task::spawn_blocking(move || {
                let mut tell = |news| !told.load(Ordering::Relaxed) && sender.blocking_send(news).is_ok();
                work(&told, &mut tell)
            });
            while let Some(news) = receiver.recv().await {
                hear(news)?;
            }
            let worked = working.await.map_err(|e| unusable(&e.to_string()))?;
            drop(given_up);
            worked
        })
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        // Whoever lets go of the last reference may be Python's collector, in the middle of anything: nothing
        // is waited for.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Refuses to go on in another process than the one that began.
pub(crate) fn check_process(began_in: u32, what: &str) -> PyResult<()> {
    if std::process::id() == began_in { Ok(()) } else { Err(forked(what)) }
}

/// Says so when it is dropped.
struct GivenUp(Arc<AtomicBool>);

impl Drop for GivenUp {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

async fn interruptible<T>(
    cancel: Option<&CancelToken>,
    future: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    let mut future = std::pin::pin!(future);
    let mut signals = interval_at(Instant::now() + SIGNALS_EVERY, SIGNALS_EVERY);
    signals.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let cancelled = async {
        match cancel {
            Some(CancelToken(token)) => token.cancelled().await,
            None => std::future::pending().await,
        }
    };
    let mut cancelled = std::pin::pin!(cancelled);
    loop {
        tokio::select! {
            biased;
            () = &mut cancelled => return Err(Failure::Cancelled),
            done = &mut future => return done,
            _ = signals.tick() => Python::attach(|py| tell(py).and_then(|()| py.check_signals()))?,
        }
    }
}
