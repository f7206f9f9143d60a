//! `srgan-train -c cfg.yaml`: trains a super-resolution GAN from one YAML file.

use std::process::ExitCode;

use srgan::cli;
use srgan::train::self_check;

fn main() -> ExitCode {
    cli::srgan_train(std::env::args_os(), self_check::this_program()).into()
}
