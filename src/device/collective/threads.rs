//! Ranks that are threads of one process: an instrument of tests, which shows what every rank does without a library. Sums
//! run in the order of the ranks.

use std::sync::{Arc, Barrier, Mutex, PoisonError};

use super::{Collective, Ranks};
use crate::Result;

/// One of several threads.
struct Thread {
    index: usize,
    shared: Arc<Shared>,
}

/// What all of them see.
struct Shared {
    barrier: Barrier,
    /// What each rank has brought, as bits.
    brought: Mutex<Vec<Vec<u64>>>,
}

impl Thread {
    /// Every rank's values, once all have brought theirs.
    fn exchange(&self, values: Vec<u64>) -> Vec<Vec<u64>> {
        let lock = || self.shared.brought.lock().unwrap_or_else(PoisonError::into_inner);
        lock()[self.index] = values;
        self.shared.barrier.wait();
        let all = lock().clone();
        // None may bring the next values before all have seen these.
        self.shared.barrier.wait();
        all
    }
}

impl Collective for Thread {
    fn index(&self) -> usize {
        self.index
    }

    fn count(&self) -> usize {
        self.shared.brought.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    fn describe(&self) -> String {
        "threads of one process".into()
    }

    fn sum(&self, values: &mut [f32]) -> Result<()> {
        let all = self.exchange(values.iter().map(|v| u64::from(v.to_bits())).collect());
        for (i, value) in values.iter_mut().enumerate() {
            *value = all.iter().map(|of_rank| f32::from_bits(of_rank[i] as u32)).sum();
        }
        Ok(())
    }

    fn sum_f64(&self, values: &mut [f64]) -> Result<()> {
        let all = self.exchange(values.iter().map(|v| v.to_bits()).collect());
        for (i, value) in values.iter_mut().enumerate() {
            *value = all.iter().map(|of_rank| f64::from_bits(of_rank[i])).sum();
        }
        Ok(())
    }

    fn max(&self, values: &mut [u64]) -> Result<()> {
        let all = self.exchange(values.to_vec());
        for (i, value) in values.iter_mut().enumerate() {
            *value = all.iter().map(|of_rank| of_rank[i]).max().unwrap_or(*value);
        }
        Ok(())
    }

    fn abort(&self, code: u8) {
        std::process::exit(code.into());
    }
}

/// Runs `work` on `count` ranks at once; what each returned, in their order.
///
/// # Panics
/// If `work` panics on a rank.
pub fn together<T: Send>(count: usize, work: impl Fn(Ranks) -> T + Sync) -> Vec<T> {
    let shared = Arc::new(Shared { barrier: Barrier::new(count), brought: Mutex::new(vec![vec![]; count]) });
    std::thread::scope(|scope| {
        let start = |index| {
            let (shared, work) = (shared.clone(), &work);
            scope.spawn(move || work(Ranks::joined(Arc::new(Thread { index, shared }))))
        };
        let threads: Vec<_> = (0..count).map(start).collect();
        threads.into_iter().map(|thread| thread.join().expect("a rank panicked")).collect()
    })
}
