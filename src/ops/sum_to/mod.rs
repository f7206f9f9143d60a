//! Sums over the extents that a smaller shape repeats: `output[k] = Σ a` or `Σ a·b` over all positions that
//! `k` is repeated to; and its adjoint, [`Expand`]. Bias gradients, means, channel attention.
//!
//! Rounding: f32 over a fixed block of pixels, f64 over blocks, in a fixed order, so the result does not
//! depend on the number of threads.

use super::mul::{Mul, Scale};
use crate::device::cpu::{Ctx, View, ViewMut};
use crate::graph::{Application, CpuKernel, Exec, Kernel, KernelCall, Op, Rounding, Tape, Tensor64, Value};
use crate::types::Shape;
use crate::{Result, simd_fn};

pub(super) mod cuda;

/// Σ of `v` over what `target` repeats; `v` itself if nothing is repeated.
///
/// # Errors
/// Fails if `target` does not repeat to the extent of `v`.
pub fn sum_to(tape: &mut Tape, v: Value, target: Shape) -> Result<Value> {
    if tape.shape(v) == target { Ok(v) } else { tape.push(SumTo { target }, &[v]) }
}

/// Σ of `a·b` over what `target` repeats; `a·b` itself if nothing is repeated.
///
/// # Errors
/// Fails if the extents do not fit.
pub fn sum_product_to(tape: &mut Tape, a: Value, b: Value, target: Shape) -> Result<Value> {
    if tape.shape(a) == target { tape.push(Mul, &[a, b]) } else { tape.push(SumTo { target }, &[a, b]) }
}

/// Mean of all elements of `v`, a scalar.
///
/// # Errors
/// Never fails for a value of this tape.
pub fn mean(tape: &mut Tape, v: Value) -> Result<Value> {
    let count = tape.shape(v).len();
    let sum = sum_to(tape, v, Shape::SCALAR)?;
    tape.push(Scale::by(1.0 / count as f32), &[sum])
}

/// The sum of one tensor, or of the product of two of equal extent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SumTo {
    /// Extent of the output.
    pub target: Shape,
}

impl Op for SumTo {
    fn name(&self) -> &'static str {
        "sum_to"
    }
    fn shape(&self, inputs: &[Shape]) -> Result<Shape, String> {
        if !self.target.broadcasts_to(&inputs[0]) || inputs.iter().any(|s| *s != inputs[0]) {
            return Err(format!("cannot sum {inputs:?} to {}", self.target));
        }
        Ok(self.target)
    }
    fn vjp(&self, tape: &mut Tape, at: &Application, d_output: Value) -> Result<Vec<Option<Value>>> {
        let full = tape.shape(at.inputs[0]);
        if let [a, b] = at.inputs[..] {
            let d_a = if at.needs[0] { Some(tape.push(Mul, &[b, d_output])?) } else { None };
            let d_b = if at.needs[1] { Some(tape.push(Mul, &[a, d_output])?) } else { None };
            return Ok(vec![d_a, d_b]);
        }
        Ok(vec![Some(tape.push(Expand { target: full }, &[d_output])?)])
    }
    fn reference(&self, inputs: &[&Tensor64], output: Shape) -> Tensor64 {
        let mut sum = Tensor64::zeros(output);
        let full = inputs[0].shape;
        Tensor64::from_fn(full, |at| {
            let i = sum.index(at);
            sum.data[i] += inputs.iter().map(|t| t.at(at)).product::<f64>();
            0.0
        });
        sum
    }
    fn exec(&self) -> Exec<'_> {
        Exec::Kernel(Kernel::of(self))
    }
    fn rounding(&self) -> Rounding {
        Rounding::Operands
    }
}

impl SumTo {
    /// Whether the sum of `x` has a value for every pixel of an image.
    fn keeps_pixels(&self, x: Shape) -> bool {
        self.target.h() * self.target.w() != 1 && x.h() * x.w() != 1
    }
}

/// How positions are cut into blocks, each summed in f32 before f64 takes over.
struct Blocks {
    /// Sums over pixels that do not mix: images if the target keeps them.
    groups: usize,
    /// Pixels of a group, and of a block.
    pixels: usize,
    block: usize,
    /// Sums of a block: its channels, or one of everything.
    width: usize,
}

impl Blocks {
    fn new(s: Shape, target: Shape) -> Blocks {
        let groups = if target.n() == s.n() { s.n() } else { 1 };
        let width = if target.c() == s.c() { s.c() } else { 1 };
        let least = if width == s.c() { 16 } else { 1 };
        Blocks { groups, pixels: s.n() * s.h() * s.w() / groups, block: (4096 / s.c()).max(least), width }
    }

