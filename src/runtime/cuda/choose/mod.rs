//! Which of several ways a step takes: this program's kernels or an algorithm of a library. Each kind of step is timed
//! once for a device and its libraries, before the first run of the first plan that has it.

mod check;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::limits::geometry;
use super::ways::{Alternative, Item};
use crate::device::cuda::compile::module::module;
use crate::device::cuda::driver::{Driver, FunctionId, Launch, ModuleSource, Work};
use crate::device::cuda::launch::library::LibraryLaunch;
use crate::device::{OnCompile, OnWarning};
use crate::runtime::choices::{Choice, Choices, OWN};
use crate::{Error, Result};
pub(super) use check::Touched;
use check::{Distance, Results};

/// The ways that a step can take.
pub(super) struct Variants {
    pub path: Arc<str>,
    pub own: Vec<Item>,
    pub library: Option<Alternative>,
    /// The memory that candidates are checked on; without it there are none.
    pub touched: Option<Touched>,
}

impl Variants {
    /// Every way to do the step, this program's own kernels first.
    pub fn algorithms(&self, driver: &mut dyn Driver) -> Vec<String> {
        let mut ways = vec![OWN.to_owned()];
        if let Some(library) = &self.library {
            ways.extend(library.kernels.iter().map(|(name, _)| name.clone()));
            ways.extend(driver.algorithms(&library.call.op));
        }
        ways
    }

    /// The work with `algorithm`.
    pub fn with(&self, algorithm: &str) -> Vec<Item> {
        match &self.library {
            Some(library) if algorithm != OWN => library.items(algorithm),
            _ => self.own.clone(),
        }
    }

    /// The kind of step and what was chosen for it, if there was a choice.
    pub fn choice<'c>(&self, chosen: &'c Choices) -> Option<(&'c String, &'c Choice)> {
        chosen.steps.get_key_value(&self.library.as_ref()?.signature)
    }

    /// The work that was chosen.
    pub fn chosen(&self, chosen: &Choices) -> Vec<Item> {
        self.with(self.choice(chosen).map_or(OWN, |(_, choice)| &choice.algorithm))
    }
}

/// Turns items into work: compiles kernels that are new.
pub(super) struct Compiler<'a> {
    pub driver: &'a mut dyn Driver,
    pub functions: &'a mut HashMap<ModuleSource, FunctionId>,
    pub on_compile: &'a mut Option<OnCompile>,
    pub on_warning: &'a mut Option<OnWarning>,
}

impl Compiler<'_> {
    pub fn compile(&mut self, items: &[(Arc<str>, Item)]) -> Result<Vec<Work>> {
        let specialise = self.driver.specialises();
        let kernels = items.iter().filter_map(|(path, item)| match item {
            Item::Kernel(kernel) => Some((path, kernel)),
            Item::Library(..) => None,
        });
        let prepared = kernels.map(|(path, kernel)| Ok((geometry(kernel, path)?, module(kernel, specialise))));
        let modules = prepared.collect::<Result<Vec<_>>>()?;
        self.add_functions(modules.iter().map(|(_, (source, _))| source))?;
        let mut modules = modules.into_iter();
        let mut work = Vec::with_capacity(items.len());
        for (path, item) in items {
            let path = path.clone();
            if let Item::Library(call, algorithm) = item {
                work.push(Work::Library(LibraryLaunch { call: *call, algorithm: algorithm.clone(), path }));
            } else if let Some((geometry, (source, args))) = modules.next() {
                work.push(Work::Kernel(Launch { function: self.functions[&source], geometry, args, path }));
            }
        }
        Ok(work)
    }

    /// Compiles what is new among modules.
    fn add_functions<'m>(&mut self, modules: impl Iterator<Item = &'m ModuleSource>) -> Result<()> {
        let mut missing: Vec<ModuleSource> = Vec::new();
        for source in modules {
            if !self.functions.contains_key(source) && !missing.contains(source) {
                missing.push(source.clone());
            }
        }
        let (name, on_compile) = (self.driver.describe(), &mut *self.on_compile);
        let compiled = self.driver.compile(&missing, &mut |compiling| {
            if let Some(show) = on_compile {
                show(&name, compiling);
            }
        })?;
        self.functions.extend(missing.into_iter().zip(compiled).map(|(source, functions)| (source, functions[0])));
        Ok(())
    }
}

/// A candidate of a step that is to be timed.
struct Candidate<'v> {
    signature: &'v str,
    path: &'v Arc<str>,
    algorithm: String,
    touched: &'v Touched,
    fill: Vec<Item>,
    items: Vec<Item>,
}

