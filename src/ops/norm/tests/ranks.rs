//! Statistics that ranks share: outputs and derivatives on each rank, against finite differences of the plain formula over
//! the batches of all, and the CPU's exchange against one process with the whole batch.

use std::collections::HashMap;

use super::super::*;
use crate::device::collective::threads::together;
use crate::graph::{Exec, OverRanks, Source, Tensor64};
use crate::ops::sum_to::sum_product_to;
use crate::ops::tests::{assert_close, random};
use crate::plan::{Plan, PlanOptions, Program};
use crate::runtime::{Cpu, CpuTarget, Device};
use crate::types::DType;

const RANKS: usize = 3;
/// x on each rank.
const SHAPE: Shape = Shape([2, 2, 3, 2]);

/// A rank's inputs by name.
type Given = HashMap<String, Tensor64>;

/// The values of a tape on each rank in f64, with the exchanges that a device makes.
fn evaluate(tape: &Tape, given: &[Given]) -> Vec<Vec<Tensor64>> {
    let mut values: Vec<Vec<Tensor64>> = vec![vec![]; given.len()];
    for node in tape.nodes() {
        let of_rank = |rank: usize| match &node.source {
            Source::Op(op) => {
                let inputs: Vec<&Tensor64> = node.inputs.iter().map(|v| &values[rank][v.index()]).collect();
                op.reference(&inputs, node.shape)
            }
            Source::Const(data) => Tensor64::new(node.shape, data.iter().map(|v| f64::from(*v)).collect()),
            Source::Input(_) | Source::State => given[rank][&*node.path].clone(),
        };
        let mut of_ranks: Vec<Tensor64> = (0..given.len()).map(of_rank).collect();
        if let Source::Op(op) = &node.source
            && let Exec::Kernel(kernel) = op.exec()
            && let Some(how) = kernel.over_ranks
        {
            exchange(how, &mut of_ranks);
        }
        values.iter_mut().zip(of_ranks).for_each(|(all, value)| all.push(value));
    }
    values
}

fn exchange(how: OverRanks, values: &mut [Tensor64]) {
    let brought = values.to_vec();
    let (count, row) = (values.len(), values[0].data.len() / values.len());
    for value in values {
        for (i, v) in value.data.iter_mut().enumerate() {
            *v = match how {
                OverRanks::Mean => brought.iter().map(|of_rank| of_rank.data[i]).sum::<f64>() / count as f64,
                OverRanks::Rows => brought[i / row].data[i],
            };
        }
    }
}

/// A synced batch normalisation with inputs `x` and `dy`, other numbers on each rank, and the parameters `gamma` and `beta`,
/// which all ranks share.
struct Setting {
    tape: Tape,
    given: Vec<Given>,
    inputs: [Value; 4],
    y: Value,
}

impl Setting {
    fn new() -> Setting {
        let (mut tape, vector) = (Tape::new(), Shape::vector(SHAPE.c()));
        let mut given = vec![Given::new(); RANKS];
        let [x, dy] = ["x", "dy"].map(|name| add_input(&mut tape, &mut given, name, SHAPE));
        let shared = ["gamma", "beta", "mean", "var"].map(|name| {
            let values = random(vector, name.len() as u64);
            given.iter_mut().for_each(|of_rank| _ = of_rank.insert(name.to_owned(), values.clone()));
            tape.input(name, vector, DType::F32)
        });
        let [gamma, beta, mean, var] = shared;
        let y = batch_norm(&mut tape, x, gamma, beta, (mean, var), By::Batches(RANKS)).unwrap().0;
        Setting { tape, given, inputs: [x, gamma, beta, dy], y }
    }

    /// Compares the gradients of `names` with central differences of `f`, which takes all ranks' inputs. Those of a parameter
    /// add up over the ranks.
    fn check(&self, names: [&str; 3], grads: &[Option<Value>], f: impl Fn(&[Given]) -> f64) {
        let values = evaluate(&self.tape, &self.given);
        for (name, grad) in names.into_iter().zip(grads) {
            let of_ranks = values.iter().map(|values| self.tape.value_of(values, grad.unwrap()).data.clone());
            let of_ranks: Vec<Vec<f64>> = of_ranks.collect();
            if ["gamma", "beta"].contains(&name) {
                let sum = (0..SHAPE.c()).map(|c| of_ranks.iter().map(|of_rank| of_rank[c]).sum());
                let want = self.differences(0..RANKS, name, &f);
                assert_close(&sum.collect::<Vec<f64>>(), &want, 1e-7, name);
                continue;
            }
            for (rank, got) in of_ranks.iter().enumerate() {
                let want = self.differences(rank..rank + 1, name, &f);
                assert_close(got, &want, 1e-7, &format!("{name} of rank {rank}"));
            }
        }
    }

    /// Central differences of `f` by each element of `name` on these ranks at once.
    fn differences(&self, ranks: std::ops::Range<usize>, name: &str, f: impl Fn(&[Given]) -> f64) -> Vec<f64> {
        let moved = |i: usize, by: f64| {
            let mut given = self.given.clone();
            given[ranks.clone()].iter_mut().for_each(|of_rank| of_rank.get_mut(name).unwrap().data[i] += by);
            f(&given)
        };
        (0..self.given[0][name].data.len()).map(|i| (moved(i, 1e-5) - moved(i, -1e-5)) / 2e-5).collect()
    }
}

/// An input of other numbers on each rank.
fn add_input(tape: &mut Tape, given: &mut [Given], name: &str, shape: Shape) -> Value {
    for (rank, of_rank) in given.iter_mut().enumerate() {
        let seed = (200 + 20 * rank + of_rank.len()) as u64;
        of_rank.insert(name.to_owned(), random(shape, seed));
    }
    tape.input(name, shape, DType::F32)
}

