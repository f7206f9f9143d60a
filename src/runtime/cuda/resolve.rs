//! Steps of a plan as launches: locations become addresses, fused stages become the finish of their kernel.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use super::choose::Touched;
use super::fill::Region;
use super::ways::Alternative;
use crate::device::cuda::compile::module::{module, pointwise_index};
use crate::device::cuda::driver::{DevicePtr, ModuleSource};
use crate::device::cuda::launch::args::{Args, DeviceView};
use crate::device::cuda::launch::finish::{Finish, FinishFunction, FinishStage, MAX_PARTS, PointwiseCode};
use crate::device::cuda::launch::{CudaCall, CudaCommitCall, KernelLaunch};
use crate::graph::Exec;
use crate::plan::{Base, Loc, Plan, Root, Stage, Step};
use crate::types::{DType, Shape};
use crate::{Error, Result};

/// Floats before the outputs in the outbox; the first holds the flag of the checks.
pub(super) const OK_FLOATS: usize = 64;

/// Turns locations into addresses.
pub(super) struct Addresses<'a> {
    pub arena: DevicePtr,
    pub states: &'a BTreeMap<String, (Shape, DevicePtr)>,
    pub plan: &'a Plan,
    pub slots: &'a [DevicePtr],
    pub constants: &'a [DevicePtr],
    pub outbox: DevicePtr,
    /// Whether kernels may use `wgmma` and bulk copies.
    pub warpgroups: bool,
}

