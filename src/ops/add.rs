//! `output = alpha·a + beta·b`, with `b` repeated to the extent of `a`: sums of gradients, residuals with a
//! scale, biases, differences.

use super::mul::Scale;
use super::pointwise::{broadcast_shape, map2, reference};
use super::sum_to::sum_to;
use crate::device::cpu::{Isa, Tile, View};
use crate::device::cuda::PointwiseCode;
use crate::graph::{
    Application, CpuPointwise, CudaPointwise, Exec, OnnxInput, OnnxNode, Op, Operands, Pointwise, Rounding, Tape,
    Tensor64, Value,
};
use crate::types::Shape;
use crate::{Result, simd_fn};

/// The weighted sum of two tensors.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Add {
    /// Factor of operand 0.
    pub alpha: f32,
    /// Factor of operand 1.
    pub beta: f32,
}

impl Add {
    /// `a + b`.
    pub const SUM: Add = Add { alpha: 1.0, beta: 1.0 };
    /// `a − b`.
    pub const DIFFERENCE: Add = Add { alpha: 1.0, beta: -1.0 };
}

impl Op for Add {
    fn name(&self) -> &'static str {
        "add"
    }
    fn shape(&self, inputs: &[Shape]) -> Result<Shape, String> {
        broadcast_shape(inputs)
    }
    fn vjp(&self, tape: &mut Tape, at: &Application, d_output: Value) -> Result<Vec<Option<Value>>> {
        let mut d_inputs = vec![None, None];
        for (k, factor) in [self.alpha, self.beta].into_iter().enumerate() {
            if at.needs[k] {
                let summed = sum_to(tape, d_output, tape.shape(at.inputs[k]))?;
                d_inputs[k] = Some(if factor == 1.0 { summed } else { tape.push(Scale::by(factor), &[summed])? });
            }
        }
        Ok(d_inputs)
    }
    fn reference(&self, inputs: &[&Tensor64], output: Shape) -> Tensor64 {
        reference(inputs, output, |v| f64::from(self.alpha) * v[0] + f64::from(self.beta) * v[1])
    }
    fn exec(&self) -> Exec<'_> {
        Exec::Pointwise(Pointwise::of(self).with_any_carrier())
    }
    fn rounding(&self) -> Rounding {
        Rounding::Follows
    }
    fn onnx(&self, _inputs: &[Shape]) -> Option<Vec<OnnxNode>> {
        let (operator, beta) = if self.beta == -1.0 { ("Sub", 1.0) } else { ("Add", self.beta) };
        let mut nodes = Vec::new();
        let mut scaled = |operand: usize, factor: f32| {
            if factor == 1.0 {
                return OnnxInput::Operand(operand);
            }
            nodes.push(OnnxNode::new("Mul", [OnnxInput::Operand(operand), OnnxInput::Scalar(factor)]));
            OnnxInput::Node(nodes.len() - 1)
        };
        let inputs = [scaled(0, self.alpha), scaled(1, beta)];
        nodes.push(OnnxNode::new(operator, inputs));
        Some(nodes)
    }
}

impl CpuPointwise for Add {
    fn apply(&self, isa: Isa, tile: &mut Tile, operands: &Operands) {
        let (x, y) = if operands.carrier() == 0 { (self.alpha, self.beta) } else { (self.beta, self.alpha) };
        let other = &operands[1 - operands.carrier()];
        match (x == 1.0, y == 1.0) {
            (true, true) => add(isa, tile, other),
            _ => axpby(isa, tile, other, x, y),
        }
    }
}

impl CudaPointwise for Add {
    fn code(&self, _operands: &[Shape]) -> PointwiseCode {
        PointwiseCode::new("add", 2).with_factors(&[self.alpha, self.beta])
    }
}

simd_fn! {
    fn add(tile: &mut Tile, other: &View) {
        map2(tile, other, |v, o| v + o);
    }
}
simd_fn! {
    fn axpby(tile: &mut Tile, other: &View, x: f32, y: f32) {
        map2(tile, other, |v, o| x * v + y * o);
    }
}

#[cfg(test)]
pub(super) fn cases() -> Vec<super::Case> {
    use super::Case;
    vec![
        Case::new(Add::SUM, &[[2, 3, 4, 5], [2, 3, 4, 5]]),
        Case::new(Add { alpha: 0.2, beta: -1.5 }, &[[2, 3, 4, 5], [2, 3, 4, 5]]),
        Case::new(Add::SUM, &[[2, 3, 1, 5], [1, 1, 1, 5]]),
        Case::new(Add::DIFFERENCE, &[[2, 3, 1, 5], [2, 1, 1, 5]]),
        Case::new(Add::DIFFERENCE, &[[2, 3, 2, 1], [1, 1, 1, 1]]),
    ]
}
