//! Pictures of validation images: rows of LR | SR | HR.

use std::path::Path;

use crate::files::write_atomic;
use crate::{Error, Result};

/// Pixels between two pictures.
const GAP: usize = 2;
/// Share of the HR values below black and above white.
const CLIP: f64 = 0.02;

/// An 8-bit picture, grey or RGB.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    width: usize,
    height: usize,
    channels: usize,
    pixels: Vec<u8>,
}

impl Picture {
    /// A picture of these pixels, `height × width × channels`, with 1 or 3 channels.
    ///
    /// # Panics
    /// If their number is another.
    pub fn new(width: usize, height: usize, channels: usize, pixels: Vec<u8>) -> Self {
        assert_eq!(pixels.len(), width * height * channels, "{width}x{height}x{channels}");
        Picture { width, height, channels, pixels }
    }

    fn filled(width: usize, height: usize, channels: usize, value: u8) -> Self {
        Picture { width, height, channels, pixels: vec![value; width * height * channels] }
    }

    /// Width in pixels.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Height in pixels.
    pub fn height(&self) -> usize {
        self.height
    }

    /// 1 = grey, 3 = RGB.
    pub fn channels(&self) -> usize {
        self.channels
    }

    /// Rows of pixels, `height × width × channels`.
    pub fn pixels(&self) -> &[u8] {
        &self.pixels
    }

    /// Encodes the picture as a PNG file.
    pub fn to_png(&self) -> Result<Vec<u8>> {
        let side = |n: usize| u32::try_from(n).map_err(|_| Error::Internal(format!("a picture {n} pixels long")));
        let mut bytes = Vec::new();
        let mut encoder = png::Encoder::new(&mut bytes, side(self.width)?, side(self.height)?);
        encoder.set_color(if self.channels == 1 { png::ColorType::Grayscale } else { png::ColorType::Rgb });
        encoder.set_depth(png::BitDepth::Eight);
        let encoded = encoder.write_header().and_then(|mut writer| {
            writer.write_image_data(&self.pixels)?;
            writer.finish()
        });
        encoded.map_err(|e| Error::Internal(format!("PNG: {e}")))?;
        Ok(bytes)
    }

    /// Writes the picture as a PNG file, whole or not at all.
    pub fn write_png(&self, path: &Path) -> Result<()> {
        let bytes = self.to_png()?;
        write_atomic(path, |out| out.write_all(&bytes))
    }

    /// Copies `other` to column `x`, row `y`; it must fit and have the same number of channels.
    fn paste(&mut self, other: &Picture, x: usize, y: usize) {
        let (from, to) = (other.width * other.channels, self.width * self.channels);
        for row in 0..other.height {
            let start = (y + row) * to + x * self.channels;
            self.pixels[start..start + from].copy_from_slice(&other.pixels[row * from..(row + 1) * from]);
        }
    }
}

/// Sizes of the images handed to [`Panels::push`].
#[derive(Clone, Copy, Debug)]
pub struct PanelShape {
    /// Height of the LR image in pixels.
    pub lr_height: usize,
    /// Width of the LR image in pixels.
    pub lr_width: usize,
    /// HR pixels per LR pixel, in each direction.
    pub scale: usize,
    /// Bands.
    pub channels: usize,
}

/// The panels of one validation: a row LR | SR | HR for each image.
///
/// LR is enlarged to HR's size by repeating pixels. The three pictures of a row share one stretch, from the
/// 2nd to the 98th percentile of the shown bands of HR taken together, so that they can be compared.
#[derive(Clone, Debug)]
pub struct Panels {
    bands: Vec<usize>,
    rows: Vec<Picture>,
}

impl Panels {
    /// Empty panels that show `bands` as red, green and blue; one or two bands: the first as grey.
    pub fn new(bands: &[usize]) -> Self {
        let shown = if bands.len() < 3 { 1 } else { 3 };
        Panels { bands: bands.iter().copied().take(shown).collect(), rows: Vec::new() }
    }

