//! Winograd weight gradient: d_weight = Gᵀ \[Σ over tiles of D ⊙ V\] G. The tiles go through in chunks that stay
//! in the last-level cache. The 36 sums of products live in scratch memory until the end; those of many channels,
//! whose tiles are one chunk, are made and transformed block by block of weights in the threads' own caches.

use super::products::{ProductBlock, add_panel_6, slab_pixels};
use super::winograd::{
    INPUT, MAX_OUTPUT, POINTS, Steps, Tiles, outputs, pixel_addresses, transform_d_output, transform_d_weight,
    transform_input,
};
use crate::device::cpu::scratch::{Shared, carve};
use crate::device::cpu::simd::{MAX_LANES, dividing};
use crate::device::cpu::{Ctx, View, scratch};
use crate::types::ConvShape;

/// Floats of transformed tiles in a chunk.
const CHUNK_FLOATS: usize = 1 << 18;
/// Tiles that are transformed by one item.
const ITEM_TILES: usize = 8;
/// Output channels of a register block.
const PANEL: usize = 6;
/// Fewest tiles of a chunk: the sums of products go through memory once per chunk.
const LEAST_TILES: usize = 128;
/// Fewest weights per tap for which they go block by block: less sums stay in cache as they are.
const LEAST_LOCAL: usize = 1 << 16;
/// Output and input channels of such a block.
const LOCAL: [usize; 2] = [4 * PANEL, 64];
/// Floats after a plane that a register block reads.
const SLACK: usize = MAX_LANES;

/// Sizes of the pass.
pub(super) struct WinogradWeightGrad {
    shape: ConvShape,
    tiles: Tiles,
    chunk: usize,
    /// Whether the weights go block by block.
    local: bool,
}

impl WinogradWeightGrad {
    pub(super) fn new(shape: &ConvShape) -> WinogradWeightGrad {
        let tiles = Tiles::new(shape.ksize_h, shape.batch, shape.out_h, shape.out_w);
        let fitting = CHUNK_FLOATS / (POINTS * (shape.in_ch + shape.out_ch));
        let chunk = fitting.max(LEAST_TILES).min(tiles.count);
        let local = chunk == tiles.count && shape.in_ch * shape.out_ch >= LEAST_LOCAL;
        WinogradWeightGrad { shape: *shape, tiles, chunk, local }
    }

    fn out_ch_padded(&self) -> usize {
        self.shape.out_ch.next_multiple_of(PANEL)
    }

    fn input_plane(&self) -> usize {
        self.chunk * self.shape.in_ch + SLACK
    }

    fn d_output_plane(&self) -> usize {
        self.chunk * self.out_ch_padded() + SLACK
    }

    fn sum_plane(&self) -> usize {
        let weights = if self.local { LOCAL[0] * LOCAL[1] } else { self.shape.out_ch * self.shape.in_ch };
        weights + SLACK
    }

    /// Floats of scratch: V, D, sums of products, zeros, and per thread one tile's D.
    fn parts(&self, threads: usize) -> [usize; 5] {
        let s = &self.shape;
        let tile = POINTS * s.out_ch;
        let sums = if self.local { threads } else { 1 } * scratch::whole_lines(POINTS * self.sum_plane());
        [
            POINTS * self.input_plane() + SLACK,
            POINTS * self.d_output_plane(),
            sums,
            s.in_ch.max(s.out_ch),
            threads * scratch::whole_lines(tile),
        ]
    }

    pub(super) fn scratch_len(&self, threads: usize) -> usize {
        scratch::total(self.parts(threads))
    }

    /// Computes the gradient.
    ///
    /// # Safety
    /// The views and the gradient have the sizes of the shape.
    pub(super) unsafe fn run(&self, ctx: &Ctx, input: View, d_output: View, d_weight: &mut [f32], scratch: &mut [f32]) {
        let s = &self.shape;
        let parts = self.parts(ctx.pool.threads());
        let [inputs, d_outputs, sums, zeros, tile] = carve(scratch, parts);
        let taps = s.ksize_h;
        let steps = Steps { channels: s.out_ch, plane: s.out_ch, row: 0, pixel: 0 };
        let tile_step = parts[4] / ctx.pool.threads();
        // SAFETY: sized for both tensors' channels.
        unsafe { zeros.at(0).write_bytes(0, parts[3]) };
        for first in (0..self.tiles.count).step_by(self.chunk) {
            let count = self.chunk.min(self.tiles.count - first);
            ctx.pool.run(count.div_ceil(ITEM_TILES), &|item, worker| {
                for t in item * ITEM_TILES..((item + 1) * ITEM_TILES).min(count) {
                    let (n, y, x) = self.tiles.position(first + t);
                    let corner = [y as isize - s.pad as isize, x as isize - s.pad as isize];
                    let pixels = pixel_addresses::<POINTS>(&input, n, INPUT, corner, zeros.at(0));
                    let to = inputs.at(t * s.in_ch);
                    let corner = [y as isize, x as isize];
                    let d_pixels: [_; MAX_OUTPUT * MAX_OUTPUT] =
                        pixel_addresses(&d_output, n, outputs(taps), corner, zeros.at(0));
                    let staged = tile.at(worker * tile_step);
                    // SAFETY: pixels of the views, or zeros; this tile's places in the planes.
                    unsafe {
                        transform_input(dividing(ctx.isa, s.in_ch), &pixels, s.in_ch, to, self.input_plane());
                        transform_d_output(dividing(ctx.isa, s.out_ch), taps, &d_pixels, staged, &steps);
                        self.spread_panels(staged, d_outputs, t, count);
                    }
                }
            });
            // SAFETY: the planes are written; items own disjoint sums.
            unsafe {
                if self.local {
                    let step = parts[2] / ctx.pool.threads();
                    return self.blocks(ctx, inputs, d_outputs, sums, step, Shared::new(d_weight.as_mut_ptr()));
                }
                self.multiply(ctx, count, inputs, d_outputs, sums, first > 0);
            }
        }
        let d_weight = Shared::new(d_weight.as_mut_ptr());
        let steps = Steps { channels: s.in_ch, plane: self.sum_plane(), row: taps * s.in_ch, pixel: s.in_ch };
        ctx.pool.run(s.out_ch, &|o, _| {
            // SAFETY: the item's own output channel.
            unsafe {
                let (from, to) = (sums.at(o * s.in_ch), d_weight.at(o * taps * taps * s.in_ch));
                transform_d_weight(dividing(ctx.isa, s.in_ch), taps, from, to, &steps);
            }
        });
    }

