//! What the device can do at most, measured by the kernels of `kernels/peak.cu` and, for products of matrices, by those of
//! cuBLASLt too: `mma.sync` does not reach the rate of Hopper's tensor cores.

#[cfg(test)]
mod tests;

use std::time::Duration;

use super::fill::Region;
use super::prepare;
use crate::device::Peaks;
use crate::device::cuda::compile::module::module;
use crate::device::cuda::driver::{DevicePtr, Driver, Launch, ModuleSource, Work};
use crate::device::cuda::launch::args::Args;
use crate::device::cuda::launch::library::{Factor, Layout, LibraryCall, LibraryLaunch, LibraryOp, Product};
use crate::device::cuda::launch::{KernelLaunch, THREADS};
use crate::types::{Element, Precision};
use crate::{Error, Result};

/// Chains of a thread in the arithmetic kernels.
const CHAINS: usize = 8;
/// Operations of one tensor-core instruction for each of a warp's 32 threads, by precision: 2·16·8·K / 32.
const TF32_OPERATIONS: usize = 2 * 16 * 8 * 8 / 32;
const BF16_OPERATIONS: usize = 2 * 16 * 8 * 16 / 32;
/// Measured runs after one that warms up; the best one counts.
const RUNS: usize = 5;
/// Blocks of a sweep, at most.
const SWEEP_BLOCKS: usize = 512;

/// How much work a measurement is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Size {
    /// Floats that are copied: more than the second-level cache holds. The factors of a product of matrices lie there too.
    pub floats: usize,
    /// Blocks of the arithmetic kernels.
    pub blocks: usize,
    /// Their steps.
    pub steps: usize,
    /// Side of the square matrices that cuBLASLt multiplies: their squares fit into half of the floats.
    pub side: usize,
}

impl Size {
    /// About a millisecond of each kind on a large GPU, in so many blocks that the last ones do not count.
    pub const GPU: Size = Size { floats: 1 << 27, blocks: 1 << 14, steps: 1 << 10, side: 1 << 13 };

    /// The same in half of the memory, with matrices of whole tiles.
    fn halved(self) -> Size {
        Size { floats: self.floats / 2, side: (self.floats / 4).isqrt() / 256 * 256, ..self }
    }

    /// The fewest floats: four times the cache, and as many as the arithmetic kernels have results. All where no cache is
    /// known.
    fn least_floats(&self, cache_bytes: usize) -> usize {
        match cache_bytes {
            0 => self.floats,
            bytes => (4 * bytes / size_of::<f32>()).max(self.blocks * THREADS),
        }
    }
}

/// Measures multiply-adds, products of matrices and a copy, in less memory where there is not enough for `size`.
///
/// # Errors
/// Fails if there is no memory for the smallest size, or the GPU reports an error.
pub(super) fn measure(driver: &mut dyn Driver, size: Size) -> Result<Peaks> {
    let least = size.least_floats(driver.cache_bytes());
    let (buffers, size) = allocate(size, least, |floats| two_buffers(driver, floats))?;
    let peaks = measure_in(driver, buffers, &size);
    // SAFETY: what used the buffers has been waited for.
    buffers.iter().for_each(|ptr| unsafe { driver.free(*ptr) });
    peaks
}

/// What `buffers` gives for the floats of `size`, or of the half of it and so on, but at least `least`.
fn allocate<T>(mut size: Size, least: usize, mut buffers: impl FnMut(usize) -> Result<T>) -> Result<(T, Size)> {
    loop {
        match buffers(size.floats) {
            Ok(buffers) => return Ok((buffers, size)),
            Err(Error::Memory { .. } | Error::DeviceMemory { .. }) if size.halved().floats >= least => {
                size = size.halved();
            }
            Err(error) => return Err(error),
        }
    }
}

fn two_buffers(driver: &mut dyn Driver, floats: usize) -> Result<[DevicePtr; 2]> {
    let first = driver.alloc(floats * 4)?;
    match driver.alloc(floats * 4) {
        Ok(second) => Ok([first, second]),
        Err(error) => {
            // SAFETY: nothing has used it.
            unsafe { driver.free(first) };
            Err(error)
        }
    }
}

fn measure_in(driver: &mut dyn Driver, buffers: [DevicePtr; 2], size: &Size) -> Result<Peaks> {
    fill(driver, buffers[0], size.floats)?;
    let [sums, tf32, bf16, copy] = kernels(buffers, size);
    let runs = size.blocks * THREADS * size.steps * CHAINS;
    let mut rate = |kernel: &KernelLaunch, work: usize| -> Result<f64> {
        let work_of_kernel = [Work::Kernel(prepare(driver, kernel, "peak")?)];
        Ok(work as f64 / seconds(driver, &work_of_kernel)?)
    };
    let (flops, bandwidth) = (rate(&sums, 2 * runs)?, rate(&copy, 2 * size.floats * 4)?);
    let (tf32, bf16) = (rate(&tf32, TF32_OPERATIONS * runs)?, rate(&bf16, BF16_OPERATIONS * runs)?);
    let by_library = |driver: &mut dyn Driver, precision| library_rate(driver, buffers, size.side, precision);
    Ok(Peaks {
        flops,
        tf32_flops: Some(tf32.max(by_library(driver, Precision::Tf32)?)),
        bf16_flops: Some(bf16.max(by_library(driver, Precision::Bf16)?)),
        bandwidth,
    })
}

