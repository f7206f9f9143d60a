//! Times of recorded work, by events on the GPU.

use std::sync::Arc;
use std::time::Duration;

use cudarc::driver::sys::{CUevent, CUevent_flags::CU_EVENT_DEFAULT, CUresult, CUstream};
use cudarc::driver::{CudaContext, CudaEvent, CudaGraph, CudaStream, DriverError};

use crate::Result;
use crate::device::cuda::libraries::Loaded;

/// How often the work is repeated in a graph, so that what launching a graph costs does not count.
pub(super) const REPEATS: usize = 8;

/// Runs of the graph that warm up caches and clocks, then those that are timed.
const WARM_UP: usize = 2;
const RUNS: usize = 4;

/// `cuEventElapsedTime` of cuda.h. The binding's own function is one that drivers before CUDA 12.8 lack.
type Elapsed = unsafe extern "C" fn(*mut f32, CUevent, CUevent) -> CUresult;
/// `cuEventRecordWithFlags` of cuda.h.
type Record = unsafe extern "C" fn(CUevent, CUstream, u32) -> CUresult;
/// `CU_EVENT_RECORD_EXTERNAL`: the event becomes an entry of the graph that is being captured. Without it, it would only
/// be a dependency of what follows.
const EXTERNAL: u32 = 1;

/// A clock of the GPU.
#[derive(Debug)]
pub(super) struct Timer {
    elapsed: Elapsed,
    record: Record,
}

impl Timer {
    /// A clock by the driver's library.
    ///
    /// # Errors
    /// Fails if the driver's library lacks it.
    pub fn new(driver: &Loaded) -> Result<Timer> {
        // SAFETY: the types are those of cuda.h.
        unsafe {
            Ok(Timer {
                elapsed: driver.function("cuEventElapsedTime")?,
                record: driver.function("cuEventRecordWithFlags")?,
            })
        }
    }

    /// Events that can be recorded.
    ///
    /// # Errors
    /// Fails if the GPU reports an error.
    pub fn marks(&self, context: &Arc<CudaContext>, count: usize) -> Result<Vec<CudaEvent>, DriverError> {
        (0..count).map(|_| context.new_event(Some(CU_EVENT_DEFAULT))).collect()
    }

    /// Makes recording `event` an entry of the graph that `stream` is captured for.
    ///
    /// # Errors
    /// Fails if the GPU reports an error.
    pub fn mark(&self, event: &CudaEvent, stream: &CudaStream) -> Result<(), DriverError> {
        // SAFETY: both live.
        unsafe { (self.record)(event.cu_event(), stream.cu_stream(), EXTERNAL) }.result()
    }

    /// The times from each event to the next, all of which are recorded.
    ///
    /// # Errors
    /// Fails if the GPU reports an error.
    pub fn between(&self, events: &[CudaEvent]) -> Result<Vec<Duration>, DriverError> {
        let seconds = |pair: &[CudaEvent]| Ok(f64::from(self.milliseconds(&pair[0], &pair[1])?) / 1e3);
        events.windows(2).map(|pair| seconds(pair).map(Duration::from_secs_f64)).collect()
    }

    fn milliseconds(&self, start: &CudaEvent, end: &CudaEvent) -> Result<f32, DriverError> {
        let mut milliseconds = 0f32;
        // SAFETY: both events live.
        unsafe { (self.elapsed)(&mut milliseconds, start.cu_event(), end.cu_event()) }.result()?;
        // A clock that was set back is no reason to fail.
        Ok(milliseconds.max(0.0))
    }

    /// The time of one repeat in the best run of `graph`.
    ///
    /// # Errors
    /// Fails if the GPU reports an error, also one of the graph's work.
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
            if run >= WARM_UP {
                best = best.min(self.milliseconds(&start, &end)?);
            }
        }
        Ok(Duration::from_secs_f64(f64::from(best) / 1e3 / REPEATS as f64))
    }
}
