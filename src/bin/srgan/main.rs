//! `srgan`: the tools, and training.

mod bench;
mod config;
mod evaluation;
mod export;
mod inspect;
mod maps;
mod place;
mod shell;
mod train;

use std::fmt::Display;
use std::path::PathBuf;
use std::process::ExitCode;

use bench::{BenchArgs, run_bench};
use clap::{Args, CommandFactory, Parser, Subcommand};
use config::{ConfigArgs, InitArgs, run_config, run_init};
use evaluation::{EvaluateArgs, ReportArgs, run_evaluate, run_report};
use export::{ExportArgs, run_export};
use inspect::{InspectArgs, run_inspect};
use maps::{MergeArgs, PredictArgs, run_merge, run_predict};
use serde::Serialize;
use shell::{CompletionsArgs, ManArgs, run_completions, run_man};
use srgan::config::Config;
use srgan::doctor::{StoreFolder, examine, take_part};
use srgan::log::{say, say_error};
use srgan::train::launch::{LaunchFlags, launched};
use srgan::train::self_check;
use srgan::{Error, Result};
use train::{TrainArgs, run_train};

/// Super-resolution GANs for satellite imagery: training, maps, and what belongs to them.
#[derive(Parser)]
#[command(name = "srgan", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Train from one YAML file; the same as `srgan-train`
    #[command(after_help = train::EXAMPLES)]
    Train(TrainArgs),
    /// Map whole scenes with a trained generator
    Predict(Box<PredictArgs>),
    /// Join the parts that `predict --part` made to one map
    Merge(MergeArgs),
    /// Write a trained generator for other programs: ONNX, PyTorch, safetensors
    Export(ExportArgs),
    /// Show what a file of weights holds
    Inspect(InspectArgs),
    /// Print a configuration with all defaults, or explain its keys
    Config(ConfigArgs),
    /// Write a first configuration for some scenes, or the demo
    Init(InitArgs),
    /// Time the steps of a config, or its data loader
    Bench(BenchArgs),
    /// Compare checkpoints with each other and with bicubic upsampling on held-out imagery
    Evaluate(Box<EvaluateArgs>),
    /// Write a page of one run, or of several beside each other
    Report(ReportArgs),
    /// Show what this machine offers for training, and what is missing
    Doctor(DoctorArgs),
    /// Print a script that completes commands and options
    Completions(CompletionsArgs),
    /// Write man pages
    Man(ManArgs),
}

/// The command line of `srgan-train`.
fn train_command() -> clap::Command {
    let command = clap::Command::new("srgan-train").version(env!("CARGO_PKG_VERSION"));
    TrainArgs::augment_args(command.about("Train a super-resolution GAN for satellite imagery from one YAML file"))
}

#[derive(Args)]
struct DoctorArgs {
    /// Configuration whose patch stores are looked at [default: the folder `stores`]
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Values that override the file's
    #[arg(value_name = "SECTION.KEY=VALUE", requires = "config")]
    overrides: Vec<String>,
}

fn main() -> ExitCode {
    if let Some(code) = self_check::answer(std::env::args_os(), &|name| std::env::var_os(name)) {
        return code;
    }
    let done = match Cli::parse().command {
        Command::Train(args) => run_train(args),
        Command::Predict(args) => run_predict(*args),
        Command::Merge(args) => run_merge(args),
        Command::Export(args) => run_export(args),
        Command::Inspect(args) => run_inspect(&args),
        Command::Config(args) => run_config(args),
        Command::Init(args) => run_init(&args),
        Command::Bench(args) => run_bench(args),
        Command::Evaluate(args) => run_evaluate(*args),
        Command::Report(args) => run_report(&args),
        Command::Doctor(args) => run_doctor(&args),
        Command::Completions(args) => run_completions(&args, Cli::command(), train_command()),
        Command::Man(args) => run_man(&args, Cli::command(), train_command()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            match &e {
                Error::Stopped { .. } | Error::StoppedEarly { .. } => say_error(&e),
                _ => say_error(format_args!("error: {e}")),
            }
            ExitCode::from(e.exit_code())
        }
    }
}

fn run_doctor(args: &DoctorArgs) -> Result<()> {
    let cfg = match &args.config {
        Some(path) => Config::load(path, &args.overrides)?.0,
        None => Config::default(),
    };
    let stores = StoreFolder { dir: &cfg.data.store_dir, days: cfg.data.store_days };
    let (program, env) = (self_check::this_program(), |name: &str| std::env::var_os(name));
    let launched = launched(LaunchFlags::default(), &env)?;
    if let Some(other) = launched.filter(|launched| launched.index > 0) {
        // The first rank tells what they find.
        return take_part(other, &env).map(|_| ());
    }
    say(examine(&env, launched, program.as_deref(), stores, |text| say_error(text)))
}

fn print(result: &(impl Display + Serialize), json: bool) -> Result<()> {
    if json {
        let line = serde_json::to_string(result).map_err(|e| Error::Internal(e.to_string()))?;
        say(line)
    } else {
        say(result)
    }
}
