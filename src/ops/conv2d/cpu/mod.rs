//! The convolution's three passes on a CPU: checks, the choice of the algorithm, and the ops' sides.

mod band;
mod direct;
mod pack;
mod products;
mod stacked_weight_grad;
#[cfg(test)]
mod tests;
mod weight_grad;
mod winograd;
mod winograd_conv;
mod winograd_weight_grad;
mod winograd_weights;

use super::{Conv2d, Conv2dInputGrad, Conv2dWeightGrad};
use crate::device::cpu::{Ctx, TileSink, View};
use crate::graph::{CpuKernel, KernelCall, TiledCall};
use crate::types::{ConvShape, Pass, Shape};
use direct::Correlation;
use stacked_weight_grad::StackedWeightGrad;
use weight_grad::WeightGrad;
use winograd::Tiles;
use winograd_conv::WinogradConv;
use winograd_weight_grad::WinogradWeightGrad;

/// How a pass is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// The sum as it is written, in register blocks.
    Direct,
    /// Winograd's F(4×4, 3×3) and F(3×3, 4×4).
    Winograd,
    /// Winograd on the 3×3 blocks of a larger kernel; weight gradients only.
    Stacked,
}

/// The algorithm for a pass, by shape alone.
pub fn algorithm(shape: &ConvShape, pass: Pass) -> Algorithm {
    let s = shape;
    if pass == Pass::WeightGrad && StackedWeightGrad::suits(s) {
        return Algorithm::Stacked;
    }
    if !WinogradConv::supports(s) {
        return Algorithm::Direct;
    }
    let tiles = Tiles::new(s.ksize_h, s.batch, s.out_h, s.out_w).count;
    // Winograd pays while the transforms (tiles × channels, and weights) are few against the products: 8 tiles of
    // 128 channels, 3×3, take 0.65 to 0.8 of the direct time with AVX2. Register blocks hold 6 tiles.
    let few_channels = s.in_ch.min(s.out_ch) < 16;
    let few_tiles = tiles < 6;
    if few_channels || few_tiles && pass != Pass::WeightGrad { Algorithm::Direct } else { Algorithm::Winograd }
}

/// Floats of scratch memory that a pass needs; what they hold before the call does not matter.
pub fn scratch_len(shape: &ConvShape, pass: Pass, threads: usize) -> usize {
    scratch_len_with(algorithm(shape, pass), shape, pass, threads)
}

pub(super) fn scratch_len_with(algorithm: Algorithm, shape: &ConvShape, pass: Pass, threads: usize) -> usize {
    match (algorithm, pass) {
        (Algorithm::Direct, Pass::WeightGrad) => WeightGrad::new(shape).scratch_len(),
        (Algorithm::Stacked, Pass::WeightGrad) => StackedWeightGrad::new(shape).scratch_len(threads),
        (Algorithm::Direct | Algorithm::Stacked, _) => Correlation::new(shape, pass).scratch_len(threads),
        (Algorithm::Winograd, Pass::WeightGrad) => WinogradWeightGrad::new(shape).scratch_len(threads),
        (Algorithm::Winograd, _) => WinogradConv::new(shape, pass).scratch_len(threads),
    }
}

/// Forward pass or input gradient by the given algorithm: `output = input * weight` (weight O,kh,kw,I), or its gradient
/// by the input, handed to `sink` in tiles.
///
/// # Panics
/// If the sizes of the view, the weight or the scratch memory ([`scratch_len`]) do not fit the shape.
#[expect(clippy::too_many_arguments, reason = "a pass's operands and the choice of its algorithm")]
pub(super) fn correlate(
    algorithm: Algorithm,
    ctx: &Ctx,
    shape: &ConvShape,
    pass: Pass,
    source: View,
    weight: &[f32],
    sink: &dyn TileSink,
    scratch: &mut [f32],
) {
    check_shape(shape);
    check_view(&source, shape, pass == Pass::Forward);
    assert_eq!(weight.len(), shape.weight_len(), "weights of {shape:?}");
    // SAFETY: the sizes were checked.
    unsafe {
        match algorithm {
            Algorithm::Direct | Algorithm::Stacked => {
                Correlation::new(shape, pass).run(ctx, source, weight, sink, scratch)
            }
            Algorithm::Winograd => WinogradConv::new(shape, pass).run(ctx, source, weight, sink, scratch),
        }
    }
}

