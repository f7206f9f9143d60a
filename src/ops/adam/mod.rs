//! Adam (Kingma and Ba, "Adam: a method for stochastic optimization", ICLR 2015) over a network's flat buffer
//! of n parameters, in PyTorch's order of operations:
//!
//! ```text
//! g = clip_scale·grad (+ weight_decay·w in the decayed ranges)
//! m = β₁·m + (1 − β₁)·g          v = β₂·v + (1 − β₂)·g²
//! w = w − lr/(1 − β₁ᵗ) · m / (√v/√(1 − β₂ᵗ) + ε)
//! ```
//!
//! [`AdamWeights`] computes the new weights only, for a step that goes on with them before it is certain that
//! it counts; [`AdamCommit`] changes the states. Both give the same bits.

use std::ops::Range;

use super::flat::{cuda_blocks, for_blocks, rows, scalar};
use crate::device::cpu::{Ctx, View, ViewMut};
use crate::device::cuda::{Args, CudaCall, CudaCommitCall, DeviceView, KernelLaunch};
use crate::graph::{
    Application, CommitOp, CpuCommit, CpuKernel, CudaCommit, CudaKernel, Exec, Kernel, KernelCall, Op, Tape, Tensor64,
    Value,
};
use crate::types::Shape;
use crate::{Result, simd_fn};

/// What does not change from step to step.
#[derive(Clone, Debug, PartialEq)]
pub struct Adam {
    /// Decay of the first moment, β₁.
    pub beta1: f64,
    /// Decay of the second moment, β₂.
    pub beta2: f64,
    /// Added to the root of the second moment, ε.
    pub eps: f64,
    /// Factor of the weights that is added to their gradient after clipping.
    pub weight_decay: f64,
    /// Elements of the flat buffer that decay: (start, end), ascending and without overlap.
    pub decayed: Vec<(usize, usize)>,
}

/// The numbers of one update.
#[derive(Clone, Copy, Debug)]
struct Coefficients<T> {
    beta1: T,
    rest1: T,
    beta2: T,
    rest2: T,
    step_size: T,
    root_correction2: T,
    eps: T,
    clip_scale: T,
}

impl Adam {
    /// The numbers of the update that follows `done` updates.
    fn coefficients(&self, lr: f64, clip_scale: f64, done: f64) -> Coefficients<f64> {
        let t = done + 1.0;
        Coefficients {
            beta1: self.beta1,
            rest1: 1.0 - self.beta1,
            beta2: self.beta2,
            rest2: 1.0 - self.beta2,
            step_size: lr / (1.0 - self.beta1.powf(t)),
            root_correction2: (1.0 - self.beta2.powf(t)).sqrt(),
            eps: self.eps,
            clip_scale,
        }
    }

    fn coefficients_f32(&self, lr: &View, clip_scale: &View, done: f32) -> Coefficients<f32> {
        let c = self.coefficients(f64::from(scalar(lr)), f64::from(scalar(clip_scale)), f64::from(done));
        Coefficients {
            beta1: c.beta1 as f32,
            rest1: c.rest1 as f32,
            beta2: c.beta2 as f32,
            rest2: c.rest2 as f32,
            step_size: c.step_size as f32,
            root_correction2: c.root_correction2 as f32,
            eps: c.eps as f32,
            clip_scale: c.clip_scale as f32,
        }
    }

    /// Cuts `block` where decay starts or ends; each part comes with its weight decay.
    fn segments(&self, block: Range<usize>) -> Vec<(Range<usize>, f32)> {
        let mut parts = Vec::new();
        let mut start = block.start;
        if self.weight_decay != 0.0 {
            let first = self.decayed.partition_point(|r| r.1 <= block.start);
            for &(from, to) in self.decayed[first..].iter().take_while(|r| r.0 < block.end) {
                let decayed = from.max(start)..to.min(block.end);
                parts.push((start..decayed.start, 0.0));
                start = decayed.end;
                parts.push((decayed, self.weight_decay as f32));
            }
        }
        parts.push((start..block.end, 0.0));
        parts.retain(|(r, _)| !r.is_empty());
        parts
    }

    /// What both kernels know: the constants, and the scalars `lr clip_scale t`.
    fn cuda_args(&self, [lr, clip_scale, t]: [DeviceView; 3]) -> Args {
        let decayed: &[(usize, usize)] = if self.weight_decay == 0.0 { &[] } else { &self.decayed };
        Args::new()
            .double("beta1", self.beta1)
            .double("beta2", self.beta2)
            .factor("eps", self.eps as f32)
            .factor("weight_decay", self.weight_decay as f32)
            .table("decayed", decayed.iter().flat_map(|r| [r.0, r.1]))
            .input("lr", lr)
            .input("clip_scale", clip_scale)
            .input("done", t)
    }

