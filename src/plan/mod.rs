//! Compiles a tape into a static plan: a flat list of steps over planned memory.
//!
//! Passes, each reading only what ops declare, never their names, and asking what a device can do ([`Target`]), never
//! which it is:
//! 1. dead nodes are dropped;
//! 2. `fuse`: chains of pointwise ops (where the device can, with pixel shuffles among them) join the kernel, or the
//!    first pointwise op, that feeds them;
//! 3. `place`: views and concatenations become slices of one buffer, outputs take over operands that die;
//! 4. `memory`: lifetimes over the step list give every buffer its offset in one arena.

mod fuse;
mod gather;
mod memory;
mod place;
mod precision;
mod reuse;
mod step;
mod target;
#[cfg(test)]
mod tests;

use std::ops::Range;
use std::sync::Arc;

use crate::Result;
use crate::device::Workload;
use crate::graph::{CommitOp, Op, Source, Tape, Value};
use crate::types::{DType, Element, Precision, Shape};

pub use step::{Base, Stage, Step};
pub use target::Target;

/// A recorded computation and what to do with its results.
#[derive(Debug)]
pub struct Program {
    /// For messages and profiles.
    pub name: &'static str,
    /// The recorded ops.
    pub tape: Tape,
    /// Values that the host reads back, by name.
    pub outputs: Vec<(String, Value)>,
    /// Values that must be finite in every element, else nothing is committed.
    pub checks: Vec<Value>,
    /// State changes at the end, in order.
    pub commits: Vec<Commit>,
}

/// One state change.
#[derive(Clone, Debug)]
pub struct Commit {
    /// What is done.
    pub op: Arc<dyn CommitOp>,
    /// Values that it reads.
    pub inputs: Vec<Value>,
    /// States that it changes, by name and extent.
    pub states: Vec<(String, Shape)>,
}

/// What a plan is for, and how far it is optimised: wholly, except in tests.
#[derive(Clone, Copy, Debug)]
pub struct PlanOptions<'a> {
    /// Join pointwise ops and pixel shuffles to what feeds them.
    pub fuse: bool,
    /// Let buffers share memory and outputs take over operands.
    pub share: bool,
    /// What the plan is for.
    pub target: &'a dyn Target,
    /// How products are computed and activations stored.
    pub precision: Precision,
}

impl<'a> PlanOptions<'a> {
    /// An optimised plan in f32.
    pub const fn new(target: &'a dyn Target) -> PlanOptions<'a> {
        PlanOptions { fuse: true, share: true, target, precision: Precision::F32 }
    }
}

/// Which memory a location lies in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Root {
    /// A planned buffer; after planning, the arena itself (offsets are final).
    Buffer(usize),
    /// State number `i` of [`Plan::states`].
    State(usize),
    /// Input slot number `i` of [`Plan::inputs`].
    Input(usize),
    /// Constant number `i` of [`Plan::constants`].
    Const(usize),
}

/// A tensor in memory: NHWC pixels `stride` elements apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loc {
    /// Which memory.
    pub root: Root,
    /// First element, in elements.
    pub offset: usize,
    /// Extent.
    pub shape: Shape,
    /// Elements from one pixel to the next, at least the channels.
    pub stride: usize,
    /// How elements are stored. All locations in one planned buffer store alike.
    pub element: Element,
}

impl Loc {
    /// True if the elements follow each other without gaps.
    pub fn contiguous(&self) -> bool {
        self.stride == self.shape.c() || self.shape.pixels() == 1
    }

    /// Elements from the first to one past the last.
    pub fn span(&self) -> usize {
        if self.shape.is_empty() { 0 } else { (self.shape.pixels() - 1) * self.stride + self.shape.c() }
    }

    /// True if the two may share an element. Exact for channel slices of one buffer, else by range.
    pub fn overlaps(&self, other: &Loc) -> bool {
        if self.root != other.root {
            return false;
        }
        let (a, b) = (self.offset, other.offset);
        if a + self.span() <= b || b + other.span() <= a {
            return false;
        }
        if self.stride == other.stride && self.stride > 0 {
            // From this one's channels on to the other's, around the pixel.
            let distance = (b + self.stride - a % self.stride) % self.stride;
            return distance < self.shape.c() || distance + other.shape.c() > self.stride;
        }
        true
    }
}

/// A slot that the host fills.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Name.
    pub name: Arc<str>,
    /// Extent.
    pub shape: Shape,
    /// Element type.
    pub dtype: DType,
}

/// A compiled program.
#[derive(Debug, Default)]
pub struct Plan {
    /// The program's name.
    pub name: &'static str,
    /// Steps in order.
    pub steps: Vec<Step>,
    /// Floats of arena memory, scratch included.
    pub arena_len: usize,
    /// Largest scratch of one step, in floats.
    pub scratch_len: usize,
    /// Input slots.
    pub inputs: Vec<Slot>,
    /// States, by name and extent.
    pub states: Vec<(Arc<str>, Shape)>,
    /// Constants.
    pub constants: Vec<Arc<[f32]>>,
    /// Read-back values.
    pub outputs: Vec<(String, Loc)>,
    /// Values that must be finite.
    pub checks: Vec<Loc>,
    /// State changes.
    pub commits: Vec<PlannedCommit>,
    /// The segments of the program; together they are all steps, where there are any.
    pub segments: Vec<PlannedSegment>,
}

