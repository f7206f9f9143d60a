//! Launches of `kernels/pixel_losses.cu`.

use super::{PixelLosses, PixelLossesGrad, per_pair};
use crate::device::cuda::driver::DevicePtr;
use crate::device::cuda::{Args, CudaCall, DeviceView, KernelLaunch, THREADS};
use crate::graph::CudaKernel;
use crate::ops::sum_to::cuda::vector_of;
use crate::types::Shape;

/// Sums of a block, as in the kernels.
const SUMS: usize = 5;
/// Blocks that fill a large GPU four times.
const BLOCKS: usize = 528;
/// Pixels of a block's thread that make the block worth its place.
const THREAD_PIXELS: usize = 4;

/// Blocks for an image; it depends on extents alone.
fn blocks(shape: Shape) -> usize {
    let filling = (BLOCKS / shape.n()).max(1);
    (shape.h() * shape.w()).div_ceil(THREADS * THREAD_PIXELS).min(filling)
}

/// Floats of scratch memory of [`components`].
pub(in crate::ops) fn scratch(shape: Shape) -> usize {
    shape.n() * blocks(shape) * SUMS
}

/// l1, sam, tv and psnr of equal shares of the images, one share for each row of `to`.
pub(in crate::ops) fn components(
    [sr, hr]: [DeviceView; 2],
    max_val: f32,
    sums: DevicePtr,
    to: DeviceView,
) -> Vec<KernelLaunch> {
    let [n, h, w, c] = sr.shape.0;
    let (blocks, images) = (blocks(sr.shape), n / to.shape.n());
    let args = Args::new()
        .input("sr", sr)
        .input("hr", hr)
        .pointer("sums", "float", sums)
        .factor("max_val", max_val)
        .fixed("V", vector_of(&[sr, hr]));
    let parts = KernelLaunch::new("pixel_losses", "pixel_sums", 1, args).with_grid([blocks, n, 1]);
    let args = Args::new()
        .pointer("sums", "const float", sums)
        .size("rows", blocks * images)
        .size("images", images)
        .size("h", h)
        .size("w", w)
        .size("c", c)
        .factor("max_val", max_val)
        .output("to", to);
    vec![parts, KernelLaunch::new("pixel_losses", "pixel_losses", to.shape.n(), args)]
}

/// The gradient by sr.
fn grad(call: &CudaCall) -> Vec<KernelLaunch> {
    let [sr, hr, d] = [call.inputs[0], call.inputs[1], call.inputs[2]];
    let [per_row_pair, per_column_pair] = per_pair(sr.shape.n(), sr.shape);
    let args = Args::new()
        .input("sr", sr)
        .input("hr", hr)
        .input("d", d)
        .output("to", call.output)
        .factor("per_value", (1.0 / sr.shape.len() as f64) as f32)
        .factor("per_pixel", (1.0 / sr.shape.pixels() as f64) as f32)
        .factor("per_row_pair", per_row_pair as f32)
        .factor("per_column_pair", per_column_pair as f32)
        .fixed("V", vector_of(&[sr, hr, call.output]));
    vec![KernelLaunch::over("pixel_losses", "pixel_losses_grad", sr.shape.pixels(), args)]
}

impl CudaKernel for PixelLosses {
    fn scratch(&self, inputs: &[Shape], _output: Shape) -> usize {
        scratch(inputs[0])
    }
    fn launches(&self, call: &CudaCall) -> Vec<KernelLaunch> {
        components([call.inputs[0], call.inputs[1]], self.max_val, call.scratch, call.output)
    }
}

impl CudaKernel for PixelLossesGrad {
    fn launches(&self, call: &CudaCall) -> Vec<KernelLaunch> {
        grad(call)
    }
}
