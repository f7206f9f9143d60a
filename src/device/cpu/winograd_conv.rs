//! Winograd convolution, forward and input gradient (which is the forward pass with taps turned round and
//! channels exchanged). An item of work is a block of tiles: transform, 36 products, inverse, all in L2.

use super::micro::{self, Pixels, WIDE_PIXELS};
use super::scratch::{self, Shared, carve};
use super::simd::{MAX_LANES, lanes};
use super::winograd::{
    INPUT, MAX_OUTPUT, POINTS, Steps, Tiles, outputs, pixel_addresses, transform_input, transform_output,
    transform_weight,
};
use super::{ConvShape, Ctx, Pass, Tile, TileSink, View};

/// Tiles of an item, four register blocks.
const BLOCK_TILES: usize = 24;
/// Result channels between two inverse transforms.
const BLOCK_CHANNELS: usize = 64;
/// Floats added to a plane, so that the planes do not fall into the same cache sets.
const PLANE_PAD: usize = 16;
/// Channels of a panel of transformed weights on the widest instruction set; what sizes are rounded up to.
const PANEL: usize = 2 * MAX_LANES;

/// The pass as a forward convolution.
pub(super) struct WinogradConv {
    /// Side of the kernel.
    taps: usize,
    source_ch: usize,
    result_ch: usize,
    result: [usize; 2],
    tiles: Tiles,
    /// Zeros before the first row and column.
    pad: usize,
    flipped: bool,
}

impl WinogradConv {
    pub(super) fn new(s: &ConvShape, pass: Pass) -> WinogradConv {
        let forward = pass == Pass::Forward;
        let (source_ch, result_ch) = if forward { (s.in_ch, s.out_ch) } else { (s.out_ch, s.in_ch) };
        let result = if forward { [s.out_h, s.out_w] } else { [s.in_h, s.in_w] };
        let taps = s.ksize_h;
        let pad = if forward { s.pad } else { taps - 1 - s.pad };
        let tiles = Tiles::new(taps, s.batch, result[0], result[1]);
        WinogradConv { taps, source_ch, result_ch, result, tiles, pad, flipped: !forward }
    }

    /// Whether the algorithm can compute a pass: 3×3 or 4×4, stride 1, no dilation, whole vectors of channels.
    pub(super) fn supports(s: &ConvShape) -> bool {
        [[3, 3, 1, 1], [4, 4, 1, 1]].contains(&[s.ksize_h, s.ksize_w, s.stride, s.dilation])
            && !s.depthwise
            && s.pad < s.ksize_h
            && s.in_ch.is_multiple_of(MAX_LANES)
            && s.out_ch.is_multiple_of(MAX_LANES)
    }

    fn source_plane(&self) -> usize {
        BLOCK_TILES * self.source_ch + PLANE_PAD
    }

    /// Floats of scratch: U, zeros, then per thread V, products, results.
    fn parts(&self, threads: usize) -> [usize; 5] {
        let weights = POINTS * self.source_ch * self.result_ch.next_multiple_of(PANEL);
        let source = POINTS * self.source_plane();
        let products = POINTS * (BLOCK_TILES * BLOCK_CHANNELS + PLANE_PAD);
        let results = BLOCK_TILES * MAX_OUTPUT * MAX_OUTPUT * BLOCK_CHANNELS;
        // The taps of one panel, transposed, before they are transformed.
        let staged = self.taps * self.taps * self.source_ch * PANEL;
        let per_thread = |floats| threads * scratch::whole_lines(floats);
        [weights, self.source_ch, per_thread(source.max(staged)), per_thread(products), per_thread(results)]
    }

    pub(super) fn scratch_len(&self, threads: usize) -> usize {
        scratch::total(self.parts(threads))
    }

    /// Runs the convolution.
    ///
    /// # Safety
    /// The view's elements are readable and unchanged during the call.
    pub(super) unsafe fn run(&self, ctx: &Ctx, source: View, weight: &[f32], sink: &dyn TileSink, scratch: &mut [f32]) {
        let threads = ctx.pool.threads();
        let parts = self.parts(threads);
        let [weights, zeros, inputs, products, results] = carve(scratch, parts);
        // SAFETY: the parts were sized for this; each worker uses its own of the last three.
        unsafe {
            zeros.at(0).write_bytes(0, self.source_ch);
            self.transform_weights(ctx, weight, weights, inputs, parts[2] / threads);
        }
        ctx.pool.run(self.tiles.count.div_ceil(BLOCK_TILES), &|item, worker| {
            let own = |part: Shared, i: usize| part.at(worker * (parts[i] / threads));
            let first = item * BLOCK_TILES;
            let block = Block { first, count: BLOCK_TILES.min(self.tiles.count - first), conv: self, ctx };
            // SAFETY: as above.
            unsafe {
                let input = own(inputs, 2);
                block.transform_input(&source, zeros.at(0), input);
                for c0 in (0..self.result_ch).step_by(BLOCK_CHANNELS) {
                    block.multiply(input, weights.at(0), own(products, 3), c0);
                    block.store(own(products, 3), own(results, 4), c0, sink);
                }
            }
        });
    }

