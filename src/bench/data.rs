//! Steps on the batches of a data set, and its loader alone.

use std::time::{Duration, Instant};

use serde::Serialize;

use super::{BenchOptions, Steps, rounded};
use crate::config::Config;
use crate::data::{Batch, Dataset, Loader, Share};
use crate::runtime::PlanId;
use crate::train::plans::{self, train_shape};
use crate::train::programs::BatchShape;
use crate::train::session::{Key, Session};
use crate::train::step::{RawBatch, StartedStep, StepNumbers, start_step};
use crate::train::{check_patch, steps_per_epoch};
use crate::{Error, Result};

/// Training steps without logs, checkpoints and validation; epochs follow each other.
pub(super) struct DataSteps<'a> {
    dataset: &'a Dataset,
    micro_batches: usize,
    loader: Loader,
    epoch: u64,
    step: u64,
    shape: BatchShape,
    numbers: StepNumbers,
    plan: PlanId,
    before: Option<StartedStep>,
}

impl<'a> DataSteps<'a> {
    pub fn new(session: &mut Session, options: &BenchOptions, dataset: &'a Dataset) -> Result<DataSteps<'a>> {
        let cfg = session.config().clone();
        check_patch(&cfg, dataset)?;
        steps_per_epoch(&cfg, dataset, 1)?;
        let shape = train_shape(&cfg, dataset);
        let Some(phase) = options.phase.of_step() else {
            return Err(Error::usage("--data cfg times training steps; a forward pass alone takes no HR images")
                .with_hint("use --phase pretrain or adversarial"));
        };
        let micro_batches = cfg.training.accumulate_grad_batches;
        if options.profile && micro_batches > 1 {
            return Err(Error::usage("--profile shows one program, but gradient accumulation runs several")
                .with_hint("set Training.accumulate_grad_batches=1"));
        }
        let keys: Vec<Key> = plans::of_step(phase, shape, micro_batches).into_iter().map(|(key, _)| key).collect();
        let plan = session.load_all(&keys)?[0];
        Ok(DataSteps {
            dataset,
            micro_batches,
            loader: Loader::start(dataset, 0, 0, Share::WHOLE)?,
            epoch: 0,
            step: 0,
            shape,
            numbers: options.phase.numbers(&cfg),
            plan,
            before: None,
        })
    }

    /// The batches of the next step, of the next epoch if this one has no more.
    fn batches(&mut self) -> Result<Vec<Batch>> {
        let parts = self.micro_batches;
        if self.loader.remaining() < parts {
            self.epoch += 1;
            self.loader = Loader::start(self.dataset, self.epoch, 0, Share::WHOLE)?;
        }
        self.loader.by_ref().take(parts).collect()
    }
}

impl Steps for DataSteps<'_> {
    fn step(&mut self, session: &mut Session) -> Result<Duration> {
        let start = Instant::now();
        let batches = self.batches()?;
        let waited = start.elapsed();
        let raw: Vec<RawBatch> = batches.iter().map(RawBatch::from).collect();
        let started = start_step(session, self.shape, &raw, (self.step, self.numbers))?;
        if let Some(before) = self.before.replace(started) {
            before.finish(session)?;
        }
        self.step += 1;
        batches.into_iter().for_each(|b| self.loader.recycle(b));
        Ok(waited)
    }

    fn plan(&self) -> PlanId {
        self.plan
    }

    fn extent(&self) -> (usize, usize) {
        (self.shape.batch * self.micro_batches, self.shape.hr.0)
    }
}

/// What the loader does alone.
#[derive(Clone, Debug, Serialize)]
pub struct LoaderResult {
    /// This program.
    #[serde(rename = "impl")]
    pub implementation: &'static str,
    /// Its version.
    pub version: &'static str,
    /// Always `loader`.
    pub phase: &'static str,
    /// Patches per batch.
    pub batch: usize,
    /// Rows of the HR patches.
    pub hr: usize,
    /// Loader threads.
    pub workers: usize,
    /// Epochs.
    pub epochs: u64,
    /// Patches of an epoch.
    pub patches_per_epoch: usize,
    /// Patches per second over all epochs.
    pub patches_per_s: f64,
    /// The process's own memory after the first epoch, where the system says.
    pub private_mib_first: Option<f64>,
    /// The same after the last.
    pub private_mib_last: Option<f64>,
    /// Resident pages of files, those of a memory-mapped store among them, after the first epoch.
    pub file_mib_first: Option<f64>,
    /// The same after the last. It grows until every page of the store was read once; the system takes such pages
    /// back when memory is short.
    pub file_mib_last: Option<f64>,
}

/// Loads `epochs` epochs, at least one, and drops every batch at once.
///
/// # Errors
/// Fails if the data cannot be read.
pub fn bench_loader(dataset: &Dataset, cfg: &Config, epochs: u64) -> Result<LoaderResult> {
    let batches = dataset.steps_per_epoch(cfg.data.train_batch_size)?;
    let epochs = epochs.max(1);
    let (mut loading, mut first, mut last) = (Duration::ZERO, None, Resident::default());
    for epoch in 0..epochs {
        let start = Instant::now();
        let mut loader = Loader::start(dataset, epoch, 0, Share::WHOLE)?;
        while let Some(batch) = loader.next() {
            loader.recycle(batch?);
        }
        loading += start.elapsed();
        last = Resident::now();
        first.get_or_insert(last);
    }
    let first = first.unwrap_or_default();
    let patches = batches * cfg.data.train_batch_size;
    Ok(LoaderResult {
        implementation: "srgan",
        version: env!("CARGO_PKG_VERSION"),
        phase: "loader",
        batch: cfg.data.train_batch_size,
        hr: dataset.train_spec().hr.1,
        workers: cfg.data.num_workers,
        epochs,
        patches_per_epoch: patches,
        patches_per_s: rounded((patches as u64 * epochs) as f64 / loading.as_secs_f64()),
        private_mib_first: first.private_mib,
        private_mib_last: last.private_mib,
        file_mib_first: first.file_mib,
        file_mib_last: last.file_mib,
    })
}

/// Resident memory of this process.
#[derive(Clone, Copy, Debug, Default)]
struct Resident {
    private_mib: Option<f64>,
    file_mib: Option<f64>,
}

impl Resident {
    fn now() -> Resident {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let mib = |key: &str| {
            let line = status.lines().find_map(|l| l.strip_prefix(key))?;
            let kib: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
            Some(rounded(kib / 1024.0))
        };
        Resident { private_mib: mib("RssAnon:"), file_mib: mib("RssFile:") }
    }
}
