//! First derivatives: the sums over a group, and the gradient for x.

use std::ops::Range;

use super::reduce::{Blocks, LANES};
use super::{Apply, CHUNK, SecondGrad, check_parts, chunks, group_pixels, over_group, part, row, under};
use crate::device::cpu::{Ctx, Isa, Tile, View};
use crate::device::cuda::{Args, CudaCall, KernelLaunch, Part, PointwiseCode};
use crate::graph::{
    Application, CpuKernel, CpuPointwise, CudaKernel, CudaPointwise, Exec, Kernel, KernelCall, Op, Operands, Pointwise,
    Rounding, Tape, Tensor64, Value, same_shape,
};
use crate::ops::add::Add;
use crate::ops::mul::Mul;
use crate::ops::sum_to::cuda::{Columns, vector_of};
use crate::ops::sum_to::{SumTo, sum_to};
use crate::types::Shape;
use crate::{Result, simd_fn};

/// Σ d_output and Σ d_output·x̂ over this rank's pixels of each group, (G,1,1,2C): operands d_output, x and its statistics.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GradSums {
    /// Whether ranks share the statistics.
    pub synced: bool,
}

impl Op for GradSums {
    fn name(&self) -> &'static str {
        "norm_grad_sums"
    }
    fn shape(&self, inputs: &[Shape]) -> Result<Shape, String> {
        let x = same_shape(inputs[0], inputs[1])?;
        check_parts(x, inputs[2], 3)?;
        Ok(Shape([inputs[2].n(), 1, 1, 2 * x.c()]))
    }
    fn vjp(&self, tape: &mut Tape, at: &Application, d_output: Value) -> Result<Vec<Option<Value>>> {
        let [d, x, stats] = [at.inputs[0], at.inputs[1], at.inputs[2]];
        let channels = tape.shape(x).c();
        let (by_sum, by_product) = (part(tape, d_output, channels, 0)?, part(tape, d_output, channels, 1)?);
        Ok(vec![
            if at.needs[0] {
                Some(tape.push(Apply { synced: self.synced }, &[x, stats, by_product, by_sum])?)
            } else {
                None
            },
            match (at.needs[1], self.synced) {
                (false, _) => None,
                (true, false) => Some(tape.push(InputGrad { synced: false }, &[d, x, stats, at.output, by_product])?),
                (true, true) => Some(synced_sums_grad(tape, [d, x, stats], by_product)?),
            },
            None,
        ])
    }
    fn reference(&self, inputs: &[&Tensor64], output: Shape) -> Tensor64 {
        let (d, x, stats, c) = (inputs[0], inputs[1], inputs[2], inputs[0].shape.c());
        let mut sums = Tensor64::zeros(output);
        Tensor64::from_fn(d.shape, |at| {
            let of = |k: usize| [at[0], 0, 0, k * c + at[3]];
            let normal = (x.at(at) - stats.at(of(0))) * stats.at(of(1));
            for (k, term) in [d.at(at), d.at(at) * normal].into_iter().enumerate() {
                let i = sums.index(of(k));
                sums.data[i] += term;
            }
            0.0
        });
        sums
    }
    fn exec(&self) -> Exec<'_> {
        Exec::Kernel(Kernel::of(self))
    }
    fn rounding(&self) -> Rounding {
        Rounding::Operands
    }
}

/// The gradient for x of ⟨`by_product`, Σ d·x̂⟩, of which each rank has a `by_product` of its own.
fn synced_sums_grad(tape: &mut Tape, [d, x, stats]: [Value; 3], by_product: Value) -> Result<Value> {
    let weighted = tape.push(Mul, &[d, by_product])?;
    let sums = tape.push(GradSums { synced: true }, &[weighted, x, stats])?;
    let sums = over_group(tape, true, sums)?;
    tape.push(InputGrad { synced: true }, &[weighted, x, stats, sums])
}

impl CpuKernel for GradSums {
    fn scratch(&self, inputs: &[Shape], output: Shape, _threads: usize) -> usize {
        Blocks::new(inputs[0], output.n()).scratch(2)
    }
    fn run(&self, ctx: &Ctx, call: KernelCall) {
        let [d, x, stats] = [call.inputs[0], call.inputs[1], call.inputs[2]];
        let (channels, out) = (x.c(), call.output);
        let blocks = Blocks::new(x.shape(), out.n());
        let block = |first: usize, count: usize, sums: &mut [f32]| {
            let mean = &stats.pixel(first / blocks.group)[..channels];
            sum_block(ctx.isa, &d, &x, mean, first, count, sums);
        };
        let finish = |g: usize, at: Range<usize>, rows: &[f32]| {
            let inv = &stats.pixel(g)[channels..2 * channels];
            // SAFETY: these channels of group `g` belong to this item alone.
            let [sums, products] = [0, channels].map(|part| unsafe { out.channels(g, part + at.start..part + at.end) });
            for ((c, to_sum), to_product) in at.zip(sums).zip(products) {
                let sum = |k: usize| (0..blocks.per_group()).map(|b| f64::from(rows[(2 * b + k) * channels + c])).sum();
                let (plain, product): (f64, f64) = (sum(0), sum(1));
                (*to_sum, *to_product) = (plain as f32, (product * f64::from(inv[c])) as f32);
            }
        };
        blocks.run(ctx, call.scratch, 2, &block, &finish);
    }
}

