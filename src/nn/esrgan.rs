//! ESRGAN's generator (Wang et al., 2018): RRDB trunk, pixel-shuffle upsampling, no normalisation.

use super::blocks;
use super::layers::{ConvSpec, Net};
use super::layout::Init;
use crate::Result;
use crate::config::Generator;
use crate::graph::Value;
use crate::ops::add::Add;

/// Kaiming-normal for a leaky ReLU of slope 0.2, times 0.1: small residuals at the start.
fn small(fan_in: usize) -> Init {
    Init::Normal(0.1 * (2.0 / (1.0 + 0.2f32 * 0.2) / fan_in as f32).sqrt())
}

/// Kaiming-normal kernels, each repeated for the four pixels of a shuffle.
fn icnr(fan_in: usize) -> Init {
    Init::Icnr { std: (2.0 / fan_in as f32).sqrt(), repeat: 4 }
}

/// SR (N, s·H, s·W, B) from LR (N, H, W, B).
pub fn forward(net: &mut Net, lr: Value, cfg: &Generator) -> Result<Value> {
    let bands = net.shape(lr).c();
    let spec = |out_ch| ConvSpec { init: Some(small), ..ConvSpec::same(out_ch, 3) };
    let first = net.conv("conv_first", lr, spec(cfg.n_channels))?;
    let mut y = first;
    for i in 0..cfg.n_blocks {
        let (growth, scale) = (cfg.growth_channels, cfg.res_scale as f32);
        y = net.at(format_args!("body.{i}"), |net| blocks::rrdb(net, y, growth, scale, Some(small)))?;
    }
    let y = net.conv("conv_body", y, spec(cfg.n_channels))?;
    let y = net.push(Add::SUM, &[first, y])?;
    // Without ICNR these keep PyTorch's default, as in the reference.
    let upsampling: Option<fn(usize) -> Init> = if cfg.use_icnr { Some(icnr) } else { None };
    let y = net.at("upsampler", |net| net.upsampler(y, cfg.scaling_factor, upsampling))?;
    let y = net.conv("conv_hr", y, spec(cfg.n_channels))?;
    let y = net.leaky_relu(y)?;
    net.conv("conv_last", y, spec(bands))
}
