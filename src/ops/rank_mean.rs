//! Values over the ranks of a run: their mean ([`RankMean`]), all of them ([`RankRows`]), and states that become their mean
//! at a step's end ([`RankMeanCommit`]): running statistics, which each rank measures on its own batch.
//!
//! The kernels here bring what this rank has; the device does the rest between the ranks ([`OverRanks`]). For one process
//! alone a mean is the operand.
//!
//! **Derivatives.** A rank minimises its own loss, and gradients of parameters are averaged over ranks. So a gradient on a
//! tape is that of the sum of all ranks' losses for this rank's copy of a value. The mean of `x` reaches every rank's loss
//! with 1/R: the gradient for `x` is the mean of the ranks' gradients for the output.

use super::flat::no_derivative;
use crate::Result;
use crate::device::cpu::{Ctx, View, ViewMut};
use crate::device::cuda::{Args, CudaCall, CudaCommitCall, KernelLaunch};
use crate::graph::{
    Application, CommitOp, CpuCommit, CpuKernel, CudaCommit, CudaKernel, Exec, Kernel, KernelCall, Op, OverRanks, Tape,
    Tensor64, Value,
};
use crate::types::Shape;

/// The mean over ranks of a vector (1,1,1,C).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RankMean;

/// The vectors (1,1,1,C) of all ranks, one image each: (ranks,1,1,C).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RankRows {
    /// Number of ranks.
    pub ranks: usize,
}

/// `states[i] = mean over ranks of states[i]`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RankMeanCommit;

fn vector(inputs: &[Shape]) -> Result<usize, String> {
    let [n, h, w, c] = inputs[0].0;
    if [n, h, w] == [1; 3] { Ok(c) } else { Err(format!("{} is not a vector", inputs[0])) }
}

impl Op for RankMean {
    fn name(&self) -> &'static str {
        "rank_mean"
    }
    fn shape(&self, inputs: &[Shape]) -> Result<Shape, String> {
        vector(inputs).map(Shape::vector)
    }
    fn vjp(&self, tape: &mut Tape, _at: &Application, d_output: Value) -> Result<Vec<Option<Value>>> {
        Ok(vec![Some(tape.push(RankMean, &[d_output])?)])
    }
    fn reference(&self, inputs: &[&Tensor64], _output: Shape) -> Tensor64 {
        inputs[0].clone()
    }
    fn exec(&self) -> Exec<'_> {
        Exec::Kernel(Kernel::of(self).with_ranks(OverRanks::Mean))
    }
}

impl CpuKernel for RankMean {
    fn run(&self, _ctx: &Ctx, call: KernelCall) {
        repeat(call);
    }
}

impl CudaKernel for RankMean {
    fn launches(&self, call: &CudaCall) -> Vec<KernelLaunch> {
        vec![repetition(call)]
    }
}

impl Op for RankRows {
    fn name(&self) -> &'static str {
        "rank_mean_rows"
    }
    fn shape(&self, inputs: &[Shape]) -> Result<Shape, String> {
        Ok(Shape([self.ranks, 1, 1, vector(inputs)?]))
    }
    fn vjp(&self, tape: &mut Tape, at: &Application, _d_output: Value) -> Result<Vec<Option<Value>>> {
        Err(no_derivative(tape, at, self.name()))
    }
    fn reference(&self, inputs: &[&Tensor64], output: Shape) -> Tensor64 {
        Tensor64::from_fn(output, |[_, y, x, c]| inputs[0].at([0, y, x, c]))
    }
    fn exec(&self) -> Exec<'_> {
        Exec::Kernel(Kernel::of(self).with_ranks(OverRanks::Rows))
    }
}

impl CpuKernel for RankRows {
    fn run(&self, _ctx: &Ctx, call: KernelCall) {
        repeat(call);
    }
}

impl CudaKernel for RankRows {
    fn launches(&self, call: &CudaCall) -> Vec<KernelLaunch> {
        vec![repetition(call)]
    }
}

/// Copies the operand to each row of the output.
fn repeat(mut call: KernelCall) {
    for row in 0..call.output.pixels() {
        call.output.pixel_mut(row).copy_from_slice(call.inputs[0].pixel(0));
    }
}

/// The launch that does what [`repeat`] does.
fn repetition(call: &CudaCall) -> KernelLaunch {
    let args = Args::new().input("x", call.inputs[0]).output("to", call.output);
    KernelLaunch::over("rank_mean", "rank_mean_rows", call.output.shape.len(), args)
}

impl CommitOp for RankMeanCommit {
    fn name(&self) -> &'static str {
        "rank_mean_commit"
    }
    fn is_over_ranks(&self) -> bool {
        true
    }
}

impl CpuCommit for RankMeanCommit {
    fn run(&self, _ctx: &Ctx, _inputs: &[View], _states: &mut [ViewMut]) {}
}

impl CudaCommit for RankMeanCommit {
    fn launches(&self, _call: &CudaCommitCall) -> Vec<KernelLaunch> {
        vec![]
    }
}

#[cfg(test)]
pub(super) fn cases() -> Vec<super::Case> {
    use super::Case;
    vec![
        Case::new(RankMean, &[[1, 1, 1, 70]]),
        Case::new(RankMean, &[[1, 1, 1, 1]]),
        Case::new(RankRows { ranks: 3 }, &[[1, 1, 1, 70]]).without_gradient(),
    ]
}
