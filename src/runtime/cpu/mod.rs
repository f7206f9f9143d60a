//! The CPU as a device: holds states, the arena and loaded plans. Locations become addresses once, when a plan is
//! loaded or the arena grows (`ready.rs`); a run walks the step list and allocates only what it gives back.

mod ready;
mod target;

pub use target::CpuTarget;

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use super::choices::OWN;
use super::{Device, Outcome, PartTime, PlanId, Run};
use crate::device::Peaks;
use crate::device::cpu::{Buffer, Ctx, Isa, Pool, View, ViewMut, memory, peak};
use crate::plan::{Plan, Step, Target};
use crate::types::Shape;
use crate::{Error, Result};
use ready::{Addresses, Ready};

/// The CPU as a device.
pub struct Cpu {
    pool: Pool,
    target: CpuTarget,
    isa: Isa,
    arena: Buffer,
    states: BTreeMap<String, (Shape, Buffer)>,
    plans: Vec<Loaded>,
    /// Runs that were not collected, by ticket.
    done: VecDeque<(usize, Outcome)>,
    runs: usize,
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

impl Cpu {
    /// A CPU device with `threads` compute threads.
    ///
    /// # Errors
    /// If memory cannot be had.
    pub fn new(threads: usize) -> Result<Self> {
        let pool = Pool::new(threads);
        Ok(Cpu {
            target: CpuTarget { threads: pool.threads() },
            pool,
            isa: Isa::detect(),
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

    fn has_state(&self, name: &str, shape: Shape) -> bool {
        self.states.get(name).is_some_and(|(s, _)| s.len() == shape.len())
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

impl Device for Cpu {
    fn describe(&self) -> String {
        format!("cpu ({} threads, {})", self.pool.threads(), self.isa.kind().name())
    }

    fn target(&self) -> &dyn Target {
        &self.target
    }

    fn load(&mut self, plan: Plan) -> Result<PlanId> {
        if let Some((name, _)) = plan.states.iter().find(|(name, s)| !self.has_state(name, *s)) {
            return Err(Error::Internal(format!("plan {}: there is no state {name} of its extent", plan.name)));
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
        // Nothing below can fail, so that no plan is left with addresses of an arena that is gone.
        let grows = plan.arena_len > self.arena.len();
        if grows {
            self.arena = Buffer::zeroed(plan.arena_len)?;
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

    fn start(&mut self, plan: PlanId) -> Result<Run> {
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
        let outcome = Outcome { committed, outputs: loaded.outputs.iter().map(gather).collect() };
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
        let (ctx, step) = (Ctx { pool: &self.pool, isa: self.isa }, &self.plans[plan.0].steps[step]);
        let start = Instant::now();
        (0..runs).for_each(|_| step.run(&ctx));
        Ok(start.elapsed())
    }

    fn peaks(&self) -> Result<Peaks> {
        peak::measure(&Ctx { pool: &self.pool, isa: self.isa })
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
