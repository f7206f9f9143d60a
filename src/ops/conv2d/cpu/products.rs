//! Register-blocked inner loops of the weight gradients: sums of products over pixels.

use std::mem::MaybeUninit;

use crate::device::cpu::scratch::Shared;
use crate::device::cpu::simd::{MAX_LANES, MAX_PANEL, Simd, simd_kernel};

/// Floats of input that all register blocks of an item go over before the next ones: most of L1.
const SLAB_FLOATS: usize = 6 * 1024;
/// Most taps of a depthwise kernel row that one call holds in registers.
pub(super) const DEPTHWISE_TAPS: usize = 8;

/// Pixels of a slab, for pixels of which a block reads so many floats.
pub(super) fn slab_pixels(floats: usize) -> usize {
    (SLAB_FLOATS / floats).clamp(48, 256)
}

/// Sizes of the weights that an item owns.
#[derive(Clone, Copy)]
pub(super) struct ProductBlock {
    pub pixels: usize,
    pub pixel_step: usize,
    pub out_stride: usize,
    pub out_channels: usize,
    pub columns: usize,
}

/// Adds to the weights of M output channels and V vectors from `column` on.
#[inline(always)]
unsafe fn add_block<S: Simd, const M: usize, const V: usize>(
    rows: &[Shared],
    offset: usize,
    panel: *const f32,
    block: &ProductBlock,
    column: usize,
    to: *mut f32,
    accumulate: bool,
) {
    // SAFETY: the caller's promise; reads go less than a vector beyond a row's end.
    unsafe {
        let mut acc = [[S::splat(0.0); V]; M];
        let mut d = panel;
        for row in rows {
            let mut x = row.at(offset + column).cast_const();
            for _ in 0..block.pixels {
                let b: [S::V; V] = std::array::from_fn(|j| S::load(x.add(j * S::LANES)));
                for (i, acc) in acc.iter_mut().enumerate() {
                    let a = S::splat(*d.add(i));
                    for (acc, b) in acc.iter_mut().zip(b) {
                        *acc = S::fma(a, b, *acc);
                    }
                }
                d = d.add(M);
                x = x.add(block.pixel_step);
            }
        }
        // What does not fill the block goes through a buffer. The accumulators are read in this one constant loop:
        // with another the compiler keeps them in memory.
        let valid = (V * S::LANES).min(block.columns - column);
        let whole = block.out_channels == M && valid == V * S::LANES;
        let mut buffer = [[MaybeUninit::<f32>::uninit(); MAX_PANEL + MAX_LANES]; M];
        let to = to.add(column);
        let (target, stride) =
            if whole { (to, block.out_stride) } else { (buffer.as_mut_ptr().cast::<f32>(), MAX_PANEL + MAX_LANES) };
        for (i, acc) in acc.iter().enumerate() {
            for (j, &acc) in acc.iter().enumerate() {
                let to = target.add(i * stride + j * S::LANES);
                S::store(to, if accumulate && whole { S::add(S::load(to), acc) } else { acc });
            }
        }
        if whole {
            return;
        }
        for (i, row) in buffer.iter().enumerate().take(block.out_channels) {
            let to = std::slice::from_raw_parts_mut(to.add(i * block.out_stride), valid);
            for (to, value) in to.iter_mut().zip(row) {
                let value = value.assume_init();
                *to = if accumulate { *to + value } else { value };
            }
        }
    }
}