    /// Adds all images of a batch, given as N,H,W,C values.
    ///
    /// # Errors
    /// [`Error::Internal`] if the lengths do not agree with `shape` or a band does not exist.
    pub fn push(&mut self, shape: &PanelShape, lr: &[f32], sr: &[f32], hr: &[f32]) -> Result<()> {
        let lr_size = shape.lr_height * shape.lr_width * shape.channels;
        let hr_size = lr_size * shape.scale * shape.scale;
        let count = lr.len().checked_div(lr_size).unwrap_or(0);
        if lr.len() != count * lr_size || sr.len() != count * hr_size || hr.len() != count * hr_size {
            let lengths = format!("{} LR, {} SR and {} HR values", lr.len(), sr.len(), hr.len());
            return Err(Error::Internal(format!("{lengths} for panels of {shape:?}")));
        }
        if self.bands.is_empty() || self.bands.iter().any(|&b| b >= shape.channels) {
            return Err(Error::Internal(format!("bands {:?} of {} for panels", self.bands, shape.channels)));
        }
        // Chunks of zero cannot occur: without values `count` is 0 and nothing is drawn.
        let images = lr.chunks(lr_size.max(1)).zip(sr.chunks(hr_size.max(1)).zip(hr.chunks(hr_size.max(1))));
        for (lr, (sr, hr)) in images {
            self.rows.push(self.draw_row(shape, lr, sr, hr));
        }
        Ok(())
    }

    /// The rows, one picture for each image.
    pub fn rows(&self) -> &[Picture] {
        &self.rows
    }

    /// All rows below each other, or `None` without any.
    pub fn sheet(&self) -> Option<Picture> {
        let width = self.rows.iter().map(|r| r.width).max()?;
        let height: usize = self.rows.iter().map(|r| r.height).sum::<usize>() + GAP * (self.rows.len() - 1);
        let mut sheet = Picture::filled(width, height, self.bands.len(), 255);
        let mut y = 0;
        for row in &self.rows {
            sheet.paste(row, 0, y);
            y += row.height + GAP;
        }
        Some(sheet)
    }

    fn draw_row(&self, shape: &PanelShape, lr: &[f32], sr: &[f32], hr: &[f32]) -> Picture {
        let PanelShape { lr_height, lr_width, scale, channels } = *shape;
        let (height, width) = (lr_height * scale, lr_width * scale);
        let stretch = Stretch::of(self.shown(hr, channels));
        let mut row = Picture::filled(3 * width + 2 * GAP, height, self.bands.len(), 255);
        for (i, (values, repeat)) in [(lr, scale), (sr, 1), (hr, 1)].into_iter().enumerate() {
            let mut picture = Picture::filled(width, height, self.bands.len(), 0);
            for (p, pixel) in picture.pixels.chunks_exact_mut(self.bands.len()).enumerate() {
                let (y, x) = (p / width / repeat, p % width / repeat);
                let at = (y * (width / repeat) + x) * channels;
                for (to, band) in pixel.iter_mut().zip(&self.bands) {
                    *to = stretch.apply(values[at + band]);
                }
            }
            row.paste(&picture, i * (width + GAP), 0);
        }
        row
    }

    /// The values of the shown bands.
    fn shown<'a>(&'a self, image: &'a [f32], channels: usize) -> impl Iterator<Item = f32> + 'a {
        image.chunks_exact(channels).flat_map(|pixel| self.bands.iter().map(|&b| pixel[b]))
    }
}

/// A linear map of values to 0 … 255.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Stretch {
    low: f64,
    high: f64,
}

impl Stretch {
    /// From the percentiles of the finite values; without any, everything becomes black.
    fn of(values: impl Iterator<Item = f32>) -> Self {
        let mut values: Vec<f32> = values.filter(|v| v.is_finite()).collect();
        let low = percentile(&mut values, CLIP).unwrap_or(f64::INFINITY);
        let high = percentile(&mut values, 1.0 - CLIP).unwrap_or(f64::INFINITY);
        Stretch { low, high }
    }

    /// NaN becomes black; in a flat image its own value is mid-grey.
    fn apply(self, value: f32) -> u8 {
        let value = f64::from(value);
        let share = if self.high > self.low {
            (value - self.low) / (self.high - self.low)
        } else {
            match value.partial_cmp(&self.low) {
                Some(std::cmp::Ordering::Equal) => 0.5,
                Some(std::cmp::Ordering::Greater) => 1.0,
                _ => 0.0,
            }
        };
        // `as` saturates and maps NaN to 0.
        (share * 255.0).round() as u8
    }
}

