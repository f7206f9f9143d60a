//! What holds for every op: its derivative is that of its reference (central differences in f64), and its
//! CPU code computes its reference, through strided operands, over poisoned memory, with any threads.

pub(super) mod cuda;
mod gpu;
mod precision;

use std::collections::HashMap;
use std::sync::Arc;

use super::{Case, all_cases};
use crate::device::cpu::Isa;
use crate::device::cuda::host::{HostOptions, ThreadOrder};
use crate::graph::{CommitOp, Tape, Tensor64, Value};
use crate::plan::{Commit, Plan, PlanOptions, Program};
use crate::rng::{Rng, Stream};
use crate::runtime::{Cpu, Device, Outcome};
use crate::types::{DType, Shape};

/// Away from zero, where most kinks are: magnitude 0.2 to 1.2, rounded to f32.
pub(super) fn random(shape: Shape, seed: u64) -> Tensor64 {
    let mut rng = Rng::new(seed, Stream::Noise, 0, 0);
    Tensor64::from_fn(shape, |_| {
        let sign = if rng.uniform() < 0.5 { -1.0 } else { 1.0 };
        f64::from(sign * (0.2 + rng.uniform()))
    })
}

/// `!(…)` so that NaN fails.
pub(super) fn assert_close(got: &[f64], want: &[f64], tol: f64, what: &str) {
    assert_eq!(got.len(), want.len(), "{what}");
    let norm = want.iter().map(|v| v * v).sum::<f64>().sqrt();
    let diff = got.iter().zip(want).map(|(a, b)| (a - b).powi(2)).sum::<f64>().sqrt();
    assert!(diff <= tol * norm.max(1e-3), "{what}: distance {diff:e}, norm {norm:e}\n got {got:?}\nwant {want:?}");
}

fn inputs_of(case: &Case, tape: &mut Tape, given: &mut HashMap<String, Tensor64>) -> Vec<Value> {
    let mut inputs = Vec::new();
    for (k, shape) in case.inputs.iter().enumerate() {
        let name = format!("x{k}");
        let data = case.data.map_or_else(|| random(*shape, 10 + k as u64), |data| data(k, *shape));
        given.insert(name.clone(), data);
        inputs.push(tape.input(&name, *shape, DType::F32));
    }
    inputs
}

/// The elements of an operand that are moved, one after another: all in the slow suites, else at most 96 of them.
fn moved_elements(len: usize) -> Vec<usize> {
    const MOST: usize = 96;
    if cfg!(feature = "slow-tests") || len <= MOST {
        return (0..len).collect();
    }
    let mut rng = Rng::new(len as u64, Stream::Noise, 0, 0);
    (0..MOST).map(|_| rng.below(len as u32) as usize).collect()
}

#[test]
fn derivatives_are_those_of_the_references() {
    for case in all_cases().into_iter().filter(|c| c.has_gradient) {
        let (mut tape, mut given) = (Tape::new(), HashMap::new());
        let inputs = inputs_of(&case, &mut tape, &mut given);
        let output = tape.push_arc(case.op.clone(), &inputs).unwrap();
        let cotangent = tape.input("cotangent", tape.shape(output), DType::F32);
        given.insert("cotangent".into(), random(tape.shape(output), 99));
        let grads = tape.gradients(&[(output, cotangent)], &inputs).unwrap();
        let values = tape.evaluate_f64(&given).unwrap();
        let objective = |given: &HashMap<String, Tensor64>| {
            let x: Vec<&Tensor64> = (0..inputs.len()).map(|k| &given[&format!("x{k}")]).collect();
            let y = case.op.reference(&x, tape.shape(output));
            y.data.iter().zip(&given["cotangent"].data).map(|(a, b)| a * b).sum::<f64>()
        };
        for (k, input) in inputs.iter().enumerate() {
            let name = format!("x{k}");
            let len = tape.shape(*input).len();
            let all = grads[k].map_or(vec![0.0; len], |g| tape.value_of(&values, g).data.clone());
            let (mut got, mut want) = (Vec::new(), Vec::new());
            for i in moved_elements(len) {
                let (h, mut moved) = (1e-5, given.clone());
                moved.get_mut(&name).unwrap().data[i] += h;
                let plus = objective(&moved);
                moved.get_mut(&name).unwrap().data[i] -= 2.0 * h;
                want.push((plus - objective(&moved)) / (2.0 * h));
                got.push(all[i]);
            }
            assert_close(&got, &want, 1e-6, &format!("{:?} operand {k}", case.op));
        }
    }
}

