//! Derivatives of the ops as they are used together, against finite differences of the plain formula.

mod ranks;

use std::collections::HashMap;

use super::*;
use crate::graph::Tensor64;
use crate::ops::Case;
use crate::ops::sum_to::{sum_product_to, sum_to};
use crate::ops::tests::{assert_close, random};
use crate::plan::{Plan, PlanOptions, Program};
use crate::runtime::{Cpu, CpuTarget, Device};
use crate::types::DType;

/// For the CPU check alone: statistics and sums are operands here, though they are functions of the others.
pub fn cases() -> Vec<Case> {
    let shapes = [[3, 5, 7, 5], [2, 4, 3, 70], [2, 20, 31, 40], [2, 9, 11, 132]];
    let mut cases: Vec<Case> = shapes.into_iter().flat_map(cases_of).collect();
    let positive = |k: usize, shape: Shape| {
        let data = random(shape, 50 + k as u64).data;
        Tensor64::new(shape, data.into_iter().map(f64::abs).collect())
    };
    cases.push(Case::new(InvStd, &[[1, 1, 1, 70]]).with_data(positive));
    cases.push(Case::new(Joined, &[[3, 1, 1, 210]]).with_data(positive));
    cases.into_iter().map(Case::without_gradient).collect()
}

/// All ops on a tensor of this extent, over the batch and over images.
pub fn cases_of(x: [usize; 4]) -> Vec<Case> {
    let mut cases = Vec::new();
    for over in [Over::Batch, Over::Image] {
        let c = x[3];
        let g = if over == Over::Batch { 1 } else { x[0] };
        let (stats, sums, vector) = ([g, 1, 1, 3 * c], [g, 1, 1, 2 * c], [1, 1, 1, c]);
        cases.push(Case::new(Statistics { over }, &[x]));
        cases.push(Case::new(Apply { synced: false }, &[x, stats]));
        cases.push(Case::new(Apply { synced: false }, &[x, stats, vector, vector]));
        cases.push(Case::new(GradSums { synced: false }, &[x, x, stats]));
        cases.push(Case::new(InputGrad { synced: false }, &[x, x, stats, sums]));
        cases.push(Case::new(InputGrad { synced: false }, &[x, x, stats, sums, vector]));
        cases.push(Case::new(SecondGrad, &[x, x, x, stats, sums, sums, [g, 1, 1, c]]));
        cases.push(Case::new(SecondGrad, &[x, x, x, stats, sums, sums, [g, 1, 1, c], vector]));
    }
    cases
}

type Given = HashMap<String, Tensor64>;

/// A normalisation with inputs `x`, `gamma`, `beta`, seeded by `dy`.
struct Setting {
    tape: Tape,
    given: Given,
    /// x, gamma, beta (only x for instance normalisation), dy.
    inputs: Vec<Value>,
    y: Value,
    shape: Shape,
    over: Over,
}

impl Setting {
    fn new(over: Over) -> Self {
        let shape = Shape([2, 3, 4, 3]);
        let (mut tape, mut given) = (Tape::new(), HashMap::new());
        let mut input = |tape: &mut Tape, name: &str, shape: Shape| {
            given.insert(name.to_owned(), random(shape, 30 + given.len() as u64));
            tape.input(name, shape, DType::F32)
        };
        let x = input(&mut tape, "x", shape);
        let mut inputs = vec![x];
        let y = match over {
            Over::Batch => {
                let vector = Shape::vector(3);
                let [gamma, beta, mean, var] = ["gamma", "beta", "mean", "var"].map(|n| input(&mut tape, n, vector));
                inputs.extend([gamma, beta]);
                batch_norm(&mut tape, x, gamma, beta, (mean, var), By::Batches(1)).unwrap().0
            }
            Over::Image => instance_norm(&mut tape, x).unwrap(),
        };
        inputs.push(input(&mut tape, "dy", shape));
        Setting { tape, given, inputs, y, shape, over }
    }

    fn name(&self, v: Value) -> String {
        self.tape.node(v).path.to_string()
    }

    /// The plain formula.
    fn plain(&self, given: &Given) -> Vec<f64> {
        let x = &given["x"];
        let [n, h, w, c] = self.shape.0;
        let groups = if self.over == Over::Batch { 1 } else { n };
        let count = (n / groups * h * w) as f64;
        let out = Tensor64::from_fn(self.shape, |at| {
            let images = if groups == 1 { 0..n } else { at[0]..at[0] + 1 };
            let members: Vec<f64> =
                images.flat_map(|i| (0..h * w).map(move |p| x.data[(i * h * w + p) * c + at[3]])).collect();
            let mean = members.iter().sum::<f64>() / count;
            let var = members.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / count;
            let vector = |name: &str, none: f64| given.get(name).map_or(none, |t| t.data[at[3]]);
            (x.at(at) - mean) / (var + EPS).sqrt() * vector("gamma", 1.0) + vector("beta", 0.0)
        });
        out.data
    }