    fn check(&self, len: usize) -> Result<(), String> {
        let ordered = self.decayed.windows(2).all(|pair| pair[0].1 <= pair[1].0);
        if !ordered || self.decayed.iter().any(|r| r.0 > r.1 || r.1 > len) {
            return Err(format!("decayed ranges must ascend inside 0..{len}"));
        }
        Ok(())
    }
}

/// One element's new weight and moments.
macro_rules! update {
    ($c:expr, $decay:expr, $w:expr, $m:expr, $v:expr, $g:expr) => {{
        let g = $c.clip_scale * $g + $decay * $w;
        let m = $c.beta1 * $m + $c.rest1 * g;
        let v = $c.beta2 * $v + $c.rest2 * (g * g);
        let denominator = v.sqrt() / $c.root_correction2 + $c.eps;
        ($w - $c.step_size * (m / denominator), m, v)
    }};
}

simd_fn! {
    fn new_weights(c: &Coefficients<f32>, decay: f32, state: [&[f32]; 3], grad: &[f32], output: &mut [f32]) {
        let n = output.len();
        let ([w, m, v], grad) = (state.map(|s| &s[..n]), &grad[..n]);
        for i in 0..n {
            output[i] = update!(c, decay, w[i], m[i], v[i], grad[i]).0;
        }
    }
}
simd_fn! {
    fn update_states(c: &Coefficients<f32>, decay: f32, state: [&mut [f32]; 3], grad: &[f32]) {
        let n = grad.len();
        let [w, m, v] = state.map(|s| &mut s[..n]);
        for i in 0..n {
            (w[i], m[i], v[i]) = update!(c, decay, w[i], m[i], v[i], grad[i]);
        }
    }
}

/// The new weights, from `weights exp_avg exp_avg_sq grad` (all (1,1,1,n)) and the scalars
/// `lr clip_scale t`, where t is the number of updates done so far.
///
/// A step takes the new weights as given: no gradient flows back through the update.
#[derive(Clone, Debug, PartialEq)]
pub struct AdamWeights(pub Adam);

impl Op for AdamWeights {
    fn name(&self) -> &'static str {
        "adam"
    }
    fn shape(&self, inputs: &[Shape]) -> Result<Shape, String> {
        let weights = inputs[0];
        if weights != Shape::vector(weights.c()) || inputs[..4].iter().any(|s| *s != weights) {
            return Err(format!("weights, moments and gradient must be flat and of one length: {:?}", &inputs[..4]));
        }
        if inputs[4..] != [Shape::SCALAR; 3] {
            return Err(format!("learning rate, clip scale and count must be scalars: {:?}", &inputs[4..]));
        }
        self.0.check(weights.c())?;
        Ok(weights)
    }
    fn vjp(&self, _tape: &mut Tape, at: &Application, _d_output: Value) -> Result<Vec<Option<Value>>> {
        Ok(vec![None; at.inputs.len()])
    }
    fn reference(&self, inputs: &[&Tensor64], output: Shape) -> Tensor64 {
        let [w, m, v, grad, lr, clip_scale, t] = inputs else { unreachable!("checked by `shape`") };
        let c = self.0.coefficients(lr.data[0], clip_scale.data[0], t.data[0]);
        let is_decayed = |i: usize| self.0.decayed.iter().any(|r| (r.0..r.1).contains(&i));
        let weight = |i: usize| {
            let decay = if is_decayed(i) { self.0.weight_decay } else { 0.0 };
            update!(c, decay, w.data[i], m.data[i], v.data[i], grad.data[i]).0
        };
        Tensor64::new(output, (0..output.len()).map(weight).collect())
    }
    fn exec(&self) -> Exec<'_> {
        Exec::Kernel(Kernel::of(self))
    }
}

impl CpuKernel for AdamWeights {
    fn run(&self, ctx: &Ctx, call: KernelCall) {
        let [weights, exp_avg, exp_avg_sq, grad, lr, clip_scale, t] = call.inputs else {
            unreachable!("checked by `shape`")
        };
        let c = self.0.coefficients_f32(lr, clip_scale, scalar(t));
        let output = call.output;
        for_blocks(ctx, output.shape().len(), &|block, _| {
            for (part, decay) in self.0.segments(block) {
                // SAFETY: flat buffers are contiguous; each block is written by one item.
                unsafe {
                    let state = [weights, exp_avg, exp_avg_sq].map(|s| &s.dense()[part.clone()]);
                    new_weights(ctx.isa, &c, decay, state, &grad.dense()[part.clone()], output.part(part));
                }
            }
        });
    }
}

