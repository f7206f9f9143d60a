//! Metrics as curves: `metrics.csv` reduced to some hundred points, and drawn.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::ops::Range;
use std::path::Path;

use plotters::prelude::*;
use plotters::style::RGBColor;

use super::html::Drawing;
use crate::log::csv::parse_record;
use crate::{Error, Result};

/// Points of a curve at most: neighbouring steps are averaged.
const POINTS: usize = 400;
/// Longer lines are no rows.
const LONGEST: u64 = 1 << 20;
/// Extent of a drawing.
const SIZE: (u32, u32) = (560, 260);
/// Colours of lines, distinct for the colour-blind (Okabe and Ito), and their names in HTML.
const COLOURS: [(RGBColor, &str); 6] = [
    (RGBColor(0, 114, 178), "#0072b2"),
    (RGBColor(213, 94, 0), "#d55e00"),
    (RGBColor(0, 158, 115), "#009e73"),
    (RGBColor(204, 121, 167), "#cc79a7"),
    (RGBColor(230, 159, 0), "#e69f00"),
    (RGBColor(86, 180, 233), "#56b4e9"),
];

/// Steps and values of a metric.
pub(super) type Curve = Vec<(f64, f64)>;

/// The curves of a `metrics.csv`.
#[derive(Debug, Default)]
pub(super) struct Curves {
    names: Vec<String>,
    curves: Vec<Curve>,
}

/// Sums of a part of the rows: of steps, of values, and their number, by metric.
type Sums = Vec<(f64, f64, f64)>;

impl Curves {
    /// Reads the file once and holds no more than the reduced curves. A line that is being written, or damaged, is passed
    /// over: a picture of the rest is worth having.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn read(path: &Path) -> Result<Curves> {
        let failed = |e| Error::io("read", path, e);
        let file = File::open(path).map_err(failed)?;
        let length = file.metadata().map_err(failed)?.len().max(1);
        let mut lines = BufReader::new(file);
        let mut line = String::new();
        let mut at = lines.by_ref().take(LONGEST).read_line(&mut line).map_err(failed)?;
        let names: Vec<String> = parse_record(line.trim_end()).into_iter().skip(2).collect();
        let mut curves = Curves { curves: vec![Vec::new(); names.len()], names };
        let (mut sums, mut part) = (vec![(0.0, 0.0, 0.0); curves.names.len()], 0);
        loop {
            line.clear();
            let bytes = lines.by_ref().take(LONGEST).read_line(&mut line).map_err(failed)?;
            if bytes == 0 {
                break;
            }
            let belongs_to = (at as u128 * POINTS as u128 / u128::from(length)) as usize;
            if belongs_to != part {
                curves.close(&mut sums);
                part = belongs_to;
            }
            add_row(line.trim_end(), &mut sums);
            at += bytes;
        }
        curves.close(&mut sums);
        Ok(curves)
    }

    /// Makes a point of each sum.
    fn close(&mut self, sums: &mut Sums) {
        for (curve, sum) in self.curves.iter_mut().zip(sums) {
            let (steps, values, count) = std::mem::take(sum);
            if count > 0.0 {
                curve.push((steps / count, values / count));
            }
        }
    }

    /// The curve of a metric; empty if it was not measured.
    pub fn get(&self, name: &str) -> &[(f64, f64)] {
        self.names.iter().position(|n| n == name).map_or(&[], |at| &self.curves[at])
    }

    /// Steps of the phase in which the generator trains alone; `None` if there is no such phase.
    pub fn pretraining(&self) -> Option<Range<f64>> {
        let in_phase = self.get("training/pretrain_phase").iter().filter(|(_, flag)| *flag > 0.5);
        let (first, last) =
            in_phase.fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), (step, _)| (a.min(*step), b.max(*step)));
        (first <= last).then_some(first..last)
    }
}

