//! The picture beside a map: the middle of the scene, its pixels enlarged, beside the same ground in the map; both
//! stretched from the 2nd to the 98th percentile of the scene there, with a bar of so many metres where the transform is
//! in metres.

use std::path::Path;

use super::finished::{Finished, Pixels};
use super::geo;
use super::scene::Scene;
use crate::Result;
use crate::data::values_as_f32;
use crate::log::{GLYPH, Picture};

/// Rows and columns of the map that are shown at most.
const SIDE: usize = 512;
/// White pixels between the two.
const GAP: usize = 4;
/// Share of values that is black, and that is white.
const CLIP: f64 = 0.02;
/// Height of the bar, and its distance from the edges.
const BAR: usize = 4;
const INSET: usize = 12;
/// Pixels along the side of a letter's dot: as large as the picture is wide enough for.
const DOTS: [usize; 2] = [2, 1];

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
    let mut picture = Picture::filled(2 * columns + GAP, rows, shown.len(), 0);
    picture.fill((columns, 0), (GAP, rows), 255);
    for y in 0..rows {
        for x in 0..columns {
            let at = pixel(y / scale, x / scale);
            if valid[at / bands] != 0 {
                picture.set((x, y), |c| stretches[c].byte(values[at + shown[c]]));
            }
        }
        let (mut bytes, mut flags) = (Vec::new(), Vec::new());
        finished.read(top * scale + y, left * scale..left * scale + columns, &mut bytes, &mut flags)?;
        let row: Vec<f32> = values_as_f32(&bytes, job.values.dtype).collect();
        for x in (0..columns).filter(|x| flags[*x] != 0) {
            picture.set((columns + GAP + x, y), |c| stretches[c].byte(row[x * bands + shown[c]]));
        }
    }
    if let Some(metres) = geo::metres(&job.tags) {
        draw_bar(&mut picture, (columns + GAP, columns), metres);
    }
    picture.write_png(path)
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

/// Draws a bar of a round length at the bottom of the `columns` columns from `left` on, whose pixels are `metres` long.
fn draw_bar(picture: &mut Picture, (left, columns): (usize, usize), metres: f64) {
    let Some(length) = round_length(columns as f64 / 3.0 * metres) else { return };
    let text = if length >= 1000.0 { format!("{} km", length / 1000.0) } else { format!("{length} m") };
    let width = |dot: usize| text.len() * GLYPH * dot;
    let fits = |dot: &usize| width(*dot) + 2 * INSET <= columns && (GLYPH + 2) * dot + 3 * INSET <= picture.height();
    let (pixels, dot) = ((length / metres).round() as usize, DOTS.into_iter().find(fits));
    let (Some(dot), true) = (dot, pixels > 0) else { return };
    let (x, y) = (left + INSET, picture.height() - INSET - BAR);
    picture.fill((x - 1, y - 1), (pixels + 2, BAR + 2), 0);
    picture.fill((x, y), (pixels, BAR), 255);
    let top = y - (GLYPH + 2) * dot;
    picture.fill((x - dot, top - dot), (width(dot) + dot, (GLYPH + 1) * dot), 0);
    picture.write(&text, (x, top), dot, 255);
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
    fn a_bar_is_as_long_as_it_says_and_has_its_length_above_it() {
        let mut picture = Picture::filled(200, 80, 1, 100);
        draw_bar(&mut picture, (50, 150), 2.5);
        let row = |y: usize| &picture.pixels()[y * 200..(y + 1) * 200];
        // A third of 375 m, rounded down, is 100 m or 40 pixels.
        let bar: Vec<usize> = (0..200).filter(|x| row(80 - INSET - 1)[*x] == 255).collect();
        assert_eq!(bar, (50 + INSET..50 + INSET + 40).collect::<Vec<_>>());
        let white = (0..80 - INSET - BAR).flat_map(row).filter(|v| **v == 255).count();
        assert!(white > 100, "{white} pixels of text");
        assert!((0..80).all(|y| row(y)[..50] == [100; 50]), "it leaves the scene's side alone");
        let mut narrow = Picture::filled(40, 80, 1, 100);
        draw_bar(&mut narrow, (0, 40), 100.0);
        assert!(narrow.pixels().iter().all(|v| *v == 100), "there is no room for its text");
    }

    #[test]
    fn values_are_stretched_between_percentiles() {
        let stretch = Stretch::of((0..100).map(|v| v as f32).collect());
        assert_eq!([2.0, 98.0, -5.0, 500.0, 50.0].map(|v| stretch.byte(v)), [0, 255, 0, 255, 128]);
        assert_eq!(Stretch::of(vec![3.0]).byte(3.0), 0);
    }
}
