//! Where everything of a figure is, and in what colours.

use epaint_default_fonts::UBUNTU_LIGHT;
use plotters::chart::{ChartBuilder, ChartContext};
use plotters::coord::Shift;
use plotters::coord::cartesian::Cartesian2d;
use plotters::element::{Circle, DashedPathElement, EmptyElement, PathElement};
use plotters::prelude::{DrawingArea, DrawingAreaErrorKind, DrawingBackend, LineSeries};
use plotters::series::DashedLineSeries;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{
    Color, FontFamily, FontStyle, IntoFont, RGBColor, ShapeStyle, TextStyle, WHITE, register_font,
};

use super::{Axis, Figure, Look, Panel, Series};
use crate::failure::Failure;

/// Of the drawing, in its own pixels.
pub(super) const WIDTH: u32 = 1200;
pub(super) const HEIGHT: u32 = 540;

/// Sizes of text.
const TITLE: u32 = 21;
const PANEL_TITLE: u32 = 18;
const TEXT: u32 = 15;

const INK: RGBColor = RGBColor(40, 44, 52);
const GRID: RGBColor = RGBColor(212, 216, 222);
const LIGHT_GRID: RGBColor = RGBColor(237, 239, 242);
const GUIDE: RGBColor = RGBColor(176, 182, 192);
/// Those of Okabe and Ito, which are told apart also by people who see fewer; the yellow darkened for white
/// ground.
const COLOURS: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(184, 134, 11),
    RGBColor(90, 90, 90),
];

/// Dashes of marked lines and the gaps between them, of which the line below shows.
const DASHES: [Option<(i32, i32)>; 5] = [None, Some((14, 10)), Some((4, 6)), Some((22, 6)), Some((8, 16))];

type Drawn<DB> = Result<(), DrawingAreaErrorKind<<DB as DrawingBackend>::ErrorType>>;
type Chart<'a, DB> = ChartContext<'a, DB, Cartesian2d<Axis, Axis>>;

/// Text is measured, and in PNG drawn, with a font of this program's own, so that the system needs none.
pub(super) fn register_fonts() -> Result<(), Failure> {
    let damaged = |_| Failure::failed("cannot draw", "the font is damaged");
    register_font(FontFamily::SansSerif.as_str(), FontStyle::Normal, UBUNTU_LIGHT).map_err(damaged)
}

/// A figure on a ground of [`WIDTH`] times [`HEIGHT`], each times `scale`.
pub(super) fn draw<DB: DrawingBackend>(
    root: &DrawingArea<DB, Shift>,
    figure: &Figure,
    scale: u32,
) -> Drawn<DB> {
    let pen = Pen { scale };
    root.fill(&WHITE)?;
    root.draw_text(&figure.title, &pen.text(TITLE), (pen.px(20), pen.px(14)))?;
    let legend_end = pen.draw_legend(root, figure, pen.px(48))?;
    let (_, panels) = root.split_vertically(legend_end);
    for (area, panel) in panels.split_evenly((1, figure.panels.len().max(1))).iter().zip(&figure.panels) {
        pen.draw_panel(area, panel)?;
    }
    root.present()
}

/// Draws in pixels of the drawing, which are `scale` ones of the ground.
#[derive(Clone, Copy, Debug)]
struct Pen {
    scale: u32,
}

impl Pen {
    fn px(self, length: i32) -> i32 {
        length * self.scale as i32
    }

