//! Networks whose features a perceptual loss compares. They were trained on photographs (ImageNet) and are never
//! trained here: VGG-19 (Simonyan and Zisserman, "Very deep convolutional networks", 2015), cut behind one of its
//! ReLUs, and LPIPS (Zhang et al., "The unreasonable effectiveness of deep features as a perceptual metric", 2018) on
//! AlexNet (Krizhevsky, "One weird trick for parallelizing convolutional neural networks", 2014). Layers are named as
//! in torchvision and in the package lpips.

use super::layers::{ConvSpec, Net, Vars};
use super::layout::{Init, Layout};
use crate::config::{Config, PerceptualMetric, TruncatedVgg};
use crate::graph::{Tape, Value};
use crate::ops::add::Add;
use crate::ops::conv2d::Geometry;
use crate::ops::leaky_relu::LeakyRelu;
use crate::ops::lpips_distance::LpipsDistance;
use crate::ops::max_pool::MaxPool;
use crate::ops::mix_channels::MixChannels;
use crate::ops::mul::{Mul, Scale};
use crate::ops::sum_to::sum_product_to;
use crate::types::{DType, Shape};
use crate::{Error, Result};

/// Bands that the networks take.
pub const BANDS: usize = 3;

/// Convolutions and channels of VGG-19's blocks; a pooling of 2×2 follows each.
const VGG_BLOCKS: [(usize, usize); 5] = [(2, 64), (2, 128), (4, 256), (4, 512), (4, 512)];

/// What LPIPS subtracts from images in −1 … 1, and what it divides them by.
const LPIPS_SHIFT: [f32; BANDS] = [-0.030, -0.088, -0.188];
const LPIPS_SCALE: [f32; BANDS] = [0.458, 0.448, 0.450];

/// Writes the perceptual distance of each image, (N,1,1,1), between `sr` and `hr` (N,H,W,B) in 0 … 1. `bands`
/// (3,1,1,B) has a row for each of the network's bands with a 1 for the image's; without it images have three.
/// For `vgg` it is the mean squared difference of the features, for `lpips` the distance of that paper.
///
/// # Errors
/// A shape error with the layer's path, for instance if the images are too small.
pub fn perceptual_distance(
    net: &mut Net,
    cfg: &Config,
    (sr, hr): (Value, Value),
    bands: Option<Value>,
) -> Result<Value> {
    let lpips = cfg.training.losses.perceptual_metric == PerceptualMetric::Lpips;
    let mut input = |image: Value| -> Result<Value> {
        let image = match bands {
            Some(bands) => net.at("bands", |net| net.push(MixChannels { transposed: false }, &[image, bands]))?,
            None => image,
        };
        if lpips { lpips_scaled(net, image) } else { Ok(image) }
    };
    let (sr, hr) = (input(sr)?, input(hr)?);
    if lpips {
        return lpips_distance(net, sr, hr);
    }
    let (sr, hr) = (vgg(net, sr, &cfg.truncated_vgg)?, vgg(net, hr, &cfg.truncated_vgg)?);
    let [n, h, w, c] = net.shape(sr).0;
    net.at("distance", |net| {
        let difference = net.push(Add::DIFFERENCE, &[sr, hr])?;
        let squares = sum_product_to(net.tape, difference, difference, Shape([n, 1, 1, 1]))?;
        net.push(Scale::by(1.0 / (h * w * c) as f32), &[squares])
    })
}

/// The table of the tensors of the config's perceptual network.
///
/// # Errors
/// Fails as [`perceptual_distance`] does.
pub fn perceptual_layout(cfg: &Config) -> Result<Layout> {
    let mut layout = Layout::new("perceptual");
    let mut tape = Tape::new();
    // Only extents are computed; every pooling leaves something of this side.
    let image = tape.input("image", Shape([1, 256, 256, BANDS]), DType::F32);
    let mut net = Net::new(&mut tape, Vars::Declare(&mut layout), false);
    perceptual_distance(&mut net, cfg, (image, image), None)?;
    Ok(layout)
}