/// The percentile with linear interpolation between the two nearest values, as numpy's default.
fn percentile(values: &mut [f32], share: f64) -> Option<f64> {
    let position = share * values.len().checked_sub(1)? as f64;
    let (_, below, rest) = values.select_nth_unstable_by(position.floor() as usize, f32::total_cmp);
    let below = f64::from(*below);
    let above = rest.iter().copied().min_by(f32::total_cmp).map_or(below, f64::from);
    Some(below + (above - below) * position.fract())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: PanelShape = PanelShape { lr_height: 1, lr_width: 2, scale: 2, channels: 3 };

    #[test]
    fn a_row_shows_lr_sr_hr_with_one_stretch_and_the_chosen_bands() {
        // HR: band 2 runs from 0 to 1 over the pixels; LR and SR share its stretch.
        let ramp: Vec<f32> = (0..8).flat_map(|i| [9.0, 9.0, i as f32 / 7.0]).collect();
        let lr = [0.0, 0.0, -5.0, 0.0, 0.0, 5.0];
        let sr: Vec<f32> = (0..8).flat_map(|_| [f32::NAN; 3]).collect();
        let mut panels = Panels::new(&[2, 0]);
        panels.push(&SHAPE, &lr, &sr, &ramp).unwrap();
        let row = &panels.rows()[0];
        assert_eq!((row.width(), row.height(), row.channels()), (3 * 4 + 2 * GAP, 2, 1));
        let line = &row.pixels()[..row.width()];
        assert_eq!(line[..4], [0, 0, 255, 255], "LR repeats its pixels and is clipped");
        assert_eq!(line[4..6], [255, 255], "the gap is white");
        assert_eq!(line[6..10], [0; 4], "NaN is black");
        // numpy.percentile of 0/7 … 7/7: 2 % = 0.02, 98 % = 0.98.
        let want: Vec<u8> = (0..4).map(|i| ((f64::from(i) / 7.0 - 0.02) / 0.96 * 255.0).round() as u8).collect();
        assert_eq!(line[12..16], want);
    }

    #[test]
    fn three_bands_are_red_green_blue_in_the_order_given() {
        let pixel = [0.0, 0.5, 1.0];
        let mut panels = Panels::new(&[2, 1, 0]);
        panels.push(&SHAPE, &pixel.repeat(2), &pixel.repeat(8), &pixel.repeat(8)).unwrap();
        assert_eq!(panels.rows()[0].pixels()[..3], [255, 128, 0]);
    }

    #[test]
    fn a_batch_becomes_a_sheet_of_rows() {
        let mut panels = Panels::new(&[0, 1, 2]);
        panels.push(&SHAPE, &[0.0; 12], &[0.0; 48], &[0.0; 48]).unwrap();
        let sheet = panels.sheet().unwrap();
        assert_eq!((panels.rows().len(), sheet.height()), (2, 2 * 2 + GAP));
        assert_eq!(sheet.pixels()[0], 128, "a flat image is mid-grey");
        assert!(Panels::new(&[0]).sheet().is_none());
    }

    #[test]
    fn sizes_and_bands_that_do_not_fit_are_errors() {
        let mut panels = Panels::new(&[0, 1, 3]);
        assert!(panels.push(&SHAPE, &[0.0; 6], &[0.0; 24], &[0.0; 24]).is_err(), "band 3 of 3");
        let mut panels = Panels::new(&[0, 1, 2]);
        assert!(panels.push(&SHAPE, &[0.0; 6], &[0.0; 23], &[0.0; 24]).is_err(), "a value is missing");
        assert!(panels.push(&SHAPE, &[0.0; 6], &[0.0; 24], &[]).is_err());
        panels.push(&SHAPE, &[], &[], &[]).unwrap();
        assert!(panels.rows().is_empty());
    }

    #[test]
    fn images_without_a_finite_value_are_black() {
        let mut panels = Panels::new(&[0]);
        panels.push(&SHAPE, &[1.0; 6], &[1.0; 24], &[f32::NAN; 24]).unwrap();
        assert_eq!(panels.rows()[0].pixels()[0], 0);
    }

    #[test]
    fn percentiles_interpolate_linearly() {
        assert_eq!(percentile(&mut [4.0, 1.0, 3.0, 2.0], 0.5), Some(2.5));
        assert_eq!(percentile(&mut [1.0], 0.98), Some(1.0));
        assert_eq!(percentile(&mut [], 0.5), None);
    }

    #[test]
    fn a_png_holds_the_pixels() {
        let picture = Picture { width: 2, height: 1, channels: 3, pixels: vec![1, 2, 3, 4, 5, 6] };
        let bytes = picture.to_png().unwrap();
        let mut reader = png::Decoder::new(std::io::Cursor::new(bytes)).read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        reader.next_frame(&mut pixels).unwrap();
        assert_eq!(pixels, picture.pixels);
    }
}
