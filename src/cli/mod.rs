//! The command lines of the programs `srgan` and `srgan-train`: arguments become a call of the library. They are functions,
//! so that a package for another language can bring the programs too.

mod bench;
mod config;
mod evaluation;
mod export;
mod inspect;
mod maps;
mod place;
mod shell;
mod train;

use std::ffi::OsString;
use std::fmt::Display;
use std::path::PathBuf;

use clap::{Args, CommandFactory, Parser, Subcommand};
use serde::Serialize;

use crate::config::Config;
use crate::doctor::{StoreFolder, examine, take_part};
use crate::log::{say, say_error};
use crate::train::launch::{LaunchFlags, launched};
use crate::train::self_check;
use crate::{Error, Result};
use bench::{BenchArgs, run_bench};
use config::{ConfigArgs, InitArgs, run_config, run_init};
use evaluation::{EvaluateArgs, ReportArgs, run_evaluate, run_report};
use export::{ExportArgs, run_export};
use inspect::{InspectArgs, run_inspect};
use maps::{MergeArgs, PredictArgs, run_merge, run_predict};
use shell::{CompletionsArgs, ManArgs, run_completions, run_man};
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

/// Train a super-resolution GAN for satellite imagery from one YAML file.
///
/// Exit codes: 0 finished; 2 wrong config, data or checkpoint; 3 diverged; 75 stopped by a signal with its state
/// saved (continue with --resume auto); 1 anything else.
#[derive(Parser)]
#[command(name = "srgan-train", version, after_help = train::EXAMPLES)]
struct TrainCli {
    #[command(flatten)]
    args: TrainArgs,
}

/// The command line of `srgan-train`, for completions and man pages.
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

/// The program `srgan` with these arguments, its own name first; the exit code. `program` is a file that starts it, for
/// what is tried in a process of its own ([`self_check::check_gpu`]).
pub fn srgan(arguments: impl IntoIterator<Item = OsString>, program: Option<PathBuf>) -> u8 {
    let run = |Cli { command }: Cli| match command {
        Command::Train(args) => run_train(args, program),
        Command::Predict(args) => run_predict(*args, program),
        Command::Merge(args) => run_merge(args),
        Command::Export(args) => run_export(args),
        Command::Inspect(args) => run_inspect(&args),
        Command::Config(args) => run_config(args),
        Command::Init(args) => run_init(&args),
        Command::Bench(args) => run_bench(args, program),
        Command::Evaluate(args) => run_evaluate(*args, program),
        Command::Report(args) => run_report(&args),
        Command::Doctor(args) => run_doctor(&args, program),
        Command::Completions(args) => run_completions(&args, Cli::command(), train_command()),
        Command::Man(args) => run_man(&args, Cli::command(), train_command()),
    };
    answered(arguments, run)
}

/// The program `srgan-train`, as [`srgan`].
pub fn srgan_train(arguments: impl IntoIterator<Item = OsString>, program: Option<PathBuf>) -> u8 {
    answered(arguments, |TrainCli { args }: TrainCli| run_train(args, program))
}

/// Reads arguments and runs what they ask for; prints the error, if there is one. The exit code.
fn answered<P: Parser>(arguments: impl IntoIterator<Item = OsString>, run: impl FnOnce(P) -> Result<()>) -> u8 {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    if let Some(code) = self_check::answer(arguments.iter().cloned(), &|name| std::env::var_os(name)) {
        return code;
    }
    let parsed = match P::try_parse_from(arguments) {
        Ok(parsed) => parsed,
        Err(e) => {
            // As clap does: nobody may be listening.
            let _ = e.print();
            return u8::try_from(e.exit_code()).unwrap_or(1);
        }
    };
    let Err(e) = run(parsed) else { return 0 };
    match &e {
        Error::Stopped { .. } | Error::StoppedEarly { .. } => say_error(&e),
        _ => say_error(format_args!("error: {e}")),
    }
    e.exit_code()
}

fn run_doctor(args: &DoctorArgs, program: Option<PathBuf>) -> Result<()> {
    let cfg = match &args.config {
        Some(path) => Config::load(path, &args.overrides)?.0,
        None => Config::default(),
    };
    let stores = StoreFolder { dir: &cfg.data.store_dir, days: cfg.data.store_days };
    let env = |name: &str| std::env::var_os(name);
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
