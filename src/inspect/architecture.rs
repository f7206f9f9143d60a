//! Which generator a file holds, by its configuration or by the names and shapes of its tensors.

use std::collections::BTreeSet;

use serde::Serialize;

use crate::checkpoint::Named;
use crate::config::{BlockType, Config, GeneratorType};

/// A generator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Architecture {
    /// Family: `SRResNet`, `esrgan`, `stochastic_gan`.
    pub model_type: String,
    /// Residual block, of an SRResNet.
    pub block_type: Option<String>,
    /// Bands of LR and SR.
    pub bands: usize,
    /// Channels of the trunk.
    pub channels: usize,
    /// Residual blocks.
    pub blocks: usize,
    /// SR pixels per LR pixel and axis.
    pub scale: usize,
}

impl Architecture {
    /// The generator of a configuration.
    pub fn of_config(cfg: &Config) -> Self {
        let g = &cfg.generator;
        let is_resnet = g.model_type == GeneratorType::SrResNet;
        Architecture {
            model_type: g.model_type.name().into(),
            block_type: is_resnet.then(|| g.block_type.name().into()),
            bands: cfg.model.in_bands,
            channels: g.n_channels,
            blocks: g.n_blocks,
            scale: g.scaling_factor,
        }
    }

    /// The generator that tensors belong to, with what stands before its names; `None` if there is none.
    pub fn of_tensors(found: &[Named]) -> Option<(Self, String)> {
        let first = |layer: &str| {
            found.iter().find_map(|(name, shape)| {
                let prefix = name.strip_suffix(layer)?;
                let whole = prefix.is_empty() || prefix.ends_with('.');
                let live = !prefix.starts_with("ema.") && !prefix.starts_with("optim_");
                (whole && live && shape.len() == 4).then(|| (prefix.to_owned(), shape[0], shape[1]))
            })
        };
        let (family, (prefix, channels, bands)) = [
            (Family::Esrgan, first("conv_first.weight")),
            (Family::Standard, first("net.conv_block1.conv_block.0.weight")),
            (Family::Flexible, first("head.0.weight")),
        ]
        .into_iter()
        .find_map(|(family, found)| Some((family, found?)))?;
        let names: Vec<(&str, usize)> =
            found.iter().filter_map(|(name, shape)| Some((name.strip_prefix(prefix.as_str())?, shape.len()))).collect();
        let has = |start: &str| names.iter().any(|(name, _)| name.starts_with(start));
        let (trunk, upsampling) = match family {
            Family::Standard => ("net.residual_blocks.", "net.subpixel_convolutional_blocks."),
            _ => ("body.", "upsampler."),
        };
        let numbers = |start: &str, dims: usize| -> BTreeSet<usize> {
            let rest = names.iter().filter(|(_, d)| *d == dims || dims == 0);
            let rest = rest.filter_map(|(name, _)| name.strip_prefix(start)?.split('.').next());
            rest.filter_map(|number| number.parse().ok()).collect()
        };
        let block = match family {
            Family::Standard => Some(BlockType::Standard),
            Family::Esrgan => None,
            Family::Flexible if has("body.0.noise_mlp.") => None,
            Family::Flexible if has("body.0.se.") => Some(BlockType::Rcab),
            Family::Flexible if has("body.0.lka.") => Some(BlockType::Lka),
            Family::Flexible if has("body.0.db1.") => Some(BlockType::Rrdb),
            Family::Flexible => Some(BlockType::Res),
        };
        let model_type = match (family, block) {
            (Family::Esrgan, _) => GeneratorType::Esrgan,
            (_, None) => GeneratorType::StochasticGan,
            (_, Some(_)) => GeneratorType::SrResNet,
        };
        let stages = numbers(upsampling, 4).len().min(8);
        let architecture = Architecture {
            model_type: model_type.name().into(),
            block_type: block.map(|block| block.name().into()),
            bands,
            channels,
            blocks: numbers(trunk, 0).len(),
            scale: 1 << stages,
        };
        Some((architecture, prefix))
    }

    /// In one line.
    pub fn describe(&self) -> String {
        let block = self.block_type.as_ref().map(|block| format!(" of {block} blocks")).unwrap_or_default();
        let Architecture { model_type, channels, blocks, .. } = self;
        let s = if *blocks == 1 { "" } else { "s" };
        format!("{model_type}{block}: {channels} channels, {blocks} block{s}")
    }
}

/// What the names of the first layers tell apart.
#[derive(Clone, Copy, PartialEq)]
enum Family {
    Standard,
    Flexible,
    Esrgan,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::generator_layout;

    #[test]
    fn names_and_shapes_tell_what_the_configuration_says() {
        for generator in [
            "{model_type: SRResNet, n_channels: 4, n_blocks: 3, scaling_factor: 8}",
            "{model_type: SRResNet, block_type: res, n_channels: 4, n_blocks: 2, scaling_factor: 2}",
            "{model_type: SRResNet, block_type: rcab, n_channels: 16, n_blocks: 12, scaling_factor: 4}",
            "{model_type: SRResNet, block_type: rrdb, n_channels: 4, n_blocks: 2, scaling_factor: 4}",
            "{model_type: SRResNet, block_type: lka, n_channels: 4, n_blocks: 1, scaling_factor: 2}",
            "{model_type: esrgan, n_channels: 4, n_blocks: 2, scaling_factor: 1}",
            "{model_type: esrgan, n_channels: 4, n_blocks: 2, scaling_factor: 4}",
            "{model_type: stochastic_gan, n_channels: 4, n_blocks: 2, scaling_factor: 2}",
        ] {
            let yaml = format!("Model: {{in_bands: 5}}\nGenerator: {generator}\n");
            let (cfg, _) = Config::from_yaml(&yaml, None, &[]).unwrap();
            let layout = generator_layout(&cfg).unwrap();
            for prefix in ["generator.", "", "module.generator."] {
                let named = |t: &crate::nn::Tensor| (format!("{prefix}{}", layout.bare_name(t)), t.file_shape());
                let found: Vec<Named> = layout.params.iter().chain(&layout.buffers).map(named).collect();
                let (guess, before) = Architecture::of_tensors(&found).unwrap();
                assert_eq!(guess, Architecture::of_config(&cfg), "{generator}");
                assert_eq!(before, prefix);
            }
        }
        assert_eq!(Architecture::of_tensors(&[("discriminator.head.weight".into(), vec![1])]), None);
    }
}
