//! Winograd's minimal filtering F(4×4, 3×3) for 3×3 convolutions with stride 1: four times fewer
//! multiplications than the sum as written (Lavin and Gray, "Fast algorithms for convolutional neural
//! networks", CVPR 2016). This file has the transforms; interpolation at 0, ±a, ±b, ∞ with a = √½ and b = √2,
//! which halves the rounding error of the usual 1 and 2 (relative L2 error 8e-7).
//!
//! With V = Bᵀ x B, U = G g Gᵀ, D = A dy Aᵀ: output = Aᵀ \[U ⊙ V\] A, d_weight = Gᵀ \[D ⊙ V\] G.

use super::simd::{Simd, simd_kernel};

/// Outputs of a tile along an axis.
pub(super) const TILE: usize = 4;
/// Inputs of a tile along an axis.
pub(super) const INPUT: usize = 6;
/// Products of a tile.
pub(super) const POINTS: usize = INPUT * INPUT;

const A: f64 = std::f64::consts::FRAC_1_SQRT_2;
const B: f64 = std::f64::consts::SQRT_2;
/// a² and b².
const A2: f32 = 0.5;
const B2: f32 = 2.0;
/// a³ and b³.
const A3: f32 = (A * 0.5) as f32;
const B3: f32 = (B * 2.0) as f32;
/// The Lagrange factors 1/(a²b²), 1/(2a²(a²−b²)), 1/(2b²(b²−a²)).
const N0: f32 = 1.0;
const NA: f32 = (1.0 / (2.0 * 0.5 * (0.5 - 2.0))) as f32;
const NB: f32 = (1.0 / (2.0 * 2.0 * (2.0 - 0.5))) as f32;

/// Bᵀ x.
#[inline(always)]
unsafe fn bt<S: Simd>(x: [S::V; 6]) -> [S::V; 6] {
    // SAFETY: arithmetic only; the caller is compiled for the instruction set.
    unsafe {
        let (a, b, a2, b2) = (S::splat(A as f32), S::splat(B as f32), S::splat(A2), S::splat(B2));
        let sum = S::splat(A2 + B2);
        let (even_a, odd_a) = (S::fnma(b2, x[2], x[4]), S::fnma(b2, x[1], x[3]));
        let (even_b, odd_b) = (S::fnma(a2, x[2], x[4]), S::fnma(a2, x[1], x[3]));
        // a² b² = 1.
        [
            S::add(x[0], S::fnma(sum, x[2], x[4])),
            S::fma(a, odd_a, even_a),
            S::fnma(a, odd_a, even_a),
            S::fma(b, odd_b, even_b),
            S::fnma(b, odd_b, even_b),
            S::add(x[1], S::fnma(sum, x[3], x[5])),
        ]
    }
}

/// Aᵀ m.
#[inline(always)]
unsafe fn at<S: Simd>(m: [S::V; 6]) -> [S::V; 4] {
    // SAFETY: as for `bt`.
    unsafe {
        let (even_a, odd_a) = (S::add(m[1], m[2]), S::sub(m[1], m[2]));
        let (even_b, odd_b) = (S::add(m[3], m[4]), S::sub(m[3], m[4]));
        [
            S::add(m[0], S::add(even_a, even_b)),
            S::fma(S::splat(B as f32), odd_b, S::mul(S::splat(A as f32), odd_a)),
            S::fma(S::splat(B2), even_b, S::mul(S::splat(A2), even_a)),
            S::fma(S::splat(B3), odd_b, S::fma(S::splat(A3), odd_a, m[5])),
        ]
    }
}

/// A y.
#[inline(always)]
unsafe fn a<S: Simd>(y: [S::V; 4]) -> [S::V; 6] {
    // SAFETY: as for `bt`.
    unsafe {
        let even_a = S::fma(S::splat(A2), y[2], y[0]);
        let odd_a = S::fma(S::splat(A3), y[3], S::mul(S::splat(A as f32), y[1]));
        let even_b = S::fma(S::splat(B2), y[2], y[0]);
        let odd_b = S::fma(S::splat(B3), y[3], S::mul(S::splat(B as f32), y[1]));
        [y[0], S::add(even_a, odd_a), S::sub(even_a, odd_a), S::add(even_b, odd_b), S::sub(even_b, odd_b), y[3]]
    }
}

