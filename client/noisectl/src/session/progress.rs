//! How far a run is, while it goes and when it is done.

use std::cell::Cell;
use std::fmt;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;

use crate::failure::Failure;
use crate::output::{Format, bytes, print_fields, print_json};

/// Steps done in this run: a bar on stderr where that is a terminal, and a summary.
pub(super) struct Progress {
    bar: ProgressBar,
    end: u64,
    step_bytes: u64,
    /// The session's next step when the run began; `None` until there is a session.
    first: Cell<Option<u64>>,
    steps: Cell<u64>,
    started: Cell<Instant>,
}

impl Progress {
    /// Of a session that goes to `end`.
    pub(super) fn new(end: u64, step_bytes: u64) -> Self {
        let bar = ProgressBar::hidden();
        let (first, steps, started) = (Cell::new(None), Cell::new(0), Cell::new(Instant::now()));
        Self { bar, end, step_bytes, first, steps, started }
    }

    /// The session is there, and expects step `first`.
    pub(super) fn start(&self, first: u64) {
        self.bar.set_draw_target(ProgressDrawTarget::stderr());
        self.bar.set_length(self.end);
        let template = "{bar:30} {pos}/{len} steps, {msg}, {eta} left";
        if let Ok(style) = ProgressStyle::with_template(template) {
            self.bar.set_style(style);
        }
        self.bar.set_position(first.min(self.end));
        self.bar.reset_eta();
        self.first.set(Some(first));
        self.started.set(Instant::now());
    }

    /// The step that is expected next, once there is a session.
    pub(super) fn next_step(&self) -> Option<u64> {
        Some(self.first.get()? + self.steps.get())
    }

    /// A step is done.
    pub(super) fn step(&self) {
        self.steps.set(self.steps.get() + 1);
        self.bar.set_message(format!("{:.2} GB/s", self.gigabytes_per_second(self.started.get().elapsed())));
        self.bar.inc(1);
    }

    /// Payload that came down, as much as went up where the server draws nothing.
    fn gigabytes_per_second(&self, elapsed: Duration) -> f64 {
        (self.steps.get() * self.step_bytes) as f64 / 1e9 / elapsed.as_secs_f64().max(1e-9)
    }

    /// Prints the summary.
    pub(super) fn finish(self, name: &str, format: Format) -> Result<(), Failure> {
        let elapsed = self.started.get().elapsed();
        let (next_step, steps) = (self.next_step().unwrap_or(0), self.steps.get());
        self.bar.finish_and_clear();
        let (total, rate) = (steps * self.step_bytes, self.gigabytes_per_second(elapsed));
        match format {
            Format::Json => print_json(&json!({
                "name": name,
                "next_step": next_step,
                "steps": steps,
                "bytes": total,
                "seconds": elapsed.as_secs_f64(),
                "gb_per_s": rate,
            })),
            Format::Table => print_fields([
                ("session", name.to_owned()),
                ("next step", next_step.to_string()),
                ("steps", steps.to_string()),
                ("payload of answers", bytes(total)),
                ("seconds", format!("{:.3}", elapsed.as_secs_f64())),
                ("GB/s of answers", format!("{rate:.3}")),
            ]),
        }
    }
}

/// How far a run came that did not come to its end.
impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = self.end;
        match self.next_step() {
            Some(done) => write!(f, "{} of {end} steps are done", done.min(end)),
            None => write!(f, "none of {end} steps is done"),
        }
    }
}