    fn per_group(&self) -> usize {
        self.pixels.div_ceil(self.block)
    }

    fn partials(&self) -> usize {
        self.groups * self.per_group() * self.width
    }
}

impl CpuKernel for SumTo {
    fn scratch(&self, inputs: &[Shape], _output: Shape, _threads: usize) -> usize {
        Blocks::new(inputs[0], self.target).partials()
    }
    fn run(&self, ctx: &Ctx, mut call: KernelCall) {
        let a = call.inputs[0];
        let b = call.inputs.get(1).copied();
        if self.keeps_pixels(a.shape()) {
            return sum_to_pixels(&a, b.as_ref(), &mut call.output);
        }
        let cut = Blocks::new(a.shape(), self.target);
        let (per_group, width) = (cut.per_group(), cut.width);
        let partials = &mut call.scratch[..cut.partials()];
        ctx.pool.run_parts(partials, width, &|item, out| {
            let from = item % per_group * cut.block;
            let (first, count) = (item / per_group * cut.pixels + from, cut.block.min(cut.pixels - from));
            if width == a.c() {
                sum_block(ctx.isa, &a, b.as_ref(), first, count, out);
            } else {
                out[0] = sum_all(ctx.isa, &a, b.as_ref(), first, count);
            }
        });
        let mut sums = vec![0f64; cut.groups * width];
        for (item, part) in partials.chunks_exact(width).enumerate() {
            let sums = &mut sums[item / per_group * width..][..width];
            sums.iter_mut().zip(part).for_each(|(sum, v)| *sum += f64::from(*v));
        }
        for (p, sums) in sums.chunks_exact(width).enumerate() {
            call.output.pixel_mut(p).iter_mut().zip(sums).for_each(|(to, v)| *to = *v as f32);
        }
    }
}

/// The rare sums that keep pixels: value by value.
fn sum_to_pixels(a: &View, b: Option<&View>, out: &mut ViewMut) {
    let repeated = |to: usize, from: usize, i: usize| if to == 1 { 0..from } else { i..i + 1 };
    for i in 0..out.n() * out.h() * out.w() * out.c() {
        let (p, k) = (i / out.c(), i % out.c());
        let (n, y, x) = (p / out.w() / out.h(), p / out.w() % out.h(), p % out.w());
        let mut sum = 0f64;
        for (n, y) in repeated(out.n(), a.n(), n).flat_map(|n| repeated(out.h(), a.h(), y).map(move |y| (n, y))) {
            for (x, c) in repeated(out.w(), a.w(), x).flat_map(|x| repeated(out.c(), a.c(), k).map(move |c| (x, c))) {
                let p = (n * a.h() + y) * a.w() + x;
                sum += f64::from(a.pixel(p)[c] * b.map_or(1.0, |b| b.pixel(p)[c]));
            }
        }
        out.pixel_mut(p)[k] = sum as f32;
    }
}

simd_fn! {
    fn sum_block(a: &View, b: Option<&View>, first: usize, count: usize, out: &mut [f32]) {
        let channels = out.len();
        let dense = a.stride() == channels && b.is_none_or(|b| b.stride() == channels);
        if dense && channels < 32 {
            return sum_narrow(a.run(first, count), b.map(|b| b.run(first, count)), out);
        }
        out.fill(0.0);
        for p in first..first + count {
            let x = &a.pixel(p)[..channels];
            match b {
                Some(b) => {
                    let y = &b.pixel(p)[..channels];
                    for c in 0..channels {
                        out[c] += x[c] * y[c];
                    }
                }
                None => out.iter_mut().zip(x).for_each(|(s, v)| *s += v),
            }
        }
    }
}

simd_fn! {
    fn sum_all(a: &View, b: Option<&View>, first: usize, count: usize) -> f32 {
        let dense = a.stride() == a.c() && b.is_none_or(|b| b.stride() == a.c());
        let (runs, len) = if dense { (1, count) } else { (count, 1) };
        let mut sum = 0.0;
        for p in first..first + runs {
            let mut part = [0.0];
            sum_narrow(a.run(p, len), b.map(|b| b.run(p, len)), &mut part);
            sum += part[0];
        }
        sum
    }
}

