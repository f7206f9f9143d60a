//! Views of NHWC tensors: memory with an extent, borrowed for a lifetime.
//!
//! Safe code makes views from slices. Whoever holds bare addresses, as the runtime does, keeps them as [`RawView`] and
//! turns them into views with `from_raw`, whose contract is the only promise about memory: what a view's safe methods
//! hand out follows from it. Writing from several threads stays unsafe, because no type tells which elements an item of
//! work owns.

use std::marker::PhantomData;
use std::ops::Range;

use super::{Isa, Pool};
use crate::types::Shape;

/// What a kernel runs on.
#[derive(Clone, Copy)]
pub struct Ctx<'a> {
    /// The compute threads.
    pub pool: &'a Pool,
    /// The instruction set.
    pub isa: Isa,
}

/// The address of an NHWC tensor or a channel slice of one, its extent (N, H, W, C), and the floats from a pixel to the
/// next. It promises nothing about the memory.
#[derive(Clone, Copy, Debug)]
pub struct RawView {
    ptr: *mut f32,
    n: usize,
    h: usize,
    w: usize,
    c: usize,
    stride: usize,
}

// SAFETY: an address and sizes; no safe method reads or writes what lies there.
unsafe impl Send for RawView {}
// SAFETY: as above.
unsafe impl Sync for RawView {}

impl RawView {
    /// The tensor at `ptr` whose pixels are `stride` floats apart.
    pub fn new(ptr: *mut f32, extent: Shape, stride: usize) -> RawView {
        let [n, h, w, c] = extent.0;
        RawView { ptr, n, h, w, c, stride }
    }

    /// Floats from the first element to the end of the last one; `usize::MAX` where no memory holds so many.
    pub fn span(&self) -> usize {
        if [self.n, self.h, self.w, self.c].contains(&0) {
            return 0;
        }
        let pixels = self.n.checked_mul(self.h).and_then(|rows| rows.checked_mul(self.w));
        let last = pixels.and_then(|pixels| (pixels - 1).checked_mul(self.stride));
        last.and_then(|last| last.checked_add(self.c)).unwrap_or(usize::MAX)
    }
}

/// What both kinds of view say about themselves.
macro_rules! extent_methods {
    () => {
        /// Images.
        #[inline(always)]
        pub fn n(&self) -> usize {
            self.raw.n
        }

        /// Rows.
        #[inline(always)]
        pub fn h(&self) -> usize {
            self.raw.h
        }

        /// Columns.
        #[inline(always)]
        pub fn w(&self) -> usize {
            self.raw.w
        }

        /// Channels.
        #[inline(always)]
        pub fn c(&self) -> usize {
            self.raw.c
        }

        /// Floats from a pixel to the next; rows are `w * stride` floats apart, images `h * w * stride`.
        #[inline(always)]
        pub fn stride(&self) -> usize {
            self.raw.stride
        }

        /// The extent (N, H, W, C).
        pub fn shape(&self) -> Shape {
            Shape([self.raw.n, self.raw.h, self.raw.w, self.raw.c])
        }

        /// Number of pixels.
        #[inline(always)]
        pub fn pixels(&self) -> usize {
            self.raw.n * self.raw.h * self.raw.w
        }

        /// Whether the elements follow each other without gaps.
        #[inline(always)]
        pub fn is_dense(&self) -> bool {
            self.raw.stride == self.raw.c || self.pixels() <= 1
        }

        #[inline(always)]
        fn offset_of(&self, n: usize, y: usize, x: usize) -> usize {
            ((n * self.raw.h + y) * self.raw.w + x) * self.raw.stride
        }

        /// Where pixel `p` starts, counted over images and rows.
        #[inline(always)]
        fn offset_of_pixel(&self, p: usize) -> usize {
            assert!(p < self.pixels(), "pixel {p} of {}", self.pixels());
            p * self.raw.stride
        }
    };
}

