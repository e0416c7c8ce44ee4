//! An axis: a range, how values are spread over it, and the numbers at it.

use std::ops::Range;

use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};

use crate::output::count;

/// Numbers at a linear axis, about.
const LINEAR_TICKS: f64 = 6.0;
/// A logarithmic axis of more powers of ten than this has numbers only at these.
const FINE_DECADES: f64 = 2.5;
/// Powers of ten that have numbers, at most.
const MAX_DECADE_TICKS: i32 = 8;
/// A logarithmic axis of more powers of ten than this has no lines between them.
const LIGHT_DECADES: f64 = 6.0;
/// What an axis has beyond the values, as a part of their range.
const MARGIN: f64 = 0.06;

/// How values are spread over an axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scale {
    /// Evenly, from zero on.
    Linear,
    /// By their logarithm. They must be positive.
    Log,
}

impl Scale {
    /// Logarithmic where the values, which must be positive, differ by a factor of ten.
    pub(crate) fn suiting(values: impl IntoIterator<Item = f64>) -> Self {
        let Range { start, end } = extent(values);
        if end >= 10.0 * start { Self::Log } else { Self::Linear }
    }
}

/// An axis: a range, how values are spread over it, and the numbers at it.
#[derive(Clone, Debug)]
pub(crate) struct Axis {
    pub(super) label: String,
    scale: Scale,
    range: Range<f64>,
    /// Lines of the grid with their numbers.
    ticks: Vec<(f64, String)>,
    /// Lines of the grid without.
    light: Vec<f64>,
}

impl Axis {
    /// An axis that has room for all of the values. `label` tells what they are, and their unit.
    pub(crate) fn fit(label: &str, scale: Scale, values: impl IntoIterator<Item = f64>) -> Self {
        let Range { start, end } = extent(values);
        let range = match scale {
            Scale::Linear => 0.0..end * (1.0 + MARGIN),
            Scale::Log => {
                // A single value stands in the middle.
                let decades = (end / start).log10();
                let factor = 10_f64.powf(if decades > 0.0 { decades * MARGIN } else { 0.6 });
                start / factor..end * factor
            }
        };
        Self::spanning(label, scale, range)
    }

    /// An axis of just this range.
    pub(crate) fn spanning(label: &str, scale: Scale, range: Range<f64>) -> Self {
        let (ticks, light) = match scale {
            Scale::Linear => linear_lines(&range),
            Scale::Log => log_lines(&range),
        };
        let ticks = ticks.into_iter().map(|tick| (tick, count(tick))).collect();
        Self { label: label.to_owned(), scale, range, ticks, light }
    }

    /// The same axis with the grid's lines, and what is written there, chosen by the caller.
    pub(crate) fn with_ticks<'a>(mut self, ticks: impl IntoIterator<Item = (f64, &'a str)>) -> Self {
        let ticks = ticks.into_iter().filter(|(tick, _)| (self.range.start..=self.range.end).contains(tick));
        self.ticks = ticks.map(|(tick, label)| (tick, label.to_owned())).collect();
        self.light.clear();
        self
    }

    /// Where a value lies, from 0 to 1.
    fn position(&self, value: f64) -> f64 {
        let Range { start, end } = self.range;
        match self.scale {
            Scale::Linear => (value - start) / (end - start),
            Scale::Log => (value / start).ln() / (end / start).ln(),
        }
    }
}

impl Ranged for Axis {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, (low, high): (i32, i32)) -> i32 {
        low + (f64::from(high - low) * self.position(*value)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        if hint.weight().allow_light_points() {
            return self.light.clone();
        }
        self.ticks.iter().map(|(tick, _)| *tick).collect()
    }

    fn range(&self) -> Range<f64> {
        self.range.clone()
    }
}

impl ValueFormatter<f64> for Axis {
    fn format_ext(&self, value: &f64) -> String {
        self.ticks.iter().find(|(tick, _)| tick == value).map(|(_, label)| label.clone()).unwrap_or_default()
    }
}

/// From the least to the greatest; a range of some kind where there are none.
fn extent(values: impl IntoIterator<Item = f64>) -> Range<f64> {
    let mut values = values.into_iter().filter(|value| value.is_finite());
    let Some(first) = values.next() else { return 1.0..1.0 };
    values.fold(first..first, |Range { start, end }, value| start.min(value)..end.max(value))
}

fn linear_lines(range: &Range<f64>) -> (Vec<f64>, Vec<f64>) {
    let about = ((range.end - range.start) / LINEAR_TICKS).max(f64::MIN_POSITIVE);
    let decade = 10_f64.powf(about.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|factor| factor * decade).into_iter().find(|step| *step >= about);
    let step = step.unwrap_or(about);
    let (first, last) = ((range.start / step).ceil() as i64, (range.end / step).floor() as i64);
    ((first..=last).map(|i| i as f64 * step).collect(), Vec::new())
}

fn log_lines(range: &Range<f64>) -> (Vec<f64>, Vec<f64>) {
    let decades = (range.end / range.start).log10();
    let (first, last) = (range.start.log10().floor() as i32, range.end.log10().ceil() as i32);
    let numbered: &[f64] = if decades <= FINE_DECADES { &[1.0, 2.0, 5.0] } else { &[1.0] };
    let between: &[f64] =
        if decades <= LIGHT_DECADES { &[2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0] } else { &[] };
    let stride = ((last - first) / MAX_DECADE_TICKS + 1) as usize;
    let lines = |exponents: &mut dyn Iterator<Item = i32>, factors: &[f64]| -> Vec<f64> {
        let lines =
            exponents.flat_map(|exponent| factors.iter().map(move |factor| factor * 10_f64.powi(exponent)));
        lines.filter(|line| (range.start..=range.end).contains(line)).collect()
    };
    (lines(&mut (first..=last).step_by(stride), numbered), lines(&mut (first..=last), between))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(axis: &Axis) -> Vec<&str> {
        axis.ticks.iter().map(|(_, label)| label.as_str()).collect()
    }

    #[test]
    fn scales_have_numbers_that_people_write() {
        let axis = |scale, values: [f64; 2]| Axis::fit("x", scale, values);
        assert_eq!(labels(&axis(Scale::Log, [1e3, 1e7])), ["1k", "10k", "100k", "1M", "10M"]);
        assert_eq!(labels(&axis(Scale::Log, [0.011, 0.3])), ["0.01", "0.02", "0.05", "0.1", "0.2"]);
        assert_eq!(labels(&axis(Scale::Log, [1e3, 1e3])), ["500", "1k", "2k"]);
        assert_eq!(labels(&axis(Scale::Linear, [1.0, 2.2])), ["0", "0.5", "1", "1.5", "2"]);
        assert!((4..=8).contains(&labels(&axis(Scale::Log, [1e-30, 1e30])).len()));
    }

    #[test]
    fn values_keep_their_order_and_stay_inside() {
        for scale in [Scale::Linear, Scale::Log] {
            let values = [0.3, 4.0, 17.0, 90.0];
            let axis = Axis::fit("x", scale, values);
            let places = values.map(|value| axis.map(&value, (0, 1000)));
            assert!(places.is_sorted() && places[0] > 0 && places[3] < 1000, "{places:?}");
        }
    }

    #[test]
    fn what_differs_much_is_told_by_its_logarithm() {
        assert_eq!(Scale::suiting([1.0, 9.0]), Scale::Linear);
        assert_eq!(Scale::suiting([1.0, 100.0, 10.0]), Scale::Log);
        assert_eq!(Scale::suiting([3.0]), Scale::Linear);
    }
}
