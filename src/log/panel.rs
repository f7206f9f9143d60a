//! Pictures of validation images: LR, bicubic, SR and HR beside each other, enlarged by whole factors, with captions.

use super::picture::{GLYPH, Picture};
use crate::{Error, Result};

/// Pixels between two pictures, and around a poster's.
const GAP: usize = 4;
/// A picture's shorter side has at least this many pixels, …
const SIDE: usize = 256;
/// … and the longer side of a poster's at most, unless it is larger to begin with.
const POSTER_SIDE: usize = 640;
/// Pixels of a dot of the captions.
const DOT: usize = 2;
/// Height of a line of a caption, and of the two lines under a picture.
const LINE: usize = (GLYPH + 3) * DOT;
const CAPTION: usize = 2 * LINE;
/// Share of the HR values below black and above white.
const CLIP: f64 = 0.02;

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

impl PanelShape {
    /// Values of an LR and of an HR image.
    fn lengths(&self) -> (usize, usize) {
        let lr = self.lr_height * self.lr_width * self.channels;
        (lr, lr * self.scale * self.scale)
    }
}

/// Images of one extent, one after the other as N,H,W,C values.
#[derive(Clone, Copy, Debug)]
pub struct PanelImages<'a> {
    /// Low resolution.
    pub lr: &'a [f32],
    /// LR, enlarged.
    pub bicubic: &'a [f32],
    /// LR, super-resolved.
    pub sr: &'a [f32],
    /// What SR should be.
    pub hr: &'a [f32],
}

/// The panels of one validation: a row LR, bicubic, SR, HR for each image.
///
/// LR is enlarged to HR's size by repeating pixels, and all by repeating them until the shorter side has 256. The pictures
/// of a row share one stretch, from the 2nd to the 98th percentile of the shown bands of HR taken together, so that they
/// can be compared. Under each stand its name and its PSNR over all bands.
#[derive(Clone, Debug)]
pub struct Panels {
    bands: Vec<usize>,
    max_val: f64,
    rows: Vec<Picture>,
}

impl Panels {
    /// Empty panels that show `bands` as red, green and blue; one or two bands: the first as grey. `max_val` is the peak of
    /// PSNR.
    pub fn new(bands: &[usize], max_val: f64) -> Self {
        let shown = if bands.len() < 3 { 1 } else { 3 };
        Panels { bands: bands.iter().copied().take(shown).collect(), max_val, rows: Vec::new() }
    }

    /// Bytes that an image of this HR size takes in panels, at most.
    pub fn row_bytes(height: usize, width: usize) -> usize {
        let factor = factor(height, width);
        (4 * (factor * width + GAP)).saturating_mul(3 * (factor * height + CAPTION + GAP))
    }

    /// Adds all images of a batch, each as a row.
    ///
    /// # Errors
    /// [`Error::Internal`] if the lengths do not agree with `shape` or a band does not exist.
    pub fn push(&mut self, shape: &PanelShape, images: &PanelImages) -> Result<()> {
        let factor = factor(shape.lr_height * shape.scale, shape.lr_width * shape.scale);
        for image in self.split(shape, images)? {
            let pictures = self.captioned(shape, &image, factor);
            let (width, height) = (pictures[0].width(), pictures[0].height());
            let mut row = Picture::filled(4 * width + 3 * GAP, height, self.bands.len(), 255);
            pictures.iter().enumerate().for_each(|(i, picture)| row.paste(picture, i * (width + GAP), 0));
            self.rows.push(row);
        }
        Ok(())
    }

    /// Adds one image with its pictures two by two, so that a wide one is seen large.
    ///
    /// # Errors
    /// Fails as [`Panels::push`] does.
    pub fn push_poster(&mut self, shape: &PanelShape, images: &PanelImages) -> Result<()> {
        let factor = (POSTER_SIDE / (shape.lr_height.max(shape.lr_width) * shape.scale)).max(1);
        for image in self.split(shape, images)? {
            let pictures = self.captioned(shape, &image, factor);
            let (width, height) = (pictures[0].width() + GAP, pictures[0].height() + GAP);
            let mut poster = Picture::filled(2 * width + GAP, 2 * height + GAP, self.bands.len(), 255);
            for (i, picture) in pictures.iter().enumerate() {
                poster.paste(picture, GAP + i % 2 * width, GAP + i / 2 * height);
            }
            self.rows.push(poster);
        }
        Ok(())
    }

