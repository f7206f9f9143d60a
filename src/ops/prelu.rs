//! PReLU with one learned slope, `output = x if x > 0 else slope·x` (He et al., "Delving deep into
//! rectifiers", ICCV 2015). A slope may become negative in training, so the gradients read the input: the
//! output's sign would not tell it.

use super::add::Add;
use super::flat::scalar;
use super::math::Lanes;
use super::mul::Mul;
use super::pointwise::{map, map2, reference};
use super::sum_to::sum_to;
use crate::device::cpu::{Ctx, Isa, Tile, View};
use crate::device::cuda::{CudaCall, KernelLaunch, PointwiseCode};
use crate::graph::{
    Application, CpuKernel, CpuPointwise, CudaKernel, CudaPointwise, Exec, Kernel, KernelCall, OnnxNode, Op, Operands,
    Pointwise, Rounding, Tape, Tensor64, Value, same_shape,
};
use crate::ops::sum_to::cuda::{Columns, vector_of};
use crate::types::Shape;
use crate::{Result, simd_fn};

/// The activation: operands x and slope (a scalar).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Prelu;

impl Op for Prelu {
    fn name(&self) -> &'static str {
        "prelu"
    }
    fn shape(&self, inputs: &[Shape]) -> Result<Shape, String> {
        one_slope(inputs[1])?;
        Ok(inputs[0])
    }
    fn vjp(&self, tape: &mut Tape, at: &Application, d_output: Value) -> Result<Vec<Option<Value>>> {
        let [x, slope] = [at.inputs[0], at.inputs[1]];
        // The slope's first: then nothing needs d_output any more, and the input's gradient takes its memory.
        let d_slope = if at.needs[1] { Some(tape.push(PreluSlopeGrad, &[d_output, x])?) } else { None };
        let d_x = if at.needs[0] { Some(tape.push(PreluGrad, &[d_output, x, slope])?) } else { None };
        Ok(vec![d_x, d_slope])
    }
    fn reference(&self, inputs: &[&Tensor64], output: Shape) -> Tensor64 {
        reference(inputs, output, |v| if v[0] > 0.0 { v[0] } else { v[1] * v[0] })
    }
    fn exec(&self) -> Exec<'_> {
        Exec::Pointwise(Pointwise::of(self))
    }
    fn rounding(&self) -> Rounding {
        Rounding::Follows
    }
    fn onnx(&self, _inputs: &[Shape]) -> Option<Vec<OnnxNode>> {
        Some(vec![OnnxNode::of("PRelu", 2)])
    }
}

impl CpuPointwise for Prelu {
    fn apply(&self, isa: Isa, tile: &mut Tile, operands: &Operands) {
        forward(isa, tile, scalar(&operands[1]));
    }
}

impl CudaPointwise for Prelu {
    fn code(&self, _operands: &[Shape]) -> PointwiseCode {
        PointwiseCode::new("prelu", 2)
    }
}

/// `d_output` where x > 0, `slope·d_output` elsewhere: operands d_output, x, slope.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PreluGrad;

impl Op for PreluGrad {
    fn name(&self) -> &'static str {
        "prelu_grad"
    }
    fn shape(&self, inputs: &[Shape]) -> Result<Shape, String> {
        one_slope(inputs[2])?;
        same_shape(inputs[0], inputs[1])
    }
    fn vjp(&self, tape: &mut Tape, at: &Application, d_output: Value) -> Result<Vec<Option<Value>>> {
        let [d, x, slope] = [at.inputs[0], at.inputs[1], at.inputs[2]];
        let d_d = if at.needs[0] { Some(tape.push(PreluGrad, &[d_output, x, slope])?) } else { None };
        let mut d_slope = None;
        if at.needs[2] {
            let product = tape.push(Mul, &[d_output, d])?;
            let below = where_not_positive(tape, product, x)?;
            d_slope = Some(sum_to(tape, below, Shape::SCALAR)?);
        }
        Ok(vec![d_d, None, d_slope])
    }
    fn reference(&self, inputs: &[&Tensor64], output: Shape) -> Tensor64 {
        reference(inputs, output, |v| if v[1] > 0.0 { v[0] } else { v[2] * v[0] })
    }
    fn exec(&self) -> Exec<'_> {
        Exec::Pointwise(Pointwise::of(self))
    }
    fn rounding(&self) -> Rounding {
        Rounding::Follows
    }
}

impl CpuPointwise for PreluGrad {
    fn apply(&self, isa: Isa, tile: &mut Tile, operands: &Operands) {
        input_grad(isa, tile, &operands[1], scalar(&operands[2]));
    }
}

impl CudaPointwise for PreluGrad {
    fn code(&self, _operands: &[Shape]) -> PointwiseCode {
        PointwiseCode::new("prelu_grad", 3)
    }
}

/// The slope's gradient, `Σ d_output·min(x, 0)`, a scalar: operands d_output and x.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PreluSlopeGrad;

