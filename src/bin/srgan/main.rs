//! `srgan`: tools beside training.

mod evaluation;
mod maps;

use std::fmt::Display;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};
use evaluation::{EvaluateArgs, ReportArgs, run_evaluate, run_report};
use maps::{MergeArgs, PredictArgs, run_merge, run_predict};
use serde::Serialize;
use srgan::bench::{BenchOptions, Phase, Source, bench, bench_loader};
use srgan::config::Config;
use srgan::data::Dataset;
use srgan::doctor::{StoreFolder, examine};
use srgan::log::{Messages, say, say_error};
use srgan::train::{DeviceOptions, data_settings, open_device_with, self_check};
use srgan::{Error, Result};

/// Tools for super-resolution GANs.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Time the steps of a config, or its data loader
    Bench(BenchArgs),
    /// Map whole scenes with a trained generator
    Predict(Box<PredictArgs>),
    /// Join the parts that `predict --part` made to one map
    Merge(MergeArgs),
    /// Compare checkpoints with each other and with bicubic upsampling on held-out imagery
    Evaluate(Box<EvaluateArgs>),
    /// Write a page of one run, or of several beside each other
    Report(ReportArgs),
    /// Show what this machine offers for training, and what is missing
    Doctor(DoctorArgs),
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

#[derive(Args)]
struct BenchArgs {
    /// Configuration
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,
    /// Values that override the file's
    #[arg(value_name = "SECTION.KEY=VALUE")]
    overrides: Vec<String>,
    /// Which program, or the data loader alone
    #[arg(long, value_enum, default_value = "adversarial")]
    phase: PhaseName,
    /// Random images that are already on the device, or the config's data with its loader
    #[arg(long, value_enum, default_value = "random")]
    data: DataName,
    /// Side of random HR patches in pixels [default: Data.hr_size, or else 128]
    #[arg(long)]
    hr: Option<usize>,
    /// Counted steps
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    steps: u64,
    /// Steps before them, at least one
    #[arg(long, default_value_t = 3)]
    warmup: usize,
    /// Epochs of --phase loader
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..))]
    epochs: u64,
    /// Where to run; the same as Training.device
    #[arg(long, value_name = "cpu|cuda|auto")]
    device: Option<String>,
    /// Instruction set of the CPU; the same as Training.isa
    #[arg(long, value_name = "auto|avx512|avx2|neon|portable")]
    isa: Option<String>,
    /// Compute threads; the same as Training.num_threads
    #[arg(long)]
    threads: Option<usize>,
    /// Also show what each kind of plan step costs
    #[arg(long)]
    profile: bool,
    /// Wait after each CUDA kernel, so that an error names the kernel that caused it; slow
    #[arg(long)]
    sync_kernels: bool,
    /// Print one JSON object in one line
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum PhaseName {
    Forward,
    Pretrain,
    Adversarial,
    Loader,
}

#[derive(Clone, Copy, ValueEnum)]
enum DataName {
    Random,
    Cfg,
}

fn main() -> ExitCode {
    if let Some(code) = self_check::answer(std::env::args_os(), &|name| std::env::var_os(name)) {
        return code;
    }
    let done = match Cli::parse().command {
        Command::Bench(args) => run_bench(args),
        Command::Predict(args) => run_predict(*args),
        Command::Merge(args) => run_merge(args),
        Command::Evaluate(args) => run_evaluate(*args),
        Command::Report(args) => run_report(&args),
        Command::Doctor(args) => run_doctor(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            match &e {
                Error::Stopped { .. } => say_error(&e),
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
    let program = self_check::this_program();
    let report = examine(&|name| std::env::var_os(name), program.as_deref(), stores, |text| say_error(text));
    say(report)
}

fn run_bench(args: BenchArgs) -> Result<()> {
    let mut overrides = args.overrides;
    overrides.extend(args.device.map(|d| format!("Training.device={d}")));
    overrides.extend(args.isa.map(|i| format!("Training.isa={i}")));
    overrides.extend(args.threads.map(|n| format!("Training.num_threads={n}")));
    let (cfg, warnings) = Config::load(&args.config, &overrides)?;
    warnings.iter().for_each(|w| say_error(format_args!("warning: {w}")));
    let open = |cfg: &Config| Dataset::open(&data_settings(cfg));
    let phase = match args.phase {
        PhaseName::Forward => Phase::Forward,
        PhaseName::Pretrain => Phase::Pretrain,
        PhaseName::Adversarial => Phase::Adversarial,
        PhaseName::Loader if args.profile => {
            return Err(Error::usage("--profile shows plan steps, and the loader has none"));
        }
        PhaseName::Loader if args.sync_kernels => {
            return Err(Error::usage("--sync-kernels waits after each kernel, and the loader has none"));
        }
        PhaseName::Loader => {
            refuse_side(args.hr)?;
            return print(&bench_loader(&open(&cfg)?, &cfg, args.epochs)?, args.json);
        }
    };
    let dataset = match args.data {
        DataName::Random => None,
        DataName::Cfg => {
            refuse_side(args.hr)?;
            Some(open(&cfg)?)
        }
    };
    let source =
        dataset.as_ref().map_or(Source::Random { hr: args.hr.or(cfg.data.hr_size).unwrap_or(128) }, Source::Data);
    let (steps, warmup, profile) = (args.steps as usize, args.warmup, args.profile);
    let options = BenchOptions { phase, source, steps, warmup, profile };
    let (messages, program) = (Some(Messages::stderr()), self_check::this_program());
    let device = open_device_with(&cfg, &DeviceOptions { sync_kernels: args.sync_kernels, messages, program })?;
    print(&bench(&cfg, device, &options)?, args.json)
}

/// `--hr` says nothing about a data set.
fn refuse_side(hr: Option<usize>) -> Result<()> {
    match hr {
        Some(side) => Err(Error::usage("--hr is the side of random patches; the data set's is in the config")
            .with_hint(format!("set Data.hr_size={side} instead"))),
        None => Ok(()),
    }
}

fn print(result: &(impl Display + Serialize), json: bool) -> Result<()> {
    if json {
        let line = serde_json::to_string(result).map_err(|e| Error::Internal(e.to_string()))?;
        say(line)
    } else {
        say(result)
    }
}
