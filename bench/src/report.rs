//! Samples of noised and of a peer, taken in turns, as rows of a table.

use std::path::Path;
use std::time::Duration;

use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

/// One comparison. `ratio` is the median over rounds of how many times better noised is than the peer in that
/// round.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) measure: String,
    pub(crate) lanes: usize,
    pub(crate) noised: f64,
    pub(crate) peer: f64,
    pub(crate) peer_name: String,
    pub(crate) unit: &'static str,
    pub(crate) ratio: f64,
    pub(crate) ratio_min: f64,
    pub(crate) ratio_max: f64,
}

/// What is measured, in what unit, and which way is better.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Unit {
    Milliseconds,
    Microseconds,
    GigabytesPerSecond,
    MillionLanesPerSecond,
    MiB,
    Loss,
    StepsPerSecond,
    Objects,
}

impl Unit {
    fn name(self) -> &'static str {
        match self {
            Self::Milliseconds => "ms",
            Self::Microseconds => "us",
            Self::GigabytesPerSecond => "GB/s",
            Self::MillionLanesPerSecond => "million lanes/s",
            Self::MiB => "MiB",
            Self::Loss => "sensitivity^2 x error",
            Self::StepsPerSecond => "steps/s",
            Self::Objects => "objects",
        }
    }

    fn less_is_better(self) -> bool {
        matches!(self, Self::Milliseconds | Self::Microseconds | Self::MiB | Self::Loss | Self::Objects)
    }
}

impl Row {
    /// From one sample a round of each.
    pub(crate) fn new(
        measure: impl Into<String>,
        lanes: usize,
        unit: Unit,
        noised: &[f64],
        (peer_name, peer): (&str, &[f64]),
    ) -> Self {
        let ratio =
            |(noised, peer): (&f64, &f64)| if unit.less_is_better() { peer / noised } else { noised / peer };
        let ratios: Vec<f64> = noised.iter().zip(peer).map(ratio).collect();
        let (ratio_min, ratio_max) = ratios
            .iter()
            .fold((f64::INFINITY, 0.0_f64), |(min, max), &ratio| (min.min(ratio), max.max(ratio)));
        Self {
            measure: measure.into(),
            lanes,
            noised: median(noised),
            peer: median(peer),
            peer_name: peer_name.to_owned(),
            unit: unit.name(),
            ratio: median(&ratios),
            ratio_min,
            ratio_max,
        }
    }
}

/// The middle value; the lower of two.
pub(crate) fn median(values: &[f64]) -> f64 {
    quantile(values, 0.5)
}

/// The value that this part of the values lies at or below.
pub(crate) fn quantile(values: &[f64], part: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().saturating_sub(1);
    sorted.get((last as f64 * part) as usize).copied().unwrap_or(f64::NAN)
}

pub(crate) fn milliseconds(times: &[Duration]) -> f64 {
    median(&times.iter().map(|time| time.as_secs_f64() * 1e3).collect::<Vec<_>>())
}

/// The table, as Markdown.
pub(crate) fn markdown(rows: &[Row]) -> String {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN);
    table.set_header(["measure", "lanes", "noised", "peer", "", "unit", "ratio", "spread"]);
    for row in rows {
        table.add_row([
            row.measure.clone(),
            row.lanes.to_string(),
            number(row.noised),
            row.peer_name.clone(),
            number(row.peer),
            row.unit.to_owned(),
            ratio(row, row.ratio),
            format!("{}-{}", ratio(row, row.ratio_min), ratio(row, row.ratio_max)),
        ]);
    }
    for index in [1, 2, 4, 6, 7] {
        if let Some(column) = table.column_mut(index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.to_string()
}

/// Losses differ by little.
fn ratio(row: &Row, ratio: f64) -> String {
    if row.unit == Unit::Loss.name() { format!("{ratio:.5}") } else { format!("{ratio:.2}") }
}

/// Three digits that count.
fn number(value: f64) -> String {
    match value.abs() {
        x if x >= 100.0 => format!("{value:.0}"),
        x if x >= 10.0 => format!("{value:.1}"),
        x if x >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// Writes the rows as JSON.
pub(crate) fn write(rows: &[Row], path: &Path) -> anyhow::Result<()> {
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory)?;
    }
    std::fs::write(path, serde_json::to_vec_pretty(rows)?)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_over_one_means_better() {
        let times = Row::new("a", 1, Unit::Milliseconds, &[1.0, 2.0, 4.0], ("b", &[3.0, 4.0, 6.0]));
        assert_eq!((times.noised, times.peer, times.ratio), (2.0, 4.0, 2.0));
        assert_eq!((times.ratio_min, times.ratio_max), (1.5, 3.0));
        let speeds = Row::new("a", 1, Unit::GigabytesPerSecond, &[8.0], ("b", &[4.0]));
        assert_eq!(speeds.ratio, 2.0);
    }

    #[test]
    fn quantiles() {
        let values: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        assert_eq!((median(&values), quantile(&values, 0.99), quantile(&values, 1.0)), (50.0, 99.0, 100.0));
    }
}
