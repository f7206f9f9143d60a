//! The compute threads: persistent workers that share the items of one run at a time.
//!
//! It is our own and not rayon's because a kernel hands each worker its part of one scratch buffer, by a number below
//! the thread count, and because a step of microseconds is over before threads that sleep between jobs have woken.

use std::any::Any;
use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant};

use super::scratch::Shared as Floats;

/// How long a thread spins before it sleeps. Longer spinning collapses when the machine is shared: the
/// spinning thread takes the core from the one that it waits for.
const SPIN: Duration = Duration::from_micros(20);

type Work = dyn Fn(usize, usize) + Sync;

/// What the current run is; valid while one of its items is claimed and unfinished.
struct Job {
    work: *const Work,
    items: usize,
    caller: Thread,
}

struct Shared {
    /// Run number in the high half, items not yet claimed in the low half. Claiming is a
    /// compare-and-swap on both, so a thread that wakes late cannot claim an item of a finished run.
    unclaimed: AtomicU64,
    unfinished: AtomicUsize,
    stop: AtomicBool,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    job: UnsafeCell<Option<Job>>,
}

// SAFETY: `job` is written only by the caller of `run` while no item is claimed or claimable, and read
// only by threads that hold a claimed item; `unclaimed` and `unfinished` order the two.
unsafe impl Sync for Shared {}
// SAFETY: as above; the raw pointer in `Job` is used only during the run that lent it.
unsafe impl Send for Shared {}

/// A fixed number of compute threads: the caller of [`run`](Pool::run) and `threads - 1` workers.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    running: Mutex<()>,
}

impl Pool {
    /// Starts `threads - 1` workers (0 counts as 1). Where the system refuses a thread, the pool is smaller.
    pub fn new(threads: usize) -> Pool {
        let shared = Arc::new(Shared {
            unclaimed: AtomicU64::new(0),
            unfinished: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
            panic: Mutex::new(None),
            job: UnsafeCell::new(None),
        });
        let workers = (1..threads.max(1))
            .map_while(|worker| {
                let shared = Arc::clone(&shared);
                let name = format!("compute-{worker}");
                std::thread::Builder::new().name(name).spawn(move || shared.serve(worker)).ok()
            })
            .collect();
        Pool { shared, workers, running: Mutex::new(()) }
    }

    /// The number of threads that work in a run, the caller's included.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `work(item, worker)` once for every item in `0..items` and returns when all are done.
    ///
    /// `worker` is below [`threads`](Pool::threads) and no two calls with the same worker overlap, so it may
    /// index per-thread scratch memory. Which worker gets which item is not fixed. A panic in an item is
    /// raised here after the other items are done. Runs of several callers queue; a run started from inside
    /// an item would wait for itself for ever.
    pub fn run(&self, items: usize, work: &(dyn Fn(usize, usize) + Sync)) {
        let _running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if items <= 1 || self.workers.is_empty() {
            (0..items).for_each(|item| work(item, 0));
            return;
        }
        assert!(u32::try_from(items).is_ok(), "a run has at most 2^32 - 1 items");
        let shared = &*self.shared;
        // SAFETY: only the lifetime changes; the pointer is used by claimed items only, and this function
        // does not return before all items are finished.
        let work: *const Work = unsafe { std::mem::transmute::<*const (dyn Fn(usize, usize) + Sync), _>(work) };
        // SAFETY: no item is claimable and none is unfinished, so no other thread reads the job.
        unsafe { *shared.job.get() = Some(Job { work, items, caller: std::thread::current() }) };
        shared.unfinished.store(items, Ordering::Relaxed);
        let run = (shared.unclaimed.load(Ordering::Relaxed) >> 32).wrapping_add(1);
        shared.unclaimed.store(run << 32 | items as u64, Ordering::Release);
        self.workers.iter().take(items - 1).for_each(|w| w.thread().unpark());
        shared.work(0);
        wait_until(|| shared.unfinished.load(Ordering::Acquire) == 0);
        let panic = shared.panic.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(payload) = panic {
            resume_unwind(payload);
        }
    }

    /// Calls `work(item, own)` as [`run`](Pool::run) does, where `own` is memory of the worker alone: `len` floats of
    /// `scratch`, with what the worker's last item left there.
    ///
    /// # Panics
    /// If `scratch` does not have `len` floats for each thread.
    pub fn run_with_scratch(
        &self,
        items: usize,
        scratch: &mut [f32],
        len: usize,
        work: &(dyn Fn(usize, &mut [f32]) + Sync),
    ) {
        let needed = self.threads() * len;
        assert!(scratch.len() >= needed, "{} floats of scratch and {needed} needed", scratch.len());
        let start = Floats::new(scratch.as_mut_ptr());
        self.run(items, &|item, worker| {
            // SAFETY: a worker's part lies inside, and no two calls with the same worker overlap.
            work(item, unsafe { std::slice::from_raw_parts_mut(start.at(worker * len), len) });
        });
    }

    /// Calls `work(item, part)` for the parts of `len` floats that `data` is cut into, the last one possibly shorter.
    ///
    /// # Panics
    /// If `len` is 0.
    pub fn run_parts(&self, data: &mut [f32], len: usize, work: &(dyn Fn(usize, &mut [f32]) + Sync)) {
        let (start, total) = (Floats::new(data.as_mut_ptr()), data.len());
        self.run(total.div_ceil(len), &|item, _| {
            let first = item * len;
            // SAFETY: the item's own part, inside the slice.
            work(item, unsafe { std::slice::from_raw_parts_mut(start.at(first), len.min(total - first)) });
        });
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        for worker in self.workers.drain(..) {
            worker.thread().unpark();
            // A worker catches the panics of its items, so joining cannot fail.
            let _ = worker.join();
        }
    }
}