/// A convolution, its initial weights those of He et al. (2015): random features as large as trained ones.
fn conv(net: &mut Net, index: usize, x: Value, spec: ConvSpec) -> Result<Value> {
    let he = |fan_in: usize| Init::Normal((2.0 / fan_in as f32).sqrt());
    let y = net.at("features", |net| net.conv(index, x, ConvSpec { init: Some(he), ..spec }))?;
    net.push(LeakyRelu { slope: 0.0 }, &[y])
}

/// Maxima over windows of `size`, every second pixel.
fn pool(net: &mut Net, index: usize, x: Value, size: usize) -> Result<Value> {
    net.at(format_args!("features.{index}"), |net| net.push(MaxPool { size, stride: 2 }, &[x]))
}

/// Features behind the ReLU of convolution `j` of block `i`, both from 1.
fn vgg(net: &mut Net, image: Value, cut: &TruncatedVgg) -> Result<Value> {
    let (mut x, mut index) = (image, 0);
    for (block, (convs, channels)) in (1..).zip(VGG_BLOCKS) {
        for number in 1..=convs {
            x = conv(net, index, x, ConvSpec::same(channels, 3))?;
            index += 2;
            if (block, number) == (cut.i, cut.j) {
                return Ok(x);
            }
        }
        x = pool(net, index, x, 2)?;
        index += 1;
    }
    Err(Error::Internal(format!("VGG-19 has no convolution {} in block {}", cut.j, cut.i)))
}

/// Images in 0 … 1 as LPIPS's AlexNet takes them.
fn lpips_scaled(net: &mut Net, image: Value) -> Result<Value> {
    let per_band =
        |tape: &mut Tape, f: fn(usize) -> f32| tape.constant(Shape::vector(BANDS), (0..BANDS).map(f).collect());
    let factor = per_band(net.tape, |c| 2.0 / LPIPS_SCALE[c]);
    let offset = per_band(net.tape, |c| (-1.0 - LPIPS_SHIFT[c]) / LPIPS_SCALE[c]);
    net.at("scaling_layer", |net| {
        let scaled = net.push(Mul, &[image, factor])?;
        net.push(Add::SUM, &[scaled, offset])
    })
}

/// AlexNet's features behind each of its ReLUs.
fn alexnet(net: &mut Net, image: Value) -> Result<[Value; 5]> {
    let geometry = Geometry { stride: 4, pad: 2, dilation: 1, depthwise: false };
    let first = conv(net, 0, image, ConvSpec { geometry, ..ConvSpec::same(64, 11) })?;
    let x = pool(net, 2, first, 3)?;
    let second = conv(net, 3, x, ConvSpec::same(192, 5))?;
    let x = pool(net, 5, second, 3)?;
    let third = conv(net, 6, x, ConvSpec::same(384, 3))?;
    let fourth = conv(net, 8, third, ConvSpec::same(256, 3))?;
    let fifth = conv(net, 10, fourth, ConvSpec::same(256, 3))?;
    Ok([first, second, third, fourth, fifth])
}

/// Sum over AlexNet's layers of the weighted distances of their features.
fn lpips_distance(net: &mut Net, sr: Value, hr: Value) -> Result<Value> {
    let (sr, hr) = (alexnet(net, sr)?, alexnet(net, hr)?);
    let mut total = None;
    for (layer, features) in sr.into_iter().zip(hr).enumerate() {
        let channels = net.shape(features.0).c();
        let distance = net.at(format_args!("lin{layer}.model.1"), |net| {
            let weights = net.channel_weights(channels)?;
            net.push(LpipsDistance, &[features.0, features.1, weights])
        })?;
        total = Some(match total {
            Some(so_far) => net.push(Add::SUM, &[so_far, distance])?,
            None => distance,
        });
    }
    total.ok_or_else(|| Error::Internal("LPIPS without layers".into()))
}
