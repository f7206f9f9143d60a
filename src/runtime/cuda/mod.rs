//! The CUDA device: memory, loaded plans, replay. A plan's work is made once, when it is loaded or the arena
//! has moved, and recorded as one graph; a run uploads its inputs before, replays, and reads one block back.

mod choose;
mod fill;
mod limits;
mod measure;
mod peak;
mod resolve;
mod target;
#[cfg(test)]
mod tests;
mod ways;

pub use fill::fill_module;
pub use peak::peak_modules;
pub use resolve::modules;
pub use target::CudaTarget;

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use super::{Choices, Device, Outcome, PartTime, PlanId, Run};
use crate::device::cuda::compile::module::module;
use crate::device::cuda::driver::{DevicePtr, Driver, FunctionId, GraphId, Launch, ModuleSource, ReadId, Work};
use crate::device::cuda::launch::KernelLaunch;
use crate::device::{OnCompile, OnWarning, Peaks};
use crate::plan::{Plan, Step, Target};
use crate::types::Shape;
use crate::{Error, Result};
use choose::{Compiler, Variants, choose};
use limits::geometry;
use peak::Size;
use resolve::{Addresses, OK_FLOATS};
use ways::Item;

/// Memory that is left to the driver: for the machine code of kernels, for graphs, for what kernels spill, and for
/// its rounding of each allocation.
const RESERVED_BYTES: usize = 256 << 20;

/// A CUDA device behind a driver.
pub struct Cuda {
    driver: RefCell<Box<dyn Driver>>,
    on_compile: Option<OnCompile>,
    on_warning: Option<OnWarning>,
    functions: HashMap<ModuleSource, FunctionId>,
    arena: (DevicePtr, usize),
    states: BTreeMap<String, (Shape, DevicePtr)>,
    plans: Vec<Loaded>,
    /// Algorithms of this device and its libraries that are known, and those that loaded plans use.
    known: Choices,
    chosen: Choices,
    /// What is left of the time in which algorithms may be compared.
    tuning: Duration,
    profile: bool,
    /// What is launched before each run of a step that is timed alone.
    sweep: Option<Launch>,
}

struct Loaded {
    plan: Plan,
    slots: Vec<DevicePtr>,
    constants: Vec<DevicePtr>,
    /// The flag of the checks, then the outputs, each contiguous.
    outbox: DevicePtr,
    outbox_floats: usize,
    work: Vec<Work>,
    /// Steps, then checks, commits and outputs.
    parts: Vec<Part>,
    /// Paths and kinds of steps that had several ways.
    with_choice: Vec<(Arc<str>, String)>,
    graph: Option<GraphId>,
}

/// A part of a plan's work that is timed.
struct Part {
    /// How many entries of the work belong to it.
    entries: usize,
    measured: PartTime,
}

impl Cuda {
    /// A device on `driver`.
    pub fn new(driver: Box<dyn Driver>) -> Cuda {
        let mut known = Choices::new(driver.timed_on());
        driver.choices_file().iter().for_each(|path| known.add_from(path));
        Cuda {
            chosen: Choices::new(driver.timed_on()),
            known,
            driver: RefCell::new(driver),
            on_compile: None,
            on_warning: None,
            functions: HashMap::new(),
            arena: (DevicePtr(0), 0),
            states: BTreeMap::new(),
            plans: Vec::new(),
            tuning: Duration::MAX,
            profile: false,
            sweep: None,
        }
    }

    /// The same device, which says how far it is while it compiles kernels.
    #[must_use]
    pub fn with_progress(self, on_compile: Option<OnCompile>) -> Cuda {
        Cuda { on_compile, ..self }
    }

    /// The same device, which says what it does not use because its results are wrong.
    #[must_use]
    pub fn with_warnings(self, on_warning: Option<OnWarning>) -> Cuda {
        Cuda { on_warning, ..self }
    }

    /// The same device, which compares algorithms for so long at most and takes its own kernels for what is left.
    #[must_use]
    pub fn with_tuning_time(self, tuning: Duration) -> Cuda {
        Cuda { tuning, ..self }
    }

    fn check_states(&self, plan: &Plan) -> Result<()> {
        let known = |name: &str, shape: Shape| self.states.get(name).is_some_and(|(s, _)| s.len() == shape.len());
        match plan.states.iter().find(|(name, shape)| !known(name, *shape)) {
            Some((name, _)) => {
                Err(Error::Internal(format!("plan {}: there is no state {name} of its extent", plan.name)))
            }
            None => Ok(()),
        }
    }

    fn allocate_for(&mut self, plan: Plan) -> Result<Loaded> {
        let driver = self.driver.get_mut();
        let mut slots = Vec::new();
        for slot in &plan.inputs {
            slots.push(driver.alloc(slot.shape.len() * slot.dtype.size())?);
        }
        let mut constants = Vec::new();
        for data in &plan.constants {
            let ptr = driver.alloc(data.len() * 4)?;
            // SAFETY: allocated with this size.
            unsafe { driver.upload(ptr, bytemuck::cast_slice(data))? };
            constants.push(ptr);
        }
        let outbox_floats = OK_FLOATS + plan.outputs.iter().map(|(_, l)| l.shape.len()).sum::<usize>();
        let outbox = driver.alloc(outbox_floats * 4)?;
        let (work, parts, with_choice) = (Vec::new(), Vec::new(), Vec::new());
        Ok(Loaded { plan, slots, constants, outbox, outbox_floats, work, parts, with_choice, graph: None })
    }

