//! Plans against an execution without fusion and sharing: the same bits, in less memory, without copies.

use std::collections::HashMap;

use super::{Base, Plan, PlanOptions, Program, Target};
use crate::graph::{Tape, Tensor64, Value};
use crate::ops::add::Add;
use crate::ops::concat::{ConcatChannels, ConcatFlat};
use crate::ops::conv2d::{Conv2d, Geometry};
use crate::ops::leaky_relu::LeakyRelu;
use crate::ops::mul::{Mul, Scale};
use crate::ops::pixel_shuffle::PixelShuffle;
use crate::ops::prelu::Prelu;
use crate::ops::sum_to::{mean, sum_to};
use crate::rng::{Rng, Stream};
use crate::runtime::{Cpu, CpuTarget, CudaTarget, Device, bytes_of};
use crate::types::{DType, Shape};

const WIDTH: usize = 8;
const GROWTH: usize = 4;

/// A dense block as networks write it: nested prefixes.
fn dense_block(tape: &mut Tape, x: Value, weights: &[Value]) -> Value {
    let mut prefix = x;
    for w in &weights[..weights.len() - 1] {
        let y = tape.push(Conv2d(Geometry::same(3)), &[prefix, *w]).unwrap();
        let y = tape.push(LeakyRelu { slope: 0.2 }, &[y]).unwrap();
        prefix = tape.push(ConcatChannels, &[prefix, y]).unwrap();
    }
    tape.push(Conv2d(Geometry::same(3)), &[prefix, weights[weights.len() - 1]]).unwrap()
}

/// Two dense blocks with a residual, channel attention and the gradient bucket of all weights.
fn program() -> (Program, HashMap<String, Tensor64>) {
    let (mut tape, mut given) = (Tape::new(), HashMap::new());
    let mut rng = Rng::new(5, Stream::Init, 0, 0);
    let mut input = |tape: &mut Tape, name: &str, shape: [usize; 4]| {
        given.insert(name.into(), Tensor64::from_fn(Shape(shape), |_| f64::from(rng.uniform() - 0.5)));
        tape.input(name, Shape(shape), DType::F32)
    };
    let x = input(&mut tape, "x", [2, 7, 6, WIDTH]);
    let mut weights = Vec::new();
    for block in 0..2 {
        for i in 0..4 {
            let out = if i < 3 { GROWTH } else { WIDTH };
            weights.push(input(&mut tape, &format!("w{block}{i}"), [out, 3, 3, WIDTH + i * GROWTH]));
        }
    }
    let first = tape.push(LeakyRelu { slope: 0.2 }, &[x]).unwrap();
    let y = dense_block(&mut tape, first, &weights[..4]);
    let y = dense_block(&mut tape, y, &weights[4..]);
    let y = tape.push(Add { alpha: 1.0, beta: 0.2 }, &[first, y]).unwrap();
    let pooled = sum_to(&mut tape, y, Shape([2, 1, 1, WIDTH])).unwrap();
    let pooled = tape.push(Scale { factor: 0.1, shift: 1.0 }, &[pooled]).unwrap();
    let y = tape.push(Mul, &[y, pooled]).unwrap();
    let square = tape.push(Mul, &[y, y]).unwrap();
    let loss = mean(&mut tape, square).unwrap();
    let one = tape.scalar(1.0);
    let mut wrt = weights.clone();
    wrt.push(x);
    let grads: Vec<Value> = tape.gradients(&[(loss, one)], &wrt).unwrap().into_iter().flatten().collect();
    let (mut offsets, mut end) = (Vec::new(), 0);
    for g in &grads[..weights.len()] {
        offsets.push(end);
        end += tape.shape(*g).len().next_multiple_of(16);
    }
    let bucket = ConcatFlat { offsets, shape: Shape::vector(end) };
    let bucket = tape.push(bucket, &grads[..weights.len()]).unwrap();
    let outputs = vec![("loss".into(), loss), ("bucket".into(), bucket), ("d_x".into(), grads[weights.len()])];
    (Program { name: "test", tape, outputs, checks: vec![], commits: vec![] }, given)
}

