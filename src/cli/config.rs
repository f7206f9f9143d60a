//! `srgan config` and `srgan init`.

use std::path::PathBuf;

use crate::config::{Config, describe, json_schema, markdown};
use crate::init::{config_for, demo};
use crate::log::{say, say_error};
use crate::{Error, Result};
use clap::Args;

const EXAMPLES: &str = "Examples:
  srgan config cfg.yaml Training.seed=1         # the complete file, as a run would use it
  srgan config --keys Training.Losses           # every key of a section: type, range, default, meaning
  srgan config --schema > srgan.schema.json     # for an editor that completes and checks";

#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct ConfigArgs {
    /// Configuration to print with all defaults and overrides
    #[arg(value_name = "FILE", required_unless_present_any = ["keys", "schema"])]
    config: Option<PathBuf>,
    /// Values that override the file's
    #[arg(value_name = "SECTION.KEY=VALUE")]
    overrides: Vec<String>,
    /// Explain every key, or those of a section
    #[arg(long, value_name = "SECTION", num_args = 0..=1, conflicts_with_all = ["config", "schema"])]
    keys: Option<Option<String>>,
    /// With --keys: as the page of the book
    #[arg(long, requires = "keys")]
    markdown: bool,
    /// Print a JSON Schema of configurations
    #[arg(long, conflicts_with = "config")]
    schema: bool,
    /// Print the complete file as JSON
    #[arg(long, conflicts_with_all = ["keys", "schema"])]
    json: bool,
}

/// Runs `srgan config`.
pub fn run_config(args: ConfigArgs) -> Result<()> {
    let pretty = |value| serde_json::to_string_pretty(&value).map_err(|e| Error::Internal(e.to_string()));
    if args.schema {
        return say(pretty(json_schema())?);
    }
    match (args.keys, args.config) {
        (Some(Some(_)), _) if args.markdown => Err(Error::usage("--markdown is the whole page: leave out the section")),
        (Some(_), _) if args.markdown => say(markdown().trim_end()),
        (Some(section), _) => say(describe(section.as_deref())?),
        (None, Some(path)) => {
            let (cfg, warnings) = Config::load(&path, &args.overrides)?;
            warnings.iter().for_each(|w| say_error(format_args!("warning: {w}")));
            if args.json { say(pretty(cfg.to_json()?)?) } else { say(cfg.to_yaml().trim_end()) }
        }
        (None, None) => Err(Error::usage("name a configuration, --keys or --schema")),
    }
}

#[derive(Args)]
#[command(after_help = "Examples:
  srgan init scenes/*.tif > cfg.yaml            # then: srgan train -c cfg.yaml
  srgan init --demo demo && cd demo             # then: srgan train -c configs/demo.yaml")]
pub struct InitArgs {
    /// Scenes to look at: GeoTIFF, .npy and what else training reads
    #[arg(value_name = "SCENE", required_unless_present = "demo")]
    scenes: Vec<PathBuf>,
    /// Write the demo's configuration and its Sentinel-2 chip into a folder
    #[arg(long, value_name = "DIR", conflicts_with = "scenes")]
    demo: Option<PathBuf>,
}

/// Runs `srgan init`.
pub fn run_init(args: &InitArgs) -> Result<()> {
    match &args.demo {
        Some(folder) => {
            let command = demo(folder)?;
            say(format_args!("the demo is in {0}; train it there:\n  cd {0} && {command}", folder.display()))
        }
        None => say(config_for(&args.scenes)?.trim_end()),
    }
}
