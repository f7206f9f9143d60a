//! The generator that a config names.

use super::layers::{Net, Vars};
use super::layout::Layout;
use super::network::Network;
use super::{esrgan, flexible, srresnet, stochastic};
use crate::config::{BlockType, Config, GeneratorType};
use crate::graph::{Tape, Value};
use crate::types::{DType, Shape};
use crate::{Error, Result};

/// Whether the generator reads a noise vector.
pub fn is_stochastic(cfg: &Config) -> bool {
    cfg.generator.model_type == GeneratorType::StochasticGan
}

/// Writes the generator: SR (N, s·H, s·W, B) from LR (N, H, W, B) and, for the stochastic one, noise (N, 1, 1, D).
///
/// # Errors
/// A shape error with the layer's path.
pub fn generator(net: &mut Net, cfg: &Config, lr: Value, noise: Option<Value>) -> Result<Value> {
    let g = &cfg.generator;
    match (g.model_type, noise) {
        (GeneratorType::SrResNet, _) if g.block_type == BlockType::Standard => srresnet::forward(net, lr, g),
        (GeneratorType::SrResNet, _) => flexible::forward(net, lr, g),
        (GeneratorType::Esrgan, _) => esrgan::forward(net, lr, g),
        (GeneratorType::StochasticGan, Some(noise)) => stochastic::forward(net, lr, noise, g),
        (GeneratorType::StochasticGan, None) => Err(Error::Internal("the stochastic generator needs noise".into())),
    }
}

/// The table of the generator's tensors.
///
/// # Errors
/// Fails if a layer cannot work on the extents, with its path.
pub fn generator_layout(cfg: &Config) -> Result<Layout> {
    let mut layout = Layout::new(Network::Generator.name());
    let mut tape = Tape::new();
    let lr = tape.input("lr", Shape([1, 16, 16, cfg.model.in_bands]), DType::F32);
    let noise = tape.input("noise", Shape([1, 1, 1, cfg.generator.noise_dim]), DType::F32);
    let mut net = Net::new(&mut tape, Vars::Declare(&mut layout), true);
    generator(&mut net, cfg, lr, Some(noise))?;
    Ok(layout)
}
