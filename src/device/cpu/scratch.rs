//! Cutting a caller's scratch memory into aligned parts.

/// Floats in a cache line.
const LINE: usize = 16;

/// A pointer that the items of a run share; each touches only its own part.
#[derive(Clone, Copy)]
pub(crate) struct Shared(*mut f32);

// SAFETY: an address; items access disjoint parts, or only read.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    pub(crate) fn new(ptr: *mut f32) -> Shared {
        Shared(ptr)
    }

    /// The address `offset` floats further.
    #[inline(always)]
    pub(crate) fn at(self, offset: usize) -> *mut f32 {
        self.0.wrapping_add(offset)
    }
}

/// `len` rounded up to whole cache lines.
pub(crate) fn whole_lines(len: usize) -> usize {
    len.next_multiple_of(LINE)
}

/// Scratch memory that holds parts of these lengths, each on its own cache lines.
pub(crate) fn total<const N: usize>(parts: [usize; N]) -> usize {
    parts.into_iter().map(whole_lines).sum::<usize>() + LINE
}

/// Cuts `scratch` into parts of these lengths, each starting on a cache line.
///
/// # Panics
/// If `scratch` is shorter than [`total`].
pub(crate) fn carve<const N: usize>(scratch: &mut [f32], parts: [usize; N]) -> [Shared; N] {
    let need = total(parts);
    assert!(scratch.len() >= need, "a kernel got {} floats of scratch and needs {need}", scratch.len());
    let start = scratch.as_mut_ptr();
    let mut offset = start.align_offset(LINE * size_of::<f32>()).min(LINE);
    parts.map(|len| {
        let part = Shared(start.wrapping_add(offset));
        offset += whole_lines(len);
        part
    })
}
