//! Direct weight gradients: d_weight\[o, tap, i\] = Σ over pixels of d_output\[o\] input\[tap, i\].
//!
//! The pixels go through in chunks: the input is copied with its padding, d_output in panels of a few
//! channels; then items that own disjoint weights add the chunk's pixels, in order. Lanes run along the input
//! channels (and, without dilation, on through the taps of a kernel row, which are adjacent in memory on both
//! sides), so nothing is transposed.

use super::band::{Rect, copy_rect};
use super::products::{DEPTHWISE_TAPS, ProductBlock, add_depthwise, add_panel_4, add_panel_6, slab_pixels};
use crate::device::cpu::scratch::{Shared, carve};
use crate::device::cpu::simd::{MAX_LANES, lanes};
use crate::device::cpu::{Ctx, View, scratch};
use crate::types::ConvShape;

/// Floats of copied input in a chunk: what the threads' L2 caches hold.
const CHUNK_FLOATS: usize = 192 * 1024;
/// Weights of a kernel row that an item owns for each of its output channels.
const ITEM_RUN: usize = 192;
/// Most floats after a run that a kernel reads.
const SLACK: usize = MAX_LANES;

/// Output rows `y0 .. y0 + rows` of images `n0 .. n0 + images`.
#[derive(Clone, Copy)]
struct Chunk {
    n0: usize,
    images: usize,
    y0: usize,
    rows: usize,
}

/// How the pixels are cut and where they are copied to.
pub(super) struct WeightGrad {
    shape: ConvShape,
    /// Images and output rows of the largest chunk.
    chunk: [usize; 2],
    /// Floats per copied input pixel.
    pixel: usize,
    /// Channels of a panel of d_output.
    panel: usize,
}

impl WeightGrad {
    pub(super) fn new(shape: &ConvShape) -> WeightGrad {
        let s = *shape;
        let padded = s.in_ch.next_multiple_of(MAX_LANES);
        let pixel = if s.depthwise { padded } else { s.in_ch };
        let four_fits_better = s.out_ch.next_multiple_of(4) * 33 < s.out_ch.next_multiple_of(6) * 32;
        let panel = if s.depthwise {
            padded
        } else if four_fits_better {
            4
        } else {
            6
        };
        let mut plan = WeightGrad { shape: s, chunk: [1, s.out_h], pixel, panel };
        let image = plan.image_floats(s.out_h);
        if image <= CHUNK_FLOATS {
            plan.chunk[0] = (CHUNK_FLOATS / image).min(s.batch);
        } else {
            let row = s.stride * plan.source_cols() * pixel;
            plan.chunk[1] = (CHUNK_FLOATS / row).clamp(1, s.out_h);
        }
        plan
    }

    fn source_rows(&self, rows: usize) -> usize {
        (rows - 1) * self.shape.stride + (self.shape.ksize_h - 1) * self.shape.dilation + 1
    }

    fn source_cols(&self) -> usize {
        (self.shape.out_w - 1) * self.shape.stride + (self.shape.ksize_w - 1) * self.shape.dilation + 1
    }

    fn image_floats(&self, rows: usize) -> usize {
        self.source_rows(rows) * self.source_cols() * self.pixel
    }

    fn panels(&self) -> usize {
        self.shape.out_ch.div_ceil(self.panel)
    }

    /// Floats of scratch: input, d_output, and the sums of a depthwise kernel.
    fn parts(&self) -> [usize; 3] {
        let [images, rows] = self.chunk;
        let input = images * self.image_floats(rows) + SLACK;
        let d_output = images * rows * self.shape.out_w * self.panels() * self.panel;
        let sums = if self.shape.depthwise { self.shape.taps() * self.pixel } else { 0 };
        [input, d_output, sums]
    }

    pub(super) fn scratch_len(&self) -> usize {
        scratch::total(self.parts())
    }

    fn chunks(&self) -> impl Iterator<Item = Chunk> {
        let (s, [images, rows]) = (self.shape, self.chunk);
        (0..s.batch).step_by(images).flat_map(move |n0| {
            (0..s.out_h).step_by(rows).map(move |y0| Chunk {
                n0,
                images: images.min(s.batch - n0),
                y0,
                rows: rows.min(s.out_h - y0),
            })
        })
    }

