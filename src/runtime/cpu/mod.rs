//! The CPU as a device: holds states, the arena and loaded plans. Locations become addresses once, when a plan is
//! loaded or the arena grows (`ready.rs`); a run walks the step list and allocates only what it gives back.

mod ready;
mod target;
#[cfg(test)]
mod tests;

pub use target::CpuTarget;

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use super::choices::OWN;
use super::{Device, Outcome, PartTime, PlanId, Run};
use crate::device::Peaks;
use crate::device::collective::Ranks;
use crate::device::cpu::{Buffer, Ctx, Isa, Pool, RawView, View, ViewMut, memory, peak};
use crate::graph::OverRanks;
use crate::plan::{Plan, Step, Target};
use crate::types::Shape;
use crate::{Error, Result};
use ready::{Addresses, Ready};

/// The CPU as a device.
pub struct Cpu {
    pool: Pool,
    target: CpuTarget,
    isa: Isa,
    ranks: Ranks,
    arena: Buffer,
    states: BTreeMap<String, (Shape, Buffer)>,
    plans: Vec<Loaded>,
    /// Runs that were not collected, by ticket.
    done: VecDeque<(usize, Outcome)>,
    runs: usize,
    profile: bool,
}

#[derive(Default)]
struct Loaded {
    plan: Plan,
    slots: Vec<Buffer>,
    constants: Vec<Buffer>,
    steps: Vec<Ready>,
    /// Before which step a bucket of gradients is complete, and where it lies.
    buckets: Vec<(usize, RawView)>,
    checks: Vec<RawView>,
    outputs: Vec<RawView>,
    /// Inputs and states of each commit.
    commits: Vec<(Vec<RawView>, Vec<RawView>)>,
    times: Vec<Duration>,
}

impl Loaded {
    /// Runs the steps and, if all checked values are finite, the commits; the outputs. Among `ranks`, what steps leave for
    /// the others is exchanged behind them, and buckets are averaged as soon as they are complete, so that all come to the
    /// same verdict.
    ///
    /// # Errors
    /// Fails if the library between ranks does.
    ///
    /// # Safety
    /// That of [`Ready::run`] for each step, and the same for the commits with their states as outputs.
    unsafe fn run(&mut self, ctx: &Ctx, ranks: &Ranks, profile: bool) -> Result<Outcome> {
        for (i, (step, time)) in self.steps.iter_mut().zip(&mut self.times).enumerate() {
            for (_, bucket) in self.buckets.iter().filter(|(first, _)| ranks.are_several() && *first == i) {
                // SAFETY: the caller's promise; a bucket is read by this step and later ones alone.
                let bucket = unsafe { ViewMut::from_raw(*bucket) };
                exchange(ranks, OverRanks::Mean, &bucket)?;
            }
            let start = profile.then(Instant::now);
            // SAFETY: the caller's promise.
            unsafe { step.run(ctx) };
            if let Some((how, output)) = step.over_ranks().filter(|_| ranks.are_several()) {
                // SAFETY: the caller's promise; the output is what this step has written.
                exchange(ranks, how, &unsafe { ViewMut::from_raw(output) })?;
            }
            if let Some(start) = start {
                *time += start.elapsed();
            }
        }
        // SAFETY: the plan's end values stay as they are until the next run; the caller's promise.
        let [checks, outputs] = [&self.checks, &self.outputs].map(|raw| unsafe { View::all_from_raw(raw) });
        let committed = checks.iter().all(all_finite);
        if committed {
            for (c, (inputs, states)) in self.plan.commits.iter().zip(&mut self.commits) {
                // SAFETY: the caller's promise.
                let (inputs, states) = unsafe { (View::all_from_raw(inputs), ViewMut::all_from_raw(states)) };
                c.op.run(ctx, inputs, states);
                if c.op.is_over_ranks() {
                    states.iter().try_for_each(|state| exchange(ranks, OverRanks::Mean, state))?;
                }
            }
        }
        Ok(Outcome { committed, outputs: outputs.iter().map(gather).collect() })
    }
}

impl Cpu {
    /// A CPU device with `threads` compute threads.
    ///
    /// # Errors
    /// Fails if memory cannot be had.
    pub fn new(threads: usize) -> Result<Self> {
        let pool = Pool::new(threads);
        Ok(Cpu {
            target: CpuTarget { threads: pool.threads() },
            pool,
            isa: Isa::detect(),
            ranks: Ranks::default(),
            arena: Buffer::zeroed(0)?,
            states: BTreeMap::new(),
            plans: Vec::new(),
            done: VecDeque::new(),
            runs: 0,
            profile: false,
        })
    }