    /// The images of a batch, one by one.
    fn split<'a>(&self, shape: &PanelShape, images: &PanelImages<'a>) -> Result<Vec<PanelImages<'a>>> {
        let (lr, hr) = shape.lengths();
        let PanelImages { lr: all_lr, bicubic, sr, hr: all_hr } = *images;
        let count = all_lr.len().checked_div(lr).unwrap_or(0);
        if all_lr.len() != count * lr || [bicubic, sr, all_hr].iter().any(|image| image.len() != count * hr) {
            let lengths = [all_lr, bicubic, sr, all_hr].map(<[f32]>::len);
            return Err(Error::Internal(format!("{lengths:?} values for panels of {shape:?}")));
        }
        if self.bands.is_empty() || self.bands.iter().any(|&b| b >= shape.channels) {
            return Err(Error::Internal(format!("bands {:?} of {} for panels", self.bands, shape.channels)));
        }
        let image = |i: usize| PanelImages {
            lr: &all_lr[i * lr..(i + 1) * lr],
            bicubic: &bicubic[i * hr..(i + 1) * hr],
            sr: &sr[i * hr..(i + 1) * hr],
            hr: &all_hr[i * hr..(i + 1) * hr],
        };
        Ok((0..count).map(image).collect())
    }

    /// The rows, one picture for each image.
    pub fn rows(&self) -> &[Picture] {
        &self.rows
    }

    /// All rows below each other, or `None` without any.
    pub fn sheet(&self) -> Option<Picture> {
        let width = self.rows.iter().map(Picture::width).max()?;
        let height: usize = self.rows.iter().map(Picture::height).sum::<usize>() + GAP * (self.rows.len() - 1);
        let mut sheet = Picture::filled(width, height, self.bands.len(), 255);
        let mut y = 0;
        for row in &self.rows {
            sheet.paste(row, 0, y);
            y += row.height() + GAP;
        }
        Some(sheet)
    }

    /// LR, bicubic, SR and HR of one image, enlarged, with their captions.
    fn captioned(&self, shape: &PanelShape, image: &PanelImages, factor: usize) -> [Picture; 4] {
        let PanelImages { lr, bicubic, sr, hr } = *image;
        let stretch = Stretch::of(self.shown(hr, shape.channels));
        let width = shape.lr_width * shape.scale;
        let bands: Vec<String> = self.bands.iter().map(usize::to_string).collect();
        let bands = format!("{} {}", if bands.len() > 1 { "bands" } else { "band" }, bands.join(","));
        let decibels = |image: &[f32]| format!("PSNR {:.2} dB", psnr(image, hr, self.max_val));
        [
            (lr, shape.lr_width, factor * shape.scale, "LR", bands.clone()),
            (bicubic, width, factor, "bicubic", decibels(bicubic)),
            (sr, width, factor, "SR", decibels(sr)),
            (hr, width, factor, "HR", bands),
        ]
        .map(|(values, width, factor, name, below)| {
            let pixels: Vec<u8> = self.shown(values, shape.channels).map(|value| stretch.apply(value)).collect();
            let rows = pixels.len() / self.bands.len() / width;
            let enlarged = Picture::new(width, rows, self.bands.len(), pixels).enlarged(factor);
            let (width, height) = (enlarged.width(), enlarged.height());
            let mut picture = Picture::filled(width, height + CAPTION, self.bands.len(), 255);
            picture.paste(&enlarged, 0, 0);
            picture.write(name, (DOT, height + 2 * DOT), DOT, 0);
            picture.write(&below, (DOT, height + LINE + DOT), DOT, 0);
            picture
        })
    }

    /// The values of the shown bands.
    fn shown<'a>(&'a self, image: &'a [f32], channels: usize) -> impl Iterator<Item = f32> + 'a {
        image.chunks_exact(channels).flat_map(|pixel| self.bands.iter().map(|&b| pixel[b]))
    }
}

/// How often pixels of an image of this size are repeated.
fn factor(height: usize, width: usize) -> usize {
    SIDE.div_ceil(height.min(width).max(1))
}

