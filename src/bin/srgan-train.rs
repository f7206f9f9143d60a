//! `srgan-train -c cfg.yaml`: trains a super-resolution GAN from one YAML file.

use std::process::ExitCode;

use clap::Parser;
use srgan::Error;
use srgan::log::say_error;
use srgan::train::self_check;

#[path = "srgan/train.rs"]
mod train;

/// Train a super-resolution GAN for satellite imagery from one YAML file.
///
/// Exit codes: 0 finished; 2 wrong config, data or checkpoint; 3 diverged; 75 stopped by a signal with its state
/// saved (continue with --resume auto); 1 anything else.
#[derive(Parser)]
#[command(name = "srgan-train", version, after_help = train::EXAMPLES)]
struct Cli {
    #[command(flatten)]
    args: train::TrainArgs,
}

fn main() -> ExitCode {
    if let Some(code) = self_check::answer(std::env::args_os(), &|name| std::env::var_os(name)) {
        return code;
    }
    match train::run_train(Cli::parse().args) {
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
