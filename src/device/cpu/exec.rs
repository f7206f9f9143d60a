//! Runs plans on the CPU: locations become addresses once, when a plan is loaded or the arena grows; a run
//! walks the step list and allocates only what it gives back.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Buffer, Ctx, Isa, Pool, Tile, TileSink, View, ViewMut};
use crate::device::{Device, Outcome, PlanId};
use crate::ops::{Exec, KernelCall, Op};
use crate::plan::{Base, Loc, Plan, Root, Step};
use crate::tape::Shape;
use crate::{Error, Result};

/// Floats of a tile in pointwise steps: small enough for the first-level cache with its operands.
const TILE: usize = 2048;

/// The CPU as a device.
pub struct Cpu {
    pool: Pool,
    isa: Isa,
    arena: Buffer,
    states: BTreeMap<String, (Shape, Buffer)>,
    plans: Vec<Loaded>,
    profile: bool,
}

struct Loaded {
    plan: Plan,
    slots: Vec<Buffer>,
    constants: Vec<Buffer>,
    steps: Vec<Ready>,
    checks: Vec<View>,
    outputs: Vec<View>,
    commits: Vec<(Vec<View>, Vec<ViewMut>)>,
    times: Vec<Duration>,
}

/// A step with addresses.
struct Ready {
    start: Start,
    stages: Vec<ReadyStage>,
    stores: Vec<(usize, ViewMut)>,
    scratch: (*mut f32, usize),
    /// The tile of a pointwise step may be the output itself.
    in_output: bool,
}

enum Start {
    Kernel(Arc<dyn Op>, Vec<View>),
    Carrier(View),
    Copy(Vec<(View, ViewMut)>, Vec<ViewMut>),
}

struct ReadyStage {
    op: Arc<dyn Op>,
    carrier: usize,
    operands: Vec<View>,
}

impl Cpu {
    /// A CPU device with `threads` compute threads.
    ///
    /// # Errors
    /// If memory cannot be had.
    pub fn new(threads: usize) -> Result<Self> {
        Ok(Cpu {
            pool: Pool::new(threads),
            isa: Isa::detect(),
            arena: Buffer::zeroed(0)?,
            states: BTreeMap::new(),
            plans: Vec::new(),
            profile: false,
        })
    }

    /// The same device with another instruction set.
    #[must_use]
    pub fn with_isa(mut self, isa: Isa) -> Self {
        self.isa = isa;
        self
    }

    /// Fills the arena with NaN: a step that reads what none wrote becomes visible.
    pub fn poison(&mut self) {
        self.arena.as_mut_slice().fill(f32::NAN);
    }

    fn resolve(&mut self, id: usize) -> Result<()> {
        let (arena, states) = (&self.arena, &self.states);
        let Loaded { plan, slots, constants, .. } = &self.plans[id];
        let at = Addresses { arena, states, plan, slots, constants };
        let steps = plan.steps.iter().map(|s| at.step(s)).collect::<Result<_>>()?;
        let checks = plan.checks.iter().map(|l| at.view(l)).collect::<Result<_>>()?;
        let outputs = plan.outputs.iter().map(|(_, l)| at.view(l)).collect::<Result<_>>()?;
        let mut commits = Vec::new();
        for c in &plan.commits {
            let inputs = c.inputs.iter().map(|l| at.view(l)).collect::<Result<Vec<_>>>()?;
            let states = c.states.iter().map(|l| at.view_mut(l)).collect::<Result<Vec<_>>>()?;
            commits.push((inputs, states));
        }
        let loaded = &mut self.plans[id];
        (loaded.steps, loaded.checks, loaded.outputs, loaded.commits) = (steps, checks, outputs, commits);
        Ok(())
    }
}

/// Turns locations into addresses.
struct Addresses<'a> {
    arena: &'a Buffer,
    states: &'a BTreeMap<String, (Shape, Buffer)>,
    plan: &'a Plan,
    slots: &'a [Buffer],
    constants: &'a [Buffer],
}

