//! Copies of image parts with their zero padding, so that inner loops never test for borders.

use crate::device::cpu::View;

/// A rectangle of pixels, possibly outside of the image, where it is zero.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rect {
    pub y: isize,
    pub x: isize,
    pub rows: usize,
    pub cols: usize,
}

/// Where the pixels of a rectangle are in memory.
#[derive(Clone, Copy)]
pub(super) struct Band {
    pub ptr: *const f32,
    /// Floats from a row to the next.
    pub row: usize,
    /// Floats from a pixel to the next.
    pub pixel: usize,
}

impl Band {
    /// The address of row `y`, column `x` of the rectangle.
    #[inline(always)]
    pub(super) fn at(&self, y: usize, x: usize) -> *const f32 {
        self.ptr.wrapping_add(y * self.row + x * self.pixel)
    }
}

/// Copies a rectangle of image `n` to `to`, `pixel` floats per pixel with zeros after the view's channels.
///
/// # Safety
/// The view's elements are readable; `to` has room for `rect.rows * rect.cols * pixel` floats.
pub(super) unsafe fn copy_rect(view: &View, n: usize, rect: Rect, pixel: usize, to: *mut f32) -> Band {
    let row = rect.cols * pixel;
    let left = rect.x.clamp(-(rect.cols as isize), 0).unsigned_abs();
    let x0 = rect.x.max(0) as usize;
    let inside = view.w().saturating_sub(x0).min(rect.cols - left);
    for y in 0..rect.rows {
        let source_y = rect.y + y as isize;
        // SAFETY: row `y` of the room; source rows and columns were clipped to the image.
        unsafe {
            let to = to.add(y * row);
            if source_y < 0 || source_y >= view.h() as isize {
                to.write_bytes(0, row);
                continue;
            }
            to.write_bytes(0, left * pixel);
            copy_pixels(view.at(n, source_y as usize, x0), view, inside, pixel, to.add(left * pixel));
            let done = (left + inside) * pixel;
            to.add(done).write_bytes(0, row - done);
        }
    }
    Band { ptr: to, row, pixel }
}

/// Copies `count` pixels of `view` from `from`.
///
/// # Safety
/// As for [`copy_rect`].
unsafe fn copy_pixels(from: *const f32, view: &View, count: usize, pixel: usize, to: *mut f32) {
    // SAFETY: the caller's promise.
    unsafe {
        if view.stride() == view.c() && pixel == view.c() {
            std::ptr::copy_nonoverlapping(from, to, count * pixel);
            return;
        }
        for i in 0..count {
            let to = to.add(i * pixel);
            std::ptr::copy_nonoverlapping(from.add(i * view.stride()), to, view.c());
            if view.c() < pixel {
                to.add(view.c()).write_bytes(0, pixel - view.c());
            }
        }
    }
}
