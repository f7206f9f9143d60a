//! What the device refuses to run.

use crate::graph::Tape;
use crate::ops::sum_to::Expand;
use crate::plan::{Base, Loc, Plan, PlanOptions, Program};
use crate::runtime::{Cpu, CpuTarget, Device};
use crate::types::{DType, Shape};

/// x (1,1,1,3), repeated over 2x2 pixels.
fn plan() -> Plan {
    let mut tape = Tape::new();
    let x = tape.input("x", Shape::vector(3), DType::F32);
    let y = tape.push(Expand { target: Shape([1, 2, 2, 3]) }, &[x]).unwrap();
    let program = Program { name: "case", tape, outputs: vec![("y".into(), y)], checks: vec![], commits: vec![] };
    Plan::compile(&program, PlanOptions::new(&CpuTarget { threads: 1 })).unwrap()
}

#[test]
fn a_plan_that_leaves_its_memory_is_refused_and_the_others_still_run() {
    let mut cpu = Cpu::new(1).unwrap();
    let good = cpu.load(plan()).unwrap();
    let mut outside = plan();
    // The arena grows for it all the same.
    outside.arena_len += 3;
    outside.outputs[0].1.offset = outside.arena_len - 11;
    let error = cpu.load(outside).unwrap_err().to_string();
    assert!(error.contains("plan case: 1x2x2x3 at") && error.contains("floats"), "{error}");

    let mut over = plan();
    let (read, Base::Kernel(_, inputs)) = (over.steps[0].stores[0].1, &mut over.steps[0].base) else { unreachable!() };
    inputs[0] = Loc { shape: Shape::vector(3), ..read };
    let error = cpu.load(over).unwrap_err().to_string();
    assert!(error.contains("plan case: expand writes over what it reads"), "{error}");

    cpu.upload(good, "x", bytemuck::cast_slice(&[1.0f32, 2.0, 3.0])).unwrap();
    assert_eq!(cpu.run(good).unwrap().outputs[0], [1.0, 2.0, 3.0].repeat(4));
}
