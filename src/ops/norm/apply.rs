//! The normalised output, and the invstd of stored variances.

use super::{CHUNK, EPS, GradSums, InputGrad, check_parts, chunks, over_group, part, row};
use crate::device::cpu::{Ctx, Isa, Tile, View};
use crate::device::cuda::{Args, CudaCall, KernelLaunch, Part, PointwiseCode};
use crate::graph::{
    Application, CpuKernel, CpuPointwise, CudaKernel, CudaPointwise, Exec, Kernel, KernelCall, Op, Operands, Pointwise,
    Rounding, Tape, Tensor64, Value,
};
use crate::ops::sum_to::sum_to;
use crate::types::Shape;
use crate::{Error, Result, simd_fn};

/// `(x − mean)·invstd·gamma + beta`: operands x, its statistics and, with affine parameters, gamma and beta
/// (one vector, or one per group). The gradient for x counts the dependence of the statistics on x.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Apply {
    /// Whether ranks share the statistics.
    pub synced: bool,
}

impl Op for Apply {
    fn name(&self) -> &'static str {
        "norm_apply"
    }
    fn shape(&self, inputs: &[Shape]) -> Result<Shape, String> {
        check_parts(inputs[0], inputs[1], 3)?;
        inputs[2..].iter().try_for_each(|s| check_parts(inputs[0], *s, 1))?;
        Ok(inputs[0])
    }
    fn vjp(&self, tape: &mut Tape, at: &Application, d_output: Value) -> Result<Vec<Option<Value>>> {
        let [x, stats] = [at.inputs[0], at.inputs[1]];
        let synced = self.synced;
        let sums = tape.push(GradSums { synced }, &[d_output, x, stats])?;
        let mut d_inputs = vec![None; at.inputs.len()];
        if at.needs[0] {
            let mut operands = vec![d_output, x, stats, over_group(tape, synced, sums)?];
            operands.extend(at.inputs.get(2));
            d_inputs[0] = Some(tape.push(InputGrad { synced }, &operands)?);
        }
        // gamma by Σ d_output·x̂, beta by Σ d_output.
        let channels = tape.shape(x).c();
        for (k, index) in [(2, 1), (3, 0)] {
            if at.needs.get(k) == Some(&true) {
                let sum = part(tape, sums, channels, index)?;
                d_inputs[k] = Some(sum_to(tape, sum, tape.shape(at.inputs[k]))?);
            }
        }
        Ok(d_inputs)
    }
    fn reference(&self, inputs: &[&Tensor64], output: Shape) -> Tensor64 {
        let (x, stats, c) = (inputs[0], inputs[1], output.c());
        Tensor64::from_fn(output, |at| {
            let vector = |k: usize, none: f64| inputs.get(k).map_or(none, |t| t.at([at[0], 0, 0, at[3]]));
            let of = |k: usize| stats.at([at[0], 0, 0, k * c + at[3]]);
            (x.at(at) - of(0)) * of(1) * vector(2, 1.0) + vector(3, 0.0)
        })
    }
    fn exec(&self) -> Exec<'_> {
        Exec::Pointwise(Pointwise::of(self))
    }
    fn rounding(&self) -> Rounding {
        Rounding::Follows
    }
}

impl CpuPointwise for Apply {
    fn apply(&self, isa: Isa, tile: &mut Tile, operands: &Operands) {
        forward(isa, tile, &operands[1], operands.get(2), operands.get(3));
    }
}

impl CudaPointwise for Apply {
    fn code(&self, operands: &[Shape]) -> PointwiseCode {
        let c = operands[0].c();
        let (mean, inv) = (Part { operand: 1, channel: 0 }, Part { operand: 1, channel: c });
        let affine = |k: usize| if k < operands.len() { Part { operand: k, channel: 0 } } else { inv };
        let parts = vec![Part { operand: 0, channel: 0 }, mean, inv, affine(2), affine(3)];
        let has = |k: usize| if k < operands.len() { 1.0 } else { 0.0 };
        PointwiseCode { function: "norm_apply", parts, factors: vec![has(2), has(3)] }
    }
}

simd_fn! {
    fn forward(tile: &mut Tile, stats: &View, gamma: Option<&View>, beta: Option<&View>) {
        let place = tile.place();
        chunks(place, |first, len| {
            let (n, c0, c) = (place.n, place.c0 + first, stats.c() / 3);
            let (mut mean, mut scale, mut shift) = ([0f32; CHUNK], [0f32; CHUNK], [0f32; CHUNK]);
            let stats = row(stats, n);
            mean[..len].copy_from_slice(&stats[c0..c0 + len]);
            scale[..len].copy_from_slice(&stats[c + c0..c + c0 + len]);
            if let Some(gamma) = gamma {
                scale.iter_mut().zip(&row(gamma, n)[c0..c0 + len]).for_each(|(s, g)| *s *= g);
            }
            if let Some(beta) = beta {
                shift[..len].copy_from_slice(&row(beta, n)[c0..c0 + len]);
            }
            for p in 0..place.pixels {
                let values = &mut tile.pixel_mut(p)[first..first + len];
                for (l, v) in values.iter_mut().enumerate() {
                    *v = (*v - mean[l]) * scale[l] + shift[l];
                }
            }
        });
    }
}

/// `1/√(v + 1e-5)` of a stored variance (1,1,1,C); a buffer, so it has no derivative.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct InvStd;

impl Op for InvStd {
    fn name(&self) -> &'static str {
        "norm_inv_std"
    }
    fn shape(&self, inputs: &[Shape]) -> Result<Shape, String> {
        if inputs[0].pixels() == 1 { Ok(inputs[0]) } else { Err(format!("{} is not a vector", inputs[0])) }
    }
    fn vjp(&self, tape: &mut Tape, at: &Application, _d_output: Value) -> Result<Vec<Option<Value>>> {
        let message = "a stored variance cannot be differentiated".into();
        Err(Error::Shape { node: tape.node(at.output).path.to_string(), op: self.name(), message })
    }
    fn reference(&self, inputs: &[&Tensor64], output: Shape) -> Tensor64 {
        Tensor64::new(output, inputs[0].data.iter().map(|v| 1.0 / (v + EPS).sqrt()).collect())
    }
    fn exec(&self) -> Exec<'_> {
        Exec::Kernel(Kernel::of(self))
    }
}

impl CpuKernel for InvStd {
    fn run(&self, _ctx: &Ctx, mut call: KernelCall) {
        let (var, out) = (call.inputs[0].pixel(0), call.output.pixel_mut(0));
        for (o, v) in out.iter_mut().zip(var) {
            *o = (1.0 / (f64::from(*v) + EPS).sqrt()) as f32;
        }
    }
}

impl CudaKernel for InvStd {
    fn launches(&self, call: &CudaCall) -> Vec<KernelLaunch> {
        let args = Args::new().input("variance", call.inputs[0]).output("to", call.output).factor("eps", EPS as f32);
        vec![KernelLaunch::over("norm", "norm_inv_std", call.output.shape.c(), args)]
    }
}
