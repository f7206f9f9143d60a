//! Kernels in low precision: every op that allows it on tensors that are stored in bf16, and products of tf32, against
//! the reference on operands that are rounded already, so that products round nothing.

use half::bf16;

use super::{Case, all_cases, assert_close, cuda, inputs_of};
use crate::Result;
use crate::device::cpu::{Isa, Tile};
use crate::device::cuda::PointwiseCode;
use crate::device::cuda::host::{HostOptions, ThreadOrder};
use crate::graph::{
    Application, CpuPointwise, CudaPointwise, Exec, Op, Operands, Pointwise, Rounding, Tape, Tensor64, Value,
};
use crate::ops::slice::SliceChannels;
use crate::plan::{Plan, PlanOptions, Program};
use crate::runtime::{CudaTarget, Device};
use crate::types::{Element, Precision, Shape};

/// Half a unit in the last place, relative to the smallest number with that unit: 7 bits follow the first.
const HALF_UNIT: f64 = 1.0 / 256.0;

/// Passes on its operand, as a feature map that a plan may store in bf16.
#[derive(Debug)]
struct Store;

impl Op for Store {
    fn name(&self) -> &'static str {
        "store"
    }
    fn shape(&self, inputs: &[Shape]) -> Result<Shape, String> {
        Ok(inputs[0])
    }
    fn vjp(&self, _tape: &mut Tape, _at: &Application, d_output: Value) -> Result<Vec<Option<Value>>> {
        Ok(vec![Some(d_output)])
    }
    fn reference(&self, inputs: &[&Tensor64], _output: Shape) -> Tensor64 {
        inputs[0].clone()
    }
    fn exec(&self) -> Exec<'_> {
        Exec::Pointwise(Pointwise::of(self))
    }
    fn rounding(&self) -> Rounding {
        Rounding::Maps
    }
}

impl CpuPointwise for Store {
    fn apply(&self, _isa: Isa, _tile: &mut Tile, _operands: &Operands) {}
}

impl CudaPointwise for Store {
    fn code(&self, _operands: &[Shape]) -> PointwiseCode {
        PointwiseCode::new("scale", 1).with_factors(&[1.0, 0.0])
    }
}

/// The nearest number that products of `precision` take as it is.
fn rounded(x: f64, precision: Precision) -> f64 {
    let x = x as f32;
    match precision {
        Precision::F32 => x.into(),
        Precision::Tf32 => f32::from_bits((x.to_bits() + 0x1000) & 0xffff_e000).into(),
        Precision::Bf16 => bf16::from_f32(x).into(),
    }
}

/// The case's op between two stores, so that operands and result lie in memory as the program stores them; operands
/// are channel slices of wider tensors where `strided`.
fn program_of(case: &Case, precision: Precision, strided: bool) -> (Program, Vec<Tensor64>) {
    let (mut tape, mut given) = (Tape::new(), std::collections::HashMap::new());
    let mut inputs = inputs_of(case, &mut tape, &mut given);
    let mut data = Vec::new();
    for (k, x) in inputs.iter_mut().enumerate() {
        let values = &given[&format!("x{k}")];
        data.push(Tensor64::new(values.shape, values.data.iter().map(|v| rounded(*v, precision)).collect()));
        if case.contiguous.contains(&k) {
            continue;
        }
        let shape = tape.shape(*x);
        let mut stored = tape.push(Store, &[*x]).unwrap();
        if strided {
            let wide = tape.push(crate::ops::concat::ConcatChannels, &[stored, stored, stored]).unwrap();
            stored = tape.push(SliceChannels { offset: shape.c(), channels: shape.c() }, &[wide]).unwrap();
        }
        *x = stored;
    }
    let y = tape.scoped("case", |tape| tape.push_arc(case.op.clone(), &inputs)).unwrap();
    let y = tape.push(Store, &[y]).unwrap();
    (Program { name: "case", tape, outputs: vec![("y".into(), y)], checks: vec![], commits: vec![] }, data)
}

