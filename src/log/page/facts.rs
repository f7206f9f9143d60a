//! `run.json`: what is not in a run's other files.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::files::write_atomic;
use crate::log::local_time;
use crate::{Error, Result};

const FILE: &str = "run.json";

/// Where, when and on what a run ran, and how it ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RunFacts {
    /// Version of this program.
    pub version: String,
    /// When the run began.
    pub started: String,
    /// The device, in words.
    pub device: String,
    /// In which precision it computes.
    pub precision: String,
    /// System, architecture and number of processors.
    pub machine: String,
    /// Parameters of the generator.
    pub generator_parameters: usize,
    /// Parameters of the discriminator.
    pub discriminator_parameters: usize,
    /// What is known of the data.
    pub data: Vec<String>,
    /// How the run ended.
    pub ended: String,
    /// The table against bicubic upsampling.
    pub comparison: String,
}

impl RunFacts {
    /// Facts of a run that begins here and now.
    pub fn now() -> RunFacts {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        RunFacts {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started: local_time().strftime("%Y-%m-%d %H:%M:%S").to_string(),
            machine: format!("{} {}, {processors} processors", std::env::consts::OS, std::env::consts::ARCH),
            ..RunFacts::default()
        }
    }

    /// Those of a run's folder; none of a run of an earlier version.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn load(folder: &Path) -> Result<RunFacts> {
        let path = folder.join(FILE);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(RunFacts::default()),
            Err(e) => return Err(Error::io("read", path, e)),
        };
        serde_json::from_str(&text).map_err(|e| Error::data(&path, format!("not the facts of a run: {e}")))
    }

    /// Writes them to a run's folder.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write(&self, folder: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self).map_err(|e| Error::Internal(e.to_string()))?;
        write_atomic(&folder.join(FILE), |out| writeln!(out, "{text}"))
    }

    /// Names and values for a table, without those that are not known.
    pub(super) fn rows(&self) -> Vec<(&'static str, String)> {
        let parameters = |count: usize| if count == 0 { String::new() } else { count.to_string() };
        let rows = [
            ("srgan", self.version.clone()),
            ("started", self.started.clone()),
            ("ended", self.ended.clone()),
            ("device", self.device.clone()),
            ("precision", self.precision.clone()),
            ("machine", self.machine.clone()),
            ("generator parameters", parameters(self.generator_parameters)),
            ("discriminator parameters", parameters(self.discriminator_parameters)),
            ("data", self.data.join("\n")),
        ];
        rows.into_iter().filter(|(_, value)| !value.is_empty()).collect()
    }
}