    /// The same device with another instruction set.
    #[must_use]
    pub fn with_isa(mut self, isa: Isa) -> Self {
        self.isa = isa;
        self
    }

    /// The same device as one of several ranks.
    #[must_use]
    pub fn among(mut self, ranks: Ranks) -> Self {
        self.ranks = ranks;
        self
    }

    fn has_state(&self, name: &str, shape: Shape) -> bool {
        self.states.get(name).is_some_and(|(s, _)| s.len() == shape.len())
    }

    fn resolve(&mut self, id: usize) -> Result<()> {
        let (arena, states) = (&self.arena, &self.states);
        let Loaded { plan, slots, constants, .. } = &self.plans[id];
        let at = Addresses { arena, states, plan, slots, constants };
        let steps = plan.steps.iter().map(|s| at.step(s)).collect::<Result<_>>()?;
        let buckets = plan.segments.iter().filter_map(|s| Some((s.steps.start, s.bucket?)));
        let buckets = buckets.map(|(first, loc)| Ok((first, at.of(&loc)?))).collect::<Result<_>>()?;
        let checks = at.all(&plan.checks)?;
        let outputs = at.all(plan.outputs.iter().map(|(_, loc)| loc))?;
        let commits = plan.commits.iter().map(|c| at.commit(c)).collect::<Result<_>>()?;
        let loaded = &mut self.plans[id];
        (loaded.steps, loaded.buckets, loaded.checks) = (steps, buckets, checks);
        (loaded.outputs, loaded.commits) = (outputs, commits);
        Ok(())
    }
}

impl Device for Cpu {
    fn describe(&self) -> String {
        format!("cpu ({} threads, {})", self.pool.threads(), self.isa.kind().name())
    }

    fn target(&self) -> &dyn Target {
        &self.target
    }

    fn ranks(&self) -> Ranks {
        self.ranks.clone()
    }

    fn load(&mut self, plan: Plan) -> Result<PlanId> {
        if let Some((name, _)) = plan.states.iter().find(|(name, s)| !self.has_state(name, *s)) {
            return Err(Error::Internal(format!("plan {}: there is no state {name} of its extent", plan.name)));
        }
        let mut slots = Vec::new();
        for slot in &plan.inputs {
            // A float for each element, however short: a view of the slot reads floats. What is never written costs
            // no memory.
            slots.push(Buffer::zeroed(slot.shape.len())?);
        }
        let mut constants = Vec::new();
        for data in &plan.constants {
            let mut buffer = Buffer::zeroed(data.len())?;
            buffer.as_mut_slice().copy_from_slice(data);
            constants.push(buffer);
        }
        let grows = plan.arena_len > self.arena.len();
        if grows {
            self.arena = Buffer::zeroed(plan.arena_len)?;
        }
        let times = vec![Duration::ZERO; plan.steps.len()];
        let (steps, buckets, checks, outputs, commits) = (vec![], vec![], vec![], vec![], vec![]);
        self.plans.push(Loaded { plan, slots, constants, steps, buckets, checks, outputs, commits, times });
        let last = self.plans.len() - 1;
        // The plans before were resolved once and cannot fail now, so none is left with addresses of an arena that is
        // gone. One that fails is not kept.
        for id in if grows { 0 } else { last }..=last {
            self.resolve(id).inspect_err(|_| self.plans.truncate(last))?;
        }
        Ok(PlanId(last))
    }

    fn unload(&mut self, plan: PlanId) {
        // A plan without steps stays in its place: ids are positions.
        self.plans[plan.0] = Loaded::default();
    }

    fn upload(&mut self, plan: PlanId, name: &str, bytes: &[u8]) -> Result<()> {
        let loaded = &mut self.plans[plan.0];
        let Some(i) = loaded.plan.inputs.iter().position(|s| &*s.name == name) else { return Ok(()) };
        let slot = &loaded.plan.inputs[i];
        let needed = slot.shape.len() * slot.dtype.size();
        if bytes.len() != needed {
            return Err(Error::Internal(format!("input {name}: {} bytes given, {needed} needed", bytes.len())));
        }
        bytemuck::cast_slice_mut(loaded.slots[i].as_mut_slice())[..needed].copy_from_slice(bytes);
        Ok(())
    }

