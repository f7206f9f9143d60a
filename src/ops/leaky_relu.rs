//! Leaky ReLU, `output = x if x > 0 else slope·x`, and ReLU as slope 0. The gradient reads the output's sign,
//! which is the input's for slope ≥ 0, so the input need not be kept.

use super::pointwise::{map, map2, reference};
use crate::device::cpu::{Isa, Tile, View};
use crate::device::cuda::PointwiseCode;
use crate::graph::{
    Application, CpuPointwise, CudaPointwise, Exec, OnnxNode, Op, Operands, Pointwise, Rounding, Tape, Tensor64, Value,
    same_shape,
};
use crate::types::Shape;
use crate::{Result, simd_fn};

/// Leaky ReLU; `slope` ≥ 0.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LeakyRelu {
    /// Factor for negative inputs.
    pub slope: f32,
}

impl Op for LeakyRelu {
    fn name(&self) -> &'static str {
        "leaky_relu"
    }
    fn shape(&self, inputs: &[Shape]) -> Result<Shape, String> {
        if self.slope >= 0.0 { Ok(inputs[0]) } else { Err(format!("slope {} is negative", self.slope)) }
    }
    fn vjp(&self, tape: &mut Tape, at: &Application, d_output: Value) -> Result<Vec<Option<Value>>> {
        Ok(vec![Some(tape.push(LeakyReluGrad { slope: self.slope }, &[d_output, at.output])?)])
    }
    fn reference(&self, inputs: &[&Tensor64], output: Shape) -> Tensor64 {
        reference(inputs, output, |v| if v[0] > 0.0 { v[0] } else { f64::from(self.slope) * v[0] })
    }
    fn exec(&self) -> Exec<'_> {
        Exec::Pointwise(Pointwise::of(self))
    }
    fn rounding(&self) -> Rounding {
        Rounding::Follows
    }
    fn onnx(&self, _inputs: &[Shape]) -> Option<Vec<OnnxNode>> {
        Some(vec![OnnxNode::of("LeakyRelu", 1).float("alpha", self.slope)])
    }
}

impl CpuPointwise for LeakyRelu {
    fn apply(&self, isa: Isa, tile: &mut Tile, _operands: &Operands) {
        forward(isa, tile, self.slope);
    }
}

impl CudaPointwise for LeakyRelu {
    fn code(&self, _operands: &[Shape]) -> PointwiseCode {
        PointwiseCode::new("leaky_relu", 1).with_factors(&[self.slope])
    }
}

/// `d_output` where `output` > 0, `slope·d_output` elsewhere. Linear in `d_output`, flat in `output`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LeakyReluGrad {
    /// Factor for negative inputs.
    pub slope: f32,
}

impl Op for LeakyReluGrad {
    fn name(&self) -> &'static str {
        "leaky_relu_grad"
    }
    fn shape(&self, inputs: &[Shape]) -> Result<Shape, String> {
        same_shape(inputs[0], inputs[1])
    }
    fn vjp(&self, tape: &mut Tape, at: &Application, d_output: Value) -> Result<Vec<Option<Value>>> {
        Ok(vec![Some(tape.push(*self, &[d_output, at.inputs[1]])?), None])
    }
    fn reference(&self, inputs: &[&Tensor64], output: Shape) -> Tensor64 {
        reference(inputs, output, |v| if v[1] > 0.0 { v[0] } else { f64::from(self.slope) * v[0] })
    }
    fn exec(&self) -> Exec<'_> {
        Exec::Pointwise(Pointwise::of(self))
    }
    fn rounding(&self) -> Rounding {
        Rounding::Follows
    }
}

impl CpuPointwise for LeakyReluGrad {
    fn apply(&self, isa: Isa, tile: &mut Tile, operands: &Operands) {
        input_grad(isa, tile, &operands[1], self.slope);
    }
}

impl CudaPointwise for LeakyReluGrad {
    fn code(&self, _operands: &[Shape]) -> PointwiseCode {
        PointwiseCode::new("leaky_relu_grad", 2).with_factors(&[self.slope])
    }
}

simd_fn! {
    fn forward(tile: &mut Tile, slope: f32) {
        map(tile, |v| if v > 0.0 { v } else { slope * v });
    }
}
simd_fn! {
    fn input_grad(tile: &mut Tile, output: &View, slope: f32) {
        map2(tile, output, |d, y| if y > 0.0 { d } else { slope * d });
    }
}

#[cfg(test)]
pub(super) fn cases() -> Vec<super::Case> {
    use super::Case;
    vec![
        Case::new(LeakyRelu { slope: 0.2 }, &[[2, 3, 4, 5]]),
        Case::new(LeakyRelu { slope: 0.0 }, &[[1, 1, 7, 3]]),
        Case::new(LeakyReluGrad { slope: 0.2 }, &[[2, 3, 4, 5], [2, 3, 4, 5]]),
    ]
}
