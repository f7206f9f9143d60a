//! Winograd convolution, forward and input gradient (which is the forward pass with taps turned round and
//! channels exchanged).
//!
//! The smaller operand is transformed once and stored, the other one where it is used ([`Order`]): large maps
//! of few channels go through in blocks of tiles, small maps of many channels in blocks of result channels.

use super::winograd::{
    CHANNEL_STEP, INPUT, MAX_OUTPUT, POINTS, Steps, Tiles, outputs, pixel_addresses, transform_input, transform_output,
};
use super::winograd_weights::{STAGED_SOURCES, Weights};
use crate::device::cpu::micro::{Pixels, WIDE_PIXELS};
use crate::device::cpu::scratch::{Shared, carve};
use crate::device::cpu::simd::{MAX_LANES, MAX_PANEL, dividing, lanes, panel_width, panel_width_at};
use crate::device::cpu::{Ctx, Place, Tile, TileSink, View, micro, scratch};
use crate::types::{ConvShape, Pass};

/// Tiles that are transformed back at a time, four register blocks.
const BLOCK_TILES: usize = 24;
/// Result channels between two inverse transforms.
const BLOCK_CHANNELS: usize = 64;
/// Transformed weights that are kept at a time, 4 MiB: more would cost memory and lie beyond the second-level cache, and
/// transforming the input once for each group of result channels is little work.
const GROUP_FLOATS: usize = 1 << 20;
/// Tiles that one item transforms where the input is stored.
const INPUT_TILES: usize = 4;
/// Floats added to a plane, so that the planes do not fall into the same cache sets.
const PLANE_PAD: usize = 16;

/// What an item of work is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// A block of tiles: its input is transformed, multiplied by the stored weights and transformed back in L2.
    Tiles,
    /// A block of result channels: its weights are transformed in L2 and multiply the stored input of all tiles.
    Channels,
}

/// The pass as a forward convolution.
pub(super) struct WinogradConv {
    weights: Weights,
    result: [usize; 2],
    tiles: Tiles,
    /// Zeros before the first row and column.
    pad: usize,
    order: Order,
    /// Tiles of a plane of transformed input.
    block_tiles: usize,
    /// Result channels whose weights are transformed at a time, where a block is one of tiles.
    group: usize,
}

impl WinogradConv {
    pub(super) fn new(s: &ConvShape, pass: Pass) -> WinogradConv {
        let forward = pass == Pass::Forward;
        let (source_ch, result_ch) = if forward { (s.in_ch, s.out_ch) } else { (s.out_ch, s.in_ch) };
        let result = if forward { [s.out_h, s.out_w] } else { [s.in_h, s.in_w] };
        let taps = s.ksize_h;
        let pad = if forward { s.pad } else { taps - 1 - s.pad };
        let tiles = Tiles::new(taps, s.batch, result[0], result[1]);
        let weights = Weights { taps, source_ch, result_ch, flipped: !forward };
        // Of V, tiles × source channels, and U, source × result channels, the smaller one goes through memory.
        let order = if tiles.count < result_ch { Order::Channels } else { Order::Tiles };
        let block_tiles = match order {
            Order::Tiles => BLOCK_TILES,
            Order::Channels => tiles.count.next_multiple_of(WIDE_PIXELS),
        };
        let groups = (POINTS * source_ch * result_ch).div_ceil(GROUP_FLOATS);
        let group = result_ch.div_ceil(groups).next_multiple_of(BLOCK_CHANNELS);
        WinogradConv { weights, result, tiles, pad, order, block_tiles, group }
    }

    /// Whether the algorithm can compute a pass: 3×3 or 4×4, stride 1, no dilation, channels in steps of 8.
    pub(super) fn supports(s: &ConvShape) -> bool {
        [[3, 3, 1, 1], [4, 4, 1, 1]].contains(&[s.ksize_h, s.ksize_w, s.stride, s.dilation])
            && !s.depthwise
            && s.pad < s.ksize_h
            && s.in_ch.is_multiple_of(CHANNEL_STEP)
            && s.out_ch.is_multiple_of(CHANNEL_STEP)
    }

    fn source_plane(&self) -> usize {
        self.block_tiles * self.weights.source_ch + PLANE_PAD
    }

    fn product_plane(&self) -> usize {
        self.block_tiles * BLOCK_CHANNELS + PLANE_PAD
    }

