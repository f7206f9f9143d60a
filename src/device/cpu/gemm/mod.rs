//! Matrix products for linear layers, whose batch is small against their weights: a product is as fast as it
//! reads the weights, once.
//!
//! Three ways: *skinny*, where B's columns are contiguous (a linear layer's forward pass), runs dot products
//! along them without moving B; *streamed*, where its rows are (the input gradient), adds them to rows of C
//! in L1; *packed* copies blocks of B into panels and runs register blocks.

#[cfg(test)]
mod tests;

use super::micro::{DOT_CHANNELS, Pixels, WIDE_PIXELS};
use super::scratch::{Shared, carve};
use super::simd::{MAX_LANES, lanes, panel_width, panel_width_at};
use super::{Ctx, Place, Tile, TileSink, View, micro, scratch};

/// Rows of C of a packed item, whole register blocks.
const ROWS: usize = 96;
/// Columns of C of a packed item.
const COLS: usize = 256;
/// Rows of B that are packed at a time.
const DEPTH: usize = 64;
/// Floats of C that a streamed item keeps in L1.
const STREAMED_FLOATS: usize = 4 * 1024;
/// Most rows of A of the streamed way; with more, going over C for every four rows of B costs too much.
const STREAMED_ROWS: usize = 8;
/// Most rows of A of the skinny way.
const SKINNY_ROWS: usize = 64;
/// Columns of C of a skinny item.
const SKINNY_COLS: usize = 48;
/// Length of the pieces that dot products are summed from.
const SKINNY_DEPTH: usize = 1024;

/// A matrix in memory, borrowed for `'a`: element (i, j) is `i * row_stride + j * col_stride` floats after the first.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a> {
    /// Its rows, or if they are exchanged its columns, as pixels.
    memory: View<'a>,
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a> Matrix<'a> {
    /// A row-major matrix of `cols` columns, as many rows as `data` has.
    pub fn rows(data: &'a [f32], cols: usize) -> Matrix<'a> {
        Matrix::pixels(View::new(data, [1, 1, data.len() / cols, cols]))
    }

    /// The matrix whose rows are the pixels of `view`.
    pub fn pixels(view: View<'a>) -> Matrix<'a> {
        Matrix { memory: view, rows: view.pixels(), cols: view.c(), row_stride: view.stride(), col_stride: 1 }
    }

    /// The same matrix with rows and columns exchanged.
    #[must_use]
    pub fn transposed(self) -> Matrix<'a> {
        let Matrix { memory, rows, cols, row_stride, col_stride } = self;
        Matrix { memory, rows: cols, cols: rows, row_stride: col_stride, col_stride: row_stride }
    }

    /// The address of element (i, j).
    #[inline(always)]
    fn at(&self, i: usize, j: usize) -> *const f32 {
        self.memory.at(0, 0, 0).wrapping_add(i * self.row_stride + j * self.col_stride)
    }
}

/// Sizes of C(m,n) = A(m,k) B(k,n).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GemmShape {
    /// Rows of A and C.
    pub m: usize,
    /// Columns of B and C.
    pub n: usize,
    /// Columns of A, rows of B.
    pub k: usize,
}

impl GemmShape {
    fn is_skinny(&self, b: &Matrix) -> bool {
        self.m <= SKINNY_ROWS && b.row_stride == 1 && b.col_stride != 1
    }

    fn is_streamed(&self, b: &Matrix) -> bool {
        self.m <= STREAMED_ROWS && self.m < self.k && b.col_stride == 1
    }

    fn streamed_cols(&self) -> usize {
        (STREAMED_FLOATS / self.m / 128 * 128).clamp(512, 1024).min(self.n)
    }

    /// Streamed: per thread a block of C with one spare row.
    fn streamed_parts(&self, threads: usize) -> [usize; 1] {
        [threads * scratch::whole_lines((self.m + 1) * self.streamed_cols())]
    }

    /// Skinny: A in the order of the dot kernel; per thread the sums, and C's block.
    fn skinny_parts(&self, threads: usize) -> [usize; 3] {
        let sums = (SKINNY_COLS + 1) * self.m.next_multiple_of(DOT_CHANNELS);
        let per_thread = |floats| threads * scratch::whole_lines(floats);
        [self.m * self.k.next_multiple_of(MAX_LANES), per_thread(sums), per_thread(SKINNY_COLS * self.m)]
    }

    /// Packed: per thread a block of A, of B, and of C.
    fn packed_parts(&self, threads: usize) -> [usize; 3] {
        let (rows, cols) = (self.m.min(ROWS).next_multiple_of(WIDE_PIXELS), self.padded_cols());
        let per_thread = |floats| threads * scratch::whole_lines(floats);
        [per_thread(rows * DEPTH), per_thread(cols * DEPTH), per_thread(rows * cols)]
    }

    fn padded_cols(&self) -> usize {
        self.n.min(COLS).next_multiple_of(MAX_LANES)
    }
}

