//! Figures: panels with axes and lines side by side, as SVG or PNG.
//!
//! A command describes a [`Figure`] and has an [`ImageFile`] write it. `axis` knows ranges and numbers,
//! `draw` colours and places, `image` files.

mod axis;
mod draw;
mod image;

use crate::printable::printable;

pub(crate) use axis::{Axis, Scale};
pub(crate) use image::{ImageFile, PreparedImage};

/// Panels side by side, under a title and a legend of the named series.
#[derive(Clone, Debug)]
pub(crate) struct Figure {
    pub(crate) title: String,
    pub(crate) panels: Vec<Panel>,
}

/// Series on two axes.
#[derive(Clone, Debug)]
pub(crate) struct Panel {
    pub(crate) title: String,
    pub(crate) x: Axis,
    pub(crate) y: Axis,
    pub(crate) series: Vec<Series>,
}

/// Points, joined or marked.
#[derive(Clone, Debug)]
pub(crate) struct Series {
    /// What the legend says; without, it is not in there.
    name: Option<String>,
    look: Look,
    points: Vec<(f64, f64)>,
}

/// How a series is drawn. Those of the same number have the same colour, in every panel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Look {
    Line(usize),
    Marker(usize),
    /// A line with a mark at each point. Those of different numbers have other dashes and marks, too, so that
    /// each is seen where they lie on each other.
    Marked(usize),
    /// A faint line behind the others.
    Guide,
}

impl Series {
    /// Points that are joined.
    pub(crate) fn line(colour: usize, points: Vec<(f64, f64)>) -> Self {
        Self { name: None, look: Look::Line(colour), points }
    }

    /// Points that are joined and marked, and that other series may share.
    pub(crate) fn marked(colour: usize, points: Vec<(f64, f64)>) -> Self {
        Self { name: None, look: Look::Marked(colour), points }
    }

    /// A point that is marked.
    pub(crate) fn marker(colour: usize, point: (f64, f64)) -> Self {
        Self { name: None, look: Look::Marker(colour), points: vec![point] }
    }

    /// A faint line that leads the eye from mark to mark.
    pub(crate) fn guide(points: Vec<(f64, f64)>) -> Self {
        Self { name: None, look: Look::Guide, points }
    }

    /// The same under this name in the legend.
    pub(crate) fn named(self, name: String) -> Self {
        Self { name: Some(printable(&name).into_owned()), ..self }
    }

    pub(crate) fn xs(&self) -> impl Iterator<Item = f64> {
        self.points.iter().map(|(x, _)| *x)
    }

    pub(crate) fn ys(&self) -> impl Iterator<Item = f64> {
        self.points.iter().map(|(_, y)| *y)
    }
}