/// G g.
#[inline(always)]
unsafe fn g<S: Simd>(g: [S::V; 3]) -> [S::V; 6] {
    // SAFETY: as for `bt`.
    unsafe {
        let even_a = S::fma(S::splat(A2 * NA), g[2], S::mul(S::splat(NA), g[0]));
        let odd_a = S::mul(S::splat((A * NA as f64) as f32), g[1]);
        let even_b = S::fma(S::splat(B2 * NB), g[2], S::mul(S::splat(NB), g[0]));
        let odd_b = S::mul(S::splat((B * NB as f64) as f32), g[1]);
        let first = S::mul(S::splat(N0), g[0]);
        [first, S::add(even_a, odd_a), S::sub(even_a, odd_a), S::add(even_b, odd_b), S::sub(even_b, odd_b), g[2]]
    }
}

/// Gᵀ m.
#[inline(always)]
unsafe fn gt<S: Simd>(m: [S::V; 6]) -> [S::V; 3] {
    // SAFETY: as for `bt`.
    unsafe {
        let (even_a, odd_a) = (S::add(m[1], m[2]), S::sub(m[1], m[2]));
        let (even_b, odd_b) = (S::add(m[3], m[4]), S::sub(m[3], m[4]));
        let (na, nb) = (S::splat(NA), S::splat(NB));
        let (odd_na, odd_nb) = (S::splat((A * NA as f64) as f32), S::splat((B * NB as f64) as f32));
        [
            S::fma(nb, even_b, S::fma(na, even_a, S::mul(S::splat(N0), m[0]))),
            S::fma(odd_nb, odd_b, S::mul(odd_na, odd_a)),
            S::fma(S::splat(B2 * NB), even_b, S::fma(S::splat(A2 * NA), even_a, m[5])),
        ]
    }
}

/// Both axes of a transform from I×I to O×O values: `load(i, j)`, then `store(i, j, value)`.
macro_rules! transform_2d {
    ($s:ident, $one_d:ident, $inputs:expr, $outputs:expr, |$i:ident, $j:ident| $load:expr, |$oi:ident, $oj:ident, $v:ident| $store:expr) => {{
        let mut half = [[$s::splat(0.0); $inputs]; $outputs];
        for $j in 0..$inputs {
            let column = $one_d::<$s>(std::array::from_fn(|$i| $load));
            for (row, value) in half.iter_mut().zip(column) {
                row[$j] = value;
            }
        }
        for ($oi, row) in half.into_iter().enumerate() {
            for ($oj, $v) in $one_d::<$s>(row).into_iter().enumerate() {
                $store;
            }
        }
    }};
}

simd_kernel! {
    /// V of one tile: 36 pixels of `channels` floats (a multiple of LANES) to planes of `plane` floats.
    ///
    /// # Safety
    /// All pixels readable, the planes writable.
    pub(super) unsafe fn transform_input<S>(pixels: &[*const f32; POINTS], channels: usize, to: *mut f32, plane: usize) {
        // SAFETY: the caller's promise.
        unsafe {
            for c in (0..channels).step_by(S::LANES) {
                transform_2d!(S, bt, 6, 6, |i, j| S::load(pixels[i * 6 + j].add(c)),
                    |i, j, v| S::store(to.add((i * 6 + j) * plane + c), v));
            }
        }
    }
}

