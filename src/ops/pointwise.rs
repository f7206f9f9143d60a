//! Helpers for pointwise ops: walking a tile together with operands that may repeat over pixels, images or
//! channels.

use crate::device::cpu::{Tile, View};
use crate::graph::Tensor64;
use crate::types::Shape;

/// An operand's elements at the positions of a tile.
#[derive(Clone, Copy)]
pub struct Operand {
    ptr: *const f32,
    pixel_step: usize,
    channel_step: usize,
}

impl Operand {
    /// The part of `view` under `tile`; extents of 1 are repeated.
    pub fn under(view: &View, tile: &Tile) -> Self {
        let at = |extent: usize, i: usize| if extent == 1 { 0 } else { i };
        let pixel = (at(view.n, tile.n) * view.h + at(view.h, tile.y)) * view.w + at(view.w, tile.x0);
        let offset = pixel * view.stride + at(view.c, tile.c0);
        Operand {
            // SAFETY: the plan checked that the operand broadcasts to the tile's tensor, so the first element
            // of the tile has a counterpart inside the view.
            ptr: unsafe { view.ptr.add(offset) },
            pixel_step: if view.w == 1 { 0 } else { view.stride },
            channel_step: usize::from(view.c != 1),
        }
    }

    /// The element for channel `c` of pixel `p` of the tile.
    ///
    /// # Safety
    /// `p` and `c` lie inside the tile.
    #[inline(always)]
    pub unsafe fn get(&self, p: usize, c: usize) -> f32 {
        // SAFETY: the caller's promise, and the extents checked by the plan.
        unsafe { *self.ptr.add(p * self.pixel_step + c * self.channel_step) }
    }
}

/// The tile's values of pixel `p`.
///
/// # Safety
/// `p < tile.pixels`, and nobody else writes the tile.
#[inline(always)]
unsafe fn row<'a>(tile: &Tile, p: usize) -> &'a mut [f32] {
    // SAFETY: the caller's promise; a tile owns `channels` floats at each pixel.
    unsafe { std::slice::from_raw_parts_mut(tile.data.add(p * tile.row_stride), tile.channels) }
}

/// `tile = f(tile)`.
#[inline(always)]
pub fn map(tile: &mut Tile, f: impl Fn(f32) -> f32) {
    if tile.row_stride == tile.channels {
        // SAFETY: a dense tile is one run of pixels·channels floats.
        let all = unsafe { std::slice::from_raw_parts_mut(tile.data, tile.pixels * tile.channels) };
        all.iter_mut().for_each(|v| *v = f(*v));
        return;
    }
    for p in 0..tile.pixels {
        // SAFETY: `p` is inside.
        unsafe { row(tile, p) }.iter_mut().for_each(|v| *v = f(*v));
    }
}

/// `tile = f(tile, a)` with `a` repeated as needed.
#[inline(always)]
pub fn map2(tile: &mut Tile, a: &View, f: impl Fn(f32, f32) -> f32) {
    let a = Operand::under(a, tile);
    if a.channel_step == 1 && a.pixel_step == tile.channels && tile.row_stride == tile.channels {
        let count = tile.pixels * tile.channels;
        // SAFETY: both are dense runs of `count` floats.
        let (all, other) =
            unsafe { (std::slice::from_raw_parts_mut(tile.data, count), std::slice::from_raw_parts(a.ptr, count)) };
        all.iter_mut().zip(other).for_each(|(v, o)| *v = f(*v, *o));
        return;
    }
    for p in 0..tile.pixels {
        // SAFETY: `p` is inside the tile; an operand with channel step 1 has all the tile's channels.
        unsafe {
            let values = row(tile, p);
            if a.channel_step == 1 {
                let other = std::slice::from_raw_parts(a.ptr.add(p * a.pixel_step), tile.channels);
                values.iter_mut().zip(other).for_each(|(v, o)| *v = f(*v, *o));
            } else {
                let o = a.get(p, 0);
                values.iter_mut().for_each(|v| *v = f(*v, o));
            }
        }
    }
}

/// `tile[p][c] = f(tile[p][c], p, c)`, for ops with more than one operand; `p` and `c` index [`Operand::get`].
#[inline(always)]
pub fn map_indexed(tile: &mut Tile, f: impl Fn(f32, usize, usize) -> f32) {
    for p in 0..tile.pixels {
        // SAFETY: `p` is inside.
        let values = unsafe { row(tile, p) };
        for (c, v) in values.iter_mut().enumerate() {
            *v = f(*v, p, c);
        }
    }
}

/// The f64 reference of a pointwise op: `f` of the operands' elements at each position, repeated as needed.
pub fn reference(inputs: &[&Tensor64], output: Shape, f: impl Fn(&[f64]) -> f64) -> Tensor64 {
    let mut at_position = vec![0.0; inputs.len()];
    Tensor64::from_fn(output, |at| {
        at_position.iter_mut().zip(inputs).for_each(|(slot, t)| *slot = t.at(at));
        f(&at_position)
    })
}

/// The output's extent of an op whose operand 0 is full and whose others repeat to it.
pub fn broadcast_shape(inputs: &[Shape]) -> Result<Shape, String> {
    let full = inputs[0];
    match inputs.iter().find(|s| !s.broadcasts_to(&full)) {
        Some(s) => Err(format!("{s} cannot be repeated to {full}")),
        None => Ok(full),
    }
}
