//! Residual blocks of the generators.

use super::layers::{ConvSpec, Net};
use crate::Result;
use crate::graph::Value;
use crate::ops::add::Add;
use crate::ops::avg_pool::AvgPool;
use crate::ops::concat::ConcatChannels;
use crate::ops::conv2d::Geometry;
use crate::ops::leaky_relu::LeakyRelu;
use crate::ops::mul::Mul;
use crate::ops::pad_channels::Segments;
use crate::ops::sigmoid::Sigmoid;

use super::layout::Init;

/// `x + scale·y`.
pub fn residual(net: &mut Net, x: Value, y: Value, scale: f32) -> Result<Value> {
    net.push(Add { alpha: 1.0, beta: scale }, &[x, y])
}

/// Convolution, batch norm, PReLU, convolution, batch norm (Ledig et al., "Photo-realistic single image
/// super-resolution using a GAN", 2017).
pub fn standard(net: &mut Net, x: Value, ksize: usize) -> Result<Value> {
    let spec = ConvSpec::same(net.shape(x).c(), ksize);
    let y = net.at("conv_block1.conv_block", |net| {
        let y = net.conv(0, x, spec)?;
        let y = net.batch_norm(1, y)?;
        net.prelu(2, y)
    })?;
    let y = net.at("conv_block2.conv_block", |net| {
        let y = net.conv(0, y, spec)?;
        net.batch_norm(1, y)
    })?;
    residual(net, x, y, 1.0)
}

/// Convolution, PReLU, convolution, without normalisation (EDSR; Lim et al., 2017).
pub fn res(net: &mut Net, x: Value, ksize: usize) -> Result<Value> {
    let spec = ConvSpec::same(net.shape(x).c(), ksize);
    let y = net.at("body", |net| {
        let y = net.conv(0, x, spec)?;
        let y = net.prelu(1, y)?;
        net.conv(2, y, spec)
    })?;
    residual(net, x, y, 0.2)
}

/// `res` with channel attention that squeezes by 16 (RCAN; Zhang et al., 2018).
pub fn rcab(net: &mut Net, x: Value, ksize: usize) -> Result<Value> {
    let channels = net.shape(x).c();
    let spec = ConvSpec::same(channels, ksize);
    let y = net.conv("conv1", x, spec)?;
    let y = net.prelu("act", y)?;
    let y = net.conv("conv2", y, spec)?;
    let w = net.at("se", |net| {
        let w = net.push(AvgPool { out_h: 1, out_w: 1 }, &[y])?;
        let w = net.conv(1, w, ConvSpec::same(channels / 16, 1))?;
        let w = net.push(LeakyRelu { slope: 0.0 }, &[w])?;
        let w = net.conv(3, w, ConvSpec::same(channels, 1))?;
        net.push(Sigmoid, &[w])
    })?;
    let y = net.push(Mul, &[y, w])?;
    residual(net, x, y, 0.2)
}

/// Five convolutions, each reading everything before it. Prefixes are nested, so that the plan lays them out
/// in one buffer; where the device reads only aligned parts fast, each is padded with channels that stay zero.
fn dense(net: &mut Net, x: Value, growth: usize, init: Option<fn(usize) -> Init>) -> Result<Value> {
    let channels = net.shape(x).c();
    let align = if channels.is_multiple_of(net.align()) { net.align() } else { 1 };
    let is_padded = !growth.is_multiple_of(align);
    let segments = |parts: usize| Segments::aligned([channels].into_iter().chain(vec![growth; parts]), align);
    let mut prefix = x;
    for i in 1..=4 {
        let (spec, inputs) = (ConvSpec { init, ..ConvSpec::same(growth, 3) }, segments(i - 1));
        let padding = is_padded.then_some((&inputs, growth.next_multiple_of(align)));
        let y = net.padded_conv(format_args!("c{i}"), prefix, spec, padding)?;
        let y = net.leaky_relu(y)?;
        prefix = net.push(ConcatChannels, &[prefix, y])?;
    }
    let (spec, inputs) = (ConvSpec { init, ..ConvSpec::same(channels, 3) }, segments(4));
    net.padded_conv("c5", prefix, spec, is_padded.then_some((&inputs, channels)))
}

/// Residual in residual dense block (ESRGAN; Wang et al., 2018), as opensr-srgan writes it: one residual
/// around three dense blocks.
pub fn rrdb(net: &mut Net, x: Value, growth: usize, scale: f32, init: Option<fn(usize) -> Init>) -> Result<Value> {
    let mut y = x;
    for i in 1..=3 {
        y = net.at(format_args!("db{i}"), |net| dense(net, y, growth, init))?;
    }
    residual(net, x, y, scale)
}

/// Convolution, PReLU, large-kernel attention, convolution (VAN; Guo et al., 2022).
pub fn lka(net: &mut Net, x: Value, ksize: usize) -> Result<Value> {
    let channels = net.shape(x).c();
    let spec = ConvSpec::same(channels, ksize);
    let y = net.conv("conv1", x, spec)?;
    let y = net.prelu("act", y)?;
    let y = net.at("lka", |net| {
        let depthwise = |ksize, pad, dilation| ConvSpec {
            geometry: Geometry { stride: 1, pad, dilation, depthwise: true },
            ..ConvSpec::same(channels, ksize)
        };
        let a = net.conv("dw5", y, depthwise(5, 2, 1))?;
        let a = net.conv("dw7d", a, depthwise(7, 9, 3))?;
        let a = net.conv("pw", a, ConvSpec::same(channels, 1))?;
        let a = net.push(Sigmoid, &[a])?;
        net.push(Mul, &[y, a])
    })?;
    let y = net.conv("conv2", y, spec)?;
    residual(net, x, y, 0.2)
}
