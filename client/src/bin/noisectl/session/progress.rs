//! How far a run is, while it goes and when it is done.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use crate::failure::Failure;
use crate::output::{Format, bytes, print_fields, print_json};

/// Steps done in this run: a bar on stderr where that is a terminal, and a summary.
pub(super) struct Progress {
    bar: ProgressBar,
    step_bytes: u64,
    steps: u64,
    started: Instant,
}

impl Progress {
    /// Of a session at `first` that goes to `end`.
    pub(super) fn new(first: u64, end: u64, step_bytes: u64) -> Self {
        let bar = ProgressBar::new(end);
        let template = "{bar:30} {pos}/{len} steps, {msg}, {eta} left";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_position(first);
        bar.reset_eta();
        Self { bar, step_bytes, steps: 0, started: Instant::now() }
    }

    /// A step is done.
    pub(super) fn step(&mut self) {
        self.steps += 1;
        self.bar.set_message(format!("{:.2} GB/s", self.gigabytes_per_second(self.started.elapsed())));
        self.bar.inc(1);
    }

    /// Payload that came down, as much as went up where the server draws nothing.
    fn gigabytes_per_second(&self, elapsed: Duration) -> f64 {
        (self.steps * self.step_bytes) as f64 / 1e9 / elapsed.as_secs_f64().max(1e-9)
    }

    /// Prints the summary.
    pub(super) fn finish(self, name: &str, next_step: u64, format: Format) -> Result<(), Failure> {
        let elapsed = self.started.elapsed();
        self.bar.finish_and_clear();
        let (total, rate) = (self.steps * self.step_bytes, self.gigabytes_per_second(elapsed));
        match format {
            Format::Json => print_json(&json!({
                "name": name,
                "next_step": next_step,
                "steps": self.steps,
                "bytes": total,
                "seconds": elapsed.as_secs_f64(),
                "gb_per_s": rate,
            })),
            Format::Table => print_fields([
                ("session", name.to_owned()),
                ("next step", next_step.to_string()),
                ("steps", self.steps.to_string()),
                ("payload of answers", bytes(total)),
                ("seconds", format!("{:.3}", elapsed.as_secs_f64())),
                ("GB/s of answers", format!("{rate:.3}")),
            ]),
        }
    }
}
