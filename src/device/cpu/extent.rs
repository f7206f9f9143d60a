//! Views as slices and extents, for ops.

use super::{View, ViewMut};
use crate::types::Shape;

impl View {
    /// The extent.
    pub fn shape(&self) -> Shape {
        Shape([self.n, self.h, self.w, self.c])
    }

    /// Number of pixels.
    pub fn pixels(&self) -> usize {
        self.n * self.h * self.w
    }

    /// All elements of a view without gaps.
    ///
    /// # Safety
    /// The elements are readable and not written for the life of the slice.
    pub unsafe fn dense<'a>(&self) -> &'a [f32] {
        debug_assert!(self.stride == self.c || self.pixels() == 1);
        // SAFETY: the caller's promise.
        unsafe { std::slice::from_raw_parts(self.ptr, self.pixels() * self.c) }
    }

    /// The channels of pixel `p`, counted over images and rows.
    ///
    /// # Safety
    /// As for [`View::dense`]; `p` lies inside.
    #[inline(always)]
    pub unsafe fn pixel<'a>(&self, p: usize) -> &'a [f32] {
        // SAFETY: the caller's promise.
        unsafe { std::slice::from_raw_parts(self.ptr.add(p * self.stride), self.c) }
    }
}

impl ViewMut {
    /// The extent.
    pub fn shape(&self) -> Shape {
        Shape([self.n, self.h, self.w, self.c])
    }

    /// Number of pixels.
    pub fn pixels(&self) -> usize {
        self.n * self.h * self.w
    }

    /// All elements of a view without gaps.
    ///
    /// # Safety
    /// The caller alone reads and writes the elements for the life of the slice.
    pub unsafe fn dense<'a>(&self) -> &'a mut [f32] {
        debug_assert!(self.stride == self.c || self.pixels() == 1);
        // SAFETY: the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.ptr, self.pixels() * self.c) }
    }

    /// The channels of pixel `p`, counted over images and rows.
    ///
    /// # Safety
    /// As for [`ViewMut::dense`]; `p` lies inside.
    #[inline(always)]
    pub unsafe fn pixel<'a>(&self, p: usize) -> &'a mut [f32] {
        // SAFETY: the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.add(p * self.stride), self.c) }
    }
}
