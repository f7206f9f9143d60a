//! Views of NHWC tensors, and the sinks that kernels hand their results to.

use super::{Isa, Pool};

/// What a kernel runs on.
#[derive(Clone, Copy)]
pub struct Ctx<'a> {
    /// The compute threads.
    pub pool: &'a Pool,
    /// The instruction set.
    pub isa: Isa,
}

/// A read-only NHWC tensor or a channel slice of one: `c` channels of pixels that are `stride` floats apart.
///
/// Rows are `w * stride` floats apart, images `h * w * stride`. Whoever passes a view to a kernel promises
/// that all of its elements are readable for the length of the call.
#[derive(Clone, Copy, Debug)]
pub struct View {
    /// First channel of the first pixel.
    pub ptr: *const f32,
    /// Images.
    pub n: usize,
    /// Rows.
    pub h: usize,
    /// Columns.
    pub w: usize,
    /// Channels.
    pub c: usize,
    /// Floats from a pixel to the next; at least `c`.
    pub stride: usize,
}

// SAFETY: a view is an address and sizes; whoever uses it promises that the memory behind it is readable.
unsafe impl Send for View {}
// SAFETY: as above.
unsafe impl Sync for View {}

impl View {
    /// A whole tensor of `[n, h, w, c]` values.
    ///
    /// # Panics
    /// If `data` is shorter than the tensor.
    pub fn new(data: &[f32], [n, h, w, c]: [usize; 4]) -> View {
        assert!(data.len() >= n * h * w * c, "a view of {n}x{h}x{w}x{c} needs more than {} values", data.len());
        View { ptr: data.as_ptr(), n, h, w, c, stride: c }
    }

    /// The channels `c0 .. c0 + c`.
    #[must_use]
    pub fn channels(self, c0: usize, c: usize) -> View {
        debug_assert!(c0 + c <= self.c);
        View { ptr: self.ptr.wrapping_add(c0), c, ..self }
    }

    /// The address of a pixel.
    #[inline(always)]
    pub fn at(&self, n: usize, y: usize, x: usize) -> *const f32 {
        self.ptr.wrapping_add(((n * self.h + y) * self.w + x) * self.stride)
    }
}

/// A writable [`View`]: the caller promises in addition that nothing else reads or writes the elements that
/// a kernel or sink owns while it runs.
#[derive(Clone, Copy, Debug)]
pub struct ViewMut {
    /// First channel of the first pixel.
    pub ptr: *mut f32,
    /// Images.
    pub n: usize,
    /// Rows.
    pub h: usize,
    /// Columns.
    pub w: usize,
    /// Channels.
    pub c: usize,
    /// Floats from a pixel to the next; at least `c`.
    pub stride: usize,
}

// SAFETY: an address and sizes, as for `View`.
unsafe impl Send for ViewMut {}
// SAFETY: as above.
unsafe impl Sync for ViewMut {}

impl ViewMut {
    /// A whole tensor of `[n, h, w, c]` values.
    ///
    /// # Panics
    /// If `data` is shorter than the tensor.
    pub fn new(data: &mut [f32], [n, h, w, c]: [usize; 4]) -> ViewMut {
        assert!(data.len() >= n * h * w * c, "a view of {n}x{h}x{w}x{c} needs more than {} values", data.len());
        ViewMut { ptr: data.as_mut_ptr(), n, h, w, c, stride: c }
    }

    /// The channels `c0 .. c0 + c`.
    #[must_use]
    pub fn channels(self, c0: usize, c: usize) -> ViewMut {
        debug_assert!(c0 + c <= self.c);
        ViewMut { ptr: self.ptr.wrapping_add(c0), c, ..self }
    }

    /// The address of a pixel.
    #[inline(always)]
    pub fn at(&self, n: usize, y: usize, x: usize) -> *mut f32 {
        self.ptr.wrapping_add(((n * self.h + y) * self.w + x) * self.stride)
    }

    /// The same elements, read-only.
    pub fn as_view(&self) -> View {
        View { ptr: self.ptr, n: self.n, h: self.h, w: self.w, c: self.c, stride: self.stride }
    }
}

/// Finished values of `pixels` consecutive pixels of one row, for `channels` consecutive channels.
///
/// For [`gemm`](fn@super::gemm) a matrix of m rows and n columns counts as one image row of m pixels with n
/// channels.
#[derive(Clone, Copy, Debug)]
pub struct Tile {
    /// The first value; the sink may overwrite the tile's values, which nobody reads afterwards.
    pub data: *mut f32,
    /// Floats from a pixel of the tile to the next; at least `channels`.
    pub row_stride: usize,
    /// Image.
    pub n: usize,
    /// Row.
    pub y: usize,
    /// First column.
    pub x0: usize,
    /// Number of pixels.
    pub pixels: usize,
    /// First channel.
    pub c0: usize,
    /// Number of channels.
    pub channels: usize,
}

impl Tile {
    /// The values of pixel `x0 + i`.
    ///
    /// # Safety
    /// Only for a tile that a kernel is handing over, inside [`TileSink::store`], one slice at a time.
    #[inline(always)]
    pub unsafe fn pixel<'a>(&self, i: usize) -> &'a mut [f32] {
        debug_assert!(i < self.pixels);
        // SAFETY: the kernel lends `pixels` rows of `channels` values for the length of `store`.
        unsafe { std::slice::from_raw_parts_mut(self.data.add(i * self.row_stride), self.channels) }
    }
}

/// Takes the results of a kernel while they are in cache: applies an epilogue and writes them where it wants.
///
/// A kernel calls `store` from several threads at once, with tiles that do not overlap and that cover each
/// output element exactly once. A tile spans any part of the channels, in no fixed order. The kernel still
/// reads its operands while tiles are stored, so a sink must not write to them (to an operand of the
/// epilogue it may).
pub trait TileSink: Sync {
    /// Takes one tile.
    fn store(&self, tile: &Tile);
}

/// The sink without an epilogue: copies into a tensor.
#[derive(Clone, Copy, Debug)]
pub struct StoreTo(pub ViewMut);

impl TileSink for StoreTo {
    fn store(&self, tile: &Tile) {
        for i in 0..tile.pixels {
            // SAFETY: the kernel lends the tile; the view's owner promises that its elements are writable.
            unsafe {
                let to = self.0.at(tile.n, tile.y, tile.x0 + i).add(tile.c0);
                std::ptr::copy_nonoverlapping(tile.data.add(i * tile.row_stride), to, tile.channels);
            }
        }
    }
}
