//! The hyperbolic tangent: the last layer of SRResNet. The gradient reads the output.

use super::math;
use super::mul::{Mul, Scale};
use super::pointwise::{map, map2, reference};
use crate::device::cpu::{Isa, Tile, View};
use crate::device::cuda::PointwiseCode;
use crate::graph::{
    Application, CpuPointwise, CudaPointwise, Exec, OnnxNode, Op, Operands, Pointwise, Rounding, Tape, Tensor64, Value,
    same_shape,
};
use crate::types::Shape;
use crate::{Result, simd_fn};

/// The activation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tanh;

impl Op for Tanh {
    fn name(&self) -> &'static str {
        "tanh"
    }
    fn shape(&self, inputs: &[Shape]) -> Result<Shape, String> {
        Ok(inputs[0])
    }
    fn vjp(&self, tape: &mut Tape, at: &Application, d_output: Value) -> Result<Vec<Option<Value>>> {
        Ok(vec![Some(tape.push(TanhGrad, &[d_output, at.output])?)])
    }
    fn reference(&self, inputs: &[&Tensor64], output: Shape) -> Tensor64 {
        reference(inputs, output, |v| v[0].tanh())
    }
    fn exec(&self) -> Exec<'_> {
        Exec::Pointwise(Pointwise::of(self))
    }
    fn rounding(&self) -> Rounding {
        Rounding::Follows
    }
    fn onnx(&self, _inputs: &[Shape]) -> Option<Vec<OnnxNode>> {
        Some(vec![OnnxNode::of("Tanh", 1)])
    }
}

impl CpuPointwise for Tanh {
    fn apply(&self, isa: Isa, tile: &mut Tile, _operands: &Operands) {
        forward(isa, tile);
    }
}

impl CudaPointwise for Tanh {
    fn code(&self, _operands: &[Shape]) -> PointwiseCode {
        PointwiseCode::new("tanh_of", 1)
    }
}

/// `d_output·(1 − y²)`: operands d_output and the output y.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TanhGrad;

impl Op for TanhGrad {
    fn name(&self) -> &'static str {
        "tanh_grad"
    }
    fn shape(&self, inputs: &[Shape]) -> Result<Shape, String> {
        same_shape(inputs[0], inputs[1])
    }
    fn vjp(&self, tape: &mut Tape, at: &Application, d_output: Value) -> Result<Vec<Option<Value>>> {
        let [d, y] = [at.inputs[0], at.inputs[1]];
        let d_d = if at.needs[0] { Some(tape.push(TanhGrad, &[d_output, y])?) } else { None };
        let mut d_y = None;
        if at.needs[1] {
            let product = tape.push(Mul, &[d_output, d])?;
            let slope = tape.push(Scale::by(-2.0), &[y])?;
            d_y = Some(tape.push(Mul, &[product, slope])?);
        }
        Ok(vec![d_d, d_y])
    }
    fn reference(&self, inputs: &[&Tensor64], output: Shape) -> Tensor64 {
        reference(inputs, output, |v| v[0] * (1.0 - v[1] * v[1]))
    }
    fn exec(&self) -> Exec<'_> {
        Exec::Pointwise(Pointwise::of(self))
    }
    fn rounding(&self) -> Rounding {
        Rounding::Follows
    }
}

impl CpuPointwise for TanhGrad {
    fn apply(&self, isa: Isa, tile: &mut Tile, operands: &Operands) {
        input_grad(isa, tile, &operands[1]);
    }
}

impl CudaPointwise for TanhGrad {
    fn code(&self, _operands: &[Shape]) -> PointwiseCode {
        PointwiseCode::new("tanh_grad", 2)
    }
}

simd_fn! {
    fn forward(tile: &mut Tile) {
        map(tile, math::tanh);
    }
}
simd_fn! {
    fn input_grad(tile: &mut Tile, output: &View) {
        map2(tile, output, |d, y| d * (1.0 - y * y));
    }
}

#[cfg(test)]
pub(super) fn cases() -> Vec<super::Case> {
    use super::Case;
    vec![Case::new(Tanh, &[[2, 3, 4, 5]]), Case::new(TanhGrad, &[[2, 3, 4, 5], [2, 3, 4, 5]])]
}