/// A read-only tensor or channel slice of one, borrowed for `'a`.
#[repr(transparent)]
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    raw: RawView,
    memory: PhantomData<&'a [f32]>,
}

impl<'a> View<'a> {
    /// A whole tensor of `[n, h, w, c]` values.
    ///
    /// # Panics
    /// If `data` is shorter than the tensor.
    pub fn new(data: &'a [f32], extent: [usize; 4]) -> View<'a> {
        View::strided(data, extent, extent[3])
    }

    /// A tensor of `[n, h, w, c]` values in pixels that are `stride` floats apart, the first at the start of `data`.
    ///
    /// # Panics
    /// If `data` is shorter than the tensor.
    pub fn strided(data: &'a [f32], extent: [usize; 4], stride: usize) -> View<'a> {
        let raw = RawView::new(data.as_ptr().cast_mut(), Shape(extent), stride);
        assert!(data.len() >= raw.span(), "a view of {} needs more than {} values", Shape(extent), data.len());
        View { raw, memory: PhantomData }
    }

    /// The tensor that `raw` describes.
    ///
    /// # Safety
    /// For `'a` all elements of the extent lie in one allocation and hold values, and nothing writes an element while a
    /// slice that holds it, handed out by this view or a copy of it, is alive.
    pub unsafe fn from_raw(raw: RawView) -> View<'a> {
        View { raw, memory: PhantomData }
    }

    /// [`from_raw`](View::from_raw) for each of `raw`.
    ///
    /// # Safety
    /// As for [`from_raw`](View::from_raw).
    pub unsafe fn all_from_raw(raw: &'a [RawView]) -> &'a [View<'a>] {
        // SAFETY: a view is transparent over `RawView`; the caller's promise covers what it adds.
        unsafe { std::slice::from_raw_parts(raw.as_ptr().cast::<View<'a>>(), raw.len()) }
    }

    extent_methods!();

    /// The image `n` alone.
    ///
    /// # Panics
    /// If there is no such image.
    #[must_use]
    pub fn image(self, n: usize) -> View<'a> {
        assert!(n < self.raw.n, "image {n} of {}", self.raw.n);
        let ptr = self.at(n, 0, 0).cast_mut();
        View { raw: RawView { ptr, n: 1, ..self.raw }, ..self }
    }

    /// The address of a pixel.
    #[inline(always)]
    pub fn at(&self, n: usize, y: usize, x: usize) -> *const f32 {
        self.raw.ptr.wrapping_add(self.offset_of(n, y, x))
    }

    /// The channels of pixel `p`, counted over images and rows.
    ///
    /// # Panics
    /// If there is no such pixel.
    #[inline(always)]
    pub fn pixel(&self, p: usize) -> &'a [f32] {
        let offset = self.offset_of_pixel(p);
        // SAFETY: the pixel lies inside, and the maker of the view promised its values for 'a.
        unsafe { std::slice::from_raw_parts(self.raw.ptr.add(offset), self.raw.c) }
    }

    /// The elements of `count` pixels from `first` on.
    ///
    /// # Panics
    /// If there are not that many, or if they have gaps.
    #[inline(always)]
    pub fn run(&self, first: usize, count: usize) -> &'a [f32] {
        let (end, c) = (first + count, self.raw.c);
        assert!(first <= end && end <= self.pixels(), "pixels {first}..{end} of {}", self.pixels());
        assert!(self.raw.stride == c || count <= 1, "a run of pixels with gaps");
        let (offset, len) = (if count == 0 { 0 } else { first * self.raw.stride }, count * c);
        // SAFETY: the pixels lie inside without gaps, and the maker of the view promised their values for 'a.
        unsafe { std::slice::from_raw_parts(self.raw.ptr.add(offset), len) }
    }

    /// All elements of a view without gaps.
    ///
    /// # Panics
    /// If it has gaps.
    #[inline(always)]
    pub fn dense(&self) -> &'a [f32] {
        self.run(0, self.pixels())
    }
}

