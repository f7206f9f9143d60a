//! Statistics of a batch that is spread over ranks, from those of each rank's part.

use super::{EPS, Over, Statistics};
use crate::Result;
use crate::device::cpu::{Ctx, View};
use crate::device::cuda::{Args, CudaCall, KernelLaunch};
use crate::graph::{Application, CpuKernel, CudaKernel, Exec, Kernel, KernelCall, Op, Tape, Tensor64, Value};
use crate::ops::rank_mean::RankRows;
use crate::types::Shape;

/// The statistics of x (N,H,W,C) over the batches of `ranks` ranks, (1,1,1,3C), the same bits on each.
pub(super) fn joined(tape: &mut Tape, x: Value, ranks: usize) -> Result<Value> {
    let own = tape.push(Statistics { over: Over::Batch }, &[x])?;
    if ranks == 1 {
        return Ok(own);
    }
    let rows = tape.push(RankRows { ranks }, &[own])?;
    tape.push(Joined, &[rows])
}

/// Statistics (1,1,1,3C) from those of parts of equally many pixels (R,1,1,3C):
/// `mean = m(mean_r)`, `var = m(var_r + (mean_r − mean)²)` with m = mean over the parts. No gradient flows through the
/// result; see the [module's page](super).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Joined;

/// Mean, invstd and biased variance from the (mean, variance) of each part.
fn join(parts: impl Iterator<Item = [f64; 2]> + Clone) -> [f64; 3] {
    let count = parts.clone().count() as f64;
    let mean = parts.clone().map(|[mean, _]| mean).sum::<f64>() / count;
    let var = parts.map(|[m, var]| var + (m - mean).powi(2)).sum::<f64>() / count;
    [mean, 1.0 / (var + EPS).sqrt(), var]
}

impl Op for Joined {
    fn name(&self) -> &'static str {
        "norm_joined"
    }
    fn shape(&self, inputs: &[Shape]) -> Result<Shape, String> {
        match inputs[0].0 {
            [_, 1, 1, c] if c % 3 == 0 => Ok(Shape::vector(c)),
            _ => Err(format!("{} does not hold three values per channel of each part", inputs[0])),
        }
    }
    fn vjp(&self, _tape: &mut Tape, _at: &Application, _d_output: Value) -> Result<Vec<Option<Value>>> {
        Ok(vec![None])
    }
    fn reference(&self, inputs: &[&Tensor64], output: Shape) -> Tensor64 {
        let (rows, channels) = (inputs[0], output.c() / 3);
        Tensor64::from_fn(output, |[_, _, _, i]| {
            let (k, c) = (i / channels, i % channels);
            let of = |r: usize, k: usize| rows.at([r, 0, 0, k * channels + c]);
            join((0..rows.shape.n()).map(|r| [of(r, 0), of(r, 2)]))[k]
        })
    }
    fn exec(&self) -> Exec<'_> {
        Exec::Kernel(Kernel::of(self))
    }
}

impl CpuKernel for Joined {
    fn run(&self, _ctx: &Ctx, mut call: KernelCall) {
        let (rows, channels): (View, usize) = (call.inputs[0], call.output.c() / 3);
        let to = call.output.pixel_mut(0);
        for c in 0..channels {
            let parts = (0..rows.n()).map(|r| [0, 2].map(|k| f64::from(rows.pixel(r)[k * channels + c])));
            for (k, value) in join(parts).into_iter().enumerate() {
                to[k * channels + c] = value as f32;
            }
        }
    }
}

impl CudaKernel for Joined {
    fn launches(&self, call: &CudaCall) -> Vec<KernelLaunch> {
        let args = Args::new().input("x", call.inputs[0]).output("to", call.output).factor("eps", EPS as f32);
        vec![KernelLaunch::over("norm", "norm_joined", call.output.shape.c() / 3, args)]
    }
}