/// The plain formula over the batches of all ranks; each rank's output.
fn plain(given: &[Given]) -> Vec<Tensor64> {
    let channel = |c: usize| given.iter().flat_map(move |of_rank| of_rank["x"].data.iter().skip(c).step_by(SHAPE.c()));
    let count = (SHAPE.pixels() * given.len()) as f64;
    let of_rank = |given: &Given| {
        Tensor64::from_fn(SHAPE, |at| {
            let mean = channel(at[3]).sum::<f64>() / count;
            let var = channel(at[3]).map(|v| (v - mean).powi(2)).sum::<f64>() / count;
            (given["x"].at(at) - mean) / (var + EPS).sqrt() * given["gamma"].data[at[3]] + given["beta"].data[at[3]]
        })
    };
    given.iter().map(of_rank).collect()
}

#[test]
fn first_derivatives_count_the_other_ranks() {
    let mut s = Setting::new();
    let [x, gamma, beta, dy] = s.inputs;
    let grads = s.tape.gradients(&[(s.y, dy)], &[x, gamma, beta]).unwrap();
    let values = evaluate(&s.tape, &s.given);
    let objective = |given: &[Given]| {
        let product =
            |(y, given): (&Tensor64, &Given)| -> f64 { y.data.iter().zip(&given["dy"].data).map(|(a, b)| a * b).sum() };
        plain(given).iter().zip(given).map(product).sum()
    };
    for (values, y) in values.iter().zip(plain(&s.given)) {
        assert_close(&s.tape.value_of(values, s.y).data, &y.data, 1e-12, "output");
    }
    s.check(["x", "gamma", "beta"], &grads, objective);
}

#[test]
fn second_derivatives_count_the_other_ranks() {
    let mut s = Setting::new();
    let [x, gamma, beta, dy] = s.inputs;
    let grads = s.tape.gradients(&[(s.y, dy)], &[x, gamma, beta]).unwrap();
    // Each rank's Σ ⟨weights, gradient⟩ over all first gradients.
    let mut terms = Vec::new();
    for (k, grad) in grads.into_iter().map(Option::unwrap).enumerate() {
        let shape = s.tape.shape(grad);
        let weights = add_input(&mut s.tape, &mut s.given, &format!("weights{k}"), shape);
        terms.push(sum_product_to(&mut s.tape, grad, weights, Shape::SCALAR).unwrap());
    }
    let [first, second, third] = terms[..] else { panic!("three gradients") };
    let two = s.tape.push(Add::SUM, &[first, second]).unwrap();
    let f = s.tape.push(Add::SUM, &[two, third]).unwrap();
    let one = s.tape.scalar(1.0);
    let grads = s.tape.gradients(&[(f, one)], &[x, gamma, dy]).unwrap();
    let objective = |given: &[Given]| -> f64 {
        let values = evaluate(&s.tape, given);
        values.iter().map(|values| s.tape.value_of(values, f).data[0]).sum()
    };
    s.check(["x", "gamma", "dy"], &grads, objective);
}

/// The output and the moved running statistics on a device.
fn run(device: &mut dyn Device, x: &[f32], by: By) -> [Vec<f32>; 3] {
    let (mut tape, [n, h, w, c]) = (Tape::new(), SHAPE.0);
    let vector = Shape::vector(c);
    let v = tape.input("x", Shape([x.len() / (h * w * c), h, w, c]), DType::F32);
    assert!(tape.shape(v).n().is_multiple_of(n));
    let [gamma, beta] = [[1.5, -0.5], [0.25, 2.0]].map(|data| tape.constant(vector, data.to_vec()));
    let running = (tape.constant(vector, vec![0.5, -0.25]), tape.constant(vector, vec![2.0, 0.5]));
    let (y, moved) = batch_norm(&mut tape, v, gamma, beta, running, by).unwrap();
    let (mean, var) = moved.unwrap();
    let outputs = [("y", y), ("mean", mean), ("var", var)].map(|(name, v)| (name.to_owned(), v)).to_vec();
    let program = Program { name: "case", tape, outputs, checks: vec![], commits: vec![] };
    let plan = Plan::compile(&program, PlanOptions::new(&CpuTarget { threads: 1 })).unwrap();
    let id = device.load(plan).unwrap();
    device.upload(id, "x", bytemuck::cast_slice(x)).unwrap();
    device.poison().unwrap();
    device.run(id).unwrap().outputs.try_into().unwrap()
}

/// Numbers far from zero, other ones on each rank: their variance is lost if squares are subtracted.
#[test]
fn ranks_normalise_as_one_process_does_with_the_whole_batch() {
    let x: Vec<f32> = (0..RANKS * SHAPE.len()).map(|i| 900.0 + 50.0 * (i as f32 * 0.37).sin() + i as f32).collect();
    let [y, mean, var] = run(&mut Cpu::new(1).unwrap(), &x, By::Batches(1));
    let ranks = together(RANKS, |ranks| {
        let own = &x[ranks.index() * SHAPE.len()..][..SHAPE.len()];
        run(&mut Cpu::new(1).unwrap().among(ranks), own, By::Batches(RANKS))
    });
    let close = |got: &[f32], want: &[f32], what: &str| {
        let [got, want] = [got, want].map(|v| v.iter().map(|v| f64::from(*v)).collect::<Vec<_>>());
        assert_close(&got, &want, 1e-6, what);
    };
    for (of_rank, want) in ranks.iter().zip(y.chunks(SHAPE.len())) {
        close(&of_rank[0], want, "output");
        close(&of_rank[1], &mean, "running mean");
        close(&of_rank[2], &var, "running variance");
        assert_eq!(of_rank[1..], ranks[0][1..], "ranks hold the same bits");
    }
}
