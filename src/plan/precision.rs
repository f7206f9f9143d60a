//! Programs of low precision: in which form each value is stored, in which precision each product is computed, and
//! weights rounded once instead of by every product that reads them. Ops declare what they allow ([`Rounding`]).

use std::collections::{BTreeMap, HashMap};

use super::{Commit, Program, end_values, op_of};
use crate::Result;
use crate::graph::{Exec, Rounding, Tape, Value, ViewOf};
use crate::ops::round_weights::RoundWeights;
use crate::ops::slice::SliceFlat;
use crate::types::{Element, Precision};

/// How a program's values are stored and its products computed.
pub(super) struct Storage {
    elements: Vec<Element>,
    precision: Vec<Precision>,
}

impl Storage {
    /// Decides for every value of `program`.
    ///
    /// A value is stored in bf16 if it is a feature map or rounded weights, and the op that computes it and every op
    /// that reads it allow that. Vectors stay f32: they are small, and much depends on them. Values that share memory
    /// are stored alike.
    pub fn of(program: &Program, live: &[bool], precision: Precision) -> Storage {
        let tape = &program.tape;
        let exact = second_order(tape);
        let of = |exact: &bool| if *exact && precision == Precision::Bf16 { Precision::Tf32 } else { precision };
        let precisions = exact.iter().map(of).collect();
        let elements = match precision {
            Precision::F32 | Precision::Tf32 => vec![Element::F32; live.len()],
            Precision::Bf16 => elements(program, live, &exact),
        };
        Storage { elements, precision: precisions }
    }

    /// How a value is stored.
    pub fn element(&self, v: Value) -> Element {
        self.elements[v.index()]
    }

    /// In which precision a node computes.
    pub fn precision(&self, v: Value) -> Precision {
        self.precision[v.index()]
    }
}

/// Nodes of a gradient's gradient, as the R1 penalty has: rounding to bf16 would lose it among its own errors.
fn second_order(tape: &Tape) -> Vec<bool> {
    let mut marked = vec![false; tape.nodes().len()];
    for (i, node) in tape.nodes().iter().enumerate() {
        let passes = match op_of(tape, Value::at(i)) {
            Some(op) => op.rounding() != Rounding::Never,
            None => false,
        };
        marked[i] = node.exact || passes && node.inputs.iter().any(|v| marked[v.index()]);
    }
    marked
}

fn elements(program: &Program, live: &[bool], exact: &[bool]) -> Vec<Element> {
    let tape = &program.tape;
    let mut shared = Shared::new(live.len());
    let mut maps = vec![false; live.len()];
    for i in (0..live.len()).filter(|i| live[*i]) {
        let (v, node) = (Value::at(i), &tape.nodes()[i]);
        let Some(op) = op_of(tape, v) else {
            shared.keep_f32(v);
            continue;
        };
        let follows = node.inputs.iter().any(|operand| maps[operand.index()]);
        if matches!(op.exec(), Exec::View(_) | Exec::Concat(_)) {
            maps[i] = follows;
            node.inputs.iter().for_each(|operand| shared.join(v, *operand));
            continue;
        }
        maps[i] = match op.rounding() {
            Rounding::Maps => true,
            Rounding::Follows => follows,
            Rounding::Never | Rounding::Operands | Rounding::Weights => false,
        };
        let rounds = maps[i] && !exact[i] && node.shape.h() * node.shape.w() > 1;
        if !rounds && op.rounding() != Rounding::Weights {
            shared.keep_f32(v);
        }
        if op.rounding() == Rounding::Never {
            node.inputs.iter().for_each(|operand| shared.keep_f32(*operand));
        }
    }
    end_values(program).for_each(|v| shared.keep_f32(v));
    (0..live.len()).map(|i| if live[i] { shared.element(Value::at(i)) } else { Element::F32 }).collect()
}

/// Sets of values in shared memory (a union-find forest), and which of them must be f32.
struct Shared {
    parent: Vec<usize>,
    f32: Vec<bool>,
}

impl Shared {
    fn new(count: usize) -> Shared {
        Shared { parent: (0..count).collect(), f32: vec![false; count] }
    }

    fn root(&mut self, v: Value) -> usize {
        let mut i = v.index();
        while self.parent[i] != i {
            self.parent[i] = self.parent[self.parent[i]];
            i = self.parent[i];
        }
        i
    }

    fn join(&mut self, a: Value, b: Value) {
        let (a, b) = (self.root(a), self.root(b));
        self.parent[a] = b;
        self.f32[b] |= self.f32[a];
    }

