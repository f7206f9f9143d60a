//! Winograd's minimal filtering for 3×3 and 4×4 convolutions with stride 1: F(4×4, 3×3) and F(3×3, 4×4), four
//! times fewer multiplications than the sum as written (Lavin and Gray, "Fast algorithms for convolutional
//! neural networks", CVPR 2016). This file has the transforms; interpolation at 0, ±a, ±b, ∞ with a = √½ and
//! b = √2, which halves the rounding error of the usual 1 and 2 (relative L2 error 8e-7).
//!
//! With V = Bᵀ x B, U = G g Gᵀ, D = A dy Aᵀ: output = Aᵀ \[U ⊙ V\] A, d_weight = Gᵀ \[D ⊙ V\] G. Both sizes have
//! six points, hence the same Bᵀ; A and G hold the powers of the points, G times the Lagrange factors.

use crate::device::cpu::simd::{Simd, simd_kernel};

/// Inputs of a tile along an axis.
pub(super) const INPUT: usize = 6;
/// Most outputs of a tile along an axis.
pub(super) const MAX_OUTPUT: usize = 4;
/// Channels come in multiples of this, which some vector of every processor divides.
pub(super) const CHANNEL_STEP: usize = 8;
/// Products of a tile.
pub(super) const POINTS: usize = INPUT * INPUT;

const A: f64 = std::f64::consts::FRAC_1_SQRT_2;
const B: f64 = std::f64::consts::SQRT_2;
/// a² and b².
const A2: f32 = 0.5;
const B2: f32 = 2.0;
/// The Lagrange factors 1/(2a²(a²−b²)) and 1/(2b²(b²−a²)); that of the point 0, 1/(a²b²), is 1.
const NA: f64 = 1.0 / (2.0 * 0.5 * (0.5 - 2.0));
const NB: f64 = 1.0 / (2.0 * 2.0 * (2.0 - 0.5));

/// Outputs of a tile along an axis, for a kernel of `taps` by `taps`.
pub(super) fn outputs(taps: usize) -> usize {
    INPUT + 1 - taps
}

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

/// The powers of a and of b, times a factor.
struct Powers {
    a: [f32; MAX_OUTPUT],
    b: [f32; MAX_OUTPUT],
}

impl Powers {
    const fn new(a: f64, b: f64) -> Powers {
        Powers {
            a: [a as f32, (a * A) as f32, (a * 0.5) as f32, (a * A * 0.5) as f32],
            b: [b as f32, (b * B) as f32, (b * 2.0) as f32, (b * B * 2.0) as f32],
        }
    }

    /// The entries of G, or else of A.
    const fn of(scaled: bool) -> Powers {
        if scaled { Powers::new(NA, NB) } else { Powers::new(1.0, 1.0) }
    }
}

/// A x, or G x if SCALED: K (3 or 4) values to the six points.
#[inline(always)]
unsafe fn spread<S: Simd, const K: usize, const SCALED: bool>(x: [S::V; K]) -> [S::V; 6] {
    // SAFETY: as for `bt`.
    unsafe {
        let Powers { a, b } = const { Powers::of(SCALED) };
        // The factors of x[0] are 1 in A.
        let even = |p: [f32; MAX_OUTPUT]| {
            let first = if SCALED { S::mul(S::splat(p[0]), x[0]) } else { x[0] };
            S::fma(S::splat(p[2]), x[2], first)
        };
        let odd = |p: [f32; MAX_OUTPUT]| {
            let first = S::mul(S::splat(p[1]), x[1]);
            if K > 3 { S::fma(S::splat(p[3]), x[3], first) } else { first }
        };
        let (even_a, odd_a, even_b, odd_b) = (even(a), odd(a), even(b), odd(b));
        [x[0], S::add(even_a, odd_a), S::sub(even_a, odd_a), S::add(even_b, odd_b), S::sub(even_b, odd_b), x[K - 1]]
    }
}

