//! The convolution's launches on CUDA devices: f32 products and depthwise convolutions, `kernels/conv2d.cu`; the
//! others are in `mma`.

use super::{Conv2d, Conv2dInputGrad, Conv2dWeightGrad, mma, wgmma};
use crate::device::cuda::driver::DevicePtr;
use crate::device::cuda::{Args, CudaCall, KernelLaunch, THREADS};
use crate::graph::CudaKernel;
use crate::types::{ConvShape, Pass, Precision, Shape};

/// Channels of a block, where few and where many are computed.
const NARROW: usize = 16;
const WIDE: usize = 64;
/// Blocks that fill a large GPU twice.
pub(super) const BLOCKS: usize = 264;
/// Most pixels that are summed in f32 before f64 takes over.
pub(super) const PART_PIXELS: usize = 8192;
/// Pixels that make a part worth its own block.
const LEAST_PIXELS: usize = 128;

pub(super) fn geometry(s: &ConvShape, transposed: bool) -> Args {
    Args::new()
        .size("kh", s.ksize_h)
        .size("kw", s.ksize_w)
        .size("stride", s.stride)
        .size("pad", s.pad)
        .size("dilation", s.dilation)
        .fixed("TRANSPOSED", usize::from(transposed))
}

/// What the kernels of forward pass and input gradient are told, and the rows, columns and channels of the result.
pub(super) fn correlation(call: &CudaCall, s: &ConvShape, pass: Pass) -> (Args, [usize; 3]) {
    let transposed = pass == Pass::InputGrad;
    let [rows, cols, channels] = if transposed { [s.in_h, s.in_w, s.in_ch] } else { [s.out_h, s.out_w, s.out_ch] };
    let args = geometry(s, transposed)
        .input("x", call.inputs[0])
        .input("w", call.inputs[1])
        .size("images", s.batch)
        .size("rows", rows)
        .size("cols", cols)
        .size("channels", channels)
        .finish(&call.finish);
    (args, [rows, cols, channels])
}

/// Whether products run on tensor cores. Gradients of strided and dilated convolutions, which no network has, do not:
/// their taps have no sources at equal distances.
fn on_tensor_cores(call: &CudaCall, s: &ConvShape, pass: Pass) -> bool {
    let regular = pass != Pass::InputGrad || s.stride == 1 || s.dilation == 1;
    call.precision != Precision::F32 && !s.depthwise && regular
}

/// Forward and input gradient: operands are the source and the weight.
pub(super) fn correlate(call: &CudaCall, s: &ConvShape, pass: Pass) -> Vec<KernelLaunch> {
    if on_tensor_cores(call, s, pass) {
        return mma::correlate(call, s, pass);
    }
    let (args, [rows, cols, channels]) = correlation(call, s, pass);
    let pixels = s.batch * rows * cols;
    if s.depthwise {
        let vector = if call.inputs[0].has_vectors() && channels.is_multiple_of(4) { call.finish.vector() } else { 1 };
        let args = args.fixed("V", vector);
        return vec![KernelLaunch::over("conv2d", "conv2d_depthwise", pixels * channels / vector, args)];
    }
    let width = if channels <= NARROW { NARROW } else { WIDE };
    // A thread has 4 by 4 results.
    let block_pixels = THREADS / (width / 4) * 4;
    let args = args.fixed("WIDTH", width).fixed("V", call.finish.vector());
    let launch = KernelLaunch::new("conv2d", "conv2d", 1, args);
    vec![launch.with_grid([pixels.div_ceil(block_pixels), channels.div_ceil(width), 1])]
}

/// How the pixels of a weight gradient are cut: blocks of weights and channels, and parts.
pub(super) struct Parts {
    pub grid: [usize; 2],
    pub count: usize,
    /// Pixels of each but the last, or patches of them.
    pub len: usize,
}

impl Parts {
    /// Enough parts of pixels to fill a GPU, with `grid` blocks each.
    pub fn of(s: &ConvShape, grid: [usize; 2]) -> Parts {
        let all = s.batch * s.out_h * s.out_w;
        let filling = BLOCKS.div_ceil(grid[0] * grid[1]).min(all.div_ceil(LEAST_PIXELS));
        let count = filling.max(all.div_ceil(PART_PIXELS));
        Parts::cut(all, grid, all.div_ceil(count).next_multiple_of(16))
    }