impl CudaKernel for AdamWeights {
    fn launches(&self, call: &CudaCall) -> Vec<KernelLaunch> {
        let i = call.inputs;
        let ([weights, exp_avg, exp_avg_sq, grad, output], vector) = rows([i[0], i[1], i[2], i[3], call.output]);
        let args = self.0.cuda_args([i[4], i[5], i[6]]).input("weights", weights).input("exp_avg", exp_avg);
        let args = args.input("exp_avg_sq", exp_avg_sq).input("grad", grad).output("output", output);
        vec![KernelLaunch::new("adam", "adam_weights", cuda_blocks(grad.shape.len()), args.fixed("V", vector))]
    }
}

/// One update: inputs `grad lr clip_scale`, states `weights exp_avg exp_avg_sq t`; counts it in t.
///
/// t is exact up to 2²⁴ updates, where the bias corrections have long been 1, and stays there.
#[derive(Clone, Debug, PartialEq)]
pub struct AdamCommit(pub Adam);

impl CommitOp for AdamCommit {
    fn name(&self) -> &'static str {
        "adam_commit"
    }
}

impl CpuCommit for AdamCommit {
    fn run(&self, ctx: &Ctx, inputs: &[View], states: &mut [ViewMut]) {
        let ([grad, lr, clip_scale], [weights, exp_avg, exp_avg_sq, t]) = (inputs, states) else {
            unreachable!("three inputs and four states")
        };
        let done = scalar(&t.as_view());
        let c = self.0.coefficients_f32(lr, clip_scale, done);
        for_blocks(ctx, grad.shape().len(), &|block, _| {
            for (part, decay) in self.0.segments(block) {
                // SAFETY: flat buffers are contiguous; each block is changed by one item.
                unsafe {
                    let state = [&*weights, &*exp_avg, &*exp_avg_sq].map(|s| s.part(part.clone()));
                    update_states(ctx.isa, &c, decay, state, &grad.dense()[part]);
                }
            }
        });
        t.pixel_mut(0)[0] = done + 1.0;
    }
}

impl CudaCommit for AdamCommit {
    fn launches(&self, call: &CudaCommitCall) -> Vec<KernelLaunch> {
        let (i, s) = (call.inputs, call.states);
        let ([weights, exp_avg, exp_avg_sq, grad], vector) = rows([s[0], s[1], s[2], i[0]]);
        let args = self.0.cuda_args([i[1], i[2], s[3]]).output("weights", weights).output("exp_avg", exp_avg);
        let args = args.output("exp_avg_sq", exp_avg_sq).input("grad", grad).fixed("V", vector);
        let ok = |args: Args| args.pointer("ok", "const int", call.ok);
        vec![
            KernelLaunch::new("adam", "adam_commit", cuda_blocks(grad.shape.len()), ok(args)),
            // Apart, as every block of the update reads the count.
            KernelLaunch::new("adam", "adam_count", 1, ok(Args::new().output("done", s[3]))).with_threads(32),
        ]
    }
}

#[cfg(test)]
pub(super) fn cases() -> Vec<super::Case> {
    use super::Case;
    // Second moments are positive, the count is whole, rates are small.
    let data = |operand: usize, shape: Shape| {
        Tensor64::from_fn(shape, |[.., i]| match operand {
            2 => 0.02 + (i % 7) as f64 * 0.0625,
            4 => 0.0078125,
            5 => 0.75,
            6 => 3.0,
            _ => ((i * (operand + 3)) as f64 * 0.7).sin() as f32 as f64,
        })
    };
    let adam =
        Adam { beta1: 0.5, beta2: 0.99, eps: 1e-7, weight_decay: 0.25, decayed: vec![(3, 9), (9, 11), (60, 64)] };
    let case = |adam: Adam, n: usize| {
        let (flat, scalar) = ([1, 1, 1, n], [1; 4]);
        Case::new(AdamWeights(adam), &[flat, flat, flat, flat, scalar, scalar, scalar]).with_data(data)
    };
    let long = Adam { beta1: 0.0, decayed: vec![(100, 16_400), (30_000, 40_000)], ..adam.clone() };
    vec![case(adam, 67).without_gradient(), case(long, 40_000).without_gradient()]
}

#[cfg(test)]
mod tests;
