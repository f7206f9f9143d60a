//! Tiles of finished values, and the sinks that kernels hand them to.

use std::marker::PhantomData;

use super::ViewMut;

/// Where a tile lies in the output: `pixels` consecutive pixels of one row, `channels` consecutive channels.
///
/// For [`gemm`](fn@super::gemm) a matrix of m rows and n columns counts as one image row of m pixels with n channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
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

/// Finished values that a kernel lends to a sink, which may overwrite them: nobody reads them afterwards.
#[derive(Debug)]
pub struct Tile<'a> {
    data: *mut f32,
    row_stride: usize,
    place: Place,
    memory: PhantomData<&'a mut [f32]>,
}

impl<'a> Tile<'a> {
    /// A tile of the values at the start of `data`, without gaps.
    ///
    /// # Panics
    /// If `data` is shorter than the tile.
    pub fn new(data: &'a mut [f32], place: Place) -> Tile<'a> {
        let (len, floats) = (place.pixels.saturating_mul(place.channels), data.len());
        assert!(floats >= len, "a tile of {len} values needs more than {floats}");
        Tile { data: data.as_mut_ptr(), row_stride: place.channels, place, memory: PhantomData }
    }

    /// The tile whose pixel `i` has its `channels` values at `data + i * row_stride`.
    ///
    /// # Safety
    /// For `'a` these elements lie in one allocation and hold values, pixels do not overlap, and only what is derived
    /// from this tile reads or writes the elements.
    #[inline(always)]
    pub unsafe fn from_raw(data: *mut f32, row_stride: usize, place: Place) -> Tile<'a> {
        Tile { data, row_stride, place, memory: PhantomData }
    }

    /// Where it lies in the output.
    #[inline(always)]
    pub fn place(&self) -> Place {
        self.place
    }

    /// Pixel `i` as a tile of its own, at another place of as many channels.
    ///
    /// # Panics
    /// If there is no such pixel.
    pub fn pixel_at(&mut self, i: usize, place: Place) -> Tile<'_> {
        assert!(place.pixels == 1, "{place:?} has more than a pixel");
        Tile::new(self.pixel_mut(i), place)
    }

    /// The values of pixel `x0 + i`.
    ///
    /// # Panics
    /// If there is no such pixel.
    #[inline(always)]
    pub fn pixel_mut(&mut self, i: usize) -> &mut [f32] {
        assert!(i < self.place.pixels, "pixel {i} of a tile of {}", self.place.pixels);
        // SAFETY: the pixel lies inside, and the tile is borrowed mutably for the life of the slice.
        unsafe { std::slice::from_raw_parts_mut(self.data.add(i * self.row_stride), self.place.channels) }
    }

    /// All values, if they have no gaps.
    #[inline(always)]
    pub fn dense_mut(&mut self) -> Option<&mut [f32]> {
        let len = self.place.pixels * self.place.channels;
        // SAFETY: a tile without gaps is one run of values; it is borrowed mutably for the life of the slice.
        (self.row_stride == self.place.channels).then(|| unsafe { std::slice::from_raw_parts_mut(self.data, len) })
    }

    /// Sets the values to those at `from`, where pixels are `stride` floats apart. `from` may be where the tile is.
    ///
    /// # Safety
    /// As many values are readable at `from`, and they are the tile's own or do not overlap it.
    #[inline(always)]
    pub unsafe fn load(&mut self, from: *const f32, stride: usize) {
        if from != self.data.cast_const() {
            // SAFETY: the caller's promise, and the tile's.
            unsafe { copy_pixels(from, stride, self.data, self.row_stride, self.place.pixels, self.place.channels) };
        }
    }
}

