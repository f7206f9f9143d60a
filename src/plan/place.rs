//! Gives every value a place: a buffer of its own, a slice of a concatenation's buffer, a view, or the place
//! of an operand that dies in the same step.

use std::collections::HashMap;
use std::sync::Arc;

use super::fuse::Group;
use super::gather::{is_gather, part};
use super::precision::Storage;
use super::{Base, Loc, PlanOptions, PlannedCommit, PlannedSegment, Program, Root, Slot, Stage, Step, op_of};
use crate::graph::{Axis, Exec, Segment, Source, Tape, Value, ViewOf};
use crate::types::{Element, Shape};
use crate::{Error, Result};

/// Steps and end values with buffer-relative locations.
pub struct Placed {
    pub steps: Vec<Step>,
    /// Length of each buffer in floats.
    pub buffers: Vec<usize>,
    pub inputs: Vec<Slot>,
    pub states: Vec<(Arc<str>, Shape)>,
    pub constants: Vec<Arc<[f32]>>,
    pub outputs: Vec<(String, Loc)>,
    pub checks: Vec<Loc>,
    pub commits: Vec<PlannedCommit>,
    pub segments: Vec<PlannedSegment>,
}

/// What one step will be, in order.
#[derive(Clone, Copy)]
enum Item<'a> {
    Group(&'a Group),
    /// A concatenation, or a view that needs contiguous memory: a copy if its operands are elsewhere.
    Gather(Value),
}

impl Item<'_> {
    fn position(&self) -> usize {
        match self {
            Item::Group(g) => g.last().index(),
            Item::Gather(v) => v.index(),
        }
    }
}

/// Places all values and writes the step list.
pub fn place(
    program: &Program,
    live: &[bool],
    groups: &[Group],
    storage: &Storage,
    options: PlanOptions,
) -> Result<Placed> {
    let mut placer = Placer::new(program, live, storage, options);
    placer.place_leaves();
    placer.place_concats();
    let mut items: Vec<Item> = groups.iter().map(Item::Group).collect();
    let nodes = program.tape.nodes();
    let gathers = (0..nodes.len()).filter(|i| live[*i]).map(Value::at);
    items.extend(gathers.filter(|v| is_gather(&program.tape, *v)).map(Item::Gather));
    items.sort_by_key(Item::position);
    let reads = placer.reads(&items);
    let mut steps = Vec::with_capacity(items.len());
    let mut positions = Vec::with_capacity(items.len());
    for (i, item) in items.iter().enumerate() {
        match item {
            Item::Group(group) => steps.push(placer.group_step(group, i, &reads)?),
            Item::Gather(v) => steps.extend(placer.gather_step(*v)?),
        }
        positions.resize(steps.len(), item.position());
    }
    let segments = placer.segments(&positions)?;
    placer.finish(steps, segments)
}

/// Stands for the carrier of a stage until the step's output has its place.
const IN_TILE: Loc =
    Loc { root: Root::Const(usize::MAX), offset: 0, shape: Shape::SCALAR, stride: 1, element: Element::F32 };

/// For each value, the item positions at which it is read, directly; the end is `usize::MAX`.
pub(super) type Reads = HashMap<Value, Vec<usize>>;

pub(super) struct Placer<'a> {
    program: &'a Program,
    live: &'a [bool],
    pub(super) storage: &'a Storage,
    pub(super) options: PlanOptions<'a>,
    pub(super) locs: Vec<Option<Loc>>,
    buffers: Vec<usize>,
    inputs: Vec<Slot>,
    states: Vec<(Arc<str>, Shape)>,
    constants: Vec<Arc<[f32]>>,
    /// Values with a location inside each buffer, to know what still reads it.
    pub(super) residents: HashMap<usize, Vec<Value>>,
}

impl<'a> Placer<'a> {
    fn new(program: &'a Program, live: &'a [bool], storage: &'a Storage, options: PlanOptions<'a>) -> Self {
        Placer {
            program,
            live,
            storage,
            options,
            locs: vec![None; live.len()],
            buffers: vec![],
            inputs: vec![],
            states: vec![],
            constants: vec![],
            residents: HashMap::new(),
        }
    }

