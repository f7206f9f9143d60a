//! A trained generator that programs hold: images in memory, or whole scenes.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::images::Extent;
use super::worker::Worker;
use crate::checkpoint::Meta;
use crate::config::Config;
use crate::log::Messages;
use crate::ops::prepare::Normalization;
use crate::predict::{Loaded, PredictOptions};
use crate::runtime::PlanId;
use crate::train::signals::StopSignal;
use crate::train::{DeviceOptions, open_device_with};
use crate::{Error, Result};

/// Images that a GPU takes at a time; a processor takes one after the other, with all its threads.
const DEVICE_BATCH: usize = 8;
/// Extents of images whose plans are kept.
const KEPT_PLANS: usize = 16;

/// What the numbers of images are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pixels {
    /// What the network reads and writes: for reflectances mostly 0 … 1.
    #[default]
    Normalised,
    /// Values as in the files that it was trained on. The configuration's scale, offset and normalisation are applied before
    /// the network, and their inverse behind it; values are limited as the normalisation limits them.
    Raw,
}

/// How a generator is opened.
#[derive(Clone, Default)]
pub struct OpenOptions {
    /// Configuration of a checkpoint that holds none, as those of opensr-srgan.
    pub config: Option<PathBuf>,
    /// Overrides of the checkpoint's configuration: where to run, and in which precision.
    pub overrides: Vec<String>,
    /// Use the live weights although there are averaged ones.
    pub live: bool,
    /// A program of this project, which checks GPUs; see [`DeviceOptions::program`].
    pub program: Option<PathBuf>,
    /// Where messages go; without it they are not told.
    pub messages: Option<Messages>,
}

/// What is known of a generator.
struct Facts {
    cfg: Arc<Config>,
    meta: Meta,
    bands: Vec<String>,
    normalization: Normalization,
    description: String,
    /// Images at a time.
    batch: usize,
}

/// A generator and the plans that are ready.
struct Running {
    loaded: Loaded,
    /// Those used last at the end.
    plans: Vec<((usize, usize), PlanId)>,
    batch: usize,
}

/// A trained generator. It may be called from several threads; calls are done one after the other.
pub struct Generator {
    worker: Worker<Running>,
    facts: Facts,
}

impl Generator {
    /// Opens a checkpoint of this program or of opensr-srgan, or the last one in a run's folder.
    ///
    /// # Errors
    /// Wrong checkpoint, configuration or overrides; a device that cannot be had.
    pub fn open(checkpoint: &Path, options: &OpenOptions) -> Result<Generator> {
        let OpenOptions { config, overrides, live, program, messages } = options.clone();
        let checkpoint = checkpoint.to_owned();
        let (worker, facts) = Worker::start(move || {
            let device = DeviceOptions { messages: messages.clone(), program, ..DeviceOptions::default() };
            let predict = PredictOptions { checkpoint, config, overrides, live, ..PredictOptions::default() };
            let silent = || Messages::plain(std::io::sink());
            let open = |cfg: &Config| open_device_with(cfg, &device);
            let loaded = Loaded::open(&predict, &messages.unwrap_or_else(silent), open)?;
            let facts = Facts::of(&loaded)?;
            let batch = facts.batch;
            Ok((Running { loaded, plans: Vec::new(), batch }, facts))
        })?;
        Ok(Generator { worker, facts })
    }

    /// Bands of an image.
    pub fn bands(&self) -> usize {
        self.facts.cfg.model.in_bands
    }

    /// The bands by name or number in the files of the training, in the order of the channels.
    pub fn band_names(&self) -> &[String] {
        &self.facts.bands
    }

    /// SR pixels per LR pixel along a side.
    pub fn scale(&self) -> usize {
        self.facts.cfg.generator.scaling_factor
    }

    /// Steps of training; 0 where the file does not say.
    pub fn step(&self) -> u64 {
        self.facts.meta.step
    }

