//! A generator whose blocks are modulated by a latent noise vector: y = conv(x)·(1 + γ(z)) + β(z).

use super::blocks::residual;
use super::flexible::trunk;
use super::layers::{ConvSpec, Net};
use crate::Result;
use crate::config::Generator;
use crate::graph::Value;
use crate::ops::add::Add;
use crate::ops::mul::{Mul, Scale};
use crate::ops::silu::Silu;
use crate::ops::slice::SliceChannels;

/// SR (N, s·H, s·W, B) from LR (N, H, W, B) and noise (N, 1, 1, D).
pub fn forward(net: &mut Net, lr: Value, noise: Value, cfg: &Generator) -> Result<Value> {
    trunk(net, lr, cfg, |net, x| block(net, x, noise, cfg))
}

fn block(net: &mut Net, x: Value, noise: Value, cfg: &Generator) -> Result<Value> {
    let channels = cfg.n_channels;
    let spec = ConvSpec::same(channels, cfg.small_kernel_size);
    let style = net.at("noise_mlp", |net| {
        let y = net.linear(0, noise, channels, false)?;
        let y = net.push(Silu, &[y])?;
        net.linear(2, y, 2 * channels, false)
    })?;
    let gamma = net.push(SliceChannels { offset: 0, channels }, &[style])?;
    let gamma = net.push(Scale { factor: 1.0, shift: 1.0 }, &[gamma])?;
    let beta = net.push(SliceChannels { offset: channels, channels }, &[style])?;
    let y = net.conv("conv1", x, spec)?;
    let y = net.push(Mul, &[y, gamma])?;
    let y = net.push(Add::SUM, &[y, beta])?;
    let y = net.prelu("act", y)?;
    let y = net.conv("conv2", y, spec)?;
    residual(net, x, y, cfg.res_scale as f32)
}