    /// Where a plan's memory is now.
    fn addresses(&self, id: usize) -> Addresses<'_> {
        let loaded = &self.plans[id];
        Addresses {
            arena: self.arena.0,
            states: &self.states,
            plan: &loaded.plan,
            slots: &loaded.slots,
            constants: &loaded.constants,
            outbox: loaded.outbox,
            warpgroups: self.driver.borrow().has_warpgroups(),
        }
    }

    /// Makes a plan's work for where memory is now.
    fn resolve(&mut self, id: usize) -> Result<()> {
        let at = self.addresses(id);
        let variants = at.plan.steps.iter().map(|step| variants(&at, step)).collect::<Result<Vec<_>>>()?;
        let end: Vec<_> = at.end()?.into_iter().map(|(path, kernel)| (path, Item::Kernel(kernel))).collect();
        let plan = &self.plans[id].plan;
        let mut compiler = Compiler {
            driver: self.driver.get_mut().as_mut(),
            functions: &mut self.functions,
            on_compile: &mut self.on_compile,
            on_warning: &mut self.on_warning,
        };
        choose(&mut compiler, &variants, (&mut self.known, &mut self.chosen), &mut self.tuning)?;
        let with_choice = variants.iter().filter_map(|v| Some((v.path.clone(), v.choice(&self.chosen)?.0.clone())));
        let with_choice = with_choice.collect();
        let (mut items, mut parts) = (Vec::new(), Vec::new());
        for (step, variant) in plan.steps.iter().zip(variants) {
            let (path, chosen) = (variant.path.clone(), variant.chosen(&self.chosen));
            parts.push(Part::of_step(plan, step, &chosen));
            items.extend(chosen.into_iter().map(|item| (path.clone(), item)));
        }
        parts.extend(Part::of_end(plan, &end));
        items.extend(end);
        let work = compiler.compile(&items)?;
        // SAFETY: the work uses memory of this device, which lives until the plan is resolved again.
        let graph = unsafe { compiler.driver.record(&work)? };
        let loaded = &mut self.plans[id];
        (loaded.work, loaded.parts, loaded.graph) = (work, parts, Some(graph));
        loaded.with_choice = with_choice;
        Ok(())
    }
}

/// The ways of a step.
fn variants(at: &Addresses, step: &Step) -> Result<Variants> {
    let own = at.step(step)?.into_iter().map(Item::Kernel).collect();
    Ok(Variants { path: step.path.clone(), own, library: at.alternative(step)?, touched: at.touched(step)? })
}

/// One kernel, compiled. `path` is for messages.
///
/// # Errors
/// Fails if the kernel does not compile or its grid is larger than a GPU runs.
pub(crate) fn prepare(driver: &mut dyn Driver, kernel: &KernelLaunch, path: &str) -> Result<Launch> {
    let (source, args) = module(kernel, driver.specialises());
    let function = driver.compile(&[source], &mut |_| ())?[0][0];
    Ok(Launch { function, geometry: geometry(kernel, path)?, args, path: path.into() })
}

impl Device for Cuda {
    fn describe(&self) -> String {
        format!("cuda ({})", self.driver.borrow().describe())
    }

    fn target(&self) -> &dyn Target {
        &CudaTarget
    }

    fn load(&mut self, plan: Plan) -> Result<PlanId> {
        self.check_states(&plan)?;
        limits::check(&plan)?;
        let needed = plan.arena_len;
        let loaded = self.allocate_for(plan)?;
        self.plans.push(loaded);
        let last = self.plans.len() - 1;
        let grows = needed > self.arena.1;
        if grows {
            let driver = self.driver.get_mut();
            driver.synchronize()?;
            let (old, len) = std::mem::replace(&mut self.arena, (DevicePtr(0), 0));
            // If what follows fails, no plan runs on memory that is not there any more.
            for plan in &mut self.plans {
                plan.graph.take().into_iter().for_each(|graph| driver.forget(graph));
                plan.work.clear();
            }
            if len > 0 {
                // SAFETY: no plan uses it until it is resolved again below; nothing runs.
                unsafe { driver.free(old) };
            }
            self.arena = (driver.alloc(needed * 4)?, needed);
        }
        for id in if grows { 0 } else { last }..=last {
            self.resolve(id)?;
        }
        Ok(PlanId(last))
    }

