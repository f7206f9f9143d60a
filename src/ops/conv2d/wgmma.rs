//! Launches of convolutions of stride 1 and 2 in bf16 by Hopper's products of warpgroups and bulk copies:
//! `kernels/conv2d_wgmma.cu`. Which shape of block is the fastest is timed.

use super::cuda::{PART_PIXELS, Parts, sum_parts};
use crate::device::cuda::{Args, CudaCall, DeviceView, KernelLaunch, TensorMap};
use crate::types::{ConvShape, Element, Pass, Precision};

/// Channels of a plane in shared memory, and bytes of a pixel in it.
const PLANE: usize = 8;
const PIXEL_BYTES: usize = 16;
/// Pixels of a patch beside each other; rows come by eights.
const PATCH_WIDTH: usize = 16;
const TILE_ROWS: usize = 8;
const WARPGROUP: usize = 128;
/// One more warp, which starts copies.
const COPY_THREADS: usize = 32;
/// Stages of shared memory.
const SOURCE_STAGES: usize = 2;
const WEIGHT_STAGES: usize = 4;
const PATCH_STAGES: usize = 3;
/// Shared memory that a block of Hopper can have, less what barriers take; less than descriptors (2¹⁸) and barriers (2²⁰)
/// count.
const MOST_SHARED: usize = (227 << 10) - 256;
/// Where swizzled rows begin in shared memory.
const SWIZZLE_ALIGN: usize = 1024;
/// Tiles by channels whose sums have registers.
const MOST_SUMS: usize = 256;
/// Of the weight gradient: input channels of a block, the most taps in a row, and the most of them by output channels,
/// whose sums are all in registers.
const BLOCK_INPUTS: usize = 64;
const MOST_TAPS: usize = 4;
const MOST_TAP_SUMS: usize = 192;
/// Of an H100 or H200 (SXM): a block each fills them.
const MULTIPROCESSORS: usize = 132;
/// Patches whose sums are one part: as many pixels as the other kernels sum in f32.
const PART_PATCHES: usize = PART_PIXELS / (PATCH_WIDTH * TILE_ROWS);

/// Whether the copy engine can bring the tensor: planes of bf16 at multiples of 16 bytes.
fn has_planes(view: &DeviceView) -> bool {
    let aligned = view.shape.c().is_multiple_of(PLANE) && view.stride.is_multiple_of(PLANE);
    view.element == Element::Bf16 && aligned && view.ptr.0.is_multiple_of(PIXEL_BYTES as u64)
}

/// Whether products of these two operands have enough channels to fill them.
fn suits(call: &CudaCall, s: &ConvShape) -> bool {
    let plain = s.stride <= 2 && s.dilation == 1 && !s.depthwise && s.ksize_h.min(s.ksize_w) >= s.stride;
    let channels = s.in_ch.min(s.out_ch) >= PLANE && s.in_ch.max(s.out_ch) >= 2 * PLANE;
    call.precision == Precision::Bf16 && plain && channels && call.inputs.iter().take(2).all(has_planes)
}

/// Columns of products for so many channels: what there is, up to `most`.
fn width(channels: usize, most: usize) -> usize {
    channels.next_power_of_two().clamp(PLANE, most)
}

fn patches([rows, cols]: [usize; 2], patch_rows: usize) -> [usize; 2] {
    [cols.div_ceil(PATCH_WIDTH), rows.div_ceil(patch_rows)]
}

/// Patches of every `step`-th pixel of an image, with `around` more of them in each direction, in `planes` planes.
fn patch_map(view: &DeviceView, step: usize, rows: usize, around: [usize; 2], planes: usize) -> TensorMap {
    let [n, h, w, c] = view.shape.0;
    let row = w * view.stride;
    TensorMap {
        ptr: view.ptr,
        extents: [PLANE, w, h, c / PLANE, n],
        strides: [view.stride, row, PLANE, h * row],
        steps: [1, step, step, 1, 1],
        extents_of_box: [PLANE, PATCH_WIDTH + around[1], rows + around[0], planes, 1],
        swizzle: 0,
    }
}

