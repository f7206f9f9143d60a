//! Memory that starts at a cache line.

use crate::{Error, Result};

const ALIGN: usize = 64;

/// A zeroed block of floats at a multiple of 64 bytes. Pages that are never touched cost no memory.
#[derive(Debug)]
pub struct Buffer {
    ptr: *mut f32,
    len: usize,
}

// SAFETY: the buffer owns its memory, as a Vec does.
unsafe impl Send for Buffer {}
// SAFETY: shared references only read.
unsafe impl Sync for Buffer {}

impl Buffer {
    /// `len` zeros.
    ///
    /// # Errors
    /// If the system has no such block of memory.
    pub fn zeroed(len: usize) -> Result<Self> {
        let layout = Self::layout(len)?;
        // SAFETY: the layout has a size above zero.
        let ptr = unsafe { std::alloc::alloc_zeroed(layout) }.cast::<f32>();
        if ptr.is_null() {
            return Err(Error::Memory { bytes: 4 * len });
        }
        Ok(Buffer { ptr, len })
    }

    fn layout(len: usize) -> Result<std::alloc::Layout> {
        std::alloc::Layout::from_size_align(len.max(1).saturating_mul(4), ALIGN)
            .map_err(|_| Error::Memory { bytes: usize::MAX })
    }

    /// The first element.
    pub fn ptr(&self) -> *mut f32 {
        self.ptr
    }

    /// Number of floats.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True if it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// All elements.
    pub fn as_slice(&self) -> &[f32] {
        // SAFETY: `len` initialised floats are owned by `self`.
        unsafe { std::slice::from_raw_parts(self.ptr, self.len) }
    }

    /// All elements, writable.
    pub fn as_mut_slice(&mut self) -> &mut [f32] {
        // SAFETY: as above, and `self` is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.ptr, self.len) }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Ok(layout) = Self::layout(self.len) {
            // SAFETY: allocated in `zeroed` with the same layout.
            unsafe { std::alloc::dealloc(self.ptr.cast(), layout) }
        }
    }
}