impl CudaKernel for GradSums {
    fn scratch(&self, inputs: &[Shape], output: Shape) -> usize {
        Columns::new(inputs[0], output.n()).scratch(2)
    }
    fn launches(&self, call: &CudaCall) -> Vec<KernelLaunch> {
        let [d, x, stats] = [call.inputs[0], call.inputs[1], call.inputs[2]];
        let columns = Columns::new(x.shape, stats.shape.n());
        let vector = vector_of(&[d, x]);
        let args = columns.args(vector).input("d", d).input("x", x).input("stats", stats);
        let parts = columns.partials(("norm", "norm_grad_parts"), (vector, args), call.scratch, 2);
        let args = |args: Args| args.input("stats", stats);
        vec![parts, columns.finish(("norm", "norm_grad_sums"), args, call.scratch, call.output)]
    }
}

simd_fn! {
    /// For each channel of `count` pixels: Σd and Σd·(x − mean).
    fn sum_block(d: &View, x: &View, mean: &[f32], first: usize, count: usize, sums: &mut [f32]) {
        for c0 in (0..x.c()).step_by(LANES) {
            if c0 + LANES <= x.c() {
                sum_channels(d, x, mean, first, count, c0..c0 + LANES, sums);
            } else {
                sum_channels(d, x, mean, first, count, c0..x.c(), sums);
            }
        }
    }
}

/// [`sum_block`] for the channels `at`.
#[inline(always)]
fn sum_channels(d: &View, x: &View, mean: &[f32], first: usize, count: usize, at: Range<usize>, sums: &mut [f32]) {
    let len = at.len();
    let (mut sum, mut product) = ([0f32; LANES], [0f32; LANES]);
    let mut m = [0f32; LANES];
    m[..len].copy_from_slice(&mean[at.clone()]);
    for p in first..first + count {
        let (d, x) = (&d.pixel(p)[at.clone()], &x.pixel(p)[at.clone()]);
        for l in 0..len {
            sum[l] += d[l];
            product[l] += d[l] * (x[l] - m[l]);
        }
    }
    sums[at.start..][..len].copy_from_slice(&sum[..len]);
    sums[x.c() + at.start..][..len].copy_from_slice(&product[..len]);
}

/// `gamma·invstd·(d_output − m(d_output) − x̂·m(d_output·x̂))` with m = mean over the group: operands d_output, x,
/// its statistics, their [`GradSums`] over the group and, with affine parameters, gamma. The derivative rule counts the
/// dependence through statistics and sums.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct InputGrad {
    /// Whether ranks share the statistics.
    pub synced: bool,
}

impl Op for InputGrad {
    fn name(&self) -> &'static str {
        "norm_input_grad"
    }
    fn shape(&self, inputs: &[Shape]) -> Result<Shape, String> {
        let x = same_shape(inputs[0], inputs[1])?;
        check_parts(x, inputs[2], 3)?;
        check_parts(x, inputs[3], 2)?;
        inputs[4..].iter().try_for_each(|s| check_parts(x, *s, 1))?;
        Ok(x)
    }
    fn vjp(&self, tape: &mut Tape, at: &Application, d_output: Value) -> Result<Vec<Option<Value>>> {
        let [d, x, stats, sums] = [at.inputs[0], at.inputs[1], at.inputs[2], at.inputs[3]];
        let gamma = at.inputs.get(4);
        let synced = self.synced;
        let own_sums = tape.push(GradSums { synced }, &[d_output, x, stats])?;
        let u_sums = over_group(tape, synced, own_sums)?;
        let mut d_inputs = vec![None; at.inputs.len()];
        if at.needs[0] {
            // The matrix of the linear map d_output -> d_x is symmetric.
            let mut operands = vec![d_output, x, stats, u_sums];
            operands.extend(gamma);
            d_inputs[0] = Some(tape.push(InputGrad { synced }, &operands)?);
        }
        let affine = at.needs.get(4) == Some(&true);
        if at.needs[1] || affine {
            let [_, _, _, c] = tape.shape(x).0;
            let target = Shape([tape.shape(stats).n(), 1, 1, c]);
            let product = tape.push(SumTo { target }, &[d_output, d])?;
            if at.needs[1] {
                let product = over_group(tape, synced, product)?;
                let mut operands = vec![d_output, d, x, stats, u_sums, sums, product];
                operands.extend(gamma);
                d_inputs[1] = Some(tape.push(SecondGrad, &operands)?);
            }
            if let (true, Some(gamma)) = (affine, gamma) {
                d_inputs[4] = Some(gamma_grad(tape, [x, stats, sums, own_sums, product], *gamma)?);
            }
        }
        Ok(d_inputs)
    }
    fn reference(&self, inputs: &[&Tensor64], output: Shape) -> Tensor64 {
        let (d, x, stats, sums, c) = (inputs[0], inputs[1], inputs[2], inputs[3], output.c());
        let count = group_pixels(output, stats.shape.n()) as f64;
        Tensor64::from_fn(output, |at| {
            let of = |t: &Tensor64, k: usize| t.at([at[0], 0, 0, k * c + at[3]]);
            let normal = (x.at(at) - of(stats, 0)) * of(stats, 1);
            let rest = d.at(at) - (of(sums, 0) + normal * of(sums, 1)) / count;
            inputs.get(4).map_or(1.0, |g| of(g, 0)) * of(stats, 1) * rest
        })
    }
    fn exec(&self) -> Exec<'_> {
        Exec::Pointwise(Pointwise::of(self))
    }
    fn rounding(&self) -> Rounding {
        Rounding::Follows
    }
}