/// Chooses for every step with several ways that `chosen` does not have: what is `known`, if it still can be done, else
/// what takes the least time and gives the own kernel's result. What was timed is kept for later runs; a file that
/// cannot be written costs their time. When the time of `tuning` is over, steps that are left take the own kernels in this
/// run.
///
/// # Errors
/// Fails if one of our own kernels does, or if the GPU is lost; any other candidate that fails has merely lost.
pub(super) fn choose(
    compiler: &mut Compiler,
    variants: &[Variants],
    (known, chosen): (&mut Choices, &mut Choices),
    tuning: &mut Duration,
) -> Result<()> {
    let started = Instant::now();
    // A deadline that no clock reaches is none.
    let deadline = started.checked_add(*tuning);
    let mut open: BTreeMap<&str, &Variants> = BTreeMap::new();
    for variant in variants {
        let Some(library) = &variant.library else { continue };
        if chosen.steps.contains_key(&library.signature) || open.contains_key(&*library.signature) {
            continue;
        }
        let usable = |choice: &&Choice| {
            let is_own = choice.algorithm == OWN || library.has_kernel(&choice.algorithm);
            is_own || compiler.driver.prepare(&library.call.op, &choice.algorithm).is_ok()
        };
        match known.steps.get(&library.signature).filter(usable) {
            Some(choice) => _ = chosen.steps.insert(library.signature.clone(), choice.clone()),
            None => _ = open.insert(&library.signature, variant),
        }
    }
    let (candidates, mut late) = candidates(compiler.driver, &open, deadline);
    let mut timed = Choices::new(chosen.timed_on.clone());
    if !candidates.is_empty() {
        for (signature, choice) in time(compiler, &candidates, deadline)? {
            timed.steps.insert(signature.to_owned(), choice);
        }
        late.extend(candidates.iter().map(|c| c.signature).filter(|&signature| !timed.steps.contains_key(signature)));
    }
    if !late.is_empty() {
        // A run that continues this one takes the same.
        let own = || Choice { algorithm: OWN.to_owned(), ..Choice::default() };
        chosen.steps.extend(late.iter().map(|&signature| (signature.to_owned(), own())));
        if let Some(warn) = compiler.on_warning {
            warn(&late_warning(late.len()));
        }
    }
    *tuning = tuning.saturating_sub(started.elapsed());
    if timed.steps.is_empty() {
        return Ok(());
    }
    if let Some(path) = compiler.driver.choices_file() {
        // `srgan doctor` says why the folder cannot be written.
        let _ = timed.merge_into(&path);
    }
    known.steps.extend(timed.steps.clone());
    chosen.steps.extend(timed.steps);
    Ok(())
}

fn is_over(deadline: Option<Instant>) -> bool {
    deadline.is_some_and(|deadline| Instant::now() >= deadline)
}

fn late_warning(kinds: usize) -> String {
    let late = if kinds == 1 { "one kind of steps takes".to_owned() } else { format!("{kinds} kinds of steps take") };
    format!(
        "the time for comparing algorithms is over: {late} this program's own kernels in this run. What \
         was timed is kept, and the next run goes on (Training.tune_seconds)"
    )
}

/// Every way of every open step, and the steps that come too late for that. Steps with one way need no choice.
fn candidates<'v>(
    driver: &mut dyn Driver,
    open: &BTreeMap<&'v str, &'v Variants>,
    deadline: Option<Instant>,
) -> (Vec<Candidate<'v>>, BTreeSet<&'v str>) {
    let (mut candidates, mut late) = (Vec::new(), BTreeSet::new());
    for (&signature, variant) in open {
        let Some(touched) = &variant.touched else { continue };
        // Libraries make algorithms ready one after the other, which takes its time.
        if is_over(deadline) {
            late.insert(signature);
            continue;
        }
        let algorithms = variant.algorithms(driver);
        if algorithms.len() == 1 {
            continue;
        }
        for algorithm in algorithms {
            let fill = touched.fill().into_iter().map(Item::Kernel).collect();
            let (path, items) = (&variant.path, variant.with(&algorithm));
            candidates.push(Candidate { signature, path, algorithm, touched, fill, items });
        }
    }
    (candidates, late)
}

