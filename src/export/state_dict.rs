//! The tensors of a state dict, named, ordered and shaped as PyTorch has them, and what is said about them.

use crate::checkpoint::Counters;
use crate::config::Config;
use crate::nn::{Layout, Tensor};
use crate::trained::{CONFIG_KEY, Checkpoint, STEP_KEY, Weights};

/// The leaf of a batch norm's running variance; PyTorch's count of batches stands beside it.
const RUNNING_VAR: &str = "running_var";
const BATCH_COUNT: &str = "num_batches_tracked";

/// Values of a tensor.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Values {
    /// 32-bit floats in C order.
    Floats(Vec<f32>),
    /// One 64-bit integer without dimensions.
    Count(i64),
}

/// A tensor of a state dict.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Entry {
    /// Name: `generator.body.0.conv1.weight`.
    pub name: String,
    /// Sizes, outermost first; none for a scalar.
    pub shape: Vec<usize>,
    /// Its values.
    pub values: Values,
    /// Whether it is a buffer: not trained.
    pub is_buffer: bool,
}

/// All tensors that are written.
#[derive(Debug, Default)]
pub(super) struct StateDict(pub Vec<Entry>);

impl Entry {
    /// The bytes of the values, little-endian, in parts.
    pub fn bytes(&self) -> Vec<u8> {
        match &self.values {
            Values::Floats(values) => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            Values::Count(count) => count.to_le_bytes().to_vec(),
        }
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }
}

impl StateDict {
    pub fn new() -> Self {
        StateDict::default()
    }

    /// Adds a network's tensors; its batch norms have seen `batches` batches.
    pub fn add(&mut self, layout: &Layout, weights: &Weights, batches: u64) {
        let entry = |tensor: &Tensor, memory: &[f32], is_buffer| Entry {
            name: tensor.name.clone(),
            shape: tensor.file_shape(),
            values: Values::Floats(tensor.to_file(memory)),
            is_buffer,
        };
        for param in &layout.params {
            self.0.push(entry(param, layout.slice(param, &weights.params), false));
        }
        for (buffer, values) in layout.buffers.iter().zip(&weights.buffers) {
            self.0.push(entry(buffer, values, true));
            if let Some(norm) = buffer.name.strip_suffix(RUNNING_VAR) {
                let values = Values::Count(i64::try_from(batches).unwrap_or(i64::MAX));
                self.0.push(Entry { name: format!("{norm}{BATCH_COUNT}"), shape: vec![], values, is_buffer: true });
            }
        }
    }
}

/// What a file says about its weights.
pub(super) struct Description {
    /// The configuration that they were trained with.
    pub cfg: Config,
    /// The bands by name or number, in the order of the channels.
    pub bands: Vec<String>,
    /// Steps of training.
    pub step: u64,
    /// The epoch of the next step.
    pub epoch: u64,
    /// Updates so far.
    pub counters: Counters,
    /// Whether they are averaged.
    pub averaged: bool,
}

impl Description {
    /// What a checkpoint says of itself.
    pub fn new(checkpoint: &Checkpoint, averaged: bool) -> Self {
        let (cfg, meta) = (checkpoint.cfg.clone(), checkpoint.meta());
        let numbered = || (0..cfg.model.in_bands).map(|band| band.to_string()).collect();
        let bands = if meta.bands.is_empty() { numbered() } else { meta.bands.clone() };
        Description { cfg, bands, step: meta.step, epoch: meta.epoch, counters: meta.counters, averaged }
    }

    /// Key and text of each fact, for files that have free-text metadata; the whole configuration last.
    pub fn facts(&self) -> Vec<(&'static str, String)> {
        let cfg = &self.cfg;
        vec![
            ("producer", format!("srgan {}", env!("CARGO_PKG_VERSION"))),
            ("bands", self.bands.join(",")),
            ("scale", cfg.generator.scaling_factor.to_string()),
            ("normalisation", cfg.data.method().name().to_owned()),
            ("weights", if self.averaged { "averaged" } else { "live" }.to_owned()),
            (STEP_KEY, self.step.to_string()),
            (CONFIG_KEY, cfg.to_yaml()),
        ]
    }
}
