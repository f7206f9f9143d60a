//! Register-blocked inner loops of the direct convolutions and the matrix product.
//!
//! A result pixel is the sum over *runs* of consecutive floats: the run at `offsets[r]` from the pixel's
//! address, `run` floats long, against the packed weights that follow each other in the same order.

use super::simd::{Simd, simd_kernel};

/// Result pixels of one call of [`wide`].
pub(crate) const WIDE_PIXELS: usize = 6;
/// Result pixels of one call of [`depthwise`].
pub(crate) const DEPTHWISE_PIXELS: usize = 8;
/// Largest number of result channels of one call of [`dot`].
pub(crate) const DOT_CHANNELS: usize = 4;

/// Addresses of the pixels of one call: sources, and results.
pub(crate) struct Pixels<const N: usize> {
    pub source: [*const f32; N],
    pub result: [*mut f32; N],
}

/// Result pixels of one call of [`dot`] for `channels` result channels: 8 to 12 accumulators.
pub(crate) fn dot_pixels(channels: usize) -> usize {
    [8, 6, 4, 3][channels - 1]
}

/// [`wide`] for a panel of V vectors.
#[inline(always)]
unsafe fn wide_block<S: Simd, const V: usize>(
    pixels: &Pixels<WIDE_PIXELS>,
    offsets: &[usize],
    run: usize,
    panel: *const f32,
    accumulate: bool,
) {
    // SAFETY: the caller's promise; every access is inside a run, the panel or a result.
    unsafe {
        let mut acc = [[S::splat(0.0); V]; WIDE_PIXELS];
        let mut panel = panel;
        for &offset in offsets {
            let source = pixels.source.map(|p| p.add(offset));
            for k in 0..run {
                let b: [S::V; V] = std::array::from_fn(|j| S::load(panel.add(j * S::LANES)));
                for (acc, source) in acc.iter_mut().zip(source) {
                    let a = S::splat(*source.add(k));
                    *acc = std::array::from_fn(|j| S::fma(a, b[j], acc[j]));
                }
                panel = panel.add(V * S::LANES);
            }
        }
        for (acc, &to) in acc.iter().zip(&pixels.result) {
            for (j, &acc) in acc.iter().enumerate() {
                let to = to.add(j * S::LANES);
                S::store(to, if accumulate { S::add(S::load(to), acc) } else { acc });
            }
        }
    }
}

simd_kernel! {
    /// Lanes over result channels: `result[i][0..width] (+)= Σ source[i][k] panel[k][0..width]`, where `width`
    /// is that of a panel or fewer whole vectors.
    ///
    /// # Safety
    /// All runs readable, `panel` of `offsets.len() * run` rows of `width`, results writable.
    pub(crate) unsafe fn wide<S>(
        pixels: &Pixels<WIDE_PIXELS>, offsets: &[usize], run: usize, panel: *const f32, width: usize,
        accumulate: bool
    ) {
        // SAFETY: the caller's promise.
        unsafe {
            match width / S::LANES {
                1 => wide_block::<S, 1>(pixels, offsets, run, panel, accumulate),
                3 if S::PANEL > 2 => wide_block::<S, 3>(pixels, offsets, run, panel, accumulate),
                4 if S::PANEL > 2 => wide_block::<S, 4>(pixels, offsets, run, panel, accumulate),
                _ => wide_block::<S, 2>(pixels, offsets, run, panel, accumulate),
            }
        }
    }
}

/// Lanes over the reduction, for few result channels.
#[inline(always)]
unsafe fn dot_block<S: Simd, const N: usize, const C: usize>(
    sources: &[*const f32],
    results: &[*mut f32],
    offsets: &[usize],
    run: usize,
    weight: *const f32,
    accumulate: bool,
) {
    // SAFETY: the caller's promise; every access is inside a run, the weights or a result.
    unsafe {
        let mut acc = [[S::splat(0.0); C]; N];
        let sources: [*const f32; N] = std::array::from_fn(|i| sources[i]);
        let mut weight = weight;
        for &offset in offsets {
            let sources = sources.map(|p| p.add(offset));
            for k in (0..run).step_by(S::LANES) {
                // With the weights innermost, N + C loads serve N C products, and 16 registers are enough.
                let a = sources.map(|source| S::load(source.add(k)));
                for c in 0..C {
                    let b = S::load(weight.add(c * S::LANES));
                    for (acc, a) in acc.iter_mut().zip(a) {
                        acc[c] = S::fma(a, b, acc[c]);
                    }
                }
                weight = weight.add(C * S::LANES);
            }
        }
        for (acc, &to) in acc.iter().zip(results) {
            for (c, &acc) in acc.iter().enumerate() {
                let sum = S::sum(acc);
                *to.add(c) = if accumulate { *to.add(c) + sum } else { sum };
            }
        }
    }
}

