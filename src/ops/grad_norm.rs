//! The L2 norm of a network's gradients and the factor that clips it:
//! `clip_scale = min(1, max_norm/(norm + 1e-6))`.

use super::flat::{Partials, block_count, cuda_blocks, for_blocks, no_derivative, rows, scalar};
use crate::device::cpu::Ctx;
use crate::device::cuda::{Args, CudaCall, KernelLaunch};
use crate::graph::{Application, CpuKernel, CudaKernel, Exec, Kernel, KernelCall, Op, Tape, Tensor64, Value};
use crate::types::Shape;
use crate::{Result, simd_fn};

/// √Σ g² of a flat bucket (1,1,1,n), a scalar. Summed in f64 over fixed blocks: it overflows only where the
/// norm itself does.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GradNorm;

impl Op for GradNorm {
    fn name(&self) -> &'static str {
        "grad_norm"
    }
    fn shape(&self, inputs: &[Shape]) -> Result<Shape, String> {
        let bucket = inputs[0];
        if bucket == Shape::vector(bucket.c()) { Ok(Shape::SCALAR) } else { Err(format!("{bucket} is not flat")) }
    }
    fn vjp(&self, tape: &mut Tape, at: &Application, _d_output: Value) -> Result<Vec<Option<Value>>> {
        Err(no_derivative(tape, at, self.name()))
    }
    fn reference(&self, inputs: &[&Tensor64], output: Shape) -> Tensor64 {
        Tensor64::new(output, vec![inputs[0].data.iter().map(|g| g * g).sum::<f64>().sqrt()])
    }
    fn exec(&self) -> Exec<'_> {
        Exec::Kernel(Kernel::of(self))
    }
}

impl CpuKernel for GradNorm {
    fn run(&self, ctx: &Ctx, mut call: KernelCall) {
        let grad = call.inputs[0];
        let sums = Partials::new(block_count(grad.c()));
        for_blocks(ctx, grad.c(), &|block, item| {
            sums.set(item, sum_of_squares(ctx.isa, &grad.dense()[block]));
        });
        call.output.pixel_mut(0)[0] = sums.sum().sqrt() as f32;
    }
}

impl CudaKernel for GradNorm {
    /// One double for each block.
    fn scratch(&self, inputs: &[Shape], _output: Shape) -> usize {
        2 * cuda_blocks(inputs[0].len())
    }
    fn launches(&self, call: &CudaCall) -> Vec<KernelLaunch> {
        let ([grad], vector) = rows([call.inputs[0]]);
        let blocks = cuda_blocks(grad.shape.len());
        let partials = |args: Args| args.pointer("partials", "double", call.scratch);
        let squares = partials(Args::new().input("grad", grad).fixed("V", vector));
        let root = partials(Args::new().output("output", call.output).size("count", blocks));
        vec![
            KernelLaunch::new("grad_norm", "grad_norm_squares", blocks, squares),
            KernelLaunch::new("grad_norm", "grad_norm_root", 1, root),
        ]
    }
}

simd_fn! {
    fn sum_of_squares(values: &[f32]) -> f64 {
        let mut lanes = [0f64; 16];
        let (chunks, rest) = values.as_chunks::<16>();
        for chunk in chunks {
            for (sum, v) in lanes.iter_mut().zip(chunk) {
                *sum += f64::from(*v) * f64::from(*v);
            }
        }
        for (sum, v) in lanes.iter_mut().zip(rest) {
            *sum += f64::from(*v) * f64::from(*v);
        }
        lanes.iter().sum()
    }
}

/// The factor for gradients of a given norm (a scalar), so that their norm is at most `max_norm`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ClipScale {
    /// Largest norm.
    pub max_norm: f32,
}

impl ClipScale {
    fn value(&self, norm: f64) -> f64 {
        let scale = f64::from(self.max_norm) / (norm + 1e-6);
        // A norm that is not a number stays visible.
        if scale > 1.0 { 1.0 } else { scale }
    }
}

impl Op for ClipScale {
    fn name(&self) -> &'static str {
        "clip_scale"
    }
    fn shape(&self, inputs: &[Shape]) -> Result<Shape, String> {
        if inputs == [Shape::SCALAR] { Ok(Shape::SCALAR) } else { Err(format!("the norm is {inputs:?}, not a scalar")) }
    }
    fn vjp(&self, tape: &mut Tape, at: &Application, _d_output: Value) -> Result<Vec<Option<Value>>> {
        Err(no_derivative(tape, at, self.name()))
    }
    fn reference(&self, inputs: &[&Tensor64], output: Shape) -> Tensor64 {
        Tensor64::new(output, vec![self.value(inputs[0].data[0])])
    }
    fn exec(&self) -> Exec<'_> {
        Exec::Kernel(Kernel::of(self))
    }
}

impl CpuKernel for ClipScale {
    fn run(&self, _ctx: &Ctx, mut call: KernelCall) {
        let norm = f64::from(scalar(&call.inputs[0]));
        call.output.pixel_mut(0)[0] = self.value(norm) as f32;
    }
}

impl CudaKernel for ClipScale {
    fn launches(&self, call: &CudaCall) -> Vec<KernelLaunch> {
        let args = Args::new().input("norm", call.inputs[0]).output("output", call.output);
        vec![KernelLaunch::new("grad_norm", "clip_scale", 1, args.factor("max_norm", self.max_norm)).with_threads(32)]
    }
}

#[cfg(test)]
pub(super) fn cases() -> Vec<super::Case> {
    use super::Case;
    let positive = |_, shape: Shape| Tensor64::new(shape, vec![0.75]);
    vec![
        Case::new(GradNorm, &[[1, 1, 1, 5]]).without_gradient(),
        Case::new(GradNorm, &[[1, 1, 1, 40_003]]).without_gradient(),
        Case::new(ClipScale { max_norm: 0.5 }, &[[1; 4]]).with_data(positive).without_gradient(),
        Case::new(ClipScale { max_norm: 2.0 }, &[[1; 4]]).with_data(positive).without_gradient(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gradients_whose_squares_overflow_are_measured_and_clipped() {
        let isa = crate::device::cpu::Isa::detect();
        let norm = sum_of_squares(isa, &[3e30, 0.0, -4e30]).sqrt();
        assert!((norm / 5e30 - 1.0).abs() < 1e-6);
        let scale = ClipScale { max_norm: 0.5 }.value(norm);
        assert!((scale * norm - 0.5).abs() < 1e-6);
    }

    #[test]
    fn a_norm_that_is_not_a_number_is_not_hidden() {
        assert!(sum_of_squares(crate::device::cpu::Isa::detect(), &[1.0, f32::NAN]).is_nan());
        assert!(ClipScale { max_norm: 0.5 }.value(f64::NAN).is_nan());
        assert_eq!(ClipScale { max_norm: 0.5 }.value(0.0), 1.0);
    }

    #[test]
    fn metrics_cannot_be_differentiated() {
        let mut tape = Tape::new();
        let grad = tape.input("grad", Shape::vector(4), crate::types::DType::F32);
        let norm = tape.push(GradNorm, &[grad]).unwrap();
        let one = tape.scalar(1.0);
        let error = tape.gradients(&[(norm, one)], &[grad]).unwrap_err().to_string();
        assert!(error.contains("no derivative"), "{error}");
    }
}
