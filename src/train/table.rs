//! What a run ends with: a table of SR against bicubic upsampling on the held-out imagery, and a picture.

use std::collections::HashMap;

use super::plans;
use super::poster::Detailed;
use super::session::Session;
use super::signals::StopSignal;
use super::validate::{evaluate, uses_average};
use crate::Result;
use crate::data::{Batch, Dataset, RawImages};
use crate::log::Picture;
use crate::metrics::Metric;
use crate::table::Table;

/// How SR compares with bicubic upsampling.
pub struct Comparison {
    /// The table, with a sentence on its numbers.
    pub table: String,
    /// The most detailed part of the imagery, or why there is none.
    pub picture: Result<Option<Picture>>,
}

/// PSNR (dB), SSIM and SAM (degrees) of SR and of bicubic upsampling from the same LR, over all held-out
/// pixels, and a picture of them. PSNR comes from the mean squared error over all pixels, the others are means weighted by
/// pixels. `None` if a signal came in between.
///
/// # Errors
/// Fails if the data cannot be read, or the device fails.
pub fn compare_with_bicubic(session: &mut Session, dataset: &Dataset, stop: &StopSignal) -> Result<Option<Comparison>> {
    let cfg = session.config().clone();
    let options = plans::comparison(uses_average(session)?);
    let (scale, max_val) = (cfg.generator.scaling_factor, cfg.training.losses.max_val);
    let (mut sums, mut detailed) = ([Sums::default(); 2], Detailed::default());
    for area in dataset.held_out_areas() {
        let area = area?;
        for rectangle in plans::pieces((area.hr.height, area.hr.width), scale) {
            if stop.received().is_some() {
                return Ok(None);
            }
            let piece = crop_batch(&area, rectangle, scale);
            detailed.look(&piece, scale, &cfg.data.rgb_bands);
            let pixels = (piece.hr.height * piece.hr.width) as f64;
            let evaluated = evaluate(session, &piece, options)?;
            for (sum, name) in sums.iter_mut().zip(["bicubic_metrics", "metrics"]) {
                let values = evaluated.metrics.iter().copied().zip(evaluated.output(name)?.iter().copied());
                sum.add(&values.collect(), pixels, max_val);
            }
        }
    }
    let mut table = Table::new(["held-out imagery", "PSNR [dB]", "SSIM", "SAM [°]"]).left_aligned(1);
    for (name, sum) in ["bicubic", "SR"].into_iter().zip(&sums) {
        let [psnr, ssim, sam] = sum.means(max_val);
        table.row([name.to_owned(), format!("{psnr:.2}"), format!("{ssim:.4}"), format!("{sam:.3}")]);
    }
    let table = format!(
        "{table}\nPSNR here is of the mean squared error over all held-out pixels; validation\naverages the PSNR of single \
         images, which is another number."
    );
    Ok(Some(Comparison { table, picture: detailed.draw(session) }))
}

#[derive(Clone, Copy, Default)]
struct Sums {
    squares: f64,
    ssim: f64,
    sam: f64,
    pixels: f64,
}

impl Sums {
    /// Adds an image.
    fn add(&mut self, values: &HashMap<Metric, f32>, pixels: f64, max_val: f64) {
        let value = |metric| values.get(&metric).map_or(f64::NAN, |v| f64::from(*v));
        self.squares += pixels * max_val * max_val * 10f64.powf(-value(Metric::ValPsnr) / 10.0);
        self.ssim += pixels * value(Metric::ValSsim);
        self.sam += pixels * value(Metric::ValSam);
        self.pixels += pixels;
    }

    fn means(&self, max_val: f64) -> [f64; 3] {
        let psnr = 10.0 * (max_val * max_val * self.pixels / self.squares).log10();
        [psnr, self.ssim / self.pixels, (self.sam / self.pixels).to_degrees()]
    }
}

/// A part of an area: row, column, height and width, multiples of `scale`.
pub(super) fn crop_batch(area: &Batch, rectangle: [usize; 4], scale: usize) -> Batch {
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
