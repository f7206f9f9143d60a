//! Binary cross-entropy of logits against one target for all of them, as in PyTorch's
//! `binary_cross_entropy_with_logits`:
//!
//! `mean( max(x, 0) − x·target + ln(1 + e^−|x|) )`, and the mean of 1/(1 + e^−x).

use super::flat::{Partials, no_derivative};
use super::pointwise::{map2, reference};
use crate::Result;
use crate::device::cpu::{Ctx, Isa, Tile};
use crate::device::cuda::{Args, CudaCall, KernelLaunch, PointwiseCode};
use crate::graph::{
    Application, CpuKernel, CpuPointwise, CudaKernel, CudaPointwise, Exec, Kernel, KernelCall, Op, Operands, Pointwise,
    Tape, Tensor64, Value,
};
use crate::ops::sum_to::cuda::{Columns, vector_of};
use crate::types::Shape;

/// Pixels of a block whose terms one item adds up.
const BLOCK: usize = 1024;

/// 1/(1 + e^−x) without overflow.
fn sigmoid(x: f64) -> f64 {
    if x >= 0.0 { 1.0 / (1.0 + (-x).exp()) } else { x.exp() / (1.0 + x.exp()) }
}

fn cross_entropy(x: f64, target: f64) -> f64 {
    let positive = if x > 0.0 { x } else { 0.0 };
    positive - x * target + (-x.abs()).exp().ln_1p()
}

/// The mean of `f` over all elements, in f64.
fn run_mean(ctx: &Ctx, mut call: KernelCall, f: impl Fn(f64) -> f64 + Sync) {
    let x = call.inputs[0];
    let blocks = x.pixels().div_ceil(BLOCK);
    let sums = Partials::new(blocks);
    ctx.pool.run(blocks, &|item, _| {
        let pixels = item * BLOCK..x.pixels().min((item + 1) * BLOCK);
        let values = pixels.flat_map(|p| x.pixel(p));
        sums.set(item, values.map(|v| f(f64::from(*v))).sum());
    });
    call.output.pixel_mut(0)[0] = (sums.sum() / x.shape().len() as f64) as f32;
}

/// The launches of a kernel that adds up terms of all logits.
fn cuda_mean(call: &CudaCall, kernel: &'static str, args: impl FnOnce(Args) -> Args) -> Vec<KernelLaunch> {
    let x = call.inputs[0];
    let columns = Columns::new(x.shape, 1);
    let vector = vector_of(&[x]);
    let args = args(columns.args(vector).input("x", x));
    columns.launches(call, ("bce", kernel), (vector, args), false, x.shape.len())
}

fn reference_mean(x: &Tensor64, f: impl Fn(f64) -> f64) -> Tensor64 {
    let sum: f64 = x.data.iter().map(|v| f(*v)).sum();
    Tensor64::new(Shape::SCALAR, vec![sum / x.data.len() as f64])
}

/// Mean binary cross-entropy of logits (any extent) against `target`, a scalar.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BceLogits {
    /// The probability that every logit should have: 1 real, 0 fake, between them smoothed.
    pub target: f32,
}

impl Op for BceLogits {
    fn name(&self) -> &'static str {
        "bce"
    }
    fn shape(&self, _inputs: &[Shape]) -> Result<Shape, String> {
        if (0.0..=1.0).contains(&self.target) {
            Ok(Shape::SCALAR)
        } else {
            Err(format!("target {} is not a probability", self.target))
        }
    }
    fn vjp(&self, tape: &mut Tape, at: &Application, d_output: Value) -> Result<Vec<Option<Value>>> {
        Ok(vec![Some(tape.push(BceLogitsGrad { target: self.target }, &[at.inputs[0], d_output])?)])
    }
    fn reference(&self, inputs: &[&Tensor64], _output: Shape) -> Tensor64 {
        reference_mean(inputs[0], |x| cross_entropy(x, f64::from(self.target)))
    }
    fn exec(&self) -> Exec<'_> {
        Exec::Kernel(Kernel::of(self))
    }
}

impl CpuKernel for BceLogits {
    fn run(&self, ctx: &Ctx, call: KernelCall) {
        run_mean(ctx, call, |x| cross_entropy(x, f64::from(self.target)));
    }
}

impl CudaKernel for BceLogits {
    fn scratch(&self, inputs: &[Shape], _output: Shape) -> usize {
        Columns::new(inputs[0], 1).scratch(1)
    }
    fn launches(&self, call: &CudaCall) -> Vec<KernelLaunch> {
        cuda_mean(call, "bce_logits", |args| args.factor("target", self.target))
    }
}

/// The gradient of [`BceLogits`]: `d_output·(sigmoid(x) − target)/count`, from the logits and the scalar
/// `d_output`. Training differentiates it no further.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BceLogitsGrad {
    /// That of [`BceLogits`].
    pub target: f32,
}

impl BceLogitsGrad {
    fn value(&self, x: f64, d_output: f64, count: usize) -> f64 {
        d_output * (sigmoid(x) - f64::from(self.target)) / count as f64
    }
}

