//! Matrix products, for linear layers.

use super::{Ctx, Tile, TileSink};

/// A matrix in memory: element (i, j) is at `ptr + i * row_stride + j * col_stride` floats.
#[derive(Clone, Copy, Debug)]
pub struct Matrix {
    /// Element (0, 0).
    pub ptr: *const f32,
    /// Floats from a row to the next.
    pub row_stride: usize,
    /// Floats from a column to the next.
    pub col_stride: usize,
}

// SAFETY: an address and strides; whoever uses it promises that the memory behind it is readable.
unsafe impl Send for Matrix {}
// SAFETY: as above.
unsafe impl Sync for Matrix {}

impl Matrix {
    /// A row-major matrix of `cols` columns.
    pub fn rows(data: &[f32], cols: usize) -> Matrix {
        Matrix { ptr: data.as_ptr(), row_stride: cols, col_stride: 1 }
    }

    /// The same matrix with rows and columns exchanged.
    #[must_use]
    pub fn transposed(self) -> Matrix {
        Matrix { row_stride: self.col_stride, col_stride: self.row_stride, ..self }
    }

    /// The address of element (i, j).
    #[inline(always)]
    pub fn at(&self, i: usize, j: usize) -> *const f32 {
        self.ptr.wrapping_add(i * self.row_stride + j * self.col_stride)
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

/// Floats of scratch memory that [`gemm`] needs; what they hold before the call does not matter.
pub fn gemm_scratch_len(shape: &GemmShape, threads: usize) -> usize {
    threads * shape.n
}

/// C = A B, handed to `sink` as one image row of m pixels with n channels.
///
/// # Safety
/// All elements of `a` and `b` must be readable and unchanged during the call.
pub unsafe fn gemm(ctx: &Ctx, shape: &GemmShape, a: Matrix, b: Matrix, sink: &dyn TileSink, scratch: &mut [f32]) {
    assert!(scratch.len() >= gemm_scratch_len(shape, ctx.pool.threads()));
    let GemmShape { m, n, k } = *shape;
    let base = scratch.as_mut_ptr() as usize;
    ctx.pool.run(m, &|i, worker| {
        // SAFETY: each worker has its own row of scratch; elements of the matrices.
        unsafe {
            let out = std::slice::from_raw_parts_mut((base as *mut f32).add(worker * n), n);
            for (j, out) in out.iter_mut().enumerate() {
                *out = (0..k).map(|p| *a.at(i, p) * *b.at(p, j)).sum();
            }
            sink.store(&Tile {
                data: out.as_mut_ptr(),
                row_stride: n,
                n: 0,
                y: 0,
                x0: i,
                pixels: 1,
                c0: 0,
                channels: n,
            });
        }
    });
}