    fn start(&mut self, plan: PlanId) -> Result<Run> {
        let ctx = Ctx { pool: &self.pool, isa: self.isa };
        let loaded = &mut self.plans[plan.0];
        // SAFETY: the device owns arena, states, slots and constants, and is borrowed mutably, so nothing else uses them;
        // `load` renewed the addresses when the arena moved, and states never do. The plan gives the memory of a value
        // that is still read to no other, except by the step that reads it last: to a pointwise op whose operand has the
        // output's extent, and to a kernel that works in place. Scratch memory is the step's own. Only commits write
        // states. `resolve` checked that all places lie inside their buffers, and that outputs of kernels and states of
        // commits lie apart from what these read; of pointwise steps and copies the plan's word is taken.
        let outcome = unsafe { loaded.run(&ctx, &self.ranks, self.profile) }?;
        self.runs += 1;
        self.done.push_back((self.runs, outcome));
        Ok(Run { plan, ticket: self.runs })
    }

    fn collect(&mut self, run: Run) -> Result<Outcome> {
        let at = self.done.iter().position(|(ticket, _)| *ticket == run.ticket);
        let outcome = at.and_then(|at| self.done.remove(at)).map(|(_, outcome)| outcome);
        outcome.ok_or_else(|| Error::Internal("a run of another device".into()))
    }

    fn set_state(&mut self, name: &str, shape: Shape, data: &[f32]) -> Result<()> {
        if data.len() != shape.len() {
            return Err(Error::Internal(format!("state {name}: {} values for {shape}", data.len())));
        }
        match self.states.get_mut(name) {
            Some((known, buffer)) if buffer.len() == data.len() => {
                *known = shape;
                buffer.as_mut_slice().copy_from_slice(data);
            }
            // Loaded plans hold its address.
            Some((known, _)) => {
                return Err(Error::Internal(format!("state {name} is {known} and cannot become {shape}")));
            }
            None => {
                let mut buffer = Buffer::zeroed(data.len())?;
                buffer.as_mut_slice().copy_from_slice(data);
                self.states.insert(name.to_owned(), (shape, buffer));
            }
        }
        Ok(())
    }

    fn state(&self, name: &str) -> Result<Vec<f32>> {
        let found = self.states.get(name).map(|(_, buffer)| buffer.as_slice().to_vec());
        found.ok_or_else(|| Error::Internal(format!("there is no state {name}")))
    }

    fn with_state(&self, name: &str, read: &mut dyn FnMut(&[f32]) -> Result<()>) -> Result<()> {
        let found = self.states.get(name).map(|(_, buffer)| buffer.as_slice());
        read(found.ok_or_else(|| Error::Internal(format!("there is no state {name}")))?)
    }

    fn available_memory(&self) -> Result<Option<usize>> {
        Ok(memory::available())
    }

    fn poison(&mut self) -> Result<()> {
        self.arena.as_mut_slice().fill(f32::NAN);
        Ok(())
    }

    fn plan(&self, plan: PlanId) -> &Plan {
        &self.plans[plan.0].plan
    }

    fn set_profile(&mut self, on: bool) {
        self.profile = on;
    }

    fn times(&self, plan: PlanId) -> Vec<PartTime> {
        let Loaded { plan, times, .. } = &self.plans[plan.0];
        let part = |(step, time): (&Step, &Duration)| PartTime {
            label: step.label(),
            work: plan.step_workload(step),
            time: *time,
        };
        plan.steps.iter().zip(times).map(part).collect()
    }

    fn ways(&mut self, _plan: PlanId, _step: usize) -> Result<Vec<String>> {
        Ok(vec![OWN.to_owned()])
    }

    fn time_step(&mut self, plan: PlanId, step: usize, _way: &str, runs: u64) -> Result<Duration> {
        let (ctx, step) = (Ctx { pool: &self.pool, isa: self.isa }, &mut self.plans[plan.0].steps[step]);
        let start = Instant::now();
        // SAFETY: as in `start`.
        (0..runs).for_each(|_| unsafe { step.run(&ctx) });
        Ok(start.elapsed())
    }

    fn peaks(&self) -> Result<Peaks> {
        peak::measure(&Ctx { pool: &self.pool, isa: self.isa })
    }
}

/// Replaces what a view holds by what the ranks make of it.
fn exchange(ranks: &Ranks, how: OverRanks, view: &ViewMut) -> Result<()> {
    // SAFETY: the view is this call's alone, and what is exchanged lies without gaps.
    let values = unsafe { view.part(0..view.shape().len()) };
    match how {
        OverRanks::Mean => ranks.mean(values),
        OverRanks::Rows => ranks.rows(values),
    }
}

fn all_finite(view: &View) -> bool {
    pixels(view).all(|p| p.iter().all(|v| v.is_finite()))
}

fn gather(view: &View) -> Vec<f32> {
    pixels(view).flatten().copied().collect()
}

fn pixels<'a>(view: &View<'a>) -> impl Iterator<Item = &'a [f32]> + use<'a> {
    let view = *view;
    (0..view.pixels()).map(move |p| view.pixel(p))
}
