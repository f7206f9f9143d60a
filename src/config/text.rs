//! A configuration as text: the complete YAML of a run, and what differs between two configurations.

use serde_json::Value;

use super::choice::{DiscriminatorType, GeneratorType};
use super::field::Field;
use super::schema::Config;
use crate::Result;

/// A key whose value differs between two configurations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The full key, as `Generator.n_blocks`.
    pub key: String,
    /// Its value in the first configuration, as YAML.
    pub old: String,
    /// Its value in the second.
    pub new: String,
    /// Whether the value decides which weights there are: checkpoints of the two do not fit each other.
    pub architecture: bool,
}

impl Config {
    /// The configuration as YAML with every key, in the order of the schema; reading it gives an equal one.
    pub fn to_yaml(&self) -> String {
        let mut yaml = String::new();
        let mut open: Vec<String> = Vec::new();
        for (key, value) in self.flat() {
            let path: Vec<&str> = key.split('.').collect();
            let Some((name, sections)) = path.split_last() else { continue };
            let shared = open.iter().zip(sections).take_while(|(a, b)| a == *b).count();
            open.truncate(shared);
            for section in &sections[shared..] {
                yaml.push_str(&format!("{}{section}:\n", "  ".repeat(open.len())));
                open.push((*section).to_owned());
            }
            yaml.push_str(&format!("{}{name}: {value}\n", "  ".repeat(open.len())));
        }
        yaml
    }

    /// The configuration as nested objects whose values have their types; keys without a value are left out.
    ///
    /// # Errors
    /// [`Error::Internal`](crate::Error) if its own text cannot be read back.
    pub fn to_json(&self) -> Result<Value> {
        let tree = super::yaml::parse_file(&self.to_yaml(), None)?;
        Ok(tree.to_json())
    }

    /// The keys whose values differ from `newer`'s, in the order of the schema.
    pub fn diff(&self, newer: &Config) -> Vec<Change> {
        let shapes: Vec<&str> = [self.architecture_keys(), newer.architecture_keys()].concat();
        let pairs = self.flat().into_iter().zip(newer.flat());
        pairs
            .filter(|((_, old), (_, new))| old != new)
            .map(|((key, old), (_, new))| Change { architecture: shapes.contains(&key.as_str()), key, old, new })
            .collect()
    }

    /// The keys that decide the names and shapes of the weights, for the networks chosen here.
    pub fn architecture_keys(&self) -> Vec<&'static str> {
        let mut keys = vec![
            "Model.in_bands",
            "Generator.model_type",
            "Generator.n_channels",
            "Generator.n_blocks",
            "Generator.scaling_factor",
            "Generator.out_channels",
            "Discriminator.model_type",
        ];
        const KERNELS: [&str; 2] = ["Generator.large_kernel_size", "Generator.small_kernel_size"];
        match self.generator.model_type {
            GeneratorType::SrResNet => {
                keys.push("Generator.block_type");
                keys.extend(KERNELS);
            }
            GeneratorType::StochasticGan => {
                keys.push("Generator.noise_dim");
                keys.extend(KERNELS);
            }
            GeneratorType::Esrgan => keys.push("Generator.growth_channels"),
        }
        match self.discriminator.model_type {
            DiscriminatorType::Standard => {
                keys.extend(["Discriminator.n_blocks", "Discriminator.use_spectral_norm"]);
            }
            DiscriminatorType::PatchGan => keys.push("Discriminator.n_blocks"),
            DiscriminatorType::Esrgan => keys.extend(["Discriminator.base_channels", "Discriminator.linear_size"]),
        }
        keys
    }

    fn flat(&self) -> Vec<(String, String)> {
        let mut flat = Vec::new();
        self.flatten("", &mut flat);
        flat
    }
}