impl ViewMut<'_> {
    /// The address of a tile's first value.
    ///
    /// # Panics
    /// If the place is not inside the view.
    #[inline(always)]
    pub fn address_of(&self, p: &Place) -> *mut f32 {
        let inside = p.n < self.n() && p.y < self.h() && p.x0 + p.pixels <= self.w() && p.c0 + p.channels <= self.c();
        assert!(inside, "{p:?} is not inside of {}", self.shape());
        self.at(p.n, p.y, p.x0).wrapping_add(p.c0)
    }

    /// Copies a tile to its place, unless its values are those.
    ///
    /// # Safety
    /// Nothing else reads or writes the elements of the place during the call.
    ///
    /// # Panics
    /// If the place is not inside the view.
    #[inline(always)]
    pub unsafe fn store(&self, tile: &Tile) {
        let (p, to) = (&tile.place, self.address_of(&tile.place));
        if to != tile.data {
            // SAFETY: the place lies inside the view; the caller's promise, and the tile's.
            unsafe { copy_pixels(tile.data, tile.row_stride, to, self.stride(), p.pixels, p.channels) };
        }
    }
}

/// Takes the results of a kernel while they are in cache: applies an epilogue and writes them where it wants.
///
/// A kernel calls `store` from several threads at once. A tile spans any part of the channels, in no fixed order. The
/// kernel still reads its operands while tiles are stored, so a sink must not write to them (to an operand of the
/// epilogue it may).
pub trait TileSink: Sync {
    /// Takes one tile.
    ///
    /// # Safety
    /// The places of all tiles of a run are disjoint and lie inside the output that the sink is for; together they cover
    /// each of its elements once.
    unsafe fn store(&self, tile: Tile);
}

/// The sink without an epilogue: copies into a tensor.
#[derive(Debug)]
pub struct StoreTo<'a>(ViewMut<'a>);

impl<'a> StoreTo<'a> {
    /// Copies into `output`.
    pub fn new(output: ViewMut<'a>) -> StoreTo<'a> {
        StoreTo(output)
    }
}

impl TileSink for StoreTo<'_> {
    unsafe fn store(&self, tile: Tile) {
        // SAFETY: tiles are disjoint, and the sink owns the view.
        unsafe { self.0.store(&tile) };
    }
}

/// Copies `pixels` runs of `channels` floats.
///
/// # Safety
/// Source and target hold that many, and do not overlap.
pub(crate) unsafe fn copy_pixels(
    from: *const f32,
    from_stride: usize,
    to: *mut f32,
    to_stride: usize,
    pixels: usize,
    channels: usize,
) {
    // SAFETY: the caller's promise.
    unsafe {
        if from_stride == channels && to_stride == channels {
            std::ptr::copy_nonoverlapping(from, to, pixels * channels);
            return;
        }
        for p in 0..pixels {
            std::ptr::copy_nonoverlapping(from.add(p * from_stride), to.add(p * to_stride), channels);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACE: Place = Place { n: 0, y: 1, x0: 1, pixels: 2, c0: 1, channels: 2 };

    #[test]
    fn a_tile_is_stored_at_its_place_and_nowhere_else() {
        let (mut output, mut values) = (vec![0.0; 18], [1.0, 2.0, 3.0, 4.0]);
        let sink = StoreTo::new(ViewMut::new(&mut output, [1, 2, 3, 3]));
        // SAFETY: one tile, inside.
        unsafe { sink.store(Tile::new(&mut values, PLACE)) };
        let mut want = vec![0.0; 18];
        (want[13], want[14], want[16], want[17]) = (1.0, 2.0, 3.0, 4.0);
        assert_eq!(output, want);
    }

    #[test]
    #[should_panic(expected = "is not inside of 1x2x2x3")]
    fn a_tile_outside_of_the_output_is_refused() {
        let (mut output, mut values) = ([0.0; 12], [0.0; 4]);
        let sink = StoreTo::new(ViewMut::new(&mut output, [1, 2, 2, 3]));
        // SAFETY: refused before anything is written.
        unsafe { sink.store(Tile::new(&mut values, PLACE)) };
    }

    #[test]
    #[should_panic(expected = "a tile of 4 values needs more than 3")]
    fn a_tile_of_too_few_values_is_refused() {
        Tile::new(&mut [0.0; 3], PLACE);
    }
}
