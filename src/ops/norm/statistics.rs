//! Mean, invstd and biased variance of each channel over groups of pixels.

use std::ops::Range;

use super::EPS;
use super::reduce::{Blocks, LANES};
use crate::device::cpu::{Ctx, View};
use crate::device::cuda::{Args, CudaCall, KernelLaunch};
use crate::graph::{Application, CpuKernel, CudaKernel, Exec, Kernel, KernelCall, Op, Rounding, Tape, Tensor64, Value};
use crate::ops::sum_to::cuda::{Columns, vector_of};
use crate::types::Shape;
use crate::{Result, simd_fn};

/// Which pixels share statistics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    /// All pixels of all images: batch normalisation.
    Batch,
    /// The pixels of one image: instance normalisation.
    Image,
}

/// (N,H,W,C) to (G,1,1,3C): mean, invstd, biased variance, G = 1 or N. No gradient flows through the result;
/// see the [module's page](super).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Statistics {
    /// Which pixels share statistics.
    pub over: Over,
}

impl Statistics {
    fn groups(&self, x: Shape) -> usize {
        match self.over {
            Over::Batch => 1,
            Over::Image => x.n(),
        }
    }
}

impl Op for Statistics {
    fn name(&self) -> &'static str {
        "norm_statistics"
    }
    fn shape(&self, inputs: &[Shape]) -> Result<Shape, String> {
        let x = inputs[0];
        let groups = self.groups(x);
        if super::group_pixels(x, groups) < 2 {
            let more = if self.over == Over::Batch { "a larger batch or image" } else { "larger images" };
            return Err(format!("{x} has one value per channel, whose variance is zero; training needs {more}"));
        }
        Ok(Shape([groups, 1, 1, 3 * x.c()]))
    }
    fn vjp(&self, _tape: &mut Tape, _at: &Application, _d_output: Value) -> Result<Vec<Option<Value>>> {
        Ok(vec![None])
    }
    fn reference(&self, inputs: &[&Tensor64], output: Shape) -> Tensor64 {
        let x = inputs[0];
        let count = super::group_pixels(x.shape, output.n()) as f64;
        let c = x.shape.c();
        let mut out = Tensor64::zeros(output);
        let group = |at: [usize; 4]| if output.n() == 1 { 0 } else { at[0] };
        Tensor64::from_fn(x.shape, |at| {
            out.data[group(at) * 3 * c + at[3]] += x.at(at) / count;
            0.0
        });
        Tensor64::from_fn(x.shape, |at| {
            let row = group(at) * 3 * c;
            out.data[row + 2 * c + at[3]] += (x.at(at) - out.data[row + at[3]]).powi(2) / count;
            0.0
        });
        for row in out.data.chunks_exact_mut(3 * c) {
            for k in 0..c {
                row[c + k] = 1.0 / (row[2 * c + k] + EPS).sqrt();
            }
        }
        out
    }
    fn exec(&self) -> Exec<'_> {
        Exec::Kernel(Kernel::of(self))
    }
    fn rounding(&self) -> Rounding {
        Rounding::Operands
    }
}

impl CpuKernel for Statistics {
    fn scratch(&self, inputs: &[Shape], _output: Shape, _threads: usize) -> usize {
        Blocks::new(inputs[0], self.groups(inputs[0])).scratch(3)
    }
    fn run(&self, ctx: &Ctx, call: KernelCall) {
        let (x, out) = (call.inputs[0], call.output);
        let blocks = Blocks::new(x.shape(), self.groups(x.shape()));
        let channels = x.c();
        let block = |first: usize, count: usize, sums: &mut [f32]| moments(ctx.isa, &x, first, count, sums);
        let finish = |g: usize, at: Range<usize>, rows: &[f32]| {
            // SAFETY: these channels of group `g` belong to this item alone.
            let mut to = [0, 1, 2].map(|k| unsafe { out.channels(g, k * channels + at.start..k * channels + at.end) });
            for (i, c) in at.enumerate() {
                let (mean, var) = combine(&blocks, rows, c);
                let inv = 1.0 / (var + EPS).sqrt();
                to.iter_mut().zip([mean, inv, var]).for_each(|(to, v)| to[i] = v as f32);
            }
        };
        blocks.run(ctx, call.scratch, 3, &block, &finish);
    }
}

impl CudaKernel for Statistics {
    fn scratch(&self, inputs: &[Shape], output: Shape) -> usize {
        Columns::new(inputs[0], output.n()).scratch(3)
    }
    fn launches(&self, call: &CudaCall) -> Vec<KernelLaunch> {
        let x = call.inputs[0];
        let columns = Columns::new(x.shape, self.groups(x.shape));
        let vector = vector_of(&[x]);
        let args = columns.args(vector).input("x", x);
        let parts = columns.partials(("norm", "norm_statistics_parts"), (vector, args), call.scratch, 3);
        let args = |args: Args| args.factor("eps", EPS as f32);
        vec![parts, columns.finish(("norm", "norm_statistics"), args, call.scratch, call.output)]
    }
}

/// Mean and biased variance of channel `c` from each block's (m, Σ(x − m), Σ(x − m)²), where m is close to the
/// block's mean.
fn combine(blocks: &Blocks, rows: &[f32], c: usize) -> (f64, f64) {
    let channels = blocks.channels;
    let part = |b: usize, k: usize| f64::from(rows[(b * 3 + k) * channels + c]);
    let count = blocks.group as f64;
    let sum: f64 = (0..blocks.per_group()).map(|b| blocks.len(b) as f64 * part(b, 0) + part(b, 1)).sum();
    let mean = sum / count;
    let squares: f64 = (0..blocks.per_group())
        .map(|b| {
            let off = part(b, 0) - mean;
            part(b, 2) + off * (2.0 * part(b, 1) + blocks.len(b) as f64 * off)
        })
        .sum();
    // Rounding may leave a tiny negative number; a NaN stays one.
    (mean, if squares < 0.0 { 0.0 } else { squares / count })
}

simd_fn! {
    /// For each channel of `count` pixels: m ≈ mean, Σ(x − m), Σ(x − m)². Sums of differences keep their
    /// digits where the mean is large against the deviation.
    fn moments(x: &View, first: usize, count: usize, sums: &mut [f32]) {
        for c0 in (0..x.c()).step_by(LANES) {
            if c0 + LANES <= x.c() {
                moments_of(x, first, count, c0, LANES, sums);
            } else {
                moments_of(x, first, count, c0, x.c() - c0, sums);
            }
        }
    }
}

/// [`moments`] of the channels `c0 .. c0 + len`.
#[inline(always)]
fn moments_of(x: &View, first: usize, count: usize, c0: usize, len: usize, sums: &mut [f32]) {
    let pixel = |p: usize| &x.pixel(first + p)[c0..c0 + len];
    let (mut m, mut sum, mut squares) = ([0f32; LANES], [0f32; LANES], [0f32; LANES]);
    m[..len].copy_from_slice(pixel(0));
    for p in 0..count {
        let v = pixel(p);
        for l in 0..len {
            sum[l] += v[l] - m[l];
        }
    }
    for l in 0..len {
        m[l] += sum[l] / count as f32;
        sum[l] = 0.0;
    }
    for p in 0..count {
        let v = pixel(p);
        for l in 0..len {
            let d = v[l] - m[l];
            sum[l] += d;
            squares[l] += d * d;
        }
    }
    for (k, values) in [m, sum, squares].iter().enumerate() {
        sums[k * x.c() + c0..][..len].copy_from_slice(&values[..len]);
    }
}
