//! The losses that compare images pixel by pixel, all from one pass over SR and HR (N,H,W,C):
//!
//! ```text
//! l1   = mean |sr − hr|
//! sam  = mean over pixels of the spectral angle in radians (see `spectral_angle`)
//! tv   = mean |sr[y+1] − sr[y]| + mean |sr[x+1] − sr[x]|      (0 along an extent of 1)
//! psnr = 10 log₁₀(max_val² / mean (clamp(sr) − clamp(hr))²)   with values clamped to [0, max_val]
//! ```
//!
//! Rounding: f32 within a part of a row, f64 over rows, in a fixed order.

use super::flat::{Partials, no_derivative};
use super::spectral_angle::{add_angle_grads, angle, angle_grad, sum_angles};
use crate::device::cpu::{Ctx, Isa, View};
use crate::graph::{Application, CpuKernel, Exec, Kernel, KernelCall, Op, Tape, Tensor64, Value, same_shape};
use crate::types::Shape;
use crate::{Result, simd_fn};

pub(super) mod cuda;
#[cfg(test)]
mod tests;

/// Components of [`PixelLosses`].
pub const L1: usize = 0;
/// The spectral angle.
pub const SAM: usize = 1;
/// Total variation of SR.
pub const TV: usize = 2;
/// Peak signal-to-noise ratio in dB.
pub const PSNR: usize = 3;
/// Number of components.
pub const COMPONENTS: usize = 4;

/// Sums over a part of an image.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sums {
    absolute: f64,
    angle: f64,
    vertical: f64,
    horizontal: f64,
    squared: f64,
}

impl Sums {
    const COUNT: usize = 5;

    fn store(&self, partials: &Partials, item: usize) {
        let all = [self.absolute, self.angle, self.vertical, self.horizontal, self.squared];
        all.into_iter().enumerate().for_each(|(k, v)| partials.set(item * Sums::COUNT + k, v));
    }

    /// The total of `items`, in order.
    fn load(partials: &Partials, items: std::ops::Range<usize>) -> Self {
        let total = |k: usize| items.clone().map(|i| partials.get(i * Sums::COUNT + k)).sum();
        Sums { absolute: total(0), angle: total(1), vertical: total(2), horizontal: total(3), squared: total(4) }
    }

    /// The components for `images` images of the extent of `shape`.
    pub(super) fn components(&self, images: usize, shape: Shape, max_val: f64) -> [f64; COMPONENTS] {
        let per_value = 1.0 / (images * shape.h() * shape.w() * shape.c()) as f64;
        let [per_row_pair, per_column_pair] = per_pair(images, shape);
        [
            self.absolute * per_value,
            self.angle * per_value * shape.c() as f64,
            self.vertical * per_row_pair + self.horizontal * per_column_pair,
            10.0 * (max_val * max_val / (self.squared * per_value)).log10(),
        ]
    }
}

/// 1 over the number of vertical and of horizontal neighbours; 0 if there are none.
fn per_pair(images: usize, shape: Shape) -> [f64; 2] {
    let [_, h, w, c] = shape.0;
    [(h - 1) * w, h * (w - 1)].map(|pairs| if pairs == 0 { 0.0 } else { 1.0 / (images * pairs * c) as f64 })
}

/// Rows of an image that one item of parallel work takes.
fn rows_per_item(shape: Shape) -> usize {
    (8192 / (shape.w() * shape.c())).max(1)
}

/// A row of an image without gaps; `packed` holds it where the pixels have gaps.
pub(super) fn row<'a>(view: &View<'a>, n: usize, y: usize, packed: &'a mut Vec<f32>) -> &'a [f32] {
    let first = (n * view.h() + y) * view.w();
    if view.stride() == view.c() {
        return view.run(first, view.w());
    }
    packed.clear();
    (first..first + view.w()).for_each(|p| packed.extend_from_slice(view.pixel(p)));
    packed
}

