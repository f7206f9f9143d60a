//! What the processor can do at most, measured: multiply-adds in registers, and copies larger than its caches.

use std::hint::black_box;
use std::time::Instant;

use super::simd::{lanes, simd_kernel};
use super::{Buffer, Ctx};
use crate::Result;
use crate::device::Peaks;

/// Sums that do not wait for each other: enough to cover the latency of a multiply-add, few enough for 16
/// registers.
const CHAINS: usize = 12;
/// Multiply-adds of one chain in one item of work: about a fifth of a millisecond.
const ROUNDS: usize = 100_000;
/// Items per thread, and runs, of which the fastest counts.
const ITEMS: usize = 8;
const RUNS: usize = 12;
/// Bytes of the last-level cache where the system does not say.
const USUAL_CACHE: usize = 64 << 20;

simd_kernel! {
    /// `rounds` steps of s ← 0.75 s + 0.5 in every lane of every chain; `result` is the sum of all.
    ///
    /// # Safety
    /// Only where the processor has the instruction set.
    unsafe fn multiply_adds<S>(rounds: usize, result: &mut f32) {
        // SAFETY: the instruction set is there, and no address is used.
        unsafe {
            let (factor, term) = (S::splat(black_box(0.75)), S::splat(black_box(0.5)));
            let mut sums = [S::splat(black_box(1.0)); CHAINS];
            for _ in 0..rounds {
                for sum in &mut sums {
                    *sum = S::fma(*sum, factor, term);
                }
            }
            *result = sums.into_iter().map(|s| S::sum(s)).sum();
        }
    }
}

/// The most that `ctx` can do: the fastest of some runs each.
///
/// # Errors
/// Fails if the memory to copy cannot be had.
pub(crate) fn measure(ctx: &Ctx) -> Result<Peaks> {
    Ok(Peaks { flops: flops(ctx), tf32_flops: None, bf16_flops: None, bandwidth: bandwidth(ctx)? })
}

fn flops(ctx: &Ctx) -> f64 {
    let items = ITEMS * ctx.pool.threads();
    let work = |_: usize, _: usize| {
        let mut sum = 0.0;
        // SAFETY: an `Isa` exists only where the processor has it.
        unsafe { multiply_adds(ctx.isa, ROUNDS, &mut sum) };
        black_box(sum);
    };
    let count = 2 * lanes(ctx.isa) * CHAINS * ROUNDS * items;
    count as f64 / fastest(|| ctx.pool.run(items, &work))
}

/// Each thread copies one contiguous part, as long as the memory of all threads allows.
fn bandwidth(ctx: &Ctx) -> Result<f64> {
    let threads = ctx.pool.threads();
    let part = 2 * last_level_cache().unwrap_or(USUAL_CACHE) / 4 / threads;
    let mut from = Buffer::zeroed(part * threads)?;
    let to = Buffer::zeroed(part * threads)?;
    // Untouched pages would all be one page of zeros.
    from.as_mut_slice().fill(1.0);
    let (source, target) = (from.as_slice(), Address(to.ptr()));
    let copy = |item: usize, _: usize| {
        let own = &source[item * part..(item + 1) * part];
        // SAFETY: parts of a live buffer that do not overlap; nobody reads it.
        unsafe { std::ptr::copy_nonoverlapping(own.as_ptr(), target.at(item * part), part) };
    };
    let bytes = 2 * size_of_val(source);
    Ok(bytes as f64 / fastest(|| ctx.pool.run(threads, &copy)))
}

/// Where the threads copy to.
#[derive(Clone, Copy)]
struct Address(*mut f32);

// SAFETY: an address; each item writes its own part.
unsafe impl Sync for Address {}

impl Address {
    fn at(&self, offset: usize) -> *mut f32 {
        self.0.wrapping_add(offset)
    }
}

/// Seconds of the fastest run.
fn fastest(mut run: impl FnMut()) -> f64 {
    let time = |_| {
        let start = Instant::now();
        run();
        start.elapsed().as_secs_f64()
    };
    (0..RUNS).map(time).fold(f64::INFINITY, f64::min)
}

/// Bytes of the largest cache of the first processor, where the system says.
fn last_level_cache() -> Option<usize> {
    let folder = std::fs::read_dir("/sys/devices/system/cpu/cpu0/cache").ok()?;
    let sizes = folder.filter_map(|entry| {
        let size = std::fs::read_to_string(entry.ok()?.path().join("size")).ok()?;
        size.trim().strip_suffix('K')?.parse::<usize>().ok()
    });
    sizes.max().map(|kib| kib << 10)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::cpu::Isa;

    #[test]
    fn every_multiply_add_is_done_in_every_lane() {
        for isa in Isa::all() {
            for rounds in [0, 1, 7, 100] {
                let mut got = 0.0;
                // SAFETY: the processor has the set.
                unsafe { multiply_adds(isa, rounds, &mut got) };
                let one = (0..rounds).fold(1.0f32, |s, _| s.mul_add(0.75, 0.5));
                let want = (one * (lanes(isa) * CHAINS) as f32, 1e-5);
                assert!((got - want.0).abs() <= want.1 * want.0, "{isa:?}, {rounds}: {got}, not {}", want.0);
            }
        }
    }
}