/// Times all candidates, which are compiled together, and picks the fastest right one of each step; of equals, the
/// first. A step's own way comes before its others. Steps that begin after the deadline are left out.
fn time<'v>(
    compiler: &mut Compiler,
    candidates: &[Candidate<'v>],
    deadline: Option<Instant>,
) -> Result<BTreeMap<&'v str, Choice>> {
    let items =
        candidates.iter().flat_map(|c| c.fill.iter().chain(&c.items).map(|item| (c.path.clone(), item.clone())));
    let work = compiler.compile(&items.collect::<Vec<_>>())?;
    let mut rest = &work[..];
    let mut choices: BTreeMap<&str, Choice> = BTreeMap::new();
    let mut own: Option<Results> = None;
    let mut is_late = false;
    for candidate in candidates {
        let is_own = candidate.algorithm == OWN;
        let (fill, after) = rest.split_at(candidate.fill.len());
        let (work, after) = after.split_at(candidate.items.len());
        rest = after;
        is_late = if is_own { is_over(deadline) } else { is_late };
        if is_late {
            continue;
        }
        let tried = match tried(compiler.driver, candidate, (fill, work), own.as_ref().filter(|_| !is_own)) {
            Ok(tried) => tried,
            Err(Error::Device { .. } | Error::DeviceMemory { .. }) if !is_own => continue,
            Err(Error::DeviceLost { message }) if !is_own => return Err(lost(compiler.driver, candidate, message)),
            Err(error) => return Err(error),
        };
        let (choice, algorithm) = (choices.entry(candidate.signature).or_default(), candidate.algorithm.clone());
        match tried {
            Tried::Right(time, results) => {
                choice.times.push((algorithm, microseconds(time)));
                own = if is_own { Some(results) } else { own };
            }
            Tried::Wrong(distance) => {
                if let Some(warn) = compiler.on_warning {
                    warn(&check::warning(&algorithm, candidate.path, candidate.signature, distance));
                }
                let relative = Some(distance.relative).filter(|relative| relative.is_finite());
                choice.rejected.push((algorithm, relative));
            }
            Tried::Unsteady => {
                if let Some(warn) = compiler.on_warning {
                    let Candidate { path, signature, .. } = candidate;
                    warn(&format!(
                        "{algorithm} is not used for {path} ({signature}) and steps like it: its bits differ from call to call"
                    ));
                }
                choice.rejected.push((algorithm, None));
            }
        }
    }
    for choice in choices.values_mut() {
        choice.times.sort_by(|a, b| a.1.total_cmp(&b.1));
        choice.algorithm = choice.times.first().map_or(OWN, |(algorithm, _)| algorithm).to_owned();
    }
    Ok(choices)
}

/// The error of a candidate that has ended the GPU's context, and with it the run: the next run takes the own kernel.
fn lost(driver: &dyn Driver, candidate: &Candidate, message: String) -> Error {
    let rejected = vec![(candidate.algorithm.clone(), None)];
    let choice = Choice { algorithm: OWN.to_owned(), rejected, ..Choice::default() };
    let mut choices = Choices::new(driver.timed_on());
    choices.steps.insert(candidate.signature.to_owned(), choice);
    let kept = driver.choices_file().is_some_and(|path| choices.merge_into(&path).is_ok());
    let again = if kept { "; it is not tried again: start the run again" } else { "" };
    let Candidate { algorithm, path, signature, .. } = candidate;
    Error::DeviceLost { message: format!("{message}, when {algorithm} was tried for {path} ({signature}){again}") }
}

enum Tried {
    /// What it takes, and what it computed.
    Right(Duration, Results),
    Wrong(Distance),
    /// Its results have other bits after it was timed.
    Unsteady,
}

/// Runs a candidate once, on memory that is filled before; times it if its results are those of `own`, and runs it again.
fn tried(
    driver: &mut dyn Driver,
    candidate: &Candidate,
    (fill, work): (&[Work], &[Work]),
    own: Option<&Results>,
) -> Result<Tried> {
    // SAFETY: work of a plan that is being loaded, on its own memory, in which nothing lies that is still needed.
    let results = unsafe { candidate.touched.results(driver, fill, work)? };
    let distance = own.map(|own| candidate.touched.distance(own, &results));
    if let Some(distance) = distance.filter(Distance::is_wrong) {
        return Ok(Tried::Wrong(distance));
    }
    // SAFETY: as above.
    let (time, again) = unsafe { (driver.time(work)?, candidate.touched.results(driver, fill, work)?) };
    Ok(if again.has_bits_of(&results) { Tried::Right(time, results) } else { Tried::Unsteady })
}

fn microseconds(time: Duration) -> f64 {
    time.as_nanos() as f64 / 1e3
}