impl Addresses<'_> {
    fn view(&self, loc: &Loc) -> Result<DeviceView> {
        let base = match loc.root {
            Root::Buffer(_) => self.arena,
            Root::Input(i) => self.slots[i],
            Root::Const(i) => self.constants[i],
            Root::State(i) => {
                let name = &self.plan.states[i].0;
                let state = self.states.get(&**name);
                state.ok_or_else(|| Error::Internal(format!("there is no state {name}")))?.1
            }
        };
        let ptr = base.offset_by(loc.offset * loc.element.size());
        Ok(DeviceView { ptr, shape: loc.shape, stride: loc.stride, element: loc.element })
    }

    fn views(&self, locs: &[Loc]) -> Result<Vec<DeviceView>> {
        locs.iter().map(|l| self.view(l)).collect()
    }

    /// The launches of a step.
    pub fn step(&self, step: &Step) -> Result<Vec<KernelLaunch>> {
        match &step.base {
            Base::Kernel(op, inputs) => {
                let Exec::Kernel(kernel) = op.exec() else { return Ok(vec![]) };
                let Some((_, output)) = step.stores.last() else { return Ok(vec![]) };
                Ok(kernel.cuda.launches(&self.call(step, &self.views(inputs)?, output)?))
            }
            Base::Carrier(from) => Ok(vec![KernelLaunch::pointwise(self.view(from)?, &self.finish(step)?)]),
            Base::Copy { copies, zeros } => {
                let mut launches = Vec::new();
                for (from, to) in copies {
                    launches.push(KernelLaunch::copy(self.view(from)?, self.view(to)?));
                }
                for to in zeros {
                    let to = self.view(to)?;
                    let count = to.shape.len();
                    let args = Args::new().pointer("to", to.cpp_element(), to.ptr);
                    launches.push(KernelLaunch::over("copy", "clear", count, args));
                }
                Ok(launches)
            }
        }
    }

    fn call<'v>(&self, step: &Step, inputs: &'v [DeviceView], output: &Loc) -> Result<CudaCall<'v>> {
        let (mut output, shape) = (self.view(output)?, step.shape_before(0));
        if output.shape != shape {
            // Stages move the result: only its extent counts.
            (output.shape, output.stride) = (shape, shape.c());
        }
        Ok(CudaCall {
            inputs,
            output,
            scratch: self.arena.offset_by(step.scratch.0 * 4),
            finish: self.finish(step)?,
            precision: step.precision,
        })
    }

    /// Other ways of the step, where a library can do it. The library's result goes where the step's goes, or, where that
    /// cannot be, into scratch memory, which the plan has for it.
    pub fn alternative(&self, step: &Step) -> Result<Option<Alternative>> {
        let Base::Kernel(op, inputs) = &step.base else { return Ok(None) };
        let (Exec::Kernel(kernel), Some((_, to))) = (op.exec(), step.stores.last()) else { return Ok(None) };
        let Some(library) = kernel.library else { return Ok(None) };
        let views = self.views(inputs)?;
        let mut call = self.call(step, &views, to)?;
        let kernels = if self.warpgroups { kernel.cuda.warpgroups(&call) } else { Vec::new() };
        let aside = step.keeps_result_aside();
        if aside {
            call.output = DeviceView { ptr: call.scratch, stride: call.output.shape.c(), ..call.output };
        }
        let Some(library) = library.call(&call) else { return Ok(None) };
        let signature = format!("{}{}", library.op, call.finish.signature());
        let finish = &call.finish;
        let is_done = finish.stages.is_empty() && finish.stores.len() == 1 && !aside;
        let then = (!is_done).then(|| KernelLaunch::pointwise(call.output, finish));
        Ok(Some(Alternative { signature, kernels, call: library, then }))
    }

    /// What a step touches of memory that holds nothing yet; `None` if it writes where something may lie.
    pub fn touched(&self, step: &Step) -> Result<Option<Touched>> {
        let writes = step.writes();
        if !writes.iter().all(|loc| matches!(loc.root, Root::Buffer(_))) {
            return Ok(None);
        }
        let mut regions = Vec::new();
        for loc in step.reads().iter().chain(&writes) {
            let base = match loc.root {
                Root::Buffer(_) => self.arena,
                Root::Input(i) if self.plan.inputs[i].dtype == DType::F32 => self.slots[i],
                Root::Input(_) | Root::Const(_) | Root::State(_) => continue,
            };
            let (first, size) = (loc.offset * loc.element.size(), loc.element.size());
            let region = Region { base, words: (first / 4, (first + loc.span() * size).div_ceil(4)) };
            if !regions.contains(&region) {
                regions.push(region);
            }
        }
        let stores = step.stores.iter().map(|(_, to)| self.view(to)).collect::<Result<_>>()?;
        Ok(Some(Touched { regions, stores, precision: step.precision }))
    }

    fn finish(&self, step: &Step) -> Result<Finish> {
        let mut stages = Vec::new();
        for (i, stage) in step.stages.iter().enumerate() {
            stages.push(match stage.shuffle_factor() {
                Some(factor) => FinishStage::Shuffle(factor),
                None => FinishStage::Function(self.function(stage, step.shape_before(i), &step.path)?),
            });
        }
        let stores = step.stores.iter().map(|(after, to)| Ok((*after, self.view(to)?)));
        let finish = Finish { stages, stores: stores.collect::<Result<_>>()? };
        if finish.fits() { Ok(finish) } else { Err(Error::Internal(format!("{}: too many stages", step.path))) }
    }

    /// A pointwise stage on values of extent `shape`.
    fn function(&self, stage: &Stage, shape: Shape, path: &str) -> Result<FinishFunction> {
        let Stage { op, carrier, operands } = stage;
        let Exec::Pointwise(p) = op.exec() else {
            return Err(Error::Internal(format!("{} is no pointwise op", op.name())));
        };
        let mut shapes: Vec<Shape> = operands.iter().map(|l| l.shape).collect();
        shapes[*carrier] = shape;
        let PointwiseCode { function, parts, factors } = p.cuda.code(&shapes);
        let index = pointwise_index(function).filter(|_| parts.len() <= MAX_PARTS);
        let index = index.ok_or_else(|| Error::Internal(format!("{path}: no kernel function {function}")))?;
        let mut inputs = Vec::new();
        for part in &parts {
            let mut view = self.view(&operands[part.operand])?;
            if view.shape.c() != 1 || shape.c() == 1 {
                let [n, h, w, _] = view.shape.0;
                view.ptr = view.ptr.offset_by(part.channel * view.element.size());
                view.shape = Shape([n, h, w, shape.c()]);
            }
            inputs.push(view);
        }
        let carrier = parts.iter().position(|p| p.operand == *carrier).unwrap_or_default();
        Ok(FinishFunction { index, name: function, carrier, inputs, factors })
    }

    /// Launches after the last step: checks, state changes, outputs.
    pub fn end(&self) -> Result<Vec<(Arc<str>, KernelLaunch)>> {
        let mut launches = Vec::new();
        let ok = |args: Args| args.pointer("ok", "int", self.outbox);
        let path: Arc<str> = "checks".into();
        launches.push((path.clone(), KernelLaunch::over("check", "set_ok", 1, ok(Args::new()))));
        for check in &self.plan.checks {
            let args = ok(Args::new().input("x", self.view(check)?));
            launches.push((path.clone(), KernelLaunch::new("check", "all_finite", 1, args)));
        }
        for commit in &self.plan.commits {
            let path: Arc<str> = commit.op.name().into();
            let (inputs, states) = (self.views(&commit.inputs)?, self.views(&commit.states)?);
            let call = CudaCommitCall { inputs: &inputs, states: &states, ok: self.outbox };
            launches.extend(commit.op.launches(&call).into_iter().map(|k| (path.clone(), k)));
        }
        let mut at = OK_FLOATS;
        for (name, loc) in &self.plan.outputs {
            let to = DeviceView::floats(self.outbox.offset_by(at * 4), loc.shape);
            launches.push((name.as_str().into(), KernelLaunch::copy(self.view(loc)?, to)));
            at += loc.shape.len();
        }
        Ok(launches)
    }
}