/// A writable tensor or channel slice of one, borrowed for `'a`. Its owner writes with the methods that take
/// `&mut self`; the items of a parallel run share it and write with the unsafe ones.
#[repr(transparent)]
#[derive(Debug)]
pub struct ViewMut<'a> {
    raw: RawView,
    memory: PhantomData<&'a mut [f32]>,
}

impl<'a> ViewMut<'a> {
    /// A whole tensor of `[n, h, w, c]` values.
    ///
    /// # Panics
    /// If `data` is shorter than the tensor.
    pub fn new(data: &'a mut [f32], extent: [usize; 4]) -> ViewMut<'a> {
        let raw = RawView::new(data.as_mut_ptr(), Shape(extent), extent[3]);
        assert!(data.len() >= raw.span(), "a view of {} needs more than {} values", Shape(extent), data.len());
        ViewMut { raw, memory: PhantomData }
    }

    /// The tensor that `raw` describes.
    ///
    /// # Safety
    /// For `'a` all elements of the extent lie in one allocation and hold values, pixels do not overlap, and only what
    /// is derived from this view reads or writes the elements. A second view of them may be alive if whoever uses the
    /// two has promised not to hold slices of both at once.
    pub unsafe fn from_raw(raw: RawView) -> ViewMut<'a> {
        ViewMut { raw, memory: PhantomData }
    }

    /// [`from_raw`](ViewMut::from_raw) for each of `raw`.
    ///
    /// # Safety
    /// As for [`from_raw`](ViewMut::from_raw), and no two of `raw` overlap.
    pub unsafe fn all_from_raw(raw: &'a mut [RawView]) -> &'a mut [ViewMut<'a>] {
        // SAFETY: a view is transparent over `RawView`; the caller's promise covers what it adds.
        unsafe { std::slice::from_raw_parts_mut(raw.as_mut_ptr().cast::<ViewMut<'a>>(), raw.len()) }
    }

    extent_methods!();

    /// The address of a pixel.
    #[inline(always)]
    pub fn at(&self, n: usize, y: usize, x: usize) -> *mut f32 {
        self.raw.ptr.wrapping_add(self.offset_of(n, y, x))
    }

    /// The same view for a shorter time.
    pub fn reborrow(&mut self) -> ViewMut<'_> {
        ViewMut { raw: self.raw, memory: PhantomData }
    }

    /// The same elements, read-only.
    pub fn as_view(&self) -> View<'_> {
        View { raw: self.raw, memory: PhantomData }
    }

    /// The channels of pixel `p`, counted over images and rows.
    ///
    /// # Panics
    /// If there is no such pixel.
    #[inline(always)]
    pub fn pixel_mut(&mut self, p: usize) -> &mut [f32] {
        // SAFETY: the view is borrowed mutably for the life of the slice.
        unsafe { self.pixel(p) }
    }

    /// All elements of a view without gaps.
    ///
    /// # Panics
    /// If it has gaps.
    pub fn dense_mut(&mut self) -> &mut [f32] {
        let len = self.shape().len();
        // SAFETY: the view is borrowed mutably for the life of the slice.
        unsafe { self.part(0..len) }
    }

    /// The channels of pixel `p`, counted over images and rows, for an item of work that owns some of them.
    ///
    /// # Safety
    /// Nothing else reads or writes the pixel's elements while the slice is alive.
    ///
    /// # Panics
    /// If there is no such pixel.
    #[inline(always)]
    pub unsafe fn pixel(&self, p: usize) -> &'a mut [f32] {
        let offset = self.offset_of_pixel(p);
        // SAFETY: the pixel lies inside; the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.raw.ptr.add(offset), self.raw.c) }
    }