    /// U as `[panel][point][source channel][channel of the panel]`.
    unsafe fn transform_weights(&self, ctx: &Ctx, weight: &[f32], to: Shared, staging: Shared, staging_step: usize) {
        let width = 2 * lanes(ctx.isa);
        let (sources, results, taps) = (self.source_ch, self.result_ch, self.taps * self.taps);
        let steps = Steps { channels: width, plane: sources * width, row: 0, pixel: 0 };
        ctx.pool.run(results.div_ceil(width), &|panel, worker| {
            let valid = width.min(results - panel * width);
            // SAFETY: the worker's own staging memory and the item's own panel.
            unsafe {
                let staged = staging.at(worker * staging_step);
                let staged = std::slice::from_raw_parts_mut(staged, taps * sources * width);
                for (tap, staged) in staged.chunks_exact_mut(sources * width).enumerate() {
                    self.stage_tap(weight, tap, panel * width, valid, width, staged);
                }
                for s in 0..sources {
                    let at = |tap: usize| staged.as_ptr().wrapping_add((tap.min(taps - 1) * sources + s) * width);
                    let from: [*const f32; MAX_OUTPUT * MAX_OUTPUT] = std::array::from_fn(at);
                    let to = to.at((panel * POINTS * sources + s) * width);
                    transform_weight(ctx.isa, self.taps, &from, to, &steps);
                }
            }
        });
    }

    /// One tap of `width` result channels from `first` on, as `[source channel][result channel]`.
    fn stage_tap(&self, weight: &[f32], tap: usize, first: usize, valid: usize, width: usize, to: &mut [f32]) {
        let taps = self.taps * self.taps;
        if self.flipped {
            // Weight memory is (source of this pass, tap, result of this pass).
            for (s, to) in to.chunks_exact_mut(width).enumerate() {
                let from = &weight[(s * taps + taps - 1 - tap) * self.result_ch + first..][..valid];
                to[..valid].copy_from_slice(from);
                to[valid..].fill(0.0);
            }
            return;
        }
        for r in 0..width {
            if r < valid {
                let from = &weight[((first + r) * taps + tap) * self.source_ch..][..self.source_ch];
                from.iter().enumerate().for_each(|(s, w)| to[s * width + r] = *w);
            } else {
                (0..self.source_ch).for_each(|s| to[s * width + r] = 0.0);
            }
        }
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
        let c = self.conv;
        for t in 0..self.count {
            let (n, y, x) = c.tiles.position(self.first + t);
            let corner = [y as isize - c.pad as isize, x as isize - c.pad as isize];
            let pixels = pixel_addresses::<POINTS>(source, n, INPUT, corner, zeros);
            // SAFETY: pixels of the view, or zeros; planes of the worker's part.
            unsafe {
                transform_input(self.ctx.isa, &pixels, c.source_ch, to.add(t * c.source_ch), c.source_plane());
            }
        }
    }

    /// Products as `[point][tile][channel of the block]`.
    unsafe fn multiply(&self, input: *const f32, weights: *const f32, to: *mut f32, c0: usize) {
        let c = self.conv;
        let width = 2 * lanes(self.ctx.isa);
        let plane = BLOCK_TILES * BLOCK_CHANNELS + PLANE_PAD;
        let panel_floats = c.source_ch * width;
        let channels = BLOCK_CHANNELS.min(c.result_ch - c0);
        for point in 0..POINTS {
            for column in (0..channels).step_by(width) {
                // SAFETY: planes of the worker's parts; a panel of this point. A block of tiles is rounded up
                // to whole register blocks, which fit: the planes hold BLOCK_TILES tiles.
                unsafe {
                    let weight = weights.add(((c0 + column) / width * POINTS + point) * panel_floats);
                    let (from, to) = (input.add(point * c.source_plane()), to.add(point * plane + column));
                    for t in (0..self.count).step_by(WIDE_PIXELS) {
                        let block = Pixels {
                            source: std::array::from_fn(|i| from.add((t + i) * c.source_ch)),
                            result: std::array::from_fn(|i| to.add((t + i) * BLOCK_CHANNELS)),
                        };
                        micro::wide(self.ctx.isa, &block, &[0], c.source_ch, weight, false);
                    }
                }
            }
        }
    }

    /// Inverse transform, and rows of results to the sink.
    unsafe fn store(&self, products: *const f32, results: *mut f32, c0: usize, sink: &dyn TileSink) {
        let c = self.conv;
        let channels = BLOCK_CHANNELS.min(c.result_ch - c0);
        let plane = BLOCK_TILES * BLOCK_CHANNELS + PLANE_PAD;
        let side = outputs(c.taps);
        let mut done = 0;
        while done < self.count {
            let (n, y, x) = c.tiles.position(self.first + done);
            // Tiles up to the end of the row of tiles.
            let run = (c.tiles.cols - x / side).min(self.count - done);
            let row = run * side * BLOCK_CHANNELS;
            let steps = Steps { channels, plane, row, pixel: BLOCK_CHANNELS };
            for t in 0..run {
                // SAFETY: planes and results of the worker's parts.
                unsafe {
                    let from = products.add((done + t) * BLOCK_CHANNELS);
                    let to = results.add(t * side * BLOCK_CHANNELS);
                    transform_output(self.ctx.isa, c.taps, from, to, &steps);
                }
            }
            for i in 0..side.min(c.result[0] - y) {
                sink.store(&Tile {
                    data: results.wrapping_add(i * row),
                    row_stride: BLOCK_CHANNELS,
                    n,
                    y: y + i,
                    x0: x,
                    pixels: (run * side).min(c.result[1] - x),
                    c0,
                    channels,
                });
            }
            done += run;
        }
    }
}