/// Fills floats with random ones, also as pairs of bf16. What is multiplied decides how much power a product takes, and a
/// GPU slows down where that is too much.
fn fill(driver: &mut dyn Driver, base: DevicePtr, floats: usize) -> Result<()> {
    let launch = prepare(driver, &Region { base, words: (0, floats) }.kernel(), "peak")?;
    // SAFETY: within the caller's floats.
    unsafe { driver.launch(&launch) }
}

/// Sums, products of matrices in tf32 and in bf16, and the copy from the first buffer to the second.
fn kernels([from, to]: [DevicePtr; 2], size: &Size) -> [KernelLaunch; 4] {
    let args = || Args::new().pointer("to", "float", to).size("steps", size.steps).fixed("CHAINS", CHAINS);
    let matrices = |bf16| {
        KernelLaunch::new("peak", "peak_multiply_matrices", size.blocks, args().fixed("BF16", usize::from(bf16)))
    };
    let copy = Args::new().pointer("from", "const float4", from).pointer("to", "float4", to);
    [
        KernelLaunch::new("peak", "peak_multiply_add", size.blocks, args()),
        matrices(false),
        matrices(true),
        KernelLaunch::over("peak", "peak_copy", size.floats / 4, copy),
    ]
}

/// Reads `bytes` bytes at `from`, and writes a float for each of [`sweep_threads`] to `to`.
fn sweep_kernel(from: DevicePtr, bytes: usize, to: DevicePtr) -> KernelLaunch {
    let threads = sweep_threads(bytes);
    let args = Args::new().pointer("from", "const float4", from).pointer("to", "float", to);
    let args = args.size("items", bytes / 16).size("threads", threads);
    KernelLaunch::new("peak", "peak_sweep", threads / THREADS, args)
}

/// Threads of a sweep over so many bytes: whole blocks.
fn sweep_threads(bytes: usize) -> usize {
    (bytes / 16).div_ceil(THREADS).clamp(1, SWEEP_BLOCKS) * THREADS
}

/// A launch after which the device's cache holds nothing of what lay there, with memory of its own.
///
/// # Errors
/// Fails if there is no memory for it, or its kernel does not compile.
pub(super) fn sweep(driver: &mut dyn Driver) -> Result<Launch> {
    // Twice the cache: it does not always drop what is oldest.
    let bytes = (2 * driver.cache_bytes()).next_multiple_of(16);
    let (from, to) = (driver.alloc(bytes)?, driver.alloc(sweep_threads(bytes) * 4)?);
    prepare(driver, &sweep_kernel(from, bytes, to), "sweep")
}

/// The modules of measurements, for checks that run no kernel.
pub fn peak_modules() -> Vec<ModuleSource> {
    let somewhere = DevicePtr(1 << 20);
    let kernels = kernels([somewhere; 2], &Size::GPU).into_iter().chain([sweep_kernel(somewhere, 1 << 20, somewhere)]);
    kernels.map(|kernel| module(&kernel, true).0).collect()
}

/// The best rate of a library's algorithms, 0 without a library.
fn library_rate(driver: &mut dyn Driver, buffers: [DevicePtr; 2], side: usize, precision: Precision) -> Result<f64> {
    let element = if precision == Precision::Bf16 { Element::Bf16 } else { Element::F32 };
    let layout = Layout { element, stride: side, align: 16 };
    let factor = Factor { layout, inner_in_row: true };
    let (lhs, rhs, output) = (factor, factor, layout);
    let op = LibraryOp::Product(Product { rows: side, columns: side, inner: side, lhs, rhs, output, precision });
    let operands = [buffers[0], buffers[0].offset_by(side * side * element.size()), buffers[1]];
    let mut best = 0f64;
    for algorithm in driver.algorithms(&op) {
        let call =
            LibraryLaunch { call: LibraryCall { op, operands }, algorithm: algorithm.into(), path: "peak".into() };
        match seconds(driver, &[Work::Library(call)]) {
            Ok(seconds) => best = best.max(2.0 * (side as f64).powi(3) / seconds),
            // One that fails has no rate.
            Err(Error::Device { .. } | Error::DeviceMemory { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(best)
}

/// The shortest time of work.
fn seconds(driver: &mut dyn Driver, work: &[Work]) -> Result<f64> {
    // SAFETY: kernels and calls with their own arguments, in memory that `measure` holds.
    let times = unsafe { driver.run_timed(&[work; RUNS + 1])? };
    Ok(times[1..].iter().min().map_or(f64::INFINITY, Duration::as_secs_f64))
}