    pub(super) fn tape(&self) -> &'a Tape {
        &self.program.tape
    }

    fn set(&mut self, v: Value, loc: Loc) {
        if let Root::Buffer(b) = loc.root {
            self.residents.entry(b).or_default().push(v);
        }
        self.locs[v.index()] = Some(loc);
    }

    /// A buffer of its own for a value.
    fn new_buffer(&mut self, v: Value) -> Loc {
        let (shape, element) = (self.tape().shape(v), self.storage.element(v));
        self.buffers.push(element.floats(shape.len()));
        Loc { root: Root::Buffer(self.buffers.len() - 1), offset: 0, shape, stride: shape.c(), element }
    }

    fn place_leaves(&mut self) {
        for i in 0..self.live.len() {
            let node = &self.program.tape.nodes()[i];
            let root = match &node.source {
                // Slots are kept even if nothing reads them: the host fills all that the program names.
                Source::Input(dtype) => {
                    self.inputs.push(Slot { name: node.path.clone(), shape: node.shape, dtype: *dtype });
                    Root::Input(self.inputs.len() - 1)
                }
                Source::State if self.live[i] => {
                    self.states.push((node.path.clone(), node.shape));
                    Root::State(self.states.len() - 1)
                }
                Source::Const(data) if self.live[i] => {
                    self.constants.push(data.clone());
                    Root::Const(self.constants.len() - 1)
                }
                _ => continue,
            };
            let (shape, stride) = (node.shape, node.shape.c());
            self.locs[i] = Some(Loc { root, offset: 0, shape, stride, element: Element::F32 });
        }
    }

    /// Outer concatenations first, so that a prefix that is itself a concatenation becomes a slice of the
    /// longest one.
    fn place_concats(&mut self) {
        let tape = self.tape();
        let flat_viewed = self.flat_viewed();
        for i in (0..self.live.len()).rev().filter(|i| self.live[*i]) {
            let v = Value::at(i);
            let Some(Exec::Concat(axis)) = op_of(tape, v).map(|op| op.exec()) else { continue };
            let whole = match self.locs[i] {
                Some(loc) => loc,
                None => {
                    let loc = self.new_buffer(v);
                    self.set(v, loc);
                    loc
                }
            };
            for (k, operand) in tape.node(v).inputs.iter().enumerate() {
                let fits = match axis {
                    Axis::Channels => !flat_viewed[operand.index()],
                    // A concatenation of channels inside a flat one would be laid out twice.
                    Axis::Flat(_) => true,
                };
                if fits && self.locs[operand.index()].is_none() && self.stored_by_op(*operand) {
                    let loc = part(tape, v, &axis, whole, k);
                    self.set(*operand, loc);
                }
            }
        }
    }

    /// Nodes whose memory some view reads as a flat run, so that they must be contiguous.
    fn flat_viewed(&self) -> Vec<bool> {
        let mut viewed = vec![false; self.live.len()];
        for (i, node) in self.tape().nodes().iter().enumerate().filter(|(i, _)| self.live[*i]) {
            if matches!(op_of(self.tape(), Value::at(i)).map(|op| op.exec()), Some(Exec::View(ViewOf::Flat { .. }))) {
                viewed[node.inputs[0].index()] = true;
            }
        }
        viewed
    }

    fn stored_by_op(&self, v: Value) -> bool {
        !matches!(op_of(self.tape(), v).map(|op| op.exec()), None | Some(Exec::View(_)))
    }

    /// The location of a value that exists by now, following views.
    pub(super) fn loc(&mut self, v: Value) -> Result<Loc> {
        if let Some(loc) = self.locs[v.index()] {
            return Ok(loc);
        }
        let node = self.tape().node(v);
        let Some(Exec::View(view)) = op_of(self.tape(), v).map(|op| op.exec()) else {
            return Err(Error::Internal(format!("{}: read before it is computed", node.path)));
        };
        let base = self.loc(node.inputs[0])?;
        let loc = match view {
            ViewOf::Channels { offset } => Loc { offset: base.offset + offset, shape: node.shape, ..base },
            ViewOf::Flat { offset } if base.contiguous() => {
                Loc { offset: base.offset + offset, shape: node.shape, stride: node.shape.c(), ..base }
            }
            ViewOf::Flat { .. } => self.new_buffer(v),
        };
        self.set(v, loc);
        Ok(loc)
    }

    /// Which items read each value; a read of a view or of an in-place concatenation is one of its operands.
    fn reads(&self, items: &[Item]) -> Reads {
        let tape = self.tape();
        let mut reads: Reads = HashMap::new();
        for (i, item) in items.iter().enumerate() {
            let members: &[Value] = match item {
                Item::Group(g) => &g.members,
                Item::Gather(v) => std::slice::from_ref(v),
            };
            for m in members {
                tape.node(*m).inputs.iter().for_each(|v| reads.entry(*v).or_default().push(i));
            }
        }
        super::end_values(self.program).for_each(|v| reads.entry(v).or_default().push(usize::MAX));
        // Channel views and concatenations are read through: walk users before operands.
        for i in (0..self.live.len()).rev().filter(|i| self.live[*i]) {
            let v = Value::at(i);
            if matches!(op_of(tape, v).map(|op| op.exec()), Some(Exec::View(_) | Exec::Concat(_))) {
                let through = reads.get(&v).cloned().unwrap_or_default();
                tape.node(v).inputs.iter().for_each(|o| reads.entry(*o).or_default().extend(&through));
            }
        }
        reads
    }

    fn group_step(&mut self, group: &Group, at: usize, reads: &Reads) -> Result<Step> {
        let tape = self.tape();
        let first = tape.node(group.members[0]);
        let op = op_of(tape, group.members[0]).ok_or_else(|| Error::Internal("a step without an op".into()))?;
        let inputs = first.inputs.iter().map(|v| self.loc(*v)).collect::<Result<Vec<Loc>>>()?;
        let precision = self.storage.precision(group.members[0]);
        let mut stages = Vec::new();
        let mut scratch = 0;
        let base = match op.exec() {
            Exec::Kernel(kernel) => {
                let shapes: Vec<Shape> = first.inputs.iter().map(|v| tape.shape(*v)).collect();
                scratch = self.options.target.scratch(&kernel, &shapes, first.shape);
                Base::Kernel(op.clone(), inputs)
            }
            Exec::Pointwise(p) => {
                // Of the operands that can start the tile, one whose place the output may take over is best.
                let starts = |k: &usize| p.may_carry(*k) && inputs[*k].shape == first.shape;
                let carrier = (0..inputs.len()).filter(starts).max_by_key(|k| first.inputs[*k]);
                let carrier = carrier.ok_or_else(|| Error::Internal(format!("{}: no carrier", first.path)))?;
                let base = Base::Carrier(inputs[carrier]);
                stages.push(Stage { op: op.clone(), carrier, operands: inputs });
                base
            }
            Exec::View(_) | Exec::Concat(_) => return Err(Error::Internal("a step that computes nothing".into())),
        };
        for (m, carrier) in group.members[1..].iter().zip(&group.carriers) {
            let node = tape.node(*m);
            let op = op_of(tape, *m).ok_or_else(|| Error::Internal("a stage without an op".into()))?;
            let mut operands = Vec::with_capacity(node.inputs.len());
            for (k, v) in node.inputs.iter().enumerate() {
                operands.push(if k == *carrier { IN_TILE } else { self.loc(*v)? });
            }
            stages.push(Stage { op: op.clone(), carrier: *carrier, operands });
        }
        let path = tape.node(group.last()).path.clone();
        let macs = macs(tape, group);
        let mut step = Step { path, base, stages, stores: vec![], scratch: (0, scratch), macs, precision };
        self.place_stores(group, &mut step, at, reads);
        let output = step.stores[step.stores.len() - 1].1;
        step.stages.iter_mut().for_each(|s| s.operands[s.carrier] = output);
        step.scratch.1 = step.scratch.1.max(self.library_scratch(&step, &output));
        Ok(step)
    }

    /// Floats for a library's result where it cannot go to the step's output.
    fn library_scratch(&self, step: &Step, output: &Loc) -> usize {
        let Base::Kernel(op, _) = &step.base else { return 0 };
        let has_library = matches!(op.exec(), Exec::Kernel(kernel) if kernel.library.is_some());
        let needed = self.options.target.has_libraries() && has_library && step.keeps_result_aside();
        if needed { output.element.floats(output.shape.len()) } else { 0 }
    }

    /// Decides which members of the group reach memory, and where.
    fn place_stores(&mut self, group: &Group, step: &mut Step, at: usize, reads: &Reads) {
        let pointwise_base = matches!(step.base, Base::Carrier(_));
        for (i, m) in group.members.iter().enumerate() {
            let is_last = i + 1 == group.members.len();
            let read_later = reads.get(m).is_some_and(|r| r.iter().any(|p| *p > at));
            if !is_last && !read_later && self.locs[m.index()].is_none() {
                continue;
            }
            let loc = match self.locs[m.index()] {
                Some(loc) => loc,
                None => {
                    let dying =
                        if is_last && step.stores.is_empty() { self.dying_operand(step, *m, at, reads) } else { None };
                    let dying = dying.or_else(|| self.source_of_kernel(step, *m, at, reads));
                    let loc = dying.unwrap_or_else(|| self.new_buffer(*m));
                    self.set(*m, loc);
                    loc
                }
            };
            step.stores.push((i + usize::from(pointwise_base), loc));
        }
    }

    /// The tape's segments over steps that stand at these positions of the tape.
    fn segments(&mut self, positions: &[usize]) -> Result<Vec<PlannedSegment>> {
        let on_tape = self.tape().segments();
        let first = |segment: &Segment| positions.partition_point(|at| *at < segment.start);
        let mut segments = Vec::with_capacity(on_tape.len());
        for (i, segment) in on_tape.iter().enumerate() {
            let end = on_tape.get(i + 1).map_or(positions.len(), first);
            let bucket = segment.bucket.map(|v| self.loc(v)).transpose()?;
            segments.push(PlannedSegment { name: segment.name, steps: first(segment)..end, bucket });
        }
        Ok(segments)
    }

    fn finish(mut self, steps: Vec<Step>, segments: Vec<PlannedSegment>) -> Result<Placed> {
        let program = self.program;
        let mut outputs = Vec::new();
        for (name, v) in &program.outputs {
            outputs.push((name.clone(), self.loc(*v)?));
        }
        let checks = program.checks.iter().map(|v| self.loc(*v)).collect::<Result<_>>()?;
        let mut commits = Vec::new();
        for c in &program.commits {
            let inputs = c.inputs.iter().map(|v| self.loc(*v)).collect::<Result<_>>()?;
            let mut states = Vec::new();
            for (name, shape) in &c.states {
                states.push(self.state_loc(name, *shape)?);
            }
            commits.push(PlannedCommit { op: c.op.clone(), inputs, states });
        }
        let Placer { buffers, inputs, states, constants, .. } = self;
        Ok(Placed { steps, buffers, inputs, states, constants, outputs, checks, commits, segments })
    }

    fn state_loc(&mut self, name: &str, shape: Shape) -> Result<Loc> {
        let at = match self.states.iter().position(|(n, _)| &**n == name) {
            Some(i) if self.states[i].1 == shape => i,
            Some(i) => {
                return Err(Error::Internal(format!("state {name} is {} and {shape}", self.states[i].1)));
            }
            None => {
                self.states.push((name.into(), shape));
                self.states.len() - 1
            }
        };
        Ok(Loc { root: Root::State(at), offset: 0, shape, stride: shape.c(), element: Element::F32 })
    }
}

fn macs(tape: &Tape, group: &Group) -> u64 {
    let count = |m: &Value| {
        let shapes: Vec<Shape> = tape.node(*m).inputs.iter().map(|v| tape.shape(*v)).collect();
        op_of(tape, *m).map_or(0, |op| op.macs(&shapes, tape.shape(*m)))
    };
    group.members.iter().map(count).sum()
}
