//! Launches of dense convolutions on tensor cores, in bf16 or tf32: `kernels/conv2d_mma.cu`.

use super::cuda::{BLOCKS, Parts, correlation, geometry, sum_parts};
use crate::device::cpu::{ConvShape, Pass};
use crate::device::cuda::{Args, CudaCall, DeviceView, KernelLaunch};
use crate::plan::Precision;
use crate::tape::Element;

/// `BLOCK_PIXELS` and `BLOCK_WEIGHTS` of the kernels.
const BLOCK_PIXELS: usize = 128;
const BLOCK_WEIGHTS: usize = 128;
/// Bytes of one step of the reduction for each row and column of a block.
const STEP_BYTES: usize = 64;
/// Steps that a block holds in shared memory.
const STAGES: usize = 4;
/// Fewest channels of a block where there are that many, and most of one with a warp to every 64 by 32 results.
const NARROW: usize = 32;

/// How products are rounded: the elements in shared memory.
fn products(precision: Precision) -> Element {
    if precision == Precision::Bf16 { Element::Bf16 } else { Element::F32 }
}

/// How an operand comes to shared memory, `Fetch` of `kernels/include/pipeline.cuh`: 2 as it is, by asynchronous copies of
/// 16 bytes; 1 by vectors, to be converted; 0 by elements. `run` elements follow each other without gaps, and so
/// they do every `pitch` elements.
fn fetch(view: &DeviceView, run: usize, pitch: usize, to: Element) -> usize {
    let chunk = 16 / to.size();
    let bytes = (chunk * view.element.size()).min(16);
    let aligned = run.is_multiple_of(chunk) && pitch.is_multiple_of(chunk) && view.ptr.0.is_multiple_of(bytes as u64);
    match (aligned, view.element == to) {
        (true, true) => 2,
        (true, false) => 1,
        (false, _) => 0,
    }
}

/// Channels of a block: as many as there are, up to a size that still gives every multiprocessor work.
fn block_channels(channels: usize, pixels: usize) -> usize {
    let mut width = match channels {
        0..=NARROW => channels.next_power_of_two().max(8),
        _ if channels.next_multiple_of(128) > channels.next_multiple_of(64) => 64,
        _ => 128,
    };
    let blocks = |width| pixels.div_ceil(BLOCK_PIXELS) * channels.div_ceil(width);
    while width > NARROW && blocks(width) < BLOCKS {
        width /= 2;
    }
    width
}

/// Forward and input gradient: operands are the source and the weight.
pub(super) fn correlate(call: &CudaCall, s: &ConvShape, pass: Pass) -> Vec<KernelLaunch> {
    let [source, weight] = [call.inputs[0], call.inputs[1]];
    let to = products(call.precision);
    let transposed = pass == Pass::InputGrad;
    let (args, [rows, cols, channels]) = correlation(call, s, pass);
    let run = if transposed { s.in_ch } else { s.taps() * s.in_ch };
    let split = if transposed { s.stride } else { 1 };
    let class_pixels = s.batch * rows.div_ceil(split) * cols.div_ceil(split);
    let width = block_channels(channels, class_pixels * split * split);
    let args = args.size("split", split).fixed("V", call.finish.vector()).fixed("WIDTH", width);
    let args = pipeline(args, to, [fetch(&source, source.shape.c(), source.stride, to), fetch(&weight, run, run, to)]);
    let blocks = class_pixels.div_ceil(BLOCK_PIXELS) * channels.div_ceil(width);
    let results = BLOCK_PIXELS * (width + 8) * 4;
    let launch = KernelLaunch::new("conv2d_mma", "conv2d_mma", 1, args)
        .with_grid([blocks, 1, split * split])
        .with_threads(if width > 64 { 256 } else { 128 })
        .with_shared_bytes(results.max(STAGES * (BLOCK_PIXELS + width) * STEP_BYTES));
    vec![launch]
}

fn pipeline(args: Args, to: Element, [a, b]: [usize; 2]) -> Args {
    args.fixed("BF16", usize::from(to == Element::Bf16)).fixed("FETCH_A", a).fixed("FETCH_B", b).fixed("STAGES", STAGES)
}

/// Output channels of a block of the weight gradient.
fn block_outputs(s: &ConvShape) -> usize {
    s.out_ch.next_power_of_two().clamp(16, 64)
}

/// How the weight gradient is cut.
pub(super) fn parts(s: &ConvShape) -> Parts {
    Parts::of(s, [(s.taps() * s.in_ch).div_ceil(BLOCK_WEIGHTS), s.out_ch.div_ceil(block_outputs(s))])
}

/// Weight gradient: operands are the input and d_output.
pub(super) fn weight_grad(call: &CudaCall, s: &ConvShape) -> Vec<KernelLaunch> {
    let [x, d] = [call.inputs[0], call.inputs[1]];
    let to = products(call.precision);
    let (parts, height) = (parts(s), block_outputs(s));
    let sums = parts.sums(call);
    let args = geometry(s, false)
        .input("x", x)
        .input("d", d)
        .pointer("sums", "float", sums)
        .size("part_pixels", parts.len)
        .fixed("HEIGHT", height);
    let args = pipeline(args, to, [fetch(&d, d.shape.c(), d.stride, to), fetch(&x, x.shape.c(), x.stride, to)]);
    let launch = KernelLaunch::new("conv2d_mma", "conv2d_weight_grad_mma", 1, args)
        .with_grid([parts.grid[0], parts.grid[1], parts.count])
        .with_threads(128)
        .with_shared_bytes(STAGES * (height + BLOCK_WEIGHTS) * STEP_BYTES);
    [launch].into_iter().chain(sum_parts(call, s, &parts)).collect()
}
