//! Times of recorded work, by events on the GPU.

use std::sync::Arc;
use std::time::Duration;

use cudarc::driver::sys::CUevent_flags::CU_EVENT_DEFAULT;
use cudarc::driver::{CudaContext, CudaGraph, CudaStream, DriverError};

/// How often the work is repeated in a graph, so that what launching a graph costs does not count.
pub(super) const REPEATS: usize = 8;

/// Runs of the graph that warm up caches and clocks, then those that are timed.
const WARM_UP: usize = 2;
const RUNS: usize = 4;

/// The time of one repeat in the best run of `graph`.
pub(super) fn best(
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
        let milliseconds = start.elapsed_ms(&end)?;
        if run >= WARM_UP {
            best = best.min(milliseconds);
        }
    }
    Ok(Duration::from_secs_f64(f64::from(best) / 1e3 / REPEATS as f64))
}