impl Op for BceLogitsGrad {
    fn name(&self) -> &'static str {
        "bce_grad"
    }
    fn shape(&self, inputs: &[Shape]) -> Result<Shape, String> {
        if inputs[1] == Shape::SCALAR { Ok(inputs[0]) } else { Err(format!("d_output is {}, not a scalar", inputs[1])) }
    }
    fn vjp(&self, tape: &mut Tape, at: &Application, _d_output: Value) -> Result<Vec<Option<Value>>> {
        Err(no_derivative(tape, at, self.name()))
    }
    fn reference(&self, inputs: &[&Tensor64], output: Shape) -> Tensor64 {
        reference(inputs, output, |v| self.value(v[0], v[1], output.len()))
    }
    fn exec(&self) -> Exec<'_> {
        Exec::Pointwise(Pointwise::of(self))
    }
}

impl CpuPointwise for BceLogitsGrad {
    fn apply(&self, _isa: Isa, tile: &mut Tile, operands: &Operands) {
        // Logits are few: the exact functions are fast enough.
        let count = operands.shape(0).len();
        map2(tile, &operands[1], |x, d| self.value(f64::from(x), f64::from(d), count) as f32);
    }
}

impl CudaPointwise for BceLogitsGrad {
    fn code(&self, operands: &[Shape]) -> PointwiseCode {
        PointwiseCode::new("bce_grad", 2).with_factors(&[self.target, 1.0 / operands[0].len() as f32])
    }
}

/// The mean of 1/(1 + e^−x) over all logits, a scalar: how real a discriminator finds a batch. A metric,
/// without derivative.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MeanSigmoid;

impl Op for MeanSigmoid {
    fn name(&self) -> &'static str {
        "mean_sigmoid"
    }
    fn shape(&self, _inputs: &[Shape]) -> Result<Shape, String> {
        Ok(Shape::SCALAR)
    }
    fn vjp(&self, tape: &mut Tape, at: &Application, _d_output: Value) -> Result<Vec<Option<Value>>> {
        Err(no_derivative(tape, at, self.name()))
    }
    fn reference(&self, inputs: &[&Tensor64], _output: Shape) -> Tensor64 {
        reference_mean(inputs[0], sigmoid)
    }
    fn exec(&self) -> Exec<'_> {
        Exec::Kernel(Kernel::of(self))
    }
}

impl CpuKernel for MeanSigmoid {
    fn run(&self, ctx: &Ctx, call: KernelCall) {
        run_mean(ctx, call, sigmoid);
    }
}

impl CudaKernel for MeanSigmoid {
    fn scratch(&self, inputs: &[Shape], _output: Shape) -> usize {
        Columns::new(inputs[0], 1).scratch(1)
    }
    fn launches(&self, call: &CudaCall) -> Vec<KernelLaunch> {
        cuda_mean(call, "mean_sigmoid", |args| args)
    }
}

#[cfg(test)]
pub(super) fn cases() -> Vec<super::Case> {
    use super::Case;
    vec![
        Case::new(BceLogits { target: 0.9 }, &[[2, 3, 4, 1]]),
        Case::new(BceLogits { target: 0.0 }, &[[3, 1, 1, 2]]),
        Case::new(BceLogits { target: 1.0 }, &[[2, 40, 30, 1]]).without_gradient(),
        Case::new(BceLogits { target: 0.1 }, &[[2, 60, 80, 1]]).without_gradient(),
        Case::new(BceLogitsGrad { target: 0.9 }, &[[2, 3, 4, 1], [1; 4]]).without_gradient(),
        Case::new(MeanSigmoid, &[[2, 40, 30, 1]]).without_gradient(),
        Case::new(MeanSigmoid, &[[3, 30, 40, 4]]).without_gradient(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extreme_logits_stay_finite_and_nan_stays_nan() {
        assert_eq!(cross_entropy(1e4, 0.0), 1e4);
        assert_eq!(cross_entropy(-1e4, 0.0), 0.0);
        assert_eq!(cross_entropy(-1e4, 1.0), 1e4);
        assert_eq!((sigmoid(1e4), sigmoid(-1e4)), (1.0, 0.0));
        assert!(cross_entropy(f64::NAN, 0.5).is_nan() && sigmoid(f64::NAN).is_nan());
    }

    #[test]
    fn values_are_those_of_torch() {
        // torch.nn.functional.binary_cross_entropy_with_logits in float64.
        let x = Tensor64::new(Shape::vector(4), vec![-2.0, -0.25, 0.5, 3.0]);
        let value = |target: f32| BceLogits { target }.reference(&[&x], Shape::SCALAR).data[0];
        assert!((value(0.0) - 1.1813829416689163).abs() < 1e-12);
        assert!((value(0.5) - 1.0251329416689163).abs() < 1e-12);
        assert!((MeanSigmoid.reference(&[&x], Shape::SCALAR).data[0] - 0.5330149697901518).abs() < 1e-12);
        assert!(BceLogits { target: 1.5 }.shape(&[x.shape]).is_err());
    }
}
