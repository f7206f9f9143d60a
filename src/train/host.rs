//! What a run takes of the process's memory beside the plans and states of its device: batches that are loaded ahead,
//! pictures of a validation, the tensor that is being written to a checkpoint.

use super::plans::{pieces, validation_batches};
use super::session::Session;
use crate::config::Config;
use crate::data::Dataset;
use crate::log::Panels;

/// A sample's place in its file, as text, and what goes with it.
const SAMPLE: usize = 512;
/// Stack and heap of a thread.
const THREAD: usize = 256 << 10;
/// Buffers of files.
const BUFFERS: usize = 1 << 20;

/// Bytes of the process's memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct HostBytes {
    /// Batches that are loaded ahead, for training and the largest for validation.
    pub loader: usize,
    /// Pictures, the tensor that is being written, the order of the samples, threads; the table at the run's end.
    pub other: usize,
}

impl HostBytes {
    /// What a run of `cfg` takes; `closes` if it ends with the table.
    pub fn of_run(session: &Session, cfg: &Config, dataset: &Dataset, closes: bool) -> HostBytes {
        let (data, training) = (&cfg.data, &cfg.training);
        let ahead = data.num_workers.saturating_mul(data.prefetch_factor);
        let batch = |samples: usize, (height, width): (usize, usize)| {
            samples.saturating_mul(dataset.image_bytes(height, width) + SAMPLE)
        };
        let spec = dataset.train_spec();
        let of_epoch = dataset.train_len() / data.train_batch_size.max(1);
        let slots = ahead.min(of_epoch).max(training.accumulate_grad_batches);
        let loader = slots.saturating_mul(batch(data.train_batch_size, (spec.hr.1, spec.hr.2)));
        let validation = validation_batches(cfg, dataset);
        let of_validation = validation.iter().map(|planned| {
            let size = &dataset.val_sizes()[planned.size];
            let count = size.count.div_ceil(planned.extent.max(1));
            ahead.min(count).max(1).saturating_mul(batch(planned.extent, (size.hr_height, size.hr_width)))
        });
        let loader = loader + of_validation.max().unwrap_or(0);
        let largest = dataset.val_sizes().iter().map(|size| size.hr_height * size.hr_width).max().unwrap_or(0);
        let drawn: usize = validation.iter().filter(|planned| planned.images).map(|planned| planned.count).sum();
        // The rows, the sheet of all of them and its file.
        let row = dataset.val_sizes().iter().map(|size| Panels::row_bytes(size.hr_height, size.hr_width)).max();
        let pictures = (3 * drawn.min(cfg.logging.num_val_images)).saturating_mul(row.unwrap_or(0));
        let percentiles = if drawn > 0 { 12 * largest } else { 0 };
        let order = 4 * dataset.files_per_epoch();
        let threads = data.num_workers + training.num_threads.unwrap_or(1);
        let lasting = order + BUFFERS + THREAD * threads + 4 * session.largest_tensor();
        let closing = if closes { closing_bytes(cfg, dataset) } else { 0 };
        let in_training = loader + pictures + percentiles;
        HostBytes { loader, other: lasting + pictures + percentiles + closing.saturating_sub(in_training) }
    }

    /// All of it.
    pub fn total(&self) -> usize {
        self.loader.saturating_add(self.other)
    }
}

/// The largest held-out area and a piece of it.
fn closing_bytes(cfg: &Config, dataset: &Dataset) -> usize {
    let bytes = |(height, width): (usize, usize)| {
        let of_pieces = pieces((height, width), cfg.generator.scaling_factor).into_iter();
        // Its values and sums of their differences come with it while the picture's place is looked for.
        let extra = 4 * cfg.model.in_bands + 8;
        let of_piece = |[_, _, height, width]: [usize; 4]| dataset.image_bytes(height, width) + height * width * extra;
        let piece = of_pieces.map(of_piece).max().unwrap_or(0);
        dataset.image_bytes(height, width) + piece
    };
    dataset.held_out_sizes().map(bytes).max().unwrap_or(0)
}
