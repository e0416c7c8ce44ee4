//! The report: a table for each part, a line for each step.

use std::time::Instant;

/// Prints a part's first lines, and the header of its table. `last` is what the last column tells.
pub(crate) fn begin(about: &str, last: &str) {
    println!("\n{about}\n{:>4}  {:>12}  {:>9}  {:>6}  {last}", "step", "bytes", "ms", "GB/s");
}

/// Prints a step that took from `begun` until now to move `bytes`.
pub(crate) struct Timer(Instant);

impl Timer {
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    /// The step is over; what it moved, up and down.
    pub(crate) fn stop(self, bytes: usize) -> Timed {
        Timed { seconds: self.0.elapsed().as_secs_f64(), bytes }
    }
}

/// A step's bytes, and how long they took.
pub(crate) struct Timed {
    seconds: f64,
    bytes: usize,
}

impl Timed {
    pub(crate) fn print(&self, step: u64, last: &str) {
        let Self { seconds, bytes } = self;
        let rate = *bytes as f64 / seconds / 1e9;
        println!("{step:>4}  {bytes:>12}  {:>9.2}  {rate:>6.2}  {last}", seconds * 1e3);
    }
}
