//! What the device can do at most, measured by two kernels of `kernels/peak.cu`.

use std::time::Instant;

use super::args::Args;
use super::driver::{DevicePtr, Driver, ModuleSource};
use super::exec::prepare;
use super::launch::{KernelLaunch, THREADS};
use super::module::module;
use crate::Result;
use crate::device::Peaks;

/// Floats that are copied: more than the second-level cache of any GPU holds.
const COPY_FLOATS: usize = 1 << 27;
/// Blocks of the arithmetic kernel, its steps, and multiply-adds of a thread in a step.
const BLOCKS: usize = 2112;
const STEPS: usize = 1 << 14;
const CHAINS: usize = 8;
/// Measured runs; the best one counts.
const RUNS: usize = 5;

/// Measures multiply-adds in registers and a copy.
///
/// # Errors
/// Those of the driver.
pub(super) fn measure(driver: &mut dyn Driver) -> Result<Peaks> {
    let buffers = [driver.alloc(COPY_FLOATS * 4)?, driver.alloc(COPY_FLOATS * 4)?];
    let [sums, copy] = kernels(buffers);
    let operations = (2 * BLOCKS * THREADS * STEPS * CHAINS) as f64;
    let peaks = seconds(driver, &sums).and_then(|flops| {
        let copied = (2 * COPY_FLOATS * 4) as f64;
        Ok(Peaks { flops: operations / flops, bandwidth: copied / seconds(driver, &copy)? })
    });
    // SAFETY: what used the buffers has been waited for.
    buffers.iter().for_each(|buffer| unsafe { driver.free(*buffer) });
    peaks
}

/// The arithmetic, and the copy from the first buffer to the second.
fn kernels([from, to]: [DevicePtr; 2]) -> [KernelLaunch; 2] {
    let sums = Args::new().pointer("to", "float", to).size("steps", STEPS).fixed("CHAINS", CHAINS);
    let copy = Args::new().pointer("from", "const float4", from).pointer("to", "float4", to);
    [
        KernelLaunch::new("peak", "peak_multiply_add", BLOCKS, sums),
        KernelLaunch::over("peak", "peak_copy", COPY_FLOATS / 4, copy),
    ]
}

/// The modules of the measurement, for checks that run no kernel.
pub fn peak_modules() -> [ModuleSource; 2] {
    kernels([DevicePtr(1 << 20); 2]).map(|kernel| module(&kernel, true).0)
}

/// The shortest time of a kernel.
fn seconds(driver: &mut dyn Driver, kernel: &KernelLaunch) -> Result<f64> {
    let launch = prepare(driver, kernel, "peak")?;
    let mut best = f64::INFINITY;
    for _ in 0..RUNS {
        let start = Instant::now();
        // SAFETY: the kernel's own arguments, in memory that `measure` holds.
        unsafe { driver.launch(&launch)? };
        driver.synchronize()?;
        best = best.min(start.elapsed().as_secs_f64());
    }
    Ok(best)
}