/// Sums for each image of a batch.
pub(super) fn image_sums(ctx: &Ctx, sr: &View, hr: &View, max_val: f32) -> Vec<Sums> {
    let rows = rows_per_item(sr.shape());
    let items = sr.h().div_ceil(rows);
    let partials = Partials::new(sr.n() * items * Sums::COUNT);
    ctx.pool.run(sr.n() * items, &|item, _| {
        let (n, first) = (item / items, item % items * rows);
        let (mut a_rows, mut b_row) = ([vec![], vec![]], vec![]);
        let mut sums = Sums::default();
        for y in first..sr.h().min(first + rows) {
            let [this, next] = &mut a_rows;
            let (a, b) = (row(sr, n, y, this), row(hr, n, y, &mut b_row));
            sums.absolute += sum_absolute(ctx.isa, a, b);
            sums.squared += sum_squared(ctx.isa, a, b, max_val);
            sums.angle += sum_angles(ctx.isa, a, b, sr.c());
            sums.horizontal += sum_absolute(ctx.isa, &a[sr.c()..], &a[..a.len() - sr.c()]);
            if y + 1 < sr.h() {
                sums.vertical += sum_absolute(ctx.isa, row(sr, n, y + 1, next), a);
            }
        }
        sums.store(&partials, item);
    });
    (0..sr.n()).map(|n| Sums::load(&partials, n * items..(n + 1) * items)).collect()
}

/// Σ f(a, b): f32 in 16 lanes over 4096 values, f64 over those.
#[inline(always)]
fn sum_pairs(a: &[f32], b: &[f32], f: impl Fn(f32, f32) -> f32) -> f64 {
    let mut total = 0.0;
    for (a, b) in a.chunks(4096).zip(b.chunks(4096)) {
        let mut lanes = [0f32; 16];
        let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<16>(), b.as_chunks::<16>());
        for (a, b) in a.iter().zip(b) {
            for l in 0..16 {
                lanes[l] += f(a[l], b[l]);
            }
        }
        for (l, (a, b)) in a_rest.iter().zip(b_rest).enumerate() {
            lanes[l] += f(*a, *b);
        }
        total += lanes.iter().map(|v| f64::from(*v)).sum::<f64>();
    }
    total
}

simd_fn! {
    fn sum_absolute(a: &[f32], b: &[f32]) -> f64 {
        sum_pairs(a, b, |a, b| (a - b).abs())
    }
}
simd_fn! {
    fn sum_squared(a: &[f32], b: &[f32], max_val: f32) -> f64 {
        sum_pairs(a, b, |a, b| {
            let d = a.clamp(0.0, max_val) - b.clamp(0.0, max_val);
            d * d
        })
    }
}
simd_fn! {
    /// `d += k·sign(a − b)`, with sign(0) = 0.
    fn add_sign(d: &mut [f32], a: &[f32], b: &[f32], k: f32) {
        for ((d, a), b) in d.iter_mut().zip(a).zip(b) {
            *d += if a > b { k } else if a < b { -k } else { 0.0 };
        }
    }
}

/// l1, sam, tv and psnr of a batch, (1,1,1,4), from `sr` and `hr`. Differentiable by `sr` through the first
/// three.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PixelLosses {
    /// Largest value of an image, for the PSNR; positive.
    pub max_val: f32,
}

impl Op for PixelLosses {
    fn name(&self) -> &'static str {
        "pixel_losses"
    }
    fn shape(&self, inputs: &[Shape]) -> Result<Shape, String> {
        check_images(inputs, self.max_val)?;
        Ok(Shape::vector(COMPONENTS))
    }
    fn vjp(&self, tape: &mut Tape, at: &Application, d_output: Value) -> Result<Vec<Option<Value>>> {
        if at.needs[1] {
            return Err(no_derivative(tape, at, "pixel_losses by hr"));
        }
        Ok(vec![Some(tape.push(PixelLossesGrad, &[at.inputs[0], at.inputs[1], d_output])?), None])
    }
    fn reference(&self, inputs: &[&Tensor64], output: Shape) -> Tensor64 {
        let sums = reference_sums(inputs[0], inputs[1], f64::from(self.max_val), 0..inputs[0].shape.n());
        let shape = inputs[0].shape;
        Tensor64::new(output, sums.components(shape.n(), shape, f64::from(self.max_val)).to_vec())
    }
    fn exec(&self) -> Exec<'_> {
        Exec::Kernel(Kernel::of(self))
    }
}