/// Floats of scratch memory that [`gemm`] needs; what they hold before the call does not matter.
pub fn gemm_scratch_len(shape: &GemmShape, threads: usize) -> usize {
    let packed = scratch::total(shape.packed_parts(threads));
    if shape.m > SKINNY_ROWS {
        return packed;
    }
    packed.max(scratch::total(shape.skinny_parts(threads))).max(scratch::total(shape.streamed_parts(threads)))
}

/// C = A B, handed to `sink` as one image row of m pixels with n channels.
///
/// # Panics
/// If `scratch` is shorter than [`gemm_scratch_len`], a size is 0, or a matrix has other sizes.
pub fn gemm(ctx: &Ctx, shape: &GemmShape, a: Matrix, b: Matrix, sink: &dyn TileSink, scratch: &mut [f32]) {
    assert!(shape.m > 0 && shape.n > 0 && shape.k > 0, "empty product {shape:?}");
    let sizes = [[a.rows, a.cols], [b.rows, b.cols]];
    assert_eq!(sizes, [[shape.m, shape.k], [shape.k, shape.n]], "factors of {shape:?}");
    // SAFETY: the sizes were checked.
    unsafe {
        if shape.is_skinny(&b) {
            skinny(ctx, shape, a, b, sink, scratch);
        } else if shape.is_streamed(&b) {
            streamed(ctx, shape, a, b, sink, scratch);
        } else {
            packed(ctx, shape, a, b, sink, scratch);
        }
    }
}

/// Dot products of A's rows and B's contiguous columns.
///
/// # Safety
/// The matrices have the sizes of the shape.
unsafe fn skinny(ctx: &Ctx, shape: &GemmShape, a: Matrix, b: Matrix, sink: &dyn TileSink, scratch: &mut [f32]) {
    let GemmShape { m, n, k } = *shape;
    let parts = shape.skinny_parts(ctx.pool.threads());
    let [a_packed, sums, block] = carve(scratch, parts);
    let vector = lanes(ctx.isa);
    let whole = k / vector * vector;
    let groups = m.div_ceil(DOT_CHANNELS);
    // A as [group of rows][vector][row of the group][lane].
    ctx.pool.run(groups, &|g, _| {
        let rows = DOT_CHANNELS.min(m - g * DOT_CHANNELS);
        for p in 0..whole {
            for r in 0..rows {
                let at = g * DOT_CHANNELS * whole + (p / vector * rows + r) * vector + p % vector;
                // SAFETY: an element of A; a place of this group's own.
                unsafe { *a_packed.at(at) = *a.at(g * DOT_CHANNELS + r, p) };
            }
        }
    });
    let stride = m.next_multiple_of(DOT_CHANNELS);
    ctx.pool.run(n.div_ceil(SKINNY_COLS), &|item, worker| {
        let own = |part: Shared, i: usize| part.at(worker * (parts[i] / ctx.pool.threads()));
        let (sums, block) = (own(sums, 1), own(block, 2));
        let (first, cols) = (item * SKINNY_COLS, SKINNY_COLS.min(n - item * SKINNY_COLS));
        // SAFETY: columns of B up to `whole`; the worker's own sums, with a spare place for columns past the
        // end; after that, elements of A and B. The block holds finished results, which no other item stores.
        unsafe {
            sums.write_bytes(0, (SKINNY_COLS + 1) * stride);
            for p in (0..whole).step_by(SKINNY_DEPTH) {
                let depth = SKINNY_DEPTH.min(whole - p);
                for g in 0..groups {
                    let rows = DOT_CHANNELS.min(m - g * DOT_CHANNELS);
                    let weight = a_packed.at(g * DOT_CHANNELS * whole + p * rows);
                    for j in (0..cols).step_by(micro::dot_pixels(rows)) {
                        let column = |i: usize| if j + i < cols { j + i } else { SKINNY_COLS };
                        let pixels = Pixels {
                            source: std::array::from_fn(|i| b.at(p, first + (j + i).min(cols - 1))),
                            result: std::array::from_fn(|i| sums.add(column(i) * stride + g * DOT_CHANNELS)),
                        };
                        micro::dot(ctx.isa, &pixels, &[0], depth, weight, rows, true);
                    }
                }
            }
            for (i, j) in (0..m).flat_map(|i| (0..cols).map(move |j| (i, j))) {
                let rest: f32 = (whole..k).map(|p| *a.at(i, p) * *b.at(p, first + j)).sum();
                *block.add(i * cols + j) = *sums.add(j * stride + i) + rest;
            }
            let place = Place { n: 0, y: 0, x0: 0, pixels: m, c0: first, channels: cols };
            sink.store(Tile::from_raw(block, cols, place));
        }
    });
}

