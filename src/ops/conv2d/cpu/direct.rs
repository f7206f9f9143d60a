//! Direct convolution, forward and input gradient, as one *correlation*: result pixel `phases t + φ` is a sum
//! over taps at source positions `t step + offset`. The forward pass has one phase and step = stride; the
//! input gradient has `stride` phases per axis and step 1.
//!
//! An item of work is a rectangle of result pixels: its source pixels are copied with their padding, then
//! register blocks of a few pixels run over the packed weights, then the sink gets the finished rows.

use super::band::{Band, Rect, copy_rect};
use super::pack::{PackedWeights, PhaseWeights, WeightOrder};
use crate::device::cpu::micro::{DEPTHWISE_PIXELS, DOT_CHANNELS, Pixels, WIDE_PIXELS};
use crate::device::cpu::scratch::Shared;
use crate::device::cpu::simd::{MAX_LANES, lanes, panel_width, panel_width_at};
use crate::device::cpu::{Ctx, Place, Tile, TileSink, View, micro, scratch};
use crate::types::{ConvShape, Pass};

/// Most floats of finished results that an item collects.
const RESULT_FLOATS: usize = 16 * 1024;
/// Shortest run of the source for which lanes over the reduction pay.
const LEAST_RUN: usize = 16;
/// Most floats of packed weights that are used for all pixels of an item before the next ones: 20 KB of L1.
const WEIGHT_CHUNK: usize = 5 * 1024;

/// How the inner loop uses its vectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lanes {
    /// Over result channels.
    Results,
    /// Over the reduction, where result channels are few.
    Reduction,
    /// Over channels that do not mix.
    Depthwise,
}

/// The taps of one phase along one axis: (tap, source offset), by rising offset.
type Taps = Vec<(usize, isize)>;

/// A convolution pass as a correlation.
pub(super) struct Correlation {
    pub lanes: Lanes,
    pub source_ch: usize,
    pub result_ch: usize,
    result_h: usize,
    result_w: usize,
    batch: usize,
    step: usize,
    pub phases: usize,
    /// Per phase.
    pub taps_y: Vec<Taps>,
    /// Per phase.
    pub taps_x: Vec<Taps>,
    pub order: WeightOrder,
    /// Result rows and columns of an item.
    block: [usize; 2],
}

impl Correlation {
    pub(super) fn new(shape: &ConvShape, pass: Pass) -> Correlation {
        let s = shape;
        let forward = pass == Pass::Forward;
        let (source_ch, result_ch) = if forward { (s.in_ch, s.out_ch) } else { (s.out_ch, s.in_ch) };
        let (result_h, result_w) = if forward { (s.out_h, s.out_w) } else { (s.in_h, s.in_w) };
        let (step, phases) = if forward { (s.stride, 1) } else { (1, s.stride) };
        let taps = |ksize: usize| -> Vec<Taps> { (0..phases).map(|p| phase_taps(s, ksize, forward, p)).collect() };
        let (taps_y, taps_x) = (taps(s.ksize_h), taps(s.ksize_w));
        let longest_run = source_ch * taps_x.iter().map(Vec::len).max().unwrap_or(0);
        let lanes = if s.depthwise {
            Lanes::Depthwise
        } else if result_ch <= 2 * DOT_CHANNELS && longest_run >= LEAST_RUN {
            Lanes::Reduction
        } else {
            Lanes::Results
        };
        let pixels = (RESULT_FLOATS / padded(result_ch)).max(phases);
        let cols = result_w.div_ceil(result_w.div_ceil(pixels)).next_multiple_of(phases);
        let rows = (pixels / cols / phases).max(1) * phases;
        // Items must be many enough for the threads of any machine to share evenly.
        let fair = (s.batch * result_h).div_ceil(16).next_multiple_of(phases);
        let block = [rows.min(fair).min(result_h.next_multiple_of(phases)), cols];
        let order = WeightOrder::new(s, forward);
        let batch = s.batch;
        Correlation {
            lanes,
            source_ch,
            result_ch,
            result_h,
            result_w,
            batch,
            step,
            phases,
            taps_y,
            taps_x,
            order,
            block,
        }
    }

