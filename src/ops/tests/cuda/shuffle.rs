//! Pixels that are shuffled by the kernel that computes them. Operands are small whole numbers, so that every precision
//! gives the reference's numbers exactly.

use std::collections::HashMap;

use super::libraries::FASTER;
use super::*;
use crate::graph::{Op, Tape};
use crate::ops::concat::ConcatChannels;
use crate::ops::mul::Scale;
use crate::ops::prelu::Prelu;
use crate::plan::{Plan, PlanOptions, Program};
use crate::runtime::{CudaTarget, Device, bytes_of};
use crate::types::{DType, Precision};

/// What computes the values: an op on an operand and, perhaps, a weight, for an output of so many channels.
#[derive(Clone, Copy, Debug)]
enum Host {
    Conv2d,
    /// A convolution of a feature map that another one has made.
    OfMap,
    Depthwise,
    InputGrad,
    Linear,
    Pointwise,
}

/// A host with what follows it.
#[derive(Clone, Copy, Debug)]
struct Chain {
    host: Host,
    factor: usize,
    /// Of the shuffled image.
    channels: usize,
    /// Whether the values before the shuffle are kept as well.
    keeps: bool,
}

const CHAINS: [Chain; 10] = [
    Chain { host: Host::Conv2d, factor: 2, channels: 8, keeps: false },
    Chain { host: Host::Conv2d, factor: 2, channels: 35, keeps: true },
    Chain { host: Host::Conv2d, factor: 3, channels: 5, keeps: false },
    Chain { host: Host::OfMap, factor: 2, channels: 8, keeps: true },
    Chain { host: Host::Depthwise, factor: 2, channels: 2, keeps: true },
    Chain { host: Host::Depthwise, factor: 3, channels: 1, keeps: false },
    Chain { host: Host::InputGrad, factor: 2, channels: 6, keeps: true },
    Chain { host: Host::Linear, factor: 2, channels: 17, keeps: false },
    Chain { host: Host::Pointwise, factor: 2, channels: 3, keeps: true },
    Chain { host: Host::Pointwise, factor: 4, channels: 1, keeps: false },
];

/// Whole numbers from -`most` to `most`.
fn whole(shape: Shape, most: i32, seed: u64) -> Tensor64 {
    let mut rng = Rng::new(seed, Stream::Noise, 0, 0);
    Tensor64::from_fn(shape, |_| f64::from(rng.below(2 * most as u32 + 1) as i32 - most))
}

/// A program with its inputs.
struct Written {
    tape: Tape,
    given: HashMap<String, Tensor64>,
}

impl Written {
    fn input(&mut self, name: &str, shape: [usize; 4], most: i32) -> crate::graph::Value {
        let seed = self.given.len() as u64;
        self.given.insert(name.to_owned(), whole(Shape(shape), most, seed));
        self.tape.input(name, Shape(shape), DType::F32)
    }

    fn push(&mut self, op: impl Op, inputs: &[crate::graph::Value]) -> crate::graph::Value {
        self.tape.push(op, inputs).unwrap()
    }

    /// The values before the shuffle, of `c` channels.
    fn host(&mut self, host: Host, c: usize) -> crate::graph::Value {
        let g = Geometry::same(3);
        match host {
            Host::Conv2d => {
                let (x, w) = (self.input("x", [2, 5, 7, 4], 1), self.input("w", [c, 3, 3, 4], 1));
                self.push(Conv2d(g), &[x, w])
            }
            Host::OfMap => {
                let (x, first) = (self.input("x", [2, 5, 7, 4], 1), self.input("first", [16, 1, 1, 4], 1));
                let map = self.push(Conv2d(Geometry::same(1)), &[x, first]);
                let w = self.input("w", [c, 3, 3, 16], 1);
                self.push(Conv2d(g), &[map, w])
            }
            Host::Depthwise => {
                let (x, w) = (self.input("x", [2, 5, 7, c], 2), self.input("w", [c, 3, 3, 1], 1));
                self.push(Conv2d(Geometry { depthwise: true, ..g }), &[x, w])
            }
            Host::InputGrad => {
                let geometry = Geometry { stride: 2, ..g };
                let (x, w) = (self.input("x", [2, 3, 4, 4], 1), self.input("w", [4, 3, 3, c], 1));
                self.push(Conv2dInputGrad { geometry, input: Shape([2, 5, 7, c]) }, &[x, w])
            }
            Host::Linear => {
                let (x, w) = (self.input("x", [5, 1, 1, 12], 1), self.input("w", [c, 1, 1, 12], 1));
                self.push(Linear, &[x, w])
            }
            Host::Pointwise => {
                let x = self.input("x", [2, 5, 7, c], 4);
                self.push(Scale::by(2.0), &[x])
            }
        }
    }
}