/// Aᵀ m, or Gᵀ m if SCALED: the six points to K (3 or 4) values; with K = 3 the last means nothing.
// Written out: with a loop over the rows the compiler keeps them in memory.
#[inline(always)]
unsafe fn gather<S: Simd, const K: usize, const SCALED: bool>(m: [S::V; 6]) -> [S::V; 4] {
    // SAFETY: as for `bt`.
    unsafe {
        let Powers { a, b } = const { Powers::of(SCALED) };
        let (even_a, odd_a) = (S::add(m[1], m[2]), S::sub(m[1], m[2]));
        let (even_b, odd_b) = (S::add(m[3], m[4]), S::sub(m[3], m[4]));
        let first = if SCALED {
            S::fma(S::splat(b[0]), even_b, S::fma(S::splat(a[0]), even_a, m[0]))
        } else {
            S::add(m[0], S::add(even_a, even_b))
        };
        let third = S::splat(a[2]);
        let third = if K == 3 { S::fma(third, even_a, m[5]) } else { S::mul(third, even_a) };
        [
            first,
            S::fma(S::splat(b[1]), odd_b, S::mul(S::splat(a[1]), odd_a)),
            S::fma(S::splat(b[2]), even_b, third),
            S::fma(S::splat(b[3]), odd_b, S::fma(S::splat(a[3]), odd_a, m[5])),
        ]
    }
}

/// Both axes of a transform from I×I to O×O values: `load(i, j)`, then `store(i, j, value)`.
macro_rules! transform_2d {
    ($s:ident, |$x:ident| $one_d:expr, $inputs:expr, $outputs:expr, |$i:ident, $j:ident| $load:expr, |$oi:ident, $oj:ident, $v:ident| $store:expr) => {{
        let mut half = [[$s::splat(0.0); $inputs]; $outputs];
        for $j in 0..$inputs {
            let $x: [$s::V; $inputs] = std::array::from_fn(|$i| $load);
            let column = $one_d;
            for (row, value) in half.iter_mut().zip(column) {
                row[$j] = value;
            }
        }
        for ($oi, $x) in half.into_iter().enumerate() {
            let row = $one_d;
            for ($oj, $v) in row.into_iter().take($outputs).enumerate() {
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
                transform_2d!(S, |x| bt::<S>(x), 6, 6, |i, j| S::load(pixels[i * 6 + j].add(c)),
                    |i, j, v| S::store(to.add((i * 6 + j) * plane + c), v));
            }
        }
    }
}

/// Addresses and sizes of a transform: `channels` floats (a multiple of LANES) of every point or pixel; planes
/// of `plane` floats; rows of pixels or taps `row` floats apart, and in them `pixel` floats apart.
#[derive(Clone, Copy)]
pub(super) struct Steps {
    pub channels: usize,
    pub plane: usize,
    pub row: usize,
    pub pixel: usize,
}

/// Values at the points to K×K pixels.
#[inline(always)]
unsafe fn points_to_pixels<S: Simd, const K: usize, const SCALED: bool>(from: *const f32, to: *mut f32, s: &Steps) {
    // SAFETY: the caller's promise.
    unsafe {
        for c in (0..s.channels).step_by(S::LANES) {
            transform_2d!(
                S,
                |x| gather::<S, K, SCALED>(x),
                6,
                K,
                |i, j| S::load(from.add((i * 6 + j) * s.plane + c)),
                |i, j, v| S::store(to.add(i * s.row + j * s.pixel + c), v)
            );
        }
    }
}

/// K×K pixels to values at the points.
#[inline(always)]
unsafe fn pixels_to_points<S: Simd, const K: usize, const SCALED: bool>(from: &[*const f32], to: *mut f32, s: &Steps) {
    // SAFETY: the caller's promise.
    unsafe {
        for c in (0..s.channels).step_by(S::LANES) {
            transform_2d!(S, |x| spread::<S, K, SCALED>(x), K, 6, |i, j| S::load(from[i * K + j].add(c)), |i, j, v| {
                S::store(to.add((i * 6 + j) * s.plane + c), v)
            });
        }
    }
}

simd_kernel! {
    /// A tile's outputs from its products: planes to rows of pixels.
    ///
    /// # Safety
    /// The planes readable, the pixels writable.
    pub(super) unsafe fn transform_output<S>(taps: usize, from: *const f32, to: *mut f32, steps: &Steps) {
        // SAFETY: the caller's promise.
        unsafe {
            match taps {
                3 => points_to_pixels::<S, 4, false>(from, to, steps),
                _ => points_to_pixels::<S, 3, false>(from, to, steps),
            }
        }
    }
}

simd_kernel! {
    /// D of one tile: the pixels of d_output to planes.
    ///
    /// # Safety
    /// All pixels readable, the planes writable.
    pub(super) unsafe fn transform_d_output<S>(taps: usize, from: &[*const f32], to: *mut f32, steps: &Steps) {
        // SAFETY: the caller's promise.
        unsafe {
            match taps {
                3 => pixels_to_points::<S, 4, false>(from, to, steps),
                _ => pixels_to_points::<S, 3, false>(from, to, steps),
            }
        }
    }
}

simd_kernel! {
    /// U: the taps to planes.
    ///
    /// # Safety
    /// All taps readable, the planes writable.
    pub(super) unsafe fn transform_weight<S>(taps: usize, from: &[*const f32], to: *mut f32, steps: &Steps) {
        // SAFETY: the caller's promise.
        unsafe {
            match taps {
                3 => pixels_to_points::<S, 3, true>(from, to, steps),
                _ => pixels_to_points::<S, 4, true>(from, to, steps),
            }
        }
    }
}

simd_kernel! {
    /// The taps of weight gradients from planes of products.
    ///
    /// # Safety
    /// The planes readable, the taps writable.
    pub(super) unsafe fn transform_d_weight<S>(taps: usize, from: *const f32, to: *mut f32, steps: &Steps) {
        // SAFETY: the caller's promise.
        unsafe {
            match taps {
                3 => points_to_pixels::<S, 3, true>(from, to, steps),
                _ => points_to_pixels::<S, 4, true>(from, to, steps),
            }
        }
    }
}

/// The tiles of a tensor of `batch` images.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tiles {
    /// Outputs of a tile along an axis.
    pub side: usize,
    /// Tiles along y and x.
    pub rows: usize,
    pub cols: usize,
    /// Tiles of all images.
    pub count: usize,
}

