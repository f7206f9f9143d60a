//! Memory that starts at a page.

use memmap2::MmapMut;

use crate::{Error, Result};

/// A zeroed block of floats. Pages that are never touched cost no memory.
#[derive(Debug)]
pub struct Buffer {
    /// Keeps the memory; all access goes through `ptr`.
    _map: MmapMut,
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
    /// Fails ([`Error::Memory`]) if the system has no such block of memory.
    pub fn zeroed(len: usize) -> Result<Self> {
        let bytes = len.max(1).saturating_mul(4);
        let mut map = MmapMut::map_anon(bytes).map_err(|_| Error::Memory { bytes })?;
        let ptr = map.as_mut_ptr().cast::<f32>();
        Ok(Buffer { _map: map, ptr, len })
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
        // SAFETY: `len` initialised floats are owned by `self`; a mapping starts at a page.
        unsafe { std::slice::from_raw_parts(self.ptr, self.len) }
    }

    /// All elements, writable.
    pub fn as_mut_slice(&mut self) -> &mut [f32] {
        // SAFETY: as above, and `self` is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.ptr, self.len) }
    }
}
