//! An opened data set: which samples there are and how one is copied out of the store.

use std::fmt;
use std::sync::Arc;

use super::loader::Loader;
use super::origins::{Origins, below_u64};
use super::pixels::{Batch, RawImages, SampleId, TrainSpec, ValSize};
use super::range::{self, Findings};
use super::store::{Crop, Store};
use super::{DataSettings, DatasetKind, Split, folders, scenes};
use crate::error::{Error, Result};
use crate::rng::{Rng, Stream, name_hash};

/// One image of a store.
#[derive(Clone, Debug)]
pub(super) struct Stored {
    pub store: Arc<Store>,
    pub image: usize,
}

impl Stored {
    /// The source file.
    pub fn file(&self) -> &str {
        &self.store.images[self.image].file
    }
}

/// An HR image or scene, with its LR image in paired data sets.
#[derive(Debug)]
pub(super) struct Image {
    pub hr: Stored,
    pub lr: Option<Stored>,
}

/// A validation image, or a piece of the held-out area: an HR rectangle.
#[derive(Clone, Copy, Debug)]
pub(super) struct ValItem {
    pub image: usize,
    pub crop: Crop,
}

/// Where training samples come from.
#[derive(Debug)]
pub(super) enum Training {
    /// The first `count` images, each in turn.
    Files { count: usize },
    /// Any place of any scene, all equally likely; `before` counts the places before each scene.
    Scenes { origins: Vec<Origins>, before: Vec<u64> },
}

impl Training {
    pub fn scenes(origins: Vec<Origins>) -> Training {
        let mut before = vec![0];
        for scene in &origins {
            before.push(before[before.len() - 1] + scene.len());
        }
        Training::Scenes { origins, before }
    }
}

/// A data set that is being opened.
pub(super) struct Opening<'a> {
    /// What the user should know.
    pub notes: Vec<String>,
    /// Its error ends the work.
    pub proceed: &'a dyn Fn() -> Result<()>,
}

/// What opening the source files gives.
#[derive(Debug)]
pub(super) struct Parts {
    pub images: Vec<Image>,
    pub training: Training,
    /// Rows and columns of an HR training patch.
    pub train_size: (usize, usize),
    /// Samples in an epoch unless the settings say otherwise.
    pub default_len: usize,
    pub val: Vec<ValItem>,
    pub held_out: Vec<ValItem>,
}

/// A sample to copy: an HR rectangle and the geometry code.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    pub item: ValItem,
    pub augment: u8,
    pub index: u64,
}

/// An opened data set: its training samples and its validation images. Cloning is cheap.
#[derive(Clone)]
pub struct Dataset {
    inner: Arc<Inner>,
}

struct Inner {
    settings: DataSettings,
    parts: Parts,
    train_len: usize,
    sizes: Vec<ValSize>,
    notes: Vec<String>,
    warnings: Vec<String>,
}

impl Dataset {
    /// Checks all files, builds or reuses their store, and fixes the split.
    pub fn open(settings: &DataSettings) -> Result<Dataset> {
        Self::open_while(settings, &|| Ok(()))
    }

    /// The same; `proceed` is asked often while a store is built, and its error ends the work. What was built so far is
    /// removed.
    pub fn open_while(settings: &DataSettings, proceed: &dyn Fn() -> Result<()>) -> Result<Dataset> {
        settings.check()?;
        if settings.split == Split::Test && settings.kind != DatasetKind::LrHrFolder {
            let message = "only an LRHRFolderDataset has a split of its own for testing";
            return Err(Error::config("Data.dataset_type", message)
                .with_hint("the held-out imagery of other data sets is the split `val`"));
        }
        let mut opening = Opening { notes: Vec::new(), proceed };
        let parts = match settings.kind {
            DatasetKind::Example => folders::open_example(settings, &mut opening),
            DatasetKind::LrHrFolder => folders::open_paired(settings, &mut opening),
            DatasetKind::Scenes => scenes::open(settings, &mut opening),
        }?;
        let mut notes = opening.notes;
        let mut sizes: Vec<ValSize> = Vec::new();
        for item in &parts.val {
            let size = val_size(&parts, settings.scale, item);
            match sizes.iter_mut().find(|s| same_size(s, &size)) {
                Some(known) => known.count += 1,
                None => sizes.push(size),
            }
        }
        let Findings { notes: ranges, warnings } = range::check(settings, &parts)?;
        notes.extend(ranges);
        let train_len = settings.patches_per_epoch.unwrap_or(parts.default_len);
        Ok(Dataset { inner: Arc::new(Inner { settings: settings.clone(), parts, train_len, sizes, notes, warnings }) })
    }

    /// Training samples in an epoch.
    pub fn train_len(&self) -> usize {
        self.inner.train_len
    }

