//! Steps of a plan with addresses instead of locations, and how one runs: a kernel with its fused stages as the
//! sink of its tiles, pointwise stages tile by tile, or copies.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use crate::device::cpu::{Buffer, Ctx, Isa, Place, RawView, Tile, TileSink, View, ViewMut, copy_pixels};
use crate::graph::{Exec, KernelCall, Op, Operands, OverRanks, TiledCall};
use crate::plan::{Base, Loc, Plan, PlannedCommit, Root, Step};
use crate::types::Shape;
use crate::{Error, Result};

/// Floats of a tile in pointwise steps: small enough for the first-level cache with its operands.
const TILE: usize = 2048;

/// A step with addresses.
pub(super) struct Ready {
    start: Start,
    /// Operands of the kernel, the carrier, or what is copied.
    inputs: Vec<RawView>,
    stages: Vec<ReadyStage>,
    /// Operands of all stages.
    operands: Vec<RawView>,
    /// After how many stages the values go to each of the outputs.
    stores: Vec<usize>,
    /// Where values are stored, or else copied to, and after the copies what becomes zero.
    outputs: Vec<RawView>,
    scratch: RawView,
    /// The tile of a pointwise step may be the output itself.
    in_output: bool,
    /// What ranks make of the output.
    over_ranks: Option<OverRanks>,
}

enum Start {
    Kernel(Arc<dyn Op>),
    Carrier,
    Copy,
}

struct ReadyStage {
    op: Arc<dyn Op>,
    carrier: usize,
    /// Which of the step's operands are its.
    operands: Range<usize>,
}

/// Turns locations into addresses.
pub(super) struct Addresses<'a> {
    pub arena: &'a Buffer,
    pub states: &'a BTreeMap<String, (Shape, Buffer)>,
    pub plan: &'a Plan,
    pub slots: &'a [Buffer],
    pub constants: &'a [Buffer],
}

