//! `srgan export`.

use std::path::PathBuf;

use crate::Result;
use crate::export::{Choice, ExportOptions, Format, export};
use crate::log::Messages;
use clap::{Args, ValueEnum};

const EXAMPLES: &str = "Examples:
  srgan export logs/my_run -o generator.onnx               # averaged weights, normalised pixels in and out
  srgan export best.safetensors -o raw.onnx --normalise    # the pixels of the files in and out
  srgan export logs/my_run --format torch -o gan.ckpt      # with gan.yaml beside it, for opensr-srgan
  srgan export logs/my_run --format safetensors --live     # a state dict";

#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct ExportArgs {
    /// Checkpoint, or the folder of a run: its last one
    #[arg(value_name = "CHECKPOINT")]
    model: PathBuf,
    /// What to write [default: what the output's extension names]
    #[arg(long, value_enum)]
    format: Option<FormatName>,
    /// The file [default: generator.safetensors, .ckpt or .onnx]
    #[arg(short, long, value_name = "OUT")]
    out: Option<PathBuf>,
    /// The averaged weights; without them an error [default: averaged where there are any]
    #[arg(long, conflicts_with = "live")]
    ema: bool,
    /// The live weights although there are averaged ones
    #[arg(long)]
    live: bool,
    /// onnx: put the normalisation inside, so that pixels are those of the training files
    #[arg(long)]
    normalise: bool,
    /// safetensors and torch: the discriminator too, to train on
    #[arg(long)]
    discriminator: bool,
    /// Configuration of a checkpoint that holds none: the YAML of an opensr-srgan .ckpt
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Replace files that are there
    #[arg(long)]
    overwrite: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum FormatName {
    /// A state dict with metadata
    Safetensors,
    /// A Lightning checkpoint that opensr-srgan loads
    Torch,
    /// A graph for ONNX Runtime
    Onnx,
}

/// Runs `srgan export`.
pub fn run_export(args: ExportArgs) -> Result<()> {
    let options = ExportOptions {
        config: args.config,
        format: args.format.map(|format| match format {
            FormatName::Safetensors => Format::Safetensors,
            FormatName::Torch => Format::Torch,
            FormatName::Onnx => Format::Onnx,
        }),
        out: args.out,
        weights: match (args.ema, args.live) {
            (true, _) => Choice::Averaged,
            (_, true) => Choice::Live,
            _ => Choice::Best,
        },
        normalise: args.normalise,
        discriminator: args.discriminator,
        overwrite: args.overwrite,
    };
    export(&args.model, &options, &Messages::stderr())
}
