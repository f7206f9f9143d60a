//! Exponential moving average of weights: `ema = d·ema + (1 − d)·live`, with d = `decay`, or
//! min(`decay`, (1 + k)/(10 + k)) at the k-th update, so that the initial weights are soon forgotten.

use super::flat::{cuda_blocks, for_blocks, no_derivative, rows, scalar};
use crate::device::cpu::{Ctx, View, ViewMut};
use crate::device::cuda::{Args, CudaCall, CudaCommitCall, KernelLaunch};
use crate::graph::{
    Application, CommitOp, CpuCommit, CpuKernel, CudaCommit, CudaKernel, Exec, Kernel, KernelCall, Op, Tape, Tensor64,
    Value,
};
use crate::types::Shape;
use crate::{Result, simd_fn};

/// The decay of update number `k`, from 1.
fn decay_at(decay: f64, use_num_updates: bool, k: f64) -> f64 {
    if use_num_updates { decay.min((1.0 + k) / (10.0 + k)) } else { decay }
}

fn decay_args(decay: f64, use_num_updates: bool) -> Args {
    Args::new().double("decay", decay).size("use_num_updates", usize::from(use_num_updates))
}

/// The decay of the update that a step makes, for the log: operands `enabled num_updates` (scalars, the
/// number before the step); 0 if `enabled` is 0.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EmaDecay {
    /// Largest decay.
    pub decay: f64,
    /// Start with a smaller decay that grows with the number of updates.
    pub use_num_updates: bool,
}

impl EmaDecay {
    fn value(&self, enabled: f64, num_updates: f64) -> f64 {
        if enabled == 0.0 { 0.0 } else { decay_at(self.decay, self.use_num_updates, num_updates + 1.0) }
    }
}

impl Op for EmaDecay {
    fn name(&self) -> &'static str {
        "ema_decay"
    }
    fn shape(&self, inputs: &[Shape]) -> Result<Shape, String> {
        if inputs == [Shape::SCALAR; 2] {
            Ok(Shape::SCALAR)
        } else {
            Err(format!("operands must be scalars: {inputs:?}"))
        }
    }
    fn vjp(&self, tape: &mut Tape, at: &Application, _d_output: Value) -> Result<Vec<Option<Value>>> {
        Err(no_derivative(tape, at, self.name()))
    }
    fn reference(&self, inputs: &[&Tensor64], output: Shape) -> Tensor64 {
        Tensor64::new(output, vec![self.value(inputs[0].data[0], inputs[1].data[0])])
    }
    fn exec(&self) -> Exec<'_> {
        Exec::Kernel(Kernel::of(self))
    }
}

impl CpuKernel for EmaDecay {
    fn run(&self, _ctx: &Ctx, mut call: KernelCall) {
        let [enabled, num_updates] = [0, 1].map(|i| f64::from(scalar(&call.inputs[i])));
        call.output.pixel_mut(0)[0] = self.value(enabled, num_updates) as f32;
    }
}

impl CudaKernel for EmaDecay {
    fn launches(&self, call: &CudaCall) -> Vec<KernelLaunch> {
        let args = decay_args(self.decay, self.use_num_updates).input("enabled", call.inputs[0]);
        let args = args.input("num_updates", call.inputs[1]).output("output", call.output);
        vec![KernelLaunch::new("ema", "ema_decay", 1, args).with_threads(32)]
    }
}

/// One update of the average: input `enabled` (0: nothing happens), states `ema live num_updates`. It comes
/// after the commit that changes the live weights.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EmaCommit {
    /// Largest decay.
    pub decay: f64,
    /// Start with a smaller decay that grows with the number of updates.
    pub use_num_updates: bool,
}

impl CommitOp for EmaCommit {
    fn name(&self) -> &'static str {
        "ema_commit"
    }
}

impl CpuCommit for EmaCommit {
    fn run(&self, ctx: &Ctx, inputs: &[View], states: &mut [ViewMut]) {
        let ([enabled], [ema, live, num_updates]) = (inputs, states) else {
            unreachable!("one input and three states")
        };
        if scalar(enabled) == 0.0 {
            return;
        }
        let k = scalar(&num_updates.as_view()) + 1.0;
        let decay = decay_at(self.decay, self.use_num_updates, f64::from(k));
        let live = live.as_view();
        let ema = &*ema;
        for_blocks(ctx, ema.shape().len(), &|block, _| {
            // SAFETY: flat states are contiguous; each block is changed by one item.
            unsafe {
                let average = ema.part(block.clone());
                lerp(ctx.isa, average, &live.dense()[block], decay as f32, (1.0 - decay) as f32);
            }
        });
        num_updates.pixel_mut(0)[0] = k;
    }
}

impl CudaCommit for EmaCommit {
    fn launches(&self, call: &CudaCommitCall) -> Vec<KernelLaunch> {
        let ([ema, live], vector) = rows([call.states[0], call.states[1]]);
        let counted = |args: Args| args.output("num_updates", call.states[2]);
        let update = decay_args(self.decay, self.use_num_updates).output("ema", ema).input("live", live);
        let update = guarded(counted(update.fixed("V", vector)), call);
        vec![
            KernelLaunch::new("ema", "ema_commit", cuda_blocks(ema.shape.len()), update),
            // Apart, as every thread of the update reads the number.
            KernelLaunch::new("ema", "ema_count", 1, guarded(counted(Args::new()), call)).with_threads(32),
        ]
    }
}

/// What decides whether the average changes.
fn guarded(args: Args, call: &CudaCommitCall) -> Args {
    args.input("enabled", call.inputs[0]).pointer("ok", "const int", call.ok)
}

