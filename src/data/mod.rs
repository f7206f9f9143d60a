//! Imagery in, batches out.
//!
//! ```text
//! source files -> (once) patch store, memory-mapped -> loader threads copy raw crops into the slots of a
//! bounded ring -> batches, in order
//! ```
//! Normalising, flipping and making the LR patch are the first ops of a program, not done here: the loader
//! copies raw pixels in the file's own type and draws a geometry code. What a sample is depends only on
//! (seed, epoch, index), never on the number of threads or their timing.

pub mod degrade;
mod pixels;

use std::path::PathBuf;
use std::time::Duration;

pub use pixels::{Batch, PixelType, RawImages, SampleId, TrainSpec, ValSize};

use crate::error::{Error, Result};

/// What the source files are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DatasetKind {
    /// A folder of HR patches, `hr_*.npz`; LR is made from them.
    Example,
    /// `train|val` / `LR|HR`, files paired by name.
    LrHrFolder,
    /// Whole scenes that patches are cut from; LR is made from them.
    Scenes,
}

/// Order of the axes in files that do not say it themselves (`.npy`, `.npz`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Rows, columns, bands.
    Hwc,
    /// Bands, rows, columns.
    Chw,
}

/// How the patch store is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreMode {
    /// Memory-mapped: the fastest.
    Mmap,
    /// Positional reads: a file system that loses a page gives an error, not a dead process.
    Read,
}

/// Everything the data module has to know.
#[derive(Clone, Debug)]
pub struct DataSettings {
    /// What the source files are.
    pub kind: DatasetKind,
    /// Folder of the data set (not for scenes).
    pub root_dir: Option<PathBuf>,
    /// The scenes.
    pub scenes: Vec<PathBuf>,
    /// Axes of `.npy` and `.npz` files; `None` is `Hwc`.
    pub layout: Option<Layout>,
    /// Bands to use, counted from 0, in this order; `None` is all.
    pub bands: Option<Vec<usize>>,
    /// Value of pixels without data; overrides the files' own.
    pub nodata: Option<f64>,
    /// Bands that the networks expect.
    pub in_bands: usize,
    /// HR size over LR size.
    pub scale: usize,
    /// Side of the HR training patches; `None` takes whole files (not for scenes).
    pub hr_size: Option<usize>,
    /// Training samples in an epoch; `None`: one per file, or as many as fit into the scenes side by side.
    pub patches_per_epoch: Option<usize>,
    /// Share of each scene's rows, at the bottom, that is kept for validation.
    pub val_fraction: f64,
    /// Whether training samples get a random geometry code.
    pub augment: bool,
    /// Folder of the patch store; `None` is `.srgan-store` beside the data.
    pub store_dir: Option<PathBuf>,
    /// How the store is read.
    pub store: StoreMode,
    /// Seed of the order of samples, of crops and geometry codes.
    pub seed: u64,
    /// Samples in a training batch.
    pub train_batch: usize,
    /// Samples in a validation batch.
    pub val_batch: usize,
    /// Loader threads; 0 loads in the calling thread.
    pub num_workers: usize,
    /// Batches that each loader thread may be ahead.
    pub prefetch_factor: usize,
}

/// An opened data set: its training samples and its validation images.
#[derive(Clone, Debug)]
pub struct Dataset;

impl Dataset {
    /// Checks all files, builds or reuses their store, and fixes the split.
    pub fn open(_settings: &DataSettings) -> Result<Dataset> {
        Err(unwritten())
    }

    /// Training samples in an epoch.
    pub fn train_len(&self) -> usize {
        0
    }

    /// Whole batches in an epoch; the last incomplete one is dropped. Fewer samples than one batch is an error.
    pub fn steps_per_epoch(&self, _batch: usize) -> Result<usize> {
        Err(unwritten())
    }

    /// Type and shape of the training samples.
    pub fn train_spec(&self) -> Option<TrainSpec> {
        None
    }

    /// The distinct sizes of the validation images, in order of first appearance.
    pub fn val_sizes(&self) -> &[ValSize] {
        &[]
    }

    /// Batches of `batch` over the validation images of `val_sizes()[size]`, in a fixed order.
    pub fn val_batches(&self, _size: usize, _batch: usize) -> Loader {
        Loader
    }

    /// The held-out imagery in pieces as large as possible, each a batch of one.
    pub fn held_out_areas(&self) -> impl Iterator<Item = Result<Batch>> + '_ {
        std::iter::empty()
    }

    /// What the user should know about how the data was opened.
    pub fn notes(&self) -> &[String] {
        &[]
    }
}

/// Delivers batches in order, loaded ahead by threads; an `Iterator` over `Result<Batch>`.
#[derive(Debug)]
pub struct Loader;

impl Loader {
    /// The training batches of `epoch` from `first_batch` on.
    pub fn start(_dataset: &Dataset, _epoch: u64, _first_batch: usize) -> Result<Loader> {
        Err(unwritten())
    }

    /// Gives a batch's memory back for the next one.
    pub fn recycle(&mut self, _batch: Batch) {}

    /// Total time that `next` blocked.
    pub fn waited(&self) -> Duration {
        Duration::ZERO
    }
}

impl Iterator for Loader {
    type Item = Result<Batch>;

    fn next(&mut self) -> Option<Result<Batch>> {
        None
    }
}

fn unwritten() -> Error {
    Error::Internal("the data module is being written".into())
}