    fn keep_f32(&mut self, v: Value) {
        let root = self.root(v);
        self.f32[root] = true;
    }

    fn element(&mut self, v: Value) -> Element {
        let root = self.root(v);
        if self.f32[root] { Element::F32 } else { Element::Bf16 }
    }
}

/// In a program of bf16: the program with the weights of every product rounded once, those that are cut out of one
/// flat tensor of parameters by one op. `None` if there is nothing to round.
///
/// # Errors
/// None in practice: those of writing ops on a tape.
pub(super) fn round_weights(program: &Program, precision: Precision) -> Result<Option<Program>> {
    let exact = second_order(&program.tape);
    let weights = weights(&program.tape, &exact);
    if precision != Precision::Bf16 || weights.is_empty() {
        return Ok(None);
    }
    let mut tape = Tape::new();
    let mut moved: Vec<Value> = Vec::with_capacity(program.tape.nodes().len());
    let mut rounded: HashMap<Value, Value> = HashMap::new();
    for (i, node) in program.tape.nodes().iter().enumerate() {
        let v = Value::at(i);
        let weight = op_of(&program.tape, v).filter(|_| !exact[i]).and_then(|op| op.weight_operand());
        let inputs = node.inputs.iter().enumerate().map(|(k, operand)| match rounded.get(operand) {
            Some(low) if weight == Some(k) => *low,
            _ => moved[operand.index()],
        });
        let inputs = inputs.collect();
        moved.push(tape.copy_node(node, inputs));
        let Some(slices) = weights.get(&v) else { continue };
        let op = RoundWeights::new(slices.iter().map(|(_, slice)| (slice.offset, slice.shape.len())));
        tape.scoped(&format!("{}.rounded", node.path), |tape| {
            let all = tape.push(op.clone(), &[moved[i]])?;
            for (value, slice) in slices {
                let low = SliceFlat { offset: op.place(slice.offset), ..*slice };
                rounded.insert(*value, tape.push(low, &[all])?);
            }
            Ok(())
        })?;
    }
    tape.copy_segments(&program.tape, &moved);
    let at = |v: &Value| moved[v.index()];
    let commit = |c: &Commit| Commit { inputs: c.inputs.iter().map(at).collect(), ..c.clone() };
    Ok(Some(Program {
        name: program.name,
        outputs: program.outputs.iter().map(|(name, v)| (name.clone(), at(v))).collect(),
        checks: program.checks.iter().map(at).collect(),
        commits: program.commits.iter().map(commit).collect(),
        tape,
    }))
}

