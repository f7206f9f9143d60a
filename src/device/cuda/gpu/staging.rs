//! Uploads through page-locked memory: the caller's slice is free at once, and the copy waits for earlier work on
//! the GPU's side, not on the caller's.

use std::sync::Arc;

use cudarc::driver::result::{free_host, malloc_host, memcpy_htod_async};
use cudarc::driver::{CudaContext, CudaEvent, CudaStream, DriverError};

use super::ring::Ring;

/// Room for a batch of large patches.
const BYTES: usize = 64 << 20;

/// Larger uploads go in pieces, so that copying to the buffer and to the GPU overlap.
const PIECE: usize = 8 << 20;

/// A ring of page-locked memory.
pub(super) struct Staging {
    memory: *mut u8,
    ring: Ring<CudaEvent>,
    /// Events that have been waited for, to be used again.
    free: Vec<CudaEvent>,
    context: Arc<CudaContext>,
}

impl Staging {
    /// Allocates the ring.
    pub fn new(context: &Arc<CudaContext>) -> Result<Staging, DriverError> {
        context.bind_to_thread()?;
        // SAFETY: freed on drop.
        let memory = unsafe { malloc_host(BYTES, 0)? };
        Ok(Staging { memory: memory.cast(), ring: Ring::new(BYTES), free: Vec::new(), context: context.clone() })
    }

    /// Copies to `to` after the stream's earlier work.
    ///
    /// # Safety
    /// `to` has as many bytes.
    pub unsafe fn upload(&mut self, to: u64, bytes: &[u8], stream: &CudaStream) -> Result<(), DriverError> {
        self.context.bind_to_thread()?;
        for (i, piece) in bytes.chunks(PIECE).enumerate() {
            let free = &mut self.free;
            let range = self.ring.reserve(piece.len(), |event| {
                event.synchronize()?;
                free.push(event);
                Ok(())
            })?;
            // SAFETY: the range lies in the ring, and no copy uses it any more; `to` is the caller's.
            unsafe {
                let staged = self.memory.add(range.start);
                std::ptr::copy_nonoverlapping(piece.as_ptr(), staged, piece.len());
                let staged = std::slice::from_raw_parts(staged, piece.len());
                memcpy_htod_async(to + (i * PIECE) as u64, staged, stream.cu_stream())?;
            }
            let done = match self.free.pop() {
                Some(event) => event,
                None => self.context.new_event(None)?,
            };
            done.record(stream)?;
            self.ring.use_until(range, done);
        }
        Ok(())
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        let bound = self.context.bind_to_thread();
        // SAFETY: allocated by `malloc_host`; freeing waits for copies that use it.
        self.context.record_err(bound.and_then(|()| unsafe { free_host(self.memory.cast()) }));
    }
}