impl Addresses<'_> {
    fn view_mut(&self, loc: &Loc) -> Result<ViewMut> {
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
        let [n, h, w, c] = loc.shape.0;
        Ok(ViewMut { ptr: base.ptr().wrapping_add(loc.offset), n, h, w, c, stride: loc.stride })
    }

    fn view(&self, loc: &Loc) -> Result<View> {
        Ok(self.view_mut(loc)?.as_view())
    }

    fn step(&self, step: &Step) -> Result<Ready> {
        let start = match &step.base {
            Base::Kernel(op, inputs) => {
                Start::Kernel(op.clone(), inputs.iter().map(|l| self.view(l)).collect::<Result<_>>()?)
            }
            Base::Carrier(loc) => Start::Carrier(self.view(loc)?),
            Base::Copy { copies, zeros } => {
                let copies = copies.iter().map(|(from, to)| Ok((self.view(from)?, self.view_mut(to)?)));
                let zeros = zeros.iter().map(|l| self.view_mut(l)).collect::<Result<_>>()?;
                Start::Copy(copies.collect::<Result<_>>()?, zeros)
            }
        };
        let mut stages = Vec::new();
        for s in &step.stages {
            let operands = s.operands.iter().map(|l| self.view(l)).collect::<Result<_>>()?;
            stages.push(ReadyStage { op: s.op.clone(), carrier: s.carrier, operands });
        }
        let mut stores = Vec::new();
        for (after, loc) in &step.stores {
            stores.push((*after, self.view_mut(loc)?));
        }
        let others = step
            .stages
            .iter()
            .flat_map(|s| s.operands.iter().enumerate().filter(|(k, _)| *k != s.carrier).map(|(_, l)| l));
        let in_output = step.stores.len() == 1 && {
            let output = step.stores[0].1;
            others.clone().all(|l| !l.overlaps(&output))
        };
        let scratch = (self.arena.ptr().wrapping_add(step.scratch.0), step.scratch.1);
        Ok(Ready { start, stages, stores, scratch, in_output })
    }
}

impl Device for Cpu {
    fn describe(&self) -> String {
        format!("cpu ({} threads, {:?})", self.pool.threads(), self.isa.kind()).to_lowercase()
    }

    fn threads(&self) -> usize {
        self.pool.threads()
    }

    fn load(&mut self, plan: Plan) -> Result<PlanId> {
        let grows = plan.arena_len > self.arena.len();
        if grows {
            self.arena = Buffer::zeroed(plan.arena_len)?;
        }
        let mut slots = Vec::new();
        for slot in &plan.inputs {
            slots.push(Buffer::zeroed((slot.shape.len() * slot.dtype.size()).div_ceil(4))?);
        }
        let mut constants = Vec::new();
        for data in &plan.constants {
            let mut buffer = Buffer::zeroed(data.len())?;
            buffer.as_mut_slice().copy_from_slice(data);
            constants.push(buffer);
        }
        let times = vec![Duration::ZERO; plan.steps.len()];
        let (steps, checks, outputs, commits) = (vec![], vec![], vec![], vec![]);
        self.plans.push(Loaded { plan, slots, constants, steps, checks, outputs, commits, times });
        let last = self.plans.len() - 1;
        for id in if grows { 0 } else { last }..=last {
            self.resolve(id)?;
        }
        Ok(PlanId(last))
    }

    fn upload(&mut self, plan: PlanId, name: &str, bytes: &[u8]) -> Result<()> {
        let loaded = &mut self.plans[plan.0];
        let Some(i) = loaded.plan.inputs.iter().position(|s| &*s.name == name) else { return Ok(()) };
        let slot = &loaded.plan.inputs[i];
        let needed = slot.shape.len() * slot.dtype.size();
        if bytes.len() != needed {
            return Err(Error::Internal(format!("input {name}: {} bytes given, {needed} needed", bytes.len())));
        }
        // SAFETY: the slot has at least `needed` bytes and does not overlap the caller's.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), loaded.slots[i].ptr().cast::<u8>(), needed) };
        Ok(())
    }

