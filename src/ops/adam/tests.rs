//! Adam against the numbers of PyTorch, on every device.

use super::*;
use crate::ops::tests::devices;
use crate::plan::{Commit, Plan, PlanOptions, Program};
use crate::runtime::{Cpu, Device, Outcome, PlanId};
use crate::types::DType;
use std::sync::Arc;

const NAMES: [&str; 4] = ["w", "m", "v", "t"];

/// A program that commits an update and gives back the staged weights.
fn program(adam: &Adam, n: usize) -> Program {
    let (mut tape, flat) = (Tape::new(), Shape::vector(n));
    let grad = tape.input("grad", flat, DType::F32);
    let lr = tape.input("lr", Shape::SCALAR, DType::F32);
    let clip = tape.input("clip", Shape::SCALAR, DType::F32);
    let [w, m, v] = ["w", "m", "v"].map(|name| tape.state(name, flat));
    let t = tape.state("t", Shape::SCALAR);
    let staged = tape.push(AdamWeights(adam.clone()), &[w, m, v, grad, lr, clip, t]).unwrap();
    let shape = |name: &str| if name == "t" { Shape::SCALAR } else { flat };
    let states = NAMES.map(|name| (name.to_owned(), shape(name))).to_vec();
    let commit = Commit { op: Arc::new(AdamCommit(adam.clone())), inputs: vec![grad, lr, clip], states };
    let outputs = vec![("staged".into(), staged)];
    Program { name: "adam", tape, outputs, checks: vec![grad], commits: vec![commit] }
}

/// Loads the program, with moments of 0.
fn load(device: &mut dyn Device, adam: &Adam, weights: &[f32]) -> PlanId {
    let flat = Shape::vector(weights.len());
    device.set_state("w", flat, weights).unwrap();
    device.set_state("m", flat, &vec![0.0; weights.len()]).unwrap();
    device.set_state("v", flat, &vec![0.0; weights.len()]).unwrap();
    device.set_state("t", Shape::SCALAR, &[0.0]).unwrap();
    let options = PlanOptions::new(device.target());
    device.load(Plan::compile(&program(adam, weights.len()), options).unwrap()).unwrap()
}

fn step(device: &mut dyn Device, id: PlanId, grad: &[f32], lr: f32, clip: f32) -> Outcome {
    device.upload(id, "grad", bytemuck::cast_slice(grad)).unwrap();
    device.upload(id, "lr", bytemuck::cast_slice(&[lr])).unwrap();
    device.upload(id, "clip", bytemuck::cast_slice(&[clip])).unwrap();
    device.run(id).unwrap()
}

#[test]
fn four_steps_give_the_numbers_of_torch() {
    // torch.optim.Adam in float64: gradients (s + 1)·sin(1.3·(i + 4s)) times the clip scale,
    // weight decay 0.1 for elements 1 and 2.
    let adam = Adam { beta1: 0.6, beta2: 0.95, eps: 1e-7, weight_decay: 0.1, decayed: vec![(1, 3)] };
    let want: [(&str, &[f64]); 3] = [
        (
            "w",
            &[0.5241761698723855, -1.0128692039792224, 1.9695438320526168, 0.24979727781861105, -0.09990750460252788],
        ),
        (
            "m",
            &[-0.10382040500640867, -1.5981347455308985, -0.5319658952751307, 1.1330098987579345, 1.3099305155277252],
        ),
        ("v", &[0.06281866001588347, 0.7832352737637973, 0.3461634797999001, 0.34423203899416527, 0.7548214072593241]),
    ];
    for mut device in devices() {
        let id = load(&mut *device, &adam, &[0.5, -1.0, 2.0, 0.25, -0.125]);
        for s in 0..4 {
            let grad: Vec<f32> =
                (0..5).map(|i| ((1.3 * f64::from(i + 4 * s)).sin() * f64::from(s + 1)) as f32).collect();
            let lr = [0.01, 0.02, 0.005, 0.01][s as usize];
            let outcome = step(&mut *device, id, &grad, lr, [1.0, 0.5, 0.25, 1.0][s as usize]);
            assert!(outcome.committed);
            assert_eq!(outcome.outputs[0], device.state("w").unwrap(), "staged and committed weights, step {s}");
        }
        for (name, want) in want {
            for (got, want) in device.state(name).unwrap().iter().zip(want) {
                assert!((f64::from(*got) - want).abs() <= 1e-6 * want.abs().max(0.1), "{name}: {got} for {want}");
            }
        }
        assert_eq!(device.state("t").unwrap(), [4.0]);
    }
}