/// Runs the case, and says whether an operand and the result were stored in bf16.
pub(super) fn check(case: &Case, precision: Precision, options: HostOptions, strided: bool) -> (bool, bool) {
    let (program, data) = program_of(case, precision, strided);
    let unfused = PlanOptions { fuse: false, precision, ..PlanOptions::new(&CudaTarget) };
    let plan = Plan::compile(&program, unfused).unwrap();
    let Some(step) = plan.steps.iter().find(|step| &*step.path == "case") else { return (false, false) };
    let low = |locs: Vec<crate::plan::Loc>| locs.iter().any(|loc| loc.element == Element::Bf16);
    let stored = (low(step.reads()), low(step.writes()));
    let mut device = cuda::on_host(options);
    let id = device.load(plan).unwrap();
    for (k, values) in data.iter().enumerate() {
        let floats: Vec<f32> = values.data.iter().map(|v| *v as f32).collect();
        device.upload(id, &format!("x{k}"), bytemuck::cast_slice(&floats)).unwrap();
    }
    device.poison().unwrap();
    let got: Vec<f64> = device.run(id).unwrap().outputs[0].iter().map(|v| f64::from(*v)).collect();
    let operands: Vec<&Tensor64> = data.iter().collect();
    let want = case.op.reference(&operands, program.tape.shape(program.outputs[0].1)).data;
    let what = format!("{:?} of {:?} in {precision}, strided {strided}, {options:?}", case.op, case.inputs);
    assert_close(&got, &want, if stored.1 { HALF_UNIT } else { 3e-6 }, &what);
    assert!(!stored.1 || got.iter().all(|v| rounded(*v, Precision::Bf16) == *v), "{what}: not rounded to bf16");
    stored
}

const ORDERS: [ThreadOrder; 3] = [ThreadOrder::Forward, ThreadOrder::Reverse, ThreadOrder::Random(3)];

/// Whether operands or results may be stored in bf16.
pub(super) fn allowed(case: &Case) -> bool {
    !matches!(case.op.rounding(), Rounding::Never | Rounding::Weights)
}

#[test]
fn kernels_compute_on_bf16() {
    let (mut read, mut written) = (std::collections::BTreeSet::new(), std::collections::BTreeSet::new());
    for case in all_cases().iter().filter(|case| allowed(case)) {
        for order in ORDERS {
            for strided in [false, true] {
                let options = HostOptions { order, ..HostOptions::default() };
                let stored = check(case, Precision::Bf16, options, strided);
                read.extend(stored.0.then(|| case.op.name()));
                written.extend(stored.1.then(|| case.op.name()));
            }
        }
    }
    // What feature maps go through in one network or another.
    let maps = ["add", "mul", "conv2d", "conv2d_input_grad", "pixel_shuffle", "norm_apply", "leaky_relu", "prelu"];
    for name in maps.into_iter().chain(["max_pool", "max_pool_grad", "lpips_distance_grad"]) {
        assert!(read.contains(name) && written.contains(name), "{name}: read {read:?}, written {written:?}");
    }
    for name in ["conv2d_weight_grad", "sum_to", "norm_statistics", "prelu_slope_grad", "lpips_distance"] {
        assert!(read.contains(name) && !written.contains(name), "{name}: read {read:?}, written {written:?}");
    }
}

/// Checks each case in one order of threads, strided or not; the share of those that read or wrote bf16.
fn check_in_turn(cases: &[Case], precision: Precision) -> f64 {
    let mut low = 0;
    for (i, case) in cases.iter().enumerate() {
        let options = HostOptions { order: ORDERS[i % 3], ..HostOptions::default() };
        let (read, written) = check(case, precision, options, i / 3 % 2 == 1);
        low += usize::from(read || written);
    }
    low as f64 / cases.len() as f64
}

#[test]
fn kernels_compute_on_bf16_at_random_extents() {
    let cases: Vec<Case> = cuda::random_cases(16).into_iter().filter(allowed).collect();
    let low = check_in_turn(&cases, Precision::Bf16);
    assert!(low > 0.5, "{low} of the cases read or wrote bf16");
}

#[test]
fn products_of_tf32_are_the_references_at_random_extents() {
    let products = |case: &Case| case.op.name().starts_with("conv2d");
    let cases: Vec<Case> = cuda::random_cases(24).into_iter().filter(products).collect();
    assert_eq!(check_in_turn(&cases, Precision::Tf32), 0.0);
}
