//! The picture beside a map: the middle of the scene, its pixels enlarged, beside the same ground in the map; both
//! stretched from the 2nd to the 98th percentile of the scene there, with a bar of so many metres where the transform is
//! in metres.

use std::path::Path;

use super::finished::{Finished, Pixels};
use super::geo;
use super::scene::Scene;
use crate::Result;
use crate::data::values_as_f32;
use crate::log::Picture;

/// Rows and columns of the map that are shown at most.
const SIDE: usize = 512;
/// White pixels between the two.
const GAP: usize = 4;
/// Share of values that is black, and that is white.
const CLIP: f64 = 0.02;
/// Height of the bar, and its distance from the edges.
const BAR: usize = 4;
const INSET: usize = 12;
/// Digits and letters of the bar's text: rows of three pixels, the leftmost the highest bit.
const GLYPHS: [(char, [u8; 5]); 12] = [
    ('0', [7, 5, 5, 5, 7]),
    ('1', [2, 6, 2, 2, 7]),
    ('2', [7, 1, 7, 4, 7]),
    ('3', [7, 1, 7, 1, 7]),
    ('4', [5, 5, 7, 1, 1]),
    ('5', [7, 4, 7, 1, 7]),
    ('6', [7, 4, 7, 5, 7]),
    ('7', [7, 1, 1, 1, 1]),
    ('8', [7, 5, 7, 5, 7]),
    ('9', [7, 5, 7, 1, 7]),
    ('k', [5, 5, 6, 5, 5]),
    ('m', [0, 7, 7, 5, 5]),
];
/// Pixels along the side of a glyph's pixel.
const DOT: usize = 2;

/// Draws the picture of a map and writes it to `path`. `rgb` are the bands for red, green and blue.
///
/// # Errors
/// If the scene or the map cannot be read, or the file not be written.
pub(super) fn write(finished: &Finished, scene: &mut Scene, rgb: &[usize; 3], path: &Path) -> Result<()> {
    let job = finished.job();
    let (scale, bands) = (job.scale, job.bands.len());
    let shown: Vec<usize> = if rgb.iter().all(|band| *band < bands) { rgb.to_vec() } else { vec![0] };
    let side = |len: usize| (SIDE / scale).clamp(1, len);
    let (height, width) = (side(job.rows.len), side(job.columns.len));
    let (top, left) = ((job.rows.len - height) / 2, (job.columns.len - width) / 2);
    let (values, valid) = scene.rows(top..top + height)?;
    let pixel = |y: usize, x: usize| (y * job.columns.len + left + x) * bands;
    let stretches: Vec<Stretch> = shown
        .iter()
        .map(|band| {
            let all = (0..height * width).map(|i| pixel(i / width, i % width));
            Stretch::of(all.filter(|at| valid[at / bands] != 0).map(|at| values[at + band]).collect())
        })
        .collect();
    let (rows, columns) = (height * scale, width * scale);
    let mut canvas = Canvas::new(rows, 2 * columns + GAP, shown.len());
    for y in 0..rows {
        for x in 0..columns {
            let at = pixel(y / scale, x / scale);
            if valid[at / bands] != 0 {
                canvas.set(y, x, |c| stretches[c].byte(values[at + shown[c]]));
            }
        }
        let (mut bytes, mut flags) = (Vec::new(), Vec::new());
        finished.read(top * scale + y, left * scale..left * scale + columns, &mut bytes, &mut flags)?;
        let row: Vec<f32> = values_as_f32(&bytes, job.values.dtype).collect();
        for x in (0..columns).filter(|x| flags[*x] != 0) {
            canvas.set(y, columns + GAP + x, |c| stretches[c].byte(row[x * bands + shown[c]]));
        }
    }
    if let Some(metres) = geo::metres(&job.tags) {
        canvas.bar(columns + GAP, columns, metres);
    }
    Picture::new(canvas.width, canvas.height, canvas.channels, canvas.pixels).write_png(path)
}

/// Values that become black and white.
struct Stretch {
    low: f32,
    high: f32,
}