impl CpuKernel for PixelLosses {
    fn run(&self, ctx: &Ctx, mut call: KernelCall) {
        let (sr, hr) = (call.inputs[0], call.inputs[1]);
        let total = image_sums(ctx, &sr, &hr, self.max_val).into_iter().fold(Sums::default(), |a, b| Sums {
            absolute: a.absolute + b.absolute,
            angle: a.angle + b.angle,
            vertical: a.vertical + b.vertical,
            horizontal: a.horizontal + b.horizontal,
            squared: a.squared + b.squared,
        });
        let components = total.components(sr.n(), sr.shape(), f64::from(self.max_val));
        let output = call.output.pixel_mut(0);
        output.iter_mut().zip(components).for_each(|(o, v)| *o = v as f32);
    }
}

/// Two images of equal extent that are not empty, and a positive `max_val`.
pub(super) fn check_images(inputs: &[Shape], max_val: f32) -> Result<Shape, String> {
    let shape = same_shape(inputs[0], inputs[1])?;
    if shape.is_empty() {
        return Err(format!("images of {shape} have no pixels"));
    }
    if !(max_val > 0.0 && max_val.is_finite()) {
        return Err(format!("max_val {max_val} is not a positive number"));
    }
    Ok(shape)
}

/// The sums by their plain formulas, over some images.
pub(super) fn reference_sums(sr: &Tensor64, hr: &Tensor64, max_val: f64, images: std::ops::Range<usize>) -> Sums {
    let [_, h, w, c] = sr.shape.0;
    let mut sums = Sums::default();
    for n in images {
        for (y, x) in (0..h).flat_map(|y| (0..w).map(move |x| (y, x))) {
            sums.angle += angle((0..c).map(|k| (sr.at([n, y, x, k]), hr.at([n, y, x, k]))));
            for k in 0..c {
                let (a, b) = (sr.at([n, y, x, k]), hr.at([n, y, x, k]));
                sums.absolute += (a - b).abs();
                sums.squared += (a.clamp(0.0, max_val) - b.clamp(0.0, max_val)).powi(2);
                sums.vertical += if y + 1 < h { (sr.data[sr.index([n, y + 1, x, k])] - a).abs() } else { 0.0 };
                sums.horizontal += if x + 1 < w { (sr.data[sr.index([n, y, x + 1, k])] - a).abs() } else { 0.0 };
            }
        }
    }
    sums
}

/// The gradient of [`PixelLosses`] by `sr`, from `sr`, `hr` and `d_output` (1,1,1,4), whose last element
/// (PSNR) counts nothing. Terms whose `d_output` is 0 are not computed. Training differentiates it no further.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PixelLossesGrad;

/// Factors of a row's gradient.
#[derive(Clone, Copy)]
struct Factors {
    absolute: f32,
    angle: f32,
    vertical: f32,
    horizontal: f32,
}

impl Factors {
    fn new(d_output: [f64; COMPONENTS], shape: Shape) -> Self {
        let per_value = 1.0 / shape.len() as f64;
        let [per_row_pair, per_column_pair] = per_pair(shape.n(), shape);
        Factors {
            absolute: (d_output[L1] * per_value) as f32,
            angle: (d_output[SAM] * per_value * shape.c() as f64) as f32,
            vertical: (d_output[TV] * per_row_pair) as f32,
            horizontal: (d_output[TV] * per_column_pair) as f32,
        }
    }
}

