//! The metrics of a validation, image by image: those of [`PixelLosses`](super::pixel_losses::PixelLosses)
//! and [`Ssim`] with each image as a batch of its own. The PSNR of equal images is infinite.

use super::flat::no_derivative;
use super::pixel_losses::{COMPONENTS, image_sums, reference_sums};
use super::ssim::Ssim;
use super::{pixel_losses, ssim};
use crate::Result;
use crate::device::cpu::Ctx;
use crate::device::cuda::{CudaCall, DeviceView, KernelLaunch};
use crate::graph::{Application, CpuKernel, CudaKernel, Exec, Kernel, KernelCall, Op, Tape, Tensor64, Value};
use crate::types::Shape;

/// Metrics of one image, in the order of the output's channels.
pub const NAMES: [&str; 5] = ["l1", "sam", "tv", "psnr", "ssim"];

/// l1, sam, tv, psnr and ssim of each image, (N,1,1,5), from `sr` and `hr` (N,H,W,C).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ImageMetrics {
    /// Largest value of an image.
    pub max_val: f32,
    /// Taps of SSIM's window.
    pub ssim_win: usize,
}

impl ImageMetrics {
    fn ssim(&self) -> Ssim {
        Ssim { window: self.ssim_win, max_val: self.max_val }
    }
}

impl Op for ImageMetrics {
    fn name(&self) -> &'static str {
        "image_metrics"
    }
    fn shape(&self, inputs: &[Shape]) -> Result<Shape, String> {
        let shape = self.ssim().check(inputs)?;
        Ok(Shape([shape.n(), 1, 1, NAMES.len()]))
    }
    fn vjp(&self, tape: &mut Tape, at: &Application, _d_output: Value) -> Result<Vec<Option<Value>>> {
        Err(no_derivative(tape, at, self.name()))
    }
    fn reference(&self, inputs: &[&Tensor64], output: Shape) -> Tensor64 {
        let (sr, hr, max_val) = (inputs[0], inputs[1], f64::from(self.max_val));
        let similarity = self.ssim().reference_means(sr, hr);
        let image = |n: usize| reference_sums(sr, hr, max_val, n..n + 1).components(1, sr.shape, max_val);
        let data = (0..output.n()).flat_map(|n| image(n).into_iter().chain([similarity[n]]));
        Tensor64::new(output, data.collect())
    }
    fn exec(&self) -> Exec<'_> {
        Exec::Kernel(Kernel::of(self))
    }
}

impl CpuKernel for ImageMetrics {
    fn scratch(&self, inputs: &[Shape], _output: Shape, threads: usize) -> usize {
        self.ssim().scratch(inputs[0], threads)
    }
    fn run(&self, ctx: &Ctx, mut call: KernelCall) {
        let (sr, hr) = (call.inputs[0], call.inputs[1]);
        let similarity = self.ssim().image_means(ctx, [&sr, &hr], call.scratch);
        for (n, sums) in image_sums(ctx, &sr, &hr, self.max_val).iter().enumerate() {
            let components = sums.components(1, sr.shape(), f64::from(self.max_val));
            let output = call.output.pixel_mut(n);
            output[..COMPONENTS].iter_mut().zip(components).for_each(|(o, v)| *o = v as f32);
            output[COMPONENTS] = similarity[n] as f32;
        }
    }
}

impl CudaKernel for ImageMetrics {
    fn scratch(&self, inputs: &[Shape], _output: Shape) -> usize {
        pixel_losses::cuda::scratch(inputs[0]) + ssim::cuda::scratch(inputs[0])
    }
    fn launches(&self, call: &CudaCall) -> Vec<KernelLaunch> {
        let (images, to) = ([call.inputs[0], call.inputs[1]], call.output);
        let mut launches = pixel_losses::cuda::components(images, self.max_val, call.scratch, to);
        let sums = call.scratch.offset_by(4 * pixel_losses::cuda::scratch(images[0].shape));
        let shape = Shape([to.shape.n(), 1, 1, 1]);
        let similarity = DeviceView { ptr: to.ptr.offset_by(4 * COMPONENTS), shape, ..to };
        launches.extend(ssim::cuda::means(&self.ssim(), images, sums, similarity));
        launches
    }
}

#[cfg(test)]
pub(super) fn cases() -> Vec<super::Case> {
    use super::Case;
    let case =
        |max_val, ssim_win, shape| Case::new(ImageMetrics { max_val, ssim_win }, &[shape, shape]).without_gradient();
    vec![case(1.0, 11, [3, 9, 13, 4]), case(0.9, 3, [2, 17, 5, 1])]
}
