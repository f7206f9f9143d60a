//! `srgan export`: a trained generator in the files of other programs.
//!
//! | format | file | who reads it |
//! | --- | --- | --- |
//! | [`Format::Safetensors`] | state dict with metadata | `safetensors.torch.load_file`, this program |
//! | [`Format::Torch`] | Lightning checkpoint in a zip archive, its YAML beside it | opensr-srgan, `torch.load(weights_only=True)` |
//! | [`Format::Onnx`] | graph with weights | ONNX Runtime and what else reads opset 17 |
//!
//! Tensors have the names of opensr-srgan's state dict.

mod onnx;
mod safetensors;
mod state_dict;
mod torch;

use std::path::{Path, PathBuf};

use crate::files::check_folder_of;
use crate::log::Messages;
use crate::nn::Network;
use crate::train::programs::Programs;
use crate::trained::Checkpoint;
use crate::{Error, Result};
use state_dict::{Description, StateDict};

/// What is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A state dict in safetensors.
    Safetensors,
    /// A Lightning checkpoint for opensr-srgan.
    Torch,
    /// An ONNX graph.
    Onnx,
}

impl Format {
    /// The format that a file's extension names.
    pub fn of_extension(path: &Path) -> Option<Format> {
        match path.extension()?.to_str()?.to_ascii_lowercase().as_str() {
            "safetensors" => Some(Format::Safetensors),
            "ckpt" | "pt" | "pth" => Some(Format::Torch),
            "onnx" => Some(Format::Onnx),
            _ => None,
        }
    }

    /// The extension of its files.
    pub const fn extension(self) -> &'static str {
        match self {
            Format::Safetensors => "safetensors",
            Format::Torch => "ckpt",
            Format::Onnx => "onnx",
        }
    }
}

/// Which of a checkpoint's weights are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Choice {
    /// The averaged ones where there are any.
    #[default]
    Best,
    /// The averaged ones.
    Averaged,
    /// Those that training goes on with.
    Live,
}

/// What is asked of an export.
#[derive(Clone, Debug, Default)]
pub struct ExportOptions {
    /// Configuration of a checkpoint that holds none, as those of opensr-srgan.
    pub config: Option<PathBuf>,
    /// What is written; `None` lets the output's extension decide.
    pub format: Option<Format>,
    /// The file; `None` is `generator.<extension>` in the working folder.
    pub out: Option<PathBuf>,
    /// Which weights.
    pub weights: Choice,
    /// ONNX: raw pixels in and out, as the files of the training data have them.
    pub normalise: bool,
    /// safetensors and PyTorch: the discriminator too, to train on.
    pub discriminator: bool,
    /// Replace files that are there.
    pub overwrite: bool,
}

/// Writes the generator of `checkpoint` (a file, or the folder of a run) in another program's format.
///
/// # Errors
/// Wrong options or checkpoint, a file that is there already (exit code 2), I/O.
pub fn export(checkpoint: &Path, options: &ExportOptions, messages: &Messages) -> Result<()> {
    let (format, out) = destination(options)?;
    let mut checkpoint = Checkpoint::open(checkpoint, options.config.as_deref(), &[])?;
    let averaged = averaged(&checkpoint, options.weights)?;
    let programs = Programs::new(checkpoint.cfg.clone())?;
    let description = Description::new(&checkpoint, averaged);
    let weights = checkpoint.weights(programs.layout(Network::Generator), averaged)?;
    match format {
        Format::Onnx => onnx::write(&out, &programs, &weights, &description, options.normalise)?,
        Format::Safetensors | Format::Torch => {
            let steps = checkpoint.meta().counters;
            let mut tensors = StateDict::new();
            tensors.add(programs.layout(Network::Generator), &weights, steps.adam_g);
            if options.discriminator {
                let layout = programs.layout(Network::Discriminator);
                tensors.add(layout, &checkpoint.weights(layout, false)?, steps.adam_d);
            }
            match format {
                Format::Safetensors => safetensors::write(&out, &tensors, &description)?,
                _ => torch::write(&out, &tensors, &description)?,
            }
        }
    }
    checkpoint.notes.iter().for_each(|note| messages.info(note));
    let size = std::fs::metadata(&out).map_err(|e| Error::io("read", &out, e))?.len();
    let (path, what) = (checkpoint.path().display(), checkpoint.describe(averaged));
    messages.info(&format!("{path}: {what} -> {} ({:.1} MB)", out.display(), size as f64 / 1e6));
    Ok(())
}

/// The format and the file, once it is clear that nothing stands in their way.
fn destination(options: &ExportOptions) -> Result<(Format, PathBuf)> {
    let named = options.out.as_deref().and_then(Format::of_extension);
    let format = options.format.or(named).ok_or_else(|| {
        Error::usage("which format is asked for does not follow from the output's name")
            .with_hint("state --format safetensors, torch or onnx")
    })?;
    let out = options.out.clone().unwrap_or_else(|| format!("generator.{}", format.extension()).into());
    if options.normalise && format != Format::Onnx {
        return Err(Error::usage("--normalise puts the normalisation into a graph, and only onnx has one"));
    }
    if options.discriminator && format == Format::Onnx {
        return Err(Error::usage("--discriminator adds weights to train on with, and an onnx file is not trained"));
    }
    if out.is_dir() {
        return Err(Error::data(&out, "the output is a folder").with_hint("name a file: -o FILE"));
    }
    check_folder_of(&out)?;
    let beside = (format == Format::Torch).then(|| torch::config_beside(&out));
    match [Some(out.clone()), beside].into_iter().flatten().find(|path| path.exists() && !options.overwrite) {
        Some(path) => Err(Error::data(path, "this file is there already").with_hint("--overwrite replaces it")),
        None => Ok((format, out)),
    }
}

/// Whether the averaged weights are taken.
fn averaged(checkpoint: &Checkpoint, choice: Choice) -> Result<bool> {
    match choice {
        Choice::Best => Ok(checkpoint.has_average),
        Choice::Live => Ok(false),
        Choice::Averaged if checkpoint.has_average => Ok(true),
        Choice::Averaged => Err(Error::checkpoint(checkpoint.path(), "it has no averaged weights")
            .with_hint("leave out --ema; a run keeps an average with Training.EMA.enabled=true")),
    }
}
