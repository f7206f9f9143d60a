//! Steps of a plan with addresses instead of locations, and how one runs: a kernel with its fused stages as the
//! sink of its tiles, pointwise stages tile by tile, or copies.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::device::cpu::{Buffer, Ctx, Isa, Tile, TileSink, View, ViewMut};
use crate::graph::{Exec, KernelCall, Op};
use crate::plan::{Base, Loc, Plan, Root, Step};
use crate::types::Shape;
use crate::{Error, Result};

/// Floats of a tile in pointwise steps: small enough for the first-level cache with its operands.
const TILE: usize = 2048;

/// A step with addresses.
pub(super) struct Ready {
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

/// Turns locations into addresses.
pub(super) struct Addresses<'a> {
    pub arena: &'a Buffer,
    pub states: &'a BTreeMap<String, (Shape, Buffer)>,
    pub plan: &'a Plan,
    pub slots: &'a [Buffer],
    pub constants: &'a [Buffer],
}

impl Addresses<'_> {
    pub fn view_mut(&self, loc: &Loc) -> Result<ViewMut> {
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

    pub fn view(&self, loc: &Loc) -> Result<View> {
        Ok(self.view_mut(loc)?.as_view())
    }

    pub fn step(&self, step: &Step) -> Result<Ready> {
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

impl Ready {
    /// Runs the step.
    pub fn run(&self, ctx: &Ctx) {
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
            kernel.cpu.run(ctx, call);
        } else {
            kernel.cpu.run_into(ctx, call, &Epilogue { step: self, isa: ctx.isa });
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
                p.cpu.apply(isa, &mut tile, stage.carrier, &stage.operands);
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
