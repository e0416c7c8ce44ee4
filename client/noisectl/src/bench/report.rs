//! Results as a table and as JSON.

use std::io::Write;
use std::time::SystemTime;

use serde_json::{Value, json};

use super::case::{Case, Measured};
use super::worker::{Course, Goal, Mode};
use crate::failure::Failure;
use crate::files::OutFile;
use crate::output::{Format, count, print_json, print_line, print_note, print_table};

/// The percentiles that are told, with the quantiles that they are.
const PERCENTILES: [(&str, f64); 4] = [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999)];

/// What a bench found.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) server: String,
    pub(super) started: SystemTime,
    pub(super) cases: Vec<Measured>,
}

impl Report {
    pub(super) fn print(&self, format: Format) -> Result<(), Failure> {
        match format {
            Format::Json => print_json(&self.to_json()),
            Format::Table => self.print_table(),
        }
    }

    pub(super) fn write(&self, out: &OutFile) -> Result<(), Failure> {
        out.write(|out| writeln!(out, "{:#}", self.to_json()))
    }

    fn to_json(&self) -> Value {
        json!({
            "server": self.server,
            // This program's.
            "version": env!("CARGO_PKG_VERSION"),
            "started": humantime::format_rfc3339_seconds(self.started).to_string(),
            "cases": self.cases.iter().map(Measured::to_json).collect::<Vec<_>>(),
        })
    }

    fn print_table(&self) -> Result<(), Failure> {
        let header = ["lanes", "mode", "steps", "steps/s", "lanes/s", "GB/s each way"].map(str::to_owned);
        let latencies = ["mean ms"].into_iter().chain(PERCENTILES.map(|(name, _)| name)).chain(["max ms"]);
        let header = header.into_iter().chain(latencies.map(str::to_owned)).collect();
        print_table(header, self.cases.iter().map(Measured::to_row).collect())?;
        let Some(Measured { case, .. }) = self.cases.first() else { return Ok(()) };
        print_line("")?;
        print_note(&format!("{}.", case.settings()))?;
        print_note(
            "GB/s each way: payload sent, and as much again received; a GB is 10^9 bytes. \
             p50 to p99.9: percentiles of a step's latency, in ms.",
        )
    }
}

impl Measured {
    fn to_json(&self) -> Value {
        let Case { lanes, dtype, sessions, chunk_bytes, course, resolved } = &self.case;
        let Course { mode, warm_up, goal, horizon: _ } = course;
        let (steps_asked, duration_asked) = match goal {
            Goal::Steps(steps) => (Some(*steps), None),
            Goal::Duration(duration) => (None, Some(duration.as_secs_f64())),
        };
        json!({
            "lanes": lanes,
            "dtype": dtype,
            "precision": resolved.spec().precision,
            "matrix": resolved.spec().matrix,
            "step_bytes": self.case.step_bytes(),
            "sessions": sessions,
            "mode": mode.name(),
            "chunk_bytes": (*mode == Mode::Stream).then_some(chunk_bytes),
            "warm_up": warm_up,
            "steps_asked": steps_asked,
            "duration_asked_seconds": duration_asked,
            "steps": self.steps,
            "seconds": self.seconds,
            "steps_per_second": self.steps_per_second(),
            "lanes_per_second": self.lanes_per_second(),
            "gigabytes_per_second": self.gigabytes_per_second(),
            "latency_ms": self.latencies().map(|(name, ms)| (name.to_owned(), json!(ms))).collect::<Value>(),
        })
    }

    fn to_row(&self) -> Vec<String> {
        let settings =
            [self.case.lanes.to_string(), self.case.course.mode.name().to_owned(), self.steps.to_string()];
        let rates = [count(self.steps_per_second()), count(self.lanes_per_second())];
        let gigabytes = [digits(self.gigabytes_per_second())];
        settings
            .into_iter()
            .chain(rates)
            .chain(gigabytes)
            .chain(self.latencies().map(|(_, ms)| digits(ms)))
            .collect()
    }

    /// Milliseconds, with their names.
    fn latencies(&self) -> impl Iterator<Item = (&'static str, f64)> {
        let percentiles = PERCENTILES.map(|(name, quantile)| (name, self.latency_ms(quantile)));
        let max = self.latency.max() as f64 / 1e6;
        [("mean", self.latency.mean() / 1e6)].into_iter().chain(percentiles).chain([("max", max)])
    }

    /// The latency that so large a part of the steps does not exceed.
    pub(super) fn latency_ms(&self, quantile: f64) -> f64 {
        self.latency.value_at_quantile(quantile) as f64 / 1e6
    }
}

/// Three digits or, where it is larger, all before the point.
fn digits(value: f64) -> String {
    if value <= 0.0 {
        return "0".to_owned();
    }
    let before_point = value.log10().floor() as i32 + 1;
    format!("{value:.*}", (3 - before_point).clamp(0, 6) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_digits() {
        let shown = [0.0, 0.000_123_4, 0.012_34, 0.1234, 1.234, 12.34, 123.4, 1234.5].map(digits);
        assert_eq!(shown, ["0", "0.000123", "0.0123", "0.123", "1.23", "12.3", "123", "1234"]);
    }
}
