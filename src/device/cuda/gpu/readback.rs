//! Reads that are collected later: copies into page-locked memory, each followed by an event that says when it is
//! done. Memory and events are kept and used again, so that a steady flow of reads allocates nothing.

use std::sync::Arc;

use cudarc::driver::result::{free_host, malloc_host, memcpy_dtoh_async};
use cudarc::driver::{CudaContext, CudaEvent, CudaStream, DriverError};

/// Host memory that the GPU copies to.
enum Memory {
    PageLocked(*mut u8),
    /// Where the system gives no page-locked memory: the driver then copies before the call returns.
    Pageable(Box<[u8]>),
}

struct Slot {
    memory: Memory,
    capacity: usize,
    /// Bytes of the read that the slot is in use for.
    reading: Option<usize>,
    done: CudaEvent,
}

/// Memory for the reads that are not collected yet.
pub(super) struct Readback {
    slots: Vec<Slot>,
    context: Arc<CudaContext>,
}

impl Readback {
    pub fn new(context: &Arc<CudaContext>) -> Readback {
        Readback { slots: Vec::new(), context: context.clone() }
    }

    /// Starts a copy of `bytes` bytes after the stream's earlier work. The answer is for [`Readback::finish`].
    ///
    /// # Safety
    /// `from` has as many bytes.
    pub unsafe fn start(&mut self, from: u64, bytes: usize, stream: &CudaStream) -> Result<usize, DriverError> {
        self.context.bind_to_thread()?;
        let index = self.free_slot(bytes)?;
        let slot = &mut self.slots[index];
        // In use from here on, also if what follows fails: a copy may be under way.
        slot.reading = Some(bytes);
        if bytes > 0 {
            // SAFETY: the slot has room for as many bytes and is not freed before the copy is done.
            unsafe { memcpy_dtoh_async(&mut slot.bytes_mut()[..bytes], from, stream.cu_stream())? };
        }
        slot.done.record(stream)?;
        Ok(index)
    }

    /// Waits for a read and takes what it has brought; `None` if there is no such read of as many bytes.
    pub fn finish(&mut self, index: usize, bytes: &mut [u8]) -> Result<Option<()>, DriverError> {
        let slot = self.slots.get_mut(index).filter(|slot| slot.reading == Some(bytes.len()));
        let Some(slot) = slot else { return Ok(None) };
        slot.done.synchronize()?;
        bytes.copy_from_slice(&slot.bytes_mut()[..bytes.len()]);
        slot.reading = None;
        Ok(Some(()))
    }

    /// The smallest free slot with room, or a new one.
    fn free_slot(&mut self, bytes: usize) -> Result<usize, DriverError> {
        let fits = |slot: &Slot| slot.reading.is_none() && slot.capacity >= bytes;
        let free = self.slots.iter().enumerate().filter(|(_, slot)| fits(slot));
        if let Some((index, _)) = free.min_by_key(|(_, slot)| slot.capacity) {
            return Ok(index);
        }
        let (capacity, done) = (bytes.max(1), self.context.new_event(None)?);
        // SAFETY: freed on drop.
        let memory = match unsafe { malloc_host(capacity, 0) } {
            Ok(memory) => {
                let memory = memory.cast::<u8>();
                // SAFETY: as many bytes; references to them need them initialised.
                unsafe { memory.write_bytes(0, capacity) };
                Memory::PageLocked(memory)
            }
            Err(_) => Memory::Pageable(vec![0; capacity].into()),
        };
        self.slots.push(Slot { memory, capacity, reading: None, done });
        Ok(self.slots.len() - 1)
    }
}

impl Slot {
    fn bytes_mut(&mut self) -> &mut [u8] {
        match &mut self.memory {
            // SAFETY: `capacity` bytes that are the slot's.
            Memory::PageLocked(memory) => unsafe { std::slice::from_raw_parts_mut(*memory, self.capacity) },
            Memory::Pageable(memory) => memory,
        }
    }
}

impl Drop for Readback {
    fn drop(&mut self) {
        for slot in &self.slots {
            if let Memory::PageLocked(memory) = slot.memory {
                let bound = self.context.bind_to_thread();
                // SAFETY: allocated by `malloc_host`; the driver has waited for what copies to it.
                self.context.record_err(bound.and_then(|()| unsafe { free_host(memory.cast()) }));
            }
        }
    }
}
