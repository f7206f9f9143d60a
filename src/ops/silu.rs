//! SiLU (swish), `output = x·σ(x)` with the logistic function σ (Elfwing et al., Neural Networks 107, 2018).

use super::math;
use super::mul::{Mul, Scale};
use super::pointwise::{map, map2, reference};
use super::sigmoid::{Sigmoid, SigmoidGrad};
use crate::device::cpu::{Isa, Tile, View};
use crate::device::cuda::PointwiseCode;
use crate::graph::{
    Application, CpuPointwise, CudaPointwise, Exec, OnnxInput, OnnxNode, Op, Operands, Pointwise, Rounding, Tape,
    Tensor64, Value, same_shape,
};
use crate::types::Shape;
use crate::{Result, simd_fn};

/// The activation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Silu;

impl Op for Silu {
    fn name(&self) -> &'static str {
        "silu"
    }
    fn shape(&self, inputs: &[Shape]) -> Result<Shape, String> {
        Ok(inputs[0])
    }
    fn vjp(&self, tape: &mut Tape, at: &Application, d_output: Value) -> Result<Vec<Option<Value>>> {
        Ok(vec![Some(tape.push(SiluGrad, &[d_output, at.inputs[0]])?)])
    }
    fn reference(&self, inputs: &[&Tensor64], output: Shape) -> Tensor64 {
        reference(inputs, output, |v| v[0] / (1.0 + (-v[0]).exp()))
    }
    fn exec(&self) -> Exec<'_> {
        Exec::Pointwise(Pointwise::of(self))
    }
    fn rounding(&self) -> Rounding {
        Rounding::Follows
    }
    fn onnx(&self, _inputs: &[Shape]) -> Option<Vec<OnnxNode>> {
        let product = OnnxNode::new("Mul", [OnnxInput::Operand(0), OnnxInput::Node(0)]);
        Some(vec![OnnxNode::of("Sigmoid", 1), product])
    }
}

impl CpuPointwise for Silu {
    fn apply(&self, isa: Isa, tile: &mut Tile, _operands: &Operands) {
        forward(isa, tile);
    }
}

impl CudaPointwise for Silu {
    fn code(&self, _operands: &[Shape]) -> PointwiseCode {
        PointwiseCode::new("silu", 1)
    }
}

/// `d_output·(σ + x·σ·(1 − σ))` with σ = σ(x): operands d_output and x.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SiluGrad;

impl Op for SiluGrad {
    fn name(&self) -> &'static str {
        "silu_grad"
    }
    fn shape(&self, inputs: &[Shape]) -> Result<Shape, String> {
        same_shape(inputs[0], inputs[1])
    }
    /// With respect to x: `d_output·d·σ·(1 − σ)·(2 + x·(1 − 2σ))`.
    fn vjp(&self, tape: &mut Tape, at: &Application, d_output: Value) -> Result<Vec<Option<Value>>> {
        let [d, x] = [at.inputs[0], at.inputs[1]];
        let d_d = if at.needs[0] { Some(tape.push(SiluGrad, &[d_output, x])?) } else { None };
        let mut d_x = None;
        if at.needs[1] {
            let s = tape.push(Sigmoid, &[x])?;
            let product = tape.push(Mul, &[d_output, d])?;
            let outer = tape.push(SigmoidGrad, &[product, s])?;
            let bend = tape.push(Scale { factor: -2.0, shift: 1.0 }, &[s])?;
            let bend = tape.push(Mul, &[bend, x])?;
            let bend = tape.push(Scale { factor: 1.0, shift: 2.0 }, &[bend])?;
            d_x = Some(tape.push(Mul, &[outer, bend])?);
        }
        Ok(vec![d_d, d_x])
    }
    fn reference(&self, inputs: &[&Tensor64], output: Shape) -> Tensor64 {
        reference(inputs, output, |v| {
            let s = 1.0 / (1.0 + (-v[1]).exp());
            v[0] * (s + v[1] * s * (1.0 - s))
        })
    }
    fn exec(&self) -> Exec<'_> {
        Exec::Pointwise(Pointwise::of(self))
    }
    fn rounding(&self) -> Rounding {
        Rounding::Follows
    }
}

impl CpuPointwise for SiluGrad {
    fn apply(&self, isa: Isa, tile: &mut Tile, operands: &Operands) {
        input_grad(isa, tile, &operands[1]);
    }
}

impl CudaPointwise for SiluGrad {
    fn code(&self, _operands: &[Shape]) -> PointwiseCode {
        PointwiseCode::new("silu_grad", 2)
    }
}

simd_fn! {
    fn forward(tile: &mut Tile) {
        map(tile, |v| v * math::sigmoid(v));
    }
}
simd_fn! {
    fn input_grad(tile: &mut Tile, x: &View) {
        map2(tile, x, |d, x| {
            let s = math::sigmoid(x);
            d * (s + x * s * (1.0 - s))
        });
    }
}

#[cfg(test)]
pub(super) fn cases() -> Vec<super::Case> {
    use super::Case;
    vec![Case::new(Silu, &[[2, 3, 4, 5]]), Case::new(SiluGrad, &[[2, 3, 4, 5], [2, 3, 4, 5]])]
}
