//! Helpers for pointwise ops: walking a tile together with operands that may repeat over pixels, images or
//! channels.

use crate::device::cpu::{Tile, View};
use crate::graph::Tensor64;
use crate::types::Shape;

/// `tile = f(tile)`.
#[inline(always)]
pub fn map(tile: &mut Tile, f: impl Fn(f32) -> f32) {
    if let Some(all) = tile.dense_mut() {
        all.iter_mut().for_each(|v| *v = f(*v));
        return;
    }
    for p in 0..tile.place().pixels {
        tile.pixel_mut(p).iter_mut().for_each(|v| *v = f(*v));
    }
}

/// `tile = f(tile, a)` with `a` repeated as needed.
#[inline(always)]
pub fn map2(tile: &mut Tile, a: &View, f: impl Fn(f32, f32) -> f32) {
    let place = tile.place();
    let at = |extent: usize, i: usize| if extent == 1 { 0 } else { i };
    let first = (at(a.n(), place.n) * a.h() + at(a.h(), place.y)) * a.w() + at(a.w(), place.x0);
    let (repeats_pixel, repeats_channel) = (a.w() == 1, a.c() == 1);
    if !repeats_pixel
        && !repeats_channel
        && a.stride() == place.channels
        && let Some(all) = tile.dense_mut()
    {
        all.iter_mut().zip(a.run(first, place.pixels)).for_each(|(v, o)| *v = f(*v, *o));
        return;
    }
    for p in 0..place.pixels {
        let other = a.pixel(if repeats_pixel { first } else { first + p });
        let values = tile.pixel_mut(p);
        if repeats_channel {
            let o = other[0];
            values.iter_mut().for_each(|v| *v = f(*v, o));
        } else {
            let other = &other[place.c0..place.c0 + place.channels];
            values.iter_mut().zip(other).for_each(|(v, o)| *v = f(*v, *o));
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
