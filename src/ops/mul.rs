//! `output = a·b` with `b` repeated to the extent of `a` (attention weights, masks, scalar factors), and
//! `output = factor·a + shift`.

use super::pointwise::{broadcast_shape, map, map2, reference};
use super::sum_to::sum_product_to;
use crate::device::cpu::{Isa, Tile, View};
use crate::device::cuda::PointwiseCode;
use crate::graph::{
    Application, CpuPointwise, CudaPointwise, Exec, OnnxChain, OnnxNode, Op, Operands, Pointwise, Rounding, Tape,
    Tensor64, Value,
};
use crate::types::Shape;
use crate::{Result, simd_fn};

/// The elementwise product; operand 1 may repeat over pixels, images or channels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mul;

impl Op for Mul {
    fn name(&self) -> &'static str {
        "mul"
    }
    fn shape(&self, inputs: &[Shape]) -> Result<Shape, String> {
        broadcast_shape(inputs)
    }
    fn vjp(&self, tape: &mut Tape, at: &Application, d_output: Value) -> Result<Vec<Option<Value>>> {
        let [a, b] = [at.inputs[0], at.inputs[1]];
        Ok(vec![
            if at.needs[0] { Some(tape.push(Mul, &[d_output, b])?) } else { None },
            if at.needs[1] { Some(sum_product_to(tape, d_output, a, tape.shape(b))?) } else { None },
        ])
    }
    fn reference(&self, inputs: &[&Tensor64], output: Shape) -> Tensor64 {
        reference(inputs, output, |v| v[0] * v[1])
    }
    fn exec(&self) -> Exec<'_> {
        Exec::Pointwise(Pointwise::of(self).with_any_carrier())
    }
    fn rounding(&self) -> Rounding {
        Rounding::Follows
    }
    fn onnx(&self, _inputs: &[Shape]) -> Option<Vec<OnnxNode>> {
        Some(vec![OnnxNode::of("Mul", 2)])
    }
}

impl CpuPointwise for Mul {
    fn apply(&self, isa: Isa, tile: &mut Tile, operands: &Operands) {
        product(isa, tile, &operands[1 - operands.carrier()]);
    }
}

impl CudaPointwise for Mul {
    fn code(&self, _operands: &[Shape]) -> PointwiseCode {
        PointwiseCode::new("mul", 2)
    }
}

simd_fn! {
    fn product(tile: &mut Tile, other: &View) {
        map2(tile, other, |v, o| v * o);
    }
}

/// `factor·a + shift`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scale {
    /// Factor.
    pub factor: f32,
    /// Added after the factor.
    pub shift: f32,
}

impl Scale {
    /// `factor·a`.
    pub const fn by(factor: f32) -> Self {
        Scale { factor, shift: 0.0 }
    }
}

impl Op for Scale {
    fn name(&self) -> &'static str {
        "scale"
    }
    fn shape(&self, inputs: &[Shape]) -> Result<Shape, String> {
        Ok(inputs[0])
    }
    fn vjp(&self, tape: &mut Tape, _at: &Application, d_output: Value) -> Result<Vec<Option<Value>>> {
        Ok(vec![Some(tape.push(Scale::by(self.factor), &[d_output])?)])
    }
    fn reference(&self, inputs: &[&Tensor64], output: Shape) -> Tensor64 {
        reference(inputs, output, |v| f64::from(self.factor) * v[0] + f64::from(self.shift))
    }
    fn exec(&self) -> Exec<'_> {
        Exec::Pointwise(Pointwise::of(self))
    }
    fn rounding(&self) -> Rounding {
        Rounding::Follows
    }
    fn onnx(&self, _inputs: &[Shape]) -> Option<Vec<OnnxNode>> {
        Some(OnnxChain::default().then("Mul", self.factor).then("Add", self.shift).nodes())
    }
}

impl CpuPointwise for Scale {
    fn apply(&self, isa: Isa, tile: &mut Tile, _operands: &Operands) {
        affine(isa, tile, self.factor, self.shift);
    }
}

impl CudaPointwise for Scale {
    fn code(&self, _operands: &[Shape]) -> PointwiseCode {
        PointwiseCode::new("scale", 1).with_factors(&[self.factor, self.shift])
    }
}

simd_fn! {
    fn affine(tile: &mut Tile, factor: f32, shift: f32) {
        map(tile, |v| factor * v + shift);
    }
}

#[cfg(test)]
pub(super) fn cases() -> Vec<super::Case> {
    use super::Case;
    vec![
        Case::new(Mul, &[[2, 3, 4, 5], [2, 3, 4, 5]]),
        Case::new(Mul, &[[2, 3, 4, 5], [2, 1, 1, 5]]),
        Case::new(Mul, &[[2, 3, 4, 5], [1, 1, 1, 5]]),
        Case::new(Mul, &[[2, 3, 4, 5], [1, 1, 1, 1]]),
        Case::new(Scale { factor: -1.5, shift: 0.25 }, &[[1, 2, 3, 4]]),
    ]
}
