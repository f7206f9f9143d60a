//! Plans that grow and plans that are too large, on the host driver.

use super::*;
use crate::device::cuda::Args;
use crate::device::cuda::host::{HostDriver, HostOptions};
use crate::graph::Tape;
use crate::ops::linear::Linear;
use crate::ops::mul::Scale;
use crate::plan::{PlanOptions, Program};
use crate::runtime::bytes_of;
use crate::types::DType;

fn on_host() -> Cuda {
    let cache = std::env::temp_dir().join("srgan_host_kernels");
    Cuda::new(Box::new(HostDriver::new(&cache, HostOptions::default()).unwrap()))
}

/// Twice its input `x`, plus 1.
fn scaled(shape: Shape) -> Plan {
    let mut tape = Tape::new();
    let x = tape.input("x", shape, DType::F32);
    let y = tape.scoped("scaled", |tape| tape.push(Scale { factor: 2.0, shift: 1.0 }, &[x])).unwrap();
    let outputs = vec![("y".into(), y)];
    let program = Program { name: "scaled", tape, outputs, checks: vec![], commits: vec![] };
    Plan::compile(&program, PlanOptions::new(&CudaTarget)).unwrap()
}

#[test]
fn a_graph_that_is_replaced_is_freed() {
    let mut device = on_host();
    let plans: Vec<PlanId> = [3, 100, 2000].map(|c| device.load(scaled(Shape::vector(c))).unwrap()).into();
    let driver = format!("{:?}", device.driver.borrow());
    assert!(driver.contains("3 graphs"), "the arena grew twice: {driver}");
    for (plan, count) in plans.into_iter().zip([3, 100, 2000]) {
        device.upload(plan, "x", bytes_of(&vec![3.0; count])).unwrap();
        assert_eq!(device.run(plan).unwrap().outputs, [vec![7.0; count]]);
    }
}

#[test]
fn a_forgotten_graph_is_not_replayed() {
    let mut driver = HostDriver::new(&std::env::temp_dir().join("srgan_host_kernels"), HostOptions::default()).unwrap();
    // SAFETY: no work, which touches nothing.
    let [first, second] = [(); 2].map(|()| unsafe { driver.record(&[]).unwrap() });
    driver.forget(first);
    // SAFETY: as above.
    let [gone, there] = unsafe { [driver.replay(first), driver.replay(second)] };
    assert!(gone.unwrap_err().to_string().contains("no graph 0"));
    there.unwrap();
}

fn assert_too_large(error: &Error, path: &str) {
    let message = error.to_string();
    assert!(message.contains(&format!("{path} is too large")), "{message}");
    assert!(message.contains("smaller batch (Data.train_batch_size"), "{message}");
}

#[test]
fn tensors_that_kernels_cannot_number_are_refused_before_they_have_memory() {
    let error = on_host().load(scaled(Shape([4, 1 << 14, 1 << 15, 1]))).unwrap_err();
    assert_too_large(&error, "scaled");
    assert!(error.to_string().contains("a tensor of 2147483648 elements"), "{error}");
}

#[test]
fn grids_that_a_gpu_does_not_have_are_refused() {
    let launch = |grid| KernelLaunch::new("check", "set_ok", 1, Args::new()).with_grid(grid);
    for grid in [[1, 65_536, 1], [1, 1, 65_536], [1 << 31, 1, 1]] {
        assert_too_large(&geometry(&launch(grid), "net.conv").unwrap_err(), "net.conv");
    }
    let largest = geometry(&launch([(1 << 31) - 1, 65_535, 65_535]), "net.conv").unwrap();
    assert_eq!(largest.grid, [(1 << 31) - 1, 65_535, 65_535]);

    // A layer with that many rows, all the way.
    let mut tape = Tape::new();
    let rows = tape.input("x", Shape([1 << 23, 1, 1, 1]), DType::F32);
    let weight = tape.input("w", Shape([1, 1, 1, 1]), DType::F32);
    let y = tape.scoped("net.linear", |tape| tape.push(Linear, &[rows, weight])).unwrap();
    let outputs = vec![("y".into(), y)];
    let program = Program { name: "rows", tape, outputs, checks: vec![], commits: vec![] };
    let plan = Plan::compile(&program, PlanOptions::new(&CudaTarget)).unwrap();
    assert_too_large(&on_host().load(plan).unwrap_err(), "net.linear");
}
