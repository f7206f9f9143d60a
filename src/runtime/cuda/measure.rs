//! How long a loaded plan's work takes: each part of a whole run, and one step alone, in each of its ways.

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use super::choose::Compiler;
use super::ways::Item;
use super::{Cuda, Part, peak, variants};
use crate::device::Workload;
use crate::device::cuda::driver::{Launch, Work};
use crate::plan::{Plan, Step};
use crate::runtime::PartTime;
use crate::runtime::choices::short_name;
use crate::{Error, Result};

/// Runs of a step that are put into one graph.
const RUNS_OF_GRAPH: u64 = 16;

impl Part {
    /// A step that is done by `items`.
    pub(super) fn of_step(plan: &Plan, step: &Step, items: &[Item]) -> Part {
        let mut label = step.label();
        let kernels = names(items);
        if !kernels.is_empty() {
            label = format!("{label}: {kernels}");
        }
        let work = plan.step_workload(step);
        Part { entries: items.len(), measured: PartTime { label, work, time: Duration::ZERO } }
    }

    /// What follows the steps: checks, state changes of each kind, outputs. Neighbours of a kind are one part.
    pub(super) fn of_end(plan: &Plan, items: &[(Arc<str>, Item)]) -> Vec<Part> {
        let kind = |path: &str| match plan.outputs.iter().any(|(name, _)| name == path) {
            true => "outputs".to_owned(),
            false => path.to_owned(),
        };
        let mut parts: Vec<Part> = Vec::new();
        for (path, _) in items {
            let label = kind(path);
            match parts.last_mut().filter(|part| part.measured.label == label) {
                Some(part) => part.entries += 1,
                None => {
                    let work = Workload::default();
                    parts.push(Part { entries: 1, measured: PartTime { label, work, time: Duration::ZERO } });
                }
            }
        }
        for commit in &plan.commits {
            if let Some(part) = parts.iter_mut().find(|part| part.measured.label == commit.op.name()) {
                let work = plan.commit_workload(commit);
                part.measured.work.read += work.read;
                part.measured.work.written += work.written;
            }
        }
        parts
    }
}

/// Names of kernels and algorithms, each once.
fn names(items: &[Item]) -> String {
    let mut names: Vec<String> = Vec::new();
    for item in items {
        let name = match item {
            Item::Kernel(kernel) => kernel.kernel.to_owned(),
            Item::Library(_, algorithm) => short_name(algorithm),
        };
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names.join(" + ")
}

impl Cuda {
    /// Runs a plan part by part, and adds up how long each takes.
    pub(super) fn run_timed(&mut self, id: usize) -> Result<()> {
        let loaded = &mut self.plans[id];
        let mut rest = &loaded.work[..];
        let mut parts = Vec::with_capacity(loaded.parts.len());
        for part in &loaded.parts {
            let (own, after) = rest.split_at(part.entries);
            parts.push(own);
            rest = after;
        }
        // SAFETY: as recorded by `resolve`.
        let times = unsafe { self.driver.get_mut().run_timed(&parts)? };
        loaded.parts.iter_mut().zip(times).for_each(|(part, time)| part.measured.time += time);
        Ok(())
    }

    /// The ways of a step that work and are right; none if it has nothing to do.
    pub(super) fn ways_of(&mut self, id: usize, step: usize) -> Result<Vec<String>> {
        let at = self.addresses(id);
        let variants = variants(&at, &at.plan.steps[step])?;
        if variants.own.is_empty() {
            return Ok(vec![]);
        }
        let mut ways = variants.algorithms(self.driver.get_mut().as_mut());
        if let Some((_, choice)) = variants.choice(&self.chosen) {
            ways.retain(|way| choice.rejected.iter().all(|(wrong, _)| wrong != way));
        }
        // Its own kernels have to work; of libraries some algorithms fail only when they are called.
        let mut working = vec![ways.remove(0)];
        for way in ways {
            match self.time_cold(id, step, &way, 1) {
                Ok(_) => working.push(way),
                Err(Error::Device { .. } | Error::DeviceMemory { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(working)
    }

    /// The time of `runs` runs of a step, each after a sweep that leaves the cache cold.
    pub(super) fn time_cold(&mut self, id: usize, step: usize, way: &str, runs: u64) -> Result<Duration> {
        let work = self.work_of(id, step, way)?;
        let sweep = [Work::Kernel(self.sweep()?)];
        let mut sum = Duration::ZERO;
        for start in (0..runs).step_by(RUNS_OF_GRAPH as usize) {
            let count = RUNS_OF_GRAPH.min(runs - start);
            let parts: Vec<&[Work]> = (0..count).flat_map(|_| [&sweep[..], &work]).collect();
            // SAFETY: the plan's work, on memory as it is now, and a kernel on memory of its own.
            let times = unsafe { self.driver.get_mut().run_timed(&parts)? };
            sum += times.iter().skip(1).step_by(2).sum::<Duration>();
        }
        Ok(sum)
    }

    /// A step's work in one of its ways, compiled.
    fn work_of(&mut self, id: usize, step: usize, way: &str) -> Result<Vec<Work>> {
        let at = self.addresses(id);
        let variants = variants(&at, &at.plan.steps[step])?;
        let items: Vec<_> = variants.with(way).into_iter().map(|item| (variants.path.clone(), item)).collect();
        let mut compiler = Compiler {
            driver: self.driver.get_mut().as_mut(),
            functions: &mut self.functions,
            on_compile: &mut self.on_compile,
            on_warning: &mut self.on_warning,
        };
        compiler.compile(&items)
    }

    fn sweep(&mut self) -> Result<Launch> {
        if let Some(sweep) = &self.sweep {
            return Ok(sweep.clone());
        }
        let sweep = peak::sweep(self.driver.get_mut().as_mut())?;
        Ok(self.sweep.insert(sweep).clone())
    }
}