impl Shared {
    fn serve(&self, worker: usize) {
        loop {
            let stop = || self.stop.load(Ordering::Acquire);
            wait_until(|| stop() || self.unclaimed.load(Ordering::Relaxed) as u32 > 0);
            if stop() {
                return;
            }
            self.work(worker);
        }
    }

    /// One less item to claim; the number that was left before.
    fn claim(&self) -> Option<usize> {
        let claimed =
            self.unclaimed.fetch_update(Ordering::AcqRel, Ordering::Relaxed, |v| (v as u32 > 0).then(|| v - 1)).ok()?;
        Some(claimed as u32 as usize)
    }

    fn work(&self, worker: usize) {
        while let Some(left) = self.claim() {
            // SAFETY: an item is claimed, so the job is that of its run and stays until the item is finished.
            let job = unsafe { (*self.job.get()).as_ref() };
            let Some(job) = job else { return };
            // SAFETY: the closure lives until `run` returns, which waits for this item.
            let work = unsafe { &*job.work };
            let caller = job.caller.clone();
            let item = job.items - left;
            if let Err(payload) = catch_unwind(AssertUnwindSafe(|| work(item, worker))) {
                *self.panic.lock().unwrap_or_else(PoisonError::into_inner) = Some(payload);
            }
            if self.unfinished.fetch_sub(1, Ordering::AcqRel) == 1 {
                caller.unpark();
            }
        }
    }
}

/// Spins for a short while, then sleeps between wake-ups, until `ready`.
fn wait_until(ready: impl Fn() -> bool) {
    let start = Instant::now();
    loop {
        for _ in 0..32 {
            if ready() {
                return;
            }
            std::hint::spin_loop();
        }
        if start.elapsed() > SPIN {
            break;
        }
    }
    while !ready() {
        std::thread::park();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_item_runs_once_and_workers_never_overlap() {
        for threads in [1, 2, 3, 8] {
            let pool = Pool::new(threads);
            assert_eq!(pool.threads(), threads);
            for items in [0, 1, 2, 3, 100] {
                for _ in 0..50 {
                    let counts: Vec<AtomicUsize> = (0..items).map(|_| AtomicUsize::new(0)).collect();
                    let busy: Vec<AtomicBool> = (0..threads).map(|_| AtomicBool::new(false)).collect();
                    pool.run(items, &|item, worker| {
                        assert!(!busy[worker].swap(true, Ordering::SeqCst));
                        counts[item].fetch_add(1, Ordering::SeqCst);
                        busy[worker].store(false, Ordering::SeqCst);
                    });
                    assert!(counts.iter().all(|c| c.load(Ordering::SeqCst) == 1));
                }
            }
        }
    }

    #[test]
    fn a_panic_is_raised_after_the_other_items_and_the_pool_stays_usable() {
        for threads in [2, 3] {
            let pool = Pool::new(threads);
            let done = AtomicUsize::new(0);
            let result = catch_unwind(AssertUnwindSafe(|| {
                pool.run(20, &|item, _| {
                    assert!(item != 7, "item seven");
                    done.fetch_add(1, Ordering::SeqCst);
                });
            }));
            let payload = result.expect_err("the panic must reach the caller");
            assert!(payload.downcast_ref::<&str>().is_some_and(|m| m.contains("item seven")));
            assert_eq!(done.load(Ordering::SeqCst), 19);
            pool.run(5, &|_, _| {
                done.fetch_add(1, Ordering::SeqCst);
            });
            assert_eq!(done.load(Ordering::SeqCst), 24);
        }
    }

    #[test]
    fn parts_and_scratch_belong_to_one_item_at_a_time() {
        for threads in [1, 2, 3] {
            let pool = Pool::new(threads);
            let (mut data, mut scratch) = (vec![0.0; 1003], vec![0.0; 7 * threads + 2]);
            pool.run_parts(&mut data, 10, &|item, part| part.iter_mut().for_each(|v| *v += 1.0 + item as f32));
            assert!(data.iter().enumerate().all(|(i, v)| *v == 1.0 + (i / 10) as f32));
            pool.run_with_scratch(100, &mut scratch, 7, &|_, own| own.iter_mut().for_each(|v| *v += 1.0));
            for place in 0..7 {
                assert_eq!((0..threads).map(|t| scratch[t * 7 + place]).sum::<f32>(), 100.0);
            }
            assert_eq!(scratch[7 * threads..], [0.0, 0.0]);
        }
    }

    #[test]
    #[should_panic(expected = "13 floats of scratch and 14 needed")]
    fn scratch_for_fewer_workers_is_refused() {
        Pool::new(2).run_with_scratch(1, &mut [0.0; 13], 7, &|_, _| ());
    }

    #[test]
    fn workers_wake_after_sleeping() {
        let pool = Pool::new(3);
        for _ in 0..3 {
            std::thread::sleep(Duration::from_millis(2));
            let sum = AtomicUsize::new(0);
            pool.run(10, &|item, _| {
                std::thread::sleep(Duration::from_micros(100));
                sum.fetch_add(item, Ordering::SeqCst);
            });
            assert_eq!(sum.load(Ordering::SeqCst), 45);
        }
    }
}