    fn upload(&mut self, plan: PlanId, name: &str, bytes: &[u8]) -> Result<()> {
        let loaded = &self.plans[plan.0];
        let Some(i) = loaded.plan.inputs.iter().position(|s| &*s.name == name) else { return Ok(()) };
        let slot = &loaded.plan.inputs[i];
        let needed = slot.shape.len() * slot.dtype.size();
        if bytes.len() != needed {
            return Err(Error::Internal(format!("input {name}: {} bytes given, {needed} needed", bytes.len())));
        }
        // SAFETY: the slot has `needed` bytes.
        unsafe { self.driver.get_mut().upload(loaded.slots[i], bytes) }
    }

    fn start(&mut self, plan: PlanId) -> Result<Run> {
        let loaded = &self.plans[plan.0];
        let not_ready = || Error::Internal(format!("plan {} was not loaded: an earlier call failed", loaded.plan.name));
        let graph = loaded.graph.ok_or_else(not_ready)?;
        if self.profile {
            self.run_timed(plan.0)?;
        } else {
            // SAFETY: as recorded by `resolve`.
            unsafe { self.driver.get_mut().replay(graph)? };
        }
        let loaded = &self.plans[plan.0];
        // SAFETY: the outbox has as many bytes. What the next run writes there, it writes after the copy.
        let read = unsafe { self.driver.get_mut().start_read(loaded.outbox, loaded.outbox_floats * 4)? };
        Ok(Run { plan, ticket: read.0 })
    }

    fn collect(&mut self, run: Run) -> Result<Outcome> {
        let loaded = &self.plans[run.plan.0];
        let mut floats = vec![0f32; loaded.outbox_floats];
        self.driver.get_mut().finish_read(ReadId(run.ticket), bytemuck::cast_slice_mut(&mut floats))?;
        let mut outputs = Vec::new();
        let mut rest = &floats[OK_FLOATS..];
        for (_, loc) in &loaded.plan.outputs {
            let (output, after) = rest.split_at(loc.shape.len());
            outputs.push(output.to_vec());
            rest = after;
        }
        Ok(Outcome { committed: floats[0].to_bits() != 0, outputs })
    }

    fn set_state(&mut self, name: &str, shape: Shape, data: &[f32]) -> Result<()> {
        if data.len() != shape.len() {
            return Err(Error::Internal(format!("state {name}: {} values for {shape}", data.len())));
        }
        let driver = self.driver.get_mut();
        let ptr = match self.states.get_mut(name) {
            Some((known, ptr)) if known.len() == data.len() => {
                *known = shape;
                *ptr
            }
            // Loaded plans hold its address.
            Some((known, _)) => {
                return Err(Error::Internal(format!("state {name} is {known} and cannot become {shape}")));
            }
            None => {
                let ptr = driver.alloc(data.len() * 4)?;
                self.states.insert(name.to_owned(), (shape, ptr));
                ptr
            }
        };
        // SAFETY: allocated with this size.
        unsafe { driver.upload(ptr, bytemuck::cast_slice(data)) }
    }

    fn state(&self, name: &str) -> Result<Vec<f32>> {
        let (shape, ptr) = self.states.get(name).ok_or_else(|| Error::Internal(format!("there is no state {name}")))?;
        let mut data = vec![0f32; shape.len()];
        // SAFETY: of the state's size.
        unsafe { self.driver.borrow_mut().download(bytemuck::cast_slice_mut(&mut data), *ptr)? };
        Ok(data)
    }

    fn choices(&self) -> Option<&Choices> {
        let driver = self.driver.borrow();
        (driver.has_libraries() || driver.has_warpgroups()).then_some(&self.chosen)
    }

    fn steps_with_choice(&self, plan: PlanId) -> &[(Arc<str>, String)] {
        &self.plans[plan.0].with_choice
    }

    fn reuse(&mut self, choices: Choices) {
        if choices.timed_on == self.known.timed_on {
            self.known.steps.extend(choices.steps);
        }
    }

    fn available_memory(&self) -> Result<Option<usize>> {
        let (free, _) = self.driver.borrow().memory()?;
        Ok(Some(free.saturating_sub(RESERVED_BYTES)))
    }

    fn poison(&mut self) -> Result<()> {
        let nan = vec![f32::NAN; self.arena.1];
        // SAFETY: the arena has as many floats.
        unsafe { self.driver.get_mut().upload(self.arena.0, bytemuck::cast_slice(&nan)) }
    }

    fn plan(&self, plan: PlanId) -> &Plan {
        &self.plans[plan.0].plan
    }

    fn set_profile(&mut self, on: bool) {
        self.profile = on;
    }

    fn memory_in_use(&self) -> Option<usize> {
        Some(self.driver.borrow().allocated())
    }

    fn times(&self, plan: PlanId) -> Vec<PartTime> {
        self.plans[plan.0].parts.iter().map(|part| part.measured.clone()).collect()
    }

    fn ways(&mut self, plan: PlanId, step: usize) -> Result<Vec<String>> {
        self.ways_of(plan.0, step)
    }

    fn time_step(&mut self, plan: PlanId, step: usize, way: &str, runs: u64) -> Result<Duration> {
        self.time_cold(plan.0, step, way, runs)
    }

    fn peaks(&self) -> Result<Peaks> {
        peak::measure(&mut **self.driver.borrow_mut(), Size::GPU)
    }
}