/// Over all values, clamped to 0 … `max_val`.
fn psnr(image: &[f32], reference: &[f32], max_val: f64) -> f64 {
    let clamped = |v: &f32| f64::from(*v).clamp(0.0, max_val);
    let squares: f64 = image.iter().zip(reference).map(|(a, b)| (clamped(a) - clamped(b)).powi(2)).sum();
    10.0 * (max_val * max_val * reference.len() as f64 / squares).log10()
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

    fn images<'a>(lr: &'a [f32], sr: &'a [f32], hr: &'a [f32]) -> PanelImages<'a> {
        PanelImages { lr, bicubic: sr, sr, hr }
    }

    /// The colours in the middle of each of the original pixels in a row's upper line.
    fn colours(row: &Picture, factor: usize) -> Vec<&[u8]> {
        let channels = row.channels();
        let centre = |i: usize| factor * (i % 4) + factor / 2 + i / 4 * (4 * factor + GAP);
        (0..16).map(|i| &row.pixels()[centre(i) * channels..][..channels]).collect()
    }

    #[test]
    fn a_row_shows_all_images_with_one_stretch_and_the_chosen_bands() {
        // HR: band 2 runs from 0 to 1 over the pixels; the others share its stretch.
        let ramp: Vec<f32> = (0..8).flat_map(|i| [9.0, 9.0, i as f32 / 7.0]).collect();
        let lr = [0.0, 0.0, -5.0, 0.0, 0.0, 5.0];
        let sr: Vec<f32> = (0..8).flat_map(|_| [f32::NAN; 3]).collect();
        let mut panels = Panels::new(&[2, 0], 1.0);
        panels.push(&SHAPE, &images(&lr, &sr, &ramp)).unwrap();
        let row = &panels.rows()[0];
        // Two rows of pixels become 256: each is repeated 128 times.
        assert_eq!((row.width(), row.height(), row.channels()), (4 * 4 * 128 + 3 * GAP, 256 + CAPTION, 1));
        let seen: Vec<u8> = colours(row, 128).into_iter().map(|pixel| pixel[0]).collect();
        assert_eq!(seen[..4], [0, 0, 255, 255], "LR repeats its pixels and is clipped");
        assert_eq!(seen[4..12], [0; 8], "NaN is black");
        assert_eq!(row.pixels()[4 * 128..4 * 128 + GAP], [255; GAP], "the gap is white");
        // numpy.percentile of 0/7 … 7/7: 2 % = 0.02, 98 % = 0.98.
        let want: Vec<u8> = (0..4).map(|i| ((f64::from(i) / 7.0 - 0.02) / 0.96 * 255.0).round() as u8).collect();
        assert_eq!(seen[12..], want);
        let below = &row.pixels()[256 * row.width()..];
        assert!(below.contains(&0) && below.contains(&255), "captions");
    }

    #[test]
    fn three_bands_are_red_green_blue_in_the_order_given() {
        let pixel = [0.0, 0.5, 1.0];
        let mut panels = Panels::new(&[2, 1, 0], 1.0);
        panels.push(&SHAPE, &images(&pixel.repeat(2), &pixel.repeat(8), &pixel.repeat(8))).unwrap();
        assert_eq!(colours(&panels.rows()[0], 128)[0], [255, 128, 0]);
    }

    #[test]
    fn a_batch_becomes_a_sheet_of_rows_and_an_image_a_poster() {
        let (lr, hr) = ([0.0; 12], [0.0; 48]);
        let mut panels = Panels::new(&[0, 1, 2], 1.0);
        panels.push(&SHAPE, &images(&lr, &hr, &hr)).unwrap();
        let sheet = panels.sheet().unwrap();
        assert_eq!((panels.rows().len(), sheet.height()), (2, 2 * (256 + CAPTION) + GAP));
        assert_eq!(sheet.pixels()[0], 128, "a flat image is mid-grey");
        assert!(Panels::new(&[0], 1.0).sheet().is_none());
        let mut poster = Panels::new(&[0, 1, 2], 1.0);
        poster.push_poster(&SHAPE, &images(&lr[..6], &hr[..24], &hr[..24])).unwrap();
        let poster = &poster.rows()[0];
        assert_eq!((poster.width(), poster.height()), (2 * 640 + 3 * GAP, 2 * (320 + CAPTION) + 3 * GAP));
    }

    #[test]
    fn small_images_are_enlarged_by_whole_factors_to_256_pixels() {
        let factors = [(64, 64), (48, 300), (200, 200), (256, 256), (1024, 300)].map(|(h, w)| factor(h, w));
        assert_eq!(factors, [4, 6, 2, 1, 1]);
        let mut panels = Panels::new(&[0, 1, 2], 1.0);
        panels.push(&SHAPE, &images(&[0.0; 6], &[0.0; 24], &[0.0; 24])).unwrap();
        assert!(panels.rows()[0].pixels().len() <= Panels::row_bytes(2, 4));
    }

    #[test]
    fn psnr_is_of_clamped_values() {
        assert!((psnr(&[0.1, 1.4], &[0.0, 1.0], 1.0) - 23.010_299_9).abs() < 1e-5);
        assert_eq!(psnr(&[0.5], &[0.5], 1.0), f64::INFINITY);
    }

    #[test]
    fn sizes_and_bands_that_do_not_fit_are_errors() {
        let mut panels = Panels::new(&[0, 1, 3], 1.0);
        assert!(panels.push(&SHAPE, &images(&[0.0; 6], &[0.0; 24], &[0.0; 24])).is_err(), "band 3 of 3");
        let mut panels = Panels::new(&[0, 1, 2], 1.0);
        assert!(panels.push(&SHAPE, &images(&[0.0; 6], &[0.0; 23], &[0.0; 24])).is_err(), "a value is missing");
        assert!(panels.push(&SHAPE, &images(&[0.0; 6], &[0.0; 24], &[])).is_err());
        panels.push(&SHAPE, &images(&[], &[], &[])).unwrap();
        assert!(panels.rows().is_empty());
    }

    #[test]
    fn images_without_a_finite_value_are_black() {
        let mut panels = Panels::new(&[0], 1.0);
        panels.push(&SHAPE, &images(&[1.0; 6], &[1.0; 24], &[f32::NAN; 24])).unwrap();
        assert_eq!(panels.rows()[0].pixels()[0], 0);
    }

    #[test]
    fn percentiles_interpolate_linearly() {
        assert_eq!(percentile(&mut [4.0, 1.0, 3.0, 2.0], 0.5), Some(2.5));
        assert_eq!(percentile(&mut [1.0], 0.98), Some(1.0));
        assert_eq!(percentile(&mut [], 0.5), None);
    }
}
