//! The distance of one layer of LPIPS (Zhang et al., "The unreasonable effectiveness of deep features as a perceptual
//! metric", CVPR 2018, eq. 1) as the package `lpips` 0.1.4 computes it, for each image of a batch:
//!
//! `output = mean over pixels of Σ_c weight_c · (a_c / (‖a‖ + ε) − b_c / (‖b‖ + ε))²`
//!
//! with the norms over the channels of a pixel and ε = 1e-10. The distance and the gradient of equal features are
//! exactly 0.
//!
//! Where all channels of a pixel of `a` are 0, as they may be behind a ReLU, the norm has no derivative; the gradient
//! is 0 there. PyTorch gives NaN.
//!
//! Rounding: f32 within a pixel, f64 over pixels, in a fixed order.

use super::flat::{Partials, no_derivative};
use super::math::Lanes;
use crate::device::cpu::{Ctx, View};
use crate::device::cuda::{Args, CudaCall, DeviceView, KernelLaunch, THREADS};
use crate::graph::{
    Application, CpuKernel, CudaKernel, Exec, Kernel, KernelCall, Op, Rounding, Tape, Tensor64, Value, same_shape,
};
use crate::ops::sum_to::cuda::{sum_rows, vector_of};
use crate::types::Shape;
use crate::{Result, simd_fn};

#[cfg(test)]
mod tests;

/// What `lpips.normalize_tensor` adds to norms.
const EPS: f64 = 1e-10;

/// Distances (N,1,1,1) of the features a and b (N,h,w,C) with the weights of channels (1,1,1,C). Differentiable by a
/// and b; the weights are never trained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LpipsDistance;

/// The extent of both feature maps, if they and the weights fit.
fn check(a: Shape, b: Shape, weight: Shape) -> Result<Shape, String> {
    let shape = same_shape(a, b)?;
    if shape.is_empty() {
        return Err(format!("{shape} has no pixels to compare"));
    }
    if weight != Shape::vector(shape.c()) {
        return Err(format!("weights are {weight}, not one for each of {} channels", shape.c()));
    }
    Ok(shape)
}

/// Features of a pixel over their norm plus ε, and the norm.
fn normalized(map: &Tensor64, [n, y, x]: [usize; 3]) -> (Vec<f64>, f64) {
    let features: Vec<f64> = (0..map.shape.c()).map(|c| map.data[map.index([n, y, x, c])]).collect();
    let norm = features.iter().map(|v| v * v).sum::<f64>().sqrt();
    (features.iter().map(|v| v / (norm + EPS)).collect(), norm)
}

impl Op for LpipsDistance {
    fn name(&self) -> &'static str {
        "lpips_distance"
    }
    fn shape(&self, inputs: &[Shape]) -> Result<Shape, String> {
        let shape = check(inputs[0], inputs[1], inputs[2])?;
        Ok(Shape([shape.n(), 1, 1, 1]))
    }
    fn vjp(&self, tape: &mut Tape, at: &Application, d_output: Value) -> Result<Vec<Option<Value>>> {
        if at.needs[2] {
            return Err(no_derivative(tape, at, "lpips_distance by its weights"));
        }
        let [a, b, weight] = [at.inputs[0], at.inputs[1], at.inputs[2]];
        let d_a = if at.needs[0] { Some(tape.push(LpipsDistanceGrad, &[a, b, weight, d_output])?) } else { None };
        let d_b = if at.needs[1] { Some(tape.push(LpipsDistanceGrad, &[b, a, weight, d_output])?) } else { None };
        Ok(vec![d_a, d_b, None])
    }
    fn reference(&self, inputs: &[&Tensor64], output: Shape) -> Tensor64 {
        let [_, h, w, _] = inputs[0].shape.0;
        let distance = |at: [usize; 3]| {
            let (a, b) = (normalized(inputs[0], at).0, normalized(inputs[1], at).0);
            a.iter().zip(b).zip(&inputs[2].data).map(|((a, b), weight)| weight * (a - b).powi(2)).sum::<f64>()
        };
        Tensor64::from_fn(output, |[n, ..]| {
            (0..h * w).map(|p| distance([n, p / w, p % w])).sum::<f64>() / (h * w) as f64
        })
    }
    fn exec(&self) -> Exec<'_> {
        Exec::Kernel(Kernel::of(self))
    }
    fn rounding(&self) -> Rounding {
        Rounding::Operands
    }
}