/// Bytes of the patches of every remainder in shared memory.
fn patch_bytes(step: usize, rows: usize, around: [usize; 2], planes: usize) -> usize {
    let patch = (rows + around[0]) * (PATCH_WIDTH + around[1]) * PIXEL_BYTES * planes;
    step * step * patch.next_multiple_of(128)
}

/// Every `step`-th of some taps in a row, of some input channels and output channels, in rows of the former.
fn weight_map(weight: &DeviceView, s: &ConvShape, step: usize, [in_ch, out_ch, taps]: [usize; 3]) -> TensorMap {
    let filter = s.taps() * s.in_ch;
    let row_bytes = in_ch * Element::Bf16.size();
    TensorMap {
        ptr: weight.ptr,
        extents: [s.in_ch, s.out_ch, s.taps(), 1, 1],
        strides: [filter, s.in_ch, filter, filter],
        steps: [1, 1, step, 1, 1],
        extents_of_box: [in_ch, out_ch, taps, 1, 1],
        swizzle: if row_bytes > PIXEL_BYTES { row_bytes } else { 0 },
    }
}

/// The taps of results along one axis.
#[derive(Clone, Copy)]
struct Taps {
    /// Their number, and the first of every so many.
    count: usize,
    first: usize,
    /// Patch pixels before that of the first result.
    before: usize,
}

/// Taps of the forward pass.
fn forward_taps(ksize: usize, s: &ConvShape) -> Taps {
    Taps { count: ksize, first: 0, before: s.pad.div_ceil(s.stride) }
}

/// Taps of those results of the input gradient that have `remainder` modulo the stride, if they reach no further than
/// the patch.
fn transposed_taps(ksize: usize, s: &ConvShape, remainder: usize) -> Option<Taps> {
    let first = (remainder + s.pad) % s.stride;
    let count = (ksize - first).div_ceil(s.stride);
    let before = (count - 1).checked_sub((remainder + s.pad - first) / s.stride)?;
    Some(Taps { count, first, before })
}

/// Patch pixels that taps of the forward pass reach beyond the results' own.
fn around(s: &ConvShape) -> [usize; 2] {
    let before = s.pad.div_ceil(s.stride) * s.stride;
    [s.ksize_h, s.ksize_w].map(|ksize| (ksize - 1 + before - s.pad) / s.stride)
}

/// Forward and input gradient, whose operands are the source and the weight: a block has 8, 16 or 32 rows of pixels, and
/// up to 64 or 128 channels.
pub(super) fn correlate(call: &CudaCall, s: &ConvShape, pass: Pass) -> Vec<(String, Vec<KernelLaunch>)> {
    if !suits(call, s) {
        return Vec::new();
    }
    let channels = if pass == Pass::InputGrad { s.in_ch } else { s.out_ch };
    let widths = if channels > 64 { vec![64, 128] } else { vec![width(channels, 64)] };
    let blocks = widths.into_iter().flat_map(|width| [1, 2, 4].map(|tiles| (tiles, width)));
    let blocks = blocks.filter(|(tiles, width)| tiles * width <= MOST_SUMS);
    blocks.filter_map(|(tiles, width)| correlations(call, s, pass, [tiles, width])).collect()
}

/// The launches with one shape of blocks. An input gradient of stride 2 has one for each remainder of rows and columns,
/// whose results have taps of their own.
fn correlations(call: &CudaCall, s: &ConvShape, pass: Pass, block: [usize; 2]) -> Option<(String, Vec<KernelLaunch>)> {
    let mut launches = Vec::new();
    if pass == Pass::InputGrad {
        let remainders = (0..s.stride).flat_map(|y| (0..s.stride).map(move |x| [y, x]));
        for [y, x] in remainders.filter(|[y, x]| *y < s.in_h && *x < s.in_w) {
            let taps = [transposed_taps(s.ksize_h, s, y)?, transposed_taps(s.ksize_w, s, x)?];
            launches.push(correlation(call, s, Some([y, x]), taps, block)?);
        }
    } else {
        let taps = [forward_taps(s.ksize_h, s), forward_taps(s.ksize_w, s)];
        launches.push(correlation(call, s, None, taps, block)?);
    }
    let [tiles, width] = block;
    Some((format!("wgmma {PATCH_WIDTH}x{}x{width}", tiles * TILE_ROWS), launches))
}