    /// Copies one tile's D to its places in `[point][panel][tile][channel of the panel]`.
    unsafe fn spread_panels(&self, from: *const f32, to: Shared, tile: usize, count: usize) {
        let out_ch = self.shape.out_ch;
        for point in 0..POINTS {
            for p in 0..out_ch.div_ceil(PANEL) {
                let to = to.at(point * self.d_output_plane() + (p * count + tile) * PANEL);
                let channels = PANEL.min(out_ch - p * PANEL);
                // SAFETY: a place of this tile's own; `from` has all points of all channels.
                unsafe {
                    let from = from.add(point * out_ch + p * PANEL);
                    if channels == PANEL {
                        // A constant size compiles to moves instead of a call.
                        std::ptr::copy_nonoverlapping(from, to, PANEL);
                    } else {
                        std::ptr::copy_nonoverlapping(from, to, channels);
                        to.add(channels).write_bytes(0, PANEL - channels);
                    }
                }
            }
        }
    }

    /// Adds a chunk's products to the sums, `[point][output channel][input channel]`.
    unsafe fn multiply(&self, ctx: &Ctx, count: usize, inputs: Shared, d_outputs: Shared, sums: Shared, later: bool) {
        let s = &self.shape;
        // An item is a point and a part of the panels: enough items for many threads.
        let panels = s.out_ch.div_ceil(PANEL);
        let part_panels = panels.div_ceil(panels.div_ceil(11));
        let parts = panels.div_ceil(part_panels);
        let slab = slab_pixels(s.in_ch);
        ctx.pool.run(POINTS * parts, &|item, _| {
            let (point, part) = (item / parts, item % parts);
            for tile in (0..count).step_by(slab) {
                let row = [Shared::new(inputs.at(point * self.input_plane() + tile * s.in_ch))];
                for p in part * part_panels..((part + 1) * part_panels).min(panels) {
                    let block = ProductBlock {
                        pixels: slab.min(count - tile),
                        pixel_step: s.in_ch,
                        out_stride: s.in_ch,
                        out_channels: PANEL.min(s.out_ch - p * PANEL),
                        columns: s.in_ch,
                    };
                    // SAFETY: the planes of this point; sums owned by this item.
                    unsafe {
                        let panel = d_outputs.at(point * self.d_output_plane() + (p * count + tile) * PANEL);
                        let to = sums.at(point * self.sum_plane() + p * PANEL * s.in_ch);
                        add_panel_6(ctx.isa, &row, 0, panel, &block, to, later || tile > 0);
                    }
                }
            }
        });
    }

    /// Sums of products of all tiles and the gradient, block by block of weights.
    unsafe fn blocks(&self, ctx: &Ctx, inputs: Shared, d_outputs: Shared, sums: Shared, step: usize, d_weight: Shared) {
        let (s, count, [out_block, in_block]) = (&self.shape, self.tiles.count, LOCAL);
        let (taps, across) = (s.ksize_h, s.in_ch.div_ceil(in_block));
        ctx.pool.run(s.out_ch.div_ceil(out_block) * across, &|item, worker| {
            let (o0, i0) = (item / across * out_block, item % across * in_block);
            let (outs, columns) = (out_block.min(s.out_ch - o0), in_block.min(s.in_ch - i0));
            let sums = sums.at(worker * step);
            for (point, o) in (0..POINTS).flat_map(|point| (0..outs).step_by(PANEL).map(move |o| (point, o))) {
                let row = [Shared::new(inputs.at(point * self.input_plane() + i0))];
                let out_channels = PANEL.min(outs - o);
                let block =
                    ProductBlock { pixels: count, pixel_step: s.in_ch, out_stride: in_block, out_channels, columns };
                // SAFETY: the planes of this point; the worker's own sums.
                unsafe {
                    let panel = d_outputs.at(point * self.d_output_plane() + (o0 + o) * count);
                    let to = sums.add(point * self.sum_plane() + o * in_block);
                    add_panel_6(ctx.isa, &row, 0, panel, &block, to, false);
                }
            }
            let steps = Steps { channels: columns, plane: self.sum_plane(), row: taps * s.in_ch, pixel: s.in_ch };
            let isa = dividing(ctx.isa, columns);
            for o in 0..outs {
                // SAFETY: the worker's own sums; weights that this item owns.
                unsafe {
                    let to = d_weight.at((o0 + o) * taps * taps * s.in_ch + i0);
                    transform_d_weight(isa, taps, sums.add(o * in_block), to, &steps);
                }
            }
        });
    }
}