    /// Whole batches in an epoch; the last incomplete one is dropped. Fewer samples than one batch is an error.
    pub fn steps_per_epoch(&self, batch: usize) -> Result<usize> {
        match self.train_len().checked_div(batch) {
            Some(steps) if steps > 0 => Ok(steps),
            _ => {
                let message =
                    format!("a batch of {batch}, but an epoch has only {} training samples", self.train_len());
                let hint = "use a smaller batch, more data, or set Data.patches_per_epoch";
                Err(Error::config("Data.train_batch_size", message).with_hint(hint))
            }
        }
    }

    /// Bytes of an HR image of this size and, in paired data sets, of its LR image.
    pub fn image_bytes(&self, height: usize, width: usize) -> usize {
        let TrainSpec { hr, lr, bands } = self.train_spec();
        let pixels = height * width;
        let lr_pixels = pixels / (self.scale() * self.scale());
        bands * (pixels * hr.0.bytes() + lr.map_or(0, |lr| lr_pixels * lr.0.bytes()))
    }

    /// Numbers of files that are held in memory in the order of an epoch's samples; 0 for scenes.
    pub fn files_per_epoch(&self) -> usize {
        match self.inner.parts.training {
            Training::Files { count } => count + self.train_len(),
            Training::Scenes { .. } => 0,
        }
    }

    /// Type and shape of the training samples.
    pub fn train_spec(&self) -> TrainSpec {
        let (height, width) = self.inner.parts.train_size;
        let image = &self.inner.parts.images[0];
        let scale = self.scale();
        TrainSpec {
            hr: (image.hr.store.dtype, height, width),
            lr: image.lr.as_ref().map(|lr| (lr.store.dtype, height / scale, width / scale)),
            bands: image.hr.store.bands,
        }
    }

    /// The distinct sizes of the validation images, in order of first appearance.
    pub fn val_sizes(&self) -> &[ValSize] {
        &self.inner.sizes
    }

    /// Batches of `batch` over the validation images of `val_sizes()[size]`, in a fixed order: those
    /// numbered in `batches`, as far as there are so many. The last one is padded by repeating its last image.
    pub fn val_batches(&self, size: usize, batch: usize, batches: Vec<usize>) -> Result<Loader> {
        let Inner { parts, sizes, .. } = &*self.inner;
        let wanted = sizes.get(size).ok_or_else(|| Error::Internal(format!("no validation size {size}")))?;
        let of_size = |item: &ValItem| same_size(wanted, &val_size(parts, self.scale(), item));
        let samples = (0..).zip(&parts.val).filter(|(_, item)| of_size(item)).map(|(i, item)| sample_of(i, item));
        Ok(Loader::over_samples(self.clone(), samples.collect(), (batch.max(1), batches)))
    }

