//! The threads that multiply, and how an async task waits for them.
//!
//! Async threads never compute more than a few microseconds: a chunk goes to a pool of its own, within which
//! it is split between threads. No lock is taken inside the pool. (A pool thread that waits for its half of a
//! chunk picks up other jobs meanwhile, and one of those might want the lock that it holds.)

use std::panic::{AssertUnwindSafe, catch_unwind};

use noised::noise::scrub_deep_stack;
use noised_proto::ServiceError;
use rayon::{ThreadPool, ThreadPoolBuildError, ThreadPoolBuilder};
use tokio::sync::oneshot;

/// A pool of threads that multiply.
#[derive(Debug)]
pub(crate) struct Compute {
    pool: ThreadPool,
}

impl Compute {
    /// Starts the threads; `name` is what tools that list threads show.
    pub(crate) fn new(name: &'static str, threads: usize) -> Result<Self, ThreadPoolBuildError> {
        let pool = ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(move |i| format!("{name}-{i}"))
            .build()?;
        Ok(Self { pool })
    }

    /// Overwrites what ciphers left of keys on the stacks of the threads, each when it is free.
    pub(crate) fn scrub_stacks(&self) {
        self.pool.spawn_broadcast(|_| scrub_deep_stack());
    }

    /// Runs `work` in the pool. Where it panics, the panic is logged by its hook and ends here.
    pub(crate) async fn run<R: Send + 'static>(
        &self,
        work: impl FnOnce() -> R + Send + 'static,
    ) -> Result<R, ServiceError> {
        let (answer, result) = oneshot::channel();
        self.pool.spawn(move || {
            if let Ok(result) = catch_unwind(AssertUnwindSafe(work)) {
                // The task that asked may have been cancelled: its work is done all the same.
                let _ = answer.send(result);
            }
        });
        result.await.map_err(|_| ServiceError::Internal)
    }
}
