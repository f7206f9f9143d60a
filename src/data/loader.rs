//! Loader threads and the ring of batches between them and the consumer.
//!
//! A thread takes the next batch number together with a free slot of the ring, fills it and puts it where the
//! consumer looks for that number. Numbers are handed out in order, so the batch that the consumer waits for
//! is always the first to get a slot: delivery is in order and cannot deadlock. What is in a batch depends on
//! its number only.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::dataset::{Dataset, Sample};
use super::pixels::Batch;
use crate::error::{Error, Result};

/// Which samples make up each batch.
enum Plan {
    Training {
        epoch: u64,
        order: Vec<u32>,
    },
    /// Which batches of the samples.
    Fixed {
        samples: Vec<Sample>,
        batches: Vec<usize>,
    },
}

/// Which part of each global batch a process loads: the samples `index`, `index + count`, … of `count` times as many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// Number of the process, from 0.
    pub index: usize,
    /// Number of processes.
    pub count: usize,
}

impl Share {
    /// Everything.
    pub const WHOLE: Share = Share { index: 0, count: 1 };
}

/// What the threads share without a lock.
struct Job {
    dataset: Dataset,
    plan: Plan,
    share: Share,
    batch: usize,
    /// Number of batches.
    len: usize,
}

impl Job {
    fn samples(&self, number: usize) -> Vec<Sample> {
        match &self.plan {
            Plan::Training { epoch, order } => {
                let Share { index, count } = self.share;
                let first = number * self.batch * count + index;
                let samples = (0..self.batch).map(|i| first + i * count);
                samples.map(|i| self.dataset.train_sample(*epoch, order, i)).collect()
            }
            Plan::Fixed { samples, batches } => {
                let first = batches[number] * self.batch;
                samples[first..(first + self.batch).min(samples.len())].to_vec()
            }
        }
    }

    /// Loads batch `number` into `slot`, or into new memory if there is none.
    fn load(&self, number: usize, slot: Option<Batch>) -> Result<Batch> {
        let samples = self.samples(number);
        let mut batch = slot.unwrap_or_else(|| self.slot_for(&samples));
        self.dataset.fill(&mut batch, &samples)?;
        Ok(batch)
    }

    /// Memory for a batch of `samples`.
    fn slot_for(&self, samples: &[Sample]) -> Batch {
        let crop = samples[0].item.crop;
        self.dataset.empty_batch(self.batch, crop.height, crop.width)
    }
}

/// What the threads share under the lock.
struct Ring {
    /// The next batch number to hand out.
    next: usize,
    /// Slots not in use; `None` is one whose memory is not there yet.
    free: Vec<Option<Batch>>,
    done: BTreeMap<usize, Result<Batch>>,
    stop: bool,
}

struct Shared {
    job: Job,
    ring: Mutex<Ring>,
    /// A slot became free, or all is to stop.
    slot_free: Condvar,
    /// A batch is done.
    batch_done: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Ring> {
        // Nothing that can panic runs under the lock.
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        let mut ring = self.lock();
        loop {
            if ring.stop || ring.next == self.job.len {
                return;
            }
            let Some(slot) = ring.free.pop() else {
                ring = self.slot_free.wait(ring).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let number = ring.next;
            ring.next += 1;
            drop(ring);
            // A panic would leave the consumer waiting for ever.
            let result = catch_unwind(AssertUnwindSafe(|| self.job.load(number, slot)))
                .unwrap_or_else(|_| Err(Error::Internal(format!("loading batch {number} panicked"))));
            ring = self.lock();
            ring.done.insert(number, result);
            self.batch_done.notify_all();
        }
    }
}

/// Delivers batches in order, loaded ahead by threads; an iterator over `Result<Batch>` that ends after the
/// last batch or the first error. Dropping it stops its threads.
pub struct Loader {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    delivered: usize,
    failed: bool,
    waited: Duration,
}

impl Loader {
    /// The training batches of `epoch` from `first_batch` on: this process's `share` of global batches, `train_batch`
    /// samples each. What an epoch holds does not depend on the number of shares.
    pub fn start(dataset: &Dataset, epoch: u64, first_batch: usize, share: Share) -> Result<Loader> {
        let batch = dataset.settings().train_batch;
        let len = dataset.steps_per_epoch(batch.saturating_mul(share.count))?;
        let plan = Plan::Training { epoch, order: dataset.epoch_order(epoch) };
        Ok(Self::run(Job { dataset: dataset.clone(), plan, share, batch, len }, first_batch.min(len)))
    }

