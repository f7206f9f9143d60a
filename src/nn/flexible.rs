//! The SRResNet family without batch norm: head, blocks of one kind, long skip, upsampling, tail.

use super::blocks;
use super::layers::{ConvSpec, Net};
use crate::Result;
use crate::config::{BlockType, Generator};
use crate::graph::Value;
use crate::ops::add::Add;

/// SR (N, s·H, s·W, B) from LR (N, H, W, B).
pub fn forward(net: &mut Net, lr: Value, cfg: &Generator) -> Result<Value> {
    trunk(net, lr, cfg, |net, x| match cfg.block_type {
        BlockType::Standard => blocks::standard(net, x, cfg.small_kernel_size),
        BlockType::Res => blocks::res(net, x, cfg.small_kernel_size),
        BlockType::Rcab => blocks::rcab(net, x, cfg.small_kernel_size),
        BlockType::Rrdb => blocks::rrdb(net, x, (cfg.n_channels / 3).max(16), 0.2, None),
        BlockType::Lka => blocks::lka(net, x, cfg.small_kernel_size),
    })
}

/// Head, `block` × n, long skip, upsampler, tail; also the trunk of the stochastic generator.
pub fn trunk(
    net: &mut Net,
    lr: Value,
    cfg: &Generator,
    mut block: impl FnMut(&mut Net, Value) -> Result<Value>,
) -> Result<Value> {
    let bands = net.shape(lr).c();
    let head = net.at("head", |net| {
        let y = net.conv(0, lr, ConvSpec::same(cfg.n_channels, cfg.large_kernel_size))?;
        net.prelu(1, y)
    })?;
    let mut y = head;
    for i in 0..cfg.n_blocks {
        y = net.at(format_args!("body.{i}"), |net| block(net, y))?;
    }
    let y = net.conv("body_tail", y, ConvSpec::same(cfg.n_channels, cfg.small_kernel_size))?;
    let y = net.push(Add::SUM, &[head, y])?;
    let y = net.at("upsampler", |net| net.upsampler(y, cfg.scaling_factor, None))?;
    net.conv("tail", y, ConvSpec::same(bands, cfg.large_kernel_size))
}
