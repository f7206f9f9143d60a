//! A GPU's work: what is put into its stream, and graphs of it.

use std::ffi::c_void;
use std::time::Duration;

use cudarc::driver::result::launch_kernel;
use cudarc::driver::sys::{CUfunction_attribute as Attribute, CUgraphInstantiate_flags, CUstreamCaptureMode};
use cudarc::driver::{CudaEvent, CudaGraph};

use super::failure::failure;
use super::{GpuDriver, unknown};
use crate::Result;
use crate::device::cuda::driver::{Driver, Launch, Work};
use crate::device::cuda::launch::library::LibraryLaunch;

impl GpuDriver {
    /// Allows a kernel the shared memory of a launch: beyond 48 KiB a kernel has to ask.
    pub(super) fn allow_shared(&mut self, launch: &Launch) -> Result<()> {
        let wanted = launch.geometry.shared_bytes;
        let function = self.functions.get_mut(launch.function.0).ok_or_else(|| unknown("kernel", launch.function.0))?;
        if wanted > function.shared_limit {
            let attribute = Attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            let set = function.function.set_attribute(attribute, wanted as i32);
            set.map_err(|e| failure(&title(&function.name, launch), e))?;
            function.shared_limit = wanted;
        }
        Ok(())
    }

    /// Puts a launch into the stream.
    ///
    /// # Safety
    /// As for [`Driver::launch`].
    pub(super) unsafe fn enqueue(&self, launch: &Launch) -> Result<()> {
        let function = self.functions.get(launch.function.0).ok_or_else(|| unknown("kernel", launch.function.0))?;
        let ([gx, gy, gz], [bx, by, bz]) = (launch.geometry.grid, launch.geometry.block);
        let args = self.encoder.encoded(&launch.args).map_err(|e| failure(&title(&function.name, launch), e))?;
        // The driver copies the arguments before it returns, and does not write to them.
        let mut arguments = [args.as_ptr().cast_mut().cast::<c_void>()];
        // SAFETY: the module lives as long as `self`; the arguments are the caller's.
        unsafe {
            launch_kernel(
                function.function.cu_function(),
                (gx, gy, gz),
                (bx, by, bz),
                launch.geometry.shared_bytes,
                self.stream.cu_stream(),
                &mut arguments,
            )
        }
        .map_err(|e| failure(&title(&function.name, launch), e))
    }

    /// Makes a graph of work; none of no work. Whatever allocates or compiles is done before the capture.
    ///
    /// # Safety
    /// As for [`Driver::record`].
    pub(super) unsafe fn capture(&mut self, work: &[Work]) -> Result<Option<CudaGraph>> {
        if work.is_empty() {
            return Ok(None);
        }
        // SAFETY: the caller's.
        unsafe { self.capture_parts(&[work], &[]) }
    }

    /// Makes a graph of parts of work, which notes in event `i` when it comes to part `i`, in one more when it ends.
    ///
    /// # Safety
    /// As for [`Driver::record`]; the events live as long as the graph.
    pub(super) unsafe fn capture_parts(&mut self, parts: &[&[Work]], marks: &[CudaEvent]) -> Result<Option<CudaGraph>> {
        self.bind()?;
        for entry in parts.iter().copied().flatten() {
            match entry {
                Work::Kernel(launch) => self.allow_shared(launch)?,
                // SAFETY: the caller's.
                Work::Library(launch) => unsafe { self.warm_up(launch)? },
            }
        }
        let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        self.stream.begin_capture(mode).map_err(|e| failure("recording work", e))?;
        // SAFETY: the caller's.
        let queued = unsafe { self.enqueue_parts(parts, marks) };
        // The capture ends also after a failure, whose message says more than that of the unfinished graph.
        let ended = self.stream.end_capture(CUgraphInstantiate_flags(0));
        queued?;
        ended.map_err(|e| failure("making a graph of work", e))
    }

    /// Puts parts of work into the stream, which is being captured, with events before, between and behind them.
    ///
    /// # Safety
    /// As for [`Driver::start`].
    unsafe fn enqueue_parts(&mut self, parts: &[&[Work]], marks: &[CudaEvent]) -> Result<()> {
        for i in 0..=parts.len() {
            if let Some(mark) = marks.get(i) {
                self.timer.mark(mark, &self.stream).map_err(|e| failure("recording an event", e))?;
            }
            for entry in parts.get(i).copied().unwrap_or_default() {
                // SAFETY: the caller's.
                unsafe { self.enqueue_any(entry)? };
            }
        }
        Ok(())
    }

    /// Runs a graph of parts of work, and says how long each took.
    ///
    /// # Safety
    /// As for [`Driver::record`].
    pub(super) unsafe fn time_parts(&mut self, parts: &[&[Work]]) -> Result<Vec<Duration>> {
        let failed = |e| failure("timing work", e);
        let marks = self.timer.marks(&self.context, parts.len() + 1).map_err(failed)?;
        // SAFETY: the caller's.
        let graph = unsafe { self.capture_parts(parts, &marks)? };
        graph.as_ref().map_or(Ok(()), CudaGraph::launch).map_err(failed)?;
        // Graph and events live until all is done.
        self.synchronize()?;
        self.timer.between(&marks).map_err(failed)
    }

    /// Makes a library's call ready and makes it once: libraries load their kernels when they are first called, which
    /// a capture does not allow.
    ///
    /// # Safety
    /// As for [`Driver::call`].
    pub(super) unsafe fn warm_up(&mut self, launch: &LibraryLaunch) -> Result<()> {
        let key = (launch.call.op, launch.algorithm.clone());
        if self.warm.contains(&key) {
            return Ok(());
        }
        // SAFETY: the caller's.
        unsafe { self.call(launch)? };
        self.synchronize()?;
        self.warm.insert(key);
        Ok(())
    }

    /// Puts a kernel or a library's call into the stream.
    ///
    /// # Safety
    /// As for [`Driver::start`].
    pub(super) unsafe fn enqueue_any(&mut self, work: &Work) -> Result<()> {
        // SAFETY: the caller's.
        unsafe {
            match work {
                Work::Kernel(launch) => self.enqueue(launch),
                Work::Library(launch) => self.math.call(launch),
            }
        }
    }
}

/// A launch, in messages.
pub(super) fn title(kernel: &str, launch: &Launch) -> String {
    let (grid, block, shared) = (launch.geometry.grid, launch.geometry.block, launch.geometry.shared_bytes);
    format!("kernel {kernel} of {} (grid {grid:?}, block {block:?}, {shared} bytes of shared memory)", launch.path)
}
