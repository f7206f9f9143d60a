//! SRResNet (Ledig et al., 2017): batch-normalised residual blocks, a long skip, sub-pixel upsampling, tanh.

use super::blocks;
use super::layers::{ConvSpec, Net};
use crate::Result;
use crate::config::Generator;
use crate::graph::Value;
use crate::ops::add::Add;
use crate::ops::pixel_shuffle::PixelShuffle;
use crate::ops::tanh::Tanh;

/// SR (N, s·H, s·W, B) from LR (N, H, W, B).
pub fn forward(net: &mut Net, lr: Value, cfg: &Generator) -> Result<Value> {
    let bands = net.shape(lr).c();
    let (large, small, channels) = (cfg.large_kernel_size, cfg.small_kernel_size, cfg.n_channels);
    net.at("net", |net| {
        let head = net.at("conv_block1.conv_block", |net| {
            let y = net.conv(0, lr, ConvSpec::same(channels, large))?;
            net.prelu(1, y)
        })?;
        let mut y = head;
        for i in 0..cfg.n_blocks {
            y = net.at(format_args!("residual_blocks.{i}"), |net| blocks::standard(net, y, small))?;
        }
        let y = net.at("conv_block2.conv_block", |net| {
            let y = net.conv(0, y, ConvSpec::same(channels, small))?;
            net.batch_norm(1, y)
        })?;
        let mut y = net.push(Add::SUM, &[y, head])?;
        for i in 0..cfg.scaling_factor.ilog2() {
            y = net.at(format_args!("subpixel_convolutional_blocks.{i}"), |net| {
                let y = net.conv("conv", y, ConvSpec::same(4 * channels, small))?;
                let y = net.push(PixelShuffle { factor: 2 }, &[y])?;
                net.prelu("prelu", y)
            })?;
        }
        net.at("conv_block3.conv_block", |net| {
            let y = net.conv(0, y, ConvSpec::same(bands, large))?;
            net.push(Tanh, &[y])
        })
    })
}
