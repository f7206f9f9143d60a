//! From scenes to maps: opens what is needed, makes the unfinished rows of windows, writes the file, reports.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::finished::Finished;
use super::job::{FORMAT, FileId, Form, Job};
use super::matching::Target;
use super::model::Model;
use super::outputs::{self, final_name, working};
use super::scene::Scene;
use super::stitch::Stitcher;
use super::tiling::{self, Tiling};
use super::values::Values;
use super::work::Work;
use super::{Part, PredictOptions, contract, geo, preview, write};
use crate::checkpoint::Meta;
use crate::config::{Config, Layout};
use crate::data::PixelType;
use crate::device::cpu::memory::peak_resident;
use crate::files::{folder_of, make_folder};
use crate::log::{MapProgress, Messages};
use crate::runtime::Device;
use crate::train::signals::StopSignal;
use crate::train::{DeviceOptions, open_device_with};
use crate::trained::Checkpoint;
use crate::{Error, Result};

/// Rows of a scene that a pass over it reads at a time.
const PASS_ROWS: usize = 64;

/// Maps `inputs` with the generator of a checkpoint: to the file `out`, or into the folder `out`.
///
/// # Errors
/// Wrong options, checkpoint or scene (exit code 2), a signal after the finished rows were saved (75), I/O, the device.
pub fn predict(inputs: &[PathBuf], out: &Path, options: &PredictOptions, device: &DeviceOptions) -> Result<()> {
    let messages = device.messages.clone().unwrap_or_else(Messages::stderr);
    predict_on(inputs, out, options, messages, |cfg| open_device_with(cfg, device))
}

/// [`predict`] on the device that `open` makes of the checkpoint's configuration.
///
/// # Errors
/// Those of [`predict`] and of `open`.
pub fn predict_on(
    inputs: &[PathBuf],
    out: &Path,
    options: &PredictOptions,
    messages: Messages,
    open: impl FnOnce(&Config) -> Result<Box<dyn Device>>,
) -> Result<()> {
    // Before the first file is opened: what comes from here on ends with a saved state.
    let stop = StopSignal::install()?;
    let outputs = checked_outputs(inputs, out, options)?;
    let mut loaded = Loaded::open(options, &messages, open)?;
    let mut mapper = Mapper { options, loaded: &mut loaded, stop, messages };
    inputs.iter().zip(&outputs).try_for_each(|(input, output)| mapper.map(input, output))
}

/// The files that maps of `inputs` become.
fn checked_outputs(inputs: &[PathBuf], out: &Path, options: &PredictOptions) -> Result<Vec<PathBuf>> {
    let outputs = outputs::outputs(inputs, out)?;
    inputs.iter().zip(&outputs).try_for_each(|(input, output)| outputs::check(input, output, options))?;
    Ok(outputs)
}

/// The generator of a checkpoint on a device, for any number of maps.
pub(crate) struct Loaded {
    /// The generator.
    pub model: Model,
    /// What the checkpoint says beside its tensors.
    pub meta: Meta,
    /// Its weights in words.
    pub weights: String,
    id: FileId,
    averaged: bool,
    threads: usize,
}

impl Loaded {
    /// Opens what `options` name: the checkpoint, its configuration and overrides, and which of its weights; on the
    /// device that `open` makes of the configuration.
    ///
    /// # Errors
    /// Wrong checkpoint or configuration; the device.
    pub fn open(
        options: &PredictOptions,
        messages: &Messages,
        open: impl FnOnce(&Config) -> Result<Box<dyn Device>>,
    ) -> Result<Loaded> {
        let mut checkpoint = Checkpoint::open(&options.checkpoint, options.config.as_deref(), &options.overrides)?;
        let averaged = checkpoint.has_average && !options.live;
        let id = FileId::of(checkpoint.path())?;
        let device = open(&checkpoint.cfg)?;
        let model = Model::load(&mut checkpoint, device, averaged, messages)?;
        let (path, weights) = (checkpoint.path().display(), checkpoint.describe(averaged));
        messages.info(&format!("{path}: {weights} · {}", model.device().describe()));
        checkpoint.notes.iter().for_each(|note| messages.info(note));
        let threads = checkpoint.cfg.training.num_threads;
        let threads = threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
        let meta = checkpoint.meta().clone();
        Ok(Loaded { model, meta, weights, id, averaged, threads })
    }

