//! States that become their means over the ranks of a run: running statistics, which each rank measures on its own batch.

use crate::device::cpu::{Ctx, View, ViewMut};
use crate::device::cuda::{CudaCommitCall, KernelLaunch};
use crate::graph::{CommitOp, CpuCommit, CudaCommit};

/// `states[i] = mean over ranks of states[i]`. A device that is one of several ranks does it; for one alone there is nothing
/// to do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RankMean;

impl CommitOp for RankMean {
    fn name(&self) -> &'static str {
        "rank_mean"
    }

    fn is_over_ranks(&self) -> bool {
        true
    }
}

impl CpuCommit for RankMean {
    fn run(&self, _ctx: &Ctx, _inputs: &[View], _states: &mut [ViewMut]) {}
}

impl CudaCommit for RankMean {
    fn launches(&self, _call: &CudaCommitCall) -> Vec<KernelLaunch> {
        vec![]
    }
}