    /// Central differences of `f` by each element of `name`.
    fn differences(&self, name: &str, h: f64, f: impl Fn(&Given) -> f64) -> Vec<f64> {
        let moved = |i: usize, by: f64| {
            let mut given = self.given.clone();
            given.get_mut(name).unwrap().data[i] += by;
            f(&given)
        };
        (0..self.given[name].data.len()).map(|i| (moved(i, h) - moved(i, -h)) / (2.0 * h)).collect()
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[test]
fn first_derivatives_count_the_statistics() {
    for over in [Over::Batch, Over::Image] {
        let mut s = Setting::new(over);
        let (dy, wrt) = (s.inputs[s.inputs.len() - 1], s.inputs[..s.inputs.len() - 1].to_vec());
        let grads = s.tape.gradients(&[(s.y, dy)], &wrt).unwrap();
        let values = s.tape.evaluate_f64(&s.given).unwrap();
        assert_close(&s.tape.value_of(&values, s.y).data, &s.plain(&s.given), 1e-12, "output");
        for (v, grad) in wrt.iter().zip(grads) {
            let name = s.name(*v);
            let want = s.differences(&name, 1e-5, |given| dot(&s.plain(given), &given["dy"].data));
            assert_close(&s.tape.value_of(&values, grad.unwrap()).data, &want, 1e-7, &format!("{over:?} {name}"));
        }
    }
}

#[test]
fn second_derivatives_count_the_statistics() {
    for over in [Over::Batch, Over::Image] {
        let mut s = Setting::new(over);
        let (dy, wrt) = (s.inputs[s.inputs.len() - 1], s.inputs[..s.inputs.len() - 1].to_vec());
        let grads = s.tape.gradients(&[(s.y, dy)], &wrt).unwrap();
        // f = Σ ⟨weights, gradient⟩ over all first gradients.
        let mut f = None;
        for (k, grad) in grads.into_iter().map(Option::unwrap).enumerate() {
            let weights = random(s.tape.shape(grad), 70 + k as u64);
            let weights = s.tape.constant(weights.shape, weights.data.iter().map(|v| *v as f32).collect());
            let term = sum_product_to(&mut s.tape, grad, weights, Shape::SCALAR).unwrap();
            f = Some(f.map_or(term, |sum| s.tape.push(Add::SUM, &[sum, term]).unwrap()));
        }
        let f = f.unwrap();
        let one = s.tape.scalar(1.0);
        let inputs = s.inputs.clone();
        let grads = s.tape.gradients(&[(f, one)], &inputs).unwrap();
        let values = s.tape.evaluate_f64(&s.given).unwrap();
        let objective = |given: &Given| {
            let values = s.tape.evaluate_f64(given).unwrap();
            s.tape.value_of(&values, f).data[0]
        };
        for (v, grad) in inputs.iter().zip(grads) {
            let name = s.name(*v);
            let want = s.differences(&name, 1e-5, objective);
            let got = grad.map_or(vec![0.0; want.len()], |g| s.tape.value_of(&values, g).data.clone());
            assert_close(&got, &want, 1e-7, &format!("{over:?} {name}"));
            assert_eq!(want.iter().all(|v| v.abs() < 1e-9), name == "beta", "f depends on all but beta");
        }
    }
}

#[test]
fn third_derivatives_are_refused() {
    let mut s = Setting::new(Over::Image);
    let (x, mut v, mut cotangent) = (s.inputs[0], s.y, s.inputs[1]);
    for _ in 0..2 {
        let d = s.tape.gradients(&[(v, cotangent)], &[x]).unwrap()[0].unwrap();
        cotangent = s.tape.constant(s.shape, vec![0.5; s.shape.len()]);
        v = d;
    }
    let message = s.tape.gradients(&[(v, cotangent)], &[x]).unwrap_err().to_string();
    assert!(message.contains("third derivatives"), "{message}");
}

fn run_on_cpu(tape: Tape, given: &[(&str, Vec<f32>)], outputs: &[Value]) -> Vec<Vec<f32>> {
    let outputs = outputs.iter().enumerate().map(|(i, v)| (format!("y{i}"), *v)).collect();
    let program = Program { name: "case", tape, outputs, checks: vec![], commits: vec![] };
    let plan = Plan::compile(&program, PlanOptions::new(&CpuTarget { threads: 2 })).unwrap();
    let mut cpu = Cpu::new(2).unwrap();
    let id = cpu.load(plan).unwrap();
    for (name, data) in given {
        cpu.upload(id, name, bytemuck::cast_slice(data)).unwrap();
    }
    cpu.poison().unwrap();
    cpu.run(id).unwrap().outputs
}

// Numbers of `torch.nn.functional.batch_norm` for x = sin(i) in NHWC order, (2,2,2,2).
const TRAINED: [f64; 6] = [0.043806088, 1.486806458, 1.985589756, 2.0031589, -1.572328173, 2.814195894];
const MEAN: [f64; 2] = [0.459655638, -0.210459544];
const VAR: [f64; 2] = [1.856386599, 0.502560746];
const STORED: [f64; 6] = [-0.28032876, 1.228221183, 0.684124394, 1.723439156, -1.083037018, 2.501280149];

#[test]
fn batch_norm_is_that_of_pytorch() {
    let x: Vec<f32> = (0..16).map(|i| (i as f32).sin()).collect();
    let vectors: [(&str, Vec<f32>); 4] =
        [("gamma", vec![1.5, -0.5]), ("beta", vec![0.25, 2.0]), ("mean", vec![0.5, -0.25]), ("var", vec![2.0, 0.5])];
    let run = |by: By| {
        let mut tape = Tape::new();
        let v = tape.input("x", Shape([2, 2, 2, 2]), DType::F32);
        let [gamma, beta, mean, var] =
            ["gamma", "beta", "mean", "var"].map(|n| tape.input(n, Shape::vector(2), DType::F32));
        let (y, moved) = batch_norm(&mut tape, v, gamma, beta, (mean, var), by).unwrap();
        let outputs: Vec<Value> = std::iter::once(y).chain(moved.into_iter().flat_map(|(m, v)| [m, v])).collect();
        let given: Vec<(&str, Vec<f32>)> = vectors.iter().cloned().chain([("x", x.clone())]).collect();
        run_on_cpu(tape, &given, &outputs)
    };
    let close = |got: &[f32], want: &[f64]| {
        let got: Vec<f64> = got.iter().map(|v| f64::from(*v)).collect();
        assert_close(&got, want, 1e-6, "PyTorch");
    };
    let trained = run(By::Batches(1));
    close(&trained[0][..6], &TRAINED);
    close(&trained[1], &MEAN);
    close(&trained[2], &VAR);
    let stored = run(By::Running);
    assert_eq!(stored.len(), 1);
    close(&stored[0][..6], &STORED);
}

#[test]
fn statistics_keep_their_digits_far_from_zero() {
    // Values 4096 ± 1/8 are exact in f32; a sum of squares in f32 would lose the variance entirely.
    let shape = Shape([2, 40, 40, 3]);
    let x: Vec<f32> = (0..shape.len()).map(|i| if i / 3 % 2 == 0 { 4096.125 } else { 4095.875 }).collect();
    let mut tape = Tape::new();
    let v = tape.input("x", shape, DType::F32);
    let stats = tape.push(Statistics { over: Over::Batch }, &[v]).unwrap();
    let got = run_on_cpu(tape, &[("x", x)], &[stats]).remove(0);
    for c in 0..3 {
        assert_eq!(got[c], 4096.0);
        assert!((got[6 + c] * 64.0 - 1.0).abs() < 1e-6, "variance {}", got[6 + c]);
    }
}

#[test]
fn a_nan_reaches_the_statistics_of_its_channel_alone() {
    let shape = Shape([1, 4, 4, 2]);
    let mut x: Vec<f32> = (0..shape.len()).map(|i| i as f32).collect();
    x[6] = f32::NAN;
    let mut tape = Tape::new();
    let v = tape.input("x", shape, DType::F32);
    let stats = tape.push(Statistics { over: Over::Image }, &[v]).unwrap();
    let got = run_on_cpu(tape, &[("x", x)], &[stats]).remove(0);
    assert_eq!(got.iter().map(|v| v.is_nan()).collect::<Vec<_>>(), [true, false, true, false, true, false]);
}

#[test]
fn one_value_per_channel_is_refused() {
    let mut tape = Tape::new();
    let x = tape.input("x", Shape([1, 1, 1, 4]), DType::F32);
    let v = tape.input("v", Shape::vector(4), DType::F32);
    let message = batch_norm(&mut tape, x, v, v, (v, v), By::Batches(1)).unwrap_err().to_string();
    assert!(message.contains("larger batch"), "{message}");
    assert!(batch_norm(&mut tape, x, v, v, (v, v), By::Running).is_ok());
    let message = instance_norm(&mut tape, x).unwrap_err().to_string();
    assert!(message.contains("larger images"), "{message}");
    let wrong = sum_to(&mut tape, v, Shape::SCALAR).unwrap();
    let y = tape.input("y", Shape([2, 2, 2, 4]), DType::F32);
    assert!(batch_norm(&mut tape, y, wrong, v, (v, v), By::Batches(1)).is_err());
}