    fn run(&mut self, plan: PlanId) -> Result<Outcome> {
        let ctx = Ctx { pool: &self.pool, isa: self.isa };
        let loaded = &mut self.plans[plan.0];
        for (step, time) in loaded.steps.iter().zip(&mut loaded.times) {
            let start = self.profile.then(Instant::now);
            step.run(&ctx);
            if let Some(start) = start {
                *time += start.elapsed();
            }
        }
        let committed = loaded.checks.iter().all(all_finite);
        if committed {
            for (c, (inputs, states)) in loaded.plan.commits.iter().zip(&loaded.commits) {
                c.op.run(&ctx, inputs, states);
            }
        }
        Ok(Outcome { committed, outputs: loaded.outputs.iter().map(gather).collect() })
    }

    fn set_state(&mut self, name: &str, shape: Shape, data: &[f32]) -> Result<()> {
        if data.len() != shape.len() {
            return Err(Error::Internal(format!("state {name}: {} values for {shape}", data.len())));
        }
        if let Some((known, buffer)) = self.states.get_mut(name).filter(|(_, b)| b.len() == data.len()) {
            *known = shape;
            buffer.as_mut_slice().copy_from_slice(data);
            return Ok(());
        }
        let mut buffer = Buffer::zeroed(data.len())?;
        buffer.as_mut_slice().copy_from_slice(data);
        let is_new = self.states.insert(name.to_owned(), (shape, buffer)).is_none();
        if !is_new {
            for id in 0..self.plans.len() {
                self.resolve(id)?;
            }
        }
        Ok(())
    }

    fn state(&self, name: &str) -> Result<Vec<f32>> {
        let found = self.states.get(name).map(|(_, buffer)| buffer.as_slice().to_vec());
        found.ok_or_else(|| Error::Internal(format!("there is no state {name}")))
    }

    fn plan(&self, plan: PlanId) -> &Plan {
        &self.plans[plan.0].plan
    }

    fn set_profile(&mut self, on: bool) {
        self.profile = on;
    }

    fn times(&self, plan: PlanId) -> &[Duration] {
        &self.plans[plan.0].times
    }
}

fn all_finite(view: &View) -> bool {
    pixels(view).all(|p| p.iter().all(|v| v.is_finite()))
}

fn gather(view: &View) -> Vec<f32> {
    pixels(view).flatten().copied().collect()
}

fn pixels<'a>(view: &View) -> impl Iterator<Item = &'a [f32]> + use<'a> {
    let view = *view;
    // SAFETY: the plan's end values stay in memory until the next run.
    (0..view.n * view.h * view.w)
        .map(move |p| unsafe { std::slice::from_raw_parts(view.ptr.add(p * view.stride), view.c) })
}

impl Ready {
    fn run(&self, ctx: &Ctx) {
        match &self.start {
            Start::Kernel(op, inputs) => self.run_kernel(ctx, op, inputs),
            Start::Carrier(from) => self.run_pointwise(ctx, from),
            Start::Copy(copies, zeros) => {
                for (from, to) in copies {
                    copy(ctx, from, to);
                }
                for to in zeros {
                    // SAFETY: a flat range of the arena that no other step of this moment uses.
                    unsafe { std::slice::from_raw_parts_mut(to.ptr, to.c).fill(0.0) };
                }
            }
        }
    }

    fn run_kernel(&self, ctx: &Ctx, op: &Arc<dyn Op>, inputs: &[View]) {
        let Exec::Kernel(kernel) = op.exec() else { return };
        let (ptr, len) = self.scratch;
        // SAFETY: the planner reserved this range of the arena for this step.
        let scratch = if len == 0 { &mut [][..] } else { unsafe { std::slice::from_raw_parts_mut(ptr, len) } };
        let Some((_, output)) = self.stores.last() else { return };
        let call = KernelCall { inputs, output: *output, scratch };
        if self.stages.is_empty() {
            kernel.run(ctx, call);
        } else {
            kernel.run_into(ctx, call, &Epilogue { step: self, isa: ctx.isa });
        }
    }