/// Rows of B, four at a time, added to rows of C, two at a time.
///
/// # Safety
/// As for [`skinny`].
unsafe fn streamed(ctx: &Ctx, shape: &GemmShape, a: Matrix, b: Matrix, sink: &dyn TileSink, scratch: &mut [f32]) {
    let GemmShape { m, n, k } = *shape;
    let parts = shape.streamed_parts(ctx.pool.threads());
    let [blocks] = carve(scratch, parts);
    let stride = shape.streamed_cols();
    ctx.pool.run(n.div_ceil(stride), &|item, worker| {
        let block = blocks.at(worker * (parts[0] / ctx.pool.threads()));
        let (first, cols) = (item * stride, stride.min(n - item * stride));
        // SAFETY: elements of A and B; the worker's own block, whose spare row takes what an odd number of
        // rows leaves over. No other item stores the block's results.
        unsafe {
            block.write_bytes(0, (m + 1) * stride);
            for p in (0..k).step_by(4) {
                let rows_b = std::array::from_fn(|q| b.at((p + q).min(k - 1), first));
                for i in (0..m).step_by(2) {
                    let element = |i: usize, p: usize| if i < m && p < k { *a.at(i, p) } else { 0.0 };
                    let factors = [i, i + 1].map(|i| std::array::from_fn(|q| element(i, p + q)));
                    let rows_c = [i, i + 1].map(|i| block.add(i * stride));
                    micro::add_rows(ctx.isa, rows_c, &factors, rows_b, cols);
                }
            }
            let place = Place { n: 0, y: 0, x0: 0, pixels: m, c0: first, channels: cols };
            sink.store(Tile::from_raw(block, stride, place));
        }
    });
}

/// Register blocks over packed panels of B.
///
/// # Safety
/// As for [`skinny`].
unsafe fn packed(ctx: &Ctx, shape: &GemmShape, a: Matrix, b: Matrix, sink: &dyn TileSink, scratch: &mut [f32]) {
    let GemmShape { m, n, k } = *shape;
    let parts = shape.packed_parts(ctx.pool.threads());
    let [a_blocks, b_blocks, c_blocks] = carve(scratch, parts);
    let (whole, stride) = (panel_width(ctx.isa), shape.padded_cols());
    let col_items = n.div_ceil(COLS);
    ctx.pool.run(m.div_ceil(ROWS) * col_items, &|item, worker| {
        let own = |part: Shared, i: usize| part.at(worker * (parts[i] / ctx.pool.threads()));
        let (a_block, b_block, c_block) = (own(a_blocks, 0), own(b_blocks, 1), own(c_blocks, 2));
        let (row, col) = (item / col_items * ROWS, item % col_items * COLS);
        let (rows, cols) = (ROWS.min(m - row), COLS.min(n - col));
        for p in (0..k).step_by(DEPTH) {
            let depth = DEPTH.min(k - p);
            // SAFETY: elements of A and B; the worker's own blocks, which hold whole register blocks.
            unsafe {
                for i in 0..rows {
                    copy_row(a.at(row + i, p), a.col_stride, depth, a_block.add(i * depth));
                }
                for q in 0..depth {
                    for j in (0..cols).step_by(whole) {
                        let width = panel_width_at(ctx.isa, cols, j);
                        let to = b_block.add(j * depth + q * width);
                        let valid = width.min(cols - j);
                        copy_row(b.at(p + q, col + j), b.col_stride, valid, to);
                        if valid < width {
                            to.add(valid).write_bytes(0, width - valid);
                        }
                    }
                }
                for j in (0..cols).step_by(whole) {
                    let width = panel_width_at(ctx.isa, cols, j);
                    for i in (0..rows).step_by(WIDE_PIXELS) {
                        let pixels = Pixels {
                            source: std::array::from_fn(|r| a_block.add((i + r) * depth).cast_const()),
                            result: std::array::from_fn(|r| c_block.add((i + r) * stride + j)),
                        };
                        micro::wide(ctx.isa, &pixels, &[0], depth, b_block.add(j * depth), width, p > 0);
                    }
                }
            }
        }
        let place = Place { n: 0, y: 0, x0: row, pixels: rows, c0: col, channels: cols };
        // SAFETY: the worker's block of finished results, which no other item stores.
        unsafe { sink.store(Tile::from_raw(c_block, stride, place)) };
    });
}

/// Copies `len` elements that are `step` floats apart.
///
/// # Safety
/// The elements are readable, `to` has room for `len` floats.
#[inline(always)]
unsafe fn copy_row(from: *const f32, step: usize, len: usize, to: *mut f32) {
    // SAFETY: the caller's promise.
    unsafe {
        match (step, len) {
            // A constant size compiles to moves instead of a call.
            (1, 16) => std::ptr::copy_nonoverlapping(from, to, 16),
            (1, 64) => std::ptr::copy_nonoverlapping(from, to, 64),
            (1, _) => std::ptr::copy_nonoverlapping(from, to, len),
            _ => (0..len).for_each(|i| *to.add(i) = *from.add(i * step)),
        }
    }
}
