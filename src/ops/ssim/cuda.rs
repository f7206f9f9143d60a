//! Launches of `kernels/ssim.cu`.

use super::{EPS, SIGMA, Ssim};
use crate::device::cuda::driver::DevicePtr;
use crate::device::cuda::{Args, CudaCall, DeviceView, KernelLaunch};
use crate::graph::CudaKernel;
use crate::ops::sum_to::cuda::sum_rows;
use crate::types::Shape;

/// Rows and columns of a block's results, as in the kernel.
const TILE: usize = 32;
/// Taps farther from the centre weigh less than 1e-9 of it, which f32 sums do not show.
const REACH: f64 = 10.0;

/// Blocks for an image, across and down.
fn tiles(shape: Shape) -> [usize; 2] {
    [shape.w().div_ceil(TILE), shape.h().div_ceil(TILE)]
}

/// Floats of scratch memory of [`means`].
pub(in crate::ops) fn scratch(shape: Shape) -> usize {
    shape.n() * tiles(shape)[0] * tiles(shape)[1]
}

/// The window's taps that count: how many the kernel leaves out before them, and how many they are.
fn taps(ssim: &Ssim) -> (usize, usize) {
    let centre = (ssim.window as f64 - 1.0) / 2.0;
    let skipped = (0..ssim.window).take_while(|t| centre - *t as f64 > REACH).count();
    (skipped, ssim.window - 2 * skipped)
}

/// Mean similarity of equal shares of the images, one share for each row of `to`.
pub(in crate::ops) fn means(
    ssim: &Ssim,
    [x, y]: [DeviceView; 2],
    sums: DevicePtr,
    to: DeviceView,
) -> Vec<KernelLaunch> {
    let (skipped, taps) = taps(ssim);
    let first = skipped as f64 - (ssim.window as f64 - 1.0) / 2.0;
    let weight = |i: usize| (-(first + i as f64).powi(2) / (2.0 * SIGMA * SIGMA)).exp();
    let [c1, c2] = ssim.constants();
    let args = Args::new()
        .input("x", x)
        .input("y", y)
        .pointer("sums", "float", sums)
        .size("taps", taps)
        .size("before", ssim.before() - skipped)
        .factor("first_tap", first as f32)
        .factor("spread", (2.0 * SIGMA * SIGMA) as f32)
        .factor("weight_sum", (0..taps).map(weight).sum::<f64>() as f32)
        .factor("max_val", ssim.max_val)
        .factor("c1", c1 as f32)
        .factor("c2", c2 as f32)
        .factor("eps", EPS as f32);
    let side = TILE + taps - 1;
    let floats = 2 * side * side + 4 * TILE * (side | 1) + taps;
    let [across, down] = tiles(x.shape);
    let launch = KernelLaunch::new("ssim", "ssim", 1, args).with_grid([across, down, x.shape.n()]);
    let tile_sums = DeviceView::floats(sums, Shape([scratch(x.shape), 1, 1, 1]));
    let count = x.shape.len() / to.shape.n();
    vec![KernelLaunch { shared_bytes: floats * 4, ..launch }, sum_rows(tile_sums, count, to)]
}

impl CudaKernel for Ssim {
    fn scratch(&self, inputs: &[Shape], _output: Shape) -> usize {
        scratch(inputs[0])
    }
    fn launches(&self, call: &CudaCall) -> Vec<KernelLaunch> {
        means(self, [call.inputs[0], call.inputs[1]], call.scratch, call.output)
    }
}