impl Addresses<'_> {
    /// The address of a location, all of which lies in its buffer.
    pub fn of(&self, loc: &Loc) -> Result<RawView> {
        let base = match loc.root {
            Root::Buffer(_) => self.arena,
            Root::Input(i) => &self.slots[i],
            Root::Const(i) => &self.constants[i],
            Root::State(i) => {
                let (name, shape) = &self.plan.states[i];
                match self.states.get(&**name) {
                    Some((s, buffer)) if s.len() == shape.len() => buffer,
                    Some((s, _)) => {
                        return Err(Error::Internal(format!("state {name} is {s}, the plan needs {shape}")));
                    }
                    None => return Err(Error::Internal(format!("there is no state {name}"))),
                }
            }
        };
        self.inside(base, loc.offset, loc.shape, loc.stride)
    }

    pub fn all<'b>(&self, locs: impl IntoIterator<Item = &'b Loc>) -> Result<Vec<RawView>> {
        locs.into_iter().map(|loc| self.of(loc)).collect()
    }

    fn inside(&self, base: &Buffer, offset: usize, shape: Shape, stride: usize) -> Result<RawView> {
        let view = RawView::new(base.ptr().wrapping_add(offset), shape, stride);
        let (end, len, name) = (offset + view.span(), base.len(), self.plan.name);
        if end > len {
            return Err(Error::Internal(format!("plan {name}: {shape} at {offset} ends at {end} of {len} floats")));
        }
        Ok(view)
    }

    /// Inputs and states of a commit.
    pub fn commit(&self, commit: &PlannedCommit) -> Result<(Vec<RawView>, Vec<RawView>)> {
        let PlannedCommit { op, inputs, states } = commit;
        let mut others = (0..states.len()).flat_map(|k| states[..k].iter().chain(inputs).map(move |l| (&states[k], l)));
        self.apart(op.name(), others.all(|(state, other)| !state.overlaps(other)))?;
        Ok((self.all(inputs)?, self.all(states)?))
    }

    /// An error unless what an op writes lies apart from what it reads and else writes.
    fn apart(&self, op: &str, apart: bool) -> Result<()> {
        if apart {
            return Ok(());
        }
        Err(Error::Internal(format!("plan {}: {op} writes over what it reads", self.plan.name)))
    }

    pub fn step(&self, step: &Step) -> Result<Ready> {
        if let Base::Kernel(op, inputs) = &step.base
            && let Exec::Kernel(kernel) = op.exec()
        {
            let shapes: Vec<Shape> = inputs.iter().map(|l| l.shape).collect();
            let in_place = kernel.cpu.works_in_place(&shapes, step.shape_before(0)).is_some();
            let mut reads = inputs.iter().skip(usize::from(in_place));
            self.apart(op.name(), reads.all(|read| step.stores.iter().all(|(_, to)| !to.overlaps(read))))?;
        }
        let (start, inputs, mut outputs) = match &step.base {
            Base::Kernel(op, inputs) => (Start::Kernel(op.clone()), self.all(inputs)?, vec![]),
            Base::Carrier(loc) => (Start::Carrier, vec![self.of(loc)?], vec![]),
            Base::Copy { copies, zeros } => {
                let targets = copies.iter().map(|(_, to)| to).chain(zeros);
                (Start::Copy, self.all(copies.iter().map(|(from, _)| from))?, self.all(targets)?)
            }
        };
        let (mut stages, mut operands) = (Vec::new(), Vec::new());
        for s in &step.stages {
            let first = operands.len();
            operands.extend(self.all(&s.operands)?);
            stages.push(ReadyStage { op: s.op.clone(), carrier: s.carrier, operands: first..operands.len() });
        }
        outputs.extend(self.all(step.stores.iter().map(|(_, loc)| loc))?);
        let stores = step.stores.iter().map(|(after, _)| *after).collect();
        let others = step
            .stages
            .iter()
            .flat_map(|s| s.operands.iter().enumerate().filter(|(k, _)| *k != s.carrier).map(|(_, l)| l));
        let in_output = step.stores.len() == 1 && {
            let output = step.stores[0].1;
            others.clone().all(|l| !l.overlaps(&output))
        };
        let (offset, len) = step.scratch;
        let scratch = self.inside(self.arena, offset, Shape::vector(len), len)?;
        let over_ranks = step.over_ranks();
        let is_dense = step.stages.is_empty() && step.stores.last().is_some_and(|(_, to)| to.contiguous());
        if over_ranks.is_some() && !is_dense {
            return Err(Error::Internal(format!("plan {}: {} has no memory of its own", self.plan.name, step.path)));
        }
        Ok(Ready { start, inputs, stages, operands, stores, outputs, scratch, in_output, over_ranks })
    }
}

impl Ready {
    /// Where the output lies that ranks exchange, without gaps, and how.
    pub fn over_ranks(&self) -> Option<(OverRanks, RawView)> {
        self.over_ranks.zip(self.outputs.last().copied())
    }

    /// Runs the step.
    ///
    /// # Safety
    /// The buffers that the addresses were taken from are where they were, and nothing else uses them during the call.
    /// Outputs and scratch memory share no element with each other or with an operand; but an output may lie where the
    /// carrier does, or another operand of its extent that is read element by element, and that of a kernel which works
    /// in place where operand 0 does.
    pub unsafe fn run(&mut self, ctx: &Ctx) {
        let Ready { start, inputs, stages, operands, stores, outputs, scratch, in_output, .. } = self;
        // SAFETY: all of them lie inside their buffers; for the rest, the caller's promise.
        let (inputs, operands, outputs, mut scratch) = unsafe {
            let (inputs, operands) = (View::all_from_raw(inputs), View::all_from_raw(operands));
            (inputs, operands, ViewMut::all_from_raw(outputs), ViewMut::from_raw(*scratch))
        };
        match start {
            Start::Copy => copy_all(ctx, inputs, outputs),
            Start::Kernel(op) => {
                let (Exec::Kernel(kernel), Some(output)) = (op.exec(), outputs.last_mut()) else { return };
                let scratch = scratch.dense_mut();
                if stages.is_empty() {
                    return kernel.cpu.run(ctx, KernelCall { inputs, output: output.reborrow(), scratch });
                }
                let call = TiledCall { inputs, output: output.shape(), scratch };
                kernel.cpu.run_into(ctx, call, &Fused { stages, operands, stores, outputs, isa: ctx.isa });
            }
            Start::Carrier => {
                let fused = Fused { stages, operands, stores, outputs, isa: ctx.isa };
                fused.run_pointwise(ctx, &inputs[0], *in_output);
            }
        }
    }
}