    /// Maps a scene as [`predict`] does. What `options` say about the checkpoint was said when it was opened.
    ///
    /// # Errors
    /// Those of [`predict`].
    pub fn map(
        &mut self,
        (input, out): (&Path, &Path),
        options: &PredictOptions,
        stop: StopSignal,
        messages: Messages,
    ) -> Result<PathBuf> {
        let output = checked_outputs(&[input.to_owned()], out, options)?.swap_remove(0);
        Mapper { options, loaded: self, stop, messages }.map(input, &output)?;
        Ok(final_name(&output, options.part))
    }
}

/// What all maps of a call share.
struct Mapper<'a> {
    options: &'a PredictOptions,
    loaded: &'a mut Loaded,
    stop: StopSignal,
    messages: Messages,
}

impl Mapper<'_> {
    /// Makes one map, or a part of it.
    fn map(&mut self, input: &Path, output: &Path) -> Result<()> {
        let started = Instant::now();
        let cfg = self.loaded.model.config().clone();
        let mut scene = Scene::open(input, &cfg, self.options.bands.as_deref())?;
        scene.notes().iter().for_each(|note| self.messages.info(note));
        let method = self.loaded.model.normalization()?;
        for warning in contract::check(&mut scene, method, self.options.force || !cfg.data.check_range)? {
            self.messages.warn(&warning);
        }
        let tiling = tiling::choose(&self.loaded.model, self.options, scene.size(), scene.raw_type().into())?;
        tiling.note.iter().for_each(|note| self.messages.info(&format!("{}: {note}", input.display())));
        let job = self.job(&mut scene, &tiling, output)?;
        let part = self.options.part;
        let units = share(job.rows.count(), part);
        if self.options.resume && self.is_there(&job, &units, output)? {
            return Ok(());
        }
        make_folder(folder_of(output))?;
        let mut work = Work::create(&working(output, part), job, units, self.options.resume)?;
        self.make(&mut scene, &tiling, &mut work)?;
        let path = final_name(output, part);
        let (height, width) = work.job.size();
        let size = match part {
            Some(part) => format!("part {part}, {} of {} rows of windows", work.units.len(), work.job.rows.count()),
            None => format!("{height} × {width} × {} {}", work.job.bands.len(), work.job.values.dtype),
        };
        let made: usize = work.units.clone().map(|unit| work.job.rows.span(unit).len()).sum();
        let megapixels = (made * work.job.scale * width) as f64 / 1e6;
        match part {
            Some(_) => fs::rename(work.path(), &path).map_err(|e| Error::io("write", &path, e))?,
            None => self.write(&mut scene, work, &path)?,
        }
        let seconds = started.elapsed().as_secs_f64();
        let memory = peak_resident() >> 20;
        self.messages.info(&format!(
            "{}: {size} · {seconds:.1} s · {:.2} MP/s · peak memory {memory} MiB",
            path.display(),
            megapixels / seconds.max(1e-9)
        ));
        Ok(())
    }

    /// Everything that decides the map.
    fn job(&self, scene: &mut Scene, tiling: &Tiling, output: &Path) -> Result<Job> {
        let cfg = self.loaded.model.config();
        let nodata = scene.nodata(cfg).filter(|v| holds(scene.dtype(), *v));
        let avoided = nodata.filter(|v| !scene.has_mask() && !v.is_nan());
        let scale = cfg.generator.scaling_factor;
        let is_npy = output.extension().is_some_and(|e| e.eq_ignore_ascii_case("npy"));
        let form = match cfg.data.layout {
            _ if !is_npy => Form::Tiff,
            _ if scene.is_flat() => Form::NpyHwc { bands: false },
            Some(Layout::Chw) => Form::NpyChw,
            _ => Form::NpyHwc { bands: true },
        };
        Ok(Job {
            format: FORMAT,
            version: env!("CARGO_PKG_VERSION").into(),
            checkpoint: self.loaded.id.clone(),
            averaged: self.loaded.averaged,
            precision: self.loaded.model.precision().to_string(),
            scene: FileId::of_scene(scene.path())?,
            bands: scene.bands().to_vec(),
            scale,
            rows: tiling.rows.clone(),
            columns: tiling.columns.clone(),
            blend: self.options.blend,
            values: Values { dtype: scene.dtype(), fill: nodata, avoided },
            has_mask: scene.has_mask(),
            target: self.target(scene)?,
            form,
            compression: self.options.compression,
            tags: geo::map_tags(scene.tags(), scale, scene.bands()),
        })
    }

    /// What the map's values are to be matched with: a pass or two over the scene.
    fn target(&self, scene: &mut Scene) -> Result<Target> {
        let (bands, (height, _)) = (scene.bands().len(), scene.size());
        Target::of(self.options.matching, bands, &mut |pixel| {
            for first in (0..height).step_by(PASS_ROWS) {
                let (values, valid) = scene.rows(first..(first + PASS_ROWS).min(height))?;
                let pixels = values.chunks_exact(bands).zip(valid);
                pixels.filter(|(_, valid)| *valid != 0).for_each(|(values, _)| pixel(values));
            }
            Ok(())
        })
    }

    /// Whether the map, or its part, is there already.
    ///
    /// # Errors
    /// If another one is.
    fn is_there(&self, job: &Job, units: &Range<usize>, output: &Path) -> Result<bool> {
        let path = final_name(output, self.options.part);
        if !path.exists() || self.options.overwrite {
            return Ok(false);
        }
        let is_same = match (self.options.part, job.form) {
            (Some(_), _) => {
                let mut part = Work::open(&path, false)?;
                part.check_complete()?;
                part.units == *units && part.job.difference(job).is_none()
            }
            (None, Form::Tiff) => write::maker(&path) == Some(write::software(&job.digest()?)),
            // An array says nothing of its maker.
            (None, Form::NpyHwc { .. } | Form::NpyChw) => true,
        };
        if !is_same {
            return Err(Error::data(path, "this map was made of another checkpoint or scene, or with other options")
                .with_hint("--overwrite replaces it"));
        }
        // Left by a kill after the map was written.
        let _ = fs::remove_file(working(output, self.options.part));
        self.messages.info(&format!("{} is there already", path.display()));
        Ok(true)
    }

    /// Makes the unfinished units.
    fn make(&mut self, scene: &mut Scene, tiling: &Tiling, work: &mut Work) -> Result<()> {
        let left: Vec<usize> = work.units.clone().filter(|unit| !work.is_done(*unit)).collect();
        let pixels: usize = left.iter().map(|unit| work.job.rows.span(*unit).len()).sum();
        let megapixels = (pixels * work.job.scale * work.job.size().1) as f64 / 1e6;
        let mut progress = MapProgress::new(&self.messages, left.len() * work.job.columns.count(), megapixels);
        let (stop, path) = (self.stop.clone(), work.path().to_owned());
        let made = if left.is_empty() {
            Ok(())
        } else {
            let mut stitcher = Stitcher::new(&mut self.loaded.model, tiling.shape, scene.inverse(), tiling.around)?;
            left.iter().try_for_each(|unit| {
                stitcher.make(scene, work, *unit, &mut |windows| {
                    progress.add(windows);
                    stopped(&stop, &path)
                })
            })
        };
        progress.finish();
        self.explain(made)
    }

    /// Writes the map of a working file, which is then removed, and its picture.
    fn write(&self, scene: &mut Scene, work: Work, path: &Path) -> Result<()> {
        let from = work.path().to_owned();
        let finished = Finished::new(vec![work])?;
        // Before the map: one that is there has its picture.
        if self.options.preview {
            let rgb = &self.loaded.model.config().data.rgb_bands;
            self.explain(preview::write(&finished, scene, rgb, &outputs::picture(path)))?;
        }
        let progress = MapProgress::new(&self.messages, 0, 0.0);
        let written = write::write(&finished, path, self.loaded.threads, &|share| {
            progress.writing(share);
            stopped(&self.stop, &from)
        });
        progress.finish();
        self.explain(written)?;
        drop(finished);
        fs::remove_file(&from).map_err(|e| Error::io("remove", from, e))
    }

    /// Says how to go on after a signal, or with a disk that was full.
    fn explain<T>(&self, result: Result<T>) -> Result<T> {
        match (&result, self.stop.received()) {
            (Err(Error::Stopped { .. }), Some(name)) => {
                self.messages.info(&format!("{name}; continue with the same command and --resume"));
            }
            (Err(Error::Io { .. }), _) => {
                self.messages.info("what is finished is kept; continue with the same command and --resume");
            }
            _ => {}
        }
        result
    }
}

/// An error if a signal has come; the state is in `path`.
fn stopped(stop: &StopSignal, path: &Path) -> Result<()> {
    match stop.received() {
        Some(by) => Err(Error::Stopped { by, checkpoint: path.to_owned() }),
        None => Ok(()),
    }
}

/// The units of a part, of `count`.
fn share(count: usize, part: Option<Part>) -> Range<usize> {
    let Part { index, count: parts } = part.unwrap_or(Part { index: 1, count: 1 });
    (index - 1) * count / parts..index * count / parts
}

/// Whether values of a type can be `value`.
fn holds(dtype: PixelType, value: f64) -> bool {
    match dtype {
        PixelType::U8 => f64::from(value as u8) == value,
        PixelType::U16 => f64::from(value as u16) == value,
        PixelType::I16 => f64::from(value as i16) == value,
        PixelType::F32 => true,
    }
}
