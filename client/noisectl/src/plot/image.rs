//! A figure in a file.

use std::fmt::Display;
use std::io::{self, Write};
use std::path::PathBuf;

use plotters::prelude::{BitMapBackend, IntoDrawingArea, SVGBackend};

use super::Figure;
use super::draw::{HEIGHT, WIDTH, draw, register_fonts};
use crate::failure::Failure;
use crate::files::{Files, OutFile};

/// Pixels of an image for one of the drawing, so that it is sharp on fine screens.
const SCALE: u32 = 2;
/// Pixels drawn for one of the image, in each direction: their mean has smooth edges.
const OVERSAMPLING: u32 = 2;

/// Where an image goes, and its format, which the name tells.
#[derive(Clone, Debug)]
pub(crate) struct ImageFile {
    path: PathBuf,
    format: ImageFormat,
}

#[derive(Clone, Copy, Debug)]
enum ImageFormat {
    Svg,
    Png,
}

impl ImageFile {
    /// From a name that ends in `.svg` or `.png`.
    pub(crate) fn parse(path: &str) -> Result<Self, String> {
        let path = PathBuf::from(path);
        let format = match path.extension().and_then(|extension| extension.to_str()) {
            Some("svg") => ImageFormat::Svg,
            Some("png") => ImageFormat::Png,
            _ => return Err("must end in .svg or .png".to_owned()),
        };
        Ok(Self { path, format })
    }

    /// Before the work: whether there can be such a file.
    pub(crate) fn prepare(&self, files: &Files) -> Result<PreparedImage, Failure> {
        Ok(PreparedImage { out: files.output("plot", &self.path)?, format: self.format })
    }
}

/// A place for an image.
#[derive(Debug)]
pub(crate) struct PreparedImage {
    out: OutFile,
    format: ImageFormat,
}

impl PreparedImage {
    pub(crate) fn write(&self, figure: &Figure) -> Result<(), Failure> {
        match self.format {
            ImageFormat::Svg => {
                let text = svg(figure)?;
                self.out.write(|out| out.write_all(text.as_bytes()))
            }
            ImageFormat::Png => {
                let pixels = pixels(figure)?;
                self.out.write(|out| write_png(out, &pixels))
            }
        }
    }
}

fn write_png(out: &mut impl Write, pixels: &[u8]) -> io::Result<()> {
    let mut encoder = png::Encoder::new(out, WIDTH * SCALE, HEIGHT * SCALE);
    encoder.set_color(png::ColorType::Rgb);
    let mut writer = encoder.write_header()?;
    writer.write_image_data(pixels)?;
    Ok(writer.finish()?)
}

fn svg(figure: &Figure) -> Result<String, Failure> {
    register_fonts()?;
    let mut text = String::new();
    let root = SVGBackend::with_string(&mut text, (WIDTH, HEIGHT)).into_drawing_area();
    draw(&root, figure, 1).map_err(failed)?;
    drop(root);
    Ok(text)
}

/// Rows of RGB.
fn pixels(figure: &Figure) -> Result<Vec<u8>, Failure> {
    register_fonts()?;
    let scale = SCALE * OVERSAMPLING;
    let (width, height) = (WIDTH * scale, HEIGHT * scale);
    let mut drawn = vec![0; (width * height * 3) as usize];
    let root = BitMapBackend::with_buffer(&mut drawn, (width, height)).into_drawing_area();
    draw(&root, figure, scale).map_err(failed)?;
    drop(root);
    Ok(smooth(&drawn, width as usize))
}

/// The mean of each square of pixels.
fn smooth(drawn: &[u8], width: usize) -> Vec<u8> {
    let side = OVERSAMPLING as usize;
    let mut smoothed = Vec::with_capacity(drawn.len() / (side * side));
    for rows in drawn.chunks_exact(width * 3 * side) {
        for x in 0..width / side {
            for channel in 0..3 {
                let of_square = (0..side * side).map(|i| {
                    let (row, column) = (i / side, x * side + i % side);
                    u32::from(rows[(row * width + column) * 3 + channel])
                });
                smoothed.push((of_square.sum::<u32>() / (side * side) as u32) as u8);
            }
        }
    }
    smoothed
}

fn failed(error: impl Display) -> Failure {
    Failure::failed("cannot draw", error)
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::super::{Axis, Panel, Scale, Series};
    use super::*;

    fn figure() -> Figure {
        let panel = |title: &str, series: Vec<Series>| {
            let axis = |label: &str| Axis::fit(label, Scale::Log, [1.0, 1000.0]);
            Panel { title: title.into(), x: axis("lanes"), y: axis("ms & <more>"), series }
        };
        let line = Series::line(0, vec![(1.0, 1000.0), (1000.0, 1.0)]).named("a line".into());
        let panels = vec![panel("left", vec![line]), panel("right", vec![Series::marker(1, (10.0, 10.0))])];
        Figure { title: "a title".into(), panels }
    }

    fn written(name: &str) -> Vec<u8> {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join(name);
        let image = ImageFile::parse(path.to_str().unwrap()).unwrap();
        image.prepare(&Files::default()).unwrap().write(&figure()).unwrap();
        std::fs::read(path).unwrap()
    }

    #[test]
    fn svg_is_xml_with_every_text() {
        let text = String::from_utf8(written("a.svg")).unwrap();
        let document = roxmltree::Document::parse(&text).unwrap();
        let texts: Vec<&str> = document
            .descendants()
            .filter(|node| node.has_tag_name("text"))
            .filter_map(|node| node.text())
            .collect();
        for text in ["a title", "a line", "left", "right", "lanes", "ms & <more>", "1", "10", "100", "1k"] {
            assert!(texts.iter().any(|found| found.trim() == text), "{text}: {texts:?}");
        }
    }

    #[test]
    fn png_decodes_and_shows_something() {
        let file = written("a.png");
        let mut reader = png::Decoder::new(io::Cursor::new(file)).read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        let frame = reader.next_frame(&mut pixels).unwrap();
        assert_eq!((frame.width, frame.height), (WIDTH * SCALE, HEIGHT * SCALE));
        let has = |colour: [u8; 3]| pixels.as_chunks::<3>().0.contains(&colour);
        // The ground, the line, the mark.
        assert!(has([255; 3]) && has([0, 114, 178]) && has([213, 94, 0]));
    }

    /// What is the same for two families is one line with the marks of both.
    #[test]
    fn series_that_lie_on_each_other_are_all_seen() {
        let points = vec![(1.0, 1000.0), (30.0, 30.0), (1000.0, 1.0)];
        let series = (0..5).map(|i| Series::marked(i, points.clone()).named(format!("series {i}")));
        let axis = |label: &str| Axis::fit(label, Scale::Log, [1.0, 1000.0]);
        let panel = Panel { title: "all".into(), x: axis("x"), y: axis("y"), series: series.collect() };
        let figure = Figure { title: "one line".into(), panels: vec![panel] };
        let pixels = pixels(&figure).unwrap();
        // Below the legend, which ends above a fifth of the height.
        let drawn = &pixels[pixels.len() / 5..];
        for colour in [[0, 114, 178], [213, 94, 0], [0, 158, 115], [204, 121, 167], [86, 180, 233]] {
            let seen = drawn.as_chunks::<3>().0.iter().filter(|&pixel| *pixel == colour).count();
            assert!(seen > 100, "{colour:?}: {seen}");
        }
    }

    #[test]
    fn the_name_tells_the_format() {
        for name in ["", "a", "a.gif", ".png/", "svg"] {
            assert!(ImageFile::parse(name).is_err(), "{name}");
        }
    }
}