simd_kernel! {
    /// A tile's outputs from its products: planes of `plane` floats to 4 rows, `row` floats apart, of 4 pixels,
    /// `pixel` floats apart.
    ///
    /// # Safety
    /// The planes readable, the pixels writable.
    pub(super) unsafe fn transform_output<S>(
        from: *const f32, plane: usize, channels: usize, to: *mut f32, row: usize, pixel: usize
    ) {
        // SAFETY: the caller's promise.
        unsafe {
            for c in (0..channels).step_by(S::LANES) {
                transform_2d!(S, at, 6, 4, |i, j| S::load(from.add((i * 6 + j) * plane + c)),
                    |i, j, v| S::store(to.add(i * row + j * pixel + c), v));
            }
        }
    }
}

simd_kernel! {
    /// D of one tile: 16 pixels of d_output to planes of `plane` floats.
    ///
    /// # Safety
    /// All pixels readable, the planes writable.
    pub(super) unsafe fn transform_d_output<S>(
        pixels: &[*const f32; TILE * TILE], channels: usize, to: *mut f32, plane: usize
    ) {
        // SAFETY: the caller's promise.
        unsafe {
            for c in (0..channels).step_by(S::LANES) {
                transform_2d!(S, a, 4, 6, |i, j| S::load(pixels[i * 4 + j].add(c)),
                    |i, j, v| S::store(to.add((i * 6 + j) * plane + c), v));
            }
        }
    }
}

simd_kernel! {
    /// U of `width` weights: 9 taps, at `from[tap]`, to planes of `plane` floats.
    ///
    /// # Safety
    /// `width` floats (a multiple of LANES) readable at each tap, the planes writable.
    pub(super) unsafe fn transform_weight<S>(from: &[*const f32; 9], width: usize, to: *mut f32, plane: usize) {
        // SAFETY: the caller's promise.
        unsafe {
            for c in (0..width).step_by(S::LANES) {
                transform_2d!(S, g, 3, 6, |i, j| S::load(from[i * 3 + j].add(c)),
                    |i, j, v| S::store(to.add((i * 6 + j) * plane + c), v));
            }
        }
    }
}

simd_kernel! {
    /// The 9 taps of `width` weight gradients, `tap` floats apart, from planes of products.
    ///
    /// # Safety
    /// The planes readable, `width` floats (a multiple of LANES) writable at each tap.
    pub(super) unsafe fn transform_d_weight<S>(from: *const f32, plane: usize, width: usize, to: *mut f32, tap: usize) {
        // SAFETY: the caller's promise.
        unsafe {
            for c in (0..width).step_by(S::LANES) {
                transform_2d!(S, gt, 6, 3, |i, j| S::load(from.add((i * 6 + j) * plane + c)),
                    |i, j, v| S::store(to.add((i * 3 + j) * tap + c), v));
            }
        }
    }
}

/// The tiles of a tensor of `batch` images.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tiles {
    /// Tiles along y and x.
    pub rows: usize,
    pub cols: usize,
    /// Tiles of all images.
    pub count: usize,
}

impl Tiles {
    pub(super) fn new(batch: usize, h: usize, w: usize) -> Tiles {
        let (rows, cols) = (h.div_ceil(TILE), w.div_ceil(TILE));
        Tiles { rows, cols, count: batch * rows * cols }
    }

    /// Image, first output row and first output column of a tile.
    #[inline(always)]
    pub(super) fn position(&self, tile: usize) -> (usize, usize, usize) {
        let (n, in_image) = (tile / (self.rows * self.cols), tile % (self.rows * self.cols));
        (n, in_image / self.cols * TILE, in_image % self.cols * TILE)
    }
}

/// Addresses of N×N pixels from row `y`, column `x` (which may be outside: `zeros`) of image `n`.
#[inline(always)]
pub(super) fn pixel_addresses<const N: usize, const NN: usize>(
    view: &super::View,
    n: usize,
    [y, x]: [isize; 2],
    zeros: *const f32,
) -> [*const f32; NN] {
    std::array::from_fn(|p| {
        let (y, x) = (y + (p / N) as isize, x + (p % N) as isize);
        let inside = y >= 0 && x >= 0 && y < view.h as isize && x < view.w as isize;
        if inside { view.at(n, y as usize, x as usize) } else { zeros }
    })
}
