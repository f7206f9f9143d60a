//! Plain state changes: [`Assign`] a value, [`AddTo`] a sum (gradients over micro-batches), [`Clear`] it.

use super::flat::{for_blocks, rows};
use crate::device::cpu::{Ctx, View, ViewMut};
use crate::device::cuda::{Args, CudaCommitCall, KernelLaunch};
use crate::graph::{CommitOp, CpuCommit, CudaCommit};

/// `states[0] = inputs[0]`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Assign;

/// `states[0] += inputs[0]`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AddTo;

/// `states[0] = 0`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Clear;

impl CommitOp for Assign {
    fn name(&self) -> &'static str {
        "assign"
    }
}

impl CpuCommit for Assign {
    fn run(&self, ctx: &Ctx, inputs: &[View], states: &mut [ViewMut]) {
        combine(ctx, &inputs[0], &mut states[0], |to, from| to.copy_from_slice(from));
    }
}

impl CudaCommit for Assign {
    fn launches(&self, call: &CudaCommitCall) -> Vec<KernelLaunch> {
        vec![combination("assign", call)]
    }
}

impl CommitOp for AddTo {
    fn name(&self) -> &'static str {
        "add_to"
    }
}

impl CpuCommit for AddTo {
    fn run(&self, ctx: &Ctx, inputs: &[View], states: &mut [ViewMut]) {
        combine(ctx, &inputs[0], &mut states[0], |to, from| to.iter_mut().zip(from).for_each(|(t, f)| *t += f));
    }
}

impl CudaCommit for AddTo {
    fn launches(&self, call: &CudaCommitCall) -> Vec<KernelLaunch> {
        vec![combination("add_to", call)]
    }
}

impl CommitOp for Clear {
    fn name(&self) -> &'static str {
        "clear"
    }
}

impl CpuCommit for Clear {
    fn run(&self, ctx: &Ctx, _inputs: &[View], states: &mut [ViewMut]) {
        let state = &states[0];
        for_blocks(ctx, state.shape().len(), &|block, _| {
            // SAFETY: states are contiguous; each block is changed by one item.
            unsafe { state.part(block) }.fill(0.0);
        });
    }
}

impl CudaCommit for Clear {
    fn launches(&self, call: &CudaCommitCall) -> Vec<KernelLaunch> {
        let ([state], vector) = rows([call.states[0]]);
        let args = Args::new().output("state", state).fixed("V", vector).pointer("ok", "const int", call.ok);
        vec![KernelLaunch::over("assign", "clear_state", state.shape.len() / vector, args)]
    }
}

/// A launch of `kernel` over the state and the value, which may be a channel slice.
fn combination(kernel: &'static str, call: &CudaCommitCall) -> KernelLaunch {
    let ([state], vector) = rows([call.states[0]]);
    let value = call.inputs[0].flat().unwrap_or(call.inputs[0]);
    let aligned = value.shape.c().is_multiple_of(4) && value.has_vectors();
    let vector = if aligned { vector } else { 1 };
    let args = Args::new().output("state", state).input("value", value).fixed("V", vector);
    let args = args.pointer("ok", "const int", call.ok);
    KernelLaunch::over("assign", kernel, state.shape.len() / vector, args)
}

/// Calls `change` with matching runs of the state and the value, which may be a channel slice.
fn combine(ctx: &Ctx, value: &View, state: &mut ViewMut, change: impl Fn(&mut [f32], &[f32]) + Sync) {
    if value.is_dense() {
        let state = &*state;
        return for_blocks(ctx, state.shape().len(), &|block, _| {
            // SAFETY: states are contiguous and so is the value; each block is changed by one item.
            unsafe { change(state.part(block.clone()), &value.dense()[block]) };
        });
    }
    for p in 0..value.pixels() {
        change(state.pixel_mut(p), value.pixel(p));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{Tape, Value};
    use crate::ops::slice::SliceChannels;
    use crate::ops::tests::{commit, devices};
    use crate::runtime::Device;
    use crate::types::{DType, Shape};

    /// The state after a change by a value.
    fn changed(device: &mut dyn Device, op: impl CommitOp, value: &[f32], shape: Shape) -> Vec<f32> {
        let input = |tape: &mut Tape| vec![tape.input("x", shape, DType::F32)];
        commit(device, op, input, &[("x", value)], &[("state", shape)]);
        device.state("state").unwrap()
    }

    #[test]
    fn flat_states_longer_than_a_block() {
        for n in [40_000, 40_001] {
            let shape = Shape::vector(n);
            let value: Vec<f32> = (0..n).map(|i| i as f32).collect();
            for mut device in devices() {
                device.set_state("state", shape, &vec![1.0; n]).unwrap();
                assert_eq!(changed(&mut *device, Assign, &value, shape), value);
                let sum = changed(&mut *device, AddTo, &value, shape);
                assert!(sum.iter().zip(&value).all(|(s, v)| *s == 2.0 * v));
                assert_eq!(changed(&mut *device, Clear, &value, shape), vec![0.0; n]);
            }
        }
    }

    #[test]
    fn a_value_that_is_not_finite_changes_nothing() {
        let shape = Shape::vector(2);
        for mut device in devices() {
            device.set_state("state", shape, &[1.0, 2.0]).unwrap();
            assert_eq!(changed(&mut *device, Assign, &[f32::NAN, 0.0], shape), [1.0, 2.0]);
            assert_eq!(changed(&mut *device, AddTo, &[f32::INFINITY, 0.0], shape), [1.0, 2.0]);
            assert_eq!(changed(&mut *device, Clear, &[0.0, f32::NAN], shape), [1.0, 2.0]);
        }
    }

    #[test]
    fn a_channel_slice_is_gathered() {
        let wide: Vec<f32> = (0..12).map(|i| i as f32).collect();
        let slice = |tape: &mut Tape| -> Vec<Value> {
            let x = tape.input("x", Shape([1, 2, 2, 3]), DType::F32);
            vec![tape.push(SliceChannels { offset: 1, channels: 2 }, &[x]).unwrap()]
        };
        let (data, states) = ([("x", &wide[..])], [("state", Shape([1, 2, 2, 2]))]);
        for mut device in devices() {
            device.set_state("state", states[0].1, &[0.5; 8]).unwrap();
            commit(&mut *device, Assign, slice, &data, &states);
            assert_eq!(device.state("state").unwrap(), [1.0, 2.0, 4.0, 5.0, 7.0, 8.0, 10.0, 11.0]);
            commit(&mut *device, AddTo, slice, &data, &states);
            assert_eq!(device.state("state").unwrap(), [2.0, 4.0, 8.0, 10.0, 14.0, 16.0, 20.0, 22.0]);
        }
    }
}