/// Adds the finite values of a row.
fn add_row(line: &str, sums: &mut Sums) {
    let mut cells = line.split(',');
    let Some(step) = cells.next().and_then(|cell| cell.parse::<f64>().ok()) else { return };
    for (cell, sum) in cells.skip(1).zip(sums) {
        if let Some(value) = cell.parse::<f64>().ok().filter(|v| v.is_finite()) {
            *sum = (sum.0 + step, sum.1 + value, sum.2 + 1.0);
        }
    }
}

/// A line of a drawing.
pub(super) struct Line<'a> {
    pub name: String,
    pub points: &'a [(f64, f64)],
}

/// Draws lines; `None` if none has a point. `shaded` steps have a darker ground.
///
/// # Errors
/// [`Error::Internal`] if the drawing cannot be made.
pub(super) fn draw(title: &str, lines: &[Line], shaded: Option<&Range<f64>>) -> Result<Option<Drawing>> {
    let points = || lines.iter().flat_map(|line| line.points.iter());
    let range = |of: fn(&(f64, f64)) -> f64| {
        points().map(of).fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)))
    };
    let ((first, last), (low, high)) = (range(|p| p.0), range(|p| p.1));
    if first > last {
        return Ok(None);
    }
    // A flat line lies in the middle.
    let margin = if high > low { 0.05 * (high - low) } else { 0.5 * high.abs().max(1e-6) };
    let (steps, values) = (first..last.max(first + 1.0), low - margin..high + margin);
    let mut svg = String::new();
    plot(&mut svg, lines, (steps, values), shaded)
        .map_err(|e| Error::Internal(format!("the curves of {title} cannot be drawn: {e}")))?;
    let legend = match lines.len() {
        1 if lines[0].name.is_empty() => Vec::new(),
        _ => lines.iter().enumerate().map(|(i, line)| (line.name.clone(), COLOURS[i % COLOURS.len()].1)).collect(),
    };
    Ok(Some(Drawing { title: title.to_owned(), legend, svg }))
}

fn plot(
    svg: &mut String,
    lines: &[Line],
    (steps, values): (Range<f64>, Range<f64>),
    shaded: Option<&Range<f64>>,
) -> Result<(), Box<dyn std::error::Error>> {
    let root = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .margin(10)
        .margin_right(18)
        .x_label_area_size(30)
        .y_label_area_size(68)
        .build_cartesian_2d(steps.clone(), values.clone())?;
    if let Some(shaded) = shaded {
        let corners = [(shaded.start.max(steps.start), values.start), (shaded.end.min(steps.end), values.end)];
        chart.draw_series([Rectangle::new(corners, RGBColor(238, 242, 247).filled())])?;
    }
    chart
        .configure_mesh()
        .x_labels(6)
        .y_labels(6)
        .x_label_formatter(&|step: &f64| format!("{step:.0}"))
        .y_label_formatter(&|value: &f64| number(*value, values.end - values.start))
        .light_line_style(WHITE.mix(0.0))
        .bold_line_style(RGBColor(226, 231, 238))
        .axis_style(RGBColor(150, 158, 168))
        .label_style(("sans-serif", 16).into_font().color(&RGBColor(91, 101, 114)))
        .draw()?;
    for (line, (colour, _)) in lines.iter().zip(COLOURS.iter().cycle()) {
        chart.draw_series(LineSeries::new(line.points.iter().copied(), colour.stroke_width(2)))?;
        if let [point] = line.points {
            chart.draw_series([Circle::new(*point, 3, colour.filled())])?;
        }
    }
    root.present()?;
    Ok(())
}

/// A number beside an axis that spans `range`.
fn number(value: f64, range: f64) -> String {
    // Ticks of a range of 3 need one digit, of 0.03 three.
    let digits = (1.0 - range.log10().floor()).clamp(0.0, 4.0) as usize;
    match value.abs() {
        v if v > 0.0 && !(1e-3..1e6).contains(&v) => format!("{value:.1e}"),
        _ => format!("{value:.digits$}"),
    }
}
