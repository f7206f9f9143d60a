//! The table at a run's end: SR against bicubic upsampling on the held-out imagery.

use super::programs::EvaluateOptions;
use super::session::Session;
use super::signals::StopSignal;
use super::validate::evaluate;
use crate::config::Config;
use crate::data::{Batch, Dataset, RawImages};
use crate::log::Table;
use crate::{Error, Result};

/// Longest side of an area that is super-resolved at once; larger ones are cut.
const MAX_SIDE: usize = 512;

/// PSNR (dB), SSIM and SAM (degrees) of SR and of bicubic upsampling from the same LR, over all held-out
/// pixels. PSNR comes from the mean squared error over all pixels, the others are means weighted by pixels.
/// `None` if a signal came in between.
///
/// # Errors
/// Those of reading the data and of the device.
pub fn compare_with_bicubic(
    session: &mut Session,
    cfg: &Config,
    dataset: &Dataset,
    stop: &StopSignal,
) -> Result<Option<Table>> {
    let ema = cfg.training.ema.enabled && session.counters()?[2] > 0;
    let options = EvaluateOptions { ema, discriminator: false, images: false, bicubic: true, perceptual: false };
    let mut sums = [Sums::default(); 2];
    for area in dataset.held_out_areas() {
        let area = area?;
        for rectangle in pieces((area.hr.height, area.hr.width), cfg.generator.scaling_factor) {
            if stop.received().is_some() {
                return Ok(None);
            }
            let piece = crop_batch(&area, rectangle, cfg.generator.scaling_factor);
            let pixels = (piece.hr.height * piece.hr.width) as f64;
            let outputs = evaluate(session, cfg, &piece, options)?;
            for (sum, name) in sums.iter_mut().zip(["bicubic_metrics", "metrics"]) {
                let values = outputs.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_slice());
                let values = values.ok_or_else(|| Error::Internal(format!("no output {name}")))?;
                sum.add(values, pixels, cfg.training.losses.max_val);
            }
        }
    }
    let mut table = Table::new(["held-out imagery", "PSNR [dB]", "SSIM", "SAM [°]"]).left_aligned(1);
    for (name, sum) in ["bicubic", "SR"].into_iter().zip(&sums) {
        let [psnr, ssim, sam] = sum.means(cfg.training.losses.max_val);
        table.row([name.to_owned(), format!("{psnr:.2}"), format!("{ssim:.4}"), format!("{sam:.3}")]);
    }
    Ok(Some(table))
}

#[derive(Clone, Copy, Default)]
struct Sums {
    squares: f64,
    ssim: f64,
    sam: f64,
    pixels: f64,
}

impl Sums {
    /// `values` are l1, sam, tv, psnr, ssim of one image.
    fn add(&mut self, values: &[f32], pixels: f64, max_val: f64) {
        let [_, sam, _, psnr, ssim] = values else { return };
        self.squares += pixels * max_val * max_val * 10f64.powf(-f64::from(*psnr) / 10.0);
        self.ssim += pixels * f64::from(*ssim);
        self.sam += pixels * f64::from(*sam);
        self.pixels += pixels;
    }

    fn means(&self, max_val: f64) -> [f64; 3] {
        let psnr = 10.0 * (max_val * max_val * self.pixels / self.squares).log10();
        [psnr, self.ssim / self.pixels, (self.sam / self.pixels).to_degrees()]
    }
}

/// Row, column, height and width of the parts of an image, none longer than [`MAX_SIDE`].
fn pieces((height, width): (usize, usize), scale: usize) -> Vec<[usize; 4]> {
    let columns = cuts(width, scale);
    let row = |(y, h): (usize, usize)| columns.iter().map(move |(x, w)| [y, *x, h, *w]);
    cuts(height, scale).into_iter().flat_map(row).collect()
}

/// Start and length of nearly equal parts, each a multiple of `scale`.
fn cuts(len: usize, scale: usize) -> Vec<(usize, usize)> {
    let parts = len.div_ceil(MAX_SIDE).max(1);
    let side = len.div_ceil(parts).next_multiple_of(scale);
    (0..len).step_by(side).map(|start| (start, side.min(len - start))).collect()
}

fn crop_batch(area: &Batch, rectangle: [usize; 4], scale: usize) -> Batch {
    Batch {
        n: 1,
        hr: crop(&area.hr, rectangle),
        lr: area.lr.as_ref().map(|lr| crop(lr, rectangle.map(|v| v / scale))),
        augment: vec![0],
        indices: area.indices.clone(),
        samples: area.samples.clone(),
    }
}

fn crop(image: &RawImages, [y, x, height, width]: [usize; 4]) -> RawImages {
    let pixel = image.dtype.bytes() * image.bands;
    let mut out = RawImages::zeros(image.dtype, [1, height, width, image.bands]);
    for row in 0..height {
        let from = ((y + row) * image.width + x) * pixel;
        let to = row * width * pixel;
        out.data[to..to + width * pixel].copy_from_slice(&image.data[from..from + width * pixel]);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_cover_an_image_once() {
        for (len, scale) in [(300, 4), (512, 4), (516, 4), (2040, 8), (1030, 2), (4, 4)] {
            let cuts = cuts(len, scale);
            assert!(cuts.iter().all(|(s, l)| *l <= MAX_SIDE + scale && s % scale == 0 && *l > 0), "{cuts:?}");
            assert_eq!(cuts.iter().map(|(_, l)| l).sum::<usize>(), len);
            assert!(cuts.windows(2).all(|w| w[0].0 + w[0].1 == w[1].0));
        }
    }
}
