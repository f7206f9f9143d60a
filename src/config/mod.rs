//! The configuration of a run: one typed, validated [`Config`] from a YAML file and overrides.

#[macro_use]
mod macros;

mod choice;
mod field;
mod range;
mod schema;
mod tree;
mod values;

pub use choice::{
    AdvLoss, BlockType, DatasetType, Degradation, DeviceChoice, DiscriminatorType, GeneratorType, Layout, Normalization,
    PerceptualMetric, Precision, PretrainLoss, Ramp, StoreMode, Warmup,
};
pub use schema::{
    Config, Data, Discriminator, Ema, Generator, Logging, Losses, Model, Optimizers, Schedulers, Training, TruncatedVgg,
    Wandb,
};
pub use values::{BatchLimit, EmaDevice, Gpus, Resume, ValInterval};