/// The plan, and what it gives on a CPU of `threads`, those of the options' target.
fn run(
    program: &Program,
    given: &HashMap<String, Tensor64>,
    options: PlanOptions,
    threads: usize,
) -> (Plan, Vec<Vec<f32>>) {
    let mut cpu = Cpu::new(threads).unwrap();
    let id = cpu.load(Plan::compile(program, options).unwrap()).unwrap();
    for (name, data) in given {
        let floats: Vec<f32> = data.data.iter().map(|v| *v as f32).collect();
        cpu.upload(id, name, bytes_of(&floats)).unwrap();
    }
    cpu.poison().unwrap();
    let outputs = cpu.run(id).unwrap().outputs;
    (Plan::compile(program, options).unwrap(), outputs)
}

#[test]
fn fusion_and_sharing_change_no_bit() {
    let (program, given) = program();
    let (plain, want) = run(
        &program,
        &given,
        PlanOptions { fuse: false, share: false, ..PlanOptions::new(&CpuTarget { threads: 1 }) },
        1,
    );
    for (fuse, share, threads) in [(true, false, 1), (false, true, 1), (true, true, 1), (true, true, 3)] {
        let (plan, got) =
            run(&program, &given, PlanOptions { fuse, share, ..PlanOptions::new(&CpuTarget { threads }) }, threads);
        for (a, b) in got.iter().zip(&want) {
            let bits = |v: &Vec<f32>| v.iter().map(|x| x.to_bits()).collect::<Vec<u32>>();
            assert_eq!(bits(a), bits(b), "fuse {fuse} share {share} threads {threads}");
        }
        assert!(!fuse || plan.steps.len() < plain.steps.len());
        assert!(!share || plan.arena_len < plain.arena_len / 2, "{} of {}", plan.arena_len, plain.arena_len);
    }
    let reference = program.tape.evaluate_f64(&given).unwrap();
    for ((_, v), got) in program.outputs.iter().zip(&want) {
        let exact = &reference[v.index()].data;
        let norm = exact.iter().map(|v| v * v).sum::<f64>().sqrt();
        let diff = exact.iter().zip(got).map(|(a, b)| (a - f64::from(*b)).powi(2)).sum::<f64>().sqrt();
        assert!(diff <= 1e-5 * norm, "{diff:e} of {norm:e}");
    }
}

#[test]
fn a_dense_block_copies_nothing() {
    let (program, _) = program();
    let plan = Plan::compile(&program, PlanOptions::new(&CpuTarget { threads: 1 })).unwrap();
    for step in &plan.steps {
        if let Base::Copy { copies, .. } = &step.base {
            assert!(copies.is_empty(), "{} copies {copies:?}", step.path);
        }
    }
    let labels: Vec<String> = plan.steps.iter().map(super::Step::label).collect();
    assert!(labels.iter().any(|l| l == "conv2d+leaky_relu"), "{labels:?}");
    // Gradients of a prefix are summed where they already lie.
    assert!(labels.iter().any(|l| l.starts_with("conv2d_input_grad+add")), "{labels:?}");
}

#[test]
fn steps_alone_compute_what_the_plan_does() {
    let (program, given) = program();
    let options = PlanOptions::new(&CpuTarget { threads: 2 });
    let (plan, want) = run(&program, &given, options, 2);
    let mut cpu = Cpu::new(2).unwrap();
    let mut ids = Vec::new();
    for i in 0..plan.steps.len() {
        let mut single = plan.only_step(i);
        if i + 1 == plan.steps.len() {
            single.outputs = plan.outputs.clone();
        }
        let id = cpu.load(single).unwrap();
        for (name, data) in &given {
            let floats: Vec<f32> = data.data.iter().map(|v| *v as f32).collect();
            cpu.upload(id, name, bytes_of(&floats)).unwrap();
        }
        ids.push(id);
    }
    cpu.poison().unwrap();
    let got = ids.into_iter().map(|id| cpu.run(id).unwrap().outputs).last().unwrap();
    assert!(want == got, "other numbers");
}