/// Pixels of `channels` channels that one item of work takes.
fn pixels_per_item(channels: usize) -> usize {
    (8192 / channels).max(1)
}

/// Blocks for an image on a CUDA device: a few pixels for each warp, and not more than fill a large GPU four times.
fn cuda_blocks(shape: Shape) -> usize {
    (shape.h() * shape.w()).div_ceil(4 * THREADS / 32).min((528 / shape.n()).max(1))
}

impl CpuKernel for LpipsDistance {
    fn run(&self, ctx: &Ctx, mut call: KernelCall) {
        let [a, b, weight] = [call.inputs[0], call.inputs[1], call.inputs[2]];
        let (pixels, each) = (a.h() * a.w(), pixels_per_item(a.c()));
        let items = pixels.div_ceil(each);
        let partials = Partials::new(a.n() * items);
        ctx.pool.run(a.n() * items, &|item, _| {
            let first = item % items * each;
            let count = each.min(pixels - first);
            partials.set(item, sum_distances(ctx.isa, &a, &b, &weight, item / items * pixels + first, count));
        });
        for n in 0..a.n() {
            let sum: f64 = (0..items).map(|i| partials.get(n * items + i)).sum();
            call.output.pixel_mut(n)[0] = (sum / pixels as f64) as f32;
        }
    }
}

impl CudaKernel for LpipsDistance {
    fn scratch(&self, inputs: &[Shape], _output: Shape) -> usize {
        inputs[0].n() * cuda_blocks(inputs[0])
    }
    fn launches(&self, call: &CudaCall) -> Vec<KernelLaunch> {
        let [a, b, weight] = [call.inputs[0], call.inputs[1], call.inputs[2]];
        let blocks = cuda_blocks(a.shape);
        let args = operands([a, b, weight], vector_of(&[a, b, weight])).pointer("sums", "float", call.scratch);
        let parts = KernelLaunch::new("lpips_distance", "lpips_distance", 1, args);
        let sums = DeviceView::floats(call.scratch, Shape([a.shape.n() * blocks, 1, 1, 1]));
        let mean = sum_rows(sums, a.shape.h() * a.shape.w(), call.output);
        vec![parts.with_grid([blocks, a.shape.n(), 1]), mean]
    }
}

fn operands([a, b, weight]: [DeviceView; 3], vector: usize) -> Args {
    let args = Args::new().input("a", a).input("b", b).input("weight", weight);
    args.factor("eps", EPS as f32).fixed("V", vector)
}

#[inline(always)]
fn norm(features: &[f32]) -> f32 {
    let mut squares = Lanes::default();
    squares.add2(features, features, |x, y| x * y);
    squares.total().sqrt()
}

simd_fn! {
    /// The sum of the distances of `count` pixels from `first` on.
    fn sum_distances(a: &View, b: &View, weight: &View, first: usize, count: usize) -> f64 {
        let mut total = 0.0;
        for p in first..first + count {
            let (a, b, weight) = (a.pixel(p), b.pixel(p), weight.pixel(0));
            let [scale_a, scale_b] = [a, b].map(|features| 1.0 / (norm(features) + EPS as f32));
            let mut sum = Lanes::default();
            sum.add3(a, b, weight, |a, b, weight| {
                let difference = a * scale_a - b * scale_b;
                weight * difference * difference
            });
            total += f64::from(sum.total());
        }
        total
    }
}

/// The gradient of ⟨distances, `d_output`⟩ by `a`, from a, b, weight and `d_output` (N,1,1,1); that by `b` is the same
/// with a and b exchanged. With s = 1/(‖a‖ + ε), t_c = weight_c·(difference of c) and k = 2·`d_output`/(h·w) it is
/// k·s·(t − ⟨t, s·a⟩·a/‖a‖). Training differentiates it no further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LpipsDistanceGrad;

