//! Results as a figure: percentiles of latency, and throughput by lanes.

use super::case::Measured;
use super::report::Report;
use crate::output::count;
use crate::plot::{Axis, Figure, Panel, Scale, Series};

/// Points of a curve from one step in ten to one in a hundred, and so on.
const POINTS_PER_DECADE: f64 = 40.0;

pub(super) fn figure(report: &Report) -> Figure {
    Figure {
        title: title(report),
        panels: vec![latency_panel(&report.cases), throughput_panel(&report.cases)],
    }
}

fn title(report: &Report) -> String {
    let settings = report.cases.first().map(|measured| measured.case.settings());
    format!("noised at {}: {}", report.server, settings.unwrap_or_default())
}

/// What is told apart is how many steps are slower, 1 in 10, 1 in 100, and so on: all else is above 99
/// percent.
fn latency_panel(cases: &[Measured]) -> Panel {
    let percentiles =
        [(1.0, "0"), (2.0, "50"), (10.0, "90"), (1e2, "99"), (1e3, "99.9"), (1e4, "99.99"), (1e5, "99.999")];
    let name = |case: &Measured| format!("{}, {} steps/s", case.case.title(), count(case.steps_per_second()));
    let curve = |(i, case): (usize, &Measured)| Series::line(i, percentile_curve(case)).named(name(case));
    let series: Vec<Series> = cases.iter().enumerate().map(curve).collect();
    let latencies = || series.iter().flat_map(Series::ys);
    let end = series.iter().flat_map(Series::xs).fold(10.0, f64::max);
    let x = Axis::spanning("percentile of steps", Scale::Log, 1.0..end).with_ticks(percentiles);
    let y = Axis::fit("latency of a step, ms", Scale::suiting(latencies()), latencies());
    Panel { title: "Latency".into(), x, y, series }
}

fn throughput_panel(cases: &[Measured]) -> Panel {
    let point = |case: &Measured| (case.case.lanes as f64, case.gigabytes_per_second());
    let mut points: Vec<(f64, f64)> = cases.iter().map(point).collect();
    points.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (lanes, rates) = (|| points.iter().map(|(lanes, _)| *lanes), || points.iter().map(|(_, rate)| *rate));
    let x = Axis::fit("lanes of a step", Scale::Log, lanes());
    let y = Axis::fit("payload each way, GB/s", Scale::suiting(rates()), rates());
    let markers = cases.iter().enumerate().map(|(i, case)| Series::marker(i, point(case)));
    let series = [Series::guide(points.clone())].into_iter().chain(markers).collect();
    Panel { title: "Throughput".into(), x, y, series }
}

/// The latency that 1 step in `x` has or exceeds, up to the slowest of all.
fn percentile_curve(case: &Measured) -> Vec<(f64, f64)> {
    let steps = case.steps.max(2) as f64;
    let decades = steps.log10();
    let points = (decades * POINTS_PER_DECADE).ceil() as u32;
    let at = |i: u32| {
        let one_in = 10_f64.powf(decades * f64::from(i) / f64::from(points));
        // Half a step more, so that the last point is the last step in spite of rounding.
        let quantile = 1.0 - 1.0 / one_in + 0.5 / steps;
        (one_in, case.latency_ms(quantile.min(1.0)))
    };
    (0..=points).map(at).collect()
}