#[test]
fn bytes_count_each_location_once_with_its_element_type() {
    for (dtype, bytes) in [(DType::F32, 4), (DType::U16, 2)] {
        let mut tape = Tape::new();
        let shape = Shape([2, 3, 5, 4]);
        let (a, b) = (tape.input("a", shape, dtype), tape.input("b", Shape([2, 1, 1, 4]), DType::F32));
        let square = tape.push(Mul, &[a, a]).unwrap();
        let product = tape.push(Mul, &[square, b]).unwrap();
        let outputs = vec![("square".into(), square), ("product".into(), product)];
        let program = Program { name: "test", tape, outputs, checks: vec![], commits: vec![] };
        let plan = Plan::compile(&program, PlanOptions::new(&CpuTarget { threads: 1 })).unwrap();
        assert_eq!(plan.steps.len(), 1);
        let step = &plan.steps[0];
        assert_eq!((plan.bytes(&step.reads()), plan.bytes(&step.writes())), (120 * bytes + 8 * 4, 2 * 120 * 4));
    }
}

/// A stage of an upsampler, and whether its convolution's result is read beside the shuffle.
fn upsampler(read_elsewhere: bool) -> Program {
    let mut tape = Tape::new();
    let input = |tape: &mut Tape, name: &str, shape| tape.input(name, Shape(shape), DType::F32);
    let (x, w) = (input(&mut tape, "x", [2, 5, 7, 8]), input(&mut tape, "w", [32, 3, 3, 8]));
    let (bias, slope) = (input(&mut tape, "bias", [1, 1, 1, 32]), input(&mut tape, "slope", [1; 4]));
    let y = tape.push(Conv2d(Geometry::same(3)), &[x, w]).unwrap();
    let small = tape.push(Add::SUM, &[y, bias]).unwrap();
    let large = tape.push(PixelShuffle { factor: 2 }, &[small]).unwrap();
    let y = tape.push(Prelu, &[large, slope]).unwrap();
    let mut outputs = vec![("y".into(), y), ("large".into(), large)];
    outputs.extend(read_elsewhere.then(|| ("small".into(), small)));
    Program { name: "test", tape, outputs, checks: vec![], commits: vec![] }
}

#[test]
fn pixels_are_shuffled_by_the_kernel_that_makes_them_on_cuda_devices() {
    for (read_elsewhere, stores) in [(false, vec![2, 3]), (true, vec![1, 2, 3])] {
        let plan = |target: &dyn Target| Plan::compile(&upsampler(read_elsewhere), PlanOptions::new(target)).unwrap();
        let labels = |plan: &Plan| plan.steps.iter().map(super::Step::label).collect::<Vec<_>>();
        let cuda = plan(&CudaTarget);
        assert_eq!(labels(&cuda), ["conv2d+add+pixel_shuffle+prelu"]);
        let step = &cuda.steps[0];
        assert_eq!([0, 1, 2, 3].map(|i| step.shape_before(i).c()), [32, 32, 8, 8]);
        let after: Vec<usize> = step.stores.iter().map(|(after, _)| *after).collect();
        assert_eq!(after, stores, "{read_elsewhere}");
        assert_eq!(labels(&plan(&CpuTarget { threads: 1 })), ["conv2d+add", "pixel_shuffle+prelu"]);
    }
}

#[test]
fn a_library_computes_what_is_shuffled_aside() {
    let plan = Plan::compile(&upsampler(false), PlanOptions::new(&CudaTarget)).unwrap();
    assert!(plan.steps[0].keeps_result_aside());
    assert_eq!(plan.steps[0].scratch.1, 2 * 5 * 7 * 32);
}