impl Op for PreluSlopeGrad {
    fn name(&self) -> &'static str {
        "prelu_slope_grad"
    }
    fn shape(&self, inputs: &[Shape]) -> Result<Shape, String> {
        same_shape(inputs[0], inputs[1])?;
        Ok(Shape::SCALAR)
    }
    fn vjp(&self, tape: &mut Tape, at: &Application, d_output: Value) -> Result<Vec<Option<Value>>> {
        let [d, x] = [at.inputs[0], at.inputs[1]];
        let mut d_inputs = vec![None, None];
        for (k, other) in [(0, x), (1, d)] {
            if at.needs[k] {
                let scaled = tape.push(Mul, &[other, d_output])?;
                d_inputs[k] = Some(where_not_positive(tape, scaled, x)?);
            }
        }
        Ok(d_inputs)
    }
    fn reference(&self, inputs: &[&Tensor64], _output: Shape) -> Tensor64 {
        let terms = inputs[0].data.iter().zip(&inputs[1].data).map(|(d, x)| d * x.min(0.0));
        Tensor64::new(Shape::SCALAR, vec![terms.sum()])
    }
    fn exec(&self) -> Exec<'_> {
        Exec::Kernel(Kernel::of(self))
    }
    fn rounding(&self) -> Rounding {
        Rounding::Operands
    }
}

/// Elements whose products are summed in f32 before f64 takes over.
const BLOCK: usize = 2048;

fn block_pixels(channels: usize) -> usize {
    (BLOCK / channels).max(1)
}

impl CpuKernel for PreluSlopeGrad {
    fn scratch(&self, inputs: &[Shape], _output: Shape, _threads: usize) -> usize {
        inputs[0].pixels().div_ceil(block_pixels(inputs[0].c()))
    }
    fn run(&self, ctx: &Ctx, mut call: KernelCall) {
        let [d, x] = [call.inputs[0], call.inputs[1]];
        let (pixels, block) = (d.pixels(), block_pixels(d.c()));
        let partials = &mut call.scratch[..pixels.div_ceil(block)];
        ctx.pool.run_parts(partials, 1, &|item, sum| {
            let first = item * block;
            sum[0] = sum_below(ctx.isa, &d, &x, first, block.min(pixels - first));
        });
        let sum: f64 = partials.iter().map(|v| f64::from(*v)).sum();
        call.output.pixel_mut(0)[0] = sum as f32;
    }
}

impl CudaKernel for PreluSlopeGrad {
    fn scratch(&self, inputs: &[Shape], _output: Shape) -> usize {
        Columns::new(inputs[0], 1).scratch(1)
    }
    fn launches(&self, call: &CudaCall) -> Vec<KernelLaunch> {
        let columns = Columns::new(call.inputs[0].shape, 1);
        let vector = vector_of(call.inputs);
        let args = columns.args(vector).input("d", call.inputs[0]).input("x", call.inputs[1]);
        columns.launches(call, ("prelu", "prelu_slope_grad"), (vector, args), false, 1)
    }
}

/// `v` where x ≤ 0, 0 elsewhere.
fn where_not_positive(tape: &mut Tape, v: Value, x: Value) -> Result<Value> {
    let zero = tape.scalar(0.0);
    let above = tape.push(PreluGrad, &[v, x, zero])?;
    tape.push(Add::DIFFERENCE, &[v, above])
}

fn one_slope(slope: Shape) -> Result<(), String> {
    if slope == Shape::SCALAR { Ok(()) } else { Err(format!("the slope is {slope}, not one number")) }
}

simd_fn! {
    fn forward(tile: &mut Tile, slope: f32) {
        map(tile, |v| if v > 0.0 { v } else { slope * v });
    }
}
simd_fn! {
    fn input_grad(tile: &mut Tile, x: &View, slope: f32) {
        map2(tile, x, |d, x| if x > 0.0 { d } else { slope * d });
    }
}
simd_fn! {
    fn sum_below(d: &View, x: &View, first: usize, count: usize) -> f32 {
        let mut sum = Lanes::default();
        // `x.min(0.0)` would lose a NaN.
        let term = |d: f32, x: f32| if x > 0.0 { 0.0 } else { d * x };
        if d.stride() == d.c() && x.stride() == x.c() {
            sum.add2(d.run(first, count), x.run(first, count), term);
        } else {
            for p in first..first + count {
                sum.add2(d.pixel(p), x.pixel(p), term);
            }
        }
        sum.total()
    }
}

#[cfg(test)]
pub(super) fn cases() -> Vec<super::Case> {
    use super::Case;
    vec![
        Case::new(Prelu, &[[2, 3, 4, 5], [1, 1, 1, 1]]),
        Case::new(PreluGrad, &[[2, 3, 4, 5], [2, 3, 4, 5], [1, 1, 1, 1]]),
        Case::new(PreluSlopeGrad, &[[2, 3, 4, 5], [2, 3, 4, 5]]),
        Case::new(PreluSlopeGrad, &[[1, 5, 7, 130], [1, 5, 7, 130]]).without_gradient(),
        Case::new(PreluSlopeGrad, &[[2, 16, 17, 40], [2, 16, 17, 40]]).without_gradient(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slope_per_channel_is_refused() {
        let message = Prelu.shape(&[Shape([1, 2, 2, 3]), Shape::vector(3)]).unwrap_err();
        assert!(message.contains("1x1x1x3"), "{message}");
    }
}
