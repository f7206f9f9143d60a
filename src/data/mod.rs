//! Imagery in, batches out.
//!
//! ```text
//! source files -> (once) patch store, memory-mapped -> loader threads copy raw crops into the slots of a
//! bounded ring -> batches, in order
//! ```
//! Normalising, flipping and making the LR patch are the first ops of a program, not done here: the loader
//! copies raw pixels in the file's own type and draws a geometry code. What a sample is depends only on
//! (seed, epoch, index), never on the number of threads or their timing.

mod dataset;

mod folders;
mod loader;
mod origins;
mod pixels;
mod range;
mod scenes;
pub(crate) mod source;
mod store;

use std::path::PathBuf;

pub use dataset::Dataset;
pub use loader::{Loader, Share};
pub(crate) use pixels::values_as_f32;
pub use pixels::{Batch, PixelType, RawImages, SampleId, TrainSpec, ValSize};
pub(crate) use range::{clipped_share, describe_methods};
pub(crate) use store::{Converter, ValueRules};
pub use store::{UnusedStore, unused_stores};

use crate::error::{Error, Result};
use crate::ops::prepare::Normalization;
use store::StoreRequest;

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

/// Which patches are not trained on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Split {
    /// Those of validation.
    #[default]
    Val,
    /// Those of the folder `test` of a paired data set, in the place of those of validation.
    Test,
}

impl Split {
    /// The name of its folder.
    pub fn name(self) -> &'static str {
        match self {
            Split::Val => "val",
            Split::Test => "test",
        }
    }
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

/// The files of one image: one, or several whose bands follow each other.
pub type ImageFiles = Vec<PathBuf>;

/// Everything the data module has to know.
#[derive(Clone, Debug)]
pub struct DataSettings {
    /// What the source files are.
    pub kind: DatasetKind,
    /// Which patches serve validation.
    pub split: Split,
    /// Folder of the data set (not for scenes).
    pub root_dir: Option<PathBuf>,
    /// The scenes. A folder stands for the files in it, a name with `*`, `?` or `[…]` for those that match.
    pub scenes: Vec<ImageFiles>,
    /// Axes of `.npy` and `.npz` files; `None` is `Hwc`.
    pub layout: Option<Layout>,
    /// Bands to use, counted from 0, in this order; `None` is all.
    pub bands: Option<Vec<usize>>,
    /// Value of pixels without data; overrides the files' own.
    pub nodata: Option<f64>,
    /// Whether masks and alpha bands of the files hide pixels.
    pub mask: bool,
    /// Whether the scale and offset that files state are applied.
    pub apply_scale: bool,
    /// Every value is multiplied by this, …
    pub value_scale: f64,
    /// … and this is added, before normalisation.
    pub value_offset: f64,
    /// How values become network input; `None` if the user has not said it.
    pub normalization: Option<Normalization>,
    /// Refuse data that the normalisation would mostly clip.
    pub check_range: bool,
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

/// Name of the store's folder beside the data.
const STORE_FOLDER: &str = ".srgan-store";

impl DataSettings {
    /// Checks what can be wrong without looking at a file.
    fn check(&self) -> Result<()> {
        if self.scale == 0 {
            return Err(Error::config("Generator.scaling_factor", "must be at least 1"));
        }
        if let Some(size) = self.hr_size
            && (size == 0 || size % self.scale != 0)
        {
            let message = format!("{size} is not a multiple of the scale, {}", self.scale);
            return Err(Error::config("Data.hr_size", message));
        }
        if !(0.0..1.0).contains(&self.val_fraction) {
            let message = format!("{} is not in 0 to 1 (1 excluded)", self.val_fraction);
            return Err(Error::config("Data.val_fraction", message));
        }
        Ok(())
    }

    pub(crate) fn value_rules(&self) -> ValueRules {
        ValueRules {
            nodata: self.nodata,
            mask: self.mask,
            apply_scale: self.apply_scale,
            scale: self.value_scale,
            offset: self.value_offset,
            example: self.kind == DatasetKind::Example,
        }
    }

    fn store_request(&self, name: &str, dir: PathBuf, files: Vec<ImageFiles>) -> StoreRequest {
        StoreRequest {
            name: name.into(),
            files,
            dir,
            bands: self.bands.clone(),
            in_bands: self.in_bands,
            layout: self.layout.unwrap_or(Layout::Hwc),
            values: self.value_rules(),
            mask: false,
            dtype: None,
            mode: self.store,
        }
    }
}

#[cfg(test)]
mod tests;
