//! `srgan-train` and `srgan train`.

use std::ffi::OsString;
use std::path::PathBuf;

use crate::config::{Config, Resume};
use crate::device::collective::Ranks;
use crate::log::{Messages, say, say_error};
use crate::train::ranks::{abandon, join, launched};
use crate::train::{DeviceOptions, RunOptions, describe_begin, dry_run, run, torch_hub};
use crate::{Error, Result};
use clap::Args;

/// What `srgan-train` and `srgan train` take.
#[derive(Args)]
pub struct TrainArgs {
    /// Configuration: the YAML of opensr-srgan, or one of configs/
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,

    /// Values that override the file's, by their path in it: `Training.seed=1 Data.rgb_bands=[2,1,0]`
    #[arg(value_name = "SECTION.KEY=VALUE")]
    overrides: Vec<String>,

    /// Continue the newest run of the project (auto; starts one if there is none), or a run folder or checkpoint
    #[arg(long, value_name = "auto|CHECKPOINT")]
    resume: Option<String>,

    /// Folder of the run instead of logs/PROJECT/TIMESTAMP
    #[arg(long, value_name = "DIR")]
    run_dir: Option<PathBuf>,

    /// With --resume: go on although the imagery is not what the run was trained on
    #[arg(long)]
    accept_new_data: bool,

    /// Where to train; the same as Training.device
    #[arg(long, value_name = "cpu|cuda|auto")]
    device: Option<String>,

    /// Instruction set of the CPU; the same as Training.isa
    #[arg(long, value_name = "auto|avx512|avx2|neon|portable")]
    isa: Option<String>,

    /// Wait after each CUDA kernel, so that an error names the kernel that caused it; slow
    #[arg(long)]
    sync_kernels: bool,

    /// Print layers, parameters, multiply-adds, memory and steps per epoch, and stop
    #[arg(long)]
    dry_run: bool,

    /// With --dry-run: also print which algorithm was chosen for each layer, and what the others take
    #[arg(short, long, requires = "dry_run")]
    verbose: bool,
}

/// Shown under the options.
pub const EXAMPLES: &str = "Examples:
  srgan-train -c configs/demo.yaml
  srgan-train -c configs/demo.yaml Training.seed=1 Generator.n_blocks=8
  srgan-train -c cfg.yaml --resume auto          # in a batch job: start or continue
  srgan-train -c cfg.yaml --dry-run";

fn env(name: &str) -> Option<OsString> {
    std::env::var_os(name)
}

/// Trains, or shows what would be trained. One of several ranks reports an error itself and ends the process.
pub fn run_train(args: TrainArgs, program: Option<PathBuf>) -> Result<()> {
    let mut ranks = Ranks::default();
    let result = start(args, program, &mut ranks);
    let Err(e) = &result else { return Ok(()) };
    let code = e.exit_code();
    if ranks.are_several() {
        // All ranks stop together on a signal and when training diverges; of other errors the others know nothing.
        let together = matches!(e, Error::Stopped { .. } | Error::Diverged { .. });
        if ranks.is_first() || !together {
            // In one piece: ranks share the terminal.
            say_error(format!("error: {}: {e}", ranks.name()));
        }
        if !together {
            ranks.abort(code);
        }
        drop(ranks);
        std::process::exit(code.into());
    }
    if let Ok(Some(launched)) = launched(&env) {
        say_error(format!("error: {}: {e}", launched.name()));
        abandon(launched, code, &env);
        std::process::exit(code.into());
    }
    result
}

fn start(args: TrainArgs, program: Option<PathBuf>, ranks: &mut Ranks) -> Result<()> {
    let mut overrides = args.overrides;
    overrides.extend(args.device.map(|d| format!("Training.device={d}")));
    overrides.extend(args.isa.map(|i| format!("Training.isa={i}")));
    let (cfg, warnings) = Config::load(&args.config, &overrides)?;
    let resume = args.resume.map(|r| if r == "auto" { Resume::Auto } else { Resume::From(r.into()) });
    let TrainArgs { run_dir, accept_new_data, sync_kernels, .. } = args;
    let torch_hub = torch_hub(&env);
    let options = RunOptions { resume, run_dir, accept_new_data, sync_kernels, torch_hub, ..RunOptions::default() };
    if args.dry_run {
        if launched(&env)?.is_some_and(|launched| launched.index > 0) {
            return Ok(());
        }
        warnings.iter().for_each(|w| say_error(format_args!("warning: {w}")));
        let messages = Messages::stderr();
        let begin = describe_begin(&cfg, &options, &messages)?;
        let device = DeviceOptions { messages: Some(messages), program, ..DeviceOptions::default() };
        let text = dry_run(&cfg, args.verbose, &device, options.torch_hub.as_deref())?;
        return say(begin.into_iter().chain([text]).collect::<Vec<_>>().join("\n"));
    }
    *ranks = join(&cfg, &env)?;
    run(&cfg, &warnings, &RunOptions { ranks: ranks.clone(), ..options }, program).map(|_| ())
}