    fn text(self, size: u32) -> TextStyle<'static> {
        (FontFamily::SansSerif, size * self.scale).into_font().color(&INK)
    }

    fn stroke(self, colour: RGBColor, width: u32) -> ShapeStyle {
        colour.stroke_width(width * self.scale)
    }

    /// The named series, from left to right in as many rows as they take. Gives where it ends.
    fn draw_legend<DB: DrawingBackend>(
        self,
        root: &DrawingArea<DB, Shift>,
        figure: &Figure,
        top: i32,
    ) -> Result<i32, DrawingAreaErrorKind<DB::ErrorType>> {
        let (left, row, swatch, gap) = (self.px(20), self.px(22), self.px(26), self.px(8));
        let text = self.text(TEXT);
        let (mut x, mut y) = (left, top);
        for series in figure.panels.iter().flat_map(|panel| &panel.series) {
            let Some(name) = &series.name else { continue };
            let width = swatch + gap + root.estimate_text_size(name, &text)?.0 as i32 + 3 * gap;
            if x > left && x + width > self.px(WIDTH as i32) - left {
                (x, y) = (left, y + row);
            }
            let middle = y + row / 2;
            let (line, _) = self.looks(series.look);
            let ends = [(x, middle), (x + swatch, middle)];
            match series.look {
                Look::Marked(i) => {
                    match self.dashes(i) {
                        Some((dash, gap)) => root.draw(&DashedPathElement::new(ends, dash, gap, line))?,
                        None => root.draw(&PathElement::new(ends, line))?,
                    }
                    root.draw(&(EmptyElement::at((x + swatch / 2, middle)) + self.mark(i)))?;
                }
                Look::Line(_) | Look::Marker(_) | Look::Guide => root.draw(&PathElement::new(ends, line))?,
            }
            let at_middle = text.clone().pos(Pos::new(HPos::Left, VPos::Center));
            root.draw_text(name, &at_middle, (x + swatch + gap, middle))?;
            x += width;
        }
        Ok(y + row + self.px(6))
    }

    fn draw_panel<DB: DrawingBackend>(self, area: &DrawingArea<DB, Shift>, panel: &Panel) -> Drawn<DB> {
        let mut chart = ChartBuilder::on(area)
            .margin(self.px(12))
            .margin_right(self.px(26))
            .caption(&panel.title, self.text(PANEL_TITLE))
            .x_label_area_size(self.px(50))
            .y_label_area_size(self.px(72))
            .build_cartesian_2d(panel.x.clone(), panel.y.clone())?;
        chart
            .configure_mesh()
            .bold_line_style(self.stroke(GRID, 1))
            .light_line_style(self.stroke(LIGHT_GRID, 1))
            .axis_style(self.stroke(INK, 1))
            .set_all_tick_mark_size(self.px(5))
            .label_style(self.text(TEXT))
            .axis_desc_style(self.text(TEXT))
            .x_desc(&panel.x.label)
            .y_desc(&panel.y.label)
            .draw()?;
        for series in &panel.series {
            self.draw_series(&mut chart, series)?;
        }
        Ok(())
    }

    fn draw_series<DB: DrawingBackend>(self, chart: &mut Chart<'_, DB>, series: &Series) -> Drawn<DB> {
        let (line, mark) = self.looks(series.look);
        let points = || series.points.iter().copied();
        if let Look::Marked(i) = series.look {
            if let Some((dash, gap)) = self.dashes(i) {
                chart.draw_series(DashedLineSeries::new(points(), dash, gap, line))?;
            } else {
                chart.draw_series(LineSeries::new(points(), line))?;
            }
            chart.draw_series(points().map(|point| EmptyElement::at(point) + self.mark(i)))?;
        } else if let Some(mark) = mark {
            chart.draw_series(points().map(|point| Circle::new(point, self.px(6), mark)))?;
        } else {
            chart.draw_series(LineSeries::new(points(), line))?;
        }
        Ok(())
    }

    fn dashes(self, i: usize) -> Option<(i32, i32)> {
        DASHES[i % DASHES.len()].map(|(dash, gap)| (self.px(dash), self.px(gap)))
    }

    /// The outline, around its place, of a mark of its own for each number. Marks of one place leave
    /// something to see of each other.
    fn mark(self, i: usize) -> PathElement<(i32, i32)> {
        let shape: &[(i32, i32)] = match i % DASHES.len() {
            0 => &[(-2, -2), (2, -2), (2, 2), (-2, 2), (-2, -2), (2, 2)],
            1 => &[(-7, -7), (7, -7), (7, 7), (-7, 7), (-7, -7)],
            2 => &[(-10, -10), (10, 10), (0, 0), (-10, 10), (10, -10)],
            3 => &[(0, -13), (9, -9), (13, 0), (9, 9), (0, 13), (-9, 9), (-13, 0), (-9, -9), (0, -13)],
            _ => &[(0, -18), (18, 0), (0, 18), (-18, 0), (0, -18)],
        };
        let shape: Vec<_> = shape.iter().map(|&(x, y)| (self.px(x), self.px(y))).collect();
        PathElement::new(shape, self.stroke(colour(i), 2))
    }

    /// How lines and marks of a series look; the latter where it has them.
    fn looks(self, look: Look) -> (ShapeStyle, Option<ShapeStyle>) {
        match look {
            Look::Line(i) | Look::Marked(i) => (self.stroke(colour(i), 2), None),
            Look::Marker(i) => (self.stroke(colour(i), 2), Some(colour(i).filled())),
            Look::Guide => (self.stroke(GUIDE, 2), None),
        }
    }
}

fn colour(i: usize) -> RGBColor {
    COLOURS[i % COLOURS.len()]
}