    /// Floats per pixel of the copied source.
    fn pixel(&self) -> usize {
        if self.lanes == Lanes::Depthwise { padded(self.source_ch) } else { self.source_ch }
    }

    /// Source positions along an axis that `count` result positions from `start` on see: first, number.
    fn span(&self, taps: &[Taps], start: usize, count: usize) -> (isize, usize) {
        let offsets = || taps.iter().flatten().map(|t| t.1);
        let (low, high) = (offsets().min().unwrap_or(0), offsets().max().unwrap_or(0));
        let (first, last) = (start / self.phases, (start + count - 1) / self.phases);
        (low + (first * self.step) as isize, (last - first) * self.step + (high - low) as usize + 1)
    }

    fn source_rect(&self, start: [usize; 2], size: [usize; 2]) -> Rect {
        let (y, rows) = self.span(&self.taps_y, start[0], size[0]);
        let (x, cols) = self.span(&self.taps_x, start[1], size[1]);
        Rect { y, x, rows, cols }
    }

    /// Floats of scratch: packed weights, and per thread the copied source and the results.
    fn parts(&self, threads: usize) -> [usize; 3] {
        let rect = self.source_rect([0, 0], self.block);
        let source = rect.rows * rect.cols * self.pixel() + MAX_LANES;
        let results = (self.block[0] * self.block[1] + 1) * padded(self.result_ch);
        let packed = PackedWeights::max_len(self);
        [packed, threads * scratch::whole_lines(source), threads * scratch::whole_lines(results)]
    }

    pub(super) fn scratch_len(&self, threads: usize) -> usize {
        scratch::total(self.parts(threads))
    }

    /// Runs the correlation.
    ///
    /// # Safety
    /// The view and the weight have the sizes of the shape.
    pub(super) unsafe fn run(&self, ctx: &Ctx, source: View, weight: &[f32], sink: &dyn TileSink, scratch: &mut [f32]) {
        let threads = ctx.pool.threads();
        let parts = self.parts(threads);
        let [packed, bands, results] = scratch::carve(scratch, parts);
        // SAFETY: the part was sized for the packed weights.
        let packed = unsafe { PackedWeights::pack(ctx, self, weight, packed) };
        let blocks_y = self.result_h.div_ceil(self.block[0]);
        let blocks_x = self.result_w.div_ceil(self.block[1]);
        ctx.pool.run(self.batch * blocks_y * blocks_x, &|item, worker| {
            let (n, block) = (item / (blocks_y * blocks_x), item % (blocks_y * blocks_x));
            let start = [block / blocks_x * self.block[0], block % blocks_x * self.block[1]];
            let size = [self.block[0].min(self.result_h - start[0]), self.block[1].min(self.result_w - start[1])];
            let band = bands.at(worker * (parts[1] / threads));
            let results = Shared::new(results.at(worker * (parts[2] / threads)));
            let item = Item { correlation: self, ctx, packed: &packed, n, start, size, results };
            // SAFETY: the worker's own parts of scratch; the view was checked.
            unsafe {
                let band = item.source(&source, band);
                item.compute(&band);
            }
            // SAFETY: as above; items have different result pixels.
            unsafe { item.store(sink) };
        });
    }
}

/// `channels` rounded up to what the widest kernel stores.
pub(super) fn padded(channels: usize) -> usize {
    channels.next_multiple_of(MAX_LANES)
}

/// The taps that reach results of `phase`.
fn phase_taps(s: &ConvShape, ksize: usize, forward: bool, phase: usize) -> Taps {
    let tap = |k: usize| {
        let position = (k * s.dilation) as isize - s.pad as isize;
        if forward {
            return Some((k, position));
        }
        let (distance, stride) = (phase as isize - position, s.stride as isize);
        (distance % stride == 0).then(|| (k, distance / stride))
    };
    let mut taps: Taps = (0..ksize).filter_map(tap).collect();
    taps.sort_by_key(|t| t.1);
    taps
}

/// A rectangle of result pixels of one image.
struct Item<'a> {
    correlation: &'a Correlation,
    ctx: &'a Ctx<'a>,
    packed: &'a PackedWeights,
    n: usize,
    start: [usize; 2],
    size: [usize; 2],
    results: Shared,
}