#[test]
fn any_number_of_threads_gives_the_same_bits() {
    let n = 70_000;
    let adam = Adam { beta1: 0.0, beta2: 0.99, eps: 1e-7, weight_decay: 0.01, decayed: vec![(5, 20_000)] };
    let weights: Vec<f32> = (0..n).map(|i| (i as f32 * 0.37).sin()).collect();
    let grad: Vec<f32> = (0..n).map(|i| (i as f32 * 0.11).cos()).collect();
    let run = |threads| {
        let mut cpu = Cpu::new(threads).unwrap();
        let id = load(&mut cpu, &adam, &weights);
        step(&mut cpu, id, &grad, 1e-3, 0.3);
        let staged = step(&mut cpu, id, &grad, 1e-3, 0.3).outputs.remove(0);
        assert_eq!(staged, cpu.state("w").unwrap());
        NAMES.map(|name| cpu.state(name).unwrap())
    };
    let one = run(1);
    assert_ne!(one[0], weights);
    assert_eq!(one, run(3));
}

#[test]
fn a_gradient_that_is_not_finite_changes_nothing() {
    let adam = Adam { beta1: 0.5, beta2: 0.9, eps: 1e-7, weight_decay: 0.0, decayed: vec![] };
    for mut device in devices() {
        let id = load(&mut *device, &adam, &[1.0, 2.0]);
        let outcome = step(&mut *device, id, &[0.5, f32::NAN], 0.1, 1.0);
        assert!(!outcome.committed);
        let states = NAMES.map(|n| device.state(n).unwrap());
        assert_eq!(states, [vec![1.0, 2.0], vec![0.0; 2], vec![0.0; 2], vec![0.0]]);
    }
}

#[test]
fn staged_and_committed_weights_are_the_same_bits() {
    let adam = Adam { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.01, decayed: vec![(5, 1500), (1600, 1603)] };
    for n in [2000, 2003] {
        let weights: Vec<f32> = (0..n).map(|i| (i as f32 * 0.37).sin()).collect();
        let grad: Vec<f32> = (0..n).map(|i| (i as f32 * 0.11).cos()).collect();
        for mut device in devices() {
            let id = load(&mut *device, &adam, &weights);
            for _ in 0..2 {
                let outcome = step(&mut *device, id, &grad, 1e-3, 0.3);
                assert_eq!(outcome.outputs[0], device.state("w").unwrap());
            }
        }
    }
}

#[test]
fn wrong_extents_and_ranges_are_refused() {
    let adam = Adam { beta1: 0.5, beta2: 0.9, eps: 1e-7, weight_decay: 0.1, decayed: vec![(0, 9)] };
    let (flat, scalar) = (Shape::vector(8), Shape::SCALAR);
    let shape = |adam: &Adam, third: Shape, lr: Shape| {
        AdamWeights(adam.clone()).shape(&[flat, flat, third, flat, lr, scalar, scalar])
    };
    assert!(shape(&adam, flat, scalar).unwrap_err().contains("0..8"));
    let overlapping = Adam { decayed: vec![(0, 4), (3, 8)], ..adam.clone() };
    assert!(shape(&overlapping, flat, scalar).unwrap_err().contains("ascend"));
    let fits = Adam { decayed: vec![(0, 4), (4, 8)], ..adam };
    assert_eq!(shape(&fits, flat, scalar), Ok(flat));
    assert!(shape(&fits, Shape::vector(7), scalar).unwrap_err().contains("one length"));
    assert!(shape(&fits, flat, flat).unwrap_err().contains("scalars"));
}