/// The stages of a step with their operands, and where values are stored.
struct Fused<'a> {
    stages: &'a [ReadyStage],
    operands: &'a [View<'a>],
    stores: &'a [usize],
    outputs: &'a [ViewMut<'a>],
    isa: Isa,
}

impl Fused<'_> {
    /// Pointwise steps go tile by tile: part of a row, in the order of memory.
    fn run_pointwise(&self, ctx: &Ctx, from: &View, in_output: bool) {
        let Some(output) = self.outputs.last() else { return };
        assert_eq!(from.shape(), output.shape(), "a carrier of another extent than the output");
        let [n, h, w, c] = output.shape().0;
        let channels = c.min(TILE);
        let pixels = (TILE / channels).clamp(1, w.max(1));
        let (in_row, in_pixel) = (w.div_ceil(pixels), c.div_ceil(channels));
        let items = n * h * in_row * in_pixel;
        let work = |item: usize, _: usize| {
            let (c0, rest) = (item % in_pixel * channels, item / in_pixel);
            let (x0, row) = (rest % in_row * pixels, rest / in_row);
            let place =
                Place { n: row / h, y: row % h, x0, pixels: pixels.min(w - x0), c0, channels: channels.min(c - c0) };
            let mut local = [0f32; TILE];
            let mut tile = if in_output {
                // SAFETY: the item alone writes this place of the output.
                unsafe { Tile::from_raw(output.address_of(&place), output.stride(), place) }
            } else {
                Tile::new(&mut local, place)
            };
            let source = from.at(place.n, place.y, x0).wrapping_add(c0);
            // SAFETY: the carrier has the output's extent, and lies where the output does or apart from it; items have
            // different places.
            unsafe {
                tile.load(source, from.stride());
                self.finish(tile);
            }
        };
        if n * h * w * c <= 4 * TILE {
            (0..items).for_each(|i| work(i, 0));
        } else {
            ctx.pool.run(items, &work);
        }
    }

    /// Runs the stages on a tile and stores what has to be stored.
    ///
    /// # Safety
    /// Nothing else reads or writes the tile's place in the outputs meanwhile.
    unsafe fn finish(&self, mut tile: Tile) {
        let mut stores = self.stores.iter().zip(self.outputs).peekable();
        for done in 0..=self.stages.len() {
            while let Some((_, to)) = stores.next_if(|(after, _)| **after == done) {
                // SAFETY: the caller's promise.
                unsafe { to.store(&tile) };
            }
            if let Some(stage) = self.stages.get(done)
                && let Exec::Pointwise(p) = stage.op.exec()
            {
                let operands = Operands::new(&self.operands[stage.operands.clone()], stage.carrier);
                p.cpu.apply(self.isa, &mut tile, &operands);
            }
        }
    }
}

impl TileSink for Fused<'_> {
    unsafe fn store(&self, tile: Tile) {
        // SAFETY: tiles are disjoint, and the step owns its outputs.
        unsafe { self.finish(tile) };
    }
}

/// Copies each source to its target, and fills the targets after those with zeros.
fn copy_all(ctx: &Ctx, sources: &[View], targets: &mut [ViewMut]) {
    let (targets, zeros) = targets.split_at_mut(sources.len());
    for (from, to) in sources.iter().zip(targets) {
        assert_eq!(from.shape(), to.shape(), "a copy to another extent");
        let (w, c) = (from.w(), from.c());
        let to = &*to;
        ctx.pool.run(from.n() * from.h(), &|row, _| {
            // SAFETY: rows of two tensors of one extent in different memory; each is written by one item.
            unsafe { copy_pixels(from.at(0, row, 0), from.stride(), to.at(0, row, 0), to.stride(), w, c) };
        });
    }
    zeros.iter_mut().for_each(|to| to.dense_mut().fill(0.0));
}
