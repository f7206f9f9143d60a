//! Bicubic resizing, as PyTorch's `interpolate(mode="bicubic", align_corners=False)` with and without
//! antialiasing: rows first, then columns, with the weights of `resize_taps`. Images are data here, so
//! there is no derivative.

use super::resize_taps::{ResizeTaps, resize_taps};
use crate::device::cpu::{Ctx, View};
use crate::device::cuda::{Args, CudaCall, DeviceView, KernelLaunch};
use crate::graph::{Application, CpuKernel, CudaKernel, Exec, Kernel, KernelCall, Op, Tape, Tensor64, Value};
use crate::types::Shape;
use crate::{Error, Result, simd_fn};

/// (N, H, W, C) to (N, height, width, C).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resize {
    /// Output rows.
    pub height: usize,
    /// Output columns.
    pub width: usize,
    /// Stretch the kernel when reducing, so that nothing aliases.
    pub antialias: bool,
}

impl Op for Resize {
    fn name(&self) -> &'static str {
        "resize"
    }
    fn shape(&self, inputs: &[Shape]) -> Result<Shape, String> {
        let [n, h, w, c] = inputs[0].0;
        if h * w == 0 || self.height * self.width == 0 {
            return Err(format!("{h}x{w} cannot be resized to {}x{}", self.height, self.width));
        }
        Ok(Shape([n, self.height, self.width, c]))
    }
    fn vjp(&self, _tape: &mut Tape, _at: &Application, _d_output: Value) -> Result<Vec<Option<Value>>> {
        Err(Error::Internal("resize has no derivative: it makes input data".into()))
    }
    fn reference(&self, inputs: &[&Tensor64], output: Shape) -> Tensor64 {
        let [_, h, w, _] = inputs[0].shape.0;
        let (rows, columns) = self.taps(h, w);
        Tensor64::from_fn(output, |[n, y, x, c]| {
            let mut sum = 0.0;
            for (i, wy) in window(&rows, y) {
                for (j, wx) in window(&columns, x) {
                    sum += f64::from(wy) * f64::from(wx) * inputs[0].at([n, i, j, c]);
                }
            }
            sum
        })
    }
    fn exec(&self) -> Exec<'_> {
        Exec::Kernel(Kernel::of(self))
    }
}

impl Resize {
    fn taps(&self, h: usize, w: usize) -> (ResizeTaps, ResizeTaps) {
        (resize_taps(h, self.height, self.antialias), resize_taps(w, self.width, self.antialias))
    }
}

/// Inputs and weights of output `i`.
fn window(taps: &ResizeTaps, i: usize) -> impl Iterator<Item = (usize, f32)> + '_ {
    (taps.start[i]..).zip(taps.weights[i * taps.taps..(i + 1) * taps.taps].iter().copied())
}

impl CpuKernel for Resize {
    /// A combined row of the input for each thread.
    fn scratch(&self, inputs: &[Shape], _output: Shape, threads: usize) -> usize {
        threads * inputs[0].w() * inputs[0].c()
    }
    fn run(&self, ctx: &Ctx, call: KernelCall) {
        let (input, output) = (call.inputs[0], call.output);
        let (rows, columns) = self.taps(input.h(), input.w());
        let len = input.w() * input.c();
        ctx.pool.run_with_scratch(output.n() * output.h(), call.scratch, len, &|row, combined| {
            let (n, y) = (row / output.h(), row % output.h());
            combined.fill(0.0);
            for (i, weight) in window(&rows, y) {
                add_row(ctx.isa, &input, n * input.h() + i, weight, combined);
            }
            for x in 0..output.w() {
                // SAFETY: rows of the output are disjoint between items.
                let target = unsafe { output.pixel(row * output.w() + x) };
                target.fill(0.0);
                for (j, weight) in window(&columns, x) {
                    let source = &combined[j * input.c()..(j + 1) * input.c()];
                    target.iter_mut().zip(source).for_each(|(t, s)| *t += weight * s);
                }
            }
        });
    }
}

impl CudaKernel for Resize {
    /// The input with the output's rows.
    fn scratch(&self, inputs: &[Shape], _output: Shape) -> usize {
        let [n, _, w, c] = inputs[0].0;
        n * self.height * w * c
    }
    fn launches(&self, call: &CudaCall) -> Vec<KernelLaunch> {
        let (input, output) = (call.inputs[0], call.output);
        let [n, h, w, c] = input.shape.0;
        let between = DeviceView::floats(call.scratch, Shape([n, self.height, w, c]));
        let aligned = c.is_multiple_of(4) && input.has_vectors() && output.has_vectors();
        let vector = if aligned { 4 } else { 1 };
        let axis = |from: DeviceView, to: DeviceView, (in_len, out_len): (usize, usize), rows: bool| {
            let scale = in_len as f32 / out_len as f32;
            let args = Args::new().input("x", from).output("output", to).fixed("V", vector).factor("scale", scale);
            let args = args.fixed("ALONG_ROWS", usize::from(rows)).fixed("ANTIALIAS", usize::from(self.antialias));
            KernelLaunch::over("resize", "resize_axis", to.shape.len() / vector, args)
        };
        vec![axis(input, between, (h, self.height), true), axis(between, output, (w, self.width), false)]
    }
}

simd_fn! {
    fn add_row(input: &View, row: usize, weight: f32, sums: &mut [f32]) {
        for (x, sums) in sums.chunks_exact_mut(input.c()).enumerate() {
            let source = input.pixel(row * input.w() + x);
            sums.iter_mut().zip(source).for_each(|(t, s)| *t += weight * s);
        }
    }
}

#[cfg(test)]
pub(super) fn cases() -> Vec<super::Case> {
    use super::Case;
    let case =
        |height, width, antialias, shape| Case::new(Resize { height, width, antialias }, &[shape]).without_gradient();
    let small = [2, 8, 9, 4];
    vec![
        case(2, 3, false, small),
        case(2, 3, true, small),
        case(11, 9, false, small),
        case(1, 1, true, small),
        case(7, 12, true, [1, 28, 33, 3]),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_constant_image_stays_constant() {
        let flat = Tensor64::new(Shape([1, 8, 8, 1]), vec![0.7; 64]);
        let out = Resize { height: 2, width: 2, antialias: true }.reference(&[&flat], Shape([1, 2, 2, 1]));
        assert!(out.data.iter().all(|v| (v - 0.7).abs() < 1e-6));
    }
}