/// The modules that a plan needs on a driver that specialises, whatever is chosen, each once, for checks that run no
/// kernel. With `warpgroups` also those for GPUs that have them.
///
/// # Errors
/// As for loading the plan.
pub fn modules(plan: &Plan, warpgroups: bool) -> Result<Vec<ModuleSource>> {
    let mut kernels =
        anywhere(plan, warpgroups, |at| at.end())?.into_iter().map(|(_, kernel)| kernel).collect::<Vec<_>>();
    for step in &plan.steps {
        let (own, others) = anywhere(plan, warpgroups, |at| Ok((at.step(step)?, at.alternative(step)?)))?;
        kernels.extend(own);
        if let Some(Alternative { kernels: ways, then, .. }) = others {
            kernels.extend(ways.into_iter().flat_map(|(_, launches)| launches).chain(then));
        }
    }
    let mut seen = HashSet::new();
    let modules = kernels.iter().map(|kernel| module(kernel, true).0);
    Ok(modules.filter(|m| seen.insert(m.clone())).collect())
}

/// What `make` makes of a plan whose memory lies anywhere, with the alignment of real memory.
fn anywhere<T>(plan: &Plan, warpgroups: bool, make: impl FnOnce(&Addresses) -> Result<T>) -> Result<T> {
    let somewhere = DevicePtr(1 << 20);
    let states = plan.states.iter().map(|(name, shape)| (name.to_string(), (*shape, somewhere))).collect();
    let (slots, constants) = (vec![somewhere; plan.inputs.len()], vec![somewhere; plan.constants.len()]);
    let (arena, outbox) = (somewhere, somewhere);
    make(&Addresses { arena, states: &states, plan, slots: &slots, constants: &constants, outbox, warpgroups })
}

/// Multiply-adds of a plan's steps, of those that a library could do, and of those that have kernels for Hopper alone.
#[cfg(test)]
pub(super) fn macs_with_choice(plan: &Plan) -> Result<[u64; 3]> {
    let mut macs = [0; 3];
    for step in &plan.steps {
        let others = anywhere(plan, true, |at| at.alternative(step))?;
        let for_hopper = others.as_ref().is_some_and(|others| !others.kernels.is_empty());
        for (sum, counts) in macs.iter_mut().zip([true, others.is_some(), for_hopper]) {
            *sum += if counts { step.macs } else { 0 };
        }
    }
    Ok(macs)
}
