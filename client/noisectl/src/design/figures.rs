//! Figures of errors, of coefficients, and of what planes buy.

use noised::analysis::toeplitz_coefs;
use noised::design::Candidate;

use super::compared::Compared;
use crate::failure::Failure;
use crate::plot::{Axis, Figure, Panel, Scale, Series};

/// Points of a curve, about: more are not told apart.
const POINTS: usize = 400;

/// Coefficients that are drawn.
const COEFFICIENTS: u64 = 65_536;

/// The error of each query of one mechanism.
pub(super) fn errors(per_query: &[f64]) -> Figure {
    let series = vec![Series::line(0, thinned(per_query.iter().copied()))];
    let panel = panel("Error of each query", "query", "squared error at noise of variance 1", series);
    Figure { title: format!("{} queries", per_query.len()), panels: vec![panel] }
}

/// The errors of strategies at the same privacy, and the coefficients of those that are Toeplitz.
pub(super) fn compared(compared: &[Compared], n: u64) -> Result<Figure, Failure> {
    let of_errors = |(i, one): (usize, &Compared)| {
        let squared = one.sensitivity.squared;
        Series::line(i, thinned(one.errors.per_query.iter().map(|error| error * squared)))
            .named(one.name.clone())
    };
    let series = compared.iter().enumerate().map(of_errors).collect();
    let label = "squared error times squared sensitivity";
    let mut panels = vec![panel("Error of each query at the same privacy", "query", label, series)];
    let mut series = Vec::new();
    for (i, one) in compared.iter().enumerate() {
        if let Some(coefs) = toeplitz_coefs(&one.strategy, n.min(COEFFICIENTS))? {
            let points = thinned(coefs.into_iter());
            // One point is no line.
            let one_point = points.len() == 1;
            series.push(if one_point { Series::marker(i, points[0]) } else { Series::line(i, points) });
        }
    }
    if !series.is_empty() {
        panels.push(panel(
            "Coefficients of the Toeplitz strategies",
            "place below the diagonal, from 1",
            "coefficient",
            series,
        ));
    }
    Ok(Figure { title: format!("{n} steps"), panels })
}

/// What each family achieves with so many planes.
pub(super) fn planes(candidates: &[Candidate], n: u64) -> Figure {
    let mut families: Vec<&str> = Vec::new();
    for candidate in candidates.iter().filter(|candidate| candidate.planes > 0) {
        if !families.contains(&candidate.family.as_str()) {
            families.push(&candidate.family);
        }
    }
    families.sort_unstable();
    let mut series = Vec::new();
    for (i, family) in families.iter().enumerate() {
        let of_family =
            candidates.iter().filter(|candidate| candidate.family == *family && candidate.planes > 0);
        let mut points: Vec<_> =
            of_family.map(|candidate| (candidate.planes as f64, candidate.design.loss.sqrt())).collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        series.push(Series::marked(i, points).named(family_name(family)));
    }
    // Without planes there is independent noise: a line across.
    let most = candidates.iter().map(|candidate| candidate.planes).max().unwrap_or(1).max(2) as f64;
    if let Some(without) = candidates.iter().find(|candidate| candidate.planes == 0) {
        let loss = without.design.loss.sqrt();
        series.push(Series::guide(vec![(1.0, loss), (most, loss)]).named("independent noise".to_owned()));
    }
    let title = format!("{n} steps: what a plane of state buys");
    Figure { title, panels: vec![panel("Loss", "planes of state a lane", "root of the loss", series)] }
}

/// What people call a family.
fn family_name(family: &str) -> String {
    let name = match family {
        "banded_toeplitz" => "banded Toeplitz",
        "banded_inverse_toeplitz" => "inverse of banded Toeplitz",
        "buffered_toeplitz" => "BLT (buffered Toeplitz)",
        "column_normalized_banded" => "banded, columns of norm 1",
        "dense" => "dense, any lower-triangular matrix",
        other => return other.replace('_', " "),
    };
    name.to_owned()
}

fn panel(title: &str, x: &str, y: &str, series: Vec<Series>) -> Panel {
    let (xs, ys) = (|| series.iter().flat_map(Series::xs), || series.iter().flat_map(Series::ys));
    let (x, y) = (Axis::fit(x, Scale::Log, xs()), Axis::fit(y, Scale::suiting(ys()), ys()));
    Panel { title: title.to_owned(), x, y, series }
}

/// Positive values by their place from 1, evenly thinned on a logarithmic axis.
fn thinned(values: impl ExactSizeIterator<Item = f64>) -> Vec<(f64, f64)> {
    let factor = (values.len().max(2) as f64).powf(1.0 / POINTS as f64);
    let (mut next, last) = (1.0, values.len());
    let mut points = Vec::new();
    for (place, value) in (1_u32..).zip(values) {
        if f64::from(place) < next && place as usize != last {
            continue;
        }
        next = f64::from(place) * factor;
        if value > 0.0 && value.is_finite() {
            points.push((f64::from(place), value));
        }
    }
    points
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn curves_keep_their_ends_and_their_order() {
        let points = thinned((0..100_000).map(|step| f64::from(step + 1)));
        assert!((200..=800).contains(&points.len()), "{}", points.len());
        assert_eq!((points[0], points[points.len() - 1]), ((1.0, 1.0), (1e5, 1e5)));
        assert!(points.windows(2).all(|pair| pair[0].0 < pair[1].0));
        assert_eq!(thinned([0.5, 0.0, -1.0, f64::NAN].into_iter()), [(1.0, 0.5)]);
        assert!(thinned(std::iter::empty()).is_empty());
    }
}