/// The gradient by the weight, written to `d_weight` (O,kh,kw,I), by the given algorithm.
///
/// # Panics
/// If the sizes of the views, the gradient or the scratch memory ([`scratch_len`]) do not fit the shape.
pub(super) fn weight_grad(
    algorithm: Algorithm,
    ctx: &Ctx,
    shape: &ConvShape,
    input: View,
    d_output: View,
    d_weight: &mut [f32],
    scratch: &mut [f32],
) {
    check_shape(shape);
    check_view(&input, shape, true);
    check_view(&d_output, shape, false);
    assert_eq!(d_weight.len(), shape.weight_len(), "weights of {shape:?}");
    // SAFETY: the sizes were checked.
    unsafe {
        match algorithm {
            Algorithm::Direct => WeightGrad::new(shape).run(ctx, input, d_output, d_weight, scratch),
            Algorithm::Winograd => WinogradWeightGrad::new(shape).run(ctx, input, d_output, d_weight, scratch),
            Algorithm::Stacked => StackedWeightGrad::new(shape).run(ctx, input, d_output, d_weight, scratch),
        }
    }
}

/// Shapes are checked where plans are built; a wrong one here would read outside of the tensors.
fn check_shape(s: &ConvShape) {
    assert_eq!(Some(*s), s.with_out_size(), "output size of {s:?}");
    assert!(s.batch > 0 && s.in_ch > 0 && s.out_ch > 0 && s.dilation > 0, "empty convolution {s:?}");
    assert!(!s.depthwise || s.in_ch == s.out_ch, "channels of depthwise {s:?}");
}

fn check_view(v: &View, s: &ConvShape, input: bool) {
    let want = if input { [s.batch, s.in_h, s.in_w, s.in_ch] } else { [s.batch, s.out_h, s.out_w, s.out_ch] };
    assert_eq!(v.shape().0, want, "a view for {s:?}");
    assert!(v.stride() >= v.c(), "a view whose pixels overlap");
}

impl CpuKernel for Conv2d {
    fn scratch(&self, inputs: &[Shape], output: Shape, threads: usize) -> usize {
        scratch_len(&self.0.conv_shape(inputs[0], inputs[1], output), Pass::Forward, threads)
    }
    fn run(&self, ctx: &Ctx, call: KernelCall) {
        let (call, sink) = call.into_tiles();
        self.run_into(ctx, call, &sink);
    }
    fn run_into(&self, ctx: &Ctx, call: TiledCall, sink: &dyn TileSink) {
        let [input, weight] = [call.inputs[0], call.inputs[1]];
        let s = self.0.conv_shape(input.shape(), weight.shape(), call.output);
        let pass = Pass::Forward;
        correlate(algorithm(&s, pass), ctx, &s, pass, input, weight.dense(), sink, call.scratch);
    }
}

impl CpuKernel for Conv2dInputGrad {
    fn scratch(&self, inputs: &[Shape], output: Shape, threads: usize) -> usize {
        scratch_len(&self.geometry.conv_shape(output, inputs[1], inputs[0]), Pass::InputGrad, threads)
    }
    fn run(&self, ctx: &Ctx, call: KernelCall) {
        let (call, sink) = call.into_tiles();
        self.run_into(ctx, call, &sink);
    }
    fn run_into(&self, ctx: &Ctx, call: TiledCall, sink: &dyn TileSink) {
        let [d_output, weight] = [call.inputs[0], call.inputs[1]];
        let s = self.geometry.conv_shape(self.input, weight.shape(), d_output.shape());
        let pass = Pass::InputGrad;
        correlate(algorithm(&s, pass), ctx, &s, pass, d_output, weight.dense(), sink, call.scratch);
    }
}

impl CpuKernel for Conv2dWeightGrad {
    fn scratch(&self, inputs: &[Shape], output: Shape, threads: usize) -> usize {
        scratch_len(&self.geometry.conv_shape(inputs[0], output, inputs[1]), Pass::WeightGrad, threads)
    }
    fn run(&self, ctx: &Ctx, mut call: KernelCall) {
        let [input, d_output] = [call.inputs[0], call.inputs[1]];
        let s = self.geometry.conv_shape(input.shape(), self.weight, d_output.shape());
        let algorithm = algorithm(&s, Pass::WeightGrad);
        weight_grad(algorithm, ctx, &s, input, d_output, call.output.dense_mut(), call.scratch);
    }
}