impl Op for LpipsDistanceGrad {
    fn name(&self) -> &'static str {
        "lpips_distance_grad"
    }
    fn shape(&self, inputs: &[Shape]) -> Result<Shape, String> {
        let shape = check(inputs[0], inputs[1], inputs[2])?;
        if inputs[3] != Shape([shape.n(), 1, 1, 1]) {
            return Err(format!("d_output is {}, not one number for each of {} images", inputs[3], shape.n()));
        }
        Ok(shape)
    }
    fn vjp(&self, tape: &mut Tape, at: &Application, _d_output: Value) -> Result<Vec<Option<Value>>> {
        Err(no_derivative(tape, at, self.name()))
    }
    fn reference(&self, inputs: &[&Tensor64], output: Shape) -> Tensor64 {
        let [_, h, w, _] = output.0;
        let mut out = Tensor64::zeros(output);
        for [n, y, x] in (0..output.pixels()).map(|p| [p / w / h, p / w % h, p % w]) {
            let at = [n, y, x];
            let ((a, norm), (b, _)) = (normalized(inputs[0], at), normalized(inputs[1], at));
            if norm == 0.0 {
                continue;
            }
            let terms = a.iter().zip(&b).zip(&inputs[2].data);
            let t: Vec<f64> = terms.map(|((a, b), weight)| weight * (a - b)).collect();
            let product: f64 = t.iter().zip(&a).map(|(t, a)| t * a).sum();
            let factor = 2.0 * inputs[3].at([n, 0, 0, 0]) / (h * w) as f64 / (norm + EPS);
            for (c, t) in t.into_iter().enumerate() {
                let i = out.index([n, y, x, c]);
                out.data[i] = factor * (t - product * inputs[0].data[i] / norm);
            }
        }
        out
    }
    fn exec(&self) -> Exec<'_> {
        Exec::Kernel(Kernel::of(self))
    }
    fn rounding(&self) -> Rounding {
        Rounding::Follows
    }
}

impl CpuKernel for LpipsDistanceGrad {
    fn run(&self, ctx: &Ctx, call: KernelCall) {
        let [a, b, weight] = [call.inputs[0], call.inputs[1], call.inputs[2]];
        let (d_output, output) = (call.inputs[3], call.output);
        let (pixels, each) = (a.pixels(), pixels_per_item(a.c()));
        ctx.pool.run(pixels.div_ceil(each), &|item, _| {
            for p in item * each..pixels.min((item + 1) * each) {
                let d_output = d_output.pixel(p / (a.h() * a.w()))[0];
                let factor = (2.0 * f64::from(d_output) / (a.h() * a.w()) as f64) as f32;
                // SAFETY: each pixel is written by one item.
                grad_of_pixel(ctx.isa, [&a, &b, &weight], p, factor, unsafe { output.pixel(p) });
            }
        });
    }
}

impl CudaKernel for LpipsDistanceGrad {
    fn launches(&self, call: &CudaCall) -> Vec<KernelLaunch> {
        let [a, b, weight] = [call.inputs[0], call.inputs[1], call.inputs[2]];
        let pixels = a.shape.pixels();
        let args = operands([a, b, weight], vector_of(&[a, b, weight, call.output]))
            .input("d", call.inputs[3])
            .output("to", call.output)
            .factor("factor", (2.0 / (a.shape.h() * a.shape.w()) as f64) as f32)
            .size("pixels", pixels);
        vec![KernelLaunch::new("lpips_distance", "lpips_distance_grad", pixels.div_ceil(THREADS / 32), args)]
    }
}

simd_fn! {
    /// The gradient of pixel `p`.
    fn grad_of_pixel(maps: [&View; 3], p: usize, factor: f32, to: &mut [f32]) {
        let [a, b, weight] = maps;
        let (a, b, weight) = (a.pixel(p), b.pixel(p), weight.pixel(0));
        let norm_a = norm(a);
        if norm_a == 0.0 {
            to.fill(0.0);
            return;
        }
        let [scale_a, scale_b] = [norm_a, norm(b)].map(|norm| 1.0 / (norm + EPS as f32));
        let mut product = Lanes::default();
        product.add3(a, b, weight, |a, b, weight| weight * (a * scale_a - b * scale_b) * (a * scale_a));
        let (along, factor) = (product.total() / norm_a, factor * scale_a);
        for (((to, a), b), weight) in to.iter_mut().zip(a).zip(b).zip(weight) {
            *to = factor * (weight * (a * scale_a - b * scale_b) - along * a);
        }
    }
}

#[cfg(test)]
pub(super) use self::tests::{cases, cases_of};