    /// Parts of `len` of all.
    pub fn cut(all: usize, grid: [usize; 2], len: usize) -> Parts {
        Parts { grid, count: all.div_ceil(len), len }
    }

    /// Where the parts' sums go.
    pub fn sums(&self, call: &CudaCall) -> DevicePtr {
        if self.count == 1 { call.output.ptr } else { call.scratch }
    }
}

fn parts(s: &ConvShape) -> Parts {
    let grid = if s.depthwise {
        [s.out_ch.div_ceil(32), s.taps()]
    } else {
        [(s.taps() * s.in_ch).div_ceil(WIDE), s.out_ch.div_ceil(WIDE)]
    };
    Parts::of(s, grid)
}

/// Floats of scratch of the weight gradient, in any precision, by any kernel.
pub(super) fn weight_grad_scratch(s: &ConvShape) -> usize {
    match parts(s).count.max(mma::parts(s).count).max(wgmma::parts(s).count) {
        1 => 0,
        parts => parts * s.weight_len(),
    }
}

/// Weight gradient: operands are the input and d_output.
pub(super) fn weight_grad(call: &CudaCall, s: &ConvShape) -> Vec<KernelLaunch> {
    if on_tensor_cores(call, s, Pass::WeightGrad) {
        return mma::weight_grad(call, s);
    }
    let parts = parts(s);
    let args = geometry(s, false)
        .input("x", call.inputs[0])
        .input("d", call.inputs[1])
        .pointer("sums", "float", parts.sums(call))
        .size("part_pixels", parts.len);
    let kernel = if s.depthwise { "conv2d_depthwise_weight_grad" } else { "conv2d_weight_grad" };
    let grid = [parts.grid[0], parts.grid[1], parts.count];
    let launch = KernelLaunch::new("conv2d", kernel, 1, args).with_grid(grid);
    [launch].into_iter().chain(sum_parts(call, s, &parts)).collect()
}

/// The sum of the parts, if there are several.
pub(super) fn sum_parts(call: &CudaCall, s: &ConvShape, parts: &Parts) -> Option<KernelLaunch> {
    let args = Args::new()
        .pointer("sums", "const float", call.scratch)
        .pointer("to", "float", call.output.ptr)
        .size("parts", parts.count);
    (parts.count > 1).then(|| KernelLaunch::over("conv2d", "conv2d_sum_parts", s.weight_len(), args))
}

impl CudaKernel for Conv2d {
    fn launches(&self, call: &CudaCall) -> Vec<KernelLaunch> {
        let s = self.0.conv_shape(call.inputs[0].shape, call.inputs[1].shape, call.output.shape);
        correlate(call, &s, Pass::Forward)
    }
    fn warpgroups(&self, call: &CudaCall) -> Vec<(String, Vec<KernelLaunch>)> {
        let s = self.0.conv_shape(call.inputs[0].shape, call.inputs[1].shape, call.output.shape);
        wgmma::correlate(call, &s, Pass::Forward)
    }
}

impl CudaKernel for Conv2dInputGrad {
    fn launches(&self, call: &CudaCall) -> Vec<KernelLaunch> {
        let s = self.geometry.conv_shape(self.input, call.inputs[1].shape, call.inputs[0].shape);
        correlate(call, &s, Pass::InputGrad)
    }
    fn warpgroups(&self, call: &CudaCall) -> Vec<(String, Vec<KernelLaunch>)> {
        let s = self.geometry.conv_shape(self.input, call.inputs[1].shape, call.inputs[0].shape);
        wgmma::correlate(call, &s, Pass::InputGrad)
    }
}

impl CudaKernel for Conv2dWeightGrad {
    fn scratch(&self, inputs: &[Shape], output: Shape) -> usize {
        weight_grad_scratch(&self.geometry.conv_shape(inputs[0], output, inputs[1]))
    }
    fn launches(&self, call: &CudaCall) -> Vec<KernelLaunch> {
        let s = self.geometry.conv_shape(call.inputs[0].shape, self.weight, call.inputs[1].shape);
        weight_grad(call, &s)
    }
    fn warpgroups(&self, call: &CudaCall) -> Vec<(String, Vec<KernelLaunch>)> {
        let s = self.geometry.conv_shape(call.inputs[0].shape, self.weight, call.inputs[1].shape);
        wgmma::weight_grad(call, &s)
    }
}