/// One launch; `class` is what rows and columns of the results of an input gradient leave modulo the stride.
fn correlation(
    call: &CudaCall,
    s: &ConvShape,
    class: Option<[usize; 2]>,
    [down, across]: [Taps; 2],
    [tiles, width]: [usize; 2],
) -> Option<KernelLaunch> {
    let [source, weight] = [&call.inputs[0], &call.inputs[1]];
    let patch_rows = tiles * TILE_ROWS;
    // Steps of a product are 16 channels; a stage has up to two.
    let depth = if source.shape.c() > 16 { 32 } else { 16 };
    let ([first_y, first_x], split, step) =
        (class.unwrap_or_default(), class.map_or(1, |_| s.stride), source_step(s, class));
    let [rows, cols, channels] = match class {
        Some(_) => [(s.in_h - first_y).div_ceil(split), (s.in_w - first_x).div_ceil(split), s.in_ch],
        None => [s.out_h, s.out_w, s.out_ch],
    };
    let around = if class.is_some() { [down.count - 1, across.count - 1] } else { around(s) };
    let weights = WEIGHT_STAGES * across.count * depth * width * 2;
    let stages = SWIZZLE_ALIGN + weights + SOURCE_STAGES * patch_bytes(step, patch_rows, around, depth / PLANE);
    let shared = stages.max(patch_rows * PATCH_WIDTH * (width + 8) * 4);
    if shared > MOST_SHARED {
        return None;
    }
    let row = if class.is_some() { [width.min(64), depth, across.count] } else { [depth, width, across.count] };
    let [patches_x, patches_y] = patches([rows, cols], patch_rows);
    let args = Args::new()
        .tensor_map("source", patch_map(source, step, patch_rows, around, depth / PLANE))
        .tensor_map("weights", weight_map(weight, s, split, row))
        .size("kh", down.count)
        .size("kw", across.count)
        .size("first_tap", down.first * s.ksize_w + across.first)
        .size("tap_rows", split * s.ksize_w)
        .size("pad", s.pad)
        .size("top", down.before)
        .size("left", across.before)
        .size("split", split)
        .size("split_y", first_y)
        .size("split_x", first_x)
        .size("patches_x", patches_x)
        .size("patches_y", patches_y)
        .size("rows", rows)
        .size("cols", cols)
        .size("channels", channels)
        .size("depth", source.shape.c())
        .fixed("TRANSPOSED", usize::from(class.is_some()))
        .fixed("STRIDE", step)
        .fixed("TILES", tiles)
        .fixed("WIDTH", width)
        .fixed("DEPTH", depth)
        .fixed("SOURCE_STAGES", SOURCE_STAGES)
        .fixed("WEIGHT_STAGES", WEIGHT_STAGES)
        .fixed("V", call.finish.vector())
        .finish(&call.finish);
    let blocks = s.batch * patches_x * patches_y * channels.div_ceil(width);
    let launch = KernelLaunch::new("conv2d_wgmma", "conv2d_wgmma", blocks, args);
    Some(launch.with_threads(2 * WARPGROUP + COPY_THREADS).with_shared_bytes(shared))
}

/// Pixels of the source from one of a patch to the next.
fn source_step(s: &ConvShape, class: Option<[usize; 2]>) -> usize {
    if class.is_some() { 1 } else { s.stride }
}

/// Output channels of a block of the weight gradient.
fn block_outputs(s: &ConvShape) -> usize {
    width(s.out_ch, if 64 * s.ksize_w > MOST_TAP_SUMS { 32 } else { 64 })
}

/// How the weight gradient is cut: blocks of channels, and parts of patches.
pub(super) fn parts(s: &ConvShape) -> Parts {
    let [x, y] = patches([s.out_h, s.out_w], TILE_ROWS);
    let grid = [s.in_ch.div_ceil(BLOCK_INPUTS), s.out_ch.div_ceil(block_outputs(s))];
    let all = s.batch * x * y;
    Parts::cut(all, grid, part_patches(all, grid[0] * grid[1]))
}