simd_kernel! {
    /// Lanes over the reduction: `result[i][c] (+)= Σ source[i][k] weight[k / LANES][c][k % LANES]` for the
    /// first [`dot_pixels`] pixels and `channels` result channels.
    ///
    /// # Safety
    /// All runs, rounded up to whole vectors, readable; weights for all of them; results writable.
    pub(crate) unsafe fn dot<S>(
        pixels: &Pixels<8>, offsets: &[usize], run: usize, weight: *const f32, channels: usize, accumulate: bool
    ) {
        let (from, to) = (&pixels.source, &pixels.result);
        // SAFETY: the caller's promise.
        unsafe {
            match channels {
                1 => dot_block::<S, 8, 1>(from, to, offsets, run, weight, accumulate),
                2 => dot_block::<S, 6, 2>(from, to, offsets, run, weight, accumulate),
                3 => dot_block::<S, 4, 3>(from, to, offsets, run, weight, accumulate),
                _ => dot_block::<S, 3, 4>(from, to, offsets, run, weight, accumulate),
            }
        }
    }
}

simd_kernel! {
    /// Lanes over channels, each on its own: `result[i][c] = Σ source[i][offset + c] weight[offset][c]`.
    ///
    /// # Safety
    /// `channels` (a multiple of LANES) floats readable at all offsets, `weight` of as many rows, results
    /// writable.
    pub(crate) unsafe fn depthwise<S>(
        pixels: &Pixels<DEPTHWISE_PIXELS>, offsets: &[usize], weight: *const f32, channels: usize
    ) {
        // SAFETY: the caller's promise.
        unsafe {
            for c in (0..channels).step_by(S::LANES) {
                let mut acc = [S::splat(0.0); DEPTHWISE_PIXELS];
                let source = pixels.source.map(|p| p.add(c));
                let mut weight = weight.add(c);
                for &offset in offsets {
                    let b = S::load(weight);
                    for (acc, source) in acc.iter_mut().zip(source) {
                        *acc = S::fma(S::load(source.add(offset)), b, *acc);
                    }
                    weight = weight.add(channels);
                }
                for (acc, to) in acc.iter().zip(pixels.result) {
                    S::store(to.add(c), *acc);
                }
            }
        }
    }
}

simd_kernel! {
    /// Four rows of B times four columns of two rows of A, added to two rows of C:
    /// `c[i][j] += Σ a[i][q] b[q][j]` for `len` values of j.
    ///
    /// # Safety
    /// `len` floats readable at each row of B, writable at each row of C.
    pub(crate) unsafe fn add_rows<S>(c: [*mut f32; 2], a: &[[f32; 4]; 2], b: [*const f32; 4], len: usize) {
        let whole = len / S::LANES * S::LANES;
        // SAFETY: the caller's promise.
        unsafe {
            let factors: [[S::V; 4]; 2] = a.map(|row| row.map(|v| S::splat(v)));
            for j in (0..whole).step_by(S::LANES) {
                let b = b.map(|row| S::load(row.add(j)));
                for (c, a) in c.iter().zip(&factors) {
                    let low = S::fma(a[1], b[1], S::fma(a[0], b[0], S::load(c.add(j))));
                    S::store(c.add(j), S::fma(a[3], b[3], S::fma(a[2], b[2], low)));
                }
            }
            for j in whole..len {
                for (c, a) in c.iter().zip(a) {
                    *c.add(j) += a.iter().zip(b).map(|(a, b)| a * *b.add(j)).sum::<f32>();
                }
            }
        }
    }
}