/// `to[o][k] (+)= Σ over pixels of panel[pixel][o] row[pixel][k]` for `columns` values of k, in register blocks
/// of M output channels and up to `vectors` vectors.
#[inline(always)]
unsafe fn add_panel<S: Simd, const M: usize>(
    vectors: usize,
    rows: &[Shared],
    offset: usize,
    panel: *const f32,
    block: &ProductBlock,
    to: *mut f32,
    accumulate: bool,
) {
    for column in (0..block.columns).step_by(vectors * S::LANES) {
        // SAFETY: the caller's promise.
        unsafe {
            match (block.columns - column).div_ceil(S::LANES).min(vectors) {
                1 => add_block::<S, M, 1>(rows, offset, panel, block, column, to, accumulate),
                3 if vectors > 2 => add_block::<S, M, 3>(rows, offset, panel, block, column, to, accumulate),
                4 if vectors > 3 => add_block::<S, M, 4>(rows, offset, panel, block, column, to, accumulate),
                5 if vectors > 4 => add_block::<S, M, 5>(rows, offset, panel, block, column, to, accumulate),
                _ => add_block::<S, M, 2>(rows, offset, panel, block, column, to, accumulate),
            }
        }
    }
}

simd_kernel! {
    /// Register blocks of 4 output channels and one vector more than a panel.
    pub(super) unsafe fn add_panel_4<S>(
        rows: &[Shared], offset: usize, panel: *const f32, block: &ProductBlock, to: *mut f32, accumulate: bool
    ) {
        // SAFETY: the caller's promise.
        unsafe { add_panel::<S, 4>(S::PANEL + 1, rows, offset, panel, block, to, accumulate) }
    }
}

simd_kernel! {
    /// Register blocks of 6 output channels and a panel.
    pub(super) unsafe fn add_panel_6<S>(
        rows: &[Shared], offset: usize, panel: *const f32, block: &ProductBlock, to: *mut f32, accumulate: bool
    ) {
        // SAFETY: the caller's promise.
        unsafe { add_panel::<S, 6>(S::PANEL, rows, offset, panel, block, to, accumulate) }
    }
}

/// One vector of channels, T taps of a kernel row; `steps` = pixels of a row, and floats between input pixels,
/// taps, and d_output pixels.
#[inline(always)]
unsafe fn add_taps<S: Simd, const T: usize>(
    rows: &[Shared],
    offset: usize,
    panel: *const f32,
    [pixels, pixel_step, tap_step, d_step]: [usize; 4],
    to: *mut f32,
    accumulate: bool,
) {
    // SAFETY: the caller's promise.
    unsafe {
        let mut acc = [S::splat(0.0); T];
        let mut d = panel;
        for row in rows {
            let mut x = row.at(offset).cast_const();
            for _ in 0..pixels {
                let dv = S::load(d);
                for (t, acc) in acc.iter_mut().enumerate() {
                    *acc = S::fma(S::load(x.add(t * tap_step)), dv, *acc);
                }
                d = d.add(d_step);
                x = x.add(pixel_step);
            }
        }
        for (t, &acc) in acc.iter().enumerate() {
            let to = to.add(t * d_step);
            S::store(to, if accumulate { S::add(S::load(to), acc) } else { acc });
        }
    }
}

simd_kernel! {
    /// `to[t] (+)= Σ over pixels of panel[pixel] row[pixel + t]` for one vector of channels and `taps` taps.
    pub(super) unsafe fn add_depthwise<S>(
        rows: &[Shared], offset: usize, panel: *const f32, steps: [usize; 4], taps: usize, to: *mut f32,
        accumulate: bool
    ) {
        // SAFETY: the caller's promise.
        unsafe {
            match taps {
                1 => add_taps::<S, 1>(rows, offset, panel, steps, to, accumulate),
                2 => add_taps::<S, 2>(rows, offset, panel, steps, to, accumulate),
                3 => add_taps::<S, 3>(rows, offset, panel, steps, to, accumulate),
                4 => add_taps::<S, 4>(rows, offset, panel, steps, to, accumulate),
                5 => add_taps::<S, 5>(rows, offset, panel, steps, to, accumulate),
                6 => add_taps::<S, 6>(rows, offset, panel, steps, to, accumulate),
                7 => add_taps::<S, 7>(rows, offset, panel, steps, to, accumulate),
                _ => add_taps::<S, 8>(rows, offset, panel, steps, to, accumulate),
            }
        }
    }
}
