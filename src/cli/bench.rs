//! `srgan bench`.

use std::path::PathBuf;

use crate::bench::{BenchOptions, Phase, Source, bench, bench_loader};
use crate::config::Config;
use crate::data::Dataset;
use crate::log::{Messages, say_error};
use crate::train::{DeviceOptions, data_settings, open_device_with};
use crate::{Error, Result};
use clap::{Args, ValueEnum};

use super::print;

#[derive(Args)]
pub struct BenchArgs {
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
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..))]
    warmup: u64,
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

/// Runs `srgan bench`.
pub fn run_bench(args: BenchArgs, program: Option<PathBuf>) -> Result<()> {
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
    let (steps, warmup, profile) = (args.steps as usize, args.warmup as usize, args.profile);
    let options = BenchOptions { phase, source, steps, warmup, profile };
    let messages = Some(Messages::stderr());
    let device = open_device_with(
        &cfg,
        &DeviceOptions { sync_kernels: args.sync_kernels, messages, program, ..DeviceOptions::default() },
    )?;
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
