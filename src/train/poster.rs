//! The picture at a run's end: the most detailed part of the held-out imagery.

use super::plans;
use super::session::Session;
use super::table::crop_batch;
use super::validate::{evaluate, panel_images, panel_shape, panels, uses_average};
use crate::data::{Batch, RawImages};
use crate::log::Picture;
use crate::{Error, Result};

/// The part with the most detail of what it was shown.
#[derive(Default)]
pub(super) struct Detailed {
    best: Option<(f64, Batch)>,
}

impl Detailed {
    /// Looks for a part with more detail in a piece of a held-out area; `bands` are those that are seen.
    pub fn look(&mut self, piece: &Batch, scale: usize, bands: &[usize]) {
        let window = plans::poster_size((piece.hr.height, piece.hr.width), scale);
        let Some((detail, rectangle)) = most_detailed(&piece.hr, window, scale, bands) else { return };
        if self.best.as_ref().is_none_or(|(best, _)| detail > *best) {
            self.best = Some((detail, crop_batch(piece, rectangle, scale)));
        }
    }

    /// Draws it; `None` if there was none.
    ///
    /// # Errors
    /// If the device fails, or has no room.
    pub fn draw(self, session: &mut Session) -> Result<Option<Picture>> {
        let Some((_, batch)) = self.best else { return Ok(None) };
        let cfg = session.config().clone();
        let evaluated = evaluate(session, &batch, plans::poster(uses_average(session)?))?;
        let (shape, mut panels) = (panel_shape(&cfg, &batch), panels(&cfg));
        panels.push_poster(&shape, &panel_images(&shape, &evaluated, 1)?)?;
        panels.rows().first().cloned().map(Some).ok_or_else(|| Error::Internal("a poster without a picture".into()))
    }
}

/// Detail, and row, column, height and width of the window of an image in which neighbouring pixels differ most.
fn most_detailed(
    image: &RawImages,
    (height, width): (usize, usize),
    scale: usize,
    bands: &[usize],
) -> Option<(f64, [usize; 4])> {
    let sums = sums_of_differences(image, bands);
    let columns = image.width + 1;
    let of_window = |y: usize, x: usize| {
        let at = |y: usize, x: usize| sums[y * columns + x];
        at(y + height, x + width) - at(y, x + width) - at(y + height, x) + at(y, x)
    };
    let rows = (0..=image.height.checked_sub(height)?).step_by(scale);
    let mut best: Option<(f64, [usize; 4])> = None;
    for y in rows {
        for x in (0..=image.width.checked_sub(width)?).step_by(scale) {
            let detail = of_window(y, x);
            if best.is_none_or(|(most, _)| detail > most) {
                best = Some((detail, [y, x, height, width]));
            }
        }
    }
    best.map(|(detail, rectangle)| (detail / (height * width) as f64, rectangle))
}

/// For each corner of a pixel the differences between neighbours summed over all pixels above it and to its left.
fn sums_of_differences(image: &RawImages, bands: &[usize]) -> Vec<f64> {
    let values = image.to_f32();
    let value = |y: usize, x: usize, band: usize| f64::from(values[(y * image.width + x) * image.bands + band]);
    let columns = image.width + 1;
    let mut sums = vec![0.0; (image.height + 1) * columns];
    for y in 0..image.height {
        let mut of_row = 0.0;
        for x in 0..image.width {
            let (below, beside) = ((y + 1).min(image.height - 1), (x + 1).min(image.width - 1));
            let difference = |band: usize| {
                let here = value(y, x, band);
                (value(below, x, band) - here).abs() + (value(y, beside, band) - here).abs()
            };
            of_row += bands.iter().map(|band| difference(*band)).sum::<f64>();
            sums[(y + 1) * columns + x + 1] = sums[y * columns + x + 1] + of_row;
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::PixelType;

    #[test]
    fn the_window_lies_where_pixels_differ() {
        let mut image = RawImages::zeros(PixelType::U8, [1, 12, 20, 2]);
        // A checkerboard in band 1, rows 4 to 7 and columns 10 to 15; band 0 differs elsewhere and is not seen.
        for (y, x) in (4..8).flat_map(|y| (10..16).map(move |x| (y, x))) {
            image.data[(y * 20 + x) * 2 + 1] = 200 * ((y + x) % 2) as u8;
        }
        image.data[0] = 255;
        let (_, rectangle) = most_detailed(&image, (4, 6), 2, &[1]).unwrap();
        assert_eq!(rectangle, [4, 10, 4, 6]);
        assert!(most_detailed(&image, (14, 6), 2, &[1]).is_none(), "larger than the image");
        assert_eq!(most_detailed(&image, (12, 20), 2, &[1]).unwrap().1, [0, 0, 12, 20]);
    }
}
