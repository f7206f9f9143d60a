//! `srgan`: the tools, and training.

use std::process::ExitCode;

use srgan::cli;
use srgan::train::self_check;

fn main() -> ExitCode {
    cli::srgan(std::env::args_os(), self_check::this_program()).into()
}
