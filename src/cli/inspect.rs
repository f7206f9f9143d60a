//! `srgan inspect`.

use std::path::PathBuf;

use crate::Result;
use crate::inspect::inspect;
use clap::Args;

#[derive(Args)]
#[command(after_help = "Examples:
  srgan inspect logs/my_run                     # its last checkpoint
  srgan inspect model.ckpt                      # of opensr-srgan, or any state dict
  srgan inspect best.safetensors --json | jq '.tensors[] | select(.non_finite > 0)'")]
pub struct InspectArgs {
    /// A checkpoint, a state dict (.safetensors, .ckpt, .pt, .pth), or the folder of a run
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Print one JSON object in one line
    #[arg(long)]
    json: bool,
}

/// Runs `srgan inspect`.
pub fn run_inspect(args: &InspectArgs) -> Result<()> {
    super::print(&inspect(&args.file)?, args.json)
}