/// `Σ u·d_x / gamma` from sums: invstd·(Σu·d − (Σu·Σd + Σu·x̂·Σd·x̂)/count), over the groups that share gamma; sums with
/// u are over this rank's pixels.
fn gamma_grad(tape: &mut Tape, [x, stats, sums, u_sums, product]: [Value; 5], gamma: Value) -> Result<Value> {
    let channels = tape.shape(x).c();
    let count = group_pixels(tape.shape(x), tape.shape(stats).n());
    let mut terms = Vec::new();
    for k in 0..2 {
        let (a, b) = (part(tape, sums, channels, k)?, part(tape, u_sums, channels, k)?);
        terms.push(tape.push(Mul, &[a, b])?);
    }
    let explained = tape.push(Add::SUM, &terms)?;
    let rest = tape.push(Add { alpha: 1.0, beta: -1.0 / count as f32 }, &[product, explained])?;
    let inv = part(tape, stats, channels, 1)?;
    let whole = tape.push(Mul, &[rest, inv])?;
    sum_to(tape, whole, tape.shape(gamma))
}

impl CpuPointwise for InputGrad {
    fn apply(&self, isa: Isa, tile: &mut Tile, operands: &Operands) {
        input_grad(isa, tile, &operands[1], &operands[2], &operands[3], operands.get(4));
    }
}

impl CudaPointwise for InputGrad {
    fn code(&self, operands: &[Shape]) -> PointwiseCode {
        let c = operands[0].c();
        let affine = operands.len() > 4;
        let at = |operand, channel| Part { operand, channel };
        let gamma = if affine { at(4, 0) } else { at(2, 0) };
        let parts = vec![at(0, 0), at(1, 0), at(2, 0), at(2, c), at(3, 0), at(3, c), gamma];
        let per_pixel = 1.0 / group_pixels(operands[0], operands[2].n()) as f32;
        PointwiseCode { function: "norm_input_grad", parts, factors: vec![per_pixel, f32::from(u8::from(affine))] }
    }
}

simd_fn! {
    fn input_grad(tile: &mut Tile, x: &View, stats: &View, sums: &View, gamma: Option<&View>) {
        let (place, c) = (tile.place(), x.c());
        let n = place.n;
        let per_pixel = 1.0 / group_pixels(x.shape(), stats.n()) as f32;
        let (stats, sums, gamma) = (row(stats, n), row(sums, n), gamma.map(|g| row(g, n)));
        chunks(place, |first, len| {
            let c0 = place.c0 + first;
            let (mut mean, mut scale) = ([0f32; CHUNK], [0f32; CHUNK]);
            let (mut slope, mut shift) = ([0f32; CHUNK], [0f32; CHUNK]);
            for l in 0..len {
                let inv = stats[c + c0 + l];
                mean[l] = stats[c0 + l];
                scale[l] = inv * gamma.map_or(1.0, |g| g[c0 + l]);
                shift[l] = scale[l] * sums[c0 + l] * per_pixel;
                slope[l] = scale[l] * inv * sums[c + c0 + l] * per_pixel;
            }
            for p in 0..place.pixels {
                let (values, x) = (&mut tile.pixel_mut(p)[first..first + len], under(x, &place, p, c0..c0 + len));
                for l in 0..len {
                    values[l] = scale[l] * values[l] - shift[l] - slope[l] * (x[l] - mean[l]);
                }
            }
        });
    }
}