/// What products read as weights, by the flat tensor that it is cut out of, or by itself; in order of offset.
fn weights(tape: &Tape, exact: &[bool]) -> BTreeMap<Value, Vec<(Value, SliceFlat)>> {
    let mut found: BTreeMap<Value, BTreeMap<usize, (Value, SliceFlat)>> = BTreeMap::new();
    for (i, node) in tape.nodes().iter().enumerate().filter(|(i, _)| !exact[*i]) {
        let weight = op_of(tape, Value::at(i)).and_then(|op| op.weight_operand());
        let Some(weight) = weight.map(|k| node.inputs[k]) else { continue };
        if op_of(tape, weight).is_some_and(|op| op.rounding() == Rounding::Weights) {
            continue;
        }
        let (whole, offset) = match op_of(tape, weight).map(|op| op.exec()) {
            Some(Exec::View(ViewOf::Flat { offset })) => (tape.node(weight).inputs[0], offset),
            _ => (weight, 0),
        };
        let slice = SliceFlat { offset, shape: tape.shape(weight) };
        found.entry(whole).or_default().insert(offset, (weight, slice));
    }
    found.into_iter().map(|(flat, slices)| (flat, slices.into_values().collect())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::plan::{Plan, PlanOptions, Step};
    use crate::runtime::CudaTarget;
    use crate::train::programs::{BatchShape, Phase, Programs};
    use crate::types::DType;

    const DENSE_AND_PATCHES: &str = "Model: {in_bands: 4}\n\
        Generator: {model_type: esrgan, n_channels: 16, n_blocks: 1, growth_channels: 8, scaling_factor: 2}\n\
        Discriminator: {model_type: patchgan, n_blocks: 2}\n";

    /// The plan of an adversarial step.
    fn plan(overrides: &[&str], precision: Precision) -> Plan {
        plan_of(32, overrides, precision)
    }

    fn plan_of(side: usize, overrides: &[&str], precision: Precision) -> Plan {
        let overrides: Vec<String> = overrides.iter().map(|o| (*o).to_owned()).collect();
        let (cfg, _) = Config::from_yaml(DENSE_AND_PATCHES, None, &overrides).unwrap();
        let shape = BatchShape { batch: 2, hr: (side, side), hr_type: DType::F32, lr_type: None };
        let program = Programs::new(cfg).unwrap().step(Phase::Adversarial, shape).unwrap().program;
        Plan::compile(&program, PlanOptions { precision, ..PlanOptions::new(&CudaTarget) }).unwrap()
    }

    fn elements(locs: &[super::super::Loc]) -> Vec<Element> {
        locs.iter().map(|loc| loc.element).collect()
    }

    fn convolutions(plan: &Plan) -> impl Iterator<Item = &Step> {
        plan.steps.iter().filter(|step| step.label().starts_with("conv2d"))
    }

    #[test]
    fn feature_maps_are_bf16_and_what_much_depends_on_is_not() {
        let plan = plan(&[], Precision::Bf16);
        let inner = |step: &&Step| step.path.contains("generator.body.0") && !step.label().contains("weight_grad");
        let dense: Vec<&Step> = convolutions(&plan).filter(inner).collect();
        assert!(dense.len() >= 30, "15 forward, 15 backward: {}", dense.len());
        for step in dense {
            assert!(elements(&step.reads()[..2]).iter().all(|e| *e == Element::Bf16), "{}", step.path);
            assert!(elements(&step.writes()).iter().all(|e| *e == Element::Bf16), "{}", step.path);
        }
        for step in convolutions(&plan).filter(|step| step.label().starts_with("conv2d_weight_grad")) {
            assert_eq!(elements(&step.writes()), [Element::F32], "{}", step.path);
        }
        for name in ["norm_statistics", "pixel_losses", "ssim", "grad_norm", "resize", "prepare"] {
            let mut steps = plan.steps.iter().filter(|step| step.label().starts_with(name)).peekable();
            assert!(steps.peek().is_some(), "{name}");
            assert!(steps.all(|step| elements(&step.writes()).iter().all(|e| *e == Element::F32)), "{name}");
        }
        let losses = plan.steps.iter().find(|step| step.label().starts_with("pixel_losses")).unwrap();
        assert!(elements(&losses.reads()).iter().all(|e| *e == Element::F32), "SR and HR");
        let ends = plan.outputs.iter().map(|(_, loc)| loc).chain(&plan.checks);
        assert!(ends.chain(plan.commits.iter().flat_map(|c| &c.inputs)).all(|loc| loc.element == Element::F32));
    }

    #[test]
    fn weights_are_rounded_once_for_each_update_of_them() {
        let of = |plan: &Plan| plan.steps.iter().filter(|step| step.label() == "round_weights").count();
        // The generator's, the discriminator's, and these after their update.
        assert_eq!(of(&plan(&[], Precision::Bf16)), 3);
        assert_eq!(of(&plan(&[], Precision::Tf32)), 0);
        let normalised =
            plan(&["Discriminator.model_type=standard", "Discriminator.use_spectral_norm=true"], Precision::Bf16);
        for step in convolutions(&normalised).filter(|step| !step.label().starts_with("conv2d_weight_grad")) {
            assert_eq!(step.reads()[1].element, Element::Bf16, "{}", step.path);
        }
    }

    #[test]
    fn a_gradients_gradient_is_not_rounded() {
        let plan = plan(&["Training.Losses.r1_gamma=1.0"], Precision::Bf16);
        let (exact, other): (Vec<&Step>, Vec<&Step>) =
            convolutions(&plan).partition(|step| step.precision == Precision::Tf32);
        assert!(exact.iter().all(|step| step.path.contains("discriminator")), "only D has a penalty");
        for label in ["conv2d", "conv2d_input_grad", "conv2d_weight_grad"] {
            let count = |steps: &[&Step]| steps.iter().filter(|s| s.label().split('+').next() == Some(label)).count();
            assert!(count(&exact) > 0 && count(&other) > 0, "{label}");
        }
        for step in exact {
            assert!(elements(&step.writes()).iter().all(|e| *e == Element::F32), "{}", step.path);
        }
    }

    #[test]
    fn bf16_takes_little_more_than_half_of_the_memory() {
        let [half, full] = [Precision::Bf16, Precision::F32].map(|precision| plan_of(256, &[], precision).arena_len);
        assert!((half as f64) < 0.65 * full as f64, "{half} of {full} floats");
    }
}