    /// Floats of scratch: U, zeros, V, then per thread products, and results or else staged weights.
    fn parts(&self, threads: usize) -> [usize; 5] {
        let Weights { source_ch, result_ch, .. } = self.weights;
        let per_thread = |floats| threads * scratch::whole_lines(floats);
        let input = POINTS * self.source_plane();
        let (weights, input) = match self.order {
            Order::Tiles => {
                let channels = self.group.min(result_ch.next_multiple_of(MAX_LANES));
                (POINTS * source_ch * channels, per_thread(input))
            }
            Order::Channels => (per_thread(POINTS * STAGED_SOURCES.min(source_ch) * BLOCK_CHANNELS), input),
        };
        let products = POINTS * self.product_plane();
        let results = BLOCK_TILES * MAX_OUTPUT * MAX_OUTPUT * BLOCK_CHANNELS;
        let staged = self.weights.staged_len(MAX_PANEL);
        [weights, source_ch, input, per_thread(products), per_thread(results.max(staged))]
    }

    pub(super) fn scratch_len(&self, threads: usize) -> usize {
        scratch::total(self.parts(threads))
    }

    /// Runs the convolution.
    ///
    /// # Safety
    /// The view and the weight have the sizes of the shape.
    pub(super) unsafe fn run(&self, ctx: &Ctx, source: View, weight: &[f32], sink: &dyn TileSink, scratch: &mut [f32]) {
        let parts = self.parts(ctx.pool.threads());
        let memory = carve(scratch, parts);
        // SAFETY: sized for the channels; the caller's promise.
        unsafe {
            memory[1].at(0).write_bytes(0, self.weights.source_ch);
            match self.order {
                Order::Tiles => self.run_tiles(ctx, source, weight, sink, memory, parts),
                Order::Channels => self.run_channels(ctx, source, weight, sink, memory, parts),
            }
        }
    }

    unsafe fn run_tiles(
        &self,
        ctx: &Ctx,
        source: View,
        weight: &[f32],
        sink: &dyn TileSink,
        [weights, zeros, inputs, products, results]: [Shared; 5],
        parts: [usize; 5],
    ) {
        let Weights { source_ch, result_ch, .. } = self.weights;
        let own = |part: Shared, i: usize, worker: usize| part.at(worker * (parts[i] / ctx.pool.threads()));
        let whole = panel_width(ctx.isa);
        for start in (0..result_ch).step_by(self.group) {
            let end = (start + self.group).min(result_ch);
            ctx.pool.run((end - start).div_ceil(whole), &|panel, worker| {
                let first = start + panel * whole;
                let to = weights.at((first - start) * POINTS * source_ch);
                let channels = first..(first + whole).min(end);
                // SAFETY: the worker's own memory and the item's own panel.
                unsafe { self.weights.transform(ctx, weight, 0..source_ch, channels, own(results, 4, worker), to) };
            });
            ctx.pool.run(self.tiles.count.div_ceil(BLOCK_TILES), &|item, worker| {
                let first = item * BLOCK_TILES;
                let block = Block { first, count: BLOCK_TILES.min(self.tiles.count - first), conv: self, ctx };
                let (input, products) = (own(inputs, 2, worker), own(products, 3, worker));
                // SAFETY: the parts were sized for this; each worker uses its own of the last three.
                unsafe {
                    block.transform_input(&source, zeros.at(0), input);
                    for c0 in (start..end).step_by(BLOCK_CHANNELS) {
                        let weights = weights.at((c0 - start) * POINTS * source_ch);
                        let channels = BLOCK_CHANNELS.min(end - c0);
                        block.multiply(input, source_ch, weights, channels, products, false);
                        block.store(products, own(results, 4, worker), c0, sink);
                    }
                }
            });
        }
    }

    unsafe fn run_channels(
        &self,
        ctx: &Ctx,
        source: View,
        weight: &[f32],
        sink: &dyn TileSink,
        [weights, zeros, inputs, products, results]: [Shared; 5],
        parts: [usize; 5],
    ) {
        let Weights { source_ch, result_ch, .. } = self.weights;
        let own = |part: Shared, i: usize, worker: usize| part.at(worker * (parts[i] / ctx.pool.threads()));
        let blocks = |size: usize| {
            let (tiles, conv) = (self.tiles.count, self);
            (0..tiles).step_by(size).map(move |first| Block { first, count: size.min(tiles - first), conv, ctx })
        };
        ctx.pool.run(self.tiles.count.div_ceil(INPUT_TILES), &|item, _| {
            let Some(block) = blocks(INPUT_TILES).nth(item) else { return };
            // SAFETY: the block's own tiles of the planes.
            unsafe { block.transform_input(&source, zeros.at(0), inputs.at(block.first * source_ch)) };
        });
        ctx.pool.run(result_ch.div_ceil(BLOCK_CHANNELS), &|item, worker| {
            let channels = item * BLOCK_CHANNELS..((item + 1) * BLOCK_CHANNELS).min(result_ch);
            let (weights, products) = (own(weights, 0, worker), own(products, 3, worker));
            let results = own(results, 4, worker);
            let all = Block { first: 0, count: self.tiles.count, conv: self, ctx };
            // SAFETY: the parts were sized for this; each worker uses its own of all but the input.
            unsafe {
                for s0 in (0..source_ch).step_by(STAGED_SOURCES) {
                    let sources = s0..(s0 + STAGED_SOURCES).min(source_ch);
                    let run = sources.len();
                    self.weights.transform(ctx, weight, sources, channels.clone(), results, weights);
                    all.multiply(inputs.at(s0), run, weights, channels.len(), products, s0 > 0);
                }
                for block in blocks(BLOCK_TILES) {
                    block.store(products.add(block.first * BLOCK_CHANNELS), results, channels.start, sink);
                }
            }
        });
    }
}