/// Runs one op through a plan, with operands that are channel slices of wider tensors where `strided`; the result
/// and the reference's.
fn run_on(device: &mut dyn Device, case: &Case, strided: bool) -> (Vec<f64>, Vec<f64>) {
    let (mut tape, mut given) = (Tape::new(), HashMap::new());
    let mut inputs = inputs_of(case, &mut tape, &mut given);
    let reference: Vec<Tensor64> = (0..inputs.len()).map(|k| given[&format!("x{k}")].clone()).collect();
    let mut uploads = Vec::new();
    for (k, x) in inputs.iter_mut().enumerate() {
        let [n, h, w, c] = tape.shape(*x).0;
        if strided && !case.contiguous.contains(&k) {
            let wide = Shape([n, h, w, c + 3]);
            let data = Tensor64::from_fn(wide, |[i, y, x, ch]| {
                if (1..=c).contains(&ch) { reference[k].data[reference[k].index([i, y, x, ch - 1])] } else { f64::NAN }
            });
            let slot = tape.input(&format!("wide{k}"), wide, DType::F32);
            uploads.push((format!("wide{k}"), data));
            *x = tape.push(super::slice::SliceChannels { offset: 1, channels: c }, &[slot]).unwrap();
        } else {
            uploads.push((format!("x{k}"), reference[k].clone()));
        }
    }
    let output = tape.push_arc(case.op.clone(), &inputs).unwrap();
    let shape = tape.shape(output);
    let program = Program { name: "case", tape, outputs: vec![("y".into(), output)], checks: vec![], commits: vec![] };
    let options = PlanOptions::new(device.target());
    let id = device.load(Plan::compile(&program, options).unwrap()).unwrap();
    for (name, data) in &uploads {
        let floats: Vec<f32> = data.data.iter().map(|v| *v as f32).collect();
        device.upload(id, name, bytemuck::cast_slice(&floats)).unwrap();
    }
    device.poison().unwrap();
    let got = device.run(id).unwrap().outputs.remove(0).into_iter().map(f64::from).collect();
    let operands: Vec<&Tensor64> = reference.iter().collect();
    (got, case.op.reference(&operands, shape).data)
}

#[test]
fn cpu_code_computes_the_references() {
    for case in all_cases() {
        check_cpu(&case);
    }
}

/// CPU code against the reference: with strided operands too, with 1, 2 and 3 threads, with each instruction set.
pub(super) fn check_cpu(case: &Case) {
    for strided in [false, true] {
        let mut first: Option<Vec<f64>> = None;
        for threads in 1..=3 {
            let (got, want) = run_on(&mut Cpu::new(threads).unwrap(), case, strided);
            assert_close(&got, &want, 3e-6, &format!("{:?} strided {strided}", case.op));
            let same = first.get_or_insert_with(|| got.clone());
            assert_eq!(*same, got, "{:?} with {threads} threads", case.op);
        }
        for isa in Isa::all().filter(|isa| *isa != Isa::detect()) {
            let (got, want) = run_on(&mut Cpu::new(2).unwrap().with_isa(isa), case, strided);
            assert_close(&got, &want, 3e-6, &format!("{:?} {}", case.op, isa.kind().name()));
        }
    }
}

/// The devices that run what the cases do not reach: changes of state, raw inputs.
pub(super) fn devices() -> Vec<Box<dyn Device>> {
    vec![
        Box::new(Cpu::new(3).unwrap()),
        Box::new(cuda::on_host(HostOptions { order: ThreadOrder::Reverse, ..HostOptions::default() })),
    ]
}

/// Runs a program of one commit: `inputs` writes its operands, which are checked, on a tape; `data` is for the tape's
/// inputs by name.
pub(super) fn commit(
    device: &mut dyn Device,
    op: impl CommitOp,
    inputs: impl FnOnce(&mut Tape) -> Vec<Value>,
    data: &[(&str, &[f32])],
    states: &[(&str, Shape)],
) -> Outcome {
    let mut tape = Tape::new();
    let inputs = inputs(&mut tape);
    let states = states.iter().map(|(name, shape)| ((*name).to_owned(), *shape)).collect();
    let commits = vec![Commit { op: Arc::new(op), inputs: inputs.clone(), states }];
    let program = Program { name: "commit", tape, outputs: vec![], checks: inputs, commits };
    let options = PlanOptions::new(device.target());
    let id = device.load(Plan::compile(&program, options).unwrap()).unwrap();
    for (name, data) in data {
        device.upload(id, name, bytemuck::cast_slice(data)).unwrap();
    }
    device.run(id).unwrap()
}