    /// Computes the gradient.
    ///
    /// # Safety
    /// The views and the gradient have the sizes of the shape.
    pub(super) unsafe fn run(&self, ctx: &Ctx, input: View, d_output: View, d_weight: &mut [f32], scratch: &mut [f32]) {
        let [band, panels, sums] = carve(scratch, self.parts());
        let d_weight_to = Shared::new(d_weight.as_mut_ptr());
        for (i, chunk) in self.chunks().enumerate() {
            // SAFETY: the parts were sized for the largest chunk; items
            // own disjoint weights.
            unsafe {
                self.copy(ctx, chunk, &input, &d_output, band, panels);
                if self.shape.depthwise {
                    self.add_depthwise(ctx, chunk, band, panels, sums, i > 0);
                } else {
                    self.add(ctx, chunk, band, panels, d_weight_to, i > 0);
                }
            }
        }
        if self.shape.depthwise {
            let taps = self.shape.taps();
            for (c, to) in d_weight.chunks_exact_mut(taps).enumerate() {
                for (tap, to) in to.iter_mut().enumerate() {
                    // SAFETY: the sums of all taps were written above.
                    *to = unsafe { *sums.at(tap * self.pixel + c) };
                }
            }
        }
    }

    /// Copies a chunk: input `[image][row][col][pixel]`, d_output `[panel][image][row][col][panel channel]`.
    unsafe fn copy(&self, ctx: &Ctx, chunk: Chunk, input: &View, d_output: &View, band: Shared, panels: Shared) {
        let s = &self.shape;
        let (source_rows, cols) = (self.source_rows(chunk.rows), self.source_cols());
        let input_items = chunk.images * source_rows;
        ctx.pool.run(input_items + chunk.images * chunk.rows, &|item, _| {
            if item < input_items {
                let (image, row) = (item / source_rows, item % source_rows);
                let y = (chunk.y0 * s.stride + row) as isize - s.pad as isize;
                let rect = Rect { y, x: -(s.pad as isize), rows: 1, cols };
                // SAFETY: one row of the chunk's input.
                unsafe { copy_rect(input, chunk.n0 + image, rect, self.pixel, band.at(item * cols * self.pixel)) };
                return;
            }
            let row = item - input_items;
            let from = d_output.at(chunk.n0 + row / chunk.rows, chunk.y0 + row % chunk.rows, 0);
            let panel_floats = chunk.images * chunk.rows * s.out_w * self.panel;
            for p in 0..self.panels() {
                let channels = self.panel.min(s.out_ch - p * self.panel);
                for x in 0..s.out_w {
                    // SAFETY: one pixel of one panel; the pixel's channels of d_output.
                    unsafe {
                        let to = panels.at(p * panel_floats + (row * s.out_w + x) * self.panel);
                        let from = from.add(x * d_output.stride() + p * self.panel);
                        match channels {
                            // Constant sizes compile to moves instead of calls.
                            6 => std::ptr::copy_nonoverlapping(from, to, 6),
                            4 => std::ptr::copy_nonoverlapping(from, to, 4),
                            _ => std::ptr::copy_nonoverlapping(from, to, channels),
                        }
                        if channels < self.panel {
                            to.add(channels).write_bytes(0, self.panel - channels);
                        }
                    }
                }
            }
        });
    }

    /// Addresses in the band of the input pixels under the first tap of each output row's first pixel.
    fn row_addresses(&self, chunk: Chunk, band: Shared) -> Vec<Shared> {
        let image = self.image_floats(chunk.rows);
        let row = self.shape.stride * self.source_cols() * self.pixel;
        let rows = (0..chunk.images).flat_map(|n| (0..chunk.rows).map(move |y| n * image + y * row));
        rows.map(|offset| Shared::new(band.at(offset))).collect()
    }