/// A segment of a program over the steps of its plan.
#[derive(Clone, Debug)]
pub struct PlannedSegment {
    /// For messages and profiles.
    pub name: &'static str,
    /// Its steps.
    pub steps: Range<usize>,
    /// Where the flat gradients lie that are complete before its first step and that only it and later steps read: at
    /// this border they can be changed in place.
    pub bucket: Option<Loc>,
}

/// A state change with its operands in memory.
#[derive(Clone, Debug)]
pub struct PlannedCommit {
    /// What is done.
    pub op: Arc<dyn CommitOp>,
    /// Values that it reads.
    pub inputs: Vec<Loc>,
    /// States that it changes.
    pub states: Vec<Loc>,
}

impl Plan {
    /// Whether there is an input slot of this name.
    pub fn has_input(&self, name: &str) -> bool {
        self.inputs.iter().any(|slot| &*slot.name == name)
    }

    /// Compiles `program`.
    ///
    /// # Errors
    /// Fails ([`crate::Error::Internal`]) if the program refers to one state under two extents.
    pub fn compile(program: &Program, options: PlanOptions) -> Result<Plan> {
        let rounded = precision::round_weights(program, options.precision)?;
        let program = rounded.as_ref().unwrap_or(program);
        let live = live_nodes(program);
        let storage = precision::Storage::of(program, &live, options.precision);
        let groups = fuse::groups(program, &live, options);
        let mut placed = place::place(program, &live, &groups, &storage, options)?;
        let arena_len = memory::assign(&mut placed, options);
        let scratch_len = placed.steps.iter().map(|s| s.scratch.1).max().unwrap_or(0);
        Ok(Plan {
            name: program.name,
            steps: placed.steps,
            arena_len,
            scratch_len,
            inputs: placed.inputs,
            states: placed.states,
            constants: placed.constants,
            outputs: placed.outputs,
            checks: placed.checks,
            commits: placed.commits,
            segments: placed.segments,
        })
    }

    /// Multiply-adds of one run.
    pub fn macs(&self) -> u64 {
        self.steps.iter().map(|s| s.macs).sum()
    }

    /// Bytes of the plan's memory at locations, each counted once.
    pub fn bytes(&self, locs: &[Loc]) -> u64 {
        let size = |loc: &Loc| match loc.root {
            Root::Input(i) => self.inputs[i].dtype.size(),
            _ => loc.element.size(),
        };
        let distinct = locs.iter().enumerate().filter(|(i, loc)| !locs[..*i].contains(loc));
        distinct.map(|(_, loc)| (loc.shape.len() * size(loc)) as u64).sum()
    }

    /// Bytes that ranks exchange in one run, each once: gradients, statistics of norms, states.
    pub fn bytes_over_ranks(&self) -> u64 {
        let buckets = self.segments.iter().filter_map(|segment| segment.bucket);
        let exchanged = self.steps.iter().filter(|step| step.over_ranks().is_some());
        let outputs = exchanged.filter_map(|step| Some(step.stores.last()?.1));
        let commits = self.commits.iter().filter(|commit| commit.op.is_over_ranks());
        let states = commits.flat_map(|commit| commit.states.iter().copied());
        buckets.chain(outputs).chain(states).map(|loc| 4 * loc.shape.len() as u64).sum()
    }

    /// What a step has to do.
    pub fn step_workload(&self, step: &Step) -> Workload {
        let [read, written] = [step.reads(), step.writes()].map(|locs| self.bytes(&locs));
        Workload { flops: 2 * step.macs, precision: step.precision, read, written }
    }

    /// What a state change has to do; it reads its states too.
    pub fn commit_workload(&self, commit: &PlannedCommit) -> Workload {
        let [inputs, states] = [&commit.inputs, &commit.states].map(|locs| self.bytes(locs));
        Workload { read: inputs + states, written: states, ..Workload::default() }
    }

    /// Step `index` as a plan of its own over the same memory, to run it alone. What it reads is whatever the
    /// memory holds.
    ///
    /// # Panics
    /// If the plan has no such step.
    pub fn only_step(&self, index: usize) -> Plan {
        Plan {
            name: self.name,
            steps: vec![self.steps[index].clone()],
            arena_len: self.arena_len,
            scratch_len: self.steps[index].scratch.1,
            inputs: self.inputs.clone(),
            states: self.states.clone(),
            constants: self.constants.clone(),
            outputs: vec![],
            checks: vec![],
            commits: vec![],
            segments: vec![],
        }
    }
}

/// Marks the nodes that an output, a check or a commit depends on.
fn live_nodes(program: &Program) -> Vec<bool> {
    let mut live = vec![false; program.tape.nodes().len()];
    for v in end_values(program) {
        live[v.index()] = true;
    }
    for i in (0..live.len()).rev() {
        if live[i] {
            program.tape.nodes()[i].inputs.iter().for_each(|v| live[v.index()] = true);
        }
    }
    live
}

/// Values that are read after the last step.
fn end_values(program: &Program) -> impl Iterator<Item = Value> + '_ {
    let outputs = program.outputs.iter().map(|(_, v)| *v);
    let commits = program.commits.iter().flat_map(|c| c.inputs.iter().copied());
    outputs.chain(program.checks.iter().copied()).chain(commits)
}

/// The op of a node, if it is one.
fn op_of(tape: &Tape, v: Value) -> Option<&Arc<dyn Op>> {
    match &tape.node(v).source {
        Source::Op(op) => Some(op),
        _ => None,
    }
}