impl Op for PixelLossesGrad {
    fn name(&self) -> &'static str {
        "pixel_losses_grad"
    }
    fn shape(&self, inputs: &[Shape]) -> Result<Shape, String> {
        if inputs[2] != Shape::vector(COMPONENTS) {
            return Err(format!("d_output is {}, not a vector of {COMPONENTS}", inputs[2]));
        }
        same_shape(inputs[0], inputs[1])
    }
    fn vjp(&self, tape: &mut Tape, at: &Application, _d_output: Value) -> Result<Vec<Option<Value>>> {
        Err(no_derivative(tape, at, self.name()))
    }
    fn reference(&self, inputs: &[&Tensor64], output: Shape) -> Tensor64 {
        let (sr, hr, d) = (inputs[0], inputs[1], &inputs[2].data);
        let [_, h, w, c] = output.0;
        let [per_row_pair, per_column_pair] = per_pair(output.n(), output);
        let sign = |v: f64| if v == 0.0 { 0.0 } else { v.signum() };
        Tensor64::from_fn(output, |[n, y, x, k]| {
            let a = sr.data[sr.index([n, y, x, k])];
            let (alpha, beta) = angle_grad((0..c).map(|k| (sr.at([n, y, x, k]), hr.at([n, y, x, k]))));
            let mut neighbours = 0.0;
            for (dy, dx, per_pair) in
                [(0, 1, per_row_pair), (2, 1, per_row_pair), (1, 0, per_column_pair), (1, 2, per_column_pair)]
            {
                let (y, x) = ((y + dy).wrapping_sub(1), (x + dx).wrapping_sub(1));
                if y < h && x < w {
                    neighbours += per_pair * sign(a - sr.data[sr.index([n, y, x, k])]);
                }
            }
            let b = hr.at([n, y, x, k]);
            d[L1] * sign(a - b) / output.len() as f64
                + d[SAM] * (alpha * a + beta * b) / output.pixels() as f64
                + d[TV] * neighbours
        })
    }
    fn exec(&self) -> Exec<'_> {
        Exec::Kernel(Kernel::of(self))
    }
}

impl CpuKernel for PixelLossesGrad {
    fn run(&self, ctx: &Ctx, call: KernelCall) {
        let (sr, hr, out) = (call.inputs[0], call.inputs[1], call.output);
        let d_output = call.inputs[2].pixel(0);
        let factors = Factors::new(std::array::from_fn(|k| f64::from(d_output[k])), sr.shape());
        let rows = rows_per_item(sr.shape());
        let items = sr.h().div_ceil(rows);
        ctx.pool.run(sr.n() * items, &|item, _| {
            let (n, first) = (item / items, item % items * rows);
            let mut d = vec![0f32; sr.w() * sr.c()];
            for y in first..sr.h().min(first + rows) {
                row_grad(ctx.isa, [&sr, &hr], (n, y), factors, &mut d);
                for (x, value) in d.chunks_exact(out.c()).enumerate() {
                    // SAFETY: each row of the output is written by one item.
                    unsafe { out.pixel((n * out.h() + y) * out.w() + x) }.copy_from_slice(value);
                }
            }
        });
    }
}

/// The gradient of one row of `sr`.
fn row_grad(isa: Isa, [sr, hr]: [&View; 2], (n, y): (usize, usize), factors: Factors, d: &mut [f32]) {
    let (mut a_row, mut other) = (vec![], vec![]);
    let a = row(sr, n, y, &mut a_row);
    let b = row(hr, n, y, &mut other);
    d.fill(0.0);
    if factors.absolute != 0.0 {
        add_sign(isa, d, a, b, factors.absolute);
    }
    if factors.angle != 0.0 {
        add_angle_grads(isa, a, b, sr.c(), factors.angle, d);
    }
    if factors.horizontal != 0.0 {
        let (left, right) = (&a[..a.len() - sr.c()], &a[sr.c()..]);
        add_sign(isa, &mut d[..left.len()], left, right, factors.horizontal);
        add_sign(isa, &mut d[sr.c()..], right, left, factors.horizontal);
    }
    if factors.vertical != 0.0 {
        let below = (y + 1 < sr.h()).then_some(y + 1);
        for neighbour in y.checked_sub(1).into_iter().chain(below) {
            add_sign(isa, d, a, row(sr, n, neighbour, &mut other), factors.vertical);
        }
    }
}

#[cfg(test)]
pub(super) use self::tests::cases;