    /// Pointwise steps go tile by tile: part of a row, in the order of memory.
    fn run_pointwise(&self, ctx: &Ctx, from: &View) {
        let Some((_, output)) = self.stores.last() else { return };
        let channels = output.c.min(TILE);
        let pixels = (TILE / channels).clamp(1, output.w.max(1));
        let (in_row, in_pixel) = (output.w.div_ceil(pixels), output.c.div_ceil(channels));
        let items = output.n * output.h * in_row * in_pixel;
        let work = |item: usize, _: usize| {
            let (c0, rest) = (item % in_pixel * channels, item / in_pixel);
            let (x0, row) = (rest % in_row * pixels, rest / in_row);
            let mut local = [0f32; TILE];
            let mut tile = Tile {
                data: local.as_mut_ptr(),
                row_stride: channels,
                n: row / output.h,
                y: row % output.h,
                x0,
                pixels: pixels.min(output.w - x0),
                c0,
                channels: channels.min(output.c - c0),
            };
            tile.row_stride = tile.channels;
            let source = from.at(tile.n, tile.y, x0).wrapping_add(c0);
            let target = output.at(tile.n, tile.y, x0).wrapping_add(c0);
            if self.in_output {
                (tile.data, tile.row_stride) = (target, output.stride);
            }
            if tile.data.cast_const() != source {
                // SAFETY: tile and carrier both have these pixels; different items have different ones.
                unsafe { copy_pixels(source, from.stride, tile.data, tile.row_stride, tile.pixels, tile.channels) };
            }
            self.finish(tile, ctx.isa);
        };
        if output.n * output.h * output.w * output.c <= 4 * TILE {
            (0..items).for_each(|i| work(i, 0));
        } else {
            ctx.pool.run(items, &work);
        }
    }

    /// Runs the stages on a tile and stores what has to be stored.
    fn finish(&self, mut tile: Tile, isa: Isa) {
        let mut stores = self.stores.iter().peekable();
        for done in 0..=self.stages.len() {
            while let Some((_, to)) = stores.next_if(|(after, _)| *after == done) {
                let target = to.at(tile.n, tile.y, tile.x0).wrapping_add(tile.c0);
                if target != tile.data {
                    // SAFETY: the tile's elements belong to this item alone.
                    unsafe {
                        copy_pixels(tile.data, tile.row_stride, target, to.stride, tile.pixels, tile.channels);
                    }
                }
            }
            if let Some(stage) = self.stages.get(done)
                && let Exec::Pointwise(p) = stage.op.exec()
            {
                p.apply(isa, &mut tile, stage.carrier, &stage.operands);
            }
        }
    }
}

/// The stages of a step as the sink of its kernel.
struct Epilogue<'a> {
    step: &'a Ready,
    isa: Isa,
}

// SAFETY: addresses of memory that the plan gives to this step; tiles are disjoint.
unsafe impl Sync for Ready {}

impl TileSink for Epilogue<'_> {
    fn store(&self, tile: &Tile) {
        self.step.finish(*tile, self.isa);
    }
}

/// Copies `pixels` runs of `channels` floats.
///
/// # Safety
/// Source and target hold that many, and do not overlap.
unsafe fn copy_pixels(
    from: *const f32,
    from_step: usize,
    to: *mut f32,
    to_step: usize,
    pixels: usize,
    channels: usize,
) {
    // SAFETY: the caller's promise.
    unsafe {
        if from_step == channels && to_step == channels {
            std::ptr::copy_nonoverlapping(from, to, pixels * channels);
            return;
        }
        for p in 0..pixels {
            std::ptr::copy_nonoverlapping(from.add(p * from_step), to.add(p * to_step), channels);
        }
    }
}

fn copy(ctx: &Ctx, from: &View, to: &ViewMut) {
    ctx.pool.run(from.n * from.h, &|row, _| {
        let (source, target) =
            (from.ptr.wrapping_add(row * from.w * from.stride), to.ptr.wrapping_add(row * to.w * to.stride));
        // SAFETY: rows of two tensors of equal extent in different memory.
        unsafe { copy_pixels(source, from.stride, target, to.stride, from.w, from.c) };
    });
}
