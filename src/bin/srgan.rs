//! `srgan`: tools beside training.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};
use srgan::Result;
use srgan::bench::{BenchOptions, Phase, bench};
use srgan::config::Config;
use srgan::doctor::examine;
use srgan::log::Table;
use srgan::train::open_device;

/// Tools for super-resolution GANs.
#[derive(Parser)]
#[command(version)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Time the steps of a config on random data and print one JSON line
    Bench {
        /// Configuration
        #[arg(short, long, value_name = "FILE")]
        config: PathBuf,
        /// Values that override the file's
        #[arg(value_name = "SECTION.KEY=VALUE")]
        overrides: Vec<String>,
        /// Which program
        #[arg(long, value_enum, default_value = "adversarial")]
        phase: PhaseName,
        /// Side of the HR patches in pixels
        #[arg(long, default_value_t = 128)]
        hr: usize,
        /// Counted steps
        #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
        steps: u64,
        /// Steps before them
        #[arg(long, default_value_t = 3)]
        warmup: usize,
        /// Where to run; the same as Training.device
        #[arg(long, value_name = "cpu|cuda|auto")]
        device: Option<String>,
        /// Compute threads; the same as Training.num_threads
        #[arg(long)]
        threads: Option<usize>,
        /// Also print what each kind of plan step costs, to standard error
        #[arg(long)]
        profile: bool,
    },
    /// Show what this machine offers for training, and what is missing
    Doctor,
}

#[derive(Clone, Copy, ValueEnum)]
enum PhaseName {
    Forward,
    Pretrain,
    Adversarial,
}

fn main() -> ExitCode {
    match start(Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e}");
            ExitCode::from(e.exit_code())
        }
    }
}

fn start(args: Args) -> Result<()> {
    let Command::Bench { config, mut overrides, phase, hr, steps, warmup, device, threads, profile } = args.command
    else {
        println!("{}", examine(&|name| std::env::var_os(name)));
        return Ok(());
    };
    overrides.extend(device.map(|d| format!("Training.device={d}")));
    overrides.extend(threads.map(|n| format!("Training.num_threads={n}")));
    let (cfg, warnings) = Config::load(&config, &overrides)?;
    warnings.iter().for_each(|w| eprintln!("warning: {w}"));
    let phase = match phase {
        PhaseName::Forward => Phase::Forward,
        PhaseName::Pretrain => Phase::Pretrain,
        PhaseName::Adversarial => Phase::Adversarial,
    };
    let options = BenchOptions { phase, hr, steps: steps as usize, warmup, profile };
    let (result, lines) = bench(&cfg, open_device(&cfg)?, &options)?;
    if profile {
        let total: f64 = lines.iter().map(|l| l.ms).sum();
        let mut table = Table::new(["plan steps", "count", "ms", "share", "GFLOP/s"]).left_aligned(1);
        for l in &lines {
            let rate = 2.0 * l.macs as f64 / (l.ms * 1e6).max(1e-9);
            table.row([
                l.label.clone(),
                l.count.to_string(),
                format!("{:.3}", l.ms),
                format!("{:.1} %", 100.0 * l.ms / total),
                if l.macs > 0 { format!("{rate:.0}") } else { String::new() },
            ]);
        }
        eprintln!("{table}");
    }
    let line = serde_json::to_string(&result).map_err(|e| srgan::Error::Internal(e.to_string()))?;
    println!("{line}");
    Ok(())
}