    /// Name of the normalisation, as `Data.normalization` has it.
    pub fn normalisation(&self) -> &'static str {
        self.facts.normalization.name()
    }

    /// Which weights run where: `averaged weights of step 600 · cpu (2 threads, avx2)`.
    pub fn description(&self) -> &str {
        &self.facts.description
    }

    /// The configuration of the training.
    pub fn config(&self) -> &Config {
        &self.facts.cfg
    }

    /// Super-resolves `lr`, `images` images of `size` (rows, columns): (N, C, H, W) to `sr`, (N, C, s·H, s·W). An image's SR
    /// does not depend on the others. `wants_stop` is asked after each few images, and while they are computed.
    ///
    /// # Errors
    /// [`Error::Usage`] if lengths do not fit or a value is not finite; [`Error::DeviceMemory`] if an
    /// image is too large to be computed as a whole; [`Error::Checkpoint`] if the network gives values that are not finite;
    /// [`Error::Usage`] if the caller stops it.
    pub fn run(
        &self,
        (lr, sr): (&[f32], &mut [f32]),
        (images, size): (usize, (usize, usize)),
        pixels: Pixels,
        wants_stop: &mut dyn FnMut() -> bool,
    ) -> Result<()> {
        let (channels, scale) = (self.bands(), self.scale());
        let from = Extent { channels, height: size.0, width: size.1 };
        from.check(images, lr.len(), "lr")?;
        let side = |side: usize| side.saturating_mul(scale);
        let to = Extent { channels, height: side(size.0), width: side(size.1) };
        to.check(images, sr.len(), "sr")?;
        self.check_finite(&from, lr)?;
        let ways = Conversion::new(&self.facts, pixels);
        let batch = self.facts.batch;
        let parts = lr.chunks(batch * from.image()).zip(sr.chunks_mut(batch * to.image()));
        for (lr, sr) in parts {
            if wants_stop() {
                return Err(stopped());
            }
            let mut input = Vec::with_capacity(batch * from.image());
            lr.chunks_exact(from.image())
                .for_each(|image| input.extend(from.interleaved(image, |v| ways.to_network(v))));
            input.resize(batch * from.image(), 0.0);
            let mut wants = false;
            let output =
                self.worker.call(&mut || wants |= wants_stop(), move |running| running.forward(size, &input))?;
            if wants {
                return Err(stopped());
            }
            for (image, planes) in output.chunks_exact(to.image()).zip(sr.chunks_exact_mut(to.image())) {
                self.check_output(image)?;
                to.write_planes(image, planes, |v| ways.to_caller(v));
            }
        }
        Ok(())
    }

    /// Maps a scene as `srgan predict` does: to the file `out` (.tif or .npy), or into the folder `out` under the scene's
    /// name; the file's path. What `options` say about the checkpoint was said when the generator was opened. `wants_stop`
    /// is asked now and then; finished rows are kept for [`PredictOptions::resume`].
    ///
    /// # Errors
    /// Wrong options or scene, I/O, the device; [`Error::Stopped`].
    pub fn predict(
        &self,
        (scene, out): (&Path, &Path),
        options: &PredictOptions,
        messages: Option<Messages>,
        wants_stop: &mut dyn FnMut() -> bool,
    ) -> Result<PathBuf> {
        let (scene, out, options) = (scene.to_owned(), out.to_owned(), options.clone());
        let messages = messages.unwrap_or_else(|| Messages::plain(std::io::sink()));
        let wants = Arc::new(AtomicBool::new(false));
        let asked = Arc::clone(&wants);
        let mut wait = || {
            if wants_stop() {
                wants.store(true, Ordering::Relaxed);
            }
        };
        self.worker.call(&mut wait, move |running| {
            let stop = StopSignal::of_caller(Arc::new(move || asked.load(Ordering::Relaxed)));
            running.loaded.map((&scene, &out), &options, stop, messages)
        })
    }

    fn check_finite(&self, extent: &Extent, lr: &[f32]) -> Result<()> {
        let Some(at) = lr.iter().position(|v| !v.is_finite()) else { return Ok(()) };
        let (image, [band, row, column]) = (at / extent.image(), extent.place(at % extent.image()));
        let message = format!("image {image}, band {band}, row {row}, column {column} is {}", lr[at]);
        Err(Error::usage(message).with_hint("fill pixels without a value first; `predict` does it for scenes"))
    }

    fn check_output(&self, image: &[f32]) -> Result<()> {
        let Some(value) = image.iter().find(|v| !v.is_finite()) else { return Ok(()) };
        let message = format!("its network gives {value}");
        Err(Error::checkpoint(&self.facts.description, message)
            .with_hint("the values of the images, or the weights, are too large: look at both"))
    }
}

fn stopped() -> Error {
    Error::usage("stopped by the calling program")
}

impl Facts {
    fn of(loaded: &Loaded) -> Result<Facts> {
        let (cfg, meta) = (loaded.model.config().clone(), loaded.meta.clone());
        let numbered = || (0..cfg.model.in_bands).map(|band| band.to_string()).collect();
        let bands = if meta.bands.is_empty() { numbered() } else { meta.bands.clone() };
        let device = loaded.model.device();
        let description = format!("{} · {}", loaded.weights, device.describe());
        let batch = if device.memory_in_use().is_some() { DEVICE_BATCH } else { 1 };
        let normalization = loaded.model.normalization()?;
        Ok(Facts { cfg, meta, bands, normalization, description, batch })
    }
}

/// Between the caller's numbers and the network's.
struct Conversion {
    normalization: Normalization,
    scale: f64,
    offset: f64,
}

impl Conversion {
    fn new(facts: &Facts, pixels: Pixels) -> Conversion {
        let data = &facts.cfg.data;
        match pixels {
            Pixels::Normalised => Conversion { normalization: Normalization::Identity, scale: 1.0, offset: 0.0 },
            Pixels::Raw => Conversion { normalization: facts.normalization, scale: data.scale, offset: data.offset },
        }
    }

    fn to_network(&self, value: f32) -> f32 {
        self.normalization.normalize((f64::from(value) * self.scale + self.offset) as f32)
    }

    fn to_caller(&self, value: f32) -> f32 {
        ((f64::from(self.normalization.denormalize(value)) - self.offset) / self.scale) as f32
    }
}

impl Running {
    /// The network on a batch of normalised images, (N, H, W, C).
    fn forward(&mut self, size: (usize, usize), lr: &[f32]) -> Result<Vec<f32>> {
        let plan = self.plan(size)?;
        let run = self.loaded.model.start(plan, bytemuck::cast_slice(lr))?;
        self.loaded.model.collect(run)
    }

    /// The plan of an extent; the one that was not used for longest gives way.
    fn plan(&mut self, size: (usize, usize)) -> Result<PlanId> {
        if let Some(at) = self.plans.iter().position(|(known, _)| *known == size) {
            let known = self.plans.remove(at);
            self.plans.push(known);
            return Ok(known.1);
        }
        if self.plans.len() >= KEPT_PLANS {
            let (_, oldest) = self.plans.remove(0);
            self.loaded.model.unload(oldest);
        }
        let available = self.loaded.model.device().available_memory()?.unwrap_or(usize::MAX);
        let plan = self.loaded.model.load_normalised(self.batch, size, available)?;
        self.plans.push((size, plan));
        Ok(plan)
    }
}