impl Item<'_> {
    /// The source pixels: in place where nothing is padded, else copied to `room`.
    unsafe fn source(&self, view: &View, room: *mut f32) -> Band {
        let c = self.correlation;
        let rect = c.source_rect(self.start, self.size);
        let inside = rect.y >= 0
            && rect.x >= 0
            && rect.y as usize + rect.rows <= view.h()
            && rect.x as usize + rect.cols <= view.w();
        if inside && c.lanes == Lanes::Results && c.taps_x.iter().all(|t| t.len() <= 1) {
            let ptr = view.at(self.n, rect.y as usize, rect.x as usize);
            return Band { ptr, row: view.w() * view.stride(), pixel: view.stride() };
        }
        // SAFETY: the room was sized for the largest rectangle and a tail that the last vector may read.
        unsafe {
            let band = copy_rect(view, self.n, rect, c.pixel(), room);
            room.add(rect.rows * band.row).write_bytes(0, MAX_LANES);
            band
        }
    }

    /// All phases of the item.
    unsafe fn compute(&self, band: &Band) {
        let c = self.correlation;
        let mut offsets = Vec::with_capacity(self.packed.max_runs);
        let mut addresses = Addresses::default();
        for phase_y in 0..c.phases.min(self.size[0]) {
            for phase_x in 0..c.phases.min(self.size[1]) {
                let phase = self.packed.phase(phase_y * c.phases + phase_x);
                self.run_offsets(band, [phase_y, phase_x], phase.run, &mut offsets);
                self.addresses(band, [phase_y, phase_x], &mut addresses);
                // SAFETY: the caller's promise.
                unsafe { self.phase(&addresses, phase, &offsets) };
            }
        }
    }

    /// Offsets of the runs of a phase from a pixel's address.
    fn run_offsets(&self, band: &Band, phase: [usize; 2], run: usize, offsets: &mut Vec<usize>) {
        let c = self.correlation;
        let low = |taps: &[Taps]| taps.iter().flatten().map(|t| t.1).min().unwrap_or(0);
        let (low_y, low_x) = (low(&c.taps_y), low(&c.taps_x));
        let whole_row = run > self.packed.run_channels;
        offsets.clear();
        for (_, y) in &c.taps_y[phase[0]] {
            let columns = &c.taps_x[phase[1]];
            let columns = if whole_row { &columns[..1] } else { &columns[..] };
            offsets.extend(
                columns.iter().map(|(_, x)| (y - low_y) as usize * band.row + (x - low_x) as usize * band.pixel),
            );
        }
    }

    /// Addresses of a phase's result pixels and of their sources. Past the end the last pixel is computed
    /// again, into a spare place, instead of by a shorter kernel.
    fn addresses(&self, band: &Band, phase: [usize; 2], to: &mut Addresses) {
        let c = self.correlation;
        let rows = (self.size[0] - phase[0]).div_ceil(c.phases);
        let cols = (self.size[1] - phase[1]).div_ceil(c.phases);
        let stride = padded(c.result_ch);
        to.source.clear();
        to.result.clear();
        for (y, x) in (0..rows).flat_map(|y| (0..cols).map(move |x| (y, x))) {
            let result = (y * c.phases + phase[0]) * self.size[1] + x * c.phases + phase[1];
            to.source.push(band.at(y * c.step, x * c.step));
            to.result.push(self.results.at(result * stride));
        }
        let spare = self.results.at(c.block[0] * c.block[1] * stride);
        to.pixels = to.source.len();
        to.source.resize(to.pixels + Addresses::SPARE, band.at((rows - 1) * c.step, (cols - 1) * c.step));
        to.result.resize(to.pixels + Addresses::SPARE, spare);
    }

    /// The result pixels of one phase.
    unsafe fn phase(&self, addresses: &Addresses, weights: PhaseWeights, offsets: &[usize]) {
        let stride = padded(self.correlation.result_ch);
        // SAFETY: addresses inside the band and the results; weights of this phase.
        unsafe {
            if offsets.is_empty() {
                addresses.result.iter().for_each(|to| to.write_bytes(0, stride));
                return;
            }
            match self.correlation.lanes {
                Lanes::Results => self.phase_wide(addresses, weights, offsets),
                Lanes::Reduction => self.phase_dot(addresses, weights, offsets),
                Lanes::Depthwise => {
                    for p in (0..addresses.pixels).step_by(DEPTHWISE_PIXELS) {
                        let block = addresses.block::<DEPTHWISE_PIXELS>(p, 0);
                        micro::depthwise(self.ctx.isa, &block, offsets, weights.ptr, stride);
                    }
                }
            }
        }
    }

    /// Panels of result channels, one after the other.
    unsafe fn phase_wide(&self, addresses: &Addresses, weights: PhaseWeights, offsets: &[usize]) {
        let result_ch = self.correlation.result_ch;
        for channel in (0..result_ch).step_by(panel_width(self.ctx.isa)) {
            let width = panel_width_at(self.ctx.isa, result_ch, channel);
            // SAFETY: as for `phase`; the panels before this one are whole.
            for_chunks(offsets, weights.run * width, |chunk, first| unsafe {
                let weight = weights.ptr.add((channel * offsets.len() + width * first) * weights.run);
                for p in (0..addresses.pixels).step_by(WIDE_PIXELS) {
                    let block = addresses.block::<WIDE_PIXELS>(p, channel);
                    micro::wide(self.ctx.isa, &block, chunk, weights.run, weight, width, first > 0);
                }
            });
        }
    }

    /// Groups of few result channels.
    unsafe fn phase_dot(&self, addresses: &Addresses, weights: PhaseWeights, offsets: &[usize]) {
        let per_channel = weights.run.next_multiple_of(lanes(self.ctx.isa));
        let result_ch = self.correlation.result_ch;
        for group in (0..result_ch).step_by(DOT_CHANNELS) {
            let channels = DOT_CHANNELS.min(result_ch - group);
            let per_run = per_channel * channels;
            // SAFETY: as for `phase`.
            for_chunks(offsets, per_run, |chunk, first| unsafe {
                let weight = weights.ptr.add(group * offsets.len() * per_channel + first * per_run);
                for p in (0..addresses.pixels).step_by(micro::dot_pixels(channels)) {
                    let block = addresses.block::<8>(p, group);
                    micro::dot(self.ctx.isa, &block, chunk, weights.run, weight, channels, first > 0);
                }
            });
        }
    }

    /// Hands the rows to the sink.
    ///
    /// # Safety
    /// The results are computed, and no other item has these.
    unsafe fn store(&self, sink: &dyn TileSink) {
        let (row_stride, channels) = (padded(self.correlation.result_ch), self.correlation.result_ch);
        for row in 0..self.size[0] {
            let data = self.results.at(row * self.size[1] * row_stride);
            let (y, x0, pixels) = (self.start[0] + row, self.start[1], self.size[1]);
            let place = Place { n: self.n, y, x0, pixels, c0: 0, channels };
            // SAFETY: a row of the worker's results; the caller's promise.
            unsafe { sink.store(Tile::from_raw(data, row_stride, place)) };
        }
    }
}

/// Calls `f(offsets of a chunk, index of its first)` for chunks of runs whose weights stay in L1.
#[inline(always)]
fn for_chunks(offsets: &[usize], weights_per_run: usize, mut f: impl FnMut(&[usize], usize)) {
    let runs = (WEIGHT_CHUNK / weights_per_run).max(1);
    for (i, chunk) in offsets.chunks(runs).enumerate() {
        f(chunk, i * runs);
    }
}

/// Addresses of the pixels of a phase, with spare ones at the end.
#[derive(Default)]
struct Addresses {
    source: Vec<*const f32>,
    result: Vec<*mut f32>,
    pixels: usize,
}

impl Addresses {
    /// One less than the most pixels of a kernel call.
    const SPARE: usize = DEPTHWISE_PIXELS - 1;

    /// The pixels of a call, with results from a channel on.
    #[inline(always)]
    fn block<const N: usize>(&self, first: usize, channel: usize) -> Pixels<N> {
        let (source, result) = (&self.source[first..][..N], &self.result[first..][..N]);
        Pixels {
            source: std::array::from_fn(|i| source[i]),
            result: std::array::from_fn(|i| result[i].wrapping_add(channel)),
        }
    }
}