    /// The channels `channels` of pixel `p`, for an item of work that owns these.
    ///
    /// # Safety
    /// Nothing else reads or writes these elements while the slice is alive.
    ///
    /// # Panics
    /// If there are no such channels.
    #[inline(always)]
    pub unsafe fn channels(&self, p: usize, channels: Range<usize>) -> &'a mut [f32] {
        let Range { start, end } = channels;
        assert!(start <= end && end <= self.raw.c, "channels {start}..{end} of {}", self.raw.c);
        let offset = self.offset_of_pixel(p) + start;
        // SAFETY: the channels lie inside; the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.raw.ptr.add(offset), end - start) }
    }

    /// The elements `range` of a view without gaps, for an item of work that owns them.
    ///
    /// # Safety
    /// Nothing else reads or writes these elements while the slice is alive.
    ///
    /// # Panics
    /// If there are not that many, or if the view has gaps.
    #[inline(always)]
    pub unsafe fn part(&self, range: Range<usize>) -> &'a mut [f32] {
        let Range { start, end } = range;
        let len = self.pixels() * self.raw.c;
        assert!(start <= end && end <= len, "elements {start}..{end} of {len}");
        assert!(self.is_dense(), "a part of a view with gaps");
        // SAFETY: the elements lie inside without gaps; the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.raw.ptr.add(start), end - start) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pixels_runs_and_images_are_those_of_the_slice() {
        let data: Vec<f32> = (0..23).map(|i| i as f32).collect();
        // Two images of two pixels of two channels; pixels are six floats apart.
        let view = View::strided(&data[1..], [2, 1, 2, 2], 6);
        assert_eq!([view.pixel(0), view.pixel(3)], [&data[1..3], &data[19..21]]);
        assert_eq!(view.image(1).pixel(0), &data[13..15]);
        assert_eq!((view.image(1).pixels(), view.image(1).is_dense()), (2, false));
        let dense = View::new(&data, [1, 2, 3, 2]);
        assert_eq!((dense.run(2, 3), dense.dense()), (&data[4..10], &data[..12]));
        assert_eq!(dense.run(6, 0), &[] as &[f32]);
    }

    #[test]
    fn one_writer_needs_no_unsafe() {
        let mut data = vec![0.0; 8];
        let mut view = ViewMut::new(&mut data, [1, 2, 2, 2]);
        view.pixel_mut(3).fill(2.0);
        view.dense_mut()[0] = 1.0;
        assert_eq!(view.as_view().dense(), [1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 2.0, 2.0]);
    }

    /// The message that `f` panics with.
    fn panic_of<T>(f: impl FnOnce() -> T) -> String {
        let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| _ = f())).expect_err("it must panic");
        let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default()
    }

    #[test]
    fn what_lies_outside_is_refused() {
        let (data, mut other) = ([0f32; 12], [0f32; 12]);
        let view = View::new(&data, [1, 2, 2, 3]);
        let panics = [
            (panic_of(|| View::new(&data, [1, 2, 2, 4])), "a view of 1x2x2x4 needs more than 12 values"),
            (panic_of(|| View::strided(&data, [1, 1, 2, 4], 9)), "a view of 1x1x2x4 needs more than 12 values"),
            (panic_of(|| ViewMut::new(&mut other, [1, 13, 1, 1])), "a view of 1x13x1x1 needs more than 12 values"),
            (panic_of(|| view.pixel(4)), "pixel 4 of 4"),
            (panic_of(|| view.run(3, 2)), "pixels 3..5 of 4"),
            (panic_of(|| view.image(1)), "image 1 of 1"),
            (panic_of(|| View::strided(&data, [1, 2, 2, 2], 3).dense()), "a run of pixels with gaps"),
        ];
        panics.iter().for_each(|(message, want)| assert!(message.contains(want), "{message:?} instead of {want:?}"));
        let mut view = ViewMut::new(&mut other, [1, 2, 2, 3]);
        // SAFETY: no slice is made.
        let (part, channels) = unsafe { (panic_of(|| view.part(3..13)), panic_of(|| view.channels(0, 1..4))) };
        assert!(part.contains("elements 3..13 of 12") && channels.contains("channels 1..4 of 3"), "{part} {channels}");
        assert!(panic_of(|| view.pixel_mut(4).fill(0.0)).contains("pixel 4 of 4"));
    }
}