/// Few channels: lanes run over several pixels and are folded at the end.
#[inline(always)]
fn sum_narrow(x: &[f32], y: Option<&[f32]>, out: &mut [f32]) {
    let channels = out.len();
    let lanes = 32 / channels * channels;
    let mut acc = [0f32; 32];
    let acc = &mut acc[..lanes];
    let whole = x.len() / lanes * lanes;
    let value = |i: usize| x[i] * y.map_or(1.0, |y| y[i]);
    for start in (0..whole).step_by(lanes) {
        for (l, s) in acc.iter_mut().enumerate() {
            *s += value(start + l);
        }
    }
    for i in whole..x.len() {
        acc[i - whole] += value(i);
    }
    out.fill(0.0);
    for (l, s) in acc.iter().enumerate() {
        out[l % channels] += s;
    }
}

/// `output = a` repeated to `target`: the adjoint of [`SumTo`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Expand {
    /// Extent of the output.
    pub target: Shape,
}

impl Op for Expand {
    fn name(&self) -> &'static str {
        "expand"
    }
    fn shape(&self, inputs: &[Shape]) -> Result<Shape, String> {
        if inputs[0].broadcasts_to(&self.target) {
            Ok(self.target)
        } else {
            Err(format!("{} cannot be repeated to {}", inputs[0], self.target))
        }
    }
    fn vjp(&self, tape: &mut Tape, at: &Application, d_output: Value) -> Result<Vec<Option<Value>>> {
        let target = tape.shape(at.inputs[0]);
        Ok(vec![Some(sum_to(tape, d_output, target)?)])
    }
    fn reference(&self, inputs: &[&Tensor64], output: Shape) -> Tensor64 {
        Tensor64::from_fn(output, |at| inputs[0].at(at))
    }
    fn exec(&self) -> Exec<'_> {
        Exec::Kernel(Kernel::of(self))
    }
    fn rounding(&self) -> Rounding {
        Rounding::Follows
    }
}

impl CpuKernel for Expand {
    fn run(&self, ctx: &Ctx, call: KernelCall) {
        let (a, out) = (call.inputs[0], call.output);
        ctx.pool.run(out.n() * out.h(), &|row, _| {
            let (n, y) = (row / out.h(), row % out.h());
            let at = |extent: usize, i: usize| if extent == 1 { 0 } else { i };
            for x in 0..out.w() {
                let from = (at(a.n(), n) * a.h() + at(a.h(), y)) * a.w() + at(a.w(), x);
                // SAFETY: rows are disjoint between items.
                let (from, to) = (a.pixel(from), unsafe { out.pixel(row * out.w() + x) });
                if a.c() == 1 { to.fill(from[0]) } else { to.copy_from_slice(from) }
            }
        });
    }
}

#[cfg(test)]
pub(super) fn cases() -> Vec<super::Case> {
    use super::Case;
    let sum = |target: [usize; 4], inputs: &[[usize; 4]]| Case::new(SumTo { target: Shape(target) }, inputs);
    vec![
        sum([1, 1, 1, 5], &[[2, 3, 4, 5]]),
        sum([2, 1, 1, 5], &[[2, 3, 4, 5]]),
        sum([2, 1, 1, 1], &[[2, 3, 4, 5]]),
        sum([1, 1, 1, 1], &[[2, 3, 4, 1]]),
        sum([1, 1, 1, 1], &[[9, 1, 1, 500]]),
        sum([1, 1, 1, 1], &[[3, 5, 5, 70], [3, 5, 5, 70]]),
        sum([3, 1, 1, 1], &[[3, 1, 1, 40]]),
        sum([1, 1, 1, 40], &[[3, 12, 11, 40]]),
        sum([1, 1, 1, 5], &[[2, 3, 4, 5], [2, 3, 4, 5]]),
        sum([2, 1, 1, 3], &[[2, 30, 51, 3], [2, 30, 51, 3]]),
        // Several blocks: few channels, many, all of them.
        sum([1, 1, 1, 3], &[[2, 40, 41, 3]]).without_gradient(),
        sum([2, 1, 1, 132], &[[2, 10, 13, 132], [2, 10, 13, 132]]).without_gradient(),
        sum([1, 1, 1, 1], &[[2, 9, 31, 36]]).without_gradient(),
        // Sums that keep pixels.
        sum([2, 3, 4, 1], &[[2, 3, 4, 5]]),
        sum([1, 3, 1, 5], &[[2, 3, 4, 5], [2, 3, 4, 5]]),
        Case::new(Expand { target: Shape([2, 3, 4, 5]) }, &[[2, 1, 1, 5]]),
        Case::new(Expand { target: Shape([2, 3, 4, 8]) }, &[[2, 1, 4, 8]]),
        Case::new(Expand { target: Shape([2, 3, 4, 5]) }, &[[1, 1, 1, 1]]),
    ]
}