    /// The named `batches` of `batch` over `samples`, which are all of one size, in their order.
    pub(super) fn over_samples(
        dataset: Dataset,
        samples: Vec<Sample>,
        (batch, mut batches): (usize, Vec<usize>),
    ) -> Loader {
        batches.retain(|number| number * batch < samples.len());
        let len = batches.len();
        Self::run(Job { dataset, plan: Plan::Fixed { samples, batches }, share: Share::WHOLE, batch, len }, 0)
    }

    fn run(job: Job, first: usize) -> Loader {
        let settings = job.dataset.settings();
        let to_come = job.len - first;
        let workers = settings.num_workers.min(to_come);
        let slots = settings.num_workers.saturating_mul(settings.prefetch_factor).min(to_come).max(1);
        // Memory that the loader threads allocate would stay in heaps of their own when an epoch ends.
        let free = match to_come {
            0 => vec![],
            _ => vec![Some(job.slot_for(&job.samples(first))); slots],
        };
        let ring = Ring { next: first, free, done: BTreeMap::new(), stop: false };
        let shared =
            Arc::new(Shared { job, ring: Mutex::new(ring), slot_free: Condvar::new(), batch_done: Condvar::new() });
        let mut threads = Vec::with_capacity(workers);
        for number in 0..workers {
            let shared = Arc::clone(&shared);
            // With fewer threads than asked for, or none, loading is slower, not wrong.
            threads.extend(std::thread::Builder::new().name(format!("loader-{number}")).spawn(move || shared.work()));
        }
        Loader { shared, threads, delivered: first, failed: false, waited: Duration::ZERO }
    }

    /// Gives a batch's memory back for the next one. A batch that is kept or dropped instead is replaced by
    /// new memory.
    pub fn recycle(&mut self, batch: Batch) {
        self.shared.lock().free.push(Some(batch));
        self.shared.slot_free.notify_one();
    }

    /// Total time that `next` blocked.
    pub fn waited(&self) -> Duration {
        self.waited
    }

    /// Batches still to come.
    pub fn remaining(&self) -> usize {
        self.shared.job.len - self.delivered
    }

    fn wait_for(&self, number: usize) -> Result<Batch> {
        let mut ring = self.shared.lock();
        if self.threads.is_empty() {
            let slot = ring.free.pop().flatten();
            drop(ring);
            return self.shared.job.load(number, slot);
        }
        loop {
            if let Some(result) = ring.done.remove(&number) {
                return result;
            }
            if ring.next == number && ring.free.is_empty() {
                // The consumer kept all batches: without a new slot nobody could go on.
                ring.free.push(None);
                self.shared.slot_free.notify_one();
            }
            ring = self.shared.batch_done.wait(ring).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Iterator for Loader {
    type Item = Result<Batch>;

    fn next(&mut self) -> Option<Result<Batch>> {
        if self.failed || self.remaining() == 0 {
            return None;
        }
        let start = Instant::now();
        let result = self.wait_for(self.delivered);
        self.waited += start.elapsed();
        self.delivered += 1;
        self.failed = result.is_err();
        Some(result)
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        self.shared.lock().stop = true;
        self.shared.slot_free.notify_all();
        for thread in self.threads.drain(..) {
            // A thread ends after the batch it is loading; its panics are caught.
            let _ = thread.join();
        }
    }
}

impl std::fmt::Debug for Loader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Loader").field("delivered", &self.delivered).field("len", &self.shared.job.len).finish()
    }
}
