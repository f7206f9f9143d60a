//! Batch normalisation (Ioffe and Szegedy, ICML 2015) and instance normalisation:
//! `output = (x − mean)·invstd·gamma + beta` with the mean and the biased variance of each channel over all
//! images (batch) or over one image (instance), `invstd = 1/√(var + 1e-5)`.
//!
//! **Statistics** are one tensor (G,1,1,3C): mean, invstd and biased variance per channel, with G = 1 or G = N
//! groups of pixels. They are a function of x, and so are the sums that gradients need; but no gradient ever
//! flows through these tensors. Instead, each op here that reads them beside x has a derivative rule that
//! counts the dependence through them as part of the gradient for x. So the rules hold for the ops applied to
//! the statistics of their x, as [`batch_norm`] and [`instance_norm`] do, not operand by operand.
//!
//! | op | computes | passes over memory |
//! | --- | --- | --- |
//! | [`Statistics`] | statistics of x | x once |
//! | [`Apply`] | the output | pointwise, fused |
//! | [`GradSums`] | Σ d_output, Σ d_output·x̂: d_beta and d_gamma | d_output and x once |
//! | [`InputGrad`] | d_x | pointwise, fused |
//! | [`SecondGrad`] | the gradient of `InputGrad` for x (R1 penalty) | pointwise, fused |
//!
//! **Several ranks** may share statistics: those of the whole batch, of which each has an equal part ([`Joined`]). Ops on
//! shared statistics are `synced`: where they need sums over the whole group, they take the mean over ranks of each rank's
//! sums, which belongs to the pixels of one. gamma and beta are the same on all ranks; their gradients are over a rank's own
//! pixels, as those of every parameter.

mod apply;
mod grad;
mod joined;
mod reduce;
mod second;
mod statistics;
#[cfg(test)]
mod tests;

use std::ops::Range;

use super::add::Add;
use super::mul::Mul;
use super::rank_mean::RankMean;
use super::slice::SliceChannels;
use crate::Result;
use crate::device::cpu::{Place, View};
use crate::graph::{Tape, Value};
use crate::types::Shape;

pub use apply::{Apply, InvStd};
pub use grad::{GradSums, InputGrad};
pub use joined::Joined;
pub use second::SecondGrad;
pub use statistics::{Over, Statistics};
#[cfg(test)]
pub(super) use tests::{cases, cases_of};

/// Added to the variance.
pub const EPS: f64 = 1e-5;

/// Share of the batch in the running statistics.
const MOMENTUM: f64 = 0.1;

/// What a batch normalisation takes statistics of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// What was measured before: evaluation.
    Running,
    /// The batches of this many ranks, of which one is at hand: training.
    Batches(usize),
}

/// Batch normalisation of x (N,H,W,C). `gamma`, `beta` and the `running` (mean, variance) are vectors
/// (1,1,1,C).
///
/// In training the batch's own statistics are used, and the moved running ones are returned, their variance
/// unbiased; in evaluation the running ones are used.
///
/// # Errors
/// Fails if the extents do not fit, or if a training batch has only one value per channel.
pub fn batch_norm(
    tape: &mut Tape,
    x: Value,
    gamma: Value,
    beta: Value,
    running: (Value, Value),
    by: By,
) -> Result<(Value, Option<(Value, Value)>)> {
    let By::Batches(ranks) = by else {
        let inv = tape.push(InvStd, &[running.1])?;
        let scale = tape.push(Mul, &[gamma, inv])?;
        // The mean first: with it inside a shift, large means would cancel.
        let centred = tape.push(Add::DIFFERENCE, &[x, running.0])?;
        let scaled = tape.push(Mul, &[centred, scale])?;
        return Ok((tape.push(Add::SUM, &[scaled, beta])?, None));
    };
    let stats = joined::joined(tape, x, ranks)?;
    let y = tape.push(Apply { synced: ranks > 1 }, &[x, stats, gamma, beta])?;
    let count = (tape.shape(x).pixels() * ranks) as f64;
    let channels = tape.shape(x).c();
    let mean = part(tape, stats, channels, 0)?;
    let var = part(tape, stats, channels, 2)?;
    let moved = |beta: f64| Add { alpha: (1.0 - MOMENTUM) as f32, beta: beta as f32 };
    let new_mean = tape.push(moved(MOMENTUM), &[running.0, mean])?;
    let new_var = tape.push(moved(MOMENTUM * count / (count - 1.0)), &[running.1, var])?;
    Ok((y, Some((new_mean, new_var))))
}

/// Instance normalisation of x (N,H,W,C) without parameters, the same in training and evaluation.
///
/// # Errors
/// Fails if images have only one pixel.
pub fn instance_norm(tape: &mut Tape, x: Value) -> Result<Value> {
    let stats = tape.push(Statistics { over: Over::Image }, &[x])?;
    tape.push(Apply { synced: false }, &[x, stats])
}

/// Part `index` of statistics (0 mean, 1 invstd, 2 variance) or of sums (0 Σ d_output, 1 Σ d_output·x̂), over
/// `channels` channels.
fn part(tape: &mut Tape, tensor: Value, channels: usize, index: usize) -> Result<Value> {
    tape.push(SliceChannels { offset: index * channels, channels }, &[tensor])
}

/// Sums over a group from `sums` over this rank's pixels of it. What belongs to `synced` statistics is the mean over ranks,
/// to be divided by a rank's number of pixels.
fn over_group(tape: &mut Tape, synced: bool, sums: Value) -> Result<Value> {
    if synced { tape.push(RankMean, &[sums]) } else { Ok(sums) }
}

/// Pixels of this rank that share statistics: those of x (N,H,W,C) divided by the number of groups.
pub(super) fn group_pixels(x: Shape, groups: usize) -> usize {
    x.pixels() / groups
}

/// Whether `v` holds `parts` values per channel of `x` for one group or for each image.
fn check_parts(x: Shape, v: Shape, parts: usize) -> Result<(), String> {
    let [groups, h, w, c] = v.0;
    if (groups == 1 || groups == x.n()) && [h, w, c] == [1, 1, parts * x.c()] {
        return Ok(());
    }
    Err(format!("{v} does not hold {parts} values per channel of {x}"))
}

/// The row of a per-group vector that belongs to image `n`.
fn row<'a>(view: &View<'a>, n: usize) -> &'a [f32] {
    view.pixel(if view.n() == 1 { 0 } else { n })
}

/// Channels that a pointwise op works on at a time, with its per-channel factors in registers or L1.
const CHUNK: usize = 64;

/// The channels that are worked on, of pixel `p` of a tile, in a tensor of the tile's extent.
#[inline(always)]
fn under<'a>(view: &View<'a>, place: &Place, p: usize, channels: Range<usize>) -> &'a [f32] {
    let pixel = (place.n * view.h() + place.y) * view.w() + place.x0 + p;
    &view.pixel(pixel)[channels]
}

/// Calls `work(first, len)` for a tile's channels in chunks, `first` counted inside the tile.
#[inline(always)]
fn chunks(place: Place, mut work: impl FnMut(usize, usize)) {
    for first in (0..place.channels).step_by(CHUNK) {
        work(first, CHUNK.min(place.channels - first));
    }
}
