//! What is timed, on the host driver: parts of runs with the names of what ran, and steps alone in each way that works.

use crate::device::cuda::host::{HostDriver, HostOptions, Libraries};
use crate::graph::Tape;
use crate::ops::add::Add;
use crate::ops::assign::Assign;
use crate::ops::conv2d::{Conv2d, Geometry};
use crate::ops::leaky_relu::LeakyRelu;
use crate::plan::{Commit, Plan, PlanOptions, Program};
use crate::runtime::choices::OWN;
use crate::runtime::{Cuda, CudaTarget, Device, PlanId, bytes_of};
use crate::types::{DType, Shape};

const X: Shape = Shape([2, 5, 6, 4]);
const W: Shape = Shape([4, 3, 3, 4]);

fn device(libraries: Libraries) -> Cuda {
    // The folder that tests of the ops fill too.
    let cache = std::env::temp_dir().join("srgan_host_kernels");
    let options = HostOptions { libraries, os_threads: 1, ..HostOptions::default() };
    Cuda::new(Box::new(HostDriver::new(&cache, options).unwrap()))
}

/// An activation, then a convolution with a residual, which is given back and kept in a state.
fn load(device: &mut Cuda) -> PlanId {
    let mut tape = Tape::new();
    let [x, w] = [("x", X), ("w", W)].map(|(name, shape)| tape.input(name, shape, DType::F32));
    let active = tape.push(LeakyRelu { slope: 0.5 }, &[x]).unwrap();
    let conv = tape.push(Conv2d(Geometry::same(3)), &[active, w]).unwrap();
    let sum = tape.push(Add::SUM, &[conv, active]).unwrap();
    let commit = Commit { op: std::sync::Arc::new(Assign), inputs: vec![sum], states: vec![("kept".into(), X)] };
    let outputs = vec![("y".into(), sum)];
    let program = Program { name: "case", tape, outputs, checks: vec![sum], commits: vec![commit] };
    device.set_state("kept", X, &vec![0.0; X.len()]).unwrap();
    let id = device.load(Plan::compile(&program, PlanOptions::new(&CudaTarget)).unwrap()).unwrap();
    for (name, shape) in [("x", X), ("w", W)] {
        let values: Vec<f32> = (0..shape.len()).map(|i| (i * 7 % 11) as f32 - 5.0).collect();
        device.upload(id, name, bytes_of(&values)).unwrap();
    }
    id
}

/// The number of the step with the convolution.
fn convolution(device: &Cuda, id: PlanId) -> usize {
    device.plan(id).steps.iter().position(|step| step.label().starts_with("conv2d")).unwrap()
}

#[test]
fn a_profiled_run_names_what_ran_and_computes_the_same() {
    for (libraries, by) in [(Libraries::None, ": conv2d"), (Libraries::Faster, ": host:plain + pointwise")] {
        let mut device = device(libraries);
        let id = load(&mut device);
        let plain = device.run(id).unwrap();
        assert!(device.times(id).iter().all(|part| part.time.is_zero()));
        device.set_profile(true);
        assert_eq!(device.run(id).unwrap(), plain);
        let parts = device.times(id);
        assert!(parts.iter().all(|part| !part.time.is_zero()), "{parts:?}");
        let steps = device.plan(id).steps.len();
        let conv = &parts[convolution(&device, id)];
        assert!(conv.label.starts_with("conv2d+") && conv.label.contains(by), "{}", conv.label);
        assert_eq!(conv.work.flops, 2 * device.plan(id).macs());
        let end: Vec<_> = parts[steps..].iter().map(|part| (part.label.as_str(), part.work.bytes())).collect();
        // Read from a map, and the state's floats read and written.
        assert_eq!(end, [("checks", 0), ("assign", 3 * 4 * X.len() as u64), ("outputs", 0)]);
    }
}

#[test]
fn each_way_that_works_is_timed_alone() {
    for (libraries, ways) in [(Libraries::None, vec![OWN]), (Libraries::Slower, vec![OWN, "host:plain", "host:slow"])] {
        let mut device = device(libraries);
        let id = load(&mut device);
        device.run(id).unwrap();
        let conv = convolution(&device, id);
        assert_eq!(device.ways(id, conv).unwrap(), ways);
        for way in ways {
            assert!(!device.time_step(id, conv, way, 3).unwrap().is_zero());
            assert!(device.time_step(id, conv, way, 0).unwrap().is_zero());
        }
        // Timing changes nothing of the plan.
        assert!(device.run(id).unwrap().committed);
    }
    let mut device = device(Libraries::Faster);
    let id = load(&mut device);
    let conv = convolution(&device, id);
    device.time_step(id, conv, "host:fails", 1).unwrap_err();
}

#[test]
fn memory_in_use_is_what_states_and_plans_take() {
    let mut device = device(Libraries::None);
    let before = device.memory_in_use().unwrap();
    device.set_state("a", Shape::vector(1000), &[0.0; 1000]).unwrap();
    assert_eq!(device.memory_in_use().unwrap(), before + 4000);
    let id = load(&mut device);
    assert!(device.memory_in_use().unwrap() >= before + 4000 + 4 * device.plan(id).arena_len);
}
