//! `srgan evaluate` and `srgan report`.

use std::path::PathBuf;

use crate::data::Split;
use crate::evaluate::{EvaluateOptions, evaluate};
use crate::log::{Messages, say, write_comparison};
use crate::train::{DeviceOptions, torch_hub};
use crate::{Error, Result};
use clap::{Args, ValueEnum};

use super::place::PlaceArgs;

const EXAMPLES: &str = "Examples:
  srgan evaluate -m logs/my_run -c cfg.yaml
  srgan evaluate -m best.safetensors last.safetensors -c cfg.yaml --opensr-test
  srgan evaluate -m logs/my_run -c cfg.yaml --report logs/my_run/evaluation   # shown on the run's page, too

Exit codes: 0 finished; 2 wrong options, configuration, data or checkpoint; 1 anything else.";

#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct EvaluateArgs {
    /// Checkpoints, or folders of runs: their last ones
    #[arg(short, long = "model", value_name = "CHECKPOINT", required = true, num_args = 1..)]
    models: Vec<PathBuf>,
    /// Configuration with the data: that of the training, or another one
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,
    /// Values that override the configuration's
    #[arg(value_name = "SECTION.KEY=VALUE")]
    overrides: Vec<String>,
    /// Which patches: those of validation, or the folder `test` of an LRHRFolderDataset
    #[arg(long, value_enum, default_value = "val")]
    split: SplitName,
    /// Also the columns of opensr-test: consistency, synthesis, correctness
    #[arg(long)]
    opensr_test: bool,
    /// Folder for the table, JSON, CSV, pictures of the best and the worst patches, and a page
    #[arg(long, value_name = "DIR")]
    report: Option<PathBuf>,
    /// Use the live weights although a checkpoint has averaged ones
    #[arg(long)]
    live: bool,
    /// Print one JSON document instead of tables
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    place: PlaceArgs,
}

#[derive(Clone, Copy, ValueEnum)]
enum SplitName {
    Val,
    Test,
}

#[derive(Args)]
pub struct ReportArgs {
    /// Folders of runs
    #[arg(required = true, value_name = "RUN")]
    runs: Vec<PathBuf>,
    /// The page
    #[arg(short, long, value_name = "FILE")]
    out: PathBuf,
}

/// Runs `srgan evaluate`.
pub fn run_evaluate(args: EvaluateArgs, program: Option<PathBuf>) -> Result<()> {
    let mut overrides = args.overrides;
    overrides.extend(args.place.overrides());
    let options = EvaluateOptions {
        checkpoints: args.models,
        config: args.config,
        overrides,
        split: match args.split {
            SplitName::Val => Split::Val,
            SplitName::Test => Split::Test,
        },
        opensr_test: args.opensr_test,
        report: args.report,
        live: args.live,
        torch_hub: torch_hub(&|name| std::env::var_os(name)),
    };
    let device = DeviceOptions { messages: Some(Messages::stderr()), program, ..DeviceOptions::default() };
    let evaluation = evaluate(&options, &device)?;
    if args.json { say(format_args!("{:#}", evaluation.to_json())) } else { say(&evaluation) }
}

/// Runs `srgan report`.
pub fn run_report(args: &ReportArgs) -> Result<()> {
    if args.out.is_dir() {
        let message = format!("{} is a folder", args.out.display());
        return Err(Error::usage(message).with_hint("name the file of the page: -o runs.html"));
    }
    write_comparison(&args.runs, &args.out)
}