    /// The held-out imagery in pieces as large as possible, each a batch of one, loaded as it is asked for. Of
    /// a scene it is the whole held-out area (rows and columns down to a multiple of the scale), or the
    /// validation patches if the area holds masked pixels; of other data sets the validation images.
    pub fn held_out_areas(&self) -> impl Iterator<Item = Result<Batch>> + '_ {
        (0..).zip(&self.inner.parts.held_out).map(|(i, item)| {
            let mut batch = self.empty_batch(1, item.crop.height, item.crop.width);
            self.fill(&mut batch, &[sample_of(i, item)])?;
            Ok(batch)
        })
    }

    /// Rows and columns of the HR images of [`Dataset::held_out_areas`].
    pub fn held_out_sizes(&self) -> impl Iterator<Item = (usize, usize)> + '_ {
        self.inner.parts.held_out.iter().map(|item| (item.crop.height, item.crop.width))
    }

    /// Training images, and a hash of the sizes of all source files and of samples of their bytes: the same for a copy
    /// of the files elsewhere, another one (but for chance) where a file was exchanged, added or removed.
    pub fn contents(&self) -> (usize, u64) {
        let Parts { images, training, .. } = &self.inner.parts;
        let mut contents: Vec<u64> = Vec::new();
        for stored in images.iter().flat_map(|image| [Some(&image.hr), image.lr.as_ref()]).flatten() {
            // All files of one side of a data set are in one store.
            if !contents.contains(&stored.store.contents) {
                contents.push(stored.store.contents);
            }
        }
        let count = match training {
            Training::Files { count } => *count,
            Training::Scenes { origins, .. } => origins.len(),
        };
        (count, name_hash(&format!("{contents:?}")))
    }

    /// What the user should know about how the data was opened.
    pub fn notes(&self) -> &[String] {
        &self.inner.notes
    }

    /// What is probably wrong with the data.
    pub fn warnings(&self) -> &[String] {
        &self.inner.warnings
    }

    pub(super) fn settings(&self) -> &DataSettings {
        &self.inner.settings
    }

    fn scale(&self) -> usize {
        self.inner.settings.scale
    }

    /// The file of each training sample of `epoch`, in order; empty for scenes, where any sample is anywhere.
    ///
    /// Epochs run through one endless sequence of shuffled passes, so that every file comes equally often
    /// whatever the length of an epoch.
    pub(super) fn epoch_order(&self, epoch: u64) -> Vec<u32> {
        let Training::Files { count } = self.inner.parts.training else { return Vec::new() };
        let (count, len) = (count as u64, self.train_len() as u64);
        let first = epoch.saturating_mul(len);
        let mut order = Vec::with_capacity(len as usize);
        for pass in first / count..first.saturating_add(len).div_ceil(count) {
            let mut files: Vec<u32> = (0..count as u32).collect();
            let mut rng = Rng::new(self.inner.settings.seed, Stream::Shuffle, pass, 0);
            for i in (1..files.len()).rev() {
                files.swap(i, rng.below(i as u32 + 1) as usize);
            }
            let skip = first.saturating_sub(pass * count) as usize;
            let room = len as usize - order.len();
            order.extend(files.into_iter().skip(skip).take(room));
        }
        order
    }

    /// Training sample `index` of `epoch`: a pure function of the seed, the epoch and the index.
    pub(super) fn train_sample(&self, epoch: u64, order: &[u32], index: usize) -> Sample {
        let Inner { settings, parts, .. } = &*self.inner;
        let (height, width) = parts.train_size;
        let mut rng = Rng::new(settings.seed, Stream::Crop, epoch, index as u32);
        let (image, row, column) = match &parts.training {
            Training::Scenes { origins, before } => {
                let place = below_u64(&mut rng, before[origins.len()]);
                let scene = before.partition_point(|&b| b <= place) - 1;
                let (row, column) = origins[scene].place(place - before[scene]);
                (scene, row, column)
            }
            Training::Files { .. } => {
                let image = order[index] as usize;
                let hr = &parts.images[image].hr;
                let stored = &hr.store.images[hr.image];
                // Crops start at whole LR pixels, so that LR and HR show the same ground.
                let mut draw = |all: usize, part: usize| {
                    let places = (all / settings.scale - part / settings.scale) as u32 + 1;
                    rng.below(places) as usize * settings.scale
                };
                (image, draw(stored.height, height), draw(stored.width, width))
            }
        };
        let codes = if height == width { 8 } else { 4 };
        let augment = if settings.augment { rng.below(codes) as u8 } else { 0 };
        let item = ValItem { image, crop: Crop { row, column, height, width } };
        Sample { item, augment, index: index as u64 }
    }

    /// A batch with memory for `batch` samples of HR size `height` × `width`.
    pub(super) fn empty_batch(&self, batch: usize, height: usize, width: usize) -> Batch {
        let image = &self.inner.parts.images[0];
        let scale = self.scale();
        let raw = |stored: &Stored, h, w| RawImages::zeros(stored.store.dtype, [batch, h, w, stored.store.bands]);
        Batch {
            n: 0,
            hr: raw(&image.hr, height, width),
            lr: image.lr.as_ref().map(|lr| raw(lr, height / scale, width / scale)),
            augment: Vec::with_capacity(batch),
            indices: Vec::with_capacity(batch),
            samples: Vec::with_capacity(batch),
        }
    }

    /// Copies `samples` into `batch`, at least one; slots after them repeat the last.
    pub(super) fn fill(&self, batch: &mut Batch, samples: &[Sample]) -> Result<()> {
        batch.n = samples.len();
        batch.augment.clear();
        batch.indices.clear();
        batch.samples.clear();
        for slot in 0..batch.hr.batch {
            let sample = &samples[slot.min(samples.len() - 1)];
            let Image { hr, lr } = &self.inner.parts.images[sample.item.image];
            let crop = sample.item.crop;
            hr.store.copy_crop(hr.image, crop, batch.hr.image_mut(slot))?;
            if let (Some(lr), Some(raw)) = (lr, &mut batch.lr) {
                lr.store.copy_crop(lr.image, crop.shrunk(self.scale()), raw.image_mut(slot))?;
            }
            batch.augment.push(sample.augment);
            batch.indices.push(sample.index);
            batch.samples.push(SampleId { file: hr.file().to_string(), row: crop.row, column: crop.column });
        }
        Ok(())
    }
}

impl fmt::Debug for Dataset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { settings, train_len, sizes, .. } = &*self.inner;
        let mut text = f.debug_struct("Dataset");
        text.field("kind", &settings.kind).field("train_len", train_len).field("sizes", sizes).finish_non_exhaustive()
    }
}

fn sample_of(index: u64, item: &ValItem) -> Sample {
    Sample { item: *item, augment: 0, index }
}

fn val_size(parts: &Parts, scale: usize, item: &ValItem) -> ValSize {
    let Crop { height, width, .. } = item.crop;
    let paired = parts.images[item.image].lr.is_some();
    ValSize { hr_height: height, hr_width: width, lr: paired.then_some((height / scale, width / scale)), count: 1 }
}

fn same_size(a: &ValSize, b: &ValSize) -> bool {
    (a.hr_height, a.hr_width) == (b.hr_height, b.hr_width)
}