impl Tiles {
    /// The tiles for a kernel of `taps` by `taps`.
    pub(super) fn new(taps: usize, batch: usize, h: usize, w: usize) -> Tiles {
        let side = outputs(taps);
        let (rows, cols) = (h.div_ceil(side), w.div_ceil(side));
        Tiles { side, rows, cols, count: batch * rows * cols }
    }

    /// Image, first output row and first output column of a tile.
    #[inline(always)]
    pub(super) fn position(&self, tile: usize) -> (usize, usize, usize) {
        let (n, in_image) = (tile / (self.rows * self.cols), tile % (self.rows * self.cols));
        (n, in_image / self.cols * self.side, in_image % self.cols * self.side)
    }
}

/// Addresses of `side` by `side` pixels from row `y`, column `x` (which may be outside: `zeros`) of image `n`.
#[inline(always)]
pub(super) fn pixel_addresses<const MAX: usize>(
    view: &crate::device::cpu::View,
    n: usize,
    side: usize,
    [y, x]: [isize; 2],
    zeros: *const f32,
) -> [*const f32; MAX] {
    let mut addresses = [zeros; MAX];
    for (i, row) in addresses.chunks_mut(side).take(side).enumerate() {
        let y = y + i as isize;
        if y < 0 || y >= view.h() as isize {
            continue;
        }
        for (j, address) in row.iter_mut().enumerate() {
            let x = x + j as isize;
            if x >= 0 && x < view.w() as isize {
                *address = view.at(n, y as usize, x as usize);
            }
        }
    }
    addresses
}
