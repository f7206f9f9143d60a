//! The table at a run's end: SR against bicubic upsampling on the held-out imagery.

use super::programs::EvaluateOptions;
use super::session::Session;
use super::validate::evaluate;
use crate::config::Config;
use crate::data::{Batch, Dataset, RawImages};
use crate::log::Table;
use crate::{Error, Result};

/// Longest side of an area that is super-resolved at once; larger ones are cut.
const MAX_SIDE: usize = 512;

/// PSNR (dB), SSIM and SAM (degrees) of SR and of bicubic upsampling from the same LR, over all held-out
/// pixels. PSNR comes from the mean squared error over all pixels, the others are means weighted by pixels.
///
/// # Errors
/// Those of reading the data and of the device.
pub fn compare_with_bicubic(session: &mut Session, cfg: &Config, dataset: &Dataset) -> Result<Table> {
    let ema = cfg.training.ema.enabled && session.counters()?[2] > 0;
    let options = EvaluateOptions { ema, discriminator: false, images: false, bicubic: true };
    let mut sums = [Sums::default(); 2];
    for area in dataset.held_out_areas() {
        for piece in pieces(area?, cfg.generator.scaling_factor) {
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
    Ok(table)
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

/// Cuts a batch of one large image into parts of at most [`MAX_SIDE`] pixels a side.
fn pieces(area: Batch, scale: usize) -> Vec<Batch> {
    let (height, width) = (area.hr.height, area.hr.width);
    if height <= MAX_SIDE && width <= MAX_SIDE {
        return vec![area];
    }
    let side = MAX_SIDE / scale * scale;
    let mut parts = Vec::new();
    for (y, h) in cuts(height, side) {
        for (x, w) in cuts(width, side) {
            let small = |v: usize| v / scale;
            parts.push(Batch {
                hr: crop(&area.hr, [y, x, h, w]),
                lr: area.lr.as_ref().map(|lr| crop(lr, [y, x, h, w].map(small))),
                ..area.clone()
            });
        }
    }
    parts
}

/// Equal steps of `side`; the last part starts earlier instead of being small.
fn cuts(len: usize, side: usize) -> Vec<(usize, usize)> {
    if len <= side {
        return vec![(0, len)];
    }
    (0..len.div_ceil(side)).map(|i| ((i * side).min(len - side), side)).collect()
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
