//! `srgan completions` and `srgan man`.

use std::path::{Path, PathBuf};

use crate::log::say;
use crate::{Error, Result};
use clap::{Args, Command, ValueEnum};
use clap_complete::{Shell, generate};

#[derive(Args)]
#[command(after_help = "Examples:
  srgan completions bash > ~/.local/share/bash-completion/completions/srgan
  srgan completions zsh > ~/.zfunc/_srgan
  srgan completions fish > ~/.config/fish/completions/srgan.fish")]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
    /// The program
    #[arg(long = "for", value_enum, default_value = "srgan")]
    program: ProgramName,
}

#[derive(Clone, Copy, ValueEnum)]
enum ProgramName {
    Srgan,
    SrganTrain,
}

#[derive(Args)]
pub struct ManArgs {
    /// Folder for the pages, as ~/.local/share/man/man1
    #[arg(value_name = "DIR")]
    folder: PathBuf,
}

/// Runs `srgan completions`. `srgan` and `train` are the command lines of the two programs.
pub fn run_completions(args: &CompletionsArgs, srgan: Command, train: Command) -> Result<()> {
    let (mut command, name) = match args.program {
        ProgramName::Srgan => (srgan, "srgan"),
        ProgramName::SrganTrain => (train, "srgan-train"),
    };
    let mut script = Vec::new();
    generate(args.shell, &mut command, name, &mut script);
    say(String::from_utf8_lossy(&script).trim_end())
}

/// Runs `srgan man`: a page for each program and each command.
pub fn run_man(args: &ManArgs, srgan: Command, train: Command) -> Result<()> {
    let folder: &Path = &args.folder;
    std::fs::create_dir_all(folder).map_err(|e| Error::io("create", folder, e))?;
    for command in [srgan, train] {
        clap_mangen::generate_to(command, folder).map_err(|e| Error::io("write", folder, e))?;
    }
    say(format_args!("man pages are in {}", folder.display()))
}
