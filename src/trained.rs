//! A trained generator in a file: its configuration and its weights, from a checkpoint of this program or of opensr-srgan.
//! What runs or exports a generator begins here.

use std::path::{Path, PathBuf};

use crate::checkpoint::{
    LAST, META_KEY, Meta, Named, TensorFile, compare_architecture, is_batch_count, prefix_in, prefix_note,
};
use crate::config::{Config, IsaChoice};
use crate::nn::{Layout, Network};
use crate::rng::Stream;
use crate::train::session::Session;
use crate::train::states::EMA;
use crate::train::step::latent_noise;
use crate::{Error, Result};

/// Metadata keys of exported files: the configuration as YAML, and the steps of training.
pub const CONFIG_KEY: &str = "config";
/// See [`CONFIG_KEY`].
pub const STEP_KEY: &str = "step";

/// An opened checkpoint: its configuration, with what the command line says about where to run.
pub struct Checkpoint {
    path: PathBuf,
    file: TensorFile,
    meta: Meta,
    /// What a user should know about names in the file.
    pub notes: Vec<String>,
    /// Whether there are averaged weights, and they have taken part in any step.
    pub has_average: bool,
    /// The configuration that the weights were trained with.
    pub cfg: Config,
}

/// The values of a network's tensors, in memory order.
pub struct Weights {
    /// The flat state of all parameters.
    pub params: Vec<f32>,
    /// Buffers, in the order of the layout.
    pub buffers: Vec<Vec<f32>>,
}

impl Checkpoint {
    /// Opens a checkpoint file, or the last checkpoint of a run's folder. `config` is the configuration of a file that does
    /// not hold one, as those of opensr-srgan.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] if it is none; [`Error::Config`] if the configuration or an override is wrong.
    pub fn open(path: &Path, config: Option<&Path>, overrides: &[String]) -> Result<Checkpoint> {
        let path = if path.is_dir() { path.join(LAST) } else { path.to_owned() };
        // Where and how fast the run trained says nothing about this machine.
        let here = ["Training.device=auto", "Training.num_threads=null"].map(str::to_owned);
        let overrides: Vec<String> = here.into_iter().chain(overrides.iter().cloned()).collect();
        let (file, meta, (mut cfg, _)) = match config {
            Some(config) => (TensorFile::open(&path)?, Meta::default(), Config::load(config, &overrides)?),
            None => {
                let (file, meta) = own(&path)?;
                let cfg = Config::from_yaml(&meta.config, Some(&path), &overrides)?;
                (file, meta, cfg)
            }
        };
        if !overrides.iter().any(|o| o.starts_with("Training.isa=")) {
            cfg.training.isa = IsaChoice::Auto;
        }
        let averaged = file.entries().iter().any(|e| e.name.starts_with(EMA));
        let has_average = averaged && (config.is_some() || meta.counters.ema_updates > 0);
        Ok(Checkpoint { path, file, meta, notes: Vec::new(), has_average, cfg })
    }

    /// The checkpoint's file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the checkpoint says beside its tensors; the defaults for a file of another program.
    pub fn meta(&self) -> &Meta {
        &self.meta
    }

    /// Its weights in words.
    pub fn describe(&self, averaged: bool) -> String {
        let weights = if averaged { "averaged weights" } else { "live weights" };
        match self.meta.step {
            0 => weights.to_owned(),
            step => format!("{weights} of step {step}"),
        }
    }

    /// Reads the weights of the network that `layout` describes, the averaged ones if `averaged`.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] with a table of differences if its tensors are not those of the layout; those of reading.
    pub fn weights(&mut self, layout: &Layout, averaged: bool) -> Result<Weights> {
        let own = format!("{}.", layout.prefix);
        let tensors = layout.params.iter().chain(&layout.buffers);
        let bare: Vec<Named> = tensors.map(|t| (layout.bare_name(t).to_owned(), t.file_shape())).collect();
        let (before, usual) = if averaged { (EMA, "") } else { ("", own.as_str()) };
        let in_part = self.file.shapes(before).into_iter().filter(|(name, _)| !is_batch_count(name));
        let found: Vec<Named> = in_part.map(|(name, shape)| (name[before.len()..].to_owned(), shape)).collect();
        let is_generator = layout.prefix == Network::Generator.name();
        let prefix = prefix_in(&found, &layout.prefix, is_generator, &bare).unwrap_or_else(|| usual.to_owned());
        self.notes.extend(prefix_note(&prefix, usual));
        let prefix = format!("{before}{prefix}");
        let expected: Vec<Named> = bare.into_iter().map(|(name, shape)| (format!("{prefix}{name}"), shape)).collect();
        let mut present = self.file.shapes(&prefix);
        present.retain(|(name, _)| !is_batch_count(name));
        if let Some(table) = compare_architecture(&expected, &present) {
            let message = format!("its {} is not that of its configuration\n{table}", layout.prefix);
            return Err(Error::checkpoint(&self.path, message));
        }
        let file = &mut self.file;
        let mut read = |name: &str| file.read_finite(&format!("{prefix}{name}"));
        let params = layout.filled(&mut read)?;
        let buffers = layout.buffers.iter();
        let buffers = buffers.map(|b| read(layout.bare_name(b)).map(|values| b.from_file(&values)));
        let buffers = buffers.collect::<Result<_>>()?;
        Ok(Weights { params, buffers })
    }
}

/// Gives a session of the checkpoint's generator the averaged or the live weights, as its live ones.
///
/// # Errors
/// [`Error::Checkpoint`] if its tensors are not those of its configuration, or not finite.
pub fn restore(session: &mut Session, checkpoint: &mut Checkpoint, averaged: bool) -> Result<()> {
    let layout = session.programs().layout(Network::Generator).clone();
    let Weights { params, buffers } = checkpoint.weights(&layout, averaged)?;
    session.set_generator(&params, &buffers)
}

/// The latent noise of a stochastic generator, (windows, D), that maps are made with: the same for every window, since
/// windows of one map must agree.
pub fn map_noise(cfg: &Config, windows: usize) -> Vec<f32> {
    latent_noise(cfg, Stream::ValidationNoise, 0, std::iter::repeat_n(0, windows))
}

/// A checkpoint of this program, with its configuration.
fn own(path: &Path) -> Result<(TensorFile, Meta)> {
    const HINT: &str = "name the YAML that it was trained with: --config FILE";
    if TensorFile::open(path)?.is_of_torch() {
        let message = "a file of PyTorch does not hold the configuration of its networks";
        return Err(Error::checkpoint(path, message).with_hint(HINT));
    }
    let (file, meta) = match exported(TensorFile::open(path)?) {
        Some(found) => found,
        None => TensorFile::open_checkpoint(path)?,
    };
    if meta.config.is_empty() {
        return Err(Error::checkpoint(path, "it does not hold the configuration of its run").with_hint(HINT));
    }
    Ok((file, meta))
}

/// A state dict that `srgan export` wrote: its configuration lies in the metadata.
fn exported(file: TensorFile) -> Option<(TensorFile, Meta)> {
    let metadata = file.metadata();
    if metadata.contains_key(META_KEY) {
        return None;
    }
    let config = metadata.get(CONFIG_KEY)?.clone();
    let step = metadata.get(STEP_KEY).and_then(|step| step.parse().ok()).unwrap_or_default();
    Some((file, Meta { config, step, ..Meta::default() }))
}
