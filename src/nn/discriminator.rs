//! Discriminators: SRGAN's (Ledig et al., 2017), PatchGAN (Isola et al., "Image-to-image translation with
//! conditional adversarial networks", 2017), ESRGAN's VGG-style one (Wang et al., 2018). Logits, no sigmoid.

use super::layers::{ConvSpec, Net, Vars};
use super::layout::Layout;
use super::network::Network;
use crate::Result;
use crate::config::{Config, Discriminator, DiscriminatorType};
use crate::graph::{Tape, Value};
use crate::ops::avg_pool::AvgPool;
use crate::ops::conv2d::Geometry;
use crate::types::{DType, Shape};

/// Writes the discriminator: logits (N, 1, 1, 1), or a map (N, h, w, 1) for PatchGAN, of images (N, H, W, B).
///
/// # Errors
/// A shape error with the layer's path, for instance if the image is too small.
pub fn discriminator(net: &mut Net, cfg: &Config, image: Value) -> Result<Value> {
    let d = &cfg.discriminator;
    match d.model_type {
        DiscriminatorType::Standard => standard(net, image, d),
        DiscriminatorType::PatchGan => patchgan(net, image, d),
        DiscriminatorType::Esrgan => esrgan(net, image, d),
    }
}

/// The table of the discriminator's tensors.
///
/// # Errors
/// Fails if a layer cannot work on the extents, with its path.
pub fn discriminator_layout(cfg: &Config) -> Result<Layout> {
    let mut layout = Layout::new(Network::Discriminator.name());
    let mut tape = Tape::new();
    // Only extents are computed, so any image that every depth can still reduce will do.
    let side = 1 << 18;
    let image = tape.input("image", Shape([1, side, side, cfg.model.in_bands]), DType::F32);
    let mut net = Net::new(&mut tape, Vars::Declare(&mut layout), true);
    discriminator(&mut net, cfg, image)?;
    Ok(layout)
}

fn strided(out_ch: usize, ksize: usize, stride: usize, pad: usize) -> ConvSpec {
    ConvSpec { geometry: Geometry { stride, pad, dilation: 1, depthwise: false }, ..ConvSpec::same(out_ch, ksize) }
}

fn standard(net: &mut Net, image: Value, cfg: &Discriminator) -> Result<Value> {
    let spectral = cfg.use_spectral_norm;
    let mut y = image;
    for i in 0..cfg.n_blocks {
        let in_ch = net.shape(y).c();
        let out_ch = match i {
            0 => 64,
            _ if i % 2 == 0 => 2 * in_ch,
            _ => in_ch,
        };
        y = net.at(format_args!("conv_blocks.{i}.conv_block"), |net| {
            let spec = ConvSpec { spectral, ..strided(out_ch, 3, 1 + i % 2, 1) };
            let y = net.conv(0, y, spec)?;
            let y = if i > 0 { net.batch_norm(1, y)? } else { y };
            net.leaky_relu(y)
        })?;
    }
    let y = net.push(AvgPool { out_h: 6, out_w: 6 }, &[y])?;
    let y = net.linear("fc1", y, 1024, spectral)?;
    let y = net.leaky_relu(y)?;
    net.linear("fc2", y, 1, spectral)
}

fn patchgan(net: &mut Net, image: Value, cfg: &Discriminator) -> Result<Value> {
    net.at("model.model", |net| {
        let y = net.conv(0, image, strided(64, 4, 2, 1))?;
        let mut y = net.leaky_relu(y)?;
        for n in 1..=cfg.n_blocks {
            let stride = if n < cfg.n_blocks { 2 } else { 1 };
            y = net.conv(3 * n - 1, y, strided(64 << n.min(3), 4, stride, 1))?;
            y = net.instance_norm(y)?;
            y = net.leaky_relu(y)?;
        }
        net.conv(3 * cfg.n_blocks + 2, y, strided(1, 4, 1, 1))
    })
}

fn esrgan(net: &mut Net, image: Value, cfg: &Discriminator) -> Result<Value> {
    let base = cfg.base_channels;
    let mut y = net.at("features", |net| {
        let y = net.conv(0, image, ConvSpec::same(base, 3))?;
        net.leaky_relu(y)
    })?;
    let widths = [base, 2 * base, 2 * base, 4 * base, 4 * base, 8 * base, 8 * base, 16 * base, 16 * base];
    for (i, out_ch) in widths.into_iter().enumerate() {
        y = net.at(format_args!("features.{}", i + 2), |net| {
            let spec = if i % 2 == 0 { strided(out_ch, 4, 2, 2) } else { strided(out_ch, 3, 1, 1) };
            let y = net.conv(0, y, spec)?;
            let y = net.batch_norm(1, y)?;
            net.leaky_relu(y)
        })?;
    }
    let y = net.push(AvgPool { out_h: 1, out_w: 1 }, &[y])?;
    let y = net.at("classifier", |net| net.linear(0, y, cfg.linear_size, false))?;
    let y = net.leaky_relu(y)?;
    net.at("classifier", |net| net.linear(2, y, 1, false))
}