/// Patches of a part that let all multiprocessors end at about the same time: `all` patches are cut for each of `blocks`
/// blocks of channels, a multiprocessor works on one part at a time, and a part costs about a patch more than it has, to
/// begin and to write its sums. Of equals the longest part, which makes the fewest sums.
fn part_patches(all: usize, blocks: usize) -> usize {
    let rounds = |patches: usize| (blocks * all.div_ceil(patches)).div_ceil(MULTIPROCESSORS);
    let cost = |patches: usize| rounds(patches) * (patches + 1);
    (1..=PART_PATCHES.min(all.max(1))).rev().min_by_key(|&patches| cost(patches)).unwrap_or(1)
}

/// Weight gradient: operands are the input and d_output.
pub(super) fn weight_grad(call: &CudaCall, s: &ConvShape) -> Vec<(String, Vec<KernelLaunch>)> {
    if !suits(call, s) || s.ksize_h > MOST_TAPS || s.ksize_w > MOST_TAPS {
        return Vec::new();
    }
    let [x, d] = [&call.inputs[0], &call.inputs[1]];
    let (parts, width, around) = (parts(s), block_outputs(s), around(s));
    let stage = patch_bytes(s.stride, TILE_ROWS, around, BLOCK_INPUTS / PLANE) + TILE_ROWS * PATCH_WIDTH * width * 2;
    let stages = PATCH_STAGES.min(MOST_SHARED / stage);
    if stages < 2 {
        return Vec::new();
    }
    let [patches_x, patches_y] = patches([s.out_h, s.out_w], TILE_ROWS);
    let args = Args::new()
        .tensor_map("input", patch_map(x, s.stride, TILE_ROWS, around, BLOCK_INPUTS / PLANE))
        .tensor_map("gradient", patch_map(d, 1, TILE_ROWS, [0, 0], width / PLANE))
        .pointer("sums", "float", parts.sums(call))
        .size("kh", s.ksize_h)
        .size("pad", s.pad)
        .size("before", s.pad.div_ceil(s.stride))
        .size("in_ch", s.in_ch)
        .size("out_ch", s.out_ch)
        .size("patches_x", patches_x)
        .size("patches_y", patches_y)
        .size("patches", s.batch * patches_x * patches_y)
        .size("part_patches", parts.len)
        .fixed("TAPS", s.ksize_w)
        .fixed("WIDTH", width)
        .fixed("STRIDE", s.stride)
        .fixed("STAGES", stages);
    let launch = KernelLaunch::new("conv2d_wgmma", "conv2d_weight_grad_wgmma", 1, args)
        .with_grid([parts.grid[0], parts.grid[1], parts.count])
        .with_threads(s.ksize_h * WARPGROUP + COPY_THREADS)
        .with_shared_bytes(stages * stage);
    vec![("wgmma".to_owned(), [launch].into_iter().chain(sum_parts(call, s, &parts)).collect())]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_keep_the_multiprocessors_busy_to_their_end() {
        // Weight gradients of 10m, rrdb and a discriminator at batch 16: patches of the batch, blocks of channels.
        for (all, blocks) in [(16 * 32, 1), (16 * 32, 3), (16 * 128, 2), (16 * 128, 6), (16 * 8, 16), (16 * 2, 64)] {
            let patches = part_patches(all, blocks);
            assert!((1..=PART_PATCHES).contains(&patches), "{patches}");
            let rounds = (blocks * all.div_ceil(patches)).div_ceil(MULTIPROCESSORS);
            let least = (blocks * all).div_ceil(MULTIPROCESSORS);
            let time = rounds * patches;
            assert!(time * 10 <= least * 11, "{all} patches, {blocks} blocks: {time} for at least {least}");
        }
        // Too little work for all: a part each.
        assert_eq!((part_patches(8, 2), part_patches(0, 1)), (1, 1));
    }
}
