//! The configuration of a run: one typed, validated [`Config`] from a YAML file and overrides.
//!
//! ```text
//! text --yaml.rs, interpolate.rs--> tree --resolve.rs--> tree of the schema's keys --schema.rs--> Config --check.rs--> Config
//! ```
//! The files are those of opensr-srgan 0.5. `schema.rs` is the one place where a key is declared, and what `reference/` says
//! about the keys follows from it; everything that is wrong is reported with file, line and full key.

#[macro_use]
mod macros;

mod check;
mod choice;
mod field;
mod interpolate;
mod kind;
mod range;
mod reference;
mod resolve;
mod schema;
mod standard;
mod text;
mod tree;
mod values;
mod yaml;

#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

pub use choice::{
    AdvLoss, BlockType, DatasetType, Degradation, DeviceChoice, DiscriminatorType, GeneratorType, IsaChoice, Layout,
    LibraryUse, MaskUse, Normalization, PerceptualMetric, Precision, PretrainLoss, Ramp, StoreMode, Warmup,
};
pub use kind::{Key, Kind, Name};
pub use reference::{describe, json_schema, keys, markdown};
pub use schema::{
    Config, Data, Discriminator, Ema, Generator, Logging, Losses, Model, Optimizers, Schedulers, Training,
    TruncatedVgg, Wandb,
};
pub use text::Change;
pub use values::{BatchLimit, EmaDevice, Gpus, Resume, SceneFiles, ValInterval};

use crate::{Error, Result};
use check::Checker;
use field::Field;

/// Bytes of a configuration that are read at most; nobody writes as many, and devices never end.
const LARGEST: u64 = 4 << 20;

impl Config {
    /// Reads a YAML file and applies overrides of the form `Section.key=value` in their order. Returns the
    /// configuration with warnings for the user. Errors: with file, line and key.
    pub fn load(path: &Path, overrides: &[String]) -> Result<(Config, Vec<String>)> {
        let mut bytes = Vec::new();
        let read = File::open(path).and_then(|file| file.take(LARGEST).read_to_end(&mut bytes));
        let read = match read {
            Ok(len) if len as u64 == LARGEST => Err(io::Error::other(format!("it has more than {LARGEST} bytes"))),
            other => other,
        };
        read.map_err(|error| {
            let error = Error::Config {
                file: Some(path.into()),
                line: None,
                key: "configuration".into(),
                message: format!("cannot be read: {error}"),
                hint: None,
            };
            error.with_hint("name a YAML file; the folder `configs` has examples")
        })?;
        let text = String::from_utf8(bytes).map_err(|error| {
            let before = &error.as_bytes()[..error.utf8_error().valid_up_to()];
            Error::Config {
                file: Some(path.into()),
                line: Some(1 + before.iter().filter(|byte| **byte == b'\n').count()),
                key: "configuration".into(),
                message: "the file is not UTF-8 text".into(),
                hint: None,
            }
        })?;
        Config::from_yaml(&text, Some(path), overrides)
    }

    /// The same for a text; `source` is its file's name for messages. `${oc.env:NAME}` is the environment's variable.
    pub fn from_yaml(text: &str, source: Option<&Path>, overrides: &[String]) -> Result<(Config, Vec<String>)> {
        Config::read_text(text, source, overrides, &|name| std::env::var(name).ok())
    }

    fn read_text(
        text: &str,
        source: Option<&Path>,
        overrides: &[String],
        env: interpolate::Environment,
    ) -> Result<(Config, Vec<String>)> {
        let mut root = yaml::parse_file(text, source)?;
        overrides.iter().try_for_each(|text| yaml::apply_override(&mut root, text))?;
        interpolate::resolve(&mut root, env)?;
        let mut warnings = resolve::canonicalise(&mut root)?;
        let mut config = Config::read(&root)?;
        resolve::dependent_defaults(&mut config, &root);
        let checker = Checker { config: &config, root: &root, file: source };
        checker.check()?;
        warnings.extend(checker.warnings());
        Ok((config, warnings))
    }
}
