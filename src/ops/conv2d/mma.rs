//! Launches of dense convolutions on tensor cores, in bf16 or tf32: `kernels/conv2d_mma.cu`.

use super::cuda::{BLOCKS, Parts, correlation, geometry, sum_parts};
use crate::device::cuda::{Args, CudaCall, DeviceView, KernelLaunch};
use crate::types::{ConvShape, Element, Pass, Precision};

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

/// How an operand comes to shared memory, `Loader` of `kernels/include/pipeline.cuh`: as it is, by asynchronous copies,
/// or converted on the way, `run` elements at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fetch {
    pub is_async: bool,
    pub run: usize,
}

impl Fetch {
    /// For products of elements `to`. Of the operand `run` elements follow each other without gaps, and so they do every
    /// `pitch` elements. Runs are cut into chunks of 16 bytes, or into halves of them where channels are half as many.
    pub fn of(view: &DeviceView, run: usize, pitch: usize, to: Element) -> Fetch {
        let chunk = 16 / to.size();
        let fits = |part: &usize| {
            let bytes = (part * view.element.size()).min(16) as u64;
            run.is_multiple_of(*part) && pitch.is_multiple_of(*part) && view.ptr.0.is_multiple_of(bytes)
        };
        let part = [chunk, chunk / 2].into_iter().find(fits).unwrap_or(1);
        Fetch { is_async: part > 1 && view.element == to, run: part }
    }

    /// Of a tensor's pixels.
    fn of_pixels(view: &DeviceView, to: Element) -> Fetch {
        Fetch::of(view, view.shape.c(), view.stride, to)
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
    let args = pipeline(args, to, [Fetch::of_pixels(&source, to), Fetch::of(&weight, run, run, to)]);
    let blocks = class_pixels.div_ceil(BLOCK_PIXELS) * channels.div_ceil(width);
    let results = BLOCK_PIXELS * (width + 8) * 4;
    let launch = KernelLaunch::new("conv2d_mma", "conv2d_mma", 1, args)
        .with_grid([blocks, 1, split * split])
        .with_threads(if width > 64 { 256 } else { 128 })
        .with_shared_bytes(results.max(STAGES * (BLOCK_PIXELS + width) * STEP_BYTES));
    vec![launch]
}

fn pipeline(args: Args, to: Element, [a, b]: [Fetch; 2]) -> Args {
    args.fixed("BF16", usize::from(to == Element::Bf16))
        .fixed("ASYNC_A", usize::from(a.is_async))
        .fixed("RUN_A", a.run)
        .fixed("ASYNC_B", usize::from(b.is_async))
        .fixed("RUN_B", b.run)
        .fixed("STAGES", STAGES)
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
    let pairs = (s.taps() * s.in_ch).is_multiple_of(2) && sums.0.is_multiple_of(8);
    let args = geometry(s, false)
        .input("x", x)
        .input("d", d)
        .pointer("sums", "float", sums)
        .size("part_pixels", parts.len)
        .fixed("HEIGHT", height)
        .fixed("PAIRS", usize::from(pairs));
    let args = pipeline(args, to, [Fetch::of_pixels(&d, to), Fetch::of_pixels(&x, to)]);
    let launch = KernelLaunch::new("conv2d_mma", "conv2d_weight_grad_mma", 1, args)
        .with_grid([parts.grid[0], parts.grid[1], parts.count])
        .with_threads(128)
        .with_shared_bytes(STAGES * (height + BLOCK_WEIGHTS) * STEP_BYTES);
    [launch].into_iter().chain(sum_parts(call, s, &parts)).collect()
}