impl Stretch {
    fn of(mut values: Vec<f32>) -> Stretch {
        values.sort_by(f32::total_cmp);
        let at = |share: f64| values.get((share * values.len() as f64) as usize).or(values.last()).copied();
        Stretch { low: at(CLIP).unwrap_or(0.0), high: at(1.0 - CLIP).unwrap_or(1.0) }
    }

    fn byte(&self, value: f32) -> u8 {
        ((value - self.low) / (self.high - self.low).max(f32::MIN_POSITIVE) * 255.0).round() as u8
    }
}

/// A picture while it is drawn: black, with a white gap in the middle.
struct Canvas {
    height: usize,
    width: usize,
    channels: usize,
    pixels: Vec<u8>,
}

impl Canvas {
    fn new(height: usize, width: usize, channels: usize) -> Canvas {
        let mut canvas = Canvas { height, width, channels, pixels: vec![0; height * width * channels] };
        let gap = (width - GAP) / 2;
        canvas.rectangle((0, gap), (height, GAP), 255);
        canvas
    }

    fn set(&mut self, y: usize, x: usize, value: impl Fn(usize) -> u8) {
        if y < self.height && x < self.width {
            let at = (y * self.width + x) * self.channels;
            (0..self.channels).for_each(|c| self.pixels[at + c] = value(c));
        }
    }

    fn rectangle(&mut self, (top, left): (usize, usize), (height, width): (usize, usize), value: u8) {
        for y in top..top + height {
            (left..left + width).for_each(|x| self.set(y, x, |_| value));
        }
    }

    /// A bar of a round length at the bottom of `columns` columns from `left` on, whose pixels are `metres` long.
    fn bar(&mut self, left: usize, columns: usize, metres: f64) {
        let Some(length) = round_length(columns as f64 / 3.0 * metres) else { return };
        let pixels = (length / metres).round() as usize;
        if pixels == 0 || self.height < 4 * INSET {
            return;
        }
        let (y, x) = (self.height - INSET - BAR, left + INSET);
        self.rectangle((y - 1, x - 1), (BAR + 2, pixels + 2), 0);
        self.rectangle((y, x), (BAR, pixels), 255);
        let text = if length >= 1000.0 { format!("{}km", length / 1000.0) } else { format!("{length}m") };
        self.text((y - 8 * DOT, x), &text);
    }

    fn text(&mut self, (top, left): (usize, usize), text: &str) {
        self.rectangle((top - DOT, left - DOT), (7 * DOT, (4 * text.len() + 1) * DOT), 0);
        for (i, c) in text.chars().enumerate() {
            let Some((_, rows)) = GLYPHS.iter().find(|(glyph, _)| *glyph == c) else { continue };
            for (y, row) in rows.iter().enumerate() {
                for x in (0..3).filter(|x| row >> (2 - x) & 1 == 1) {
                    self.rectangle((top + y * DOT, left + (4 * i + x) * DOT), (DOT, DOT), 255);
                }
            }
        }
    }
}

/// The largest whole number of metres of the form 1, 2 or 5 times a power of ten up to `most`.
fn round_length(most: f64) -> Option<f64> {
    let power = 10f64.powf(most.log10().floor());
    [5.0, 2.0, 1.0].into_iter().map(|digit| digit * power).find(|length| *length <= most && *length >= 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_have_round_lengths() {
        let lengths = [0.4, 1.0, 7.0, 19.0, 426.0, 5000.0, 99_999.0].map(round_length);
        let want = [None, Some(1.0), Some(5.0), Some(10.0), Some(200.0), Some(5000.0), Some(50_000.0)];
        assert_eq!(lengths, want);
    }

    #[test]
    fn values_are_stretched_between_percentiles() {
        let stretch = Stretch::of((0..100).map(|v| v as f32).collect());
        assert_eq!([2.0, 98.0, -5.0, 500.0, 50.0].map(|v| stretch.byte(v)), [0, 255, 0, 255, 128]);
        assert_eq!(Stretch::of(vec![3.0]).byte(3.0), 0);
    }
}
