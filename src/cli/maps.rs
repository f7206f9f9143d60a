//! `srgan predict` and `srgan merge`.

use std::path::PathBuf;

use crate::Result;
use clap::builder::RangedU64ValueParser;
use clap::{Args, ValueEnum};

use super::place::PlaceArgs;
use crate::log::Messages;
use crate::predict::{Blend, Compression, Matching, MergeOptions, Part, PredictOptions, merge, predict};
use crate::train::DeviceOptions;

const EXAMPLES: &str = "Examples:
  srgan predict -m logs/my_run scene.tif -o map.tif
  srgan predict -m best.safetensors scenes/*.tif -o maps --bands B02,B03,B04,B08 --preview
  srgan predict -m best.safetensors scene.tif -o map.tif --part 3/8     # in a job array; then
  srgan merge map.tif.part-*-of-8 -o map.tif

Exit codes: 0 finished; 2 wrong options, checkpoint or scene; 75 stopped by a signal with its state saved (continue with
--resume); 1 anything else.";

/// A number of pixels or windows.
fn positive() -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(1..=65_536)
}

#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct PredictArgs {
    /// Checkpoint, or the folder of a run: its last one
    #[arg(short, long, value_name = "CHECKPOINT")]
    model: PathBuf,
    /// Configuration of a checkpoint that holds none: the YAML of an opensr-srgan .ckpt
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Scenes: GeoTIFF, .npy and what else training reads
    #[arg(required = true, value_name = "INPUT")]
    inputs: Vec<PathBuf>,
    /// The map (.tif or .npy), or a folder for the maps of several scenes
    #[arg(short, long, value_name = "OUT.tif|DIR")]
    out: PathBuf,
    /// Bands by number from 0 or by name, in the order of the network's [default: those of the checkpoint]
    #[arg(long, value_name = "0,1,…|B02,B03,…")]
    bands: Option<String>,
    /// Side of a window in input pixels [default: 128, or more where the network looks far]
    #[arg(long, value_parser = positive())]
    window: Option<usize>,
    /// Input pixels that neighbouring windows share: `auto` follows from the network
    #[arg(long, value_name = "auto|N", default_value = "auto", value_parser = overlap)]
    overlap: Overlap,
    /// How windows are joined where they share more than the network needs
    #[arg(long, value_enum, default_value = "cosine")]
    blend: BlendName,
    /// Windows at a time [default: 1, on a GPU 8]
    #[arg(long, value_parser = positive())]
    batch: Option<usize>,
    /// Make only this part of the map, for a job array
    #[arg(long, value_name = "I/N")]
    part: Option<Part>,
    /// Match the values of each band with those of the scene
    #[arg(long = "match", value_enum, default_value = "none")]
    matching: MatchingName,
    /// Compression of the tiles
    #[arg(long, value_enum, default_value = "deflate")]
    compress: CompressionName,
    /// Also draw a picture beside the map: the scene's middle, input beside output
    #[arg(long, conflicts_with = "part")]
    preview: bool,
    /// Go on with an unfinished map; leave finished ones alone
    #[arg(long)]
    resume: bool,
    /// Replace maps that are there
    #[arg(long, conflicts_with = "resume")]
    overwrite: bool,
    /// Accept values that the network was not trained for
    #[arg(long)]
    force: bool,
    /// Use the live weights although the checkpoint has averaged ones
    #[arg(long)]
    live: bool,
    #[command(flatten)]
    place: PlaceArgs,
}

#[derive(Args)]
pub struct MergeArgs {
    /// Files that `srgan predict --part` made, all of one map
    #[arg(required = true, value_name = "PART")]
    parts: Vec<PathBuf>,
    /// The map
    #[arg(short, long, value_name = "OUT.tif")]
    out: PathBuf,
    /// Replace a map that is there
    #[arg(long)]
    overwrite: bool,
    /// Threads that compress [default: all]
    #[arg(long, value_parser = positive())]
    threads: Option<usize>,
}

/// `--overlap`.
#[derive(Clone, Copy)]
struct Overlap(Option<usize>);

fn overlap(text: &str) -> Result<Overlap, String> {
    match text {
        "auto" => Ok(Overlap(None)),
        number => number.parse().map(|n| Overlap(Some(n))).map_err(|_| "neither auto nor a number of pixels".into()),
    }
}

#[derive(Clone, Copy, ValueEnum)]
enum BlendName {
    Cosine,
    Linear,
    None,
}

#[derive(Clone, Copy, ValueEnum)]
enum MatchingName {
    None,
    Histogram,
    Moments,
}

#[derive(Clone, Copy, ValueEnum)]
enum CompressionName {
    Deflate,
    Zstd,
    None,
}

/// Runs `srgan predict`.
pub fn run_predict(args: PredictArgs, program: Option<PathBuf>) -> Result<()> {
    let options = PredictOptions {
        checkpoint: args.model,
        config: args.config,
        overrides: args.place.overrides(),
        bands: args.bands,
        window: args.window,
        overlap: args.overlap.0,
        blend: match args.blend {
            BlendName::Cosine => Blend::Cosine,
            BlendName::Linear => Blend::Linear,
            BlendName::None => Blend::None,
        },
        batch: args.batch,
        part: args.part,
        matching: match args.matching {
            MatchingName::None => Matching::None,
            MatchingName::Histogram => Matching::Histogram,
            MatchingName::Moments => Matching::Moments,
        },
        compression: match args.compress {
            CompressionName::Deflate => Compression::Deflate,
            CompressionName::Zstd => Compression::Zstd,
            CompressionName::None => Compression::None,
        },
        preview: args.preview,
        resume: args.resume,
        overwrite: args.overwrite,
        force: args.force,
        live: args.live,
    };
    let device = DeviceOptions { messages: Some(Messages::stderr()), program, ..DeviceOptions::default() };
    predict(&args.inputs, &args.out, &options, &device)
}

/// Runs `srgan merge`.
pub fn run_merge(args: MergeArgs) -> Result<()> {
    let options = MergeOptions { overwrite: args.overwrite, threads: args.threads };
    merge(&args.parts, &args.out, options, &Messages::stderr())
}