/// host + bias, shuffle, PReLU, + residual, the result beside the residual in one tensor.
fn program(chain: Chain) -> (Program, HashMap<String, Tensor64>) {
    let Chain { host, factor, channels, keeps } = chain;
    let mut at = Written { tape: Tape::new(), given: HashMap::new() };
    let c = channels * factor * factor;
    let y = at.host(host, c);
    let bias = at.input("bias", [1, 1, 1, c], 3);
    let small = at.push(Add::SUM, &[y, bias]);
    let large = at.push(PixelShuffle { factor }, &[small]);
    let slope = at.tape.input("slope", Shape::SCALAR, DType::F32);
    at.given.insert("slope".into(), Tensor64::new(Shape::SCALAR, vec![0.5]));
    let y = at.push(Prelu, &[large, slope]);
    let residual = at.input("residual", at.tape.shape(y).0, 4);
    let y = at.push(Add::SUM, &[y, residual]);
    let y = at.push(ConcatChannels, &[residual, y]);
    let mut outputs = vec![("y".to_owned(), y), ("large".to_owned(), large)];
    outputs.extend(keeps.then(|| ("small".to_owned(), small)));
    (Program { name: "chain", tape: at.tape, outputs, checks: vec![], commits: vec![] }, at.given)
}

/// Compares with the reference; returns what was chosen for its steps.
fn check_chain(chain: Chain, precision: Precision, options: HostOptions) -> Vec<String> {
    let (program, given) = program(chain);
    let plan = Plan::compile(&program, PlanOptions { precision, ..PlanOptions::new(&CudaTarget) }).unwrap();
    let what = format!("{chain:?} in {precision}, {options:?}");
    assert!(plan.steps.iter().any(|s| s.label().ends_with("add+pixel_shuffle+prelu+add")), "{what}: not fused");
    let mut device = on_host(options);
    let id = device.load(plan).unwrap();
    for (name, data) in &given {
        let floats: Vec<f32> = data.data.iter().map(|v| *v as f32).collect();
        device.upload(id, name, bytes_of(&floats)).unwrap();
    }
    device.poison().unwrap();
    let got = device.run(id).unwrap().outputs;
    let want = program.tape.evaluate_f64(&given).unwrap();
    for ((name, v), got) in program.outputs.iter().zip(got) {
        let got: Vec<f64> = got.into_iter().map(f64::from).collect();
        assert_eq!(got, program.tape.value_of(&want, *v).data, "{name} of {what}");
    }
    device.choices().map_or(vec![], |choices| choices.algorithms().into_values().collect())
}

const PRECISIONS: [Precision; 3] = [Precision::F32, Precision::Tf32, Precision::Bf16];

#[test]
fn kernels_store_into_shuffled_places() {
    for order in [ThreadOrder::Forward, ThreadOrder::Reverse, ThreadOrder::Random(1)] {
        for (chain, precision) in CHAINS.iter().flat_map(|chain| PRECISIONS.map(|p| (*chain, p))) {
            check_chain(chain, precision, HostOptions { order, ..HostOptions::default() });
        }
    }
}

#[test]
fn specialised_kernels_store_into_shuffled_places() {
    for (i, chain) in CHAINS.into_iter().enumerate() {
        let options = HostOptions { specialise: true, ..HostOptions::default() };
        check_chain(chain, PRECISIONS[i % 3], options);
    }
}

#[test]
fn results_of_libraries_are_shuffled() {
    for (chain, precision) in CHAINS.iter().flat_map(|chain| PRECISIONS.map(|p| (*chain, p))) {
        check_chain(chain, precision, FASTER);
    }
}

#[test]
fn kernels_of_warpgroups_store_into_shuffled_places() {
    for order in [ThreadOrder::Forward, ThreadOrder::Reverse, ThreadOrder::Random(1)] {
        for (factor, channels, keeps) in [(2, 8, false), (2, 35, true), (3, 5, false)] {
            let chain = Chain { host: Host::OfMap, factor, channels, keeps };
            let options = HostOptions { order, warpgroups: true, ..HostOptions::default() };
            let chosen = check_chain(chain, Precision::Bf16, options);
            assert!(chosen.iter().any(|way| way.starts_with("wgmma")), "{chain:?}: {chosen:?}");
        }
    }
}
