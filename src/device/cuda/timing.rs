//! Times of recorded work, by events on the GPU.

use std::sync::Arc;
use std::time::Duration;

use cudarc::driver::sys::{CUevent, CUevent_flags::CU_EVENT_DEFAULT, CUresult};
use cudarc::driver::{CudaContext, CudaGraph, CudaStream, DriverError};

use super::libraries::Loaded;
use crate::Result;

/// How often the work is repeated in a graph, so that what launching a graph costs does not count.
pub(super) const REPEATS: usize = 8;

/// Runs of the graph that warm up caches and clocks, then those that are timed.
const WARM_UP: usize = 2;
const RUNS: usize = 4;

/// `cuEventElapsedTime` of cuda.h. The binding's own function is one that drivers before CUDA 12.8 lack.
type Elapsed = unsafe extern "C" fn(*mut f32, CUevent, CUevent) -> CUresult;

/// A clock of the GPU.
#[derive(Debug)]
pub(super) struct Timer {
    elapsed: Elapsed,
}

impl Timer {
    /// A clock by the driver's library.
    ///
    /// # Errors
    /// The library lacks it.
    pub fn new(driver: &Loaded) -> Result<Timer> {
        // SAFETY: the type is that of cuda.h.
        Ok(Timer { elapsed: unsafe { driver.function("cuEventElapsedTime")? } })
    }

    /// The time of one repeat in the best run of `graph`.
    ///
    /// # Errors
    /// Those of the driver, those of the graph's work included.
    pub fn best(
        &self,
        context: &Arc<CudaContext>,
        stream: &CudaStream,
        graph: &CudaGraph,
    ) -> Result<Duration, DriverError> {
        let [start, end] = [context.new_event(Some(CU_EVENT_DEFAULT))?, context.new_event(Some(CU_EVENT_DEFAULT))?];
        let mut best = f32::INFINITY;
        for run in 0..WARM_UP + RUNS {
            start.record(stream)?;
            graph.launch()?;
            end.record(stream)?;
            end.synchronize()?;
            let mut milliseconds = 0.0;
            // SAFETY: both events live and are recorded.
            unsafe { (self.elapsed)(&mut milliseconds, start.cu_event(), end.cu_event()) }.result()?;
            if run >= WARM_UP {
                best = best.min(milliseconds);
            }
        }
        Ok(Duration::from_secs_f64(f64::from(best) / 1e3 / REPEATS as f64))
    }
}