/// Consecutive tiles.
struct Block<'a> {
    conv: &'a WinogradConv,
    ctx: &'a Ctx<'a>,
    first: usize,
    count: usize,
}

impl Block<'_> {
    /// V as `[point][tile][source channel]`.
    unsafe fn transform_input(&self, source: &View, zeros: *const f32, to: *mut f32) {
        let (c, channels) = (self.conv, self.conv.weights.source_ch);
        let isa = dividing(self.ctx.isa, channels);
        for t in 0..self.count {
            let (n, y, x) = c.tiles.position(self.first + t);
            let corner = [y as isize - c.pad as isize, x as isize - c.pad as isize];
            let pixels = pixel_addresses::<POINTS>(source, n, INPUT, corner, zeros);
            // SAFETY: pixels of the view, or zeros; planes of the caller's part.
            unsafe { transform_input(isa, &pixels, channels, to.add(t * channels), c.source_plane()) };
        }
    }

    /// Products of `run` source channels as `[point][tile][channel of the block]`, written or added.
    unsafe fn multiply(
        &self,
        input: *const f32,
        run: usize,
        weights: *const f32,
        channels: usize,
        to: *mut f32,
        accumulate: bool,
    ) {
        let (c, isa) = (self.conv, self.ctx.isa);
        let source_ch = c.weights.source_ch;
        for point in 0..POINTS {
            for column in (0..channels).step_by(panel_width(isa)) {
                let width = panel_width_at(isa, channels, column);
                // SAFETY: planes of the worker's parts; a panel of this point, after whole ones. The tiles are
                // rounded up to whole register blocks, for which the planes have room.
                unsafe {
                    let weight = weights.add((column * POINTS + point * width) * run);
                    let (from, to) = (input.add(point * c.source_plane()), to.add(point * c.product_plane() + column));
                    for t in (0..self.count).step_by(WIDE_PIXELS) {
                        let block = Pixels {
                            source: std::array::from_fn(|i| from.add((t + i) * source_ch)),
                            result: std::array::from_fn(|i| to.add((t + i) * BLOCK_CHANNELS)),
                        };
                        micro::wide(isa, &block, &[0], run, weight, width, accumulate);
                    }
                }
            }
        }
    }

    /// Inverse transform, and rows of results to the sink.
    unsafe fn store(&self, products: *const f32, results: *mut f32, c0: usize, sink: &dyn TileSink) {
        let c = self.conv;
        let channels = BLOCK_CHANNELS.min(c.weights.result_ch - c0);
        let side = outputs(c.weights.taps);
        let mut done = 0;
        while done < self.count {
            let (n, y, x) = c.tiles.position(self.first + done);
            // Tiles up to the end of the row of tiles.
            let run = (c.tiles.cols - x / side).min(self.count - done);
            let row = run * side * BLOCK_CHANNELS;
            let vectors = channels.next_multiple_of(lanes(self.ctx.isa));
            let steps = Steps { channels: vectors, plane: c.product_plane(), row, pixel: BLOCK_CHANNELS };
            for t in 0..run {
                // SAFETY: planes and results of the worker's parts.
                unsafe {
                    let from = products.add((done + t) * BLOCK_CHANNELS);
                    let to = results.add(t * side * BLOCK_CHANNELS);
                    transform_output(self.ctx.isa, c.weights.taps, from, to, &steps);
                }
            }
            for i in 0..side.min(c.result[0] - y) {
                let pixels = (run * side).min(c.result[1] - x);
                let place = Place { n, y: y + i, x0: x, pixels, c0, channels };
                // SAFETY: a row of the worker's results, which no other block and group of channels has.
                unsafe { sink.store(Tile::from_raw(results.add(i * row), BLOCK_CHANNELS, place)) };
            }
            done += run;
        }
    }
}