    /// Adds a chunk's pixels to the weights.
    unsafe fn add(&self, ctx: &Ctx, chunk: Chunk, band: Shared, panels: Shared, d_weight: Shared, later: bool) {
        let s = &self.shape;
        let rows = self.row_addresses(chunk, band);
        // Without dilation the taps of a kernel row are one run.
        let run_taps = if s.dilation == 1 { s.ksize_w } else { 1 };
        let (run, runs_per_row) = (run_taps * s.in_ch, s.ksize_w / run_taps);
        let parts = run.div_ceil(ITEM_RUN);
        let out_stride = s.taps() * s.in_ch;
        let panel_floats = rows.len() * s.out_w * self.panel;
        let runs = s.ksize_h * runs_per_row;
        ctx.pool.run(self.panels() * runs * parts, &|item, _| {
            let (p, tap_row, part) = (item / (runs * parts), item / parts % runs, item % parts);
            let (ky, kx) = (tap_row / runs_per_row, tap_row % runs_per_row);
            let offset = (ky * self.source_cols() + kx) * s.dilation * self.pixel;
            let block = ProductBlock {
                pixels: s.out_w,
                pixel_step: s.stride * self.pixel,
                out_stride,
                out_channels: self.panel.min(s.out_ch - p * self.panel),
                columns: ITEM_RUN.min(run - part * ITEM_RUN),
            };
            let to = d_weight.at(p * self.panel * out_stride + tap_row * run + part * ITEM_RUN);
            // SAFETY: rows of the band, the matching pixels of the panel, weights owned by this item.
            unsafe {
                let panel = panels.at(p * panel_floats);
                self.add_slabs(ctx, &rows, offset + part * ITEM_RUN, panel, &block, to, later);
            }
        });
    }

    /// Adds all pixels of `rows` to the weights of a block, in slabs that stay in L1.
    #[expect(clippy::too_many_arguments, reason = "an inner loop's operands")]
    unsafe fn add_slabs(
        &self,
        ctx: &Ctx,
        rows: &[Shared],
        offset: usize,
        panel: *const f32,
        block: &ProductBlock,
        to: *mut f32,
        later: bool,
    ) {
        let out_w = self.shape.out_w;
        let pixels = slab_pixels(self.pixel.min(ITEM_RUN));
        let (slab_rows, slab_cols) = ((pixels / out_w).max(1), pixels.min(out_w));
        for (i, rows) in rows.chunks(slab_rows).enumerate() {
            for x in (0..out_w).step_by(slab_cols) {
                let block = ProductBlock { pixels: slab_cols.min(out_w - x), ..*block };
                let offset = offset + x * block.pixel_step;
                let accumulate = later || i + x > 0;
                // SAFETY: the caller's promise.
                unsafe {
                    let panel = panel.add((i * slab_rows * out_w + x) * self.panel);
                    match self.panel {
                        4 => add_panel_4(ctx.isa, rows, offset, panel, &block, to, accumulate),
                        _ => add_panel_6(ctx.isa, rows, offset, panel, &block, to, accumulate),
                    }
                }
            }
        }
    }

    /// Adds a chunk's pixels to the sums of a depthwise kernel, `[tap][channel]`.
    unsafe fn add_depthwise(&self, ctx: &Ctx, chunk: Chunk, band: Shared, panel: Shared, sums: Shared, later: bool) {
        let s = &self.shape;
        let rows = self.row_addresses(chunk, band);
        let vector = lanes(ctx.isa);
        let vectors = s.in_ch.div_ceil(vector);
        // Kernel rows longer than the registers are cut evenly.
        let parts = s.ksize_w.div_ceil(DEPTHWISE_TAPS);
        let part_taps = s.ksize_w.div_ceil(parts);
        let tap_step = s.dilation * self.pixel;
        ctx.pool.run(s.ksize_h * parts * vectors, &|item, _| {
            let (ky, part, channel) = (item / (parts * vectors), item / vectors % parts, item % vectors * vector);
            let first_tap = part * part_taps;
            let taps = part_taps.min(s.ksize_w - first_tap);
            let offset = (ky * self.source_cols() * s.dilation + first_tap * s.dilation) * self.pixel + channel;
            let steps = [s.out_w, s.stride * self.pixel, tap_step, self.pixel];
            // SAFETY: rows of the band, all pixels of the panel, sums owned by this item.
            unsafe {
                let to = sums.at((ky * s.ksize_w + first_tap) * self.pixel + channel);
                add_depthwise(ctx.isa, &rows, offset, panel.at(channel), steps, taps, to, later);
            }
        });
    }
}