simd_fn! {
    /// The nearer end is the starting point, as in PyTorch's `lerp`: a weight of 1 copies.
    fn lerp(average: &mut [f32], live: &[f32], decay: f32, weight: f32) {
        if weight < 0.5 {
            average.iter_mut().zip(live).for_each(|(a, l)| *a += weight * (l - *a));
        } else {
            average.iter_mut().zip(live).for_each(|(a, l)| *a = l - (l - *a) * decay);
        }
    }
}

/// Copies a buffer (running statistics are not averaged) beside an update of the average: input `enabled`
/// (0: nothing happens), states `ema live`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EmaBuffers;

impl CommitOp for EmaBuffers {
    fn name(&self) -> &'static str {
        "ema_buffers"
    }
}

impl CpuCommit for EmaBuffers {
    fn run(&self, _ctx: &Ctx, inputs: &[View], states: &mut [ViewMut]) {
        let ([enabled], [ema, live]) = (inputs, states) else { unreachable!("one input and two states") };
        if scalar(enabled) != 0.0 {
            ema.dense_mut().copy_from_slice(live.as_view().dense());
        }
    }
}

impl CudaCommit for EmaBuffers {
    fn launches(&self, call: &CudaCommitCall) -> Vec<KernelLaunch> {
        let ([ema, live], vector) = rows([call.states[0], call.states[1]]);
        let args = guarded(Args::new().output("ema", ema).input("live", live).fixed("V", vector), call);
        vec![KernelLaunch::over("ema", "ema_buffers", ema.shape.len() / vector, args)]
    }
}

#[cfg(test)]
pub(super) fn cases() -> Vec<super::Case> {
    use super::Case;
    let whole = |operand: usize, shape: Shape| Tensor64::new(shape, vec![[1.0, 7.0][operand]]);
    let off = |operand: usize, shape: Shape| Tensor64::new(shape, vec![[0.0, 7.0][operand]]);
    let case =
        |use_num_updates| Case::new(EmaDecay { decay: 0.9, use_num_updates }, &[[1; 4], [1; 4]]).without_gradient();
    vec![case(true).with_data(whole), case(false).with_data(whole), case(true).with_data(off)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::tests::{commit, devices};
    use crate::runtime::Device;
    use crate::types::DType;

    fn enabled(tape: &mut Tape) -> Vec<Value> {
        vec![tape.input("enabled", Shape::SCALAR, DType::F32)]
    }

    /// Updates of an average of 1, −2 (`pairs` times) towards live weights that move, with `on` per step.
    fn run(device: &mut dyn Device, pairs: usize, op: EmaCommit, on: &[f32]) -> ([f32; 2], f32) {
        let flat = Shape::vector(2 * pairs);
        device.set_state("ema", flat, &[1.0, -2.0].repeat(pairs)).unwrap();
        device.set_state("count", Shape::SCALAR, &[0.0]).unwrap();
        let states = [("ema", flat), ("live", flat), ("count", Shape::SCALAR)];
        for (s, on) in on.iter().enumerate() {
            let live = [2.0 + s as f32, 0.5 - 0.25 * s as f32].repeat(pairs);
            device.set_state("live", flat, &live).unwrap();
            let outcome = commit(device, op, enabled, &[("enabled", &[*on])], &states);
            assert_eq!(outcome.committed, on.is_finite());
        }
        let ema = device.state("ema").unwrap();
        assert!(ema.chunks_exact(2).all(|pair| pair == &ema[..2]));
        ([ema[0], ema[1]], device.state("count").unwrap()[0])
    }

    fn assert_near(got: &[f32], want: [f64; 2]) {
        for (got, want) in got.iter().zip(want) {
            assert!((f64::from(*got) - want).abs() <= 2e-7 * want.abs(), "{got} for {want}");
        }
    }

    #[test]
    fn the_average_is_that_of_torch_lerp() {
        for pairs in [1, 20_000] {
            for mut device in devices() {
                let op = EmaCommit { decay: 0.9, use_num_updates: true };
                let (ema, count) = run(&mut *device, pairs, op, &[1.0; 4]);
                assert_near(&ema, [4.5004995004995, -0.13886113886113885]);
                assert_eq!(count, 4.0);
            }
            for mut device in devices() {
                let op = EmaCommit { decay: 0.9, use_num_updates: false };
                let (ema, count) = run(&mut *device, pairs, op, &[1.0; 4]);
                assert_near(&ema, [1.9048999999999998, -1.2805]);
                assert_eq!(count, 4.0);
            }
        }
    }

    #[test]
    fn a_step_without_update_changes_nothing() {
        let op = EmaCommit { decay: 0.9, use_num_updates: true };
        for mut device in devices() {
            assert_eq!(run(&mut *device, 1, op, &[0.0, f32::NAN, 0.0]), ([1.0, -2.0], 0.0));
            // The count goes up by updates, not by steps.
            assert_eq!(run(&mut *device, 1, op, &[0.0, 0.0, 0.0, 1.0]).1, 1.0);
        }
    }

    #[test]
    fn buffers_are_copied_when_enabled() {
        let (flat, before, live) = (Shape::vector(3), [1.0; 3], [4.0, 5.0, 6.0]);
        for mut device in devices() {
            device.set_state("ema", flat, &before).unwrap();
            device.set_state("live", flat, &live).unwrap();
            for (on, want) in [(0.0, before), (f32::NAN, before), (1.0, live)] {
                let states = [("ema", flat), ("live", flat)];
                commit(&mut *device, EmaBuffers, enabled, &[("enabled", &[on])], &states);
                assert_eq!(device.state("ema").unwrap(), want);
            }
        }
    }
}
